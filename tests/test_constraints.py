"""constraints-lowest.txt: the lower bounds of pyproject.toml, as `.ci/run` installs them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements_of_dev() -> list[Requirement]:
    """What ``.[dev]`` installs directly: the dependencies, the extra and the extras that it names."""
    extras = PROJECT["optional-dependencies"]
    rows = [Requirement(row) for row in PROJECT["dependencies"] + extras["dev"]]
    own = [row for row in rows if row.name == PROJECT["name"]]
    named = [
        Requirement(row) for requirement in own for extra in requirement.extras for row in extras[extra]
    ]
    return [row for row in rows if row.name != PROJECT["name"]] + named


def constraints(name: str) -> dict[str, str]:
    """The versions of a constraints file by name; it has nothing but ``name==version`` and comments."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    matches = {line: re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9.]*)", line) for line in pinned}
    assert [line for line, match in matches.items() if match is None] == []
    return {canonicalize_name(match[1]): match[2] for match in matches.values() if match is not None}


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    bounds = {
        canonicalize_name(row.name): [s.version for s in row.specifier if s.operator == ">="]
        for row in requirements_of_dev()
    }
    unbounded = sorted(name for name, versions in bounds.items() if not versions)
    assert unbounded == ["types-psutil", "types-pyyaml"]  # stubs: of whatever version
    lowest = {name: versions[0] for name, versions in bounds.items() if versions}
    assert constraints("constraints-lowest.txt") == lowest


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt"])
def test_every_constraint_is_a_name_and_a_version(name: str) -> None:
    assert constraints(name)

"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tiny_data import write_photos

from dlcli.trust import ALL, allowing

# Before torch is imported anywhere: tests share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "2")
# On a busy machine an example may take any time.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")


@pytest.fixture(autouse=True, scope="session")
def _own_user_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests, and the processes they start, keep their state and their cache to themselves."""
    os.environ["DLCLI_STATE"] = str(tmp_path_factory.mktemp("state"))
    os.environ["DLCLI_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def photo_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write ``root[/split]/class/N.jpg`` as `write_photos` does."""

    def write(*args: Any, name: str = "photos", **settings: Any) -> Path:
        return write_photos(tmp_path / name, *args, **settings)

    return write


@pytest.fixture
def trusted() -> Iterator[None]:
    """Code of any file may run, as under ``--trust``."""
    with allowing(ALL):
        yield

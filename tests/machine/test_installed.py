"""Versions, builds and what they cause, with packages made in temporary folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_machines import make_package

from dlcli.machine import installed
from dlcli.machine.causes.base import Cause, find_causes
from dlcli.machine.facts import read_facts
from dlcli.machine.host import Host


def causes_of(folder: Path, **errors: str) -> dict[str, Cause]:
    """The causes, by code, where ``folder`` is the path; ``errors`` are those of imports."""
    facts = read_facts(Host(packages=[str(folder)]))
    for name, error in errors.items():
        library = replace(getattr(facts, name), tried=True, error=error or None)
        facts = replace(facts, **{name: library})
    return {cause.code: cause for cause in find_causes(facts) if cause.part != "system"}


def test_a_missing_package_has_no_version() -> None:
    assert installed.version_of("no-such-package-at-all") is None


def test_a_gpu_build_of_onnxruntime_counts_as_onnxruntime(tmp_path: Path) -> None:
    make_package(tmp_path, "onnxruntime_gpu", version="1.30.0")
    assert installed.read_package("onnxruntime", [str(tmp_path)]).version == "1.30.0"


@pytest.mark.parametrize(
    ("torch", "requirement", "fits"),
    [
        ("2.15.0", "torch (>=2.14.0)", True),
        ("2.15.0+cu132", "torch==2.15.0", True),
        ("2.15.0", "torch==2.11.0", False),
        ("2.13.1", "torch>=2.14.0", False),
        ("2.16.0.dev20261101", "torch>=2.14.0", True),
        ("2.10.0", "torch==2.15.0; extra == 'old'", True),
        ("2.10.0", "torch==2.15.0; python_version < '3'", True),
    ],
)
def test_the_wheel_itself_says_which_torch_it_needs(
    tmp_path: Path, torch: str, requirement: str, fits: bool
) -> None:
    make_package(tmp_path, "torch", version=torch)
    make_package(tmp_path, "torchvision", version="0.29.0", requires=(requirement, "numpy"))
    packages = installed.read_packages([str(tmp_path)])
    unmet = installed.unmet(packages["torchvision"], packages.values())
    assert [version for _, version in unmet] == ([] if fits else [torch])


@pytest.mark.parametrize(
    ("module", "version", "says", "kind"),
    [
        ("torch", "2.15.0+cu132", "cuda: str | None = '13.2'\nhip = None", "CUDA 13.2"),
        ("torch", "2.15.0+rocm6.4", "cuda = None\nhip = '6.4.1'", "ROCm 6.4.1"),
        ("torch", "2.15.0+cpu", "cuda = None\nhip = None", "CPU"),
        ("torch", "2.15.0", "cuda = None", "CPU"),
        ("torchvision", "0.29.0+cu132", "", "CUDA 13.2"),
        ("torchvision", "0.29.0+cpu", "", "CPU"),
        ("torchvision", "0.29.0", "", None),
    ],
)
def test_the_build_is_read_without_importing(
    tmp_path: Path, module: str, version: str, says: str, kind: str | None
) -> None:
    make_package(tmp_path, module, code="raise SystemExit('imported')", version=version, says=says)
    build = installed.build_of(module, [str(tmp_path)])
    assert build is not None
    assert (build.version, build.kind) == (version, kind)


def test_a_torchvision_for_another_torch_is_explained(tmp_path: Path) -> None:
    make_package(tmp_path, "torch", version="2.15.0")
    make_package(tmp_path, "torchvision", version="0.26.0", requires=("torch==2.11.0",))
    causes = causes_of(tmp_path, torch="", torchvision="RuntimeError: no operator")
    cause = causes.pop("torch-pair")
    assert causes == {}
    assert (cause.level, cause.part) == ("error", "torchvision")
    assert "requires torch==2.11.0; torch 2.15.0 is installed" in cause.evidence
    assert "no operator" in cause.evidence
    assert str(cause.command).startswith("python -m pip install")


def test_a_cpu_torch_with_a_cuda_torchvision_is_explained(tmp_path: Path) -> None:
    make_package(tmp_path, "torch", version="2.15.0", file_version="2.15.0+cpu", says="cuda = None")
    make_package(tmp_path, "torchvision", version="0.29.0+cu132", requires=("torch==2.15.0",))
    cause = causes_of(tmp_path, torch="", torchvision="RuntimeError")["torch-pair"]
    assert "torch 2.15.0+cpu is a CPU build, torchvision 0.29.0+cu132 a CUDA 13.2" in cause.evidence


def test_a_module_that_hides_torch_is_named(tmp_path: Path) -> None:
    mine, site = tmp_path / "mine", tmp_path / "site"
    mine.mkdir()
    (mine / "torch.py").write_text("raise ImportError('mine')")
    make_package(site, "torch", version="2.15.0")
    facts = read_facts(Host(packages=[str(mine), str(site)]))
    facts = replace(facts, torch=replace(facts.torch, tried=True, error="ImportError: mine"))
    causes = {cause.code: cause for cause in find_causes(facts)}
    assert str(mine / "torch.py") in causes["torch-import"].advice
    assert causes["torch-import"].command is None
    assert "several-torches" in causes


def test_missing_libraries_are_explained(tmp_path: Path) -> None:
    causes = causes_of(tmp_path)
    assert causes["torch-import"].what == "torch is not installed"
    assert causes["torchvision-import"].what == "torchvision is not installed"
    assert causes["torch-import"].command == (
        "python -m pip install --force-reinstall torch torchvision"
    )


def test_two_versions_over_each_other_are_noticed(tmp_path: Path) -> None:
    make_package(tmp_path, "torch", version="2.15.0", file_version="2.13.0+cpu")
    cause = causes_of(tmp_path)["mixed-files"]
    assert "2.13.0+cpu" in cause.evidence
    assert "2.15.0" in cause.evidence


def test_versions_that_dlcli_does_not_admit_and_missing_packages_are_named(tmp_path: Path) -> None:
    make_package(tmp_path, "dlcli", requires=("torch>=2.11,<2.16", "onnx>=1.22", "numpy>=2"))
    make_package(tmp_path, "torch", version="2.9.1")
    make_package(tmp_path, "numpy", version="2.4.0")
    facts = read_facts(Host(packages=[str(tmp_path)]))
    causes = [cause for cause in find_causes(facts) if cause.code == "versions"]
    assert [(cause.part, cause.what) for cause in causes] == [
        ("torch", "dlcli is made for torch<2.16,>=2.11"),
        ("onnx", "onnx is not installed"),
    ]

"""torch and torchvision that do not import, or are not what was installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dlcli.machine.causes.base import Cause, Level, register_cause
from dlcli.machine.facts import Facts
from dlcli.machine.installed import Package, pip_line, unmet


@register_cause("torch-import")
def torch_import(facts: Facts) -> Iterator[Cause]:
    """torch is missing, damaged, hidden by a file of its name, or its import fails."""
    package, error = facts.torch.package, facts.torch.error
    if package.build is None:
        what = "torch is not installed"
        if package.version is not None:
            what = f"torch {package.version} is listed as installed, but its files are gone"
        yield Cause("torch", "error", what, command=_pip(facts, "--force-reinstall"))
    elif error is not None:
        yield _broken(facts, package, error)


@register_cause("torchvision-import")
def torchvision_import(facts: Facts) -> Iterator[Cause]:
    """torchvision is missing, or its import fails for no reason that `torch-pair` knows."""
    package, error = facts.torchvision.package, facts.torchvision.error
    if package.build is None:
        yield Cause("torchvision", "error", "torchvision is not installed", command=_pip(facts))
    elif error is not None and facts.torch.ok and not list(torch_pair(facts)):
        yield _broken(facts, package, error)


@register_cause("torch-pair")
def torch_pair(facts: Facts) -> Iterator[Cause]:
    """torch and torchvision of different versions or kinds; their operators are compiled together."""
    torch, vision = facts.torch.package, facts.torchvision.package
    if torch.build is None or vision.build is None:
        return
    level: Level = "error" if facts.torchvision.error else "warning"
    seen = f" ({facts.torchvision.error})" if facts.torchvision.error else ""
    for requirement, version in unmet(vision, facts.packages.values(), actual=True):
        if requirement.name == "torch":
            what = f"{_name(vision)} was built for another torch"
            evidence = f"it requires torch{requirement.specifier}; torch {version} is installed{seen}"
            yield Cause("torchvision", level, what, evidence, _pip(facts, "--upgrade"))
            return
    kinds = torch.build.kind, vision.build.kind
    if None not in kinds and kinds[0] != kinds[1]:
        what = "torch and torchvision are of different kinds"
        evidence = f"{_name(torch)} is a {kinds[0]} build, {_name(vision)} a {kinds[1]} build{seen}"
        yield Cause("torchvision", level, what, evidence, _pip(facts, "--force-reinstall"))


@register_cause("several-torches")
def several_torches(facts: Facts) -> Iterator[Cause]:
    """Several copies on the path: the first is imported, whatever pip installs into the others."""
    for package in (facts.torch.package, facts.torchvision.package):
        if len(package.folders) > 1:
            first, *others = package.folders
            yield Cause(
                package.name,
                "warning",
                f"there are {len(package.folders)} copies of {package.name} on the path",
                f"{first} is imported, and hides {', '.join(others)}",
                f"python -m pip uninstall {package.name}",
                f"until none is left, then {_pip(facts)}",
            )


@register_cause("mixed-files")
def mixed_files(facts: Facts) -> Iterator[Cause]:
    """The files are of one version and the metadata of another."""
    for package in (facts.torch.package, facts.torchvision.package):
        build = package.build
        if build and build.public and package.version and _public(package.version) != build.public:
            yield Cause(
                package.name,
                "warning",
                f"two versions of {package.name} lie over each other",
                f"its files are of {build.version}, its metadata says {package.version}",
                _pip(facts, "--force-reinstall"),
            )


@register_cause("versions")
def versions(facts: Facts) -> Iterator[Cause]:
    """Packages that are missing, or older or newer than dlcli admits."""
    dlcli = facts.packages["dlcli"]
    for requirement, version in unmet(dlcli, facts.packages.values()):
        yield Cause(
            requirement.name,
            "warning",
            f"dlcli is made for {requirement.name}{requirement.specifier}",
            f"{requirement.name} {version} is installed",
            f'python -m pip install "{requirement}"',
        )
    for name, requirement in dlcli.requirements.items():
        package = facts.packages.get(name)
        if package and package.version is None and name not in ("torch", "torchvision"):
            command = f'python -m pip install "{requirement}"'
            yield Cause(name, "warning", f"{name} is not installed", command=command)


def _pip(facts: Facts, *flags: str) -> str:
    return pip_line(facts.packages.get("dlcli"), *flags)


def _name(package: Package) -> str:
    return f"{package.name} {package.actual or ''}".strip()


def _public(version: str) -> str:
    return version.partition("+")[0]


def _broken(facts: Facts, package: Package, error: str) -> Cause:
    """The cause of a failed import: another file of its name, or a damaged package."""
    what = f"{_name(package)} cannot be imported"
    if package.installed_in is not None and package.build is not None:
        installed, imported = Path(package.installed_in), Path(package.build.folder)
        if installed.resolve() != imported.resolve() and installed.exists():
            advice = f"rename {imported}, which hides the installed one, or take it off PYTHONPATH"
            return Cause(package.name, "error", what, error, advice=advice)
    return Cause(package.name, "error", what, error, _pip(facts, "--force-reinstall"))

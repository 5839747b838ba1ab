"""What is installed, read from metadata and a few files of the packages: nothing is imported.

The rule for which torch a torchvision needs is the one its own wheel declares (Requires-Dist), so
there is no table of pairs to keep.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, MetadataPathFinder
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

PACKAGES = (
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "numpy",
    "safetensors",
    "pillow",
    "scikit-learn",
    "matplotlib",
    "pydantic",
    "pyyaml",
    "typer",
    "rich",
    "psutil",
)

# Distributions that also hold the module: a GPU build of ONNX Runtime has a name of its own.
STAND_INS = {
    "onnxruntime": (
        "onnxruntime-gpu",
        "onnxruntime-directml",
        "onnxruntime-openvino",
        "onnxruntime-rocm",
    )
}


# Indexes of wheels that hold a torch which dlcli admits, by the CUDA of the driver: a build for CUDA
# 12.x runs on every driver for 12.y, and so on. pytorch.org/get-started/locally lists more of them.
CUDA_INDEXES = {12: "cu126", 13: "cu130"}
_INDEX = "https://download.pytorch.org/whl"


@dataclass(frozen=True)
class Build:
    """What a package's own files say about it: the version, and what it was compiled for."""

    version: str | None
    kind: str | None  # "CPU", "CUDA 13.2", "ROCm 6.4", "XPU", or None where the files do not say
    folder: str

    @property
    def public(self) -> str | None:
        """The version without its local part: 2.15.0 of 2.15.0+cu132."""
        return self.version.partition("+")[0] if self.version else None

    @property
    def cuda(self) -> str | None:
        """The version of CUDA, if that is what it was compiled for."""
        name, _, version = (self.kind or "").partition(" ")
        return version if name == "CUDA" else None


@dataclass(frozen=True)
class Package:
    """One package: by its metadata, and by the files that an import would take.

    ``distributions`` are the names that hold the module (onnxruntime, onnxruntime-gpu), ``folders``
    where one lies on the path, the first one is imported; ``installed_in`` is where pip put it.
    """

    name: str
    version: str | None = None
    requires: tuple[str, ...] = ()
    build: Build | None = None
    distributions: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    installed_in: str | None = None

    @property
    def actual(self) -> str | None:
        """The version of the files, else that of the metadata."""
        return (self.build.version if self.build else None) or self.version

    @property
    def requirements(self) -> dict[str, Requirement]:
        """What it requires here (markers evaluated, extras left out), by name."""
        requirements: dict[str, Requirement] = {}
        for line in self.requires:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue  # damaged metadata says nothing; the import will
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                requirements[requirement.name] = requirement
        return requirements


# Modules whose own files tell what they were built for, and where there may be several copies.
_BUILT = ("torch", "torchvision", "onnxruntime")


def read_packages(folders: Sequence[str] | None = None) -> dict[str, Package]:
    """Return what is installed in ``folders`` (None: ``sys.path``), by name, dlcli among them."""
    return {name: read_package(name, folders) for name in ("dlcli", *PACKAGES)}


def read_package(name: str, folders: Sequence[str] | None = None) -> Package:
    """Return what is known of one package; all is empty where it is missing."""
    holders = {
        holder: distribution
        for holder in (name, *STAND_INS.get(name, ()))
        if (distribution := _distribution(holder, folders)) is not None
    }
    first = next(iter(holders.values()), None)
    built = name in _BUILT
    return Package(
        name=name,
        version=(first.version or None) if first else None,  # None where the metadata is damaged
        requires=tuple(first.requires or ()) if first else (),
        build=build_of(name, folders) if built else None,
        distributions=tuple(holders),
        folders=tuple(_copies(name, folders)) if built else (),
        installed_in=str(first.locate_file(name)) if first else None,
    )


def version_of(package: str) -> str | None:
    """The installed version by its metadata, or None."""
    return read_package(package).version


def _distribution(name: str, folders: Sequence[str] | None) -> Distribution | None:
    context = MetadataPathFinder.Context(
        name=name, **({} if folders is None else {"path": list(folders)})
    )
    return next(iter(MetadataPathFinder.find_distributions(context)), None)


def _copies(module: str, folders: Sequence[str] | None) -> list[str]:
    """The folders that hold a module of this name, in the order of the path."""
    import sys

    out = []
    for folder in sys.path if folders is None else folders:
        spec = PathFinder.find_spec(module, [folder])
        if spec is not None and spec.origin is not None:
            place = Path(spec.origin).resolve()  # lib64 is often a link to lib
            out.append(str(place.parent if place.stem == "__init__" else place))
    return list(dict.fromkeys(out))


def unmet(
    package: Package, packages: Iterable[Package], *, actual: bool = False
) -> list[tuple[Requirement, str]]:
    """Requirements of a package that the installed versions do not meet: (requirement, version).

    ``actual`` judges by the versions of the files. Packages that are missing are not listed.
    """
    versions = {other.name: other.actual if actual else other.version for other in packages}
    out = []
    for name, requirement in package.requirements.items():
        version = versions.get(name)
        try:
            fits = version is None or requirement.specifier.contains(Version(version), prereleases=True)
        except InvalidVersion:
            continue
        if version is not None and not fits:
            out.append((requirement, version))
    return out


def build_of(module: str, folders: Sequence[str] | None = None) -> Build | None:
    """What a module's files say, without importing it; None when there is no such module."""
    spec = PathFinder.find_spec(module, None if folders is None else list(folders))
    if spec is None:
        return None
    folder = Path(next(iter(spec.submodule_search_locations or ()), None) or spec.origin or ".")
    constants = _constants(folder / "version.py")
    if module == "onnxruntime":
        constants = _constants(folder / "capi" / "build_and_package_info.py")
        constants["cuda"] = constants.get("cuda_version", "")
    version = constants.get("__version__")
    return Build(version, _kind(module, version or "", constants), str(folder))


def _constants(path: Path) -> dict[str, str]:
    """Names that a file binds to strings at its top level."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        return {}
    installed = {}
    for node in body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        text = value.value if isinstance(value, ast.Constant) else None
        if isinstance(target, ast.Name) and isinstance(text, str):
            installed[target.id] = text
    return installed


def _kind(module: str, version: str, constants: dict[str, str]) -> str | None:
    for key, name in (("cuda", "CUDA"), ("hip", "ROCm"), ("xpu", "XPU")):
        if constants.get(key):
            return f"{name} {constants[key]}" if key != "xpu" else name
    local = version.partition("+")[2]
    if local.startswith("cu") and local[2:].isdigit():
        return f"CUDA {local[2:-1]}.{local[-1]}"
    if local.startswith("rocm"):
        return f"ROCm {local[4:]}"
    if local.startswith(("cpu", "xpu")):
        return local[:3].upper()
    # torch's file names every accelerator it was built for, so silence means CPU.
    return "CPU" if module == "torch" and "__version__" in constants else None


def pip_line(dlcli: Package | None, *flags: str, index: str | None = None) -> str:
    """The command that installs a torch and a torchvision that fit each other and dlcli.

    ``index`` is one of pytorch.org's ("cpu", "cu126").
    """
    wanted = dlcli.requirements if dlcli else {}
    names = []
    for name in ("torch", "torchvision"):
        bounds = sorted(map(str, wanted[name].specifier), reverse=True) if name in wanted else []
        names.append(f'"{name}{",".join(bounds)}"' if bounds else name)
    where = [f"--index-url {_INDEX}/{index}"] if index else []
    return " ".join(["python -m pip install", *flags, *names, *where])

"""What is installed, and why it does not work together: read from metadata, nothing is imported.

The rule for which torch a torchvision needs is the one its own wheel declares (Requires-Dist), so
there is no table of pairs to keep.
"""

from __future__ import annotations

import ast
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Problem:
    """Something that does not work: which part, one sentence, and the way out."""

    part: str
    message: str
    hint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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


def version_of(package: str) -> str | None:
    """The installed version by its metadata, or None."""
    for name in (package, *STAND_INS.get(package, ())):
        with suppress(PackageNotFoundError):
            return Distribution.from_name(name).version or None  # None where the metadata is damaged
    return None


def requirements_of(package: str) -> dict[str, Requirement]:
    """What an installed package requires here (markers evaluated, extras left out), by name."""
    try:
        lines = Distribution.from_name(package).requires or []
    except PackageNotFoundError:
        return {}
    installed: dict[str, Requirement] = {}
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # damaged metadata says nothing; the import will
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            installed[requirement.name] = requirement
    return installed


def unmet(package: str, *, actual: dict[str, str | None] | None = None) -> list[tuple[Requirement, str]]:
    """Requirements of ``package`` that the installed versions do not meet: (requirement, version).

    ``actual`` overrides versions by name. Packages that are missing are not listed.
    """
    out = []
    for name, requirement in requirements_of(package).items():
        version = (actual or {}).get(name) or version_of(name)
        try:
            fits = version is None or requirement.specifier.contains(Version(version), prereleases=True)
        except InvalidVersion:
            continue
        if version is not None and not fits:
            out.append((requirement, version))
    return out


def build_of(module: str) -> Build | None:
    """What ``module/version.py`` says, without importing it; None when there is no such module."""
    spec = PathFinder.find_spec(module)
    if spec is None:
        return None
    folder = Path(next(iter(spec.submodule_search_locations or ()), None) or spec.origin or ".")
    constants = _constants(folder / "version.py")
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


def pip_line(*flags: str) -> str:
    """The command that installs a torch and a torchvision that fit each other and dlcli."""
    wanted = requirements_of("dlcli")
    names = []
    for name in ("torch", "torchvision"):
        bounds = sorted(map(str, wanted[name].specifier), reverse=True) if name in wanted else []
        names.append(f'"{name}{",".join(bounds)}"' if bounds else name)
    return " ".join(["python -m pip install", *flags, *names])


def explain_torch(error: str) -> Problem:
    """Why torch does not import; ``error`` is the message of its import."""
    version, build = version_of("torch"), build_of("torch")
    if build is None:
        if version is None:
            return Problem("torch", "torch is not installed", pip_line())
        message = f"torch {version} is listed as installed, but its files are gone"
        return Problem("torch", message, pip_line("--force-reinstall"))
    message = f"torch {build.version or version or ''}".strip() + f" {error}"
    hider = _hides("torch", build)
    return Problem("torch", message, hider or pip_line("--force-reinstall"))


def explain_torchvision(error: str) -> Problem:
    """Why torchvision does not import while torch does: a wrong pair, a wrong build, its own fault."""
    version, vision, torch = version_of("torchvision"), build_of("torchvision"), build_of("torch")
    if vision is None:
        return Problem("torchvision", "torchvision is not installed", pip_line())
    name = f"torchvision {vision.version or version or ''}".strip()
    torch_version = torch.version if torch else None
    for requirement, installed in unmet("torchvision", actual={"torch": torch_version}):
        if requirement.name == "torch":
            message = f"{name} needs torch{requirement.specifier}, but torch {installed} is installed"
            return Problem("torchvision", f"{message} ({name} {error})", pip_line("--upgrade"))
    if torch and torch.kind and vision.kind and torch.kind != vision.kind:
        message = f"torch {torch.version} is a {torch.kind} build and {name} a {vision.kind} build"
        hint = f"take both from the same index: {pip_line('--force-reinstall')}"
        return Problem("torchvision", f"{message}: they must be of one kind ({name} {error})", hint)
    hider = _hides("torchvision", vision)
    return Problem("torchvision", f"{name} {error}", hider or pip_line("--force-reinstall"))


def version_warnings(*, pair: bool) -> list[str]:
    """Sentences about versions that may work but were not meant to be together.

    ``pair``: also for torch and torchvision, unless a failed import has reported it.
    """
    out = []
    for module in ("torch", "torchvision"):
        build, version = build_of(module), version_of(module)
        if build and version and build.public and build.public != version.partition("+")[0]:
            out.append(
                f"{module}'s files are of {build.version} but its metadata says {version}: "
                f"two versions lie over each other; {pip_line('--force-reinstall')}"
            )
    for package in ("dlcli", "torchvision") if pair else ("dlcli",):
        for requirement, installed in unmet(package):
            wants = f"{requirement.name}{requirement.specifier}"
            out.append(f"{package} is made for {wants}; {requirement.name} {installed} is installed")
    for name, requirement in requirements_of("dlcli").items():
        if name not in ("torch", "torchvision") and version_of(name) is None:
            out.append(f'{name} is not installed: python -m pip install "{requirement}"')
    return out


def _hides(module: str, build: Build) -> str | None:
    """A hint when what would be imported is not what was installed under that name."""
    try:
        installed = Path(str(Distribution.from_name(module).locate_file(module)))
    except PackageNotFoundError:
        return None
    if installed.resolve() == Path(build.folder).resolve() or not installed.exists():
        return None
    return f"{build.folder} hides the {module} that was installed: rename it, or take it off PYTHONPATH"

"""The plan of the house, held: imports point down, never in a circle; heavy libraries load late."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "dlcli"

# Top-level modules that are rooms of their own; all others, and these packages, are the core.
CORE_PACKAGES = {"config", "runs", "machine"}
LARGEST_SHARE = 0.2
# A module without torch in a room that has it: an ONNX file is read and evaluated without.
NO_TORCH_MODULES = {"formats.onnx.format"}


def table() -> tuple[list[set[str]], set[str]]:
    """ARCHITECTURE.md's table of layers: rooms from the bottom up, and those that promise no torch."""
    text = (ROOT.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text, re.MULTILINE)
    layers = [set(re.findall(r"`(\w+)`", rooms)) for _, rooms in sorted(rows, key=lambda r: int(r[0]))]
    return layers, {name for _, rooms in rows for name in re.findall(r"`(\w+)` \(no torch\)", rooms)}


LAYERS, NO_TORCH = table()


@cache
def modules() -> dict[str, Path]:
    """Dotted name to file of every module."""
    names = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imports(module: str, *, late: bool = True) -> set[str]:
    """The modules of dlcli that one imports; with ``late`` also inside functions and for types alone."""
    nodes = ast.walk(tree(module)) if late else iter(tree(module).body)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                names.add(submodule if submodule in modules() else str(node.module))
    return names & (set(modules()) - {"dlcli"})


def room(module: str) -> str:
    first = module.split(".")[1] if "." in module else ""
    path = ROOT / first
    is_room = (path.is_dir() and first not in CORE_PACKAGES) or first in ("cli", "__main__")
    return first if is_room and first else "core"


def layer(module: str) -> int:
    return next(i for i, rooms in enumerate(LAYERS) if room(module) in rooms)


def test_every_room_has_a_layer() -> None:
    assert {room(m) for m in modules()} == set().union(*LAYERS)


@pytest.mark.parametrize("module", modules())
def test_imports_point_downwards(module: str) -> None:
    for name in imports(module):
        same_room = room(name) == room(module)
        assert same_room or layer(name) < layer(module), f"{module} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Depth first; a module that is met again while it is still open closes a circle."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in sorted(imports(module)):
                visit(name, (*path, module))
            done.add(module)

    for module in modules():
        visit(module, ())


def test_no_room_is_a_drawer() -> None:
    lines: dict[str, int] = {}
    for module, path in modules().items():
        lines[room(module)] = lines.get(room(module), 0) + path.read_text(encoding="utf-8").count("\n")
    shares = {name: count / sum(lines.values()) for name, count in lines.items()}
    assert max(shares.values()) <= LARGEST_SHARE, shares


def imports_torch(module: str) -> bool:
    names: set[str] = set()
    for node in tree(module).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return any(name.split(".")[0] in ("torch", "torchvision") for name in names)


def loaded_by(module: str) -> set[str]:
    """All modules of dlcli that are imported when this one is."""
    loaded, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in loaded:
            loaded.add(name)
            waiting += imports(name, late=False)
    return loaded


@pytest.mark.parametrize("promised", sorted(NO_TORCH | NO_TORCH_MODULES))
def test_rooms_that_promise_no_torch_keep_it(promised: str) -> None:
    members = [m for m in modules() if room(m) == promised or m == f"dlcli.{promised}"]
    assert members
    for module in members:
        heavy = [name for name in loaded_by(module) if imports_torch(name)]
        assert not heavy, f"{module} loads torch by {heavy}"


@pytest.mark.parametrize(
    "args",
    [["--help"], ["--version"], ["train", "--help"], ["eval", "--help"], ["predict", "--help"],
     ["export", "--help"], ["info", "--help"], ["data", "--help"], ["models", "--help"],
     ["runs", "--help"], ["report", "--help"], ["quantize", "--help"], ["prune", "--help"],
     ["benchmark", "--help"], ["train", "--modle", "x"]],
)  # fmt: skip
def test_help_imports_no_heavy_library(args: list[str]) -> None:
    code = (
        "import sys\nfrom dlcli.cli import main\n"
        f"main({args!r})\n"
        "heavy = {'torch','torchvision','onnx','onnxruntime','matplotlib','sklearn','numpy','polars'} "
        "& set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_of_the_program_does_not_load_the_commands() -> None:
    code = (
        "import sys\nfrom dlcli.cli import main\nmain(['--help'])\n"
        "sys.exit(' '.join(m for m in sys.modules if m.startswith('dlcli.commands.')) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("train", "eval", "predict", "export", "info"):
        assert command in done.stdout

"""The plan of the house, held: imports point downwards, and heavy libraries load where they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "dlcli"

# Lower number, lower layer. A module may import its own layer and those below.
LAYERS = {
    "errors": 0, "registry": 0, "events": 0, "": 0,
    "task": 1, "files": 1, "settings": 1, "config": 1, "locks": 1, "card": 1, "runs": 1, "network": 1,
    "trust": 1,
    "data": 2, "zoo": 2,
    # within the third floor: compress may import formats, engine both, none the other way
    "formats": 3, "compress": 3.5, "engine": 4,
    "ui": 5, "machine": 5,
    "commands": 6, "cli": 7, "__main__": 8,
}  # fmt: skip

# ui renders what the engine measured, and machine inspects; neither may reach the commands.


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "dlcli":
                found |= {f"dlcli.{a.name}" for a in node.names if a.name != "__version__"}
    return {name for name in found if name.split(".")[0] == "dlcli"}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = LAYERS["" if parts == ("__init__",) else parts[0]]
    for name in imports(path):
        assert LAYERS[room(name)] <= own, f"{path.name} imports {name} from a layer above"


@pytest.mark.parametrize(
    "args",
    [["--help"], ["--version"], ["train", "--help"], ["eval", "--help"], ["predict", "--help"],
     ["export", "--help"], ["info", "--help"], ["data", "--help"], ["models", "--help"],
     ["runs", "--help"], ["quantize", "--help"], ["prune", "--help"], ["benchmark", "--help"],
     ["train", "--modle", "x"]],
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

"""The command line's own contract: exit codes, error texts, the layers of settings."""

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from dlcli import __version__, cli
from dlcli.cli import main
from dlcli.commands.options import Settings, takes_config
from dlcli.config import TrainConfig
from dlcli.errors import BoundMissed, DlcliError, Interrupted, UsageError
from dlcli.settings import setting


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dlcli", *args], capture_output=True, text=True, cwd=cwd
    )


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"dlcli {__version__}")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "--modle", "cnn"], "--model"),
        (["train", "--amp", "bf17"], "--amp"),
        (["train", "--epochs", "many"], "--epochs"),
        (["train"], "--model is missing"),
        (["train", "--model", "cnn"], "--data is missing"),
        (["train", "--model", "cnn", "--data", "digits", "--epochs", "0"], "--epochs"),
        (["train", "--resume", "last", "--name", "x"], "--name is for new runs"),
        (["train", "--model", "cnn", "--data", "digits", "--force"], "--force is for --resume"),
    ],
)
def test_usage_errors_exit_with_2(args: list[str], message: str, tmp_path: Path) -> None:
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [[], ["--debug"]])
def test_without_a_command_it_is_the_help(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert all(name in shown.out for name in cli.summaries())


def test_a_missing_value_points_to_the_help_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--model"]) == 2
    assert "hint: see dlcli train --help" in capsys.readouterr().err


TABLE = ["--model", "mlp", "--data", "t.csv"]


MISTAKES = [
    ["train"],
    ["train", "--model", "cnn"],
    ["train", "--model", "cmm", "--data", "digits"],
    ["train", "--model", "cnn", "--data", "nowhere"],
    ["train", *TABLE, "--target", "z"],
    ["train", *TABLE, "--lr", "fast"],
    ["train", *TABLE, "--epochs", "0"],
    ["train", *TABLE, "--set", "optim.learning_rate=1"],
    ["train", *TABLE, "--device", "gpu"],
    ["train", *TABLE, "--devices", "0"],
    ["train", *TABLE, "--nnodes", "x"],
    ["train", *TABLE, "--max-time", "long"],
    ["train", *TABLE, "--checkpoint-every", "often"],
    ["train", *TABLE, "--freeze", ","],
    ["train", *TABLE, "--unfreeze", "a@x"],
    ["train", *TABLE, "--dry-run", "--target", "z"],
    ["train", "--resume", "last", "--lr", "fast"],
    ["train", *TABLE, "--monitor", "acuracy"],
    ["train", *TABLE, "--weights", "none.pth"],
    ["train", *TABLE, "--teacher", "none"],
    ["train", *TABLE, "--tokenizer", "bpe"],
    ["train", "--model", "resnet18", "--data", "t.csv"],
    ["train", "--model", "none.py:Net", "--data", "t.csv"],
    ["eval", "none", "--data", "nowhere"],
    ["models", "cmm"],
    ["models", "cnn", "--data", "nowhere"],
    ["data", "t.csv", "--model", "cmm"],
    ["eval", "--device", "gpu"],
    ["quantize", "--max-drop", "little"],
    ["quantize", "--epochs", "3"],
    ["prune"],
    ["prune", "--amount", "0.5", "--target-params", "0.5"],
    ["train", "-m", "cnn", "-d", "digits", "--epochs", "2", "--set", "fit.min_steps=50"],
    ["prune", "--amount", "0.5", "--epochs", "0", "--lr", "1"],
    ["prune", "--amount", "0.5", "--max-drop", "little"],
    ["export", "--onnx", "--max-drop", "little"],
    ["benchmark", "--batch-sizes", "0"],
]


def test_mistakes_are_errors_before_torch_is_imported(tmp_path: Path) -> None:
    """Torch takes 2 to 10 seconds, which is long for a typing error. All in one process, to be quick."""
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(20)))
    code = (
        "import json, sys\n"
        "from dlcli.cli import main\n"
        "for args in json.loads(sys.argv[1]):\n"
        "    code, heavy = main(args), 'torch' in sys.modules\n"
        "    print(json.dumps([args, code, heavy]))\n"
        "    assert not heavy and code in (1, 2), args\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(MISTAKES)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(MISTAKES)
    assert done.stderr.count("error: ") == len(MISTAKES)


def test_nothing_to_evaluate_exits_with_1(tmp_path: Path) -> None:
    for args in (["eval"], ["eval", "nowhere.safetensors"], ["train", "--resume", "last"]):
        done = run(*args, cwd=tmp_path)
        assert done.returncode == 1
        assert "error: " in done.stderr
        assert "\n\nhint: " in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DlcliError("a", hint="b"), 1),
        (UsageError("a", hint="b"), 2),
        (BoundMissed("a", hint="b"), 3),
        (Interrupted("a", signum=2, hint="b"), 130),
        (Interrupted("a", signum=15, hint="b"), 143),
        (ValueError("a"), 70),
    ],
)
def test_every_failure_has_its_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> Any:
        raise error

    monkeypatch.setattr("dlcli.cli._load", fail)
    assert main(["info"]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "\n\nhint: " in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
        (PermissionError(13, "Permission denied", "a/b"), "error: a/b: Permission denied\n"),
    ],
)
def test_what_the_system_refuses_is_no_defect(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> Any:
        raise error

    monkeypatch.setattr("dlcli.cli._load", fail)
    assert main(["info"]) == 1
    assert capsys.readouterr().err == said


def test_a_librarys_oserror_is_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> Any:
        raise OSError("cannot identify image file")

    monkeypatch.setattr("dlcli.cli._load", fail)
    assert main(["info"]) == 70
    assert "--debug" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise DlcliError("a")

    monkeypatch.setattr("dlcli.cli._load", fail)
    with pytest.raises(DlcliError):
        main(["info", "--debug"])


def resolved(*args: str, recipe: dict[str, Any] | None = None) -> TrainConfig:
    """What a command that takes `TrainConfig` gets for these arguments."""
    seen: list[TrainConfig] = []
    app = typer.Typer()

    @app.command()
    @takes_config(TrainConfig)
    def command(settings: Settings[TrainConfig], *, other: Annotated[int, typer.Option()] = 1) -> None:
        seen.append(settings.resolve(recipe))

    app(list(args), standalone_mode=False)
    return seen[0]


def test_layers_of_settings(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"optim": {"lr": 3.0, "warmup": 0.3}, "fit": {"epochs": 3}}))
    recipe = {"optim": {"lr": 2.0, "weight_decay": 2.0, "warmup": 0.2}, "fit": {"seed": 2}}
    got = resolved(
        "--config", str(file), "--set", "fit.epochs=4", "--set", "optim.warmup=0.4",
        "--warmup", "0.5", recipe=recipe,
    )  # fmt: skip
    assert got.optim.weight_decay == 2.0  # recipe over default
    assert got.optim.lr == 3.0  # file over recipe
    assert got.fit.epochs == 4  # --set over file
    assert got.optim.warmup == 0.5  # flag over --set
    assert got.fit.seed == 2  # a flag that was not typed does not win with its default


def test_a_flag_typed_with_its_default_wins() -> None:
    recipe = {"optim": {"lr": 2.0}}
    assert resolved(recipe=recipe).optim.lr == 2.0
    assert resolved("--lr", "0.001", recipe=recipe).optim.lr == 0.001


def test_a_flag_declared_twice_is_refused_at_import() -> None:
    class Twice(TrainConfig):
        lr: float = setting(1.0, "again", "--lr")

    with pytest.raises(ValueError, match="--lr is declared twice"):

        @takes_config(Twice)
        def command(settings: Settings[Twice]) -> None: ...


def test_a_summary_is_the_first_line_of_a_commands_docstring() -> None:
    """Read by a regular expression and without an import, so it is held against the imported modules."""
    for name, summary in cli.summaries().items():
        module = importlib.import_module(f"dlcli.commands.{name}")
        assert (module.command.__doc__ or "").partition("\n")[0] == summary
        assert summary.endswith(".")


def test_an_ascii_stream_shows_other_letters_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")

    def command(args: object, **values: object) -> int:
        print("café")
        return 0

    monkeypatch.setattr(cli, "_load", lambda name: command)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["models"]) == 0
    stream.flush()
    assert raw.getvalue() == b"caf\\xe9\n"

"""Code that a file names runs when this user's dlcli has run it before, or under ``--trust``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlcli.card import CARD_KEY
from dlcli.checksums import KEY
from dlcli.cli import main
from dlcli.formats.checkpoint import card_of, read_tensors, write_tensors

CODE = """
import math, pathlib
from torch import nn

class Net(nn.Module):
    def __init__(self, task, **args):
        super().__init__()
        pathlib.Path(__file__).with_name("ran").touch()
        self.head = nn.Linear(math.prod(task.input.shape), task.num_outputs)

    def forward(self, x):
        return self.head(x.flatten(1))
"""
DATA = ["--data", "digits", "--device", "cpu", "-b", "500", "-q"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and a list of known files, of the test's own; the stranger's code lies in ``code``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLCLI_STATE", str(tmp_path / "state"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net.py").write_text(CODE)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of a built-in model."""
    root = tmp_path_factory.mktemp("runs")
    assert main(["train", "-m", "linear", *DATA, "-e", "1", "--name", "a", "--runs-dir", str(root)]) == 0
    return root / "a"


@pytest.fixture
def run(trained: Path, here: Path) -> Path:
    """A copy of it that is not finished."""
    folder = here / "runs" / "a"
    shutil.copytree(trained, folder)
    edit_record(folder, lambda record: record.update(status="interrupted"))
    return folder


def edit_record(run: Path, change: Any) -> None:
    """Change a record as one who takes the digests out, by which that would be noticed."""
    record = json.loads((run / "run.json").read_text())
    change(record)
    record = {key: value for key, value in record.items() if key not in (KEY, "settings")}
    (run / "run.json").write_text(json.dumps(record))


def edit_settings(run: Path, group: str, **values: Any) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings[group].update(values)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))


def name_code(run: Path, name: str) -> None:
    edit_record(run, lambda record: record["plan"].update(model={"name": name, "args": {}}))
    edit_settings(run, "model", name=name)


def code_model(run: Path, name: str) -> Path:
    """The run's model as one of this code."""
    path = run / "code.safetensors"
    tensors, _ = read_tensors(run / "best.safetensors")
    card = card_of(run / "best.safetensors")
    card = card.model_copy(update={"model": card.model.model_copy(update={"name": name})})
    write_tensors(path, tensors, {CARD_KEY: card.to_json()})
    return path


def ran(here: Path) -> bool:
    return (here / "code" / "ran").exists()


def refused(arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert "--trust" in capsys.readouterr().err
    assert not ran(here)


def test_resume_runs_no_code_that_a_record_names(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name_code(run, f"{here}/code/net.py:Net")
    shutil.rmtree(run / "state")
    resume = ["train", "--resume", "a", "-q", "--force"]
    refused(resume, here, capsys)
    assert main([*resume, "--trust"]) == 0
    assert ran(here)


def test_a_settings_file_runs_no_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("exp.yaml").write_text(yaml.safe_dump({"model": {"name": "code/net.py:Net"}}))
    command = ["train", *DATA, "-e", "1", "--config", "exp.yaml"]
    refused(command, here, capsys)
    refused([*command, "--dry-run"], here, capsys)
    assert main([*command, "--trust"]) == 0
    assert main(command) == 0  # known from then on
    with Path("code/net.py").open("a") as file:
        file.write("# changed\n")
    Path("code/ran").unlink()
    refused(command, here, capsys)
    Path("exp.yaml").write_text(yaml.safe_dump({"model": {"name": "code/net.py:Net", "args": {"a": 1}}}))
    refused(command, here, capsys)
    assert main([*command, "--model", "code/net.py:Net"]) == 0  # typed: the user's own


def test_typed_code_is_known_to_every_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", "code/net.py:Net", *DATA, "-e", "1", "--name", "mine"]) == 0
    assert main(["eval", "mine", "--device", "cpu", "-q"]) == 0
    assert main(["train", "--resume", "mine", "-q", "--epochs", "2"]) == 0
    with Path("code/net.py").open("a") as file:
        file.write("# changed\n")
    Path("code/ran").unlink()
    best = "runs/mine/best.safetensors"
    for command in (
        ["eval", best, "--device", "cpu"],
        ["predict", best, "x.png"],
        ["export", best, "--onnx"],
        ["quantize", best],
        ["prune", best, "--amount", "0.5"],
        ["train", "--resume", "mine", "-q", "--epochs", "3", "--force"],
    ):
        write_image(here / "x.png")
        refused(command, here, capsys)
    assert main(["train", "--resume", "mine", "-q", "--epochs", "3", "--trust"]) == 1
    (copy,) = Path("runs/mine/code").iterdir()
    assert copy.read_text() == CODE
    assert f"net.py has changed since run mine began, with {copy}" in capsys.readouterr().err
    assert main(["benchmark", best]) != 0
    assert main(["info", best]) == 0
    assert "needs --trust" in " ".join(capsys.readouterr().out.split())
    assert not ran(here)
    assert main(["train", "--resume", "mine", "-q", "--epochs", "3", "--force", "--trust"]) == 0
    assert len(list(Path("runs/mine/code").iterdir())) == 2
    assert main(["eval", best, "--device", "cpu", "-q", "--trust"]) == 0


def write_image(path: Path) -> None:
    from PIL import Image

    Image.new("L", (8, 8)).save(path)


def test_a_teacher_that_a_file_names_runs_no_code(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = code_model(run, f"{here}/code/net.py:Net")
    Path("exp.yaml").write_text(yaml.safe_dump({"loss": {"teacher": str(teacher)}}))
    command = ["train", "-m", "linear", *DATA, "-e", "1", "--config", "exp.yaml"]
    refused(command, here, capsys)
    assert main([*command, "--trust"]) == 0


def test_compiled_python_next_to_trusted_code_is_not_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util
    import py_compile

    code = here / "code" / "net.py"
    code.write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n" + CODE)
    cache = importlib.util.cache_from_source(str(code))
    py_compile.compile(str(code), cache, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    code.write_text(CODE.replace('.with_name("ran")', '.with_name("harmless")'))
    assert main(["models", f"{code}:Net", "--json"]) == 0
    assert not ran(here)
    assert (here / "code" / "harmless").exists()


def test_a_cache_is_made_where_the_user_said(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_settings(run, "data", cache_dir=str(here / "elsewhere"))
    resume = ["train", "--resume", "a", "-q", "--force"]
    Path("exp.yaml").write_text(yaml.safe_dump({"data": {"cache_dir": str(here / "elsewhere")}}))
    begin = ["train", "-m", "linear", *DATA, "--name", "b", "--config", "exp.yaml"]
    for command in (resume, begin):
        assert main(command) == 1
        assert f"names the folder {here / 'elsewhere'} for the cache" in capsys.readouterr().err
    assert main([*resume, "--set", "data.cache_dir=null"]) == 0
    assert not (here / "elsewhere").exists()
    for trust in (["--trust"], []):  # known from then on
        main([*begin, *trust, "--dry-run"])
        assert "names the folder" not in capsys.readouterr().err


def test_another_machine_is_reached_when_the_user_named_it(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_settings(run, "launch", nnodes="2", rdzv_endpoint="stranger.invalid:29400")
    assert main(["train", "--resume", "a", "-q", "--force"]) == 1
    assert "names the machine stranger.invalid:29400" in capsys.readouterr().err
    Path("exp.yaml").write_text(
        yaml.safe_dump({"launch": {"nnodes": "2", "rdzv_endpoint": "stranger.invalid:29400"}})
    )
    command = ["train", "-m", "linear", *DATA, "--name", "b", "--config", "exp.yaml"]
    assert main(command) == 1
    assert "names the machine" in capsys.readouterr().err

"""`dlcli init`: a settings file with comments that trains the same run, and its schema."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.config.commented import commented_yaml, json_schema
from dlcli.runs.folder import read_events
from dlcli.settings import fields_of, flat, validate

OPTIONS = [
    "--model",
    "mlp",
    "--data",
    "t.csv",
    "--target",
    "y",
    "--epochs",
    "2",
    "--set",
    "optim.lr=0.02",
]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{i % 7},{i % 5},{i % 7 * 2 + i % 5}.5" for i in range(60))
    (tmp_path / "t.csv").write_text(f"a,b,y\n{rows}\n")
    return tmp_path


def test_training_with_the_file_gives_the_run_of_its_options(table: Path) -> None:
    assert main(["init", *OPTIONS, "--output", "config.yaml"]) == 0
    assert main(["train", *OPTIONS, "--name", "typed", "--quiet"]) == 0
    assert main(["train", "--config", "config.yaml", "--name", "read", "--quiet"]) == 0
    typed, read = (table / "runs" / name for name in ("typed", "read"))
    assert (typed / "config.yaml").read_text() == (read / "config.yaml").read_text()
    epochs = [
        [event["val"] for event in read_events(run / "metrics.jsonl") if event["event"] == "EpochDone"]
        for run in (typed, read)
    ]
    assert epochs[0] == epochs[1]
    assert len(epochs[0]) == 2


def test_the_file_names_origins_and_no_file_is_replaced(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *OPTIONS]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "# yaml-language-server: $schema=dlcli.schema.json"
    assert re.search(r"^  lr: 0.02  # --set$", text, re.MULTILINE)
    assert re.search(r"^  epochs: 2  # --epochs$", text, re.MULTILINE)
    assert re.search(r"^  scheduler: \w+( .*recipe)?$", text, re.MULTILINE)
    assert main(["init", *OPTIONS, "--output", "t.csv"]) == 2
    assert (table / "t.csv").read_text().startswith("a,b,y\n")


def test_every_setting_survives_the_file_also_without_its_comment_sign() -> None:
    odd = {
        "data": {
            "data": "a: b # c\nd, [e]{}",
            "formats": {"x": "%d,%m", "1": "'"},
            "keep": ["y", "-", "é\t"],
        },
        "optim": {"lr": 1e-5, "betas": [0.9, 0.99]},
        "fit": {"batch_size": "auto", "seed": 7},
    }
    config = validate(TrainConfig, odd)
    origins = dict.fromkeys(fields_of(TrainConfig), "default") | {"data.data": "--config a\nb: 1"}
    text = commented_yaml(config, origins)
    every = re.sub(r"^  #(?=\w+: )", "  ", text, flags=re.MULTILINE).replace(": {}\n  ", ":\n  ")
    assert validate(TrainConfig, yaml.safe_load(every)) == config
    assert flat(config).keys() == fields_of(TrainConfig).keys()
    shown = dict.fromkeys(fields_of(TrainConfig), "--set")
    assert validate(TrainConfig, yaml.safe_load(commented_yaml(config, shown))) == config


def test_the_schema_has_every_setting_with_its_help_and_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["init", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json_schema(TrainConfig)
    known = {}
    for group, field in schema["properties"].items():
        definition = schema["$defs"][field["$ref"].rsplit("/", 1)[1]]
        assert definition["additionalProperties"] is False
        known |= {f"{group}.{name}": value for name, value in definition["properties"].items()}
    assert {key: value["description"] for key, value in known.items()} == {
        key: field.description for key, field in fields_of(TrainConfig).items()
    }
    assert "adamw" in known["optim.optimizer"]["anyOf"][0]["enum"]
    assert known["fit.seed"]["type"] == "integer"
    assert not {"flags", "advanced"} & known["fit.seed"].keys()

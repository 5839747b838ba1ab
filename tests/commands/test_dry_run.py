"""`dlcli train --dry-run`: the screen, the JSON object, where settings come from, and no trace."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dlcli.cli import main
from dlcli.commands.options import Settings
from dlcli.config import TrainConfig
from dlcli.errors import UsageError
from dlcli.settings import fields_of, validate

SMALL = ("--model", "cnn", "--data", "digits", "--device", "cpu", "--set", "model.args.widths=[4,8]")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> tuple[str, str]:
    got = main(["train", *SMALL, "--dry-run", *args])
    out, err = capsys.readouterr()
    assert got == code, err
    return out, err


def test_nothing_is_written(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    run(capsys)
    assert list(here.iterdir()) == []


def test_the_screen_says_what_the_run_will_be(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--epochs", "3", "--batch-size", "100", "--grad-accum-steps", "2", "--freeze", "backbone")
    out, err = run(capsys, *args, "--unfreeze", "backbone@50%", "--ema", "0.9")
    assert err == ""
    words = " ".join(out.split())
    assert "train 1,439, val 179, test 179" in words
    assert "3 epochs x 15 = 45, batch 100 = 2 micro-batches x 50" in words
    assert "multiply-adds a sample" in words
    for row in ("weights", "gradients", "state of adamw", "averages", "activations", "total"):
        assert f"  {row} " in out
    assert "median of 3" in words
    assert "layers are unfrozen at step 23" in words  # half of 45
    assert "fit.ema 0.9 --ema" in words
    assert max(map(len, out.splitlines())) <= 80


def test_the_plan_is_the_one_that_the_run_prints(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    out, _ = run(capsys, "--epochs", "1")
    assert main(["train", *SMALL, "--epochs", "1"]) == 0
    err = capsys.readouterr().err
    for word in ("steps", "optimizer", "input", "samples"):
        (line,) = [x for x in err.splitlines() if x.startswith(word)]
        assert " ".join(line.split()) in " ".join(out.split())


def test_an_ascii_terminal_gets_an_ascii_chart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import ConsoleOptions

    monkeypatch.setattr(ConsoleOptions, "ascii_only", property(lambda self: True))
    out, _ = run(capsys, "--scheduler", "step")
    assert "***" in out
    assert out.isascii()


def test_json_holds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--json", "--epochs", "2", "--scheduler", "constant", "--lr", "0.25")
    said = json.loads(out)
    assert (said["command"], said["dry_run"]) == ("train", True)
    assert said["data"]["samples"] == {"train": 1439, "val": 179, "test": 179}
    assert said["model"]["macs"] > said["model"]["params"] > 0
    memory = said["memory_bytes"]
    parts = ("weights", "gradients", "optimizer", "averages", "batch", "activations")
    assert memory["total"] == sum(memory[name] for name in parts)
    steps = said["steps"]["total"]
    assert steps == 2 * said["steps"]["per_epoch"]
    assert said["schedule"]["points"] == [[step, 0.25] for step in range(steps)]
    assert len(said["time_s"]["timed_steps"]) == 3
    assert said["settings"].keys() == fields_of(TrainConfig).keys()
    assert said["settings"]["optim.lr"] == {"value": 0.25, "origin": "--lr"}
    assert said["settings"]["fit.ema"]["origin"] == "default"


def test_auto_is_looked_for_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "--lr", "auto", "--set", "fit.batch_size=auto", "--json")
    said = json.loads(out)
    rate, size = said["settings"]["optim.lr"], said["settings"]["fit.batch_size"]
    assert rate == {"value": said["lr_sweep"]["suggestion"], "origin": "--lr auto"}
    assert size == {"value": said["steps"]["batch_size"], "origin": "--set auto"}
    # Between the two the epochs may be raised, where the batches are large.
    heads = [note.split(":")[0] for note in said["notes"]]
    assert [head for head in heads if head.endswith(" auto")][:2] == ["batch size auto", "lr auto"]
    assert err == ""


def test_the_sweep_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--lr", "auto")
    assert "loss by learning rate; --lr auto chose" in out
    assert out.count("lr auto: ") == 1


def test_several_devices_share_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--json", "--batch-size", "64", "--lr", "0.1")
    one, two = (json.loads(run(capsys, *both, "--devices", n)[0]) for n in ("1", "2"))
    assert two["device"]["processes"] == 2
    assert two["steps"] == {**one["steps"], "division": "64 = 2 devices x 32"}
    half = one["memory_bytes"]["activations"] / 2
    assert two["memory_bytes"]["activations"] == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--monitor", "beauty"), "--monitor 'beauty' is not a metric of classification"),
        (("--freeze", "nothing*"), "'nothing*' matches no trainable layer"),
        (("--devices", "x"), "--devices 'x'"),
    ],
)
def test_what_the_run_would_refuse_is_refused(
    capsys: pytest.CaptureFixture[str], args: tuple[str, str], message: str
) -> None:
    _, err = run(capsys, *args, code=2)
    assert message in err


# --- origins


def settings(**layers: Any) -> Settings[TrainConfig]:
    return Settings(TrainConfig, **layers)


def test_each_setting_names_its_strongest_layer() -> None:
    layers = settings(
        file={"optim": {"lr": 1.0, "momentum": 0.5, "warmup": 0.1}},
        sets={"optim": {"lr": 2.0, "momentum": 0.6}},
        flags={"optim": {"lr": 3.0}, "model": {"pretrained": False}, "launch": {"sync_bn": True}},
        file_name="my.yaml",
    )
    found = layers.origins({"optim": {"warmup": 0.2, "weight_decay": 0.3}, "fit": {"epochs": 9}})
    assert found.keys() == fields_of(TrainConfig).keys()
    expected = {
        "optim.lr": "--lr",
        "optim.momentum": "--set",
        "optim.warmup": "--config my.yaml",
        "optim.weight_decay": "recipe",
        "fit.epochs": "recipe",
        "model.pretrained": "--no-pretrained",
        "launch.sync_bn": "--sync-bn",
        "fit.seed": "default",
    }
    assert {key: found[key] for key in expected} == expected


def test_a_group_that_is_no_mapping_has_no_settings() -> None:
    assert settings().origins({"optim": None})["optim.lr"] == "default"


def test_a_configuration_file_is_named(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "my.yaml").write_text("fit:\n  epochs: 2\n")
    out, _ = run(capsys, "--config", "my.yaml")
    assert "fit.epochs 2 --config my.yaml" in " ".join(out.split())
    assert os.listdir(here) == ["my.yaml"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", "abc", r"optim.lr \(--lr\) = 'abc': .*number.*; or input should be 'auto'"),
        ("lr", -1, r"optim.lr \(--lr\) = -1: .*greater than 0; or"),
    ],
)
def test_a_setting_with_alternatives_is_named_by_its_key(key: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(TrainConfig, {"optim": {key: value}})

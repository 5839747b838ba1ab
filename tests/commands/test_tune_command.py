"""``dlcli tune``: trials are runs, a killed study ends as one that was not, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_data import write_csv

from dlcli.cli import main
from dlcli.commands.tune_session.end import running_note
from dlcli.runs.folder import list_runs
from dlcli.training.loop import fit
from dlcli.tune.study import StudyFolder, read_study
from dlcli.tune.trials import Trials

HELPER = Path(__file__).parent.parent / "helpers" / "killed_at.py"
NEW = [
    "tune",
    "-m",
    "mlp",
    "-d",
    "t.csv",
    "--device",
    "cpu",
    "-e",
    "3",
    "-b",
    "16",
    "--set",
    "fit.min_steps=0",
]
NEW += ["--name", "s", "--trials", "3"]
ANY_WIDTHS = list(NEW)
NEW += ["--set", "model.args.widths=[8]"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(160, 3)).round(4)
    labels = np.where(rows[:, 0] + rows[:, 1] ** 2 > 0.5, "yes", "no")
    cells = [[*map(float, row), label] for row, label in zip(rows, labels, strict=True)]
    return write_csv(tmp_path_factory.mktemp("data") / "t.csv", ["a", "b", "c", "label"], cells)


@pytest.fixture
def here(tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "t.csv").symlink_to(table)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def facts(name: str = "s") -> list[tuple[Any, ...]]:
    """What has to be the same of every trial, but for the weights."""
    trials = Trials(read_study(StudyFolder(Path("runs") / name))).all()
    return [(t.number, t.status, t.settings, t.value, t.epochs) for t in trials]


def weights(name: str = "s") -> list[dict[str, torch.Tensor]]:
    return [load_file(run.best) for run in list_runs(Path("runs") / name)]


def test_a_study(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEW, "--json"]) == 0
    out = result(capsys)
    folder = Path("runs/s")
    assert [trial["status"] for trial in out["trials"]] == ["finished"] * 3
    assert out["trials"][0]["default"]
    assert out["best"]["value"] == max(trial["value"] for trial in out["trials"])
    assert out["test"]["samples"] == 16
    assert {Path(plot).name for plot in out["plots"]} == {"history.png", "parallel.png"}
    assert json.loads((folder / "result.json").read_text())["best"] == out["best"]
    # Trials are runs like any other.
    assert [run.name for run in list_runs(folder)] == ["trial-000", "trial-001", "trial-002"]
    assert main(["eval", "runs/s/trial-001", "-q"]) == 0
    assert main(["train", "--resume", "trial-001", "--runs-dir", "runs/s", "-q"]) == 0
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "study s, its trials: dlcli runs --runs-dir runs/s" in capsys.readouterr().out
    # The settings of the best trial train the same model.
    assert main(["train", "--config", "runs/s/best.yaml", "--name", "again", "-q", "--json"]) == 0
    again = result(capsys)
    assert again["metrics"]["val"]["accuracy"] == out["best"]["value"]
    best = load_file(out["artifact"])
    assert all(torch.equal(best[key], one) for key, one in load_file(again["artifact"]).items())
    # A finished study says so, and takes more trials.
    assert main(["tune", "--resume", "s"]) == 0
    assert "study s is finished: 3 trials" in capsys.readouterr().out
    before = facts()
    assert main(["tune", "--resume", "s", "--trials", "4", "-q"]) == 0
    assert facts()[:3] == before
    assert len(facts()) == 4
    assert "trial-003" in capsys.readouterr().out
    trials = Trials(read_study(StudyFolder(folder)))
    assert running_note(trials) == ""
    trials.study = replace(trials.study, tune=trials.study.tune.model_copy(update={"trials": 5}))
    with trials.claim():
        assert running_note(trials).startswith("other processes still work on 1 trial")


KILLS = ["state:5"]  # within the second trial


@pytest.mark.parametrize("moments", [KILLS, pytest.param(None, marks=pytest.mark.slow)])
def test_a_killed_study_ends_as_one_that_was_not(here: Path, moments: list[str] | None) -> None:
    """Killed again and again, then resumed: the same settings, metrics and bits of every model."""
    options = ["--checkpoint-every", "1", "--pruner", "hyperband"]
    options += ["--trials", "5"] if moments is None else []
    assert main([*NEW, "--name", "whole", *options, "-q"]) == 0
    rng = np.random.default_rng(7)
    timed = [f"s:{seconds:.2f}" for seconds in rng.uniform(2.0, 9.0, 12)]
    arguments = [*NEW, *options]
    for moment in moments or timed:
        command = [sys.executable, str(HELPER), moment, *arguments, "-q"]
        subprocess.run(command, capture_output=True, timeout=300, check=False)
        if Path("runs/s/study.json").exists():
            arguments = ["tune", "--resume", "s"]
    assert main([*arguments, "-q"]) == 0
    assert facts("s") == facts("whole")
    for one, other in zip(weights("s"), weights("whole"), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)


def test_trials_of_folds(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A study that is killed within a fold ends as one that was not; a trial is a cross-validation."""
    options = ["--folds", "2", "--epochs", "2", "--trials", "2", "--checkpoint-every", "1"]
    assert main([*NEW, *options, "--name", "whole", "--json"]) == 0
    out = result(capsys)
    command = [sys.executable, str(HELPER), "state:2", *NEW, *options, "-q"]
    subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert not Path("runs/s/result.json").exists()
    assert main(["tune", "--resume", "s", "-q"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "accuracy is the mean of folds, a difference is over all held-out" in shown
    assert facts("s") == facts("whole")
    for fold in Path("runs/whole").glob("trial-*/fold-*/best.safetensors"):
        one, other = load_file(fold), load_file(Path("runs/s", *fold.parts[2:]))
        assert all(torch.equal(one[key], other[key]) for key in other)
    # The value is that of the same cross-validation by `train`, and so is the figure of the test split.
    best = Path(out["best"]["run"])
    assert main(["train", "--resume", best.name, "--runs-dir", "runs/whole", "--json"]) == 0
    capsys.readouterr()
    folds = json.loads((best / "folds.json").read_text())["result"]
    assert folds["mean"]["value"] == pytest.approx(out["best"]["value"], abs=1e-12)
    assert folds["test"] == out["test"]["metrics"]
    assert folds["samples"] == out["val_samples"] == 144
    # No fold sees the test split, which is that of a run with the best settings.
    assert main(["train", "--config", "runs/whole/best.yaml", "--name", "again", "-q"]) == 0
    test = json.loads(Path("runs/again/splits.json").read_text())["splits"]["test"]
    for splits in Path("runs/whole").glob("trial-*/fold-*/splits.json"):
        record = json.loads(splits.read_text())
        assert sorted(record["left_out"]) == sorted(test)
        assert not set(test) & {id_ for ids in record["splits"].values() for id_ in ids}
    capsys.readouterr()
    assert main(["eval", str(best), "--json"]) == 0
    assert result(capsys)["metrics"] == out["test"]["metrics"]
    assert main(["report", "whole"]) == 0
    assert "2-fold accuracy" in Path("runs/whole/report.html").read_text()
    assert main(["runs", "--delete", "whole", "--yes"]) == 0
    assert not Path("runs/whole").exists()


def test_two_objectives(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The front are the trials that no other one beats in both; the best of the metric is on it."""
    search = ["--search", "model.args.widths=[4]|[16]|[64]", "--sampler", "grid", "--trials", "4"]
    assert main([*ANY_WIDTHS, *search, "--objective", "accuracy,size", "--json"]) == 0
    out = result(capsys)
    trials = out["trials"]
    for trial in trials:
        assert trial["second"] == Path(trial["run"], "best.safetensors").stat().st_size
        beaten = any(
            (other["value"], -other["second"]) != (trial["value"], -trial["second"])
            and other["value"] >= trial["value"]
            and other["second"] <= trial["second"]
            for other in trials
        )
        assert (trial["number"] in out["front"]) == (not beaten)
    assert out["best"]["number"] == out["front"][0]
    assert out["best"]["value"] == max(trial["value"] for trial in trials)
    assert "front.png" in {Path(plot).name for plot in out["plots"]}
    assert main(["report", "s"]) == 0
    assert "that no other beats in both" in Path("runs/s/report.html").read_text()
    assert main(["tune", "--resume", "s"]) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.slow
def test_latency_as_the_second_objective(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of a thousand times the multiply-adds is slower; trials of one architecture are alike."""
    space = "model.args.widths=[8]|[2048,2048], optim.lr=1e-3|1e-2"
    search = ["--search", space, "--sampler", "grid", "--trials", "5"]
    assert main([*ANY_WIDTHS, *search, "--objective", "accuracy,latency", "--json"]) == 0
    out = result(capsys)
    latencies: dict[str, set[float]] = {}
    for trial in out["trials"][1:]:
        latencies.setdefault(str(trial["settings"]["model.args.widths"]), set()).add(trial["second"])
    ((small,), (large,)) = sorted(latencies.values(), key=max)
    assert 0 < small < large
    first = next(trial for trial in out["trials"] if trial["number"] == out["front"][0])
    assert first["value"] == max(trial["value"] for trial in out["trials"])


@pytest.mark.parametrize(
    ("command", "resume", "begun"),
    [
        (NEW, ["tune", "--resume", "s"], "trial-*"),
        (["train", *NEW[1:-4], "--folds", "2", "--name", "s"], ["train", "--resume", "s"], "fold-*"),
    ],
)
def test_ctrl_c_at_the_end_of_a_run_begins_no_other(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], resume: list[str], begun: str
) -> None:
    """A signal after the last step of a trial or fold stops nothing of it, but what comes next."""

    def interrupted(job: Any, progress: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        check_best(job, progress)

    with monkeypatch.context() as patch:
        check_best = fit.check_best
        patch.setattr(fit, "check_best", interrupted)
        assert main([*command, "-q"]) == 130
    (run,) = Path("runs/s").glob(begun)
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert main([*resume, "-q"]) == 0
    assert len(list(Path("runs/s").glob(begun))) > 1


def test_failed_trials_are_counted_and_the_study_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = "optim.lr=1e-3|1e30, model.args.norm=batch|none"
    assert main([*NEW, "--sampler", "grid", "--search", search, "--trials", "5", "--json"]) == 0
    out = result(capsys)
    failed = [trial for trial in out["trials"] if trial["status"] == "failed"]
    assert failed
    assert all("diverged" in trial["reason"] for trial in failed)
    assert all(trial["settings"]["optim.lr"] == 1e30 for trial in failed)
    assert main(["tune", "--resume", "s"]) == 0


def test_a_trial_that_was_deleted_has_failed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEW, "-q"]) == 0
    shutil.rmtree(here / "runs/s/trial-001")
    capsys.readouterr()
    assert main(["tune", "--resume", "s", "--trials", "4", "--json"]) == 0
    trials = result(capsys)["trials"]
    assert [trial["status"] for trial in trials] == ["finished", "failed", "finished", "finished"]
    assert trials[1]["reason"] == "its model is gone"
    with Path("runs/s/journal.log").open("ab") as journal:
        journal.write(b"damaged\n")
    assert main(["tune", "--resume", "s"]) == 0  # it has ended: the journal is read, and nothing is done
    assert "1 damaged line of runs/s/journal.log left out" in capsys.readouterr().err


def test_a_study_without_a_finished_trial_fails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEW, "--lr", "1e30", "--trials", "2", "-q"]) == 1
    assert "2 trials, and none has finished; 2 failed with: " in capsys.readouterr().err


@pytest.mark.slow
def test_workers_share_a_study(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEW, "--workers", "2", "--trials", "2", "--json"]) == 0
    out = result(capsys)
    assert [trial["status"] for trial in out["trials"]] == ["finished"] * 2
    assert [run.name for run in list_runs(Path("runs/s"))] != []


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_has_failed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that kills its process: the study goes on in another one."""
    Path("loss.py").write_text(
        "import os, signal\n"
        "from torch.nn.functional import cross_entropy\n"
        "def loss(outputs, targets, kill=0):\n"
        "    if kill:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return cross_entropy(outputs, targets, reduction='none')\n"
    )
    search = ["--search", "loss.args.kill=0|1", "--sampler", "grid", "--loss", "loss.py:loss"]
    assert main([*NEW, *search, "--workers", "2", "--json"]) == 0
    trials = result(capsys)["trials"]
    assert {trial["status"] for trial in trials[:-1]} == {"finished"}
    assert trials[-1]["status"] == "failed"
    assert "SIGKILL" in trials[-1]["reason"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--search", "optim.lrr=1..2"], "did you mean 'optim.lr'"),
        (["--search", "model.args.dropuot=0..0.5"], "did you mean 'model.args.dropout'"),
        (["--search", "optim.lr=2..1"], "the range is empty"),
        (["--search", "optim.lr=1e-3..1e-2", "--lr", "0.1"], "optim.lr is set, and --search has it too"),
        (["--search", "optim.lr=-1..1"], "optim.lr (--lr) = -1.0"),
        (["--search", "optim.optimizer=adam|adamm"], "unknown optimizer"),
        (["--search", "model.args.dropout=0..3"], "model.args.dropout = 3"),
        (["--search", "fit.seed=1|2"], "fit.seed is the same in all trials"),
        (["--sampler", "grid"], "has no end of values"),
        (["--set", "launch.devices='2'"], "--workers N"),
        (["--folds", "3", "--set", "data.fold=1"], "trains every fold"),
        (["--folds", "3", "--pruner", "hyperband"], "pruned after a fold"),
        (["--folds", "3", "--search", "data.val_fraction=0.1..0.2"], "the same in all trials"),
        (["-m", "mlp,resnet18"], "resnet18"),
        (["--objective", "latency,accuracy"], "--objective accuracy,latency"),
        (["--objective", "acuracy"], "--objective 'acuracy' is not a metric"),
        (["--objective", "accuracy,latencyy"], "did you mean 'latency'"),
        (["--objective", "accuracy,size,macs"], "neither one nor two"),
        (["--objective", "accuracy,size", "--monitor", "loss"], "leave --monitor out"),
        (["--objective", "accuracy,size", "--pruner", "median"], "prunes no trials of two"),
    ],
)
def test_what_is_refused_leaves_no_folder(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main([*NEW, *options]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not Path("runs").exists()


def test_what_a_resume_refuses(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEW, "--trials", "1", "-q"]) == 0
    for options, code, words in (
        (["--lr", "0.1"], 2, "optim.lr = 0.1 is not one of them"),
        (["--sampler", "random"], 2, "tune.sampler = 'random' is not one of them"),
        (["--name", "x"], 2, "--resume already names one"),
    ):
        assert main(["tune", "--resume", "s", *options]) == code
        assert words in " ".join(capsys.readouterr().err.split())
    assert main(["tune", "--resume", "t"]) == 1
    assert "there is no study 't'" in capsys.readouterr().err
    Path("t.csv").unlink()
    write_csv(Path("t.csv"), ["a", "label"], [[i, "yes" if i % 2 else "no"] for i in range(60)])
    record = Path("runs/s/study.json")
    values = json.loads(record.read_text())
    assert values["settings"]["data"]["data"] == str((here / "t.csv").absolute())
    assert main(["tune", "--resume", "s", "--trials", "2"]) == 1
    assert "is not the data that it began with" in capsys.readouterr().err

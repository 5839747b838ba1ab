"""Pruning from artifact to run: zeros hold, schedules arrive, bounds are kept, no source is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlcli.card import TransformRecord
from dlcli.commands.train_session.finetune import make_finetuner
from dlcli.compress.masks.apply import count_zeros
from dlcli.compress.masks.base import SLICE_AMOUNTS, WEIGHT_AMOUNTS
from dlcli.config import ExportSettings, MeasureConfig, PruneSettings, TrainConfig
from dlcli.data.base import Inputs
from dlcli.deploy import export as exporting
from dlcli.deploy.prune.options import targets_of
from dlcli.deploy.prune.prune import PruneResult, float_module, prune
from dlcli.deploy.prune.schedule import epochs_by_step, fractions
from dlcli.deploy.prune.transform import PruneTarget
from dlcli.errors import Diverged, DlcliError, Interrupted, UsageError
from dlcli.events import Event, Noted, StepDone, ignore
from dlcli.formats.base import FORMATS, Artifact, ModelFile, Outputs, open_artifact, read_card
from dlcli.formats.checkpoint import card_of, read_tensors, save_model
from dlcli.runs.folder import RunFolder
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.loop.state import load_newest
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run
from dlcli.transforms import UNVERIFIED

BASE = {
    "data": {"data": "digits"},
    "model": {"name": "cnn", "args": {"widths": [8, 16], "hidden": 32}},
    "optim": {"lr": 0.01},
    "fit": {"epochs": 3, "batch_size": 200, "device": "cpu", "log_every": 1, "tensorboard": False},
}


class Killed(BaseException):
    """What a SIGKILL is to the code: nothing after it runs."""


class Answers(Artifact):
    """A file that only answers, as an ONNX file does."""

    def predict(self, inputs: Inputs) -> Outputs:
        return np.zeros((len(inputs[0]), 10), dtype=np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A small model on digits."""
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE)))
    run = training.new_run(prepare_run(plan), tmp_path_factory.mktemp("trained"), "net")
    training.train(prepare_run(plan), run, ignore, state=None)
    return run


def settings(method: str, *, tune: dict[str, Any] | None = None, **config: Any) -> PruneSettings:
    return validate(
        PruneSettings,
        {
            "prune": {"method": method, **config},
            "finetune": {"epochs": 1, "device": "cpu", **(tune or {})},
            "measure": {"latency": False},
        },
    )


def run_prune(
    source: Path,
    root: Path,
    requested: PruneSettings,
    emit: Callable[[Event], None] = ignore,
    *,
    name: str | None = None,
) -> PruneResult:
    return prune(
        source, requested, name=name, runs_dir=root, finetuner=make_finetuner(root, emit), emit=emit
    )


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def record_of(path: Path, kind: str = "mask") -> dict[str, Any]:
    (result,) = [record.args for record in card_of(path).transforms if record.kind == kind]
    return result


def zeros_in(path: Path) -> int:
    """Counted in the file, by loading it."""
    rows = count_zeros(open_artifact(path, device="cpu").module(), record_of(path)["weights"])
    return sum(row.of - row.kept for row in rows)


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("l1", "adamw"), ("global-random", "nesterov"), ("semi-structured", "lion")],
)
def test_masks_hold_through_fine_tuning(
    trained: RunFolder, tmp_path: Path, method: str, optimizer: str
) -> None:
    before = contents(trained.path)
    amount = {} if method == "semi-structured" else {"amount": 0.8}
    result = run_prune(trained.best, tmp_path, settings(method, tune={"optimizer": optimizer}, **amount))
    run = RunFolder(result.run)
    share = 0.5 if method == "semi-structured" else 0.8
    assert result.zeros == (zeros_in(run.best), record_of(run.best)["of"])
    assert result.zeros[0] == record_of(run.best)["zeros"]
    assert result.zeros[0] == pytest.approx(share * result.zeros[1], abs=3)
    start = read_tensors(run.start)[0]
    assert start.keys() == read_tensors(run.best)[0].keys()
    assert any(not torch.equal(start[k], v) for k, v in read_tensors(run.best)[0].items())
    assert contents(trained.path) == before


def test_the_file_at_90_percent_is_at_least_5_times_smaller(tmp_path: Path) -> None:
    wide = merge(BASE, {"model": {"args": {"widths": [32, 64]}}, "fit": {"epochs": 1}})
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, wide)))
    source = training.new_run(prepare_run(plan), tmp_path, "wide")
    training.train(prepare_run(plan), source, ignore, state=None)
    result = run_prune(source.best, tmp_path, settings("global-l1", amount=0.9, tune={"epochs": 0}))
    assert 5 * result.comparison.after.size_bytes <= result.comparison.before.size_bytes
    dense = run_prune(
        source.best, tmp_path, settings("global-l1", amount=0.9, store="dense", tune={"epochs": 0})
    )
    assert dense.comparison.after.size_bytes >= result.comparison.before.size_bytes
    # However they are stored, they are the same bits and give the same answers.
    states = [
        open_artifact(RunFolder(r.run).best, device="cpu").module().state_dict() for r in (result, dense)
    ]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert result.comparison.after.metrics == dense.comparison.after.metrics
    assert result.verdict()[1].endswith("times smaller")
    assert dense.verdict()[1].startswith("NOT SMALLER")


def test_a_fine_tuning_that_dies_goes_on_to_the_same_bits_and_zeros(
    trained: RunFolder, tmp_path: Path
) -> None:
    requested = settings("l1", amount=0.7, tune={"epochs": 2})
    whole = RunFolder(run_prune(trained.best, tmp_path / "whole", requested).run)

    def kill(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 10:
            raise Killed

    with pytest.raises(Killed):
        run_prune(trained.best, tmp_path / "cut", requested, kill)
    (path,) = (tmp_path / "cut").iterdir()
    run = RunFolder(path)
    state, _ = load_newest(run.state)
    training.train(prepare_run(read_plan(read_run(run), fresh=state is None)), run, ignore, state=state)
    assert zeros_in(run.best) == record_of(run.best)["zeros"]
    mine, other = read_tensors(run.best)[0], read_tensors(whole.best)[0]
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[k], other[k]) for k in mine)


@pytest.mark.parametrize("schedule", ["iterative", "agp"])
def test_schedules_rise_to_the_amount(schedule: str) -> None:
    result = fractions(schedule, 4)
    assert list(result) == sorted(set(result))
    assert result[-1] == 1
    gains = np.diff([0, *result])
    if schedule == "iterative":
        assert gains == pytest.approx([0.25] * 4)
    else:  # Zhu and Gupta: much at first, little at last
        assert list(gains) == sorted(gains, reverse=True)
        assert result == pytest.approx([1 - (1 - t / 4) ** 3 for t in (1, 2, 3, 4)])


def test_goals_of_steps_are_shares_of_what_is_left() -> None:
    half = PruneTarget("amount", 0.5)
    assert half.at(0.5).value == 0.25
    assert half.relative_to(half.at(0.5)).value == pytest.approx(1 / 3)
    quarter = PruneTarget("params", 0.25)
    assert quarter.at(1 / 3).value == pytest.approx(0.75)
    assert quarter.relative_to(quarter.at(1 / 3)).value == pytest.approx(1 / 3)
    assert not half.relative_to(PruneTarget("amount", 0.6)).removes_anything


def test_an_amount_is_a_share_or_a_number() -> None:
    """As in torch.nn.utils.prune; also from YAML, where both are numbers."""
    for amount, value in ((0.5, 0.5), ("0.5", 0.5), (1, 1), ("200", 200), (200, 200)):
        (target,) = targets_of(settings("channel", amount=amount))
        assert (target.value, type(target.value)) == (value, type(value))
    number = targets_of(settings("l1", amount=200))[0]
    assert (number.tag(), number.describe()) == ("number200", "200 of each weight tensor removed")
    assert number.at(1 / 3).value == 67


def test_a_number_of_channels_is_exact_in_steps_too(trained: RunFolder, tmp_path: Path) -> None:
    steps = {"schedule": "agp", "steps": 3}
    requested = settings("channel", amount=3, tune={"epochs": 0}, **steps)
    result = run_prune(trained.best, tmp_path, requested)
    assert {row.of - row.kept for row in result.layers} == {3, 0}  # 0: the classes
    assert (result.run.name, result.schedule) == ("net-channel-number3", (2, 3, 3))
    assert (result.to_dict()["amount"], result.target.describe()) == (3, "3 of each layer removed")
    record = next(r for r in card_of(RunFolder(result.run).best).transforms if r.kind == "channels")
    assert record.args["amount"] == 3
    zeros = settings("l1", amount=20, tune={"epochs": 0}, **steps)
    masked = run_prune(trained.best, tmp_path, zeros)
    assert {row.of - row.kept for row in masked.layers} == {20}
    with pytest.raises(UsageError, match=r"--amount 10: at most 7 of 'features\.0'") as caught:
        run_prune(trained.best, tmp_path, settings("channel", amount=10, **steps))
    assert "--skip features.0" in str(caught.value.hint)


def test_epochs_are_shared_out_over_the_steps() -> None:
    assert epochs_by_step(7, 3) == (2, 2, 3)
    assert epochs_by_step(2, 3) == (0, 1, 1)
    assert epochs_by_step(0, 2) == (0, 0)


def test_a_schedule_prunes_and_tunes_in_turn_and_leaves_one_run(
    trained: RunFolder, tmp_path: Path
) -> None:
    seen: list[Event] = []
    requested = settings("l1", amount=0.9, schedule="agp", steps=3, tune={"epochs": 3})
    result = run_prune(trained.best, tmp_path, requested, seen.append)
    steps = [event.message for event in seen if isinstance(event, Noted) and "step" in event.message]
    assert [message.partition(":")[0] for message in steps] == [f"step {n} of 3" for n in (1, 2, 3)]
    assert [path.name for path in tmp_path.iterdir()] == ["net-l1-90"]
    assert result.zeros[0] == zeros_in(RunFolder(result.run).best)
    assert result.zeros[0] == pytest.approx(0.9 * result.zeros[1], abs=3)
    assert list(result.schedule) == sorted(result.schedule)
    assert result.schedule[-1] == 0.9
    assert card_of(RunFolder(result.run).best).parent == str(trained.best)


def test_channels_go_step_by_step_and_the_run_rebuilds(trained: RunFolder, tmp_path: Path) -> None:
    requested = settings(
        "channel", amount=0.5, schedule="iterative", steps=2, round_to=2, tune={"epochs": 2}
    )
    result = run_prune(trained.best, tmp_path, requested)
    once = run_prune(
        trained.best,
        tmp_path,
        settings("channel", amount=0.5, round_to=2, tune={"epochs": 0}),
        name="once",
    )
    assert {row.name: (row.kept, row.of) for row in result.layers} == {
        row.name: (row.kept, row.of) for row in once.layers
    }
    best = RunFolder(result.run).best
    assert len([r for r in card_of(best).transforms if r.kind == "channels"]) == 1
    assert result.comparison.after.params < 0.5 * result.comparison.before.params
    assert result.macs[1] < 0.5 * result.macs[0]
    module = open_artifact(best, device="cpu").module()
    assert sum(p.numel() for p in module.parameters()) == result.comparison.after.params


def test_a_masked_model_that_loses_channels_knows_its_zeros(trained: RunFolder, tmp_path: Path) -> None:
    quick = {"epochs": 0}
    first = run_prune(trained.best, tmp_path, settings("l1", amount=0.5, tune=quick), name="first")
    second = run_prune(
        RunFolder(first.run).best, tmp_path, settings("channel", amount=0.5, tune=quick), name="second"
    )
    best = RunFolder(second.run).best
    assert record_of(best)["zeros"] == zeros_in(best)
    third = run_prune(best, tmp_path, settings("l1", amount=0.9), name="third")
    kinds = [record.kind for record in card_of(RunFolder(third.run).best).transforms]
    assert sorted(kinds) == ["channels", "mask", "sparse"]
    assert third.zeros[0] == pytest.approx(0.9 * third.zeros[1], abs=3)


def test_without_fine_tuning_there_is_a_run_all_the_same(trained: RunFolder, tmp_path: Path) -> None:
    result = run_prune(trained.best, tmp_path, settings("ln", amount=0.25, tune={"epochs": 0}))
    run = RunFolder(result.run)
    card = card_of(run.best)
    assert run.name == "net-ln25"
    assert run.read_record()["status"] == "finished"
    assert card.parent == str(trained.best)
    assert card.metrics["val"] == pytest.approx(result.comparison.after.metrics)
    again = run_prune(run.best, tmp_path, settings("ln", amount=0.5))  # and it can be tuned later
    assert again.comparison.before.artifact == str(run.best)


def test_without_its_data_a_model_can_be_pruned_but_not_tuned(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    photos = photo_folder(per_class=8)
    own = {"data": {"data": str(photos)}, "model": {"img_size": 16}, "fit": {"epochs": 1}}
    plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, BASE, own)))
    source = training.new_run(prepare_run(plan), tmp_path / "runs", "net")
    training.train(prepare_run(plan), source, ignore, state=None)
    photos.rename(tmp_path / "elsewhere")
    for requested in (
        settings("l1", amount=0.5),
        settings("l1", amount=0.5, max_drop="0.1", tune={"epochs": 0}),
        settings("channel", amount=0.5, importance="taylor", tune={"epochs": 0}),
    ):
        with pytest.raises(DlcliError, match="data is needed to") as caught:
            run_prune(source.best, tmp_path / "runs", requested)
        assert "--epochs 0" in str(caught.value.hint)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["net"]
    result = run_prune(source.best, tmp_path / "runs", settings("l1", amount=0.5, tune={"epochs": 0}))
    assert result.verdict()[0].startswith("NOT VERIFIED ON DATA")
    assert zeros_in(RunFolder(result.run).best) == result.zeros[0]
    # With the path of today, the run's own splits are found in it.
    own = json.loads(source.splits.read_text())["splits"]
    there = settings("l1", amount=0.5).model_copy(
        update={"measure": MeasureConfig(data=str(tmp_path / "elsewhere"), latency=False)}
    )
    tuned = run_prune(source.best, tmp_path / "runs", there, name="there")
    assert json.loads(RunFolder(tuned.run).splits.read_text())["splits"] == own
    assert (tuned.comparison.split, tuned.comparison.samples) == ("val", len(own["val"]))
    (tmp_path / "elsewhere").rename(photos)  # when it is there again, the new run finds it
    later = run_prune(RunFolder(result.run).best, tmp_path / "runs", settings("l1", amount=0.8))
    assert later.comparison.split == "val"


def test_a_bound_is_measured_and_the_model_kept(trained: RunFolder, tmp_path: Path) -> None:
    requested = settings("l1", amount=0.98, max_drop="0.01", tune={"epochs": 0})
    result = run_prune(trained.best, tmp_path, requested)
    assert result.missed is not None
    assert "--max-drop 0.01" in result.missed
    assert RunFolder(result.run).best.is_file()
    kept = run_prune(trained.best, tmp_path, settings("l1", amount=0.1, max_drop="90%"))
    assert kept.missed is None


def test_the_largest_amount_that_keeps_a_bound_is_searched(trained: RunFolder, tmp_path: Path) -> None:
    seen: list[Event] = []
    requested = settings("global-l1", max_drop="0.2", tune={"epochs": 0})
    result = run_prune(trained.best, tmp_path, requested, seen.append)
    assert 2 <= len(result.candidates) <= 3
    assert result.missed is None
    good = [c.target.value for c in result.candidates if c.within_bound]
    assert result.target.value == max(good)
    above = [c.target.value for c in result.candidates if not c.within_bound]
    assert all(amount > result.target.value for amount in above)
    assert [row["run"] for row in result.to_dict()["attempts"] if row["run"]] == [str(result.run)]
    assert [path.name for path in tmp_path.iterdir()] == [result.run.name]
    cost = [event.message for event in seen if isinstance(event, Noted) and "attempts" in event.message]
    assert len(cost) == 1


def test_a_search_that_finds_nothing_keeps_what_lost_least(trained: RunFolder, tmp_path: Path) -> None:
    result = run_prune(trained.best, tmp_path, settings("random", max_drop="0", tune={"epochs": 0}))
    assert result.missed is not None
    assert len(result.candidates) == 3
    assert [path.name for path in tmp_path.iterdir()] == [result.run.name]
    drops = {c.target.value: c.delta.drop for c in result.candidates}
    assert drops[result.target.value] == min(drops.values())


# The search begins at 80 %: down from there, or up.
@pytest.mark.parametrize("trainable", ["-30", "-80"])
def test_a_search_goes_on_where_an_attempt_diverges(
    trained: RunFolder, tmp_path: Path, trainable: str
) -> None:
    finetune = make_finetuner(tmp_path, ignore)

    def breaks_down(plan: Plan, name: str) -> Any:
        if not name.endswith(trainable):
            raise Diverged(f"{name}: training has diverged")
        return finetune(plan, name)

    requested = settings("l1", max_drop="99%", tune={"epochs": 1})
    result = prune(trained.best, requested, name=None, runs_dir=tmp_path, finetuner=breaks_down)
    assert (result.target.value, result.missed) == (int(trainable[1:]) / 100, None)


def test_a_search_of_which_every_attempt_diverges_says_so(trained: RunFolder, tmp_path: Path) -> None:
    def breaks_down(plan: Plan, name: str) -> Any:
        raise Diverged(f"{name}: training has diverged")

    with pytest.raises(Diverged, match="has diverged"):
        prune(
            trained.best,
            settings("l1", max_drop="99%", tune={"epochs": 1}),
            name=None,
            runs_dir=tmp_path,
            finetuner=breaks_down,
        )


def test_annotations_of_an_exported_file_are_not_those_of_its_pruned_model(
    trained: RunFolder, tmp_path: Path
) -> None:
    source = tmp_path / "net.pth"
    exporting.export(trained.best, source, FORMATS.get("pth"), ExportSettings(), verify=False)
    assert {record.kind for record in read_card(source).transforms} == {"exported", UNVERIFIED}
    result = run_prune(source, tmp_path / "runs", settings("l1", amount=0.5, tune={"epochs": 0}))
    kinds = [record.kind for record in card_of(RunFolder(result.run).best).transforms]
    assert kinds == ["mask", "sparse"]


def test_an_interrupted_step_says_how_to_go_on(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(plan: object, name: str) -> Any:
        raise Interrupted("interrupted", signum=2, hint="go on with it")

    requested = settings("l1", amount=0.9, schedule="iterative", steps=2, tune={"epochs": 2})
    with pytest.raises(Interrupted, match="it is step 1 of 2") as caught:
        prune(trained.best, requested, name=None, runs_dir=tmp_path, finetuner=stop)
    assert caught.value.exit_code == 130
    assert str(caught.value.hint).startswith("go on with it; then prune")


def test_settings_that_do_not_go_together_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"method": "channel"}, "nothing says how much to prune"),
        ({"method": "channel", "amount": 0.5, "target_macs": 0.5}, "exclude each other"),
        ({"method": "l1", "target_params": 0.5}, "--target-params is for --method channel, not l1"),
        (
            {"method": "l1", "amount": 0.5, "importance": "taylor"},
            "--importance is for --method channel",
        ),
        ({"method": "l1", "amount": 0.5, "round_to": 4}, "--round-to is for --method channel"),
        ({"method": "channel", "amount": 0.5, "norm": "1"}, "--norm is for --method ln"),
        ({"method": "l1", "amount": 0.5, "dim": 1}, "--dim is for --method ln"),
        ({"method": "l1", "amount": 0.5, "steps": 5}, "--steps is for --schedule"),
        ({"method": "semi-structured", "amount": 0.9}, "two weights of four"),
        ({"method": "semi-structured", "schedule": "agp"}, "two weights of four"),
    ]
    for config, message in cases:
        with pytest.raises(UsageError, match=message):
            targets_of(settings(**config))
    for tune, message in (
        ({"lr": 0.1}, "--lr is for fine-tuning"),
        ({"amp": "bf16"}, "--amp is for fine-tuning"),
        ({"distill": False}, "--no-distill is for fine-tuning"),
    ):
        with pytest.raises(UsageError, match=message):
            targets_of(settings("l1", amount=0.5, tune={"epochs": 0, **tune}))
    for amount in (0, 1.0, 1.5, -0.5, -3, "nan", "half"):
        with pytest.raises(UsageError, match=r"neither a share .* nor a whole number"):
            settings("l1", amount=amount)
    assert [target.value for target in targets_of(settings("channel", max_drop="1%"))] == list(
        SLICE_AMOUNTS
    )
    assert [target.value for target in targets_of(settings("l1", max_drop="1%"))] == list(WEIGHT_AMOUNTS)
    assert targets_of(settings("semi-structured")) == (PruneTarget("amount", 0.5),)


def test_what_is_quantized_or_has_nothing_to_prune_is_refused(
    trained: RunFolder, tmp_path: Path
) -> None:
    source = open_artifact(trained.best, device="cpu")
    for kind in ("groups", "half", "quantize"):
        card = source.card.model_copy(
            update={"transforms": (TransformRecord(kind=kind),), "parent": "p"}
        )
        with pytest.raises(DlcliError, match="already quantized") as caught:
            float_module(source.with_card(card))
        assert "start from p" in str(caught.value.hint)
    onnx = FORMATS.get("onnx")
    beside = ModelFile(trained.best.with_name("best.int8-static.onnx"), onnx)  # next to its source
    with pytest.raises(DlcliError) as caught:
        float_module(Answers(beside, card))
    assert f"start from {trained.best}" in str(caught.value.hint)
    with pytest.raises(DlcliError, match="holds no trainable model"):
        float_module(Answers(ModelFile(tmp_path / "best.onnx", onnx), read_card(trained.best)))
    requested = settings("l1", amount=0.9, tune={"epochs": 0})
    first = run_prune(trained.best, tmp_path, requested)
    with pytest.raises(DlcliError, match="there is nothing to prune"):
        run_prune(RunFolder(first.run).best, tmp_path, settings("l1", amount=0.5, tune={"epochs": 0}))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_model_that_has_left_its_run_can_be_pruned(trained: RunFolder, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    shutil.copy(trained.best, alone)
    result = run_prune(alone, tmp_path / "runs", settings("l1", amount=0.5, tune={"epochs": 0}))
    assert result.run.name == "alone-l1-50"
    assert read_card(RunFolder(result.run).best).parent == str(alone)


def test_zeros_that_were_lost_are_noticed(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(path: Path, module: torch.nn.Module, card: Any) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1.0)
        save_model(path, module, card)

    monkeypatch.setattr("dlcli.deploy.prune.pipeline.save_model", spoil)
    with pytest.raises(DlcliError, match=r"only .* pruned weights are zero"):
        run_prune(trained.best, tmp_path, settings("l1", amount=0.5, tune={"epochs": 0}))

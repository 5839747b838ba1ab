"""Exports: several at once, in processes of their own, measured, and honest about what is unknown."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlcli.card import Card, ModelSpec
from dlcli.config import ExportConfig, ExportSettings, MeasureConfig
from dlcli.data.base import Inputs
from dlcli.data.prepare import random_inputs
from dlcli.deploy import export as exporting
from dlcli.deploy import export_worker, parity
from dlcli.deploy.parity import BATCH_SIZES, BatchParity, check_parity
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import FORMATS, Artifact, Format, ModelFile, Outputs, open_artifact, recognize
from dlcli.formats.checkpoint import save_model
from dlcli.provenance import outdated, provenance_record
from dlcli.task import NumberColumn as Column
from dlcli.task import (
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)
from dlcli.transforms import UNVERIFIED
from dlcli.zoo.base import build_model

TASK = TaskSpec(
    kind="regression",
    input=TabularInput(numbers=(Column(name="a"), Column(name="b"))),
    targets=(TargetNumber(name="y"),),
)
CARD = Card(model=ModelSpec(name="linear"), task=TASK)
SETTINGS = ExportSettings(measure=MeasureConfig(latency=False))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "best.safetensors", build_model(CARD.model, TASK), CARD)
    return tmp_path / "best.safetensors"


def copying(name: str = "copy") -> Format:
    """A format that is a model file again: writing it takes no exporter."""

    def write(source: Artifact, path: Path, config: ExportConfig) -> None:
        save_model(path, source.module(), source.card)

    result = exporting.FORMATS.get("safetensors")
    return replace(result, name=name, suffix=f".{name}.safetensors", write=write)


def failing(source: Artifact, path: Path, config: ExportConfig) -> None:
    path.write_bytes(b"half a file")
    raise DlcliError("the operator Frobnicate is missing", hint="try another format")


def test_a_format_that_fails_stops_no_other(model: Path) -> None:
    before = model.read_bytes()
    wanted = [
        (replace(copying("broken"), write=failing), model.with_name("a.safetensors")),
        (copying(), model.with_name("b.safetensors")),
    ]
    broken, good = exporting.export_all(model, wanted, SETTINGS, verify=True)
    assert isinstance(broken, exporting.ExportFailure)
    assert broken.to_dict()["error"] == "the operator Frobnicate is missing"
    assert isinstance(good, exporting.ExportResult)
    assert good.ok
    assert sorted(p.name for p in model.parent.iterdir()) == ["b.safetensors", "best.safetensors"]
    assert model.read_bytes() == before


def test_an_export_is_measured_before_and_after(model: Path) -> None:
    result = exporting.export(model, model.with_name("b.safetensors"), copying(), SETTINGS, verify=True)
    assert result.change is not None
    report = result.to_dict()
    assert report["before"]["artifact"] == str(model)
    assert report["after"]["size_bytes"] == result.output.stat().st_size
    assert report["agreement"] is None  # numbers have none
    assert report["before"]["latency_ms"] == {}


@pytest.mark.parametrize(("verify", "reason"), [(False, "--no-verify"), (True, "trained on")])
def test_what_nobody_checked_says_so_itself(model: Path, verify: bool, reason: str) -> None:
    target = model.with_name("b.safetensors")
    result = exporting.export(model, target, copying(), SETTINGS, verify=verify)
    (remark,) = [r for r in open_artifact(target).card.transforms if r.kind == UNVERIFIED]
    assert reason in remark.args["reason"]
    assert (result.parity is None) == (not verify)


def test_a_changed_source_makes_its_export_outdated(model: Path) -> None:
    target = model.with_name("b.safetensors")
    exporting.export(model, target, copying(), SETTINGS, verify=False)
    card = open_artifact(target).card
    assert outdated(target, card) is None
    torch.manual_seed(1)
    save_model(model, build_model(CARD.model, TASK), CARD)
    assert "made from an older best.safetensors" in (outdated(target, card) or "")
    model.unlink()  # it has left its run: nothing is known
    assert outdated(target, card) is None
    assert outdated(target, CARD) is None


def regression(after: float, max_drop: object) -> bool:
    """Whether an export keeps the bound when each answer is off by ``after``, and by 1 before."""
    inputs = random_inputs(TASK, 9)
    result = check_parity(
        Counting(TASK, lambda batch: np.ones((len(batch[0]), 1), np.float32)),
        Counting(TASK, lambda batch: np.full((len(batch[0]), 1), after, np.float32)),
        inputs,
        np.zeros((9, 1)),
        ExportConfig.model_validate({"tolerance": 10, "max_drop": max_drop}),
        data="val",
        note="",
    )
    return result.ok


def test_the_bound_of_an_export_is_spelt_as_everywhere() -> None:
    assert regression(1.004, None)  # half a percent of an error
    assert not regression(1.02, None)
    assert regression(1.02, "5%")
    assert not regression(1.02, 0.01)  # as a file of settings says it
    with pytest.raises(UsageError, match="'much' is not a bound"):
        ExportConfig(max_drop="much")


def test_a_file_of_another_program_is_not_written_over(model: Path) -> None:
    entry, target = FORMATS.get("pth"), model.with_name("best.pth")
    torch.save({"weight": torch.zeros(2)}, target)
    with pytest.raises(UsageError, match="no pth file of dlcli's"):
        exporting.check_target(model, target, entry)
    target.unlink()
    exporting.export(model, target, entry, SETTINGS, verify=False)
    exporting.check_target(model, target, entry)


def test_what_was_trained_on_from_an_export_is_not_older_than_itself(model: Path) -> None:
    export = model.with_name("best.pth")
    card = exporting.export(model, export, FORMATS.get("pth"), SETTINGS, verify=False).card
    run = model.parent / "pruned" / "best.safetensors"
    run.parent.mkdir()
    save_model(run, build_model(CARD.model, TASK), card)
    assert outdated(run, card) is None


def test_a_list_of_own_files_that_cannot_be_written_stops_no_export(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model.parent / "file").touch()
    monkeypatch.setenv("DLCLI_STATE", str(model.parent / "file" / "below"))
    messages: list[str] = []
    result = exporting.export(
        model,
        model.with_name("best.torchscript"),
        FORMATS.get("torchscript"),
        SETTINGS,
        verify=True,
        emit=lambda event: messages.append(str(getattr(event, "message", ""))),
    )
    assert result.ok
    assert any("will need --trust" in text for text in messages)


@pytest.mark.parametrize(("form", "ending"), [("openvino", ".xml"), ("aoti", ".pt2"), ("pt2", ".pt2")])
def test_names_that_a_library_would_refuse_are_refused_first(
    form: str, ending: str, model: Path
) -> None:
    with pytest.raises(UsageError, match=f"files end in {ending}") as caught:
        exporting.check_target(model, model.with_name("x.onnx"), FORMATS.get(form))
    assert caught.value.hint == f"--output {model.with_name('x' + ending)}"
    exporting.check_target(model, model.with_name("x" + ending), FORMATS.get(form))


def test_the_origin_of_a_file_names_no_folder_of_this_machine(model: Path) -> None:
    assert provenance_record(model).args["source"] == "best.safetensors"


def test_tensors_that_lie_apart_are_counted_and_replace_nothing_strange(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def companions(path: Path) -> list[Path]:
        return [path.with_name("b.bin")] if path.stem == "b" else []

    single = FORMATS.get("safetensors")
    pair = replace(single, companions=companions)
    monkeypatch.setitem(FORMATS._entries, "safetensors", pair)

    def write(source: Artifact, path: Path, config: ExportConfig) -> None:
        save_model(path, source.module(), source.card)
        path.with_name("b.bin").write_bytes(b"tensors")

    entry, target = replace(copying(), write=write), model.with_name("b.safetensors")
    strange = model.with_name("b.bin")
    strange.write_bytes(b"my own")
    with pytest.raises(DlcliError, match="belongs to no b"):
        exporting.export(model, target, entry, SETTINGS, verify=False)
    assert strange.read_bytes() == b"my own"
    assert not target.exists()
    strange.unlink()
    for _ in range(2):  # an older one of its own is replaced
        result = exporting.export(model, target, entry, SETTINGS, verify=False)
    assert strange.read_bytes() == b"tensors"
    assert result.output_bytes == target.stat().st_size + len(b"tensors") == recognize(target).size


# A process of its own


def test_a_fresh_process_writes_what_this_one_would(model: Path) -> None:
    remark = CARD.model_copy(update={"parent": "somebody"})
    source = open_artifact(model, device="cpu").with_card(remark)  # not the file's
    target, config = model.with_name("b.pth"), ExportConfig()
    export_worker.write_in_process(source, target, FORMATS.get("pth"), config, trust=False)
    written = open_artifact(target, device="cpu", trust=True)
    assert written.card == remark
    inputs = random_inputs(TASK, 5)
    assert np.allclose(written.predict(inputs), source.predict(inputs), atol=1e-5)
    with pytest.raises(UsageError, match="--softmax: a model for regression") as caught:
        export_worker.write_in_process(
            source,
            model.with_name("c.onnx"),
            FORMATS.get("onnx"),
            ExportConfig(softmax=True),
            trust=False,
        )
    assert caught.value.hint == "leave --softmax out"
    assert not model.with_name("c.onnx").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals have other names there")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with SIGKILL"),
        ("raise SystemExit('no room')", "ended with exit code 1: no room"),
    ],
)
def test_an_exporter_that_dies_is_an_error_and_leaves_nothing(
    model: Path, code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_worker, "child_command", lambda module: [sys.executable, "-c", code])
    entry = replace(copying(), fresh=lambda source: True)
    with pytest.raises(DlcliError, match=message):
        exporting.export(model, model.with_name("b.safetensors"), entry, SETTINGS, verify=False)
    assert [p.name for p in model.parent.iterdir()] == ["best.safetensors"]


# The gate


class Counting(Artifact):
    """A model of lengths: it answers with how many tokens a text has, or reads the padding too."""

    def __init__(self, task: TaskSpec, how: Callable[[Inputs], Outputs]) -> None:
        file = ModelFile(Path("x"), FORMATS.get("safetensors"))
        super().__init__(file, Card(model=ModelSpec(name="x"), task=task))
        self.how = how

    def predict(self, inputs: Inputs) -> Outputs:
        return self.how(inputs)


WORDS = TextInput(vocabulary=("<pad>", "<unk>", "<s>", "</s>", *"abc"), max_length=20)
TEXT = TaskSpec(kind="regression", input=WORDS, targets=(TargetNumber(name="n"),))
SERIES = TEXT.model_copy(
    update={"input": SeriesInput(channels=("c",), mean=(0.0,), std=(1.0,), length=20, varies=True)}
)
PAIRS = TaskSpec(kind="seq2seq", input=PairsInput(source=WORDS, target=WORDS))


def lengths(inputs: Inputs) -> Outputs:
    return inputs[1][:, None].astype(np.float32)


def widths(inputs: Inputs) -> Outputs:
    """Right for batches of one alone, where nothing is padded."""
    return np.full((len(inputs[0]), 1), inputs[0].shape[1], np.float32)


def missed(task: TaskSpec, before: Any, after: Any, inputs: Inputs) -> list[str]:
    result = check_parity(
        Counting(task, before), Counting(task, after), inputs, None, ExportConfig(), data="val", note=""
    )
    assert {b.batch_size for b in result.batches} == set(BATCH_SIZES)
    assert {b.steps for b in result.batches} == {"own", "longer"}
    return list(result.missed)


@pytest.mark.parametrize("task", [TEXT, SERIES])
def test_two_lengths_are_tried_at_every_batch_size(task: TaskSpec) -> None:
    inputs = random_inputs(task, 40, length=12)
    assert missed(task, lengths, lengths, inputs) == []
    messages = missed(task, lengths, widths, inputs)
    assert any("at batch 1, longer" in text for text in messages)
    assert not any("at batch 1," in text and "longer" not in text for text in messages)


def test_no_batch_is_longer_than_any_text_the_model_knows() -> None:
    seen: list[int] = []

    def note(inputs: Inputs) -> Outputs:
        seen.append(inputs[0].shape[1])
        return lengths(inputs)

    missed(TEXT, lengths, note, random_inputs(TEXT, 9, length=18))
    assert max(seen) == 20


def test_texts_to_write_are_tried_with_two_prefixes() -> None:
    seen: set[int] = set()

    def logits(inputs: Inputs) -> Outputs:
        seen.add(inputs[2].shape[1])
        return np.eye(7, dtype=np.float32)[inputs[2]]  # (B, T, vocabulary): the next is the last one

    def whole(inputs: Inputs) -> Outputs:
        """It looks ahead: with half of the prefix it answers otherwise."""
        return logits(inputs) * inputs[2].shape[1]

    inputs = random_inputs(PAIRS, 9, length=10)
    assert missed(PAIRS, logits, logits, inputs) == []
    assert len(seen) == 2
    full = inputs[2].shape[1]
    messages = missed(PAIRS, lambda x: logits(x) * full, whole, inputs)
    assert messages
    assert all("longer" in text for text in messages)


def test_half_precision_has_a_wider_tolerance_and_still_one() -> None:
    inputs = random_inputs(TEXT, 9)

    def off(by: float) -> Callable[[Inputs], Outputs]:
        return lambda batch: lengths(batch) * np.float32(1 + by)

    for by, tolerance, half, fine in [
        (5e-3, None, False, False),
        (5e-3, None, True, True),
        (5e-2, None, True, False),
        (5e-3, 1e-3, True, False),  # what was asked for holds
        (5e-2, 1e-1, False, True),
    ]:
        result = check_parity(
            Counting(TEXT, lengths),
            Counting(TEXT, off(by)),
            inputs,
            None,
            ExportConfig(half=half, tolerance=tolerance),
            data="val",
            note="",
        )
        assert result.ok == fine, (by, tolerance, half)


def test_a_drop_of_exactly_the_bound_passes() -> None:
    assert 0.955 - 0.95 > 0.005  # of floats
    task = TaskSpec(kind="classification", input=TASK.input, class_names=("no", "yes"))

    def missed(accuracy: float) -> list[str]:
        batch = BatchParity(1, None, 0.0, 0.0, 1.0, {"accuracy": accuracy})
        return parity._missed(batch, {"accuracy": 0.955}, 1e-3, ExportConfig(max_drop="0.005"), task)

    assert missed(0.95) == []
    assert missed(0.949) == ["accuracy gets worse by 0.006 at batch 1, where 0.005 is allowed"]

"""Quantization-aware training: fine-tune with simulated int8, export exactly what was trained.

Batch norms are folded, fake quantizers inserted (`dlcli.compress.quantize.fake_quant_sites`) and
calibrated, and the model is fine-tuned by the same loop as any, with its original as the teacher. The
run's best.safetensors simulates int8, so its metrics are those of an int8 model; the ONNX file holds
that model with the ranges it was trained with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.layer_names import named_layers
from dlcli.compress.quantize.fake_quant_sites import (
    calibrate,
    insert_fake_quantizers,
    quantizable_layers,
)
from dlcli.compress.quantize.fold_batchnorm import fold_batch_norms
from dlcli.config import EvalConfig, ExportConfig, MeasureConfig, QuantizeSettings
from dlcli.config.ship import parse_names
from dlcli.data.prepare import random_inputs, trim
from dlcli.deploy.quantize.variants import this_machine
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.eval_data import eval_data
from dlcli.evaluation.evaluate import default_batch_size
from dlcli.events import Emit, Noted, ignore
from dlcli.formats.base import Artifact, Runtime, recognize
from dlcli.formats.checkpoint import open_checkpoint
from dlcli.formats.onnx.format import write_onnx
from dlcli.provenance import provenance_record
from dlcli.runs.folder import RunFolder, run_of
from dlcli.training.finetune import TuneDefaults, Tuner, some_epochs, tuning_plan
from dlcli.zoo.base import build_model
from dlcli.zoo.forward import load_tensors, model_inputs

FILE = "best.int8-qat.onnx"
# A net in int8 knows what its original knew, and is to give its answers: short, gentle, by these alone.
# At a tenth of the run's rate instead of a fiftieth, resnet18 on 3,000 photos moved away from them.
_EPOCHS, _LR_SHARE = 0.1, 0.02
_EXAMPLE_LENGTH = 12  # of the sequences that one pass is watched with


@dataclass(frozen=True)
class QatResult:
    """``path`` is the int8 ONNX file, not yet in its place; ``run`` the run whose best model it is."""

    path: Path
    run: RunFolder


def qat(
    source: Artifact, settings: QuantizeSettings, tuner: Tuner, folder: Path, emit: Emit = ignore
) -> QatResult:
    """Fine-tune ``source`` in a run of its own as an int8 model, and write that into ``folder``.

    Raises: DlcliError where the model has nothing for it or the training data cannot be reached,
    Interrupted after a signal.
    """
    module, records = prepare(source, settings)
    own = run_of(source.path)
    plan = tuning_plan(
        source,
        module,
        (*transforms.of_the_model(source.card), *records),
        settings.tune,
        settings.measure,
        TuneDefaults(epochs=some_epochs(own, _EPOCHS), lr_share=_LR_SHARE, distill_alpha=1.0),
    )
    layers = len(records[-1].args["layers"])
    emit(Noted(f"fine-tuning with {layers} layers as they will be in int8"))
    name = source.path.stem if own is None else own.name
    result = tuner(plan, f"{name}-qat")
    path = folder / FILE
    write_int8(open_checkpoint(recognize(result.run.best), Runtime("cpu")), path)
    return QatResult(path, result.run)


def prepare(
    source: Artifact, settings: QuantizeSettings
) -> tuple[nn.Module, tuple[TransformRecord, ...]]:
    """The source's model as it begins to learn: folded, rounding and calibrated; and what was done.

    Raises: DlcliError, UsageError for a ``--skip`` that means no layer.
    """
    task, card = source.card.task, source.card
    if task.kind == "seq2seq":
        raise DlcliError(
            "quantization-aware training is not for models that write texts word by word",
            hint="--method dynamic is the way",
        )
    # A module of its own: the source goes on answering as it is.
    module = build_model(card.model, task, card.transforms)
    load_tensors(module, source.module().state_dict())
    module.eval()
    layers = set(quantizable_layers(module))
    layers -= named_layers(layers, parse_names(settings.quantize.skip))
    if not layers:
        raise UsageError(f"--skip {settings.quantize.skip} leaves no layer to quantize")
    arrays = random_inputs(task, 2, length=_EXAMPLE_LENGTH)
    example = model_inputs([torch.from_numpy(array) for array in arrays], task)
    folded = fold_batch_norms(module, example)
    arm = (settings.quantize.target or this_machine()) == "arm"
    rounded = insert_fake_quantizers(module, example, layers, activations="s8" if arm else "u8")
    calibrate(module, _training_samples(source, settings))
    return module, (rounded,) if folded is None else (folded, rounded)


def write_int8(tuned: Artifact, path: Path) -> None:
    """Write the int8 model that an artifact simulates as ONNX; its card says what it is."""
    card = tuned.card
    record = TransformRecord(kind=transforms.QUANTIZE, args={"method": "qat", "backend": "onnxruntime"})
    done = (*card.transforms, record, provenance_record(tuned.path))
    card = card.model_copy(update={"transforms": done})
    write_onnx(tuned.with_card(card), path, ExportConfig())


def _training_samples(
    source: Artifact, settings: QuantizeSettings
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Samples of the training split, evenly spread, as the module takes them."""
    task, measure = source.card.task, settings.measure
    data = eval_data(source.card, source.path, _train_split(measure))
    total = len(data.reader)
    count = min(settings.quantize.calibration_samples, total)
    picked = np.unique(np.linspace(0, total - 1, count).round().astype(np.int64))
    size = default_batch_size(task)
    for start in range(0, len(picked), size):
        inputs, kept = data.reader.read(picked[start : start + size])
        if len(kept):
            tensors = [torch.from_numpy(array) for array in trim(inputs, task)]
            yield model_inputs(tensors, task)


def _train_split(measure: MeasureConfig) -> EvalConfig:
    return EvalConfig(
        data=measure.data,
        data_dir=measure.data_dir,
        split="train",
        workers=measure.workers,
        offline=measure.offline,
    )

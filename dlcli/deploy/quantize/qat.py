"""Quantization-aware training: fine-tune with simulated int8 and export the trained ranges.

Batch norms are folded, fake quantizers inserted (`dlcli.compress.quantize.fake_quant_sites`) and
calibrated, and the model is fine-tuned by the usual training loop, distilled from the float model. The
run's best.safetensors simulates int8, so its metrics are those of an int8 model; the ONNX file has the
ranges it was trained with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dlcli import transforms
from dlcli.card import TransformRecord
from dlcli.compress.layer_names import match_layers
from dlcli.compress.quantize.base import QuantizeMethod
from dlcli.compress.quantize.fake_quant_sites import quantizable_layers
from dlcli.config import ExportConfig, QuantizeSettings, parse_names
from dlcli.data.prepare import random_inputs
from dlcli.deploy.quantize.calibration import CalibrationData
from dlcli.deploy.quantize.methods import cpu_target
from dlcli.errors import DlcliError, UsageError
from dlcli.evaluation.evaluate import default_batch_size
from dlcli.events import Emit, Noted, ignore
from dlcli.formats.base import Artifact, Runtime, recognize
from dlcli.formats.checkpoint import open_checkpoint
from dlcli.formats.onnx.format import write_onnx
from dlcli.keyword_settings import keywords
from dlcli.provenance import provenance_record
from dlcli.runs.folder import RunFolder, run_of
from dlcli.runs.saved import read_run_of
from dlcli.runs.unfinished import parent_of
from dlcli.training.finetune import FinetuneDefaults, Finetuner, finetune_plan, some_epochs
from dlcli.zoo.base import build_model
from dlcli.zoo.forward import load_tensors, model_inputs

# The int8 model starts from what the float model has learned: few epochs at a low learning rate, with
# its outputs as the only targets. At a tenth of the run's learning rate instead of a fiftieth, resnet18
# on 3,000 photos moved away from them.
EPOCHS_SHARE, _LR_SHARE = 0.1, 0.02
_EXAMPLE_LENGTH = 12  # of the sequences of the traced forward pass


def original_of(trained: Artifact) -> Path:
    """The float model that a run of quantization-aware training began with. Raises: DlcliError."""
    run = run_of(trained.path)
    path = Path(parent_of(run.read_record()) if run is not None else trained.card.parent or "")
    if not path.is_file():
        raise DlcliError(
            f"{trained.path} simulates int8, and its original {path} is not there to compare it with",
            hint="put the original back; dlcli eval measures what is simulated",
        )
    return path


@dataclass(frozen=True)
class QatResult:
    """``path`` is the int8 ONNX file, not yet published; ``run`` the run whose best model it is."""

    path: Path
    run: RunFolder


def qat(
    source: Artifact,
    method: QuantizeMethod,
    settings: QuantizeSettings,
    finetuner: Finetuner,
    path: Path,
    emit: Emit = ignore,
) -> QatResult:
    """Fine-tune ``source`` as a method that trains simulates it, and write the int8 file to ``path``.

    Raises: DlcliError where no layer can be quantized or the training data cannot be reached,
    Interrupted after a signal.
    """
    module, records = prepare(source, method, settings)
    own = read_run_of(source.path)
    plan = finetune_plan(
        source,
        own,
        module,
        (*transforms.of_the_model(source.card), *records),
        settings.finetune,
        settings.measure,
        FinetuneDefaults(epochs=some_epochs(own, EPOCHS_SHARE), lr_share=_LR_SHARE, distill_alpha=1.0),
    )
    layers = len(records[-1].args["layers"])
    emit(Noted(f"fine-tuning with {layers} layers in simulated int8"))
    name = source.path.stem if own is None else own.name
    run = finetuner(plan, f"{name}-{method.name}")
    int8 = open_checkpoint(recognize(run.best), Runtime("cpu"))
    write_int8(int8, method, path, settings)
    return QatResult(path, run)


def prepare(
    source: Artifact, method: QuantizeMethod, settings: QuantizeSettings
) -> tuple[nn.Module, tuple[TransformRecord, ...]]:
    """Return the model before fine-tuning, folded, with calibrated fake quantizers, and its new records.

    Raises: DlcliError, UsageError for a ``--skip`` that matches no layer.
    """
    task, card = source.card.task, source.card
    if task.kind == "seq2seq":
        raise DlcliError(
            "quantization-aware training does not support seq2seq models",
            hint="use --method dynamic",
        )
    # A copy: the source's module is still needed as it is.
    module = build_model(card.model, task, card.transforms)
    load_tensors(module, source.module().state_dict())
    module.eval()
    layers = set(quantizable_layers(module))
    layers -= match_layers(layers, parse_names(settings.quantize.skip))
    if not layers:
        raise UsageError(f"--skip {settings.quantize.skip} leaves no layer to quantize")
    arrays = random_inputs(task, 2, length=_EXAMPLE_LENGTH)
    example = model_inputs([torch.from_numpy(array) for array in arrays], task)
    config = settings.quantize.model_copy(update={"target": settings.quantize.target or cpu_target()})
    batches = _calibration_batches(source, settings)
    records = method.function(module, example, layers, batches, **keywords(method.function, config))
    return module, records


def write_int8(
    finetuned: Artifact, method: QuantizeMethod, path: Path, settings: QuantizeSettings
) -> None:
    """Write the int8 model that an artifact simulates as ONNX, with a record of it in the card."""
    config = ExportConfig.model_validate(settings.quantize.requested_versions)
    card = finetuned.card
    record = TransformRecord(
        kind=transforms.QUANTIZE, args={"method": method.name, "backend": method.backend}
    )
    records = (*card.transforms, record, provenance_record(finetuned.path))
    card = card.model_copy(update={"transforms": records})
    write_onnx(finetuned.with_card(card), path, config)


def _calibration_batches(
    source: Artifact, settings: QuantizeSettings
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the calibration data as the module takes it."""
    task = source.card.task
    for inputs in CalibrationData(source, settings).batches(default_batch_size(task)):
        if len(inputs[0]):
            yield model_inputs([torch.from_numpy(array) for array in inputs], task)

"""Plans for fine-tuning a compressed model, whose weights and structure are given.

Such a run has the same loop, folder, state and `--resume` as any other. Its settings, unless overridden,
and its splits are those of the model's own run; its card names its parent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dlcli.card import Card, TransformRecord
from dlcli.config import DataConfig, FinetuneConfig, LaunchConfig, LossConfig, MeasureConfig, TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.sources import open_other, open_source, open_undivided
from dlcli.data.splits import apply_splits
from dlcli.errors import DlcliError
from dlcli.evaluation.eval_data import recorded_splits
from dlcli.formats.base import Artifact
from dlcli.runs.folder import RunFolder, read_events
from dlcli.runs.saved import SavedRun
from dlcli.settings import merge, validate
from dlcli.training.plan import Plan
from dlcli.training.recorded_paths import with_recorded_paths
from dlcli.transforms import check_single
from dlcli.zoo.base import find_model

# Trains a plan in a run of this name, and returns the run. `commands` passes one that shows and logs it.
Finetuner = Callable[[Plan, str], RunFolder]


@dataclass(frozen=True)
class FinetuneDefaults:
    """A method's defaults for settings that the user did not give.

    ``lr_share`` is a share of the learning rate of the model's own run, ``distill_alpha`` the weight of
    distillation from the original model; None: as in that run.
    """

    epochs: int
    lr_share: float
    distill_alpha: float | None = None


def some_epochs(run: SavedRun | None, share: float) -> int:
    """A share of the epochs of the model's own run, of ten where there is none; at least one."""
    epochs = TrainConfig().fit.epochs if run is None else run.config.fit.epochs
    return max(1, round(share * epochs))


def epoch_seconds(run: SavedRun | None) -> float | None:
    """The mean time of an epoch of the model's own run, validation included; None where not recorded."""
    metrics = None if run is None else run.folder.metrics
    events = read_events(metrics) if metrics is not None and metrics.is_file() else []
    ends = [event for event in events if event.get("event") == "EpochDone"]
    return ends[-1]["elapsed_s"] / ends[-1]["epoch"] if ends else None


def finetune_plan(
    source: Artifact,
    run: SavedRun | None,
    module: nn.Module,
    transforms: Sequence[TransformRecord],
    finetune: FinetuneConfig,
    measure: MeasureConfig,
    defaults: FinetuneDefaults,
) -> Plan:
    """The plan that fine-tunes ``module``, the result of ``transforms`` of ``source``.

    ``run`` is the source's own run, if it is known. ``transforms`` are all records of the new card,
    those of the source included: the model's builder and they give the structure of ``module``. Raises:
    DlcliError when the training data is not available.
    """
    card = source.card
    check_single(card, source.path, "fine-tuning")
    own = _from_card(card, source.path) if run is None else with_recorded_paths(run)
    data = _data(own, measure)
    config = validate(TrainConfig, merge(own.model_dump(), _changes(own, source, finetune, defaults)))
    config = config.model_copy(update={"data": data, "launch": LaunchConfig()})
    data_source, warnings = _source(card, None if run is None else run.folder, config, measure)
    return Plan(
        config=config,
        source=data_source,
        task=card.task,
        model=card.model,
        weights_from=str(source.path),
        initial={name: tensor.detach().clone() for name, tensor in module.state_dict().items()},
        transforms=tuple(transforms),
        parent=str(source.path),
        warnings=tuple(warnings),
    )


def data_of_run(
    source: Artifact, run: SavedRun, measure: MeasureConfig
) -> tuple[DataConfig, DataSource]:
    """The data of a model's own run, in its splits. Raises: DlcliError."""
    data = _data(with_recorded_paths(run), measure)
    config = run.config.model_copy(update={"data": data})
    return data, _source(source.card, run.folder, config, measure)[0]


def _from_card(card: Card, path: Path) -> TrainConfig:
    """The settings of an artifact outside of its run: its data, else the defaults."""
    if card.data is None:
        raise DlcliError(
            f"{path} does not record its training data, so it cannot be fine-tuned",
            hint="give --data FOLDER with train and val",
        )
    data = {**card.data.options, "data": card.data.data, "data_dir": card.data.data_dir}
    return validate(TrainConfig, {"data": data})


def _data(own: TrainConfig, measure: MeasureConfig) -> DataConfig:
    changes: dict[str, Any] = {"offline": measure.offline or own.data.offline}
    if measure.data is not None:
        changes |= {"data": measure.data, "data_dir": measure.data_dir}
    elif measure.data_dir is not None:
        changes["data_dir"] = measure.data_dir
    if measure.workers is not None:
        changes["workers"] = measure.workers
    return own.data.model_copy(update=changes)


def _changes(
    own: TrainConfig, source: Artifact, finetune: FinetuneConfig, defaults: FinetuneDefaults
) -> dict[str, Any]:
    """The settings that replace those of the run: few epochs, no early stopping, no averages."""
    epochs = defaults.epochs if finetune.epochs is None else finetune.epochs
    fit: dict[str, Any] = {
        "epochs": max(epochs, 1),
        "head_epochs": 0,
        "max_steps": finetune.max_steps,
        "max_time": None,
        "overfit_batches": None,
        "patience": None,
        "keep_best": 1,
        "ema": None,
        "swa": None,
        "compile": "none",
        "grad_checkpointing": "none",
        "cache_features": "off",
        "feature_copies": 1,
        "tensorboard": False,
        "histograms": False,
        "device": finetune.device,
        "amp": finetune.amp,
    }
    if finetune.batch_size is not None:
        fit["batch_size"] = finetune.batch_size
    if finetune.seed is not None:
        fit["seed"] = finetune.seed
    optim: dict[str, Any] = {
        "lr": _peak_lr(own, source.card) * defaults.lr_share if finetune.lr is None else finetune.lr,
        "scheduler": finetune.scheduler or "cosine",
        "warmup": 0.1,
        "layer_decay": 1.0,
        "backbone_lr": 1.0,
    }
    if finetune.optimizer is not None:
        optim["optimizer"] = finetune.optimizer
    distill = finetune.distill and source.card.task.kind in ("classification", "multilabel")
    # MixUp and class weights stay those of the run; the teacher is added to them.
    loss: dict[str, Any] = {"teacher": str(source.path.resolve())}
    if defaults.distill_alpha is not None:
        loss["distill_alpha"] = defaults.distill_alpha
    if not distill or own.data.balance == "focal":
        plain = LossConfig()
        loss = {key: getattr(plain, key) for key in ("teacher", "distill_alpha", "temperature")}
    model: dict[str, Any] = {"weights": None, "word_vectors": None, "pretrained": False}
    model |= {"optimizer_state": False}
    model |= {"freeze": "none", "unfreeze": None}
    model |= {"lora": None, "lora_targets": None, "lora_alpha": None}  # the factors were merged
    return {"fit": fit, "optim": optim, "loss": loss, "model": model}


def _peak_lr(own: TrainConfig, card: Card) -> float:
    """The peak learning rate of a model's own run; of LoRA's, what its model has without it."""
    if own.model.lora is None:
        return own.optim.peak_lr
    recipe = find_model(card.model.name, card.task.input.kind).recipe_for(card.task.kind)
    return validate(TrainConfig, recipe).optim.peak_lr


def _source(
    card: Card, run: RunFolder | None, config: TrainConfig, measure: MeasureConfig
) -> tuple[DataSource, list[str]]:
    if run is not None and measure.data is None:
        source, changed = apply_splits(run.splits, open_undivided(config.data))
        return source, changed
    other = open_other(config.data, card.task)
    moved = recorded_splits(card, run, other, config.data)
    if moved is not None:
        return moved
    if {"train", "val"} <= set(other.splits):
        return other, []
    if measure.data is not None:
        raise DlcliError(
            f"{other.origin} has no train and val split to fine-tune on: it has "
            + ", ".join(other.splits),
            hint="give a folder with train and val, or leave --data out",
        )
    source = open_source(config.data, seed=config.fit.seed)
    return source, [
        "the model's run is not known, so the data is split again: training samples may be among those "
        "that it is measured on"
    ]

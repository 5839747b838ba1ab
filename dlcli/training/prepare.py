"""Build the model and the teacher of a plan, once, before the run folder is created."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dlcli.training.activation_checkpointing import find_checkpoint_chains
from dlcli.training.checks import check_plan
from dlcli.training.distillation import Teacher, open_teacher
from dlcli.training.estimators import is_fitted
from dlcli.training.loop.determinism import RngState, capture_rng
from dlcli.training.lora import check_lora
from dlcli.training.optim.freezing import freezing_of
from dlcli.training.optim.make import make_optimizer
from dlcli.training.optim.optimizer_state import initial_entries
from dlcli.training.optim.user_optimizer import check_weight_decay
from dlcli.training.plan import Plan
from dlcli.zoo.base import find_model
from dlcli.zoo.saved_optimizer import Entry


@dataclass(frozen=True)
class PreparedRun:
    """A checked plan with its first weights; one training run consumes it.

    ``module`` and ``teacher`` are on the CPU. ``optimizer_entries`` are what the optimizer begins
    with, by parameter. ``load_notes`` are sentences about the loaded weights. ``rng_state`` is that
    of the generators after building, with which training begins.
    """

    plan: Plan
    module: nn.Module
    optimizer_entries: Mapping[str, Entry]
    load_notes: tuple[str, ...]
    teacher: Teacher | None
    rng_state: RngState


def prepare_run(plan: Plan) -> PreparedRun:
    """Check a plan, and build its model and its teacher. Raises: UsageError, DlcliError."""
    check_plan(plan)
    module, load_notes, loaded = plan.build()
    if is_fitted(plan):
        return PreparedRun(plan, module, {}, tuple(load_notes), None, capture_rng())
    optimizer = _check_layers(plan, module)
    entries, notes = initial_entries(plan, module, loaded, optimizer)
    load_notes += notes
    return PreparedRun(plan, module, entries, tuple(load_notes), load_teacher(plan), capture_rng())


def load_teacher(plan: Plan) -> Teacher | None:
    """The teacher of a plan, on the CPU; None where it has none. Raises: UsageError, DlcliError."""
    path = plan.config.loss.teacher
    return None if path is None else open_teacher(Path(path), plan.task, torch.device("cpu"))


def _check_layers(plan: Plan, module: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer as of the run.

    Raises: UsageError for settings that name or need layers which the model does not have.
    """
    config = plan.config
    head = find_model(plan.model.name, plan.task.input.kind).head(module)
    freezing = freezing_of(module, config, head=head)
    if plan.lora is not None:
        check_lora(module, plan.lora, plan.task, freezing.never)
    optimizer = make_optimizer(module, config.optim, head=head, never=freezing.never)
    if plan.user_config is not None:
        check_weight_decay(optimizer, plan.user_config.optim)
    find_checkpoint_chains(module, config.fit.grad_checkpointing)
    return optimizer

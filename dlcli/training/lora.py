"""Low-rank adaptation of a run: which layers, what is frozen, and whether it has the effect it should.

Hu et al., arXiv:2106.09685; the layers themselves are in `dlcli.zoo.structures.lora`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from dlcli import transforms
from dlcli.card import ModelSpec, TransformRecord
from dlcli.config import ModelConfig
from dlcli.config.layer_patterns import parse_lora_targets
from dlcli.data.prepare import random_inputs
from dlcli.errors import UsageError
from dlcli.task import TaskSpec
from dlcli.training.optim.depth import below
from dlcli.wording import plural
from dlcli.zoo.base import build_model, find_model
from dlcli.zoo.forward import model_inputs
from dlcli.zoo.structures.lora import can_adapt, is_factor, matrix_size, weight_change

# B is 0 at first and both factors are small, so steps are larger than those of fine-tuning.
LORA_RECIPE: dict[str, Any] = {"optim": {"lr": 1e-3}}
_SHOWN = 12  # layers in a message
_TOLERANCE = 1e-3  # relative, of outputs of merged and separate factors in float32


def lora_record(config: ModelConfig, spec: ModelSpec, task: TaskSpec) -> TransformRecord | None:
    """The record of the factors that the settings ask for, None without ``model.lora``.

    The model is built once to know its layers. Raises: UsageError.
    """
    if config.lora is None:
        for name in ("lora_targets", "lora_alpha"):
            if getattr(config, name) is not None:
                raise UsageError(f"model.{name} is for LoRA", hint="add --lora RANK, such as --lora 8")
        return None
    if config.optimizer_state:
        raise UsageError(
            "--lora and --optimizer-state exclude each other: the file's optimizer knows no factors",
            hint="leave one of them out",
        )
    with torch.random.fork_rng(devices=[]):
        module = build_model(spec, task)
    head = find_model(spec.name, task.input.kind).head(module)
    targets = None if config.lora_targets is None else parse_lora_targets(config.lora_targets)
    return TransformRecord(
        kind=transforms.LORA,
        args={
            "rank": config.lora,
            "alpha": config.lora_alpha or 2.0 * config.lora,
            "layers": choose_layers(module, config.lora, targets, head=head),
            "weights": config.weights,
        },
    )


def choose_layers(
    module: nn.Module, rank: int, targets: Sequence[str] | None, *, head: str
) -> list[str]:
    """The paths of the layers that get factors; the head, which trains as a whole, gets none.

    A pattern of ``targets`` is the name of a layer or of what holds it, or a glob, from any point of its
    path on: ``query``, ``attention.*``, ``layer4``. Without them it is every layer whose factors are
    smaller than its weight. Raises: UsageError where a pattern matches no layer, or a layer's smaller
    side is less than ``rank``.
    """
    sizes = {
        path: matrix_size(layer)
        for path, layer in module.named_modules()
        if can_adapt(layer) and not below(path, head)
    }
    if targets is None:
        smaller = [path for path, (k, f) in sizes.items() if rank * (k + f) < k * f]
        if not smaller:
            raise UsageError(
                f"--lora {rank}: no linear layer or convolution in front of the head is large enough "
                "for factors of that rank",
                hint=f"the layers are {_listed(sizes)}; a lower rank may fit, or train without --lora",
            )
        return smaller
    chosen: list[str] = []
    for pattern in targets:
        matches = [path for path in sizes if _matches(path, pattern)]
        if not matches:
            raise UsageError(
                f"--lora-targets: {pattern!r} matches no linear layer or convolution in front of the "
                "head",
                hint=f"there are {_listed(sizes)}" if sizes else "train without --lora",
            )
        chosen += matches
    for path in chosen:
        if rank > min(sizes[path]):
            k, f = sizes[path]
            raise UsageError(
                f"--lora {rank} is more than the smaller side of {path}, whose weight is {k} x {f}",
                hint=f"--lora {min(sizes[path])} or less, or leave that layer out",
            )
    return [path for path in sizes if path in set(chosen)]


def _matches(path: str, pattern: str) -> bool:
    """Whether a glob matches some whole names in a row of a path: ``b`` and ``b.c`` of ``a.b.c``."""
    parts = path.split(".")
    ends = range(1, len(parts) + 1)
    return any(fnmatchcase(".".join(parts[i:j]), pattern) for j in ends for i in range(j))


def _listed(sizes: dict[str, tuple[int, int]]) -> str:
    """Paths with * for the numbers of repeated blocks."""
    names = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", path) for path in sizes))
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def freeze_base(module: nn.Module, *, head: str) -> None:
    """Freeze all parameters but the factors and the head."""
    for name, parameter in module.named_parameters():
        if not is_factor(name) and not below(name, head):
            parameter.requires_grad_(False)


def lora_sentence(module: nn.Module, record: TransformRecord, never: frozenset[str]) -> str:
    """What trains, and its share; ``never`` are the names of parameters that no step trains."""
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    whole = sum(sizes.values())
    train = sum(size for name, size in sizes.items() if name not in never)
    layers = plural(len(record.args["layers"]), "layer")
    return (
        f"LoRA of rank {record.args['rank']}, alpha {record.args['alpha']:g}, on {layers} "
        f"({_listed(dict.fromkeys(record.args['layers'], (0, 0)))}): {train:,} of {whole:,} parameters "
        f"train ({train / whole:.2%}), the head among them"
    )


def skipped_sentence(module: nn.Module, record: TransformRecord, targets: str | None, head: str) -> str:
    """Which layers in front of the head have no factors, and why; "" where all have.

    Layers with weights of other classes than those that LoRA adapts are named by their class.
    """
    layers, rank = set(record.args["layers"]), record.args["rank"]
    skipped: dict[str, list[str]] = {}
    for path, layer in module.named_modules():
        if path in layers or below(path, head):
            continue
        if can_adapt(layer):
            why = f"factors of rank {rank} are no smaller than their weights"
            skipped.setdefault("not named by --lora-targets" if targets else why, []).append(path)
        elif any(weight.ndim > 1 for weight in layer.parameters(recurse=False)):
            kind = type(layer).__name__
            skipped.setdefault(f"{kind} is no linear layer or convolution", []).append(path)
    parts = [
        f"{plural(len(paths), 'layer')} ({_listed(dict.fromkeys(paths, (0, 0)))}): {why}"
        for why, paths in skipped.items()
    ]
    return f"LoRA leaves frozen {'; '.join(parts)}" if parts else ""


def check_lora(
    module: nn.Module, record: TransformRecord, task: TaskSpec, never: frozenset[str]
) -> None:
    """Check that some factor trains, and that factors act as they do when they are merged.

    Layers whose weights the model reads by itself, or does not use, would be trained in vain. The module
    is left as it was. Raises: UsageError naming such layers.
    """
    factors = {name for name, _ in module.named_parameters() if is_factor(name)}
    if factors <= never:
        raise UsageError(
            "--freeze leaves no factor of LoRA to train: LoRA freezes the backbone itself",
            hint="leave --freeze out, or name fewer layers; --freeze backbone without --lora trains the "
            "head alone",
        )
    arrays = random_inputs(task, 2)
    inputs = model_inputs([torch.from_numpy(array.copy()) for array in arrays], task)
    layers, training = record.args["layers"], module.training
    module.eval()
    try:
        with torch.no_grad():
            if not _same_as_merged(module, layers, inputs):
                bad = [path for path in layers if not _same_as_merged(module, [path], inputs)]
                raise UsageError(
                    "--lora: the model does not call these layers, or reads their weights by itself, so "
                    f"their factors would have no effect: {', '.join(bad or layers)}",
                    hint="name other layers with --lora-targets",
                )
    finally:
        module.train(training)


def _same_as_merged(module: nn.Module, layers: Sequence[str], inputs: tuple[torch.Tensor, ...]) -> bool:
    """Whether random factors of layers change the outputs as their sums with the weights do."""
    generator = torch.Generator().manual_seed(0)
    parts: list[Any] = [module.get_submodule(path) for path in layers]
    weights = [part.weight.clone() for part in parts]
    before = module(*inputs)
    for part in parts:
        # A change of about the size of the weight itself.
        part.lora_B.normal_(std=float(part.weight.std()) or 1.0, generator=generator)
    separate = module(*inputs)
    for part in parts:
        change = weight_change(part.lora_A, part.lora_B, part.lora_scale, part.weight)
        part.weight.copy_((part.weight.double() + change).to(part.weight.dtype))
        part.lora_B.zero_()
    merged = module(*inputs)
    for part, weight in zip(parts, weights, strict=True):
        part.weight.copy_(weight)
    size = float((merged - before).abs().max())
    return size > 0 and float((merged - separate).abs().max()) <= _TOLERANCE * size

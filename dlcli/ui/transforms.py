"""Transform records of a card in words, one function per kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dlcli import wording

if TYPE_CHECKING:
    from dlcli.card import TransformRecord

_MAX_CHARACTERS = 160  # of a record without a function
_METHODS = {
    "dynamic": "int8 weights, activations quantized at run time (dynamic)",
    "static": "int8 weights and activations (static, calibrated)",
    "qat": "int8 weights and activations (QAT)",
    "weight-only": "weights only",
}
_MASKS = {
    "l1": "the smallest weights of each layer",
    "random": "random weights of each layer",
    "global-l1": "the smallest weights of all layers",
    "global-random": "random weights of all layers",
    "ln": "whole rows or channels",
    "semi-structured": "two of every four weights",
}


def in_words(record: TransformRecord) -> str:
    """Return a record as a line of text; kinds without a function show their arguments."""
    describe = _WORDS.get(record.kind)
    return describe(record.args) if describe else f"{record.kind} {_arguments(record.args)}".strip()


def _channels(args: Mapping[str, Any]) -> str:
    amount = args.get("amount")
    description = (
        [] if amount is None else [f"amount {amount if isinstance(amount, int) else f'{amount:.3g}'}"]
    )
    description += [f"by {args['importance']}"] if "importance" in args else []
    return "pruned by channel" + (f": {', '.join(description)}" if description else "")


def _mask(args: Mapping[str, Any]) -> str:
    what = _MASKS.get(str(args.get("method")), str(args.get("method", "weights")))
    description = f"pruned by mask: {what} are zero"
    if args.get("of"):
        description += f", {_share(args.get('zeros', 0) / args['of'])} of {wording.count(args['of'])}"
    return description


def _quantize(args: Mapping[str, Any]) -> str:
    method = str(args.get("method", ""))
    description = f"quantized: {_METHODS.get(method, method)}{_bits(args)}"
    description += ", weights in 7 bits for processors without VNNI" * bool(args.get("reduce_range"))
    in_float = args.get("float") or ()
    return description + (
        f", {wording.plural(len(in_float), 'layer')} left in float" if in_float else ""
    )


def _groups(args: Mapping[str, Any]) -> str:
    return f"quantized: weights only, stored as integers{_bits(args)}"


def _bits(args: Mapping[str, Any]) -> str:
    """Return the bits per weight, if the record has them."""
    if "bits" not in args:
        return ""
    return f", int{args['bits']}" + (
        f" in groups of {args['group_size']}" if "group_size" in args else ""
    )


def _static(args: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{name} {size}" for name, size in args.items())
    return f"static shapes: {sizes}; inputs are padded and truncated to them"


def _aoti(args: Mapping[str, Any]) -> str:
    where = f"{args.get('device')}, {args.get('system')} {args.get('machine')} {args.get('vectors')}"
    return f"compiled for {where} by torch {args.get('torch')}"


def _temperature(args: Mapping[str, Any]) -> str:
    return (
        f"calibrated: logits divided by a temperature of {args['temperature']:.4g}, fitted on "
        f"{wording.plural(args['samples'], 'val sample')}"
    )


def _onnx_versions(args: Mapping[str, Any]) -> str:
    runtime = f", for {args['runtime']}" if args.get("runtime") else ""
    return f"written as ONNX opset {args.get('opset')}, IR version {args.get('ir_version')}{runtime}"


def _lora(args: Mapping[str, Any]) -> str:
    return (
        f"LoRA of rank {args.get('rank')}, alpha {args.get('alpha', 0):g}, on "
        f"{wording.plural(len(args.get('layers', ())), 'layer')}"
    )


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "channels": _channels,
    "mask": _mask,
    "quantize": _quantize,
    "groups": _groups,
    "static": _static,
    "aoti": _aoti,
    "sparse": lambda args: "zeros are not stored (sparse)",
    "half": lambda args: f"weights in {args.get('dtype', 'float16')}",
    "lora": _lora,
    "merged-lora": lambda args: f"LoRA of rank {args.get('rank')}, merged into the weights",
    "fold-batchnorm": lambda args: (
        f"{wording.plural(len(args.get('pairs', ())), 'batch norm')} folded into the layers before"
    ),
    "fake-quant": lambda args: (
        f"fake quantization of {wording.plural(len(args.get('layers', ())), 'layer')} (QAT)"
    ),
    "ensemble": lambda args: (
        f"the mean of {wording.plural(len(args.get('members', ())), 'model')} of this architecture"
    ),
    "temperature": _temperature,
    "torchscript": lambda args: "traced" if args.get("by") == "trace" else "compiled from its code",
    "probabilities": lambda args: "readable outputs: probabilities, or the data's own units",
    "embed-preprocessing": lambda args: "takes raw inputs: the preprocessing is in the file",
    "simplify": lambda args: (
        f"simplified: {args.get('nodes_before')} to {args.get('nodes_after')} nodes"
    ),
    "onnx-versions": _onnx_versions,
    "adopted": lambda args: f"a copy of {args.get('source')}, written by {args.get('producer')}",
    "exported": lambda args: f"exported from {args.get('source')}",
    "one branch": lambda args: f"ONE BRANCH ONLY of {'; '.join(map(str, args.get('lines', ())))}",
    "not verified on data": lambda args: f"NOT VERIFIED ON DATA: {args.get('reason')}",
}


def _share(value: float) -> str:
    return f"{value:.3g}" if value < 0.01 else f"{value:.0%}"


def _arguments(args: Mapping[str, Any]) -> str:
    return wording.shorten(
        ", ".join(f"{name}={_value(value)}" for name, value in args.items()), _MAX_CHARACTERS
    )


def _value(value: Any) -> str:
    """Format a value; long lists and mappings by their number of entries."""
    many = isinstance(value, (list, tuple, dict)) and len(value) > 4
    return f"({wording.plural(len(value), 'entry')})" if many else str(value)

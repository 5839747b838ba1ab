"""What a method of quantization is, and how it registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from dlcli.compress.quantize.onnx_graph import Family, OnnxLayer
from dlcli.errors import UsageError
from dlcli.registry import Registry

Backend = Literal["onnxruntime", "torch"]
BACKENDS: tuple[Backend, ...] = ("onnxruntime", "torch")  # the default first

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
NO_INT8_IN_TORCH = "torch's int8 modules are deprecated and no faster than float on a CPU"


@dataclass(frozen=True)
class QuantizeMethod:
    """A method of quantization on one backend; see `register_quantize_method`."""

    name: str
    backend: Backend
    function: Callable[..., Any]
    layers: Callable[..., list[OnnxLayer]] | None
    calibrate: Callable[..., Any] | None
    trains_for: str | None
    tag: str
    sensitive_in_float: bool
    matmul_only: bool
    auto_order: int | None
    auto_except: tuple[Family, ...]
    why_only: str

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions whose keyword-only parameters are the settings of the method."""
        return tuple(f for f in (self.function, self.calibrate, self.layers) if f is not None)

    @property
    def trains(self) -> bool:
        """Whether the model is fine-tuned with the quantization simulated, in a run of its own."""
        return self.trains_for is not None

    @property
    def calibrates(self) -> bool:
        """Whether ranges of activations are computed on training samples."""
        return self.trains or self.calibrate is not None


# By "NAME/BACKEND": a method has a function for each backend that runs it.
QUANTIZE_METHODS: Registry[QuantizeMethod] = Registry("quantization method", "dlcli.compress.quantize")


def register_quantize_method(
    name: str,
    backend: Backend,
    *,
    layers: Callable[..., list[OnnxLayer]] | None = None,
    calibrate: Callable[..., Any] | None = None,
    trains_for: str | None = None,
    tag: str = "",
    sensitive_in_float: bool = False,
    matmul_only: bool = False,
    auto_order: int | None = None,
    auto_except: tuple[Family, ...] = (),
    why_only: str = "",
) -> Callable[[FunctionT], FunctionT]:
    """Decorator: make a function what ``quantize --method NAME`` means on a backend.

    For "onnxruntime" it takes a `FloatGraph`, the names of the layers to quantize and, with
    ``calibrate``, the ranges, and returns an ONNX model. For "torch" it takes the names of the tensors
    that stay in float and returns the record of an encoding (`dlcli.formats.encodings`), in which the
    tensors are stored. Keyword-only parameters are settings: one with the name of a field of
    `dlcli.config.QuantizeConfig` gets its value; any other is set by ``--set
    quantize.args.SETTING=value``. ``name`` must be a string literal.

    Args:
        layers: returns the layers of a graph that the method makes smaller or faster (default: all).
            Raises: DlcliError where it does not suit the model.
        calibrate: returns ranges of activations from a graph and batches of calibration data.
        trains_for: the method for whose file a model is trained: this one is quantization-aware
            training. Its function takes a module in eval mode, example inputs, the names of the layers
            to quantize and batches of calibration data, lets the module simulate the quantization, in
            place, and returns the new records of structures (`dlcli.zoo.structures`).
        tag: of file names, in which "{bits}" is the setting (default: the name).
        sensitive_in_float: the most sensitive layers may stay in float to keep a bound.
        matmul_only: ONNX Runtime supports matrix products and embeddings only; the default for a model
            with most weights elsewhere is the other backend.
        auto_order: place in the order in which ``--method auto`` tries methods (default: never).
        auto_except: families of models that ``--method auto`` does not try it for.
        why_only: why no other backend runs it, for the message.
    """

    def add(function: FunctionT) -> FunctionT:
        entry = QuantizeMethod(
            name,
            backend,
            function,
            layers,
            calibrate,
            trains_for,
            tag or name,
            sensitive_in_float,
            matmul_only,
            auto_order,
            auto_except,
            why_only,
        )
        QUANTIZE_METHODS.register(f"{name}/{backend}")(entry)
        return function

    return add


def method_of(name: str, backend: Backend) -> QuantizeMethod:
    """Return a method on a backend. Raises: UsageError for none."""
    return QUANTIZE_METHODS.get(f"{name}/{backend}")


def backends_of(name: str, requested: Backend | None = None) -> tuple[Backend, ...]:
    """Return the backends that run a method, the default first, limited to the requested one.

    Raises: UsageError where that one does not run it.
    """
    entries = [QUANTIZE_METHODS.find(f"{name}/{backend}") for backend in BACKENDS]
    able = tuple(entry.backend for entry in entries if entry is not None)
    if requested is None or requested in able:
        return able if requested is None else (requested,)
    reason = next((f": {e.why_only}" for e in entries if e is not None and e.why_only), "")
    others = [entry.name for _, entry in QUANTIZE_METHODS.entries() if entry.backend == requested]
    raise UsageError(
        f"--method {name} --backend {requested} does not exist{reason}",
        hint=f"--backend {able[0]}; for {requested} there is {', '.join(others)}",
    )


def in_auto_order() -> list[QuantizeMethod]:
    """Return the methods that ``--method auto`` may try, the first first."""
    entries = [e for _, e in QUANTIZE_METHODS.entries() if e.auto_order is not None]
    return sorted(entries, key=lambda entry: entry.auto_order or 0)

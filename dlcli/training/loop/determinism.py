"""Random number generators, and algorithms that give the same bits in every run."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dlcli.user_data.chance import seed_host_generators

RngState = tuple[dict[str, torch.Tensor], dict[str, Any]]  # of one process: tensors and plain values


def make_deterministic(enabled: bool, device: torch.device) -> None:
    """Use deterministic algorithms only; operations that have none then raise RuntimeError."""
    torch.use_deterministic_algorithms(enabled)
    if enabled and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.backends.cudnn.benchmark = False


def derive_seed(*parts: int) -> int:
    """A seed that differs for each combination of ``parts``: run seed, rank, step."""
    return int(np.random.default_rng(parts).integers(2**63))


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the generators of Python, NumPy and torch, the latter on the CPU and the device."""
    seed_host_generators(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def capture_rng() -> RngState:
    """The state of every generator of this process that a layer or a library may draw from."""
    tensors = {"torch": torch.get_rng_state()}
    # Reading the state of another device's generator would initialise that device.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        tensors[f"cuda/{torch.cuda.current_device()}"] = torch.cuda.get_rng_state()
    if torch.xpu.is_initialized():  # type: ignore[no-untyped-call]
        tensors["xpu"] = torch.xpu.get_rng_state()
    if torch.backends.mps.is_available():
        tensors["mps"] = torch.mps.get_rng_state()
    version, words, gauss = random.getstate()
    legacy: dict[str, Any] = np.random.get_state(legacy=False)
    return tensors, {
        "python": [version, list(words), gauss],
        "numpy": {
            "key": legacy["state"]["key"].tolist(),
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
    }


def restore_rng(tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
    """Set every generator of this process to a state of `capture_rng`."""
    torch.set_rng_state(tensors["torch"])
    saved_on_cuda = [key for key in sorted(tensors) if key.startswith("cuda/")]
    if saved_on_cuda and torch.cuda.is_available():
        current = f"cuda/{torch.cuda.current_device()}"
        torch.cuda.set_rng_state(tensors[current if current in saved_on_cuda else saved_on_cuda[0]])
    if "xpu" in tensors and torch.xpu.is_available():
        torch.xpu.set_rng_state(tensors["xpu"])
    if "mps" in tensors and torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["mps"])
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
    mt = values["numpy"]
    np.random.set_state(
        ("MT19937", np.array(mt["key"], dtype=np.uint32), mt["pos"], mt["has_gauss"], mt["gauss"])
    )


@contextmanager
def preserved_rng(device: torch.device) -> Iterator[None]:
    """Context that restores the generators of Python, NumPy and torch at its end."""
    python, legacy = random.getstate(), np.random.get_state()
    on_device = device.type != "cpu"
    try:
        with torch.random.fork_rng(
            devices=[device.index or 0] if on_device else [],
            device_type=device.type if on_device else "cuda",
        ):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)

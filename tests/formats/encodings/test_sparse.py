"""Sparse storage: bit for bit what went in, and small."""

from __future__ import annotations

import pytest
import torch

from dlcli.card import TransformRecord
from dlcli.formats.encodings.base import ENCODINGS, Encoding
from dlcli.formats.encodings.base import decode as decode_all
from dlcli.formats.encodings.base import encode as encode_all
from dlcli.formats.encodings.sparse import BITS, GAPS, SHAPE, VALUES, decode, encode

DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.int64,
    torch.bool,
)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def stored_bytes(stored: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in stored.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.4, 1.0])
def test_every_tensor_comes_back_bit_for_bit(dtype: torch.dtype, share: float) -> None:
    torch.manual_seed(0)
    for shape in ((), (0,), (3, 0), (1,), (1000,), (257,), (20, 11, 3, 3)):
        tensor = (5 * torch.randn(shape) * (torch.rand(shape) < share)).to(dtype)
        assert same(decode(encode({"w": tensor}, {}), {})["w"], tensor)


def test_negative_zeros_nan_payloads_and_infinities_survive() -> None:
    tensor = torch.zeros(4096)
    words = tensor.view(torch.int32)
    words[7], words[600], words[601], words[4095] = -(2**31), 0x7FC12345, 0x7F800001, 1
    tensor[9] = float("-inf")
    stored = encode({"w": tensor}, {})
    assert "w:values" in stored
    assert same(decode(stored, {})["w"], tensor)


def test_layouts_in_memory_do_not_matter() -> None:
    tensor = torch.zeros(16, 8, 3, 3).to(memory_format=torch.channels_last)
    tensor[3, 2, 1, 0] = 2.5
    assert same(decode(encode({"w": tensor}, {}), {})["w"], tensor)


@pytest.mark.parametrize(("share", "suffix"), [(0.5, BITS), (0.1, GAPS), (0.001, GAPS)])
def test_the_smaller_of_bits_and_gaps_is_taken(share: float, suffix: str) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(20_000).masked_fill(torch.rand(20_000) >= share, 0.0)
    stored = encode({"w": tensor}, {})
    assert set(stored) == {"w" + VALUES, "w" + suffix, "w" + SHAPE}
    count = int(tensor.count_nonzero())
    best = min(20_000 // 8 + 4 * count, 5 * count + 5 * 20_000 // 256)
    assert stored_bytes(stored) <= best + 8


def test_what_has_no_zeros_and_what_is_tiny_is_stored_as_it_is() -> None:
    tensors = {"full": torch.ones(1000), "tiny": torch.zeros(8), "number": torch.tensor(0)}
    stored = encode(tensors, {})
    assert stored.keys() == tensors.keys()


def test_ninety_percent_of_zeros_is_an_eighth_of_the_size() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(500_000)
    tensor[torch.randperm(500_000)[:450_000]] = 0
    assert 8 * stored_bytes(encode({"w": tensor}, {})) < 1.001 * 4 * 500_000


def test_parts_that_do_not_fit_are_refused() -> None:
    tensor = torch.zeros(1000)
    tensor[10], tensor[999] = 1.0, 2.0
    whole = encode({"w": tensor}, {})
    for broken in (
        {k: v for k, v in whole.items() if not k.endswith(SHAPE)},
        {k: v for k, v in whole.items() if not k.endswith(GAPS)},
        whole | {"w:shape": torch.tensor([900])},
        whole | {"w:shape": torch.tensor([-1000])},
        whole | {"w:values": whole["w:values"][:1]},
        whole | {"w:bits": torch.zeros(125, dtype=torch.uint8)},
        whole | {"w:shape": torch.tensor(1000)},
        whole | {"w:gaps": whole["w:gaps"].float()},
        whole | {"w:values": torch.zeros(2, dtype=torch.complex128)},
    ):
        with pytest.raises(ValueError, match="w is stored sparse"):
            decode(broken, {})
    with pytest.raises(ValueError, match="cannot be stored sparse"):
        encode({"w:values": tensor}, {})


def test_zeros_are_looked_for_in_what_other_encodings_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(tensors: dict[str, torch.Tensor], args: object) -> dict[str, torch.Tensor]:
        return {name: tensor.double() for name, tensor in tensors.items()}

    def single(tensors: dict[str, torch.Tensor], args: object) -> dict[str, torch.Tensor]:
        return {name: tensor.float() for name, tensor in tensors.items()}

    ENCODINGS.names()  # discovers, before another one is put in
    monkeypatch.setitem(ENCODINGS._entries, "other", Encoding(double, single))
    records = [TransformRecord(kind="sparse"), TransformRecord(kind="other")]
    tensor = torch.zeros(5000)
    tensor[4] = 1.5
    stored = encode_all({"w": tensor}, records)
    assert stored["w:values"].dtype == torch.float64
    assert same(decode_all(stored, records)["w"], tensor)

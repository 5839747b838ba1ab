"""Weights in groups of integers and in 16 bits: how far they move, what they take, what is refused."""

from __future__ import annotations

import pytest
import torch
from encoded_sizes import encoded_bytes

from dlcli.formats.encodings import groups, half

SHAPES = [(7, 13), (1, 129), (33, 2), (5, 3, 3, 3), (64, 64), (3, 1, 67), (129, 1)]


def weights(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("size", [8, 40, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_number_moves_by_more_than_half_a_scale(shape: tuple[int, ...], size: int, bits: int) -> None:
    weight = weights(shape)
    args = {"bits": bits, "group_size": size}
    stored = groups.encode({"w": weight}, args)
    back = groups.decode(stored, args)
    assert set(back) == {"w"}
    assert back["w"].shape == weight.shape
    assert back["w"].dtype == torch.float32
    rows = (back["w"] - weight).abs().reshape(shape[0], -1)
    scales = stored["w:scales"].float()
    for group in range(scales.shape[1]):
        moved = rows[:, group * size : (group + 1) * size]
        assert (moved <= scales[:, group : group + 1] * 0.5001).all()
    # The finest grid that holds the largest number, but for the rounding of the scale.
    most = 2 ** (bits - 1) - 1
    largest = weight.reshape(shape[0], -1)[:, :size].abs().amax(1)
    assert torch.allclose(scales[:, 0], largest / most, rtol=0.01)
    assert (scales[:, 0] * most >= largest).all()
    size_stored = sum(t.numel() * t.element_size() for t in stored.values())
    assert size_stored == encoded_bytes(shape, bits, size)


@pytest.mark.parametrize("bits", [8, 4])
def test_what_lies_on_the_grid_comes_back_as_it_was(bits: int) -> None:
    most = 2 ** (bits - 1) - 1
    codes = torch.arange(-most, most + 1).repeat(9, 1)
    weight = codes.float() * 0.25
    args = {"bits": bits, "group_size": 1024}
    assert torch.equal(groups.decode(groups.encode({"w": weight}, args), args)["w"], weight)


def test_zeros_stay_zeros_and_what_is_no_weight_stays_as_it_is() -> None:
    weight = weights((16, 32))
    weight[3], weight[:, ::2] = 0, 0
    kept = {
        "bias": weights((64,)),
        "steps": torch.tensor([[1, 2]] * 64),
        "bad": torch.full((16, 16), float("inf")),
        "small": weights((3, 3)),
        "named": weights((16, 16)),
    }
    args = {"bits": 4, "group_size": 16, "skip": ["named"]}
    back = groups.decode(groups.encode({"w": weight, **kept}, args), args)
    assert (back["w"][weight == 0] == 0).all()
    for name, tensor in kept.items():
        assert torch.equal(back[name], tensor)


def test_parts_that_do_not_fit_are_refused() -> None:
    args = {"bits": 4, "group_size": 16}
    stored = groups.encode({"w": weights((9, 33))}, args)
    for name, wrong in {
        "w:codes": stored["w:codes"][:-1],
        "w:scales": stored["w:scales"][:, :-1],
        "w:size": torch.tensor([9, 35]),
    }.items():
        with pytest.raises(ValueError, match="w is stored in groups"):
            groups.decode({**stored, name: wrong}, args)
    with pytest.raises(ValueError, match="a part of it is missing"):
        groups.decode({"w:codes": stored["w:codes"]}, args)
    with pytest.raises(ValueError, match="4 and 8"):
        groups.encode({"w": weights((9, 33))}, {"bits": 5, "group_size": 16})


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_16_bits_are_half_the_bytes_and_float32_again(dtype: str, error: float) -> None:
    tensors = {"w": weights((31, 7)), "b": weights((31,)), "left": weights((4, 4))}
    args = {"dtype": dtype, "skip": ["left"]}
    stored = half.encode(tensors, args)
    assert stored["w"].element_size() == 2
    back = half.decode(stored, args)
    assert {t.dtype for t in back.values()} == {torch.float32}
    assert ((back["w"] - tensors["w"]).abs() <= tensors["w"].abs() * error).all()
    assert torch.equal(back["b"], tensors["b"])
    assert torch.equal(back["left"], tensors["left"])


def test_what_16_bits_cannot_hold_stays_as_it_is() -> None:
    large = torch.full((2, 2), 70_000.0)
    assert torch.equal(half.encode({"w": large}, {"dtype": "float16"})["w"], large)
    with pytest.raises(ValueError, match="none of float16, bfloat16"):
        half.encode({"w": large}, {"dtype": "float8"})

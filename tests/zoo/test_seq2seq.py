"""The encoder-decoder: masks, first loss, learning to reverse, export."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_checks import check_learns, check_onnx, make, pairs, tensors
from torch import nn
from torch.nn import functional

from dlcli.data.prepare import random_inputs
from dlcli.evaluation.decoding import decode, next_logits
from dlcli.task import END, PAD, START
from dlcli.zoo.base import find_model

SMALL = {"dim": 32, "heads": 4, "ff": 64, "layers": 1}
TASK = pairs()
ARGS: list[dict[str, Any]] = [
    {},
    {"tie": False, "norm_first": False, "positions": "learned"},
    {"positions": "rotary", "norm": "group", "decoder_layers": 2},
    {"norm": "none", "activation": "relu"},
]
IDS = ["default", "untied-post-learned", "rotary-group", "none"]


def batch(count: int = 4, length: int = 9) -> tuple[torch.Tensor, ...]:
    return tensors(TASK, random_inputs(TASK, count, length=length))


@pytest.mark.parametrize("args", ARGS, ids=IDS)
def test_it_learns_a_batch_with_every_parameter(args: dict[str, Any]) -> None:
    check_learns(make("seq2seq", TASK, **SMALL, dropout=0.0, **args), TASK, steps=40)


@pytest.mark.parametrize("args", ARGS, ids=IDS)
def test_later_tokens_of_a_prefix_do_not_reach_earlier_outputs(args: dict[str, Any]) -> None:
    module = make("seq2seq", TASK, **SMALL, **args)
    source, lengths, _ = batch()
    prefix = torch.randint(4, 15, (4, 8))
    changed = prefix.clone()
    changed[:, 5:] = torch.randint(4, 15, (4, 3)).add(1).remainder(11).add(4)
    assert not torch.equal(changed, prefix)
    with torch.no_grad():
        before, after = module(source, lengths, prefix), module(source, lengths, changed)
        short = module(source, lengths, prefix[:, :5])
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(short, before[:, :5], rtol=1e-4, atol=1e-5)
    assert (after[:, 5:] - before[:, 5:]).abs().max() > 1e-3


@pytest.mark.parametrize("args", ARGS, ids=IDS)
def test_padding_changes_no_output(args: dict[str, Any]) -> None:
    module = make("seq2seq", TASK, **SMALL, **args)
    source, lengths, prefix = batch()
    more = torch.cat([source, torch.full((4, 6), 7)], dim=1)  # whatever lies behind the lengths
    longer = torch.cat([prefix, torch.full((4, 3), PAD)], dim=1)
    with torch.no_grad():
        out, padded = module(source, lengths, prefix), module(more, lengths, longer)
    torch.testing.assert_close(padded[:, : prefix.shape[1]], out, rtol=1e-4, atol=1e-5)


def test_every_source_token_reaches_the_output() -> None:
    module = make("seq2seq", TASK, **SMALL)
    source = torch.tensor([[5, 6, 7, 8]])
    lengths, prefix = torch.tensor([4]), torch.tensor([[START]])
    for i in range(4):
        other = source.clone()
        other[0, i] = 12
        change = module(other, lengths, prefix) - module(source, lengths, prefix)
        assert change.abs().max() > 1e-4


@pytest.mark.parametrize("tie", [True, False])
def test_the_first_loss_is_near_that_of_guessing(tie: bool) -> None:
    task = pairs(200)
    assert task.output_shape[1] == 195
    module = make("seq2seq", task, tie=tie)
    source, lengths, prefix = tensors(task, random_inputs(task, 8, length=20))
    logits = module(source, lengths, prefix).flatten(0, 1)
    loss = functional.cross_entropy(logits, torch.arange(len(logits)) % 195)
    assert float(loss.detach()) == pytest.approx(math.log(195), abs=0.25)


def test_tied_weights_are_stored_once() -> None:
    tied, untied = (make("seq2seq", TASK, **SMALL, tie=tie) for tie in (True, False))
    assert "head.weight" not in tied.state_dict()
    assert untied.state_dict()["head.weight"].shape == tied.state_dict()["target.weight"].shape
    path = find_model("seq2seq", "pairs").head(tied)
    assert any(name.startswith(f"{path}.") for name in tied.state_dict())


def reversal(rng: np.random.Generator, count: int, length: int = 6) -> tuple[np.ndarray, ...]:
    """Sources of 3 to ``length`` letters, their lengths, prefixes, and targets: the letters reversed."""
    lengths = rng.integers(3, length + 1, count)
    source = np.zeros((count, length), dtype=np.int64)
    prefix, target = (np.zeros((count, length + 1), dtype=np.int64) for _ in range(2))
    prefix[:, 0] = START
    for i, n in enumerate(lengths):
        letters = rng.integers(4, 15, n)
        source[i, :n] = letters
        prefix[i, 1 : n + 1] = target[i, :n] = letters[::-1]
        target[i, n] = END
    return source, lengths, prefix, target


def train_reversal(module: nn.Module, steps: int) -> None:
    module.train()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(steps):
        source, lengths, prefix, target = map(torch.from_numpy, reversal(rng, 64))
        logits = module(source, lengths, prefix)
        loss = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    module.eval()


def test_it_learns_to_reverse_and_both_searches_write_it() -> None:
    module = make("seq2seq", pairs(20), **SMALL, dropout=0.0)
    train_reversal(module, 400)

    @torch.inference_mode()
    def answer(*inputs: np.ndarray) -> np.ndarray:
        out: np.ndarray = module(*map(torch.from_numpy, inputs)).numpy()
        return out

    source, lengths, _, target = reversal(np.random.default_rng(1), 200)
    expected = [tuple(t[:n].tolist()) for t, n in zip(target, lengths, strict=True)]
    for beam in (1, 3):
        found = decode(next_logits(answer), source, lengths, max_length=10, beam=beam)
        right = sum(w.ended and w.ids == e for w, e in zip(found, expected, strict=True))
        assert right / 200 > 0.95


@pytest.mark.parametrize(
    "args",
    [ARGS[0], *(pytest.param(args, marks=pytest.mark.slow) for args in ARGS[1:])],
    ids=IDS,
)
def test_onnx_agrees_at_other_shapes(args: dict[str, Any], tmp_path: Path) -> None:
    check_onnx("seq2seq", TASK, tmp_path, **SMALL, **args)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21, 22, 23])
def test_onnx_agrees_at_other_opsets(opset: int, tmp_path: Path) -> None:
    check_onnx("seq2seq", TASK, tmp_path, opset=opset, **SMALL)

"""Folding a batch norm changes no answer, and is replayed as it was done."""

from __future__ import annotations

import pytest
import torch
from int8_models import MODELS, batch, make
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlcli.card import ModelSpec
from dlcli.compress.quantize.fold_batchnorm import fold_batch_norms
from dlcli.compress.quantize.forward_trace import trace_forward
from dlcli.zoo.base import build_model


@pytest.mark.parametrize("name", [name for name in MODELS if name != "text transformer"])
def test_outputs_stay_and_every_norm_is_gone(name: str) -> None:
    task, spec, module = make(name)
    inputs = batch(task, 5, seed=1)
    with torch.no_grad():
        before = module(*inputs)
    record = fold_batch_norms(module, batch(task, 2))
    assert record is not None
    assert not any(isinstance(part, _BatchNorm) for part in module.modules())
    with torch.no_grad():
        after = module(*inputs)
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    again = build_model(spec, task, [record]).eval()
    again.load_state_dict(module.state_dict())
    with torch.no_grad():
        assert torch.equal(again(*inputs), after)


class Branches(nn.Module):
    """Norms behind a layer that something else reads too, and one that runs twice; and one more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = self.norm1(y) + y
        y = self.norm2(self.twice(self.twice(y)))
        out: torch.Tensor = self.norm3(self.last(y))
        return out


def test_what_others_read_is_not_folded() -> None:
    record = fold_batch_norms(Branches().eval(), (torch.zeros(2, 4, 3, 3),))
    assert record is not None
    assert record.args == {"pairs": [["last", "norm3"]]}


def test_a_model_without_norms_has_nothing_to_fold() -> None:
    assert fold_batch_norms(nn.Sequential(nn.Linear(3, 3)), (torch.zeros(2, 3),)) is None


def test_a_record_of_another_model_is_refused() -> None:
    task, _, module = make("cnn")
    record = fold_batch_norms(module, batch(task, 2))
    assert record is not None
    with pytest.raises(ValueError, match="no features"):
        build_model(ModelSpec(name="mlp"), task, [record])


def test_tracing_leaves_a_module_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(4, 2))
    module.train()
    module[2].eval()
    trace = trace_forward(module, (torch.zeros(2, 3),))
    assert [part.training for part in module] == [True, True, False, True]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert [op.name for op in trace.ops if op.path] == ["linear", "relu", "linear"]
    second = next(call for call in trace.calls if call.path == "3")
    producing = trace.producing_call(second.input)
    assert producing is not None
    assert producing.path == "1"  # dropout returns its input

"""Batch norms over several processes are batch norms over one that has all the samples."""

from __future__ import annotations

import multiprocessing
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from dlcli.errors import UsageError
from dlcli.training.activation_checkpointing import checkpoint_segments
from dlcli.training.sync_batchnorm import Synchronised, synchronise_batch_norms
from dlcli.zoo.layers import StepBatchNorm

CPU = torch.device("cpu")
# Samples of each process, by the number of processes.
SHARES: dict[int, list[tuple[int, ...]]] = {
    3: [(2, 0, 5)],
    2: [(3, 3), (1, 4), (0, 2), (1, 1)],
}


class Masked(nn.Module):
    """Padded steps (B, 3, T) normalised; the mask comes from the numbers themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = StepBatchNorm(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(x, x[:, :1] > 0.5)
        return out


def kinds() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Layers, and the shape of a sample."""
    torch.manual_seed(0)
    made: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "1d": (nn.BatchNorm1d(3, momentum=0.3), (3,)),
        "1d-steps": (nn.BatchNorm1d(3, eps=0.1), (3, 5)),
        "2d": (nn.BatchNorm2d(3), (3, 4, 2)),
        "3d-mean": (nn.BatchNorm3d(3, momentum=None), (3, 2, 2, 2)),
        "plain": (nn.BatchNorm2d(3, affine=False), (3, 4, 2)),
        "untracked": (nn.BatchNorm2d(3, track_running_stats=False), (3, 4, 2)),
        "masked": (Masked(), (3, 5)),
        "net": (
            nn.Sequential(
                nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Tanh()),
                nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.Tanh()),
            ),
            (3, 3, 3),
        ),
    }
    for module, _ in made.values():
        for parameter in module.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
    return made


def samples(
    shape: tuple[int, ...], count: int, offset: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, and weights of the outputs in the loss."""
    rng = torch.Generator().manual_seed(count)
    return torch.randn(count, *shape, generator=rng) + offset, torch.randn(count, generator=rng)


def run(module: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and input gradient of one forward and backward pass in train mode."""
    x = x.clone().requires_grad_()
    out = module.train()(x)
    shape = (-1, *(1,) * (out.ndim - 1))
    (out.sin() * weight.view(shape)).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


def compare(name: str, rank: int, shares: tuple[int, ...], *, checkpoints: bool = False) -> None:
    """One process has everything, the group has it in shares."""
    (whole, shape), (divided, _) = kinds()[name], kinds()[name]
    tensors = dict(divided.named_parameters()) | dict(divided.named_buffers())
    divided = synchronise_batch_norms(divided, CPU)
    same = dict(divided.named_parameters()) | dict(divided.named_buffers())
    assert tensors.keys() == same.keys()
    assert all(same[key] is value for key, value in tensors.items())
    if checkpoints:
        checkpoint_segments(divided, "auto")
    start = sum(shares[:rank])
    own = slice(start, start + shares[rank])
    for offset in (1.0, 2.0):
        x, weight = samples(shape, sum(shares), offset)
        out, grad = run(whole, x, weight)
        own_out, own_grad = run(divided, x[own], weight[own])
        close(own_out, out[own])
        close(own_grad, grad[own])
    for p, q in zip(whole.parameters(), divided.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        total = q.grad.clone()
        distributed.all_reduce(total)
        close(total, p.grad)
    for b, c in zip(whole.buffers(), divided.buffers(), strict=True):
        close(c, b)
    close(divided.eval()(x), whole.eval()(x))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def far_from_zero(rank: int) -> None:
    """Sums of squares would be off by a tenth where the mean is a thousand deviations."""
    x, weight = samples((3, 4, 2), 6, offset=1000.0)
    norm = synchronise_batch_norms(nn.BatchNorm2d(3), CPU)
    own, _ = run(norm, x[2 * rank : 2 * rank + 2], weight[:2])
    exact, _ = run(nn.BatchNorm2d(3).double(), x.double(), weight.double())
    torch.testing.assert_close(own.double(), exact[2 * rank : 2 * rank + 2], atol=1e-3, rtol=0)


def one_value(rank: int) -> None:
    """One value a channel in all processes together is no variance."""
    norm = synchronise_batch_norms(nn.BatchNorm1d(3), CPU)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.zeros(1 if rank == 0 else 0, 3))


def work(rank: int, folder: str) -> None:
    """A group of three, then one of the first two of them."""
    torch.set_num_threads(1)
    try:
        for size, every in SHARES.items():
            if rank >= size:
                return
            distributed.init_process_group(
                "gloo", init_method=f"file://{folder}/meet-{size}", rank=rank, world_size=size
            )
            for shares in every:
                for name in kinds():
                    compare(name, rank, shares)
                compare("net", rank, shares, checkpoints=True)
            if size == 3:
                far_from_zero(rank)
            one_value(rank)
            distributed.destroy_process_group()
    except BaseException:
        Path(folder, f"failed-{rank}").write_text(traceback.format_exc())
        raise


def test_processes_together_are_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(i, str(tmp_path))) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        if process.is_alive():
            process.kill()
            process.join()
    failures = [path.read_text() for path in sorted(tmp_path.glob("failed-*"))]
    assert not failures, "\n".join(failures)
    assert [process.exitcode for process in processes] == [0] * 3


@pytest.mark.parametrize("name", list(kinds()))
def test_one_process_alone_has_the_layer_of_before(name: str) -> None:
    (plain, shape), (ours, _) = kinds()[name], kinds()[name]
    ours = synchronise_batch_norms(ours, CPU)
    assert [type(p).__name__ for p in ours.modules()] != [type(p).__name__ for p in plain.modules()]
    x, weight = samples(shape, 6)
    for a, b in zip(run(plain, x, weight), run(ours, x, weight), strict=True):
        assert torch.equal(a, b)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])
    assert torch.equal(plain.eval()(x), ours.eval()(x))


def shared() -> tuple[nn.BatchNorm2d, nn.Sequential]:
    norm = nn.BatchNorm2d(3)
    return norm, nn.Sequential(norm, Masked(), norm)


def test_converting_twice_is_converting_once_and_shared_layers_stay_shared() -> None:
    norm, module = shared()
    for _ in range(2):
        assert synchronise_batch_norms(module, CPU) is module
        assert type(norm).__mro__[1:3] == (Synchronised, nn.BatchNorm2d)
        assert module[0] is module[2] is norm


def test_on_cuda_plain_layers_are_torchs_own() -> None:
    norm, module = shared()
    weight = norm.weight
    synchronise_batch_norms(module, torch.device("cuda"))
    assert type(module[0]) is nn.SyncBatchNorm
    assert module[0].weight is weight
    assert module[0] is module[2]
    assert isinstance(module[1].norm, StepBatchNorm)  # torch would lose the mask
    assert isinstance(module[1].norm, Synchronised)


def test_a_batch_norm_with_a_formula_of_its_own_is_refused() -> None:
    class Other(nn.BatchNorm2d):
        def forward(self, x: Any) -> Any:
            return super().forward(x) + 1

    with pytest.raises(UsageError, match="Other") as caught:
        synchronise_batch_norms(nn.Sequential(Other(3)), CPU)
    assert "--no-sync-bn" in (caught.value.hint or "")


def test_timms_layers_keep_their_activation() -> None:
    layers = pytest.importorskip("timm.layers")
    norm = layers.BatchNormAct2d(3)
    x = torch.randn(4, 3, 2, 2)
    before = norm.eval()(x.clone())
    ours = synchronise_batch_norms(norm, CPU)
    assert isinstance(ours, Synchronised)
    assert torch.equal(ours(x.clone()), before)
    assert float(before.detach().min()) == 0

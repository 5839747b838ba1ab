"""Losses of the user's own: what they get, what they may return, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.nn import functional as F

from dlcli.cli import main
from dlcli.config import LossConfig, TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.events import ignore
from dlcli.runs.folder import RunFolder
from dlcli.settings import merge, validate
from dlcli.task import PAD, TaskSpec
from dlcli.training.autotune.resolve import resolve_auto
from dlcli.training.build_job import make_job
from dlcli.training.distributed.world import World
from dlcli.training.losses.make import check_loss, make_loss
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan
from dlcli.training.readers import make_readers

HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
B, K = 7, 3
WEIGHTS = torch.tensor([0.5, 1.0, 1.5])

Write = Callable[..., str]


pytestmark = pytest.mark.usefixtures("trusted")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of code and return the name of its ``loss``."""

    def write(code: str, name: str = "loss") -> str:
        path = tmp_path / "losses.py"
        path.write_text(HEAD + code)
        return f"{path}:{name}"

    return write


def sums(name: str | None, task: TaskSpec, data: tuple[Any, Any], **options: Any) -> tuple[float, float]:
    args = options.pop("args", {})
    total, count = make_loss(task, LossConfig(name=name, args=args), **options)(*data)
    return float(total.detach()), float(count)


def batch(task: TaskSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs, and targets as a reader gives them."""
    torch.manual_seed(0)
    if task.kind == "seq2seq":
        targets = torch.randint(1, task.num_outputs, (B, 5))
        targets[torch.arange(5) >= torch.arange(B)[:, None] % 5 + 1] = PAD
        return torch.randn(B, 5, task.num_outputs, requires_grad=True), targets
    shape = (B, task.horizon, 1) if task.horizon else (B, task.num_outputs)
    outputs = torch.randn(shape, requires_grad=True)
    if task.targets:
        return outputs, 3 + 2 * torch.randn(shape, dtype=torch.float64)
    if task.kind == "multilabel":
        return outputs, torch.randint(2, shape, dtype=torch.uint8)
    return outputs, torch.arange(B) % K


IMAGE, SERIES = tiny.image(), tiny.series()
TASKS = {
    "classification": tiny.make_task(IMAGE),
    "multilabel": tiny.make_task(IMAGE, "multilabel"),
    "regression": tiny.make_task(tiny.table(), "regression"),
    "forecast": tiny.make_task(SERIES, "forecast", targets=("u",)),
    "seq2seq": tiny.make_task(tiny.pairs()),
}
# What a user writes for each task: reduced, and one value per sample, label, number or token.
CODE = {
    "classification": ("F.cross_entropy(outputs, targets{})",),
    "multilabel": ("F.binary_cross_entropy_with_logits(outputs, targets{})",),
    "regression": ("F.mse_loss(outputs, targets{})",),
    "forecast": ("F.mse_loss(outputs, targets{})", "((outputs - targets) ** 2).mean((1, 2))"),
    "seq2seq": (
        "F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=0)",
        "F.cross_entropy(outputs.transpose(1, 2), targets, reduction='none')",
    ),
}


@pytest.mark.parametrize("kind", TASKS)
def test_a_tutorials_loss_is_the_built_in_one(kind: str, write: Write) -> None:
    task = TASKS[kind]
    data = batch(task)
    for number, expression in enumerate(CODE[kind]):
        for reduction in ("", ", reduction='none'") if "{}" in expression else ("",):
            name = write(
                f"def loss{number}(outputs, targets):\n"
                f"    assert outputs.dtype == torch.float32\n"
                f"    return {expression.format(reduction)}\n",
                f"loss{number}",
            )
            assert sums(name, task, data) == pytest.approx(sums(None, task, data), rel=1e-5)


def test_mixed_samples_give_probabilities(write: Write) -> None:
    name = write("def loss(outputs, targets):\n    return F.cross_entropy(outputs, targets)\n")
    outputs, targets = batch(TASKS["classification"])
    mixed = outputs, F.one_hot(targets, K).float() * 0.8 + 0.2 / K
    task = TASKS["classification"]
    assert sums(name, task, mixed) == pytest.approx(sums(None, task, mixed))


FOCAL = """
def loss(outputs, targets, gamma=2.0):
    log_p = F.log_softmax(outputs, dim=1).gather(1, targets[:, None])[:, 0]
    return -((1 - log_p.exp()) ** gamma) * log_p

class Loss(nn.Module):
    def __init__(self, gamma=2.0):
        super().__init__()
        self.register_buffer("gamma", torch.tensor(gamma))
    def forward(self, outputs, targets):
        return loss(outputs, targets, self.gamma).mean()

class Plain:
    def __init__(self, gamma=2.0):
        self.gamma = gamma
    def __call__(self, outputs, targets):
        return loss(outputs, targets, self.gamma)

instance = Loss(0.5)
"""


@pytest.mark.parametrize(
    ("name", "args", "gamma"),
    [
        ("loss", {}, 2.0),
        ("loss", {"gamma": 1}, 1.0),
        ("Loss", {"gamma": 0.5}, 0.5),
        ("Plain", {"gamma": 0.5}, 0.5),
        ("instance", {}, 0.5),
    ],
)
def test_functions_classes_and_objects(write: Write, name: str, args: Any, gamma: float) -> None:
    task = TASKS["classification"]
    data = batch(task)
    expected, count = make_loss(task, LossConfig(name="focal", focal_gamma=gamma))(*data)
    own = sums(write(FOCAL, name), task, data, args=args)
    assert own == pytest.approx((float(expected.detach()), float(count)), rel=1e-5)


WEIGHTED = """
def loss(outputs, targets, weight):
    return F.cross_entropy(outputs, targets, weight=weight, reduction="none")

class Loss(nn.CrossEntropyLoss):
    def __init__(self, weight=None):
        super().__init__(weight, reduction="none")
"""


@pytest.mark.parametrize("name", ["loss", "Loss"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_class_weights_reach_the_parameter_weight(write: Write, name: str, weights: Any) -> None:
    task = TASKS["classification"]
    data = batch(task)
    expected = sums(None, task, data, class_weights=weights)
    assert sums(write(WEIGHTED, name), task, data, class_weights=weights) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("code", "args", "message"),
    [
        ("def loss(outputs, targets): ...", {"gamma": 1}, "unknown setting 'loss.args.gamma'"),
        ("def loss(outputs, targets, gamma): ...", {}, "missing a required argument: 'gamma'"),
        ("def loss(outputs): ...", {}, "too many positional arguments"),
        ("class loss(nn.Module):\n    def __init__(self, a): ...", {}, "missing a required argument"),
        ("class loss:\n    pass", {}, "is a class whose objects cannot be called"),
        ("loss = nn.Bilinear(2, 2, 1)", {}, "has parameters of its own (weight, bias)"),
        (
            "x = 1\n1 / 0\ndef loss(): ...",
            {},
            "division by zero, in losses.py line 5",
        ),
        ("def lost(outputs, targets): ...", {}, "has no class or function 'loss'"),
        (
            "class loss:\n    def __init__(self):\n        1 / 0",
            {},
            "losses.py line 6: 1 / 0",
        ),
    ],
)
def test_what_cannot_be_called_is_refused(write: Write, code: str, args: Any, message: str) -> None:
    with pytest.raises(DlcliError) as caught:
        check_loss(TASKS["classification"], LossConfig(name=write(code), args=args))
    assert message in str(caught.value)


def test_settings_of_registered_losses_are_refused(write: Write) -> None:
    config = LossConfig(name=write(FOCAL), label_smoothing=0.1)
    with pytest.raises(UsageError, match="means nothing to") as caught:
        check_loss(TASKS["classification"], config)
    assert "loss.args.label_smoothing" in str(caught.value.hint)
    with pytest.raises(UsageError, match="has no parameter weight"):
        make_loss(TASKS["classification"], LossConfig(name=write(FOCAL)), class_weights=WEIGHTS)


def plan_of(loss: str, **fit: Any) -> Plan:
    """1,438 digits in batches of 500 samples."""
    settings = {
        "data": {"data": "digits"},
        "model": {"name": "linear"},
        "loss": {"name": loss},
        "fit": {"epochs": 1, "batch_size": 500, "device": "cpu", **fit},
    }
    return make_plan(lambda recipe: validate(TrainConfig, merge(recipe, settings)))


def notes(loss: str, processes: int = 1, **fit: Any) -> str:
    """What the plan of a run says, as the first of some processes."""
    plan, world = plan_of(loss, **fit), World(size=processes, local_size=processes)
    module, *_ = plan.build()
    folder, cpu = RunFolder(Path("none")), torch.device("cpu")
    readers = make_readers(plan, world)
    return " ".join(make_job(plan, folder, module, None, readers, cpu, ignore, world).notes)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("F.cross_entropy(outputs, targets).item()", "returned a float, not a tensor"),
        ("None", "returned a NoneType, not a tensor"),
        ("F.cross_entropy(outputs.detach(), targets)", "values without a gradient (float32 ())"),
        ("(outputs.argmax(1) == targets).sum()", "without a gradient (int64 ())"),
        ("outputs.sum(0)", "returned the shape (10,) for outputs of (500, 10)"),
        ("F.binary_cross_entropy_with_logits(outputs, targets)",
         "called with outputs float32 (500, 10) and targets int64 (500,)"),
        ("torch.log(outputs - outputs).mean()", "is -inf on the first batch, whose outputs are finite"),
        ("(outputs - outputs).pow(2).sum(1).sqrt()", "has a gradient that is not finite"),
        ("torch.zeros((), requires_grad=True)", "does not depend on the outputs"),
        ("outputs.no_such_method()", "AttributeError"),
    ],
)  # fmt: skip
def test_what_is_no_loss_is_refused_before_there_is_a_run(
    write: Write, expression: str, message: str
) -> None:
    name = write(f"def loss(outputs, targets):\n    return {expression}\n")
    with pytest.raises(DlcliError) as caught:
        resolve_auto(plan_of(name), ignore)
    assert message in str(caught.value)
    assert "losses.py:loss" in str(caught.value)


# Each compares the samples of a batch, or divides by a sum over them.
UNDIVIDED = {
    "contrastive": "F.cross_entropy(outputs @ outputs.T, targets[:, None].eq(targets).float())",
    "dice": "1 - 2 * (outputs.softmax(1) * F.one_hot(targets, 10)).sum() / (outputs ** 2).sum()",
    "weighted": "F.cross_entropy(outputs, targets, weight=torch.arange(10.0))",
    "sum": "F.cross_entropy(outputs, targets, reduction='sum')",
    "centred": "((outputs - outputs.mean(0)) ** 2).mean(1)",
}


@pytest.mark.parametrize("kind", UNDIVIDED)
def test_what_is_no_mean_over_samples_is_not_divided(write: Write, kind: str) -> None:
    name = write(f"def loss(outputs, targets):\n    return {UNDIVIDED[kind]}\n")
    assert "is not a mean over samples" in notes(name)
    assert "so batches are not divided" in notes(name)
    for settings in ({"grad_accum_steps": 2}, {"processes": 2}):
        with pytest.raises(DlcliError, match="cannot be divided into micro-batches or over devices"):
            notes(name, **settings)


def test_a_mean_over_samples_is_divided(write: Write) -> None:
    said = notes(write(FOCAL), processes=2, grad_accum_steps=2)
    assert said.startswith(
        "train loss is losses.py:loss; the loss of val and of eval stays cross entropy"
    )
    assert "divided" not in said


def test_a_loss_with_a_memory_is_refused(write: Write) -> None:
    code = """
class loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
    def forward(self, outputs, targets):
        self.seen += 1
        return F.cross_entropy(outputs, targets)
"""
    with pytest.raises(DlcliError, match="changes its buffer seen"):
        notes(write(code))


def test_a_batch_that_may_not_be_divided_is_not_halved_when_memory_runs_out(write: Write) -> None:
    code = f"""
calls = []
def loss(outputs, targets):
    calls.append(None)
    if len(calls) > 3:  # the check at the start takes a batch and two parts of it
        raise torch.OutOfMemoryError("out of memory")
    return {UNDIVIDED["contrastive"]}
"""
    with pytest.raises(DlcliError, match="out of memory with 500 samples in epoch 1, and loss"):
        resolve_auto(plan_of(write(code)), ignore)


def test_a_mistake_leaves_no_run(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write("def loss(outputs, targets):\n    return outputs.no_such_method()\n")
    train = ["train", "-m", "linear", "-d", "digits", "--device", "cpu", "-b", "500", "-q"]
    assert main([*train, "--loss", name, "--runs-dir", str(tmp_path / "runs")]) == 1
    err = capsys.readouterr().err
    assert "in losses.py line 5: return outputs.no_such_method()" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("runs/*"))

"""What one new file adds: a copy of the package gets it, and its commands run on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

DATA = ("-d", "points.csv", "-m", "mlp")
PACKAGE = Path(__file__).parent.parent / "dlcli"

LOSS = '''
from torch.nn import functional as F

from dlcli.training.losses.base import LossContext, register_loss, sample_count


@register_loss("poly1", "classification")
def poly1(context: LossContext, *, label_smoothing: float, epsilon: float = 1.0):
    """PolyLoss, arXiv:2204.12511."""

    def loss(outputs, targets):
        terms = F.cross_entropy(outputs, targets, label_smoothing=label_smoothing, reduction="none")
        p = outputs.softmax(1).gather(1, targets[:, None])[:, 0]
        return (terms + epsilon * (1 - p)).sum(), sample_count(outputs)

    return loss
'''
OPTIMIZER = '''
import torch

from dlcli.training.optim.optimizers.base import register_optimizer


@register_optimizer("adamax")
def adamax(groups, lr: float, *, betas: tuple[float, float] | None, eps: float = 1e-8):
    """`torch.optim.Adamax`."""
    return torch.optim.Adamax(groups, lr=lr, betas=betas or (0.9, 0.999), eps=eps)
'''
SCHEDULE = '''
from dlcli.training.optim.schedules.base import register_schedule


@register_schedule("inverse-sqrt")
def inverse_sqrt(point, *, lr_min: float, timescale: int = 10) -> float:
    """Falls with the root of the step."""
    return max((1 + point.past / timescale) ** -0.5, lr_min)
'''
AUGMENTATION = '''
from dlcli.training.augmentation.operations.base import register_augmentation


@register_augmentation("invert", numbers=1)
def invert(images, numbers, *, probability: float = 0.5):
    """Invert some images."""
    inverted = numbers[:, 0, None, None, None] < probability
    return images.where(~inverted, 255 - images)
'''
METRIC = '''
import numpy as np

from dlcli.evaluation.metrics.registered import register_metric


@register_metric("kappa", "classification", higher_is_better=True)
def kappa(outputs, targets, task):
    """Cohen's kappa."""
    predicted = outputs.argmax(axis=1)
    observed = (predicted == targets).mean()
    classes = range(task.num_classes)
    chance = sum((predicted == c).mean() * (targets == c).mean() for c in classes)
    return (observed - chance) / (1 - chance)
'''
MASK_METHOD = '''
from dlcli.compress.masks.base import register_mask_method


@register_mask_method("far", ranking="global")
def far(weight, generator, *, center: float = 0.0):
    """Prune what is farthest from ``center``."""
    return -(weight.tensor - center).abs()
'''
IMPORTANCE = '''
from dlcli.compress.channels.importance.base import register_importance, unit_sums


@register_importance("signed")
def signed(groups, context, *, sign: float = 1.0):
    """The sum of a channel's weights."""
    values = {name: sign * p.detach() for name, p in context.module.named_parameters()}
    return [sum(sums for _, sums in unit_sums(group, values)) for group in groups]
'''
QUANTIZE_METHOD = '''
from onnx import numpy_helper

from dlcli.compress.quantize.base import register_quantize_method


@register_quantize_method("rounded", "onnxruntime", tag="rounded{bits}")
def rounded(graph, layers, *, digits: int = 1):
    """Weights of a few decimal digits."""
    model = graph.copy()
    used = {name for node in model.graph.node if node.name in layers for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in used:
            array = numpy_helper.to_array(tensor).round(digits)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model
'''
TRAINING_METHOD = '''
from dlcli.compress.quantize.base import register_quantize_method
from dlcli.compress.quantize.qat import simulate_int8


@register_quantize_method("qat-first", "onnxruntime", trains_for="static", tag="int8-first")
def first_layers(module, example, layers, batches, *, count: int = 1):
    """Simulated int8 in the first layers."""
    return simulate_int8(module, example, sorted(layers)[:count], batches, target="x86")
'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package and one new file for each extension."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(PACKAGE, folder / "dlcli", ignore=shutil.ignore_patterns("__pycache__"))
    for path, source in {
        "training/losses/a_new_loss.py": LOSS,
        "training/optim/optimizers/a_new_optimizer.py": OPTIMIZER,
        "training/optim/schedules/a_new_schedule.py": SCHEDULE,
        "evaluation/metrics/a_new_metric.py": METRIC,
        "training/augmentation/operations/a_new_augmentation.py": AUGMENTATION,
        "compress/masks/a_new_method.py": MASK_METHOD,
        "compress/channels/importance/a_new_importance.py": IMPORTANCE,
        "compress/quantize/a_new_method.py": QUANTIZE_METHOD,
        "compress/quantize/a_training_method.py": TRAINING_METHOD,
    }.items():
        (folder / "dlcli" / path).write_text(source, encoding="utf-8")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    rows = [f"{a:.4f},{b:.4f},{'yes' if a + b > 0 else 'no'}" for a, b in x]
    (folder / "points.csv").write_text("\n".join(["a,b,label", *rows]), encoding="utf-8")
    return folder


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    command = [sys.executable, "-m", "dlcli", *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def train(folder: Path, *args: str) -> None:
    done = run(folder, "train", *DATA, "-e", "2", "--device", "cpu", "--json", *args)
    assert done.returncode == 0, done.stderr


def test_new_names_are_choices_in_help(copy: Path) -> None:
    done = run(copy, "train", "--help")
    assert done.returncode == 0, done.stderr
    words = "".join(done.stdout.split())
    for name in ("poly1", "adamax", "inverse-sqrt"):
        assert name in words


def test_a_new_loss_optimizer_and_schedule_train_with_their_own_arguments(copy: Path) -> None:
    train(
        copy,
        *("--loss", "poly1", "--set", "loss.args.epsilon=2", "--label-smoothing", "0.1"),
        *("--optimizer", "adamax", "--set", "optim.betas=[0.8,0.9]", "--set", "optim.args.eps=1e-6"),
        *("--scheduler", "inverse-sqrt", "--set", "optim.args.timescale=5"),
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--loss", "poly1", "--set", "loss.args.epsilom=2"), "loss.args.epsilom"),
        (("--set", "loss.name=poly2"), "did you mean 'poly1'?"),
        (("--optimizer", "adamax", "--set", "optim.args.eps=big"), "optim.args.eps = 'big'"),
    ],
)
def test_wrong_arguments_of_new_functions_are_refused(
    copy: Path, args: tuple[str, ...], message: str
) -> None:
    done = run(copy, "train", *DATA, *args)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_new_metric_picks_the_best_epoch_and_bounds_an_evaluation(copy: Path) -> None:
    train(copy, "--monitor", "kappa", "--name", "by-kappa", "-e", "12")
    done = run(copy, "eval", "by-kappa", "--device", "cpu", "--min", "kappa=0.1", "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["kappa"] == pytest.approx(2 * metrics["accuracy"] - 1, abs=0.2)
    assert run(copy, "eval", "by-kappa", "--min", "kappa=1.1", "--quiet").returncode == 3
    assert "kappa" in run(copy, "runs", "by-kappa").stdout


def test_a_new_augmentation_changes_training_images(copy: Path) -> None:
    setting = ("--set", "augment.args.invert.probability=0.25")
    done = run(copy, "train", "-d", "digits", "-m", "mlp", "--max-steps", "2", *setting)
    assert done.returncode == 0, done.stderr
    assert "invert probability=0.25" in " ".join((done.stdout + done.stderr).split())
    wrong = run(copy, "train", *DATA, "--set", "augment.args.invrt={}")
    assert wrong.returncode == 2
    assert "did you mean 'invert'?" in wrong.stderr


@pytest.fixture(scope="module")
def trained(copy: Path) -> str:
    train(copy, "--name", "trained")
    return "trained"


def prune(folder: Path, run_name: str, *args: str) -> subprocess.CompletedProcess[str]:
    settings = ("--amount", "0.5", "--epochs", "0", "--no-latency", "--json")
    return run(folder, "prune", run_name, *settings, *args)


@pytest.mark.slow
def test_a_new_pruning_method_sets_weights_to_zero(copy: Path, trained: str) -> None:
    words = "".join(run(copy, "prune", "--help-all").stdout.split())
    assert "far" in words
    done = prune(copy, trained, "--method", "far", "--set", "prune.args.center=1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["sparsity"] == pytest.approx(0.5, abs=0.01)
    info = json.loads(run(copy, "info", result["run"], "--json").stdout)
    mask = next(r for r in info["card"]["transforms"] if r["kind"] == "mask")
    assert (mask["args"]["method"], mask["args"]["center"]) == ("far", 1.0)
    wrong = prune(copy, trained, "--method", "far", "--set", "prune.args.centre=1")
    assert wrong.returncode == 2
    assert "did you mean 'center'?" in " ".join(wrong.stderr.split())


@pytest.mark.slow
def test_a_new_importance_ranks_channels(copy: Path, trained: str) -> None:
    settings = ("--method", "channel", "--round-to", "1", "--importance")
    models = []
    for sign in ("1", "-1"):
        done = prune(copy, trained, *settings, "signed", "--set", f"prune.args.sign={sign}")
        assert done.returncode == 0, done.stderr
        models.append(load_file(copy / json.loads(done.stdout)["output"]))
    changed = [name for name in models[0] if not np.array_equal(models[0][name], models[1][name])]
    assert changed
    assert prune(copy, trained, *settings, "unsigned").returncode == 2


@pytest.mark.slow
def test_a_new_quantization_method_writes_its_file(copy: Path, trained: str) -> None:
    assert "rounded" in "".join(run(copy, "quantize", "--help-all").stdout.split())
    command = ("quantize", trained, "--method", "rounded", "--no-latency", "--json")
    done = run(copy, *command, "--set", "quantize.args.digits=0")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["method"], result["backend"]) == ("rounded", "onnxruntime")
    assert Path(result["output"]).name == "best.rounded8.onnx"
    info = json.loads(run(copy, "info", result["output"], "--json").stdout)
    record = next(r for r in info["card"]["transforms"] if r["kind"] == "quantize")
    assert (record["args"]["method"], record["args"]["digits"]) == ("rounded", 0)
    done = run(copy, "eval", result["output"], "--json")
    assert done.returncode == 0, done.stderr
    wrong = run(copy, *command, "--set", "quantize.args.digit=0")
    assert wrong.returncode == 2
    assert "did you mean 'digits'?" in " ".join(wrong.stderr.split())
    wrong = run(copy, *command, "--backend", "torch")
    assert wrong.returncode == 2
    assert "--backend onnxruntime" in wrong.stderr


@pytest.mark.slow
def test_a_new_method_of_quantization_aware_training_is_a_run_of_its_own(
    copy: Path, trained: str
) -> None:
    command = ("quantize", trained, "--method", "qat-first", "--no-latency", "--json", "--epochs", "1")
    done = run(copy, *command, "--set", "quantize.args.count=2")
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["output"])
    assert path.name == "best.int8-first.onnx"
    assert path.parent.name.endswith("-qat-first")
    records = json.loads(run(copy, "info", path, "--json").stdout)["card"]["transforms"]
    record = next(r for r in records if r["kind"] == "quantize")
    assert record["args"]["method"] == "qat-first"
    layers = next(r for r in records if r["kind"] == "fake-quant")["args"]["layers"]
    assert len(layers) == 2

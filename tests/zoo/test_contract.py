"""The contract of every registered model, for every kind of data and task that it takes.

What holds for the feed-forward, convolutional and recurrent ones only is here too; encoders have
`test_transformer`, and `seq2seq` has a file of its own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from dlcli.card import Card, ModelSpec
from dlcli.config import ExportConfig
from dlcli.data.prepare import prepare, random_inputs
from dlcli.errors import UsageError
from dlcli.formats.base import Runtime, recognize
from dlcli.formats.checkpoint import open_checkpoint, save_model
from dlcli.formats.onnx.format import open_onnx, write_onnx
from dlcli.task import (
    ImageInput,
    InputSpec,
    TabularInput,
    TargetNumber,
    TaskKind,
    TaskSpec,
)
from dlcli.trust import ALL, allowing
from dlcli.zoo.base import MODELS as REGISTRY
from dlcli.zoo.base import build_model, find_model
from dlcli.zoo.layers import ACTIVATIONS, NORMS, StepPoolName
from dlcli.zoo.mlp import NumberEmbedding
from dlcli.zoo.tabm import mean_of_members

CLASSES = 7
CELLS = ("rnn", "gru", "lstm")
MODELS: list[tuple[str, str]] = [
    (entry.kind, entry.name)
    for _, entry in REGISTRY.entries()
    if entry.kind != "pairs"
    and entry.fit is None  # not trained by gradient: `test_trees`
    and entry.name not in ("transformer", "vit-tiny", "bert")
    and (entry.kind, entry.name) != ("series", "linear")  # a forecaster: `test_forecasters`
]
ENCODER = {"layers": 1, "heads": 2, "dim": 8, "ff": 8}
SMALL: dict[str, dict[str, Any]] = {
    "cnn-vgg": {"widths": (8, 16)},
    "series/cnn": {"widths": (8, 8)},
    "series/mlp": {"widths": (16,)},
    "tabular/mlp": {"number_embedding": 4},
    "tabular/tabm": {"k": 3, "widths": (16, 16), "number_embedding": 4},
    "text/bert": {**ENCODER, "vocab": 44, "positions": 16},
    "text/cnn": {"dim": 8, "filters": 6},
    **{f"series/{cell}": {"hidden": 8, "layers": 2} for cell in CELLS},
    **{f"text/{cell}": {"hidden": 8, "dim": 8} for cell in CELLS},
    **{f"{kind}/transformer": ENCODER for kind in ("text", "series", "tabular")},
    "vit-tiny": ENCODER,
}
CASES = [
    pytest.param(entry.kind, entry.name, task, id=f"{entry.kind}-{entry.name}-{task}")
    for _, entry in REGISTRY.entries()
    for task in entry.tasks
    if entry.kind != "pairs" and entry.fit is None
]
VARYING = [(kind, name) for kind, name in MODELS if kind in ("series", "text")]


INPUTS: dict[str, InputSpec] = {
    **tiny.INPUTS,
    "image": tiny.image(12, 1, std=0.5, resize="squash"),
    "tabular": tiny.table("ab", {"c": "xyz", "d": range(30)}, indicators="b", bin_edges=(-1, 0, 1)),
    "series": tiny.series("uvw", varies=True),
    "text": tiny.text(range(40)),
}


def task_of(kind: str, task: TaskKind, *, varies: bool = True) -> TaskSpec:
    spec = INPUTS[kind]
    if kind == "series" and (task == "forecast" or not varies):
        spec = tiny.series("uvw")
    names, targets = [f"c{i}" for i in range(CLASSES)], [TargetNumber(name=n) for n in "uw"]
    return tiny.make_task(spec, task, classes=names, targets=targets, embedding_size=5)


def batch_of(task: TaskSpec, n: int = 6, steps: int = 10) -> tuple[torch.Tensor, ...]:
    """``n`` random samples of at most ``steps`` steps, as the module takes them."""
    arrays = prepare(random_inputs(task, n, length=steps), task)
    return tuple(torch.from_numpy(array) for array in arrays.values())


def make(kind: str, name: str, task: TaskSpec, **args: Any) -> tuple[ModelSpec, nn.Module]:
    torch.manual_seed(0)
    entry = find_model(name, kind)
    small = SMALL.get(f"{kind}/{name}", SMALL.get(name, {}) if kind == "image" else {})
    values = {k: v for k, v in {**small, **args}.items() if k in entry.args.model_fields}
    spec = ModelSpec(name=name, args=entry.arguments(values).model_dump(mode="json"))
    return spec, build_model(spec, task)


def targets_of(task: TaskSpec, n: int = 6) -> torch.Tensor:
    if task.kind == "classification":
        return torch.arange(n) % CLASSES
    rng = torch.Generator().manual_seed(1)
    if task.kind == "multilabel":
        return (torch.rand(n, CLASSES, generator=rng) < 0.4).float()
    return torch.randn(n, *(int(d) for d in task.output_shape), generator=rng)


def loss_of(task: TaskSpec, answer: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if answer.ndim == len(task.output_shape) + 2:  # of k members, in train mode
        answer, targets = answer.flatten(0, 1), targets.repeat_interleave(answer.shape[1], dim=0)
    if task.kind == "classification":
        return nn.functional.cross_entropy(answer, targets)
    if task.kind == "multilabel":
        return nn.functional.binary_cross_entropy_with_logits(answer, targets)
    return nn.functional.mse_loss(answer, targets)


@pytest.mark.parametrize(("kind", "name", "task_kind"), CASES)
def test_contract(kind: str, name: str, task_kind: TaskKind, tmp_path: Path) -> None:
    task = task_of(kind, task_kind)
    spec, module = make(kind, name, task)
    inputs, targets = batch_of(task), targets_of(task)
    module.eval()
    before = module(*inputs)
    assert before.shape == (6, *task.output_shape)
    assert before.dtype == torch.float32
    if task.kind == "embedding":
        torch.testing.assert_close(before.norm(dim=1), torch.ones(6))

    head = find_model(name, kind).head(module)
    assert any(key.startswith(f"{head}.") for key in module.state_dict())
    # A forecaster may answer each channel by itself: then its head has the horizon's width.
    widths = [len(p) for p in module.get_submodule(head).parameters()]
    assert task.num_outputs in widths or (task.kind == "forecast" and task.horizon in widths)

    path = tmp_path / "m.safetensors"
    save_model(path, module, Card(model=spec, task=task))
    loaded = open_checkpoint(recognize(path), Runtime("cpu")).module()
    for key, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert torch.allclose(loaded(*inputs), before, atol=1e-6)  # kernels may lie in another layout

    # Small steps in eval mode: no dropout, no batch statistics, so the loss must fall.
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    first = loss_of(task, before, targets)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(task, module(*inputs), targets).backward()
        assert all(p.grad is not None for p in module.parameters())
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    assert loss_of(task, module(*inputs), targets) < first


@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_an_embedding_has_the_tensors_of_a_plain_output(kind: str, name: str) -> None:
    if "embedding" not in find_model(name, kind).tasks:
        pytest.skip(f"{name} gives no embeddings")
    _, module = make(kind, name, task_of(kind, "embedding"))
    five = task_of(kind, "classification").model_copy(update={"class_names": tuple("abcde")})
    _, plain = make(kind, name, five)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (module, plain)]
    assert shapes[0] == shapes[1]
    module.load_state_dict(plain.state_dict())
    inputs = batch_of(five)
    expected = nn.functional.normalize(plain.eval()(*inputs), dim=1)
    torch.testing.assert_close(module.eval()(*inputs), expected)


ZERO_HEAD = """
from torch import nn

def Net(task):
    head = nn.Linear(144, task.num_outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(nn.Flatten(), head)
"""


def test_a_head_that_begins_at_zero_is_given_a_direction(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(ZERO_HEAD)
    spec = ModelSpec(name=f"{tmp_path / 'net.py'}:Net")
    with allowing(ALL):
        module = build_model(spec, task_of("image", "embedding"))
        plain = build_model(spec, task_of("image", "classification"))
    answer = module(*batch_of(task_of("image", "embedding")))
    assert torch.linalg.matrix_rank(answer) > 1
    assert not any(p.any() for p in plain.parameters())


@pytest.mark.parametrize(("kind", "name"), MODELS)
@pytest.mark.parametrize("norm", ["default", "none"])
def test_the_loss_starts_near_the_log_of_the_classes(kind: str, name: str, norm: str) -> None:
    task = task_of(kind, "classification")
    _, module = make(kind, name, task, **({} if norm == "default" else {"norm": norm, "dropout": 0.0}))
    loss = loss_of(task, module(*batch_of(task, 64)), targets_of(task, 64))
    assert float(loss.detach()) == pytest.approx(math.log(CLASSES), abs=0.1)


@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_a_regression_starts_at_the_mean(kind: str, name: str) -> None:
    task = task_of(kind, "regression")
    _, module = make(kind, name, task)
    answer = module(*batch_of(task, 64)).detach()
    assert float(answer.abs().max()) < 0.7


@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_training_one_batch_is_learned_by_heart(kind: str, name: str) -> None:
    task = task_of(kind, "classification")
    _, module = make(kind, name, task, dropout=0.0, token_dropout=0.0)
    inputs, targets = batch_of(task, 8), targets_of(task, 8)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(task, module(*inputs), targets)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.7 * math.log(CLASSES)


@pytest.mark.parametrize(("kind", "name"), VARYING)
@pytest.mark.parametrize("pooling", get_args(StepPoolName))
def test_more_padding_changes_no_output(kind: str, name: str, pooling: StepPoolName) -> None:
    task = task_of(kind, "classification")
    _, module = make(kind, name, task, pooling=pooling)
    module.eval()
    x, lengths = batch_of(task, steps=9)
    rubbish = torch.full((len(x), 3, *x.shape[2:]), 7, dtype=x.dtype)
    answer = module(x, lengths)
    assert torch.allclose(module(torch.cat([x, rubbish], dim=1), lengths), answer, atol=1e-5)
    alone = torch.cat([module(x[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths)])
    assert torch.allclose(alone, answer, atol=1e-5)


@pytest.mark.parametrize(("kind", "name"), VARYING)
def test_an_output_depends_on_the_true_steps(kind: str, name: str) -> None:
    task = task_of(kind, "classification")
    _, module = make(kind, name, task, pooling="mean")
    module.eval()
    x, lengths = batch_of(task)
    changed = x.clone()
    changed[:, 0] = (x[:, 0] + 3) % 40 if x.dtype == torch.int64 else x[:, 0] + 1
    assert not torch.allclose(module(changed, lengths), module(x, lengths), atol=1e-6)


@pytest.mark.parametrize("name", ["cnn", "mlp", *CELLS])
@pytest.mark.parametrize("task_kind", ["classification", "regression"])
def test_series_of_one_length_need_no_lengths(name: str, task_kind: TaskKind) -> None:
    fixed = task_of("series", task_kind, varies=False)
    _, module = make("series", name, fixed)
    module.eval()
    (x,) = batch_of(fixed)
    assert torch.allclose(module(x), module(x, torch.full((len(x),), x.shape[1])), atol=1e-6)


@pytest.mark.parametrize("name", ["cnn", "mlp", *CELLS])
def test_a_forecast_follows_the_level_of_its_window(name: str) -> None:
    task = task_of("series", "forecast")
    _, module = make("series", name, task)
    module.eval()
    (x,) = batch_of(task)
    assert torch.allclose(module(x + 5), module(x) + 5, atol=1e-4)
    _, raw = make("series", name, task, window_norm="none")
    raw.eval()
    assert not torch.allclose(raw(x + 5), raw(x) + 5, atol=0.1)


ARGS = [("activation", v) for v in ACTIVATIONS] + [("norm", v) for v in NORMS]


@pytest.mark.parametrize(("kind", "name"), MODELS)
@pytest.mark.parametrize(("key", "value"), ARGS)
def test_activations_and_norms_go_by_name(kind: str, name: str, key: str, value: str) -> None:
    if key not in find_model(name, kind).args.model_fields:
        pytest.skip(f"{name} has no {key}")
    task = task_of(kind, "classification")
    _, module = make(kind, name, task, **{key: value})
    default = getattr(find_model(name, kind).args(), key)
    answer = module.eval()(*batch_of(task))
    assert torch.isfinite(answer).all()
    if key == "activation" and value not in (default, "prelu", "leaky_relu", "relu"):
        _, other = make(kind, name, task)
        assert not torch.allclose(answer, other.eval()(*batch_of(task)), atol=1e-7)


@pytest.mark.parametrize(("kind", "name"), MODELS)
def test_dropout_can_be_none_at_all(kind: str, name: str) -> None:
    if kind == "tensor":
        pytest.skip("raw tensors are normalised by batch statistics")
    task = task_of(kind, "classification")
    _, module = make(kind, name, task, dropout=0.0, token_dropout=0.0, norm="none")
    inputs = batch_of(task)
    trained = module.train()(*inputs)
    if trained.ndim == len(task.output_shape) + 2:
        trained = mean_of_members(trained, task.kind)
    assert torch.equal(trained, module.eval()(*inputs))


# Recurrent nets


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_both_directions_are_those_of_torch_with_packed_sequences(cell: str, layers: int) -> None:
    task = task_of("series", "classification")
    _, module = make("series", cell, task, layers=layers, dropout=0.0)
    states: nn.Module = module.states  # type: ignore[assignment]
    oracle = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[cell](
        3, 8, num_layers=layers, batch_first=True, bidirectional=True
    )
    own = states.state_dict()
    with torch.no_grad():
        for key, weight in oracle.named_parameters():
            base, _, level = key.removesuffix("_reverse").rpartition("_l")
            which = "backward_" if key.endswith("_reverse") else "onward"
            weight.copy_(own[f"{which}.{level}.{base}_l0"])
    x, lengths = batch_of(task)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(oracle(packed)[0], batch_first=True)
    true = torch.arange(x.shape[1])[None, :] < lengths[:, None]
    assert torch.allclose(states.eval()(x, lengths)[true], expected[true], atol=1e-6)


def test_one_direction_reads_nothing_ahead() -> None:
    task = task_of("series", "classification")
    _, module = make("series", "gru", task, bidirectional=False)
    x, lengths = batch_of(task)
    changed = x.clone()
    changed[:, -1] += 1
    states: nn.Module = module.states.eval()  # type: ignore[union-attr, assignment]
    assert torch.equal(states(x, lengths)[:, :-1], states(changed, lengths)[:, :-1])


def test_an_lstm_starts_by_remembering() -> None:
    _, module = make("text", "lstm", task_of("text", "classification"))
    state = module.state_dict()
    bias = state["states.onward.0.bias_ih_l0"] + state["states.onward.0.bias_hh_l0"]
    assert bias.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    square = state["states.onward.0.weight_hh_l0"][:8]
    assert torch.allclose(square @ square.T, torch.eye(8), atol=1e-5)


# Shapes and sizes


def image_task(channels: int, side: int, classes: int = 10) -> TaskSpec:
    image = ImageInput(
        channels=channels,  # type: ignore[arg-type]
        height=side, width=side, resize_size=side, mean=(0.5,) * channels, std=(0.5,) * channels,
    )  # fmt: skip
    return TaskSpec(input=image, class_names=tuple(map(str, range(classes))))


def parameters(name: str, task: TaskSpec) -> int:
    return sum(p.numel() for p in build_model(ModelSpec(name=name), task).parameters())


def test_the_models_have_the_parameters_they_are_known_for() -> None:
    assert parameters("cnn", image_task(1, 28)) == 98_666
    assert parameters("cnn-vgg", image_task(1, 28)) == 1_148_618
    assert parameters("cnn-vgg", image_task(3, 32)) < 1_500_000
    assert parameters("linear", image_task(1, 28)) == 7_850


def test_the_tensors_of_cnn_keep_their_names() -> None:
    state = build_model(ModelSpec(name="cnn"), image_task(1, 28)).state_dict()
    layers = {key.rpartition(".")[0] for key in state}
    assert layers == {f"features.{i}" for i in (0, 1, 4, 5, 8, 9)} | {"head.1", "head.4"}


@pytest.mark.parametrize("name", ["cnn", "cnn-vgg", "mlp", "linear"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 2, 7, 33])
def test_images_of_any_size_are_taken(name: str, channels: int, side: int) -> None:
    task = image_task(channels, side)
    _, module = make("image", name, task)
    assert module.eval()(torch.zeros(2, channels, side, side)).shape == (2, 10)


@pytest.mark.parametrize("pooling", ["max", "avg", "adaptive"])
def test_images_are_halved_by_name(pooling: str) -> None:
    task = image_task(1, 9)
    for name in ("cnn", "cnn-vgg"):
        _, module = make("image", name, task, pooling=pooling)
        kinds = {type(part).__name__ for part in module.modules()}
        expected = {"max": "MaxPool2d", "avg": "AvgPool2d", "adaptive": "AdaptiveAvgPool2d"}
        assert expected[pooling] in kinds
        assert module.eval()(torch.zeros(2, 1, 9, 9)).shape == (2, 10)


@pytest.mark.parametrize(
    ("args", "widths"),
    [
        ({}, [256, 128]),
        ({"depth": 3}, [256, 128, 128]),
        ({"depth": 1}, [256]),
        ({"depth": 0}, []),
        ({"widths": (5,), "depth": 2}, [5, 5]),
    ],
)
def test_depth_repeats_or_cuts_the_widths(args: dict[str, Any], widths: list[int]) -> None:
    _, module = make("image", "mlp", image_task(1, 4), **args)
    body: nn.Module = module.body  # type: ignore[assignment]
    assert [part.out_features for part in body if isinstance(part, nn.Linear)] == widths  # type: ignore[attr-defined]


def test_cards_of_older_mlps_are_still_read() -> None:
    entry = find_model("mlp", "image")
    assert entry.arguments({"batch_norm": False}) == entry.arguments({"norm": "none"})
    assert entry.arguments({"batch_norm": True}) == entry.arguments({})


def test_an_unknown_category_is_the_middle_of_the_known_ones() -> None:
    task = task_of("tabular", "classification")
    _, module = make("tabular", "mlp", task)
    tables: nn.ModuleList = module.embeddings  # type: ignore[assignment]
    assert [table.num_embeddings for table in tables] == [4, 31]
    assert not any(table(torch.tensor([0])).any() for table in tables)


def test_an_embedded_number_depends_on_its_own_column_alone() -> None:
    module = NumberEmbedding(3, 2)
    row = torch.randn(1, 3)
    jacobian = torch.autograd.functional.jacobian(module, row)[0, :, 0]  # (6, 3)
    own = torch.eye(3).repeat_interleave(2, dim=0).bool()
    assert (jacobian != 0).equal(own)


def test_numbers_are_embedded_by_the_recipe_and_missing_indicators_are_not() -> None:
    task = task_of("tabular", "regression")
    assert isinstance(task.input, TabularInput)
    recipe = find_model("mlp", "tabular").recipe_for("regression")["model"]["args"]
    inputs = []
    for args in ({"number_embedding": 1}, recipe):
        _, module = make("tabular", "mlp", task, **args)
        inputs.append(next(m for m in module.modules() if isinstance(m, nn.Linear)).in_features)
    assert task.input.features > len(task.input.numbers)  # there are indicators
    assert inputs[1] - inputs[0] == 3 * len(task.input.numbers)


def test_a_linear_table_model_is_linear_in_one_hot_columns() -> None:
    task = task_of("tabular", "regression")
    _, module = make("tabular", "linear", task)
    (row,) = batch_of(task, 1)
    head: nn.Linear = module.head  # type: ignore[assignment]
    hot = torch.zeros(head.in_features)
    hot[:3] = row[0, :3]
    hot[3 + int(row[0, 3])] = 1
    hot[7 + int(row[0, 4])] = 1
    assert torch.allclose(module(row)[0], head(hot), atol=1e-6)


def test_even_kernels_are_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="odd"):
        find_model("cnn", "series").arguments({"kernels": (4,)})


# Export


def check_export(kind: str, name: str, task: TaskSpec, folder: Path) -> None:
    spec, module = make(kind, name, task)
    save_model(folder / "m.safetensors", module, Card(model=spec, task=task))
    source = open_checkpoint(recognize(folder / "m.safetensors"), Runtime("cpu"))
    write_onnx(source, folder / "m.onnx", ExportConfig())
    exported = open_onnx(recognize(folder / "m.onnx"), Runtime("cpu"))
    for n, steps in [(1, 1), (2, 5), (5, 12)]:
        inputs = random_inputs(task, n, length=steps)
        assert np.allclose(exported.predict(inputs), source.predict(inputs), atol=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("tabular", "mlp"), ("tabular", "tabm"), ("series", "cnn")])
def test_exports_agree_at_other_sizes(kind: str, name: str, tmp_path: Path) -> None:
    check_export(kind, name, task_of(kind, "classification"), tmp_path)


def test_an_exported_embedding_has_length_one(tmp_path: Path) -> None:
    check_export("image", "cnn", task_of("image", "embedding"), tmp_path)
    exported = open_onnx(recognize(tmp_path / "m.onnx"), Runtime("cpu"))
    answer = exported.predict(random_inputs(exported.card.task, 3))
    assert np.allclose(np.linalg.norm(answer, axis=1), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "task_kind"), CASES)
def test_all_exports_agree(kind: str, name: str, task_kind: TaskKind, tmp_path: Path) -> None:
    check_export(kind, name, task_of(kind, task_kind), tmp_path)

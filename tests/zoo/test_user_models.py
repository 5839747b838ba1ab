"""Models from outside: a file of the user's, an entry point, timm."""

from __future__ import annotations

import copy
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from dlcli.card import Card, ModelSpec
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import Runtime, recognize
from dlcli.formats.checkpoint import open_checkpoint, save_model
from dlcli.formats.onnx.export import export_graph
from dlcli.task import SPECIAL_TOKENS, ImageInput, PairsInput, TaskSpec, TextInput
from dlcli.trust import MODELS_GROUP
from dlcli.zoo import timm_models, user_models
from dlcli.zoo.base import build_model, find_model
from dlcli.zoo.forward import has_images, input_tensor, place
from dlcli.zoo.layers import mean_steps

CODE = """
import math
from dataclasses import dataclass
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, task, hidden=5):
        super().__init__()
        self.first = nn.Linear(math.prod(task.input.shape), hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.last = nn.Linear(hidden, task.num_outputs)

    def forward(self, x):
        return self.last(self.norm(self.first(x.flatten(1))).relu())

def make(task, **args):
    return Net(task, **args)

class Wide(Net):
    head_path = "first"
    def __init__(self, task):
        super().__init__(task)
        self.last = nn.Linear(5, 99)

class Deaf(nn.Module):
    def __init__(self, task):
        super().__init__()
    def forward(self):
        return None

def text(task):
    return "a model"

class Tuple(Net):
    def forward(self, x):
        return super().forward(x), x

class Named(Net):
    outputs = ("aux", "logits")
    def forward(self, x):
        return x, super().forward(x)

class Keys(Net):
    def forward(self, x):
        return {"aux": x, "logits": super().forward(x)}

class Branching(Net):
    def forward(self, x):
        if x.mean() > 0:
            x = x * 2
        return super().forward(x)

class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad

class Custom(Net):
    def forward(self, x):
        return super().forward(Square.apply(x))
"""


def image_task(side: int = 6, channels: int = 1) -> TaskSpec:
    image = ImageInput(
        channels=channels,  # type: ignore[arg-type]
        height=side, width=side, resize_size=side, mean=(0.5,) * channels, std=(0.5,) * channels,
    )  # fmt: skip
    return TaskSpec(input=image, class_names=("a", "b", "c"))


pytestmark = pytest.mark.usefixtures("trusted")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(CODE)
    return path


def build(name: str, task: TaskSpec | None = None, **args: Any) -> nn.Module:
    return build_model(ModelSpec(name=name, args=args), task or image_task())


@pytest.mark.parametrize("name", ["Net", "make"])
def test_a_class_or_a_function_of_a_file_is_a_model(code: Path, name: str) -> None:
    module = build(f"{code}:{name}", hidden=9)
    assert module.training
    assert module(torch.zeros(4, 1, 6, 6)).shape == (4, 3)
    assert module.get_submodule("first").out_features == 9
    assert find_model(f"{code}:{name}", "image").head(module) == "last"


@pytest.mark.parametrize("name", ["Tuple", "Named", "Keys"])
def test_of_several_outputs_the_logits_are_the_models(code: Path, name: str) -> None:
    module, plain = build(f"{code}:{name}"), build(f"{code}:Net")
    module.load_state_dict(plain.state_dict())
    x = torch.randn(4, 1, 6, 6)
    assert torch.equal(module.eval()(x), plain.eval()(x))
    assert module.train()(x).shape == (4, 3)


def export_to_onnx(code: Path, name: str, path: Path) -> nn.Module:
    module = build(f"{code}:{name}").eval()
    spec = ModelSpec(name=find_model(f"{code}:{name}", "image").name)
    model = export_graph(module, Card(model=spec, task=image_task()), 20, None)
    path.write_bytes(model.SerializeToString())
    return module


@pytest.mark.parametrize("name", ["Custom", "Keys"])
def test_functions_of_the_users_own_export(code: Path, tmp_path: Path, name: str) -> None:
    module = export_to_onnx(code, name, tmp_path / "m.onnx")
    x = torch.randn(3, 1, 6, 6)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (outputs,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(outputs), module(x), atol=1e-5)


def test_a_branch_on_values_is_named_with_its_line(code: Path, tmp_path: Path) -> None:
    with pytest.raises(DlcliError, match=r"branches on values of a tensor, in nets\.py line \d+: if x"):
        export_to_onnx(code, "Branching", tmp_path / "m.onnx")


def test_trying_a_model_out_changes_none_of_its_statistics(code: Path) -> None:
    module = build(f"{code}:Net")
    assert int(module.get_buffer("norm.num_batches_tracked")) == 0


def test_the_model_may_name_its_own_head(code: Path) -> None:
    code.write_text(CODE.replace("nn.Linear(5, 99)", "nn.Linear(5, 3)"))
    module = build(f"{code}:Wide")
    assert find_model(f"{code}:Wide", "image").head(module) == "first"


def test_the_card_has_the_absolute_path(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(code.parent)
    assert find_model("nets.py:Net", "image").name == f"{code.resolve()}:Net"
    assert find_model("./nets.py:Net", "image").name == f"{code.resolve()}:Net"


def test_nothing_runs_before_the_model_is_built(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("raise RuntimeError('ran')")
    entry = find_model(f"{path}:Net", "text")
    assert entry.arguments({"anything": [1, 2]}).model_dump() == {"anything": [1, 2]}
    with pytest.raises(DlcliError, match="cannot be run: RuntimeError: ran"):
        build(f"{path}:Net")


def test_an_artifact_is_loaded_again_and_needs_its_code(code: Path, tmp_path: Path) -> None:
    spec = ModelSpec(name=find_model(f"{code}:Net", "image").name, args={"hidden": 4})
    module = build_model(spec, image_task()).eval()
    path = tmp_path / "m.safetensors"
    save_model(path, module, Card(model=spec, task=image_task()))
    x = torch.randn(3, 1, 6, 6)
    assert torch.equal(open_checkpoint(recognize(path), Runtime("cpu")).module()(x), module(x))
    code.unlink()
    with pytest.raises(DlcliError, match=r"nets\.py does not exist") as caught:
        open_checkpoint(recognize(path), Runtime("cpu"))
    assert "runs its code" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Wide", r"outputs \(2, 99\) for two samples, where the task needs \(2, 3\)"),
        ("Deaf", r"cannot take input float32 \(batch, 1, 6, 6\): TypeError"),
        ("text", "gave a str, not an nn.Module"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(code: Path, name: str, message: str) -> None:
    with pytest.raises(DlcliError, match=message):
        build(f"{code}:{name}")


def test_unknown_arguments_are_the_users_error(code: Path) -> None:
    with pytest.raises(DlcliError, match=r"failed: TypeError.*'hiden'"):
        build(f"{code}:Net", hiden=3)


def test_an_unknown_class_gets_the_nearest(code: Path) -> None:
    with pytest.raises(UsageError, match="no class or function 'Nett'") as caught:
        build(f"{code}:Nett")
    assert "'Net'" in (caught.value.hint or "")


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_nets.py").write_text("WIDTH = 3")
    (tmp_path / "n.py").write_text(
        "from neighbour_of_nets import WIDTH\nfrom torch import nn\n"
        "def net(task):\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, WIDTH))\n"
    )
    before = list(sys.path)
    assert build(f"{tmp_path}/n.py:net")(torch.zeros(2, 1, 6, 6)).shape == (2, 3)
    assert sys.path == before
    del sys.modules["neighbour_of_nets"]


TUTORIAL = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels=3, width=4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

class Mlp(nn.Module):
    def __init__(self, input_size, hidden_size, num_classes):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(input_size, hidden_size), nn.Linear(hidden_size, num_classes))

    def forward(self, x):
        return self.fc(x.flatten(1))

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        return self.fc(x.flatten(1))
"""


def test_a_class_of_a_tutorial_gets_what_its_signature_names(tmp_path: Path) -> None:
    path = tmp_path / "t.py"
    path.write_text(TUTORIAL)
    module = build(f"{path}:Net", width=7)
    assert module.get_submodule("conv").weight.shape == (7, 1, 3, 3)
    assert module.get_submodule("fc").weight.shape == (3, 7)
    assert build(f"{path}:Net", image_task(channels=3)).get_submodule("conv").in_channels == 3
    assert build(f"{path}:Mlp", hidden_size=5)(torch.zeros(2, 1, 6, 6)).shape == (2, 3)
    assert build(f"{path}:Fixed")(torch.zeros(2, 1, 6, 6)).shape == (2, 3)


def test_what_a_class_is_called_with_is_said(tmp_path: Path) -> None:
    path = tmp_path / "t.py"
    path.write_text(TUTORIAL)
    with pytest.raises(UsageError, match=r"asks for hidden_size; .*num_classes=3") as caught:
        build(f"{path}:Mlp")
    assert "--set model.args.hidden_size=VALUE" in (caught.value.hint or "")


VIEWS = """
from torch import nn

class Flat(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3)
        self.fc = nn.Linear(64, 3)

    def flat(self, x):
        return x.view(x.size(0), -1)

    def forward(self, x):
        return self.fc(self.flat(self.conv(x)))

class Any(Flat):
    def flat(self, x):
        return x.flatten(1)
"""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["Flat", "Any"])
def test_code_that_views_its_maps_as_rows_keeps_torchs_layout(
    tmp_path: Path, name: str, channels: int
) -> None:
    (tmp_path / "t.py").write_text(VIEWS)
    task = image_task(channels=channels)
    assert isinstance(task.input, ImageInput)
    module = build(f"{tmp_path}/t.py:{name}", task).eval()
    pixels = torch.randint(256, (5, 6, 6, channels), dtype=torch.uint8)
    x = input_tensor(pixels, task.input)  # of channels-last strides
    expected = module.get_submodule("fc")(module.get_submodule("conv")(x.clone()).flatten(1))
    placed = place(copy.deepcopy(module), torch.device("cpu"))
    assert torch.allclose(placed(x), expected, atol=1e-6)
    assert has_images(placed) == (name == "Any")


def test_a_translator_may_name_both_vocabularies() -> None:
    text = TextInput(vocabulary=(*SPECIAL_TOKENS, "x"), max_length=9)
    other = text.model_copy(update={"vocabulary": (*SPECIAL_TOKENS, "y", "z")})
    task = TaskSpec(kind="seq2seq", input=PairsInput(source=text, target=other))
    known = user_models.known_arguments(task)
    assert known["src_vocab_size"] == known["source_vocab_size"] == known["input_dim"] == 5
    assert known["tgt_vocab_size"] == known["trg_vocab_size"] == known["output_dim"] == 6


class Words(nn.Module):
    """What a package might offer for texts."""

    def __init__(self, task: TaskSpec) -> None:
        super().__init__()
        assert isinstance(task.input, TextInput)
        self.table = nn.Embedding(task.input.vocab_size, task.num_outputs)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return mean_steps(self.table(tokens), lengths)


def test_entry_points_are_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("words-net", f"{__name__}:Words", MODELS_GROUP)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    text = TextInput(vocabulary=(*SPECIAL_TOKENS, "x"), max_length=9)
    module = build("words-net", TaskSpec(input=text, class_names=("a", "b")))
    assert module(torch.ones(2, 4, dtype=torch.int64), torch.tensor([4, 1])).shape == (2, 2)
    assert user_models.names() == ["words-net"]
    assert user_models.needs_code("words-net")
    assert not user_models.needs_code("cnn")


# timm


def test_without_timm_its_names_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DlcliError) as caught:
        find_model("timm:resnet18", "image")
    assert caught.value.hint == 'pip install "dlcli[timm]"'
    assert timm_models.names() == []


def test_other_names_never_import_timm() -> None:
    assert not timm_models.owns("resnet18")
    assert timm_models.owns("timm:resnet18")


def test_timm_models_take_images_only() -> None:
    with pytest.raises(UsageError, match="takes images, not text"):
        find_model("timm:resnet18", "text")


@pytest.mark.parametrize(
    "name", ["timm:resnet10t", "timm:vit_tiny_patch16_224", "timm:test_efficientnet"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_timm_builds_for_the_data(name: str, channels: int) -> None:
    timm = pytest.importorskip("timm")
    if not timm.is_model(name.removeprefix("timm:")):
        pytest.skip(f"this timm has no {name}")
    module = build(name, image_task(64, channels)).eval()
    answer = module(torch.randn(2, channels, 64, 64))
    assert answer.shape == (2, 3)
    head = find_model(name, "image").head(module)
    last = [p for key, p in module.named_parameters() if key.startswith(f"{head}.")]
    assert last
    assert last[-1].shape == (3,)


def test_an_unknown_timm_name_gets_the_nearest() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match="timm has no model 'resnet1O1'") as caught:
        find_model("timm:resnet1O1", "image")
    assert "resnet101" in (caught.value.hint or "")


def test_weights_that_timm_publishes_come_with_their_preprocessing() -> None:
    pytest.importorskip("timm")
    weights = find_model("timm:resnet18", "image").weights
    assert weights is not None
    assert weights.url.endswith(".pth")
    assert len(weights.mean) == 3
    assert 0 < weights.recipe["model"]["crop_fraction"] <= 1


def test_a_size_that_timm_cannot_cut_is_a_usage_error() -> None:
    pytest.importorskip("timm")
    name = "timm:vit_tiny_patch16_224"
    assert find_model(name, "image").needs.size_multiple == 16
    with pytest.raises(UsageError, match="3x40x40") as caught:
        build(name, image_task(40, 3))
    assert caught.value.hint == "--img-size 32"

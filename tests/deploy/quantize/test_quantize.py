"""Quantization from artifact to file: smaller, as good, refused where it means nothing, bounds kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from encoded_sizes import encoded_bytes
from int8_models import int8_saturates

from dlcli.card import Card, TransformRecord
from dlcli.compress.quantize.base import QUANTIZE_METHODS, method_of
from dlcli.config import ExportConfig, QuantizeSettings, TrainConfig
from dlcli.deploy.quantize import variants
from dlcli.deploy.quantize.quantize import quantize
from dlcli.deploy.quantize.result import QuantizeResult
from dlcli.errors import DlcliError, UsageError
from dlcli.events import ignore
from dlcli.formats.base import open_artifact, read_card
from dlcli.formats.checkpoint import read_tensors, save_model
from dlcli.formats.onnx.format import write_onnx
from dlcli.provenance import provenance_record
from dlcli.runs.folder import RunFolder
from dlcli.settings import merge, validate
from dlcli.training import run as training
from dlcli.training.planning import make_plan
from dlcli.training.prepare import prepare_run

FIT = {"epochs": 3, "batch_size": 100, "device": "cpu", "tensorboard": False}
CNN = {"name": "cnn", "args": {"widths": [8, 16], "hidden": 64}}
MLP = {"name": "mlp", "args": {"widths": [96, 64]}}
LSTM = {"name": "lstm", "args": {"dim": 24, "hidden": 24}}

Runs = Callable[[str], RunFolder]


def texts(root: Path) -> Path:
    rng = np.random.default_rng(0)
    words = {"cold": ["ice", "snow", "frost"], "warm": ["sun", "fire", "summer"]}
    lines = ["text,label"]
    for i in range(120):
        label = ("cold", "warm")[i % 2]
        text = " ".join(rng.choice([*words[label], "the", "a", "of"], size=3 + i % 7))
        lines.append(f'"{text}, {i}",{label}')
    (root / "texts.csv").write_text("\n".join(lines) + "\n")
    return root / "texts.csv"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Small trained models by name, each trained once."""
    root = tmp_path_factory.mktemp("runs")
    data = str(texts(tmp_path_factory.mktemp("texts")))
    known = {
        "cnn": ("digits", CNN),
        "mlp": ("digits", MLP),
        "lstm": (data, LSTM),
        "gru": (data, {**LSTM, "name": "gru"}),
        "text-cnn": (data, {"name": "cnn", "args": {"dim": 16, "filters": 8}}),
    }

    def run(name: str) -> RunFolder:
        if not (root / name).exists():
            path, model = known[name]
            overrides = {"data": {"data": path}, "model": model, "optim": {"lr": 0.01}, "fit": FIT}
            plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, overrides)))
            training.train(
                prepare_run(plan), training.new_run(prepare_run(plan), root, name), ignore, state=None
            )
        return RunFolder(root / name)

    return run


@pytest.fixture(autouse=True)
def one_export_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export takes seconds: a model's float file is written once for all tests."""
    write = variants.VariantBuilder.float_file.func  # type: ignore[attr-defined]

    def float_file(self: variants.VariantBuilder) -> Path:
        key = self.source.path.read_bytes()
        if key not in _EXPORTED:
            _EXPORTED[key] = write(self).read_bytes()
        path = self._new_folder() / "float.onnx"
        path.write_bytes(_EXPORTED[key])
        return path

    monkeypatch.setattr(variants.VariantBuilder, "float_file", property(float_file))


_EXPORTED: dict[bytes, bytes] = {}


def settings(method: str = "auto", **config: Any) -> QuantizeSettings:
    return validate(
        QuantizeSettings,
        {"quantize": {"method": method, **config}, "measure": {"latency": False}},
    )


def never(plan: Any, name: str) -> Any:
    raise AssertionError("nothing is to be trained here")


def run_quantize(
    source: Path, requested: QuantizeSettings, output: Path | None = None
) -> QuantizeResult:
    return quantize(source, requested, output=output, finetuner=never)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def record(path: Path, kind: str = "quantize") -> dict[str, Any]:
    (result,) = [one.args for one in read_card(path).transforms if one.kind == kind]
    return result


def in_float(path: Path, *layers: str) -> list[str]:
    """Those of ``layers`` that compute with float weights: nodes of that name, which dlcli gave them."""
    import onnx

    graph = onnx.load(str(path)).graph
    float_tensors = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    names = {node.name for node in graph.node if len(node.input) > 1 and node.input[1] in float_tensors}
    return [layer for layer in layers if layer in names]


def copied(run: RunFolder, root: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(run.path, root / run.name)))


@pytest.mark.skipif(int8_saturates(), reason="static int8 may lose too much on this CPU")
def test_a_conv_net_gets_a_static_int8_file_next_to_it(runs: Runs, tmp_path: Path) -> None:
    run = copied(runs("cnn"), tmp_path)
    before = contents(run.path)
    result = run_quantize(run.best, settings())
    assert (result.chosen.method, result.missed) == ("static", None)
    assert result.output == run.path / "best.int8-static.onnx"
    after = contents(run.path)
    assert set(after) - set(before) == {"best.int8-static.onnx"}
    assert all(after[name] == data for name, data in before.items())
    report = result.to_dict()
    assert report["size_ratio"] < 0.45
    assert report["agreement"] > 0.95
    assert report["before"]["format"] == report["after"]["format"] == "onnx"
    assert report["before"]["artifact"] == str(run.best)
    # A grey image's 3x3 convolution is faster in float; whether others stay depends on the processor.
    assert "features.0" in report["layers_in_float"] == record(result.output)["float"]
    assert result.chosen.unsuited == ("features.0",)
    assert record(result.output)["calibration_samples"] == 256
    assert in_float(result.output, "features.0", "head.1") == ["features.0"]
    assert read_card(result.output).metrics == {"val": report["after"]["metrics"]}
    with pytest.raises(DlcliError, match="is quantized already"):
        run_quantize(result.output, settings())


def test_arm_gets_signed_activations(runs: Runs, tmp_path: Path) -> None:
    import onnx

    requested = settings("static", target="arm", calibration="percentile")
    result = run_quantize(runs("cnn").best, requested, tmp_path / "arm.onnx")
    graph = onnx.load(str(result.output)).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    zero_points = [types[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert set(zero_points) == {onnx.TensorProto.INT8}
    assert result.comparison.delta.agreement is not None
    assert result.comparison.delta.agreement > 0.9


@pytest.mark.parametrize("name", ["cnn", "text-cnn"])
def test_dynamic_is_refused_for_conv_nets(runs: Runs, name: str) -> None:
    before = contents(runs(name).path)
    with pytest.raises(DlcliError, match=r"convolutional models.*several times slower") as info:
        run_quantize(runs(name).best, settings("dynamic"))
    assert "--method static" in (info.value.hint or "")
    assert contents(runs(name).path) == before


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_what_has_no_convolutions_gets_dynamic_int8(runs: Runs, tmp_path: Path, name: str) -> None:
    import onnx

    result = run_quantize(runs(name).best, settings(), tmp_path / "small.onnx")
    assert result.chosen.method == "dynamic"
    assert result.comparison.delta.agreement is not None
    assert result.comparison.delta.agreement > 0.95
    graph = onnx.load(str(result.output)).graph
    ops = {node.op_type for node in graph.node}
    assert ("DynamicQuantizeLSTM" in ops) == (name == "lstm")
    left = [t.name for t in graph.initializer if t.data_type == 1 and np.prod(t.dims) >= 4096]
    assert not left  # smaller products are faster in float


def test_auto_does_not_call_a_model_quantized_that_stays_in_float(runs: Runs, tmp_path: Path) -> None:
    result = run_quantize(runs("gru").best, settings(), tmp_path / "gru.onnx")
    assert result.chosen.method == "fp16"
    assert set(result.refused) == {"dynamic", "static", "weight-only"}
    assert "of the weights" in result.refused["dynamic"]


def test_layers_that_are_named_stay_in_float(runs: Runs, tmp_path: Path) -> None:
    run = runs("mlp")
    result = run_quantize(run.best, settings("dynamic", skip="head,body.0"), tmp_path / "some.onnx")
    assert result.chosen.layers_in_float == ("body.0", "head")
    assert result.chosen.unsuited == ("head",)  # small; the other one was the user's choice
    assert in_float(result.output, "body.0", "body.4", "head") == ["body.0", "head"]
    with pytest.raises(UsageError, match="boddy: no layer has that name") as info:
        run_quantize(run.best, settings("dynamic", skip="boddy"))
    assert "body" in (info.value.hint or "")
    with pytest.raises(UsageError, match="leaves no layer"):
        run_quantize(run.best, settings("fp16", backend="torch", skip="*"))


@pytest.mark.parametrize(("bits", "share"), [(8, 0.30), (4, 0.17)])
def test_weights_alone_in_groups(runs: Runs, tmp_path: Path, bits: int, share: float) -> None:
    run = runs("mlp")
    in_onnx = run_quantize(run.best, settings("weight-only", bits=bits), tmp_path / "w.onnx")
    in_torch = run_quantize(
        run.best, settings("weight-only", bits=bits, backend="torch"), tmp_path / "w.safetensors"
    )
    for result in (in_onnx, in_torch):
        assert result.comparison.delta.agreement is not None
        assert result.comparison.delta.agreement > (0.97 if bits == 8 else 0.85)
    shapes = [p.shape for p in open_artifact(run.best).module().parameters() if p.ndim > 1]
    stored, _ = read_tensors(in_torch.output)
    sizes = {n: t.numel() * t.element_size() for n, t in stored.items() if ":" in n}
    assert sum(sizes.values()) == sum(encoded_bytes(s, bits, 64) for s in shapes)
    assert sum(sizes.values()) < share * 4 * sum(s.numel() for s in shapes)
    assert any("the file is smaller, not the work" in text for text in in_torch.verdict())
    with pytest.raises(DlcliError, match="is quantized already"):
        run_quantize(in_torch.output, settings())


def test_16_bits(runs: Runs, tmp_path: Path) -> None:
    run = runs("cnn")
    in_onnx = run_quantize(run.best, settings("fp16", skip="head.4"), tmp_path / "h.onnx")
    in_torch = run_quantize(run.best, settings("bf16"), tmp_path / "h.safetensors")
    assert in_onnx.comparison.size_ratio < 0.8
    assert record(in_onnx.output)["float"] == ["head.4"]
    assert record(in_torch.output, "half")["dtype"] == "bfloat16"
    for result in (in_onnx, in_torch):
        assert result.comparison.delta.agreement is not None
        assert result.comparison.delta.agreement > 0.97


def test_pairs_of_method_and_backend_that_do_not_exist(runs: Runs) -> None:
    with pytest.raises(UsageError, match=r"dynamic --backend torch does not exist: torch's") as info:
        run_quantize(runs("mlp").best, settings("dynamic", backend="torch"))
    assert all(name in (info.value.hint or "") for name in ("weight-only", "fp16", "bf16"))
    with pytest.raises(UsageError, match="refuses bfloat16"):
        run_quantize(runs("mlp").best, settings("bf16", backend="onnxruntime"))
    with pytest.raises(UsageError, match=r"--group-size 24: ONNX Runtime takes 16, 32"):
        run_quantize(runs("mlp").best, settings("weight-only", backend="onnxruntime", group_size=24))


def test_calibration_on_too_few_samples_is_refused(runs: Runs) -> None:
    before = contents(runs("cnn").path)
    with pytest.raises(UsageError, match=r"--calibration-samples 1: fewer than 8 samples"):
        run_quantize(runs("cnn").best, settings("static", calibration_samples=1))
    assert contents(runs("cnn").path) == before


def test_a_calibration_that_fails_leaves_nothing(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run, read = runs("cnn"), []

    def fail(graph: Any, feeds: Any, *, target: str, calibration: str) -> Any:
        read.append(next(iter(feeds)))
        raise DlcliError("the disk is gone")

    static = replace(method_of("static", "onnxruntime"), calibrate=fail)
    monkeypatch.setitem(QUANTIZE_METHODS._entries, "static/onnxruntime", static)
    before = contents(run.path)
    with pytest.raises(DlcliError, match="the disk is gone"):
        run_quantize(run.best, settings("static"))
    assert len(read[0]["input"]) == 8  # small batches: their activations are in memory at once
    assert contents(run.path) == before


def test_a_full_disk_is_said_of_the_folder_that_is_written(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs("cnn")
    before = contents(run.path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    static = replace(method_of("static", "onnxruntime"), calibrate=full)
    monkeypatch.setitem(QUANTIZE_METHODS._entries, "static/onnxruntime", static)
    with pytest.raises(DlcliError) as caught:
        run_quantize(run.best, settings("static"))
    assert caught.value.message == f"cannot write {run.path}: No space left on device"
    assert contents(run.path) == before


def test_without_its_data_a_model_is_not_calibrated_and_not_verified(runs: Runs, tmp_path: Path) -> None:
    def without_data(run: RunFolder) -> RunFolder:
        card = read_card(run.best)
        assert card.data is not None
        gone = card.data.model_copy(update={"data": str(tmp_path / "gone.csv")})
        source = open_artifact(run.best)
        save_model(run.best, source.module(), card.model_copy(update={"data": gone}))
        return run

    conv = without_data(copied(runs("cnn"), tmp_path / "conv"))
    with pytest.raises(DlcliError, match="training samples, which cannot be reached"):
        run_quantize(conv.best, settings())  # float16 would be no answer to that
    run = without_data(copied(runs("lstm"), tmp_path))
    with pytest.raises(DlcliError, match="training samples, which cannot be reached"):
        run_quantize(run.best, settings("static"))
    with pytest.raises(DlcliError, match="cannot be measured without data"):
        run_quantize(run.best, settings("dynamic", max_drop="1%"))
    result = run_quantize(run.best, settings())
    assert result.chosen.method == "dynamic"
    assert result.verdict()[0].startswith("NOT VERIFIED ON DATA")
    assert "reason" in record(result.output, "not verified on data")


def poisoned(run: RunFolder, root: Path) -> Path:
    """The same model with a weight that ruins the grid of its layer: the corner of a digit is empty."""
    source = open_artifact(run.best, device="cpu")
    spec, module = source.card.task.input, source.module()
    corner = -spec.mean[0] / spec.std[0]  # type: ignore[union-attr]
    layer = module.get_submodule("body.0")
    with torch.no_grad():
        change = 400.0 - layer.weight[:, 0]  # type: ignore[index]
        layer.weight[:, 0] += change  # type: ignore[index]
        layer.bias -= corner * change  # type: ignore[operator]
    path = root / "best.safetensors"
    save_model(path, module, source.card)
    return path


def test_the_layer_that_suffers_stays_in_float(runs: Runs, tmp_path: Path) -> None:
    run = copied(runs("mlp"), tmp_path)
    path = poisoned(run, run.path)
    requested = settings("dynamic", max_drop="0.05", report="sensitivity")
    result = run_quantize(path, requested)
    assert result.missed is None
    assert result.chosen.layers_in_float == ("body.0", "head")  # a small head is no faster in int8
    first, second = result.candidates
    assert first.delta.drop > 0.05 >= second.delta.drop
    assert result.sensitivity[0].layers == ("body.0",)
    errors = [one.error for one in result.sensitivity]
    assert errors == sorted(errors, reverse=True)
    assert any("chosen among 2 candidates on these same samples" in text for text in result.verdict())
    # What lost is gone, what was chosen is there.
    assert not list(run.path.glob(".tmp-*"))
    assert record(result.output)["float"] == ["body.0", "head"]


def test_what_is_no_float_model_is_refused(runs: Runs, tmp_path: Path) -> None:
    run = runs("mlp")
    source = open_artifact(run.best)
    tuned = TransformRecord(kind="half", args={"dtype": "float16"})
    card: Card = source.card.model_copy(update={"transforms": (tuned,)})
    save_model(tmp_path / "half.safetensors", source.module(), card)
    with pytest.raises(DlcliError, match=r"is in 16 bits already \(float16\)"):
        run_quantize(tmp_path / "half.safetensors", settings())


def test_no_other_file_is_overwritten(runs: Runs, tmp_path: Path) -> None:
    run = runs("mlp")
    first = run_quantize(run.best, settings("fp16", backend="torch"), tmp_path / "a.safetensors")
    run_quantize(run.best, settings("bf16"), tmp_path / "a.safetensors")  # an older one of its kind
    assert record(first.output, "half")["dtype"] == "bfloat16"
    shutil.copy(run.best, tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match="is no quantized model"):
        run_quantize(run.best, settings("bf16"), tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match="is no onnx file"):
        run_quantize(run.best, settings("dynamic"), tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("saturates", "asked", "largest"), [(True, None, 64), (True, False, 127), (False, None, 127)]
)
def test_weights_have_7_bits_where_products_of_8_saturate(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saturates: bool,
    asked: bool | None,
    largest: int,
) -> None:
    monkeypatch.setattr(variants, "int8_saturates", lambda: saturates)
    requested = settings("static", target="x86", reduce_range=asked)
    result = run_quantize(runs("cnn").best, requested, tmp_path / "q.onnx")
    weights = [
        onnx.numpy_helper.to_array(tensor).astype(int)
        for tensor in onnx.load(result.output).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert weights
    assert {int(abs(weight).max()) for weight in weights} == {largest}
    assert record(result.output)["reduce_range"] is (largest == 64)
    assert any("7 bits" in sentence for sentence in result.verdict()) is (largest == 64)


@pytest.fixture(scope="module")
def graph(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of the mlp, of one size, next to a copy of its run."""
    run = RunFolder(tmp_path_factory.mktemp("graph") / "run")
    shutil.copytree(runs("mlp").path, run.path)
    source = open_artifact(run.best, device="cpu")
    source = source.with_card(
        source.card.model_copy(
            update={"transforms": (*source.card.transforms, provenance_record(run.best))}
        )
    )
    write_onnx(source, run.path / "best.onnx", ExportConfig(dynamic=False, batch_size=3))
    return run.path / "best.onnx"


@pytest.mark.parametrize("method", ["static", "dynamic", "fp16"])
def test_an_onnx_file_is_quantized_from_its_graph_alone(
    graph: Path, method: str, tmp_path: Path
) -> None:
    before = graph.read_bytes()
    result = run_quantize(graph, settings(method), tmp_path / "q.onnx")
    assert graph.read_bytes() == before
    assert result.comparison.split == "val"
    assert result.comparison.delta.agreement is not None
    assert result.comparison.delta.agreement > 0.9
    assert result.comparison.size_ratio < (0.6 if method == "fp16" else 0.5)
    written = open_artifact(tmp_path / "q.onnx", device="cpu")
    kinds = [record.kind for record in written.card.transforms]
    assert kinds.index("static") < max(i for i, kind in enumerate(kinds) if kind in ("quantize", "half"))
    with pytest.raises(DlcliError, match="already"):
        run_quantize(tmp_path / "q.onnx", settings(method))


@pytest.mark.parametrize("chosen", [{"method": "qat"}, {"method": "bf16"}, {"backend": "torch"}])
def test_what_needs_weights_names_the_file_that_has_them(graph: Path, chosen: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="holds no trainable model") as caught:
        run_quantize(graph, settings(**chosen))
    assert caught.value.hint is not None
    assert str(graph.with_name("best.safetensors")) in caught.value.hint


def test_an_onnx_file_takes_no_settings_of_training(graph: Path) -> None:
    chosen = merge(settings(max_drop="0.5").model_dump(exclude_unset=True), {"finetune": {"epochs": 2}})
    with pytest.raises(UsageError, match="--epochs is for training"):
        run_quantize(graph, validate(QuantizeSettings, chosen))

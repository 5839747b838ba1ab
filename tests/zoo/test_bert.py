"""`bert`: published encoders of three families read from folders, from their files to predictions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_bert
import torch
from safetensors.torch import load_file, save_file

from dlcli.cli import main
from dlcli.data.text.tokens import encode, encode_all
from dlcli.errors import DlcliError
from dlcli.formats.base import open_artifact, read_card
from dlcli.task import TaskSpec, TextInput
from dlcli.zoo.base import find_model
from dlcli.zoo.matching import load_matching
from dlcli.zoo.snapshots import read_snapshot

TRAIN = ["train", "-m", "bert", "--device", "cpu", "-e", "1", "-b", "12", "-q"]


def model_of(folder: Path, **args: Any) -> tuple[torch.nn.Module, TextInput]:
    """The model of a folder for an embedding of its own width, in eval mode."""
    snapshot = read_snapshot(folder)
    entry = find_model("bert", "text")
    task = TaskSpec(kind="embedding", input=snapshot.text, embedding_size=tiny_bert.DIM)
    module = entry.build(task, entry.arguments({**snapshot.args, **args}))
    loaded = load_matching(module, snapshot.state, source=folder)
    assert set(loaded.fresh) == {"head.weight", "head.bias"}
    assert not loaded.unused
    return module.eval(), snapshot.text


@pytest.mark.parametrize("family", tiny_bert.FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_outputs_are_those_of_torch_s_layers(family: str, pooling: str, tmp_path: Path) -> None:
    module, spec = model_of(tiny_bert.write_snapshot(tmp_path, family), pooling=pooling)
    texts = ["Who is the king?", "where", "when was the citys year born ?"]
    rows = encode_all(texts, spec).ids
    tokens = torch.zeros(3, max(map(len, rows)) + 2, dtype=torch.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.from_numpy(ids)
    outputs = module(tokens, torch.tensor([len(ids) for ids in rows]))
    for ids, output in zip(rows, outputs, strict=True):
        steps = tiny_bert.expected_output(family, ids.tolist())
        expected = steps[0] if pooling == "cls" else steps.mean(0)
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_outputs_for_pairs_are_those_of_torch_s_layers(tmp_path: Path) -> None:
    module, spec = model_of(tiny_bert.write_snapshot(tmp_path))
    pairs = encode_all(
        ["who is\tthe king ?", "\twhere"], spec.model_copy(update={"pair": True, "token_types": True})
    )
    tokens, lengths, types = (torch.from_numpy(array) for array in pairs.arrays())
    outputs = module(tokens, lengths, types)
    assert pairs.types is not None
    for ids, own, output in zip(pairs.ids, pairs.types, outputs, strict=True):
        expected = tiny_bert.expected_output("bert", ids.tolist(), own.tolist()).mean(0)
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(outputs, module(tokens, lengths), atol=1e-3)


@pytest.mark.parametrize("family", tiny_bert.FAMILIES)
def test_texts_are_encoded_by_the_file_s_own_pipeline(family: str, tmp_path: Path) -> None:
    spec = read_snapshot(tiny_bert.write_snapshot(tmp_path, family)).text
    library = tiny_bert.tokenizer(family)
    library.no_padding()
    for text in ("Who IS the kings?", "unheard of", "", "the " * 30):
        library.enable_truncation(spec.max_length)
        assert encode(text, spec).tolist() == library.encode(text).ids
    encoded = encode_all(["the " * 30, "", "zzz yyy", "who is"], spec)
    assert (encoded.truncated, encoded.empty, encoded.mostly_unknown) == (1, 1, 1)
    assert spec.max_length == tiny_bert.POSITIONS
    written = encode("[SEP] </s>", spec).tolist()
    assert written[1:-1] == [spec.unknown] * (len(written) - 2)


@pytest.mark.slow
def test_a_run_from_a_folder_needs_it_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny_bert.write_snapshot(tmp_path / "tiny")
    data = tiny_bert.write_questions(tmp_path / "q.csv")
    assert main([*TRAIN, "-d", str(data), "--weights", "tiny", "--name", "a", "-e", "2"]) == 0
    card = read_card(Path("runs/a/best.safetensors"))
    assert (card.weights_from, card.model.args["dim"]) == ("tiny", tiny_bert.DIM)
    assert isinstance(card.task.input, TextInput)
    assert card.task.input.tokenizer == "file"
    for file in folder.iterdir():
        file.unlink()
    assert main(["export", "a", "--onnx", "-q"]) == 0
    (exported,) = Path("runs/a").rglob("*.onnx")
    texts = ["who is the king?", "when was the city born", "unheard of"]
    columns = []
    for name in ("a", str(exported)):
        assert main(["predict", name, *texts, "--probabilities", "-o", "out.csv"]) == 0
        with open("out.csv") as file:
            columns.append([float(row["probability"]) for row in csv.DictReader(file)])
    assert columns[0] == pytest.approx(columns[1], abs=1e-4)
    assert main(["eval", "a", "-q"]) == 0
    # A run of such a model begins another one, with its tokenizer and structure.
    best = "runs/a/best.safetensors"
    assert main([*TRAIN, "-d", str(data), "--weights", best, "--name", "b", "--layer-decay", "0.9"]) == 0
    assert read_card(Path("runs/b/best.safetensors")).task.input == card.task.input


def probabilities(model: str, *inputs: str) -> list[float]:
    """The probability of "yes" that `predict` writes for each pair."""
    Path("new.jsonl").write_text('{"sentence2": "when", "sentence1": "who"}\n')
    assert main(["predict", model, *inputs, "--probabilities", "-o", "out.csv"]) == 0
    with open("out.csv") as file:
        return [float(row["probability_yes"]) for row in csv.DictReader(file)]


def test_a_run_on_pairs_of_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bert.write_snapshot(tmp_path / "tiny")
    data = tiny_bert.write_pairs(tmp_path / "q.csv")
    assert main([*TRAIN, "-d", str(data), "--weights", "tiny", "--name", "a"]) == 0
    assert main(["eval", "a", "-q"]) == 0
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"who\twhen\n")))
    same, text, turned, line = probabilities("a", "new.jsonl", "who\twhen", "when\twho", "-")
    assert same == text == line != turned
    capsys.readouterr()
    assert main(["explain", "a", "who is\tthe king"]) == 0
    assert "king" in capsys.readouterr().out


@pytest.mark.slow
def test_pairs_of_texts_in_exported_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bert.write_snapshot(tmp_path / "tiny")
    data = tiny_bert.write_pairs(tmp_path / "q.csv")
    assert main([*TRAIN, "-d", str(data), "--weights", "tiny", "--name", "a"]) == 0
    assert main(["export", "a", "--onnx", "-q"]) == 0
    (exported,) = Path("runs/a").rglob("*.onnx")
    pairs = ("who\twhen", "when\twho", "who is the king\twas")
    assert probabilities("a", *pairs) == pytest.approx(probabilities(str(exported), *pairs), abs=1e-4)
    assert main(["quantize", str(exported), "-m", "dynamic", "--max-drop", "1", "-q"]) == 0
    (smaller,) = Path("runs/a").rglob("*int8*.onnx")
    assert probabilities(str(smaller), *pairs) == pytest.approx(probabilities("a", *pairs), abs=0.1)


@pytest.mark.parametrize("task", ["multilabel", "regression", "embedding"])
def test_other_tasks(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bert.write_snapshot(tmp_path / "tiny")
    labels = {"multilabel": ("a|b", "b", "a|c"), "regression": ("1.5", "2.25", "7.125")}
    rows = [f"who is the king {i},{labels.get(task, 'xyz')[i % 3]}" for i in range(36)]
    (tmp_path / "q.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    extra = ["--task", task, "--freeze", "body.tokens", "--grad-checkpointing", "2"]
    assert main([*TRAIN, "-d", "q.csv", "--weights", "tiny", "--name", "a", *extra]) == 0
    artifact = open_artifact(Path("runs/a/best.safetensors"), device="cpu")
    assert artifact.card is not None
    if task == "embedding":
        assert artifact.card.task.embedding_size == tiny_bert.DIM


def _drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def _truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def _change(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        state = load_file(path)
        name = "bert.embeddings.LayerNorm.weight"
        save_file({**state, name: change(state[name])}, path)

    return apply


def _other_embedding(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["bert.embeddings.word_embeddings.weight"] = torch.zeros(10, tiny_bert.DIM)
    save_file(state, folder / "model.safetensors")


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(2), "b": Path("x")}, folder / "pytorch_model.bin")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (_drop("config.json"), "has no config.json"),
    "no tokenizer": (_drop("tokenizer.json"), "has no tokenizer.json"),
    "no tensors": (_drop("model.safetensors"), "has no file of weights"),
    "architecture": (_config(model_type="t5"), "the architecture t5 is not known"),
    "positions": (_config(position_embedding_type="relative_key"), "relative_key is not known"),
    "activation": (_config(hidden_act="gelu_new"), "the activation gelu_new is not known"),
    "a setting": (_config(hidden_size=None), "has no hidden_size"),
    "layers": (_config(num_hidden_layers=3), "it names 3 layers, and they are of 2"),
    # Building so many would take minutes before they are held against the file.
    "many layers": (_config(num_hidden_layers=10**9), "it names 1,000,000,000 layers"),
    "heads": (_config(num_attention_heads=3), "16 is no multiple of twice the 3 heads"),
    "a negative size": (_config(max_position_embeddings=-5), "leaves -5 positions"),
    "a fraction": (_config(hidden_size=16.5), "hidden_size leaves 16.5 dim"),
    "types": (_config(type_vocab_size=0), "body.types.weight has no place in the model"),
    "NaN": (_change(lambda tensor: tensor * float("nan")), "values that are NaN or infinite"),
    "integers": (_change(lambda tensor: tensor.long()), "is of torch.int64, and weights are floats"),
    "cut config": (_truncate("config.json"), "is damaged"),
    "cut tokenizer": (_truncate("tokenizer.json"), "cannot be read"),
    "cut tensors": (_truncate("model.safetensors"), "is damaged or not a safetensors file"),
    "embedding": (_other_embedding, "16 tokens and its embedding 10 rows"),
    "pickled": (_pickled, "contains more than tensors"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_folder_that_is_no_snapshot_is_refused_in_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    damage, message = DAMAGE[case]
    damage(tiny_bert.write_snapshot(tmp_path / "tiny"))
    data = tiny_bert.write_questions(tmp_path / "q.csv")
    assert main([*TRAIN, "-d", str(data), "--weights", "tiny"]) in (1, 2)
    err = " ".join(capsys.readouterr().err.split())
    assert message in err
    assert "Traceback" not in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--weights is missing"),
        (["--weights", "nowhere"], "--weights nowhere does not exist"),
        (["--weights", "tiny", "--tokenizer", "bpe"], "have a tokenizer of their own"),
        (["--weights", "tiny", "--max-length", "99"], "the model has 12 positions"),
        (["--weights", "tiny/model.safetensors"], "is no model of bert"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bert.write_snapshot(tmp_path / "tiny")
    data = tiny_bert.write_questions(tmp_path / "q.csv")
    assert main([*TRAIN, "-d", str(data), *options]) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_tokenizer_that_is_not_that_of_the_card_is_refused(tmp_path: Path) -> None:
    spec = read_snapshot(tiny_bert.write_snapshot(tmp_path)).text
    with pytest.raises(DlcliError, match="does not match its vocabulary"):
        encode("who", spec.model_copy(update={"vocabulary": spec.vocabulary[:-1]}))


def test_the_layers_of_a_folder_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bert.write_snapshot(tmp_path / "tiny")
    assert main(["models", "bert", "--weights", "tiny", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["args"]["dim"], shown["args"]["layers"]) == (tiny_bert.DIM, tiny_bert.LAYERS)
    assert main(["models", "cnn", "--kind", "text", "--weights", "tiny"]) == 2
    assert "does not depend on its weights" in capsys.readouterr().err

"""`hf:`: encoders of transformers, held against transformers itself; random ones of tiny widths."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_bert
import torch

from dlcli.card import ModelSpec
from dlcli.cli import main
from dlcli.data.base import pad
from dlcli.data.text.tokens import encode_all
from dlcli.errors import DlcliError, UsageError
from dlcli.formats.base import read_card
from dlcli.task import TaskSpec
from dlcli.zoo.base import build_model, find_model
from dlcli.zoo.hf_models import read_folder
from dlcli.zoo.matching import load_matching

TRAIN = ["train", "--device", "cpu", "-e", "1", "-b", "12", "-q"]
DEBERTA = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 4,
    "type_vocab_size": 0,
}
MODERNBERT = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "electra": {},
    "mpnet": {"pad_token_id": 1},
    "deberta-v2": DEBERTA,
    "albert": {"embedding_size": 8},
    "modernbert": {"pad_token_id": 0, **MODERNBERT},
    "bert": {},
}


@pytest.fixture
def transformers() -> Any:
    """The library, an extra that `.ci/run` installs with the newest versions alone."""
    return pytest.importorskip("transformers", reason="the extra transformers is not installed")


def write_encoder(folder: Path, name: str, **values: Any) -> Path:
    """A folder of a random encoder, its tokenizer that of `tiny_bert`."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tiny_bert.WORDS) + 4,
        "hidden_size": tiny_bert.DIM,
        "intermediate_size": tiny_bert.FF,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 12,
    }
    config = transformers.AutoConfig.for_model(name, **{**sizes, **FAMILIES.get(name, {}), **values})
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tiny_bert.tokenizer("roberta" if name == "mpnet" else "bert").save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("pair", [False, True])
def test_outputs_are_those_of_transformers(
    name: str, pair: bool, transformers: Any, tmp_path: Path
) -> None:
    folder = write_encoder(tmp_path, name)
    oracle = transformers.AutoModel.from_pretrained(folder).eval()
    snapshot = read_folder(folder)
    spec = snapshot.text.model_copy(update={"pair": pair})
    if not pair:
        spec = spec.model_copy(update={"token_types": False})
    task = TaskSpec(kind="embedding", input=spec, embedding_size=tiny_bert.DIM)
    module = build_model(ModelSpec(name="hf:x", args=snapshot.args), task).eval()
    loaded = load_matching(module, snapshot.state, source=folder)
    assert set(loaded.fresh) == {"head.weight", "head.bias"}
    texts = ["who is\tthe king", "where\twas", "when was the citys year born\twho ?", "\t"]
    encoded = encode_all(texts if pair else [text.replace("\t", " ") for text in texts], spec)
    tokens, lengths, *types = map(torch.from_numpy, encoded.arrays())
    mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
    filler = int(oracle.config.pad_token_id or 0)
    with torch.no_grad():
        steps = oracle(
            input_ids=torch.where(mask.bool(), tokens, filler),
            attention_mask=mask,
            **({"token_type_ids": types[0]} if types else {}),
        ).last_hidden_state
        expected = (steps * mask[:, :, None]).sum(1) / lengths[:, None]
        expected = torch.nn.functional.normalize(expected, dim=1)
        torch.testing.assert_close(module(tokens, lengths, *types), expected, atol=1e-5, rtol=0)
    assert len(pad(encoded.ids)[0]) <= spec.max_length == 12 - 2 * (name == "mpnet")


def test_a_run_of_an_encoder(transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_encoder(tmp_path / "electra", "electra")
    data = tiny_bert.write_questions(tmp_path / "q.csv")
    assert main([*TRAIN, "-m", "hf:electra", "-d", str(data), "--name", "a"]) == 0
    card = read_card(Path("runs/a/best.safetensors"))
    assert card.weights_from == "electra"
    lora = ["--lora", "2", "--name", "l"]
    assert main([*TRAIN, "-m", "hf:electra", "-d", str(data), *lora]) == 0
    assert main(["export", "l", "--format", "adapter", "-q"]) == 0
    (adapter,) = Path("runs/l").rglob("*.adapter.safetensors")
    assert main(["predict", str(adapter), "who is the king", "-q"]) == 0
    for file in folder.iterdir():
        file.unlink()
    assert main(["eval", "a", "-q"]) == 0
    best = "runs/a/best.safetensors"
    again = [*TRAIN, "-m", "hf:other", "-d", str(data), "--weights", best, "--name", "b"]
    assert main([*again, "--lora", "2", "--layer-decay", "0.9"]) == 0
    assert read_card(Path("runs/b/best.safetensors")).task.input == card.task.input


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_exports_of_an_encoder(
    name: str, transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_encoder(tmp_path / "folder", name)
    data = tiny_bert.write_pairs(tmp_path / "q.csv")
    assert main([*TRAIN, "-m", "hf:folder", "-d", str(data), "--name", "a"]) == 0
    assert main(["export", "a", "--onnx", "-q"]) == 0
    (exported,) = Path("runs/a").rglob("*.onnx")
    assert main(["quantize", str(exported), "-m", "dynamic", "--max-drop", "1", "-q"]) == 0
    columns = []
    for model in ("a", str(exported)):
        assert main(["predict", model, "who\twhen", "is\twas", "--probabilities", "-o", "out.csv"]) == 0
        with open("out.csv") as file:
            columns.append([float(row["probability_yes"]) for row in csv.DictReader(file)])
    assert columns[0] == pytest.approx(columns[1], abs=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"auto_map": {"AutoModel": "modeling.X"}}, "code of its own, which is not run"),
        ({"model_type": "nothing"}, "does not know the architecture nothing"),
        ({"model_type": "t5"}, "it is an encoder and a decoder"),
        ({"model_type": "vit"}, "cannot be used as an encoder of texts|does not fit its tensors"),
        ({"num_hidden_layers": 3}, "does not fit its tensors"),
        ({"hidden_size": 20}, "does not fit its tensors: .* is of another shape"),
        ({"hidden_size": -1}, "cannot be built as an encoder"),
    ],
)
def test_what_is_no_encoder_of_texts_is_refused(
    values: dict[str, Any], message: str, transformers: Any, tmp_path: Path
) -> None:
    folder = write_encoder(tmp_path, "electra")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(DlcliError, match=message):
        read_folder(folder)


def test_outputs_that_depend_on_padding_are_refused(transformers: Any, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, "fnet", pad_token_id=0)
    with pytest.raises(DlcliError, match="depend on the padding"):
        read_folder(folder)


def test_without_the_library_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = tiny_bert.write_snapshot(tmp_path)
    with pytest.raises(DlcliError, match="transformers is not installed") as info:
        read_folder(folder)
    assert "dlcli[transformers]" in str(info.value.hint)


def test_encoders_take_texts_alone() -> None:
    with pytest.raises(UsageError, match="takes texts, not image data"):
        find_model("hf:folder", "image")

"""`bert` held against transformers, on the published MiniLM: slow, and only where both are."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli.card import ModelSpec
from dlcli.data.base import pad
from dlcli.data.text.tokens import encode_all
from dlcli.task import TaskSpec
from dlcli.zoo.base import build_model
from dlcli.zoo.matching import load_matching
from dlcli.zoo.snapshots import read_snapshot

pytestmark = pytest.mark.slow
WORDS = (
    "who what is the first Größe of a king's city, in 1984? naïve 東京 transformers' state-of-the-art !"
)


def texts(count: int = 100) -> list[str]:
    """Random texts of 0 to 60 words."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS.split(), k=rng.randrange(60))) for _ in range(count)]


def weights_folder() -> Path:
    """The folder that benchmarks/fetch_weights.py wrote, named by DLCLI_WEIGHTS."""
    folder = Path(os.environ.get("DLCLI_WEIGHTS", "")) / "all-MiniLM-L6-v2"
    if not (folder / "model.safetensors").is_file():
        pytest.skip("DLCLI_WEIGHTS names no folder of benchmarks/fetch_weights.py")
    return folder


def test_outputs_are_those_of_transformers() -> None:
    transformers: Any = pytest.importorskip("transformers", reason="transformers is the oracle")
    folder = weights_folder()
    oracle = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    snapshot = read_snapshot(folder)
    width = snapshot.args["dim"]
    task = TaskSpec(kind="embedding", input=snapshot.text, embedding_size=width)
    module = build_model(ModelSpec(name="bert", args=snapshot.args), task).eval()
    load_matching(module, snapshot.state, source=folder)
    rows = encode_all(texts(), snapshot.text).ids
    batch = tokenizer(texts(), return_tensors="pt", padding="longest", truncation=True, max_length=512)
    lengths = torch.tensor([len(ids) for ids in rows])
    assert batch["attention_mask"].sum(1).tolist() == lengths.tolist()
    assert torch.equal(batch["input_ids"], torch.from_numpy(pad(rows)))
    with torch.no_grad():
        steps = oracle(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        expected = torch.nn.functional.normalize((steps * mask).sum(1) / mask.sum(1), dim=1)
        torch.testing.assert_close(module(batch["input_ids"], lengths), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "xlm-roberta", "camembert"])
def test_random_models_of_every_family(family: str, tmp_path: Path) -> None:
    import tiny_bert

    transformers: Any = pytest.importorskip("transformers", reason="transformers is the oracle")
    layout = family if family in tiny_bert.FAMILIES else "roberta"
    tiny_bert.write_snapshot(tmp_path, layout, model_type=family)
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    oracle = transformers.AutoModel.from_config(config).eval()
    oracle.save_pretrained(tmp_path)
    snapshot = read_snapshot(tmp_path)
    task = TaskSpec(kind="embedding", input=snapshot.text, embedding_size=tiny_bert.DIM)
    module = build_model(ModelSpec(name="bert", args=snapshot.args), task).eval()
    load_matching(module, snapshot.state, source=tmp_path)
    lengths = torch.tensor([9, 4, 1])
    tokens = torch.randint(4, snapshot.text.vocab_size, (3, 9))
    mask = (torch.arange(9) < lengths[:, None]).long()
    tokens = torch.where(mask.bool(), tokens, int(config.pad_token_id or 0))
    with torch.no_grad():
        steps = oracle(input_ids=tokens, attention_mask=mask).last_hidden_state
        expected = (steps * mask[:, :, None]).sum(1) / lengths[:, None]
        expected = torch.nn.functional.normalize(expected, dim=1)
        torch.testing.assert_close(module(tokens, lengths), expected, atol=1e-5, rtol=0)


def test_pairs_are_encoded_and_computed_as_by_transformers() -> None:
    transformers: Any = pytest.importorskip("transformers", reason="transformers is the oracle")
    folder = weights_folder()
    oracle = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    snapshot = read_snapshot(folder)
    spec = snapshot.text.model_copy(update={"pair": True, "max_length": 64})
    task = TaskSpec(kind="embedding", input=spec, embedding_size=snapshot.args["dim"])
    module = build_model(ModelSpec(name="bert", args=snapshot.args), task).eval()
    load_matching(module, snapshot.state, source=folder)
    first, second = texts(60), texts(60)[::-1]
    encoded = encode_all([f"{one}\t{other}" for one, other in zip(first, second, strict=True)], spec)
    assert 0 < encoded.truncated < 60
    options = {"return_tensors": "pt", "padding": "longest", "truncation": "longest_first"}
    batch = tokenizer(first, second, max_length=64, **options)
    tokens, lengths, types = map(torch.from_numpy, encoded.arrays())
    assert torch.equal(batch["input_ids"], tokens)
    assert torch.equal(batch["token_type_ids"], types)
    with torch.no_grad():
        steps = oracle(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        expected = torch.nn.functional.normalize((steps * mask).sum(1) / mask.sum(1), dim=1)
        torch.testing.assert_close(module(tokens, lengths, types), expected, atol=1e-5, rtol=0)

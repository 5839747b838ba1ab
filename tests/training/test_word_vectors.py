"""Runs that begin with word vectors: the rows, the arguments, what is refused, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import write_texts

from dlcli.config import TrainConfig
from dlcli.errors import DlcliError, UsageError
from dlcli.events import ignore
from dlcli.formats.checkpoint import read_tensors
from dlcli.runs.saved import read_run
from dlcli.settings import merge, validate
from dlcli.task import TextInput
from dlcli.training import run as training
from dlcli.training.plan import Plan
from dlcli.training.planning import make_plan, read_plan
from dlcli.training.prepare import prepare_run
from dlcli.zoo.token_embedding import TokenEmbedding

MODELS = ["cnn", "lstm", "gru", "rnn", "transformer", "linear"]
VECTORS = {"ice": [1.0, 2, 3, 4, 5, 6], "sun": [6.0, 5, 4, 3, 2, 1], "hail": [0.0] * 6}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Texts, and word vectors for two of their words and another."""
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in VECTORS.items()))
    return write_texts(tmp_path), vectors


def plan_of(files: tuple[Path, Path], **settings: Any) -> Plan:
    data, vectors = files
    base = {
        "data": {"data": str(data)},
        "model": {"name": "cnn", "word_vectors": str(vectors)},
        "fit": {"epochs": 1, "batch_size": 20, "device": "cpu", "min_steps": 1},
    }
    return make_plan(lambda recipe: validate(TrainConfig, merge(recipe, base, settings)))


def embedding_of(plan: Plan) -> TokenEmbedding:
    module, *_ = plan.build()
    (embedding,) = [part for part in module.modules() if isinstance(part, TokenEmbedding)]
    return embedding


def row_of(plan: Plan, word: str) -> int:
    assert isinstance(plan.task.input, TextInput)
    return plan.task.input.vocabulary.index(word)


@pytest.mark.parametrize("name", MODELS)
def test_known_words_get_their_vectors_and_others_stay_as_initialised(
    files: tuple[Path, Path], name: str
) -> None:
    plan = plan_of(files, model={"name": name})
    embedding = embedding_of(plan)
    table = embedding.table.weight.detach()
    assert table.shape[1] == 6
    known = [row_of(plan, word) for word in ("ice", "sun")]
    assert table[known].tolist() == [VECTORS["ice"], VECTORS["sun"]]
    args = dict(plan.model.args)
    plain = plan_of(files, model={"name": name, "word_vectors": None, "args": args})
    rest = [row for row in range(len(table)) if row not in known]
    assert torch.equal(table[rest], embedding_of(plain).table.weight.detach()[rest])
    assert any("vectors of 6 numbers for 2 of the" in note for note in plan.notes)
    assert (embedding.projection is not None) == (name == "transformer")


def test_vectors_with_other_settings_that_exclude_them_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"model\.args\.dim = 8, and the vectors of .* have 6 numbers"):
        plan_of(files, model={"args": {"dim": 8}})
    with pytest.raises(UsageError, match="exclude each other"):
        plan_of(files, model={"weights": "w.pth"})
    with pytest.raises(UsageError, match="are for --tokenizer word"):
        plan_of(files, data={"tokenizer": "bpe"})
    with pytest.raises(UsageError, match="--word-vectors is for text data, and this is image"):
        plan_of(files, data={"data": "digits"})
    with pytest.raises(DlcliError, match="does not exist, or is no file"):
        plan_of(files, model={"word_vectors": "missing.txt"})


def test_frozen_vectors_stay_and_a_run_repeats_from_its_files(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    plan = plan_of(files, model={"freeze": "embedding.table"})
    prepared = prepare_run(plan)
    assert not any("random weights" in note for note in prepared.load_notes)
    run = training.new_run(prepared, tmp_path / "runs", "one")
    saved = read_run(run)
    again = prepare_run(read_plan(saved, fresh=True)).module.state_dict()
    assert all(torch.equal(t, again[name]) for name, t in prepared.module.state_dict().items())

    training.train(prepared, run, ignore, state=None)
    tensors, _ = read_tensors(run.best)
    trained = tensors["embedding.table.weight"]
    assert np.allclose(trained[row_of(plan, "ice")], VECTORS["ice"])

    files[1].write_text("ice 1 2 3 4 5 7\n")
    assert read_plan(read_run(run), fresh=False).word_vectors is None  # a state has them
    with pytest.raises(DlcliError, match=r"its word vectors .* have changed"):
        read_plan(read_run(run), fresh=True)

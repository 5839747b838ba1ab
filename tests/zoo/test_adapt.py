"""Weights of another model of dlcli: what means the same is taken, and what does not is notes."""

from __future__ import annotations

import pytest
import torch

from dlcli.card import ModelSpec
from dlcli.errors import DlcliError
from dlcli.task import SPECIAL_TOKENS, NumberColumn, TabularInput, TaskSpec, TextInput
from dlcli.zoo.base import build_model, find_model
from dlcli.zoo.weights import adapt


def text(words: str, classes: str) -> TaskSpec:
    vocabulary = (*SPECIAL_TOKENS, *words.split())
    return TaskSpec(input=TextInput(vocabulary=vocabulary, max_length=8), class_names=tuple(classes))


def test_rows_of_an_embedding_follow_their_tokens() -> None:
    old, new = text("sun rain snow", "ab"), text("wind snow sun", "ab")
    before, after = (build_model(ModelSpec(name="linear"), task) for task in (old, new))
    state = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    head = find_model("linear", "text").head(after)
    adapted, notes = adapt(after, state, old=old, new=new, head=head)
    (name,) = [n for n, t in state.items() if t.ndim == 2 and len(t) == 7]
    rows = adapted[name]
    assert torch.equal(rows[5], state[name][6])  # snow
    assert torch.equal(rows[6], state[name][4])  # sun
    assert torch.equal(rows[4], after.state_dict()[name][4])  # wind is new
    assert notes == ["its vocabulary has 6 of the 7 tokens of the data"]
    assert any(key.startswith(head) for key in adapted)


def test_a_head_of_other_classes_starts_fresh() -> None:
    old, new = text("sun rain", "ab"), text("sun rain", "ba")
    module = build_model(ModelSpec(name="linear"), new)
    head = find_model("linear", "text").head(module)
    adapted, notes = adapt(module, dict(module.state_dict()), old=old, new=new, head=head)
    assert adapted
    assert not any(key.startswith(head) for key in adapted)
    assert "head keeps its initial weights" in notes[0]


def test_other_columns_are_refused() -> None:
    def table(*names: str) -> TaskSpec:
        numbers = tuple(NumberColumn(name=name) for name in names)
        return TaskSpec(input=TabularInput(numbers=numbers), class_names=("a", "b"))

    module = build_model(ModelSpec(name="mlp"), table("x", "y"))
    with pytest.raises(DlcliError, match="the columns of its model differ"):
        adapt(module, {}, old=table("y", "x"), new=table("x", "y"), head="head")

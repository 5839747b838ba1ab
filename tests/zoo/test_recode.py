"""Models with encoders of their own, as one: each gets its own input from the joint one."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from dlcli.data.joint_input import joint_input
from dlcli.data.tables.columns import encode_columns
from dlcli.errors import UsageError
from dlcli.evaluation.probabilities import softmax
from dlcli.task import (
    SPECIAL_TOKENS,
    CategoryColumn,
    ImageInput,
    InputSpec,
    NumberColumn,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
    TextInput,
)
from dlcli.zoo.ensemble import MeanOf
from dlcli.zoo.recode import recode

IMAGE = ImageInput(channels=1, height=2, width=2, resize_size=2, mean=(0.5,), std=(0.5,))


def recoded(joint: InputSpec, own: InputSpec, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    module = recode(joint, own)
    assert module is not None
    assert not module.state_dict()  # both encodings are in the card
    return tuple(module(*inputs))


def test_rows_of_a_table_become_those_of_each_model() -> None:
    """With values missing here and there, logs, and categories that one of the models has not seen."""
    columns = {"a": [1.0, None, 300.0, -4.0], "b": [None, 2.0, 3.0, 1e6], "c": ["x", "y", None, "new"]}
    frame = pl.DataFrame(columns)
    specs = [
        TabularInput(
            numbers=(
                NumberColumn(name="a", mean=1, std=2, fill=fill, log=True, indicator=indicator),
                NumberColumn(name="b", mean=mean, std=3, fill=7),
            ),
            categories=(CategoryColumn(name="c", values=values),),
        )
        for fill, indicator, mean, values in ((3, False, 0, ("x",)), (5, True, 100, ("y", "x")))
    ]
    joint = joint_input(specs)
    assert isinstance(joint, TabularInput)
    rows = torch.from_numpy(encode_columns(frame, joint)[0])
    for own in specs:
        (out,) = recoded(joint, own, rows)
        np.testing.assert_allclose(out, encode_columns(frame, own)[0], rtol=1e-5, atol=1e-5)


def test_words_and_padding() -> None:
    specs = [
        TextInput(vocabulary=(*SPECIAL_TOKENS, *words), max_length=3)
        for words in (("sun", "rain"), ("snow", "rain"))
    ]
    joint = joint_input(specs)
    assert isinstance(joint, TextInput)
    ids = torch.tensor([[joint.vocabulary.index(w) for w in ("snow", "rain", "<pad>")]])
    lengths = torch.tensor([2])
    assert recode(joint, joint) is None
    for own, expected in zip(specs, ([1, 5, 0], [4, 5, 0]), strict=True):
        tokens, same = recoded(joint, own, ids, lengths)
        assert (tokens.tolist(), same.tolist()) == ([expected], [2])


def test_series_and_images_are_scaled_and_padding_stays_0() -> None:
    first, second = (
        SeriesInput(channels=("a", "b"), mean=mean, std=std, length=3, varies=True)
        for mean, std in (((0, 1), (1, 2)), ((5, 5), (2, 4)))
    )
    values = torch.randn(2, 3, 2)
    lengths = torch.tensor([3, 1])
    values[1, 1:] = 0
    out, _ = recoded(joint_input([first, second]), second, values, lengths)
    raw = values * torch.tensor([1.0, 2.0]) + torch.tensor([0.0, 1.0])
    expected = (raw - 5) / torch.tensor([2.0, 4.0])
    expected[1, 1:] = 0
    torch.testing.assert_close(out, expected)
    other = IMAGE.model_copy(update={"mean": (0.0,), "std": (1.0,)})
    (pixels,) = recoded(joint_input([IMAGE, other]), other, torch.zeros(1, 1, 2, 2))
    assert pixels.unique().tolist() == [0.5]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (IMAGE, IMAGE.model_copy(update={"height": 1}), "height differs: 2, 1"),
        (
            TabularInput(numbers=(NumberColumn(name="a"),)),
            TabularInput(numbers=(NumberColumn(name="b"),)),
            "same columns as numbers: a, b",
        ),
        (
            TabularInput(numbers=(NumberColumn(name="a"),)),
            TabularInput(numbers=(NumberColumn(name="a", log=True),)),
            "'log' of the column 'a'",
        ),
        (
            TextInput(tokenizer="bpe", merges="1", vocabulary=SPECIAL_TOKENS, max_length=3),
            TextInput(tokenizer="bpe", merges="2", vocabulary=SPECIAL_TOKENS, max_length=3),
            "their tokenizers",
        ),
    ],
)
def test_encoders_that_have_no_joint_one(first: InputSpec, second: InputSpec, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        joint_input([first, second])


def test_the_mean_is_of_probabilities_and_of_numbers() -> None:
    """Also where classes stand in another order, and targets have other scales."""
    outputs = torch.randn(4, 3) * 5

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return outputs[:, : 3 if classes else 1]

    classes = True
    tasks = [TaskSpec(input=IMAGE, class_names=names) for names in (("a", "b", "c"), ("c", "a", "b"))]
    mean = MeanOf([Fixed(), Fixed()], tasks, tasks[0])(torch.zeros(4, 1, 2, 2))
    numbers = outputs.numpy()
    expected = (softmax(numbers) + softmax(numbers[:, [1, 2, 0]])) / 2
    np.testing.assert_allclose(softmax(mean.numpy()), expected, atol=1e-6)
    multi = [task.model_copy(update={"kind": "multilabel"}) for task in tasks]
    logits = MeanOf([Fixed(), Fixed()], multi, multi[0])(torch.zeros(4, 1, 2, 2))
    probabilities = torch.sigmoid(outputs)
    expected = (probabilities + probabilities[:, [1, 2, 0]]) / 2
    torch.testing.assert_close(torch.sigmoid(logits), expected)
    classes = False
    scales = [
        TaskSpec(kind="regression", input=IMAGE, targets=(TargetNumber(name="y", mean=m, std=s),))
        for m, s in ((10, 2), (0, 1))
    ]
    mean = MeanOf([Fixed(), Fixed()], scales, scales[0])(torch.zeros(4, 1, 2, 2))
    torch.testing.assert_close(mean * 2 + 10, (outputs[:, :1] * 2 + 10 + outputs[:, :1]) / 2)

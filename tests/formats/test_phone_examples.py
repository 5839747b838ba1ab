"""The programs for phones: written, not run. What can be held to here is their text."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from dlcli.card import Card, ModelSpec
from dlcli.errors import UsageError
from dlcli.formats.base import FORMATS
from dlcli.formats.onnx.embed import with_raw_inputs
from dlcli.formats.readable_outputs import with_readable_outputs
from dlcli.task import TaskSpec

ONNX, COREML = FORMATS.get("onnx").examples, FORMATS.get("coreml").examples


def card_of(task: TaskSpec, *, embedded: bool = True) -> Card:
    card = Card(model=ModelSpec(name="mlp"), task=task)
    return with_readable_outputs(with_raw_inputs(card)) if embedded else card


def balanced(text: str) -> bool:
    """Whether brackets outside of strings and comments close in order."""
    stack, in_string = [], False
    for line in text.splitlines():
        at = 0
        while at < len(line):
            c = line[at]
            if in_string:
                at += c == "\\"
                in_string = c != '"'
            elif c == '"':
                in_string = True
            elif line.startswith("//", at):
                break
            elif c in "([{":
                stack.append(c)
            elif c in ")]}" and (not stack or stack.pop() + c not in ("()", "[]", "{}")):
                return False
            at += 1
        assert not in_string, line
    return not stack


NAMES = ("$x", 'say "hi"', "back\\slash")
TASKS = {
    "photo": tiny.make_task(tiny.image(8), classes=NAMES),
    "grey": tiny.make_task(tiny.image(8, 1), "multilabel", classes=NAMES),
    "table": tiny.make_task(tiny.table(("a", "$b"), {"c": "xy"}), "regression", targets=("price",)),
    "words": tiny.make_task(tiny.table((), {"c": "xy"}), classes=NAMES),
    "embedding": tiny.make_task(tiny.image(8), "embedding"),
}


@pytest.mark.parametrize("name", TASKS)
def test_programs_name_what_the_file_has(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    card = card_of(task)
    ONNX["android"].check(card, embedded=True)
    text = ONNX["android"].write(tmp_path / "best.onnx", card)
    assert "WRITTEN, NOT RUN" in text.splitlines()[0]
    assert "Written by dlcli export" in text
    assert balanced(text)
    assert '"best.onnx"' in text
    inputs = {"numeric", "words"} if name == "table" else {"words" if name == "words" else "image"}
    assert {key for key in ("numeric", "words", "image") if f'"{key}"' in text} == inputs
    if task.class_names and task.kind != "embedding":
        assert r'"\$x", "say \"hi\"", "back\\slash"' in text
    if name == "table":
        assert r'listOf("a", "\$b")' in text
    if name in ("table", "words"):
        with pytest.raises(UsageError, match="no float64"):
            ONNX["ios"].check(card, embedded=True)
        return
    for examples, path in ((ONNX, "best.onnx"), (COREML, "best.mlpackage")):
        own = card if examples is ONNX else card_of(task, embedded=False)
        examples["ios"].check(own, embedded=examples is ONNX)
        text = examples["ios"].write(tmp_path / path, own)
        assert "WRITTEN, NOT RUN" in text.splitlines()[0]
        assert balanced(text)
        if task.class_names and task.kind != "embedding":
            assert r'"$x", "say \"hi\"", "back\\slash"' in text


def test_what_no_short_program_can_ask_is_refused_with_the_way_out() -> None:
    for language in ("android", "ios"):
        with pytest.raises(UsageError) as refused:
            ONNX[language].check(card_of(TASKS["photo"], embedded=False), embedded=False)
        assert refused.value.hint == "add --embed-preprocessing"
        with pytest.raises(UsageError, match="of text data"):
            ONNX[language].check(
                Card(model=ModelSpec(name="lstm"), task=tiny.MODELS["lstm"][1]), embedded=False
            )
        deep = tiny.make_task(tiny.image(8, 1, value_range=(0, 4095)))
        with pytest.raises(UsageError, match="more than 8 bits"):
            ONNX[language].check(card_of(deep), embedded=True)
    with pytest.raises(UsageError, match="is for images"):
        COREML["ios"].check(card_of(TASKS["table"], embedded=False), embedded=False)

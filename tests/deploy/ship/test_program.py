"""The answer of a shipped program is compared with that of `predict`, on samples of every kind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from graphs import write_graph
from tiny import image, make_task, series, text

from dlcli.card import Card, ModelSpec
from dlcli.data.base import Listed, Samples
from dlcli.data.kinds import kind_of
from dlcli.deploy.ship.program import agrees, why_no_program
from dlcli.formats.base import FORMATS, ModelFile
from dlcli.task import CategoryColumn, NumberColumn, TabularInput, TargetNumber, TaskSpec

TASK = make_task(image(8))
TABLE = TabularInput(
    numbers=(
        NumberColumn(name="n", format="1.234,5", mean=3, std=9),
        NumberColumn(name="day", format="%d/%m/%Y", mean=1.7e9, std=1e8, fill=1.7e9),
    ),
    categories=(CategoryColumn(name="c", values=("x", "y")),),
)
NUMBERS = TaskSpec(
    kind="regression", input=image(8), targets=tuple(TargetNumber(name=n, mean=1, std=10) for n in "ab")
)
NUMBER = NUMBERS.model_copy(update={"targets": NUMBERS.targets[:1]})


@pytest.mark.parametrize(
    ("task", "row", "equal", "other"),
    [
        (TASK, {"label": "a", "probability": 0.5}, {"probability": 0.51}, {"probability": 0.53}),
        (TASK, {"label": "a", "probability": 0.5}, {}, {"label": "b"}),
        (TASK, {"label": "a", "probability": 0.5}, {}, {"probability": float("nan")}),
        (TASK, {"labels": ["a"], "probabilities": {"a": 0.6, "b": 0.1}}, {}, {"labels": []}),
        (
            TASK,
            {"labels": ["a"], "probabilities": {"a": 0.6, "b": 0.1}},
            {"probabilities": {"b": 0.11, "a": 0.6}},
            {"probabilities": {"a": 0.1, "b": 0.6}},
        ),
        (TASK, {"embedding": [0.6, 0.8]}, {"embedding": [0.61, 0.79]}, {"embedding": [0.8, 0.6]}),
        (TASK, {"embedding": [0.6, 0.8]}, {}, {"embedding": [0.6]}),
        (NUMBERS, {"values": {"a": 3.0, "b": 4.0}}, {"a": 3.1, "b": 4.0}, {"a": 3.3, "b": 4.0}),
        (NUMBER, {"value": 3.0}, {"a": 3.1}, {"a": 3.3}),
    ],
)
def test_answers_that_differ_are_told_from_equal_ones(
    task: TaskSpec, row: dict[str, Any], equal: dict[str, Any], other: dict[str, Any]
) -> None:
    own = {} if task.kind == "regression" else row
    assert agrees({**own, **equal}, [row], task)
    assert not agrees({**own, **other}, [row], task)


FORECAST = make_task(series(length=4, series_column="shop"), "forecast", targets=("u",), horizon=3)
SAMPLES: dict[str, tuple[TaskSpec, str, str]] = {
    "table": (make_task(TABLE, "regression"), "new.csv", 'n,day,c\n"1.234,5",3/2/2024,x\n"-2,5",,\n'),
    "text": (make_task(text("abc")), "-", ""),
    "series": (make_task(series(varies=True)), "new.ts", "@classLabel false\n@data\n1,?,3:4,5,\n"),
    "forecast": (FORECAST, "new.csv", "shop,u,v\n" + "".join(f"a,{i},{i % 3}\n" for i in range(9))),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_program_is_tried_on_a_sample_of_its_kind(name: str, tmp_path: Path) -> None:
    """One sample is written as a file or an argument, which program and `predict` read alike."""
    task, file_name, content = SAMPLES[name]
    path = tmp_path / file_name
    path.write_text(content)
    card = Card(model=ModelSpec(name="mlp"), task=task)
    write_graph(tmp_path / "model.onnx", card)
    model = ModelFile(tmp_path / "model.onnx", FORMATS.get("onnx"))
    program = tmp_path / "predict_onnx.py"
    written = model.format.examples["python"].write(model.path, card)
    program.write_text(written)
    arguments = ["-", "./a/b.txt", "a b z\u00e9", "c"] if name == "text" else [str(path)]
    kind = kind_of(task)
    if name == "text":
        samples = Samples(("",) * 4, np.zeros(0, np.int64), Listed(tuple(arguments)))
    else:
        samples = kind.inputs(arguments, task)
    reference = SimpleNamespace(task=task, raw_samples=lambda count: ((), samples))
    assert why_no_program(program, model, reference) == ""  # type: ignore[arg-type]
    program.write_text(written.replace("sys.argv[1:]", "sys.argv[2:]"))
    reason = why_no_program(program, model, reference)  # type: ignore[arg-type]
    assert "it prints 0 lines where predict has" in reason

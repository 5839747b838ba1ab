"""A task of every kind whose names and scales are worth showing."""

from __future__ import annotations

import tiny

from dlcli.task import (
    CategoryColumn,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskSpec,
)

IMAGE = tiny.image()
TEXT = tiny.text(("cat", "dog", "."), 40, column="question")
TABLE = TabularInput(
    numbers=(
        NumberColumn(name="income", mean=3.87, std=1.9, fill=3.5, log=True, indicator=True),
        NumberColumn(name="rooms", mean=2635.8, std=2181.6),
    ),
    categories=(CategoryColumn(name="ocean", values=("INLAND", "[red]BAY[/]")),),
)
SERIES = SeriesInput(channels=("HUFL", "OT"), mean=(7.4, 13.3), std=(5.6, 8.1), length=96)
PRICE = TargetNumber(name="price", mean=200_000.0, std=100_000.0)
HUFL = TargetNumber(name="HUFL", mean=7.4, std=5.6)
OIL = TargetNumber(name="OT", mean=13.3, std=8.1)

TASKS = {
    "classification": TaskSpec(input=TEXT, class_names=("who", "what", "where")),
    "images": TaskSpec(input=IMAGE, class_names=("cat", "dog")),
    "multilabel": TaskSpec(kind="multilabel", input=IMAGE, class_names=("cat", "[b]dog", "sky")),
    "regression": TaskSpec(kind="regression", input=TABLE, targets=(PRICE,)),
    "regressions": TaskSpec(
        kind="regression", input=TABLE, targets=(PRICE, TargetNumber(name="age", mean=30.0, std=12.0))
    ),
    "forecast": TaskSpec(
        kind="forecast",
        input=SERIES,
        targets=(HUFL, OIL),
        horizon=3,
    ),
    "embedding": TaskSpec(kind="embedding", input=IMAGE, class_names=("cat", "dog"), embedding_size=40),
    "seq2seq": TaskSpec(kind="seq2seq", input=PairsInput(source=TEXT, target=TEXT)),
}

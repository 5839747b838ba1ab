"""A task of each kind to show a model on, where there is no data: the sizes are typical ones."""

from __future__ import annotations

from dlcli.data.kinds import ModelNeeds
from dlcli.task import (
    SPECIAL_TOKENS,
    CategoryColumn,
    ImageInput,
    InputKind,
    InputSpec,
    NumberColumn,
    PairsInput,
    SeriesInput,
    TabularInput,
    TargetNumber,
    TaskKind,
    TaskSpec,
    TextInput,
)

CLASSES = 10
_VOCABULARY, _WORDS = 10_000, 64
_STEPS, _CHANNELS = 96, 3
_NUMBERS, _CATEGORIES = 8, 2
_SMALL = 28  # pixels; of models that take any size

# What is assumed, as a sentence for each kind.
SENTENCES: dict[str, str] = {
    "image": f"1 x {_SMALL} x {_SMALL} pixels, or a backbone's own size",
    "text": f"{_VOCABULARY:,} words, texts of {_WORDS}",
    "tabular": f"{_NUMBERS} numbers, {_CATEGORIES} columns of 20 categories",
    "series": f"{_STEPS} steps of {_CHANNELS} channels",
    "pairs": f"{_VOCABULARY:,} words on each side, texts of {_WORDS}",
}


def reference_task(kind: InputKind, needs: ModelNeeds, tasks: tuple[TaskKind, ...]) -> TaskSpec:
    """A classification of ten classes where the model does that, else the first task it does."""
    task: TaskKind = "classification" if "classification" in tasks else tasks[0]
    numbers = tuple(
        TargetNumber(name=f"target{i}") for i in range(_CHANNELS if task == "forecast" else 1)
    )
    return TaskSpec(
        kind=task,
        input=_input(kind, needs),
        class_names=tuple(map(str, range(CLASSES))) if task in ("classification", "multilabel") else (),
        targets=numbers if task in ("regression", "forecast") else (),
        horizon=24 if task == "forecast" else 0,
    )


def _input(kind: InputKind, needs: ModelNeeds) -> InputSpec:
    if kind == "image":
        return _image(needs)
    if kind == "text":
        return _text()
    if kind == "tabular":
        return TabularInput(
            numbers=tuple(NumberColumn(name=f"number{i}") for i in range(_NUMBERS)),
            categories=tuple(
                CategoryColumn(name=f"category{i}", values=tuple(map(str, range(20))))
                for i in range(_CATEGORIES)
            ),
        )
    if kind == "series":
        names = tuple(map(str, range(_CHANNELS)))
        return SeriesInput(
            channels=names, mean=(0.0,) * _CHANNELS, std=(1.0,) * _CHANNELS, length=_STEPS
        )
    return PairsInput(source=_text(), target=_text())


def _image(needs: ModelNeeds) -> ImageInput:
    channels, side = min(needs.channels), needs.photo_size
    if 1 in needs.channels:
        side = max(_SMALL, needs.min_size)
    side = -(-side // needs.size_multiple) * needs.size_multiple
    return ImageInput(
        channels=1 if channels == 1 else 3,
        height=side,
        width=side,
        resize_size=side,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )


def _text() -> TextInput:
    words = tuple(f"word{i}" for i in range(_VOCABULARY - len(SPECIAL_TOKENS)))
    return TextInput(vocabulary=(*SPECIAL_TOKENS, *words), max_length=_WORDS)

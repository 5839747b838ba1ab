"""Every model's own search space: its settings exist, and its ends are allowed."""

from __future__ import annotations

import pytest

from dlcli.config import TrainConfig
from dlcli.settings import flat, merge, nested, validate
from dlcli.tune.space import make_space
from dlcli.zoo.base import MODELS, ModelEntry


@pytest.mark.parametrize(
    "entry", [entry for _, entry in MODELS.entries()], ids=lambda e: f"{e.kind}-{e.name}"
)
def test_the_search_space_of_a_model_fits_its_settings(entry: ModelEntry) -> None:
    assert entry.search
    config = validate(TrainConfig, entry.recipe_for(entry.tasks[0]))
    arguments = entry.arguments(config.model.args).model_dump(mode="json")
    values = {**flat(config), **{f"model.args.{key}": value for key, value in arguments.items()}}
    space = make_space(entry.search, values)
    for key, domain in space.items():
        assert domain.param(values[key]) is not None, f"the default of {key} is not in its domain"
        for value in domain.ends():
            if key.startswith("model.args."):
                entry.arguments(merge(arguments, nested(key.removeprefix("model.args."), value)))
            else:
                validate(TrainConfig, merge(config.model_dump(mode="json"), nested(key, value)))

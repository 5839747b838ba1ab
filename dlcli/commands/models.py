"""``dlcli models``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.commands.options import Json
from dlcli.config import TrainConfig
from dlcli.errors import UsageError
from dlcli.settings import merge, validate
from dlcli.trust import allowing

if TYPE_CHECKING:
    from dlcli.data.kinds import ModelNeeds
    from dlcli.task import TaskSpec
    from dlcli.zoo.base import ModelEntry


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show this model, layer by layer.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="Build it for this data.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only for this kind of data.")] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="Folder or hub name of a text encoder's structure and weights."),
    ] = None,
    json_output: Json = False,
) -> None:
    """List the models, or show one: layers, output shapes, parameters and multiply-adds.

    Examples:
        dlcli models
        dlcli models --kind text
        dlcli models resnet18 --data ./imgs
    """
    if name is None:
        _list(kind, json_output)
    else:
        with allowing(name):
            _show(name, data, kind, weights, json_output)


def _list(kind: str | None, as_json: bool) -> None:
    from dlcli.data.kinds import KINDS, kinds_in_order
    from dlcli.ui.json_output import print_json
    from dlcli.ui.models import print_models
    from dlcli.zoo.base import FAMILIES, MODELS, build_model
    from dlcli.zoo.reference import reference_task

    if kind is not None:
        KINDS.get(kind)
    kinds = {entry.name: entry.reference_words for entry in kinds_in_order()}
    rows: list[dict[str, Any]] = []
    import torch

    from dlcli.card import ModelSpec

    for _, entry in MODELS.entries():
        if kind in (None, entry.kind):
            task = reference_task(entry.kind, entry.needs, entry.tasks)
            with torch.device("meta"):
                module = build_model(ModelSpec(name=entry.name), task)
            rows.append(
                {
                    "name": entry.name,
                    "kind": entry.kind,
                    "tasks": list(entry.tasks),
                    "params": sum(p.numel() for p in module.parameters()),
                    "summary": entry.summary,
                }
            )
    rows.sort(key=lambda row: (list(kinds).index(row["kind"]), row["params"]))
    families = {family.title: family.names() for family in FAMILIES if kind in (None, family.kind)}
    cached = _cached(name for names in families.values() for name in names)
    if as_json:
        print_json({"command": "models", "models": rows, "families": families, "cached": cached})
    else:
        print_models(rows, families, cached, kinds)


def _cached(names: Iterable[str]) -> dict[str, int]:
    """The bytes of the weights in torch's cache by the names of their models."""
    from dlcli.zoo.base import find_model
    from dlcli.zoo.weights import cache_folder

    if not any(cache_folder().glob("*")):
        return {}
    facts = {name: _weights(find_model(name, "image")) for name in names}
    return {name: known["bytes"] for name, known in facts.items() if known and known["cached"]}


def _show(name: str, data: str | None, kind: str | None, weights: str | None, as_json: bool) -> None:
    from dlcli.zoo.names import check_spelling

    check_spelling(name)
    model = {"name": name, "pretrained": False, "weights": weights}
    flags = {"model": model, "data": {"data": data, "kind": kind}}
    source = None
    if data is not None:
        from dlcli.training.request import open_requested

        source = open_requested(validate(TrainConfig, flags))
    from dlcli.card import ModelSpec
    from dlcli.ui.json_output import print_json
    from dlcli.ui.models import print_model
    from dlcli.zoo.base import build_model, check_name, find_model, own_kinds
    from dlcli.zoo.reference import reference_task
    from dlcli.zoo.summary import summarize

    check_name(name)
    if data is not None:
        from dlcli.training.planning import make_plan

        plan = make_plan(lambda recipe: validate(TrainConfig, merge(recipe, flags)), source)
        task, spec = plan.task, plan.model
    else:
        entry = find_model(name, kind or own_kinds(name)[0])
        args, needs = _snapshot(entry, weights)
        task = reference_task(entry.kind, needs, entry.tasks)
        spec = ModelSpec(name=name, args=entry.arguments(args).model_dump(mode="json"))
    summary = summarize(build_model(spec, task), task)
    entry = find_model(name, task.input.kind)
    facts = {"name": name, "kind": task.input.kind, "kinds": own_kinds(name), **_facts(task, spec.args)}
    facts["weights"] = _weights(entry)
    facts["weights_required"] = entry.snapshot is not None
    recipe = entry.recipe_for(task.kind)
    if as_json:
        print_json({"command": "models", **facts, "recipe": recipe, **summary.to_dict()})
    else:
        print_model(facts, recipe, summary)


def _snapshot(entry: ModelEntry, weights: str | None) -> tuple[dict[str, Any], ModelNeeds]:
    """The structure and the tokenizer of weights, of a model that always starts from such.

    Raises: UsageError for other models, or without the weights of an encoder of transformers.
    """
    from dlcli.config import ModelConfig
    from dlcli.formats.initial_weights import find_initial_weights

    if entry.snapshot is None:
        if weights is not None:
            raise UsageError(
                f"--weights: the structure of {entry.name} does not depend on its weights",
                hint="leave it out",
            )
        return {}, entry.needs
    if weights is None and entry.snapshot_from is None:
        return {}, entry.needs
    model = ModelConfig(name=entry.name, weights=weights)
    initial = find_initial_weights(entry, model, [], offline=False)
    return initial.args, replace(entry.needs, text=initial.text)


def _weights(entry: ModelEntry) -> dict[str, Any] | None:
    """The published weights: where they are from, whether they are cached, their size in bytes."""
    from dlcli.zoo.weights import cache_file

    if entry.weights is None:
        return None
    path = cache_file(entry.weights)
    cached = path.is_file()
    return {
        "label": entry.weights.label,
        "url": entry.weights.url,
        "cached": str(path) if cached else None,
        "bytes": path.stat().st_size if cached else entry.weights.size,
    }


def _facts(task: TaskSpec, args: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": task.kind,
        "input": [[t.name, t.dtype, list(t.dims)] for t in task.input.signature],
        "output": list(task.output.dims),
        "args": args,
    }

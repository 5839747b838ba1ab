"""``dlcli init``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dlcli.commands.options import Settings, Trust, takes_config
from dlcli.config import TrainConfig
from dlcli.errors import UsageError
from dlcli.runs.folder import as_typed
from dlcli.settings import fields_of
from dlcli.wording import printable

# Of the options of `train`, which are all accepted, those that --help lists.
_SHOWN = ("data.data", "data.target", "model.name", "model.pretrained")


@takes_config(TrainConfig, advanced=fields_of(TrainConfig).keys() - set(_SHOWN))
def command(
    settings: Settings[TrainConfig],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write (default: stdout).")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Write the JSON schema of settings files, for editors.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Write a settings file for a model and data, with a comment on each setting.

    It takes the options of `train`, and `dlcli train --config FILE` trains what `dlcli train` would with
    them. Settings that differ from the defaults name their origin: the model's recipe, or your option.
    With --schema: the file by which editors complete and check settings files.

    Examples:
        dlcli init --model resnet18 --data ./imgs --output config.yaml
        dlcli init --model mlp --data houses.csv --target price --epochs 30
        dlcli init --schema --output dlcli.schema.json
    """
    from dlcli.files import write_text

    if output is not None and output.exists():
        raise UsageError(
            f"--output {output} exists, and init replaces no file",
            hint="give another name, or remove it",
        )
    text = _schema() if schema else _settings(settings)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_text(output, text)
    next_step = "" if schema else f"; train with it: dlcli train --config {as_typed(output)}"
    typer.echo(printable(f"wrote {output}{next_step}"), err=True)


def _schema() -> str:
    from dlcli.config.commented import json_schema

    return json.dumps(json_schema(TrainConfig), indent=2, ensure_ascii=False) + "\n"


def _settings(settings: Settings[TrainConfig]) -> str:
    """Return the settings file; what the data and the model do not admit is an error here already."""
    from dlcli.commands.train_session.begin import check_steps
    from dlcli.config.commented import SCHEMA_FILE, commented_yaml
    from dlcli.training.planning import make_plan
    from dlcli.training.request import check_request, open_requested

    config = settings.resolve()
    check_request(config)
    check_steps(settings)
    plan = make_plan(settings.resolve, open_requested(config))
    heading = (
        f"^ written by: dlcli init --schema --output {SCHEMA_FILE}",
        "",
        f"Settings of dlcli train: {plan.model.name} on {plan.source.origin} ({plan.task.kind}).",
        "Lines that begin with # and a setting's name are defaults: remove the # to change one.",
        "Weaker than --set and the options that are typed; see dlcli train --help-all.",
    )
    return commented_yaml(settings.resolve(plan.recipe), settings.origins(plan.recipe), heading)

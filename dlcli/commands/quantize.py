"""``dlcli quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcli.commands.options import Artifact, Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.commands.train_session.finetune import make_tuner
from dlcli.config import QuantizeSettings
from dlcli.errors import BoundMissed, DlcliError, UsageError
from dlcli.runs.folder import DEFAULT_ROOT, find_artifact
from dlcli.settings import fields_of, merge

if TYPE_CHECKING:
    from dlcli.deploy.quantize.result import QuantizeResult
    from dlcli.events import Emit

# Settings that only some methods read.
_ONLY_FOR = {
    "bits": ("weight-only",),
    "group_size": ("weight-only",),
    "calibration": ("static",),
    "calibration_samples": ("static", "qat"),
    "target": ("static", "qat"),
}


@takes_config(QuantizeSettings)
def command(
    settings: Settings[QuantizeSettings],
    *,
    artifact: Artifact = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write (default: beside the model)."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_ROOT,
    trust: Trust = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a model smaller and faster with integer weights, and measure what that costs.

    The file is opened again and held against the float model on real validation samples. --method auto
    takes what suits the model: dynamic for MLP, LSTM and Transformer, static for conv nets. With
    --max-drop it goes on until a candidate keeps the bound: layers in float, other methods,
    quantization-aware training. A bound that none keeps: exit code 3, and the best file is kept.
    """
    config = settings.resolve()
    _refuse_unused(settings, config)
    path = find_artifact(artifact, runs_dir)

    from dlcli.deploy.quantize.quantize import quantize
    from dlcli.ui.json_output import print_json
    from dlcli.ui.progress.sinks import progress_sink
    from dlcli.ui.quantize import print_quantized

    with progress_sink(quiet, json_output) as emit:
        result = quantize(
            path, config, output=output, tuner=make_tuner(runs_dir, emit), trust=trust, emit=emit
        )
        plots = _plot(result, emit)
    if json_output:
        print_json({"command": "quantize", **result.to_dict(), "plots": [str(plot) for plot in plots]})
    else:
        print_quantized(result, plots)
    if result.missed is not None:
        other = "" if config.quantize.method == "auto" else "; --method auto goes on with other methods"
        raise BoundMissed(result.missed, hint=f"the file is kept: {result.output}{other}")


def _refuse_unused(settings: Settings[QuantizeSettings], config: QuantizeSettings) -> None:
    """Refuse what was said and means nothing to the method. Raises: UsageError."""
    method, said = config.quantize.method, merge(settings.sets, settings.flags)
    for name in said.get("quantize", {}):
        able = _ONLY_FOR.get(name, (method,))
        if method not in (*able, "auto"):
            raise UsageError(
                f"{_flag('quantize', name)} means nothing to --method {method}",
                hint=f"it is for --method {' and '.join(able)}: leave it out",
            )
    trains = method == "qat" or (method == "auto" and config.quantize.max_drop is not None)
    for name in () if trains else said.get("finetune", {}):
        raise UsageError(
            f"{_flag('finetune', name)} is of training, which is done for --method qat alone",
            hint="--method qat; or --method auto with --max-drop, which tries it last",
        )


def _flag(group: str, name: str) -> str:
    field = fields_of(QuantizeSettings)[f"{group}.{name}"]
    flags: list[str] = field.json_schema_extra["flags"]
    return flags[0] if flags else f"{group}.{name}"


def _plot(result: QuantizeResult, emit: Emit) -> list[Path]:
    from dlcli.deploy.quantize.output import plots_folder
    from dlcli.events import Warned
    from dlcli.ui.quantize import save_sensitivity

    if not result.sensitivity:
        return []
    try:
        return [save_sensitivity(plots_folder(result.source) / "sensitivity.png", result)]
    except DlcliError as exc:  # a picture that fails costs a warning, not the result
        emit(Warned(f"no plot: {exc.message}"))
        return []

"""``dlcli quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dlcli.commands.adopting import adopted_for
from dlcli.commands.options import Artifact, Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.commands.recording import record
from dlcli.commands.train_session.finetune import make_finetuner
from dlcli.config import QuantizeSettings
from dlcli.config.quantize import check_quantizing
from dlcli.errors import BoundMissed, DlcliError
from dlcli.runs.folder import DEFAULT_ROOT, find_artifact
from dlcli.settings import check_applies, merge

if TYPE_CHECKING:
    from dlcli.deploy.quantize.result import QuantizeResult
    from dlcli.events import Emit


@takes_config(QuantizeSettings)
def command(
    settings: Settings[QuantizeSettings],
    *,
    artifact: Artifact = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write (default: next to the model)."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_ROOT,
    trust: Trust = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a model smaller and faster with integer weights, and measure what that costs.

    The file is reloaded and compared with the float model on validation samples. --method auto chooses
    by model: dynamic for MLPs, LSTMs and Transformers, static for CNNs. With --max-drop, candidates are
    tried until one keeps the bound: layers in float, other methods, quantization-aware training. If
    none does, the exit code is 3, and the best file is kept.

    Examples:
        dlcli quantize
        dlcli quantize cnn-digits --method static --max-drop 0.01
        dlcli quantize --method weight-only --bits 4
    """
    config = settings.resolve()
    typed = merge(settings.sets, settings.flags)
    check_applies(config, typed)
    check_quantizing(config, typed)
    path = find_artifact(artifact, runs_dir)

    from dlcli.deploy.quantize.quantize import quantize
    from dlcli.events import Warned
    from dlcli.formats.base import recognize
    from dlcli.ui.json_output import print_json
    from dlcli.ui.progress.sinks import progress_sink
    from dlcli.ui.quantize import print_quantized

    adopted = adopted_for([recognize(path)], config.measure.data, trust=trust)
    with progress_sink(quiet, json_output) as emit, adopted as ((file,), assumed):
        for message in assumed:
            emit(Warned(message))
        result = quantize(
            file, config, output=output, finetuner=make_finetuner(runs_dir, emit), trust=trust, emit=emit
        )
        plots = _plot(result, emit)
        name = f"quantize-{result.output.name}"
        record([result.source], name, command="quantize", result=result.to_dict(), emit=emit)
    if json_output:
        print_json({"command": "quantize", **result.to_dict(), "plots": [str(plot) for plot in plots]})
    else:
        print_quantized(result, plots)
    if result.missed is not None:
        other = "" if config.quantize.method == "auto" else "; --method auto tries other methods too"
        raise BoundMissed(result.missed, hint=f"the file is kept: {result.output}{other}")


def _plot(result: QuantizeResult, emit: Emit) -> list[Path]:
    from dlcli.deploy.quantize.output import plots_folder
    from dlcli.events import Warned
    from dlcli.ui.quantize import save_sensitivity

    if not result.sensitivity:
        return []
    try:
        return [save_sensitivity(plots_folder(result.source) / "sensitivity.png", result)]
    except DlcliError as exc:  # a failed plot is a warning
        emit(Warned(f"no plot: {exc.message}"))
        return []

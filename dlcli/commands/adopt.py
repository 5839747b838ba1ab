"""``dlcli adopt``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dlcli.commands.options import Json, Settings, Trust, takes_config
from dlcli.config import AdoptConfig


@takes_config(AdoptConfig)
def command(
    settings: Settings[AdoptConfig],
    *,
    artifact: Annotated[Path, typer.Argument(help="An ONNX or TorchScript file of another program.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write (default: NAME-adopted next to it)."),
    ] = None,
    trust: Trust = False,
    json_output: Json = False,
) -> None:
    """Give a model file of another program a card, so that every command takes it.

    Writes a copy of an ONNX or TorchScript file that says what it takes and predicts: sizes and layout
    by the file, classes and columns by --data or --classes, the rest by default, which is listed. The
    copy is loaded again and compared with the file. `eval`, `quantize` and `benchmark` with --data do
    this by themselves, without writing a file; `benchmark` needs no card.

    Examples:
        dlcli adopt their.onnx --data ./imgs
        dlcli adopt their.onnx --classes names.txt --mean 0.5 --std 0.5 -o own.onnx
        dlcli adopt forest.onnx --data houses.csv --target price
    """
    from dlcli.deploy.adopt.adopt import adopt
    from dlcli.files import user_path
    from dlcli.formats.base import recognize
    from dlcli.ui.adopt import print_adopted
    from dlcli.ui.json_output import print_json

    result = adopt(recognize(Path(user_path(artifact))), settings.resolve(), output, trust=trust)
    if json_output:
        print_json({"command": "adopt", **result.to_dict()})
    else:
        print_adopted(result)

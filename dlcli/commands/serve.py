"""``dlcli serve``."""

from __future__ import annotations

import os
from socket import socket
from typing import Annotated, Any

import typer

from dlcli.commands.options import Json, Quiet, RunsDir, Settings, Trust, takes_config
from dlcli.config import ServeConfig
from dlcli.runs.folder import DEFAULT_ROOT
from dlcli.runs.folds import find_artifacts


@takes_config(ServeConfig)
def command(
    settings: Settings[ServeConfig],
    *,
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARTIFACT]...",
            help="Model files, run folders or names of runs (default: the newest run's).",
        ),
    ] = None,
    trust: Trust = False,
    runs_dir: RunsDir = DEFAULT_ROOT,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve models over HTTP: /predict for photos, rows and texts, and the Open Inference Protocol v2.

    Until Ctrl-C or SIGTERM: requests in progress are answered first.

    Examples:
        dlcli serve
        dlcli serve cnn-digits resnet18-imgs --port 8080
        dlcli serve runs/cnn-digits/best.onnx --host 0.0.0.0
    """
    config = settings.resolve()
    if config.token is None and os.environ.get("DLCLI_TOKEN"):
        config = config.model_copy(update={"token": os.environ["DLCLI_TOKEN"]})

    from dlcli.serve.server import check_installed, is_loopback, opened_server, url_of

    check_installed()
    paths = find_artifacts(artifacts or [None], runs_dir)

    from dlcli.formats.base import recognize
    from dlcli.serve.gateway import log_line
    from dlcli.serve.workers import serve_in_workers
    from dlcli.ui.console import stderr
    from dlcli.ui.json_output import print_json

    files = [recognize(path) for path in paths]

    def started(bound: socket, served: list[dict[str, Any]]) -> None:
        url = url_of(bound)
        if json_output:
            print_json({"command": "serve", "url": url, "models": served})
        elif not quiet:
            names = ", ".join(dict.fromkeys(model["name"] for model in served))
            stderr().print(f"serving {names} on {url}", soft_wrap=True)
        if config.token is None and not is_loopback(bound):
            log_line("warning", message="anyone who reaches this address can use it: set --token")

    log = not quiet
    try:
        if config.workers > 1:
            serve_in_workers(files, config, trust=trust, access_log=log, started=started)
        with opened_server(files, config, trust=trust, access_log=log) as (server, bound, models):
            started(bound, [model.metadata([model.version]) for model in models.all()])
            server.run([bound])
    except KeyboardInterrupt:  # the signal again, after the requests in progress were answered
        if not quiet:
            stderr().print("stopped", soft_wrap=True)

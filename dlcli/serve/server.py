"""The process: its socket, its models, its end."""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from dlcli.errors import DlcliError
from dlcli.files import temporary_folder
from dlcli.formats.base import recognize

if TYPE_CHECKING:
    from uvicorn import Server

    from dlcli.config import ServeConfig
    from dlcli.formats.base import ModelFile
    from dlcli.serve.models import Models, ServedModel
    from dlcli.serve.state import ServerState

_BACKLOG = 2048  # connections that wait to be accepted, as uvicorn's default
_THREADS = 32  # that decode, or wait for their batch


def check_installed() -> None:
    """Raises: DlcliError without what the extra installs."""
    for module in ("starlette", "uvicorn", "httptools", "multipart", "prometheus_client"):
        if importlib.util.find_spec(module) is None:
            raise DlcliError(f"serve needs {module}", hint='python -m pip install "dlcli[serve]"')


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound, and does not listen yet. Raises: DlcliError where the port is in use."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind)
    except OSError as exc:
        raise DlcliError(f"--host {host}: {exc.strerror or exc}") from exc
    try:
        # Only against sockets that wait for their last packets: a second server is still refused.
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as exc:
        bound.close()
        raise DlcliError(
            f"cannot listen on {host}:{port}: {exc.strerror or exc}",
            hint="stop what uses it, or --port 0 picks a free one",
        ) from exc
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def url_of(bound: socket.socket) -> str:
    """The address of a bound socket, for browsers."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def opened_server(
    files: Sequence[ModelFile],
    config: ServeConfig,
    *,
    trust: bool = False,
    access_log: bool = False,
    bound: socket.socket | None = None,
) -> Iterator[tuple[Server, socket.socket, Models]]:
    """A server with its models opened and its socket bound: ``server.run([socket])`` serves.

    A worker gets the socket of its supervisor. Raises: DlcliError, UsageError.
    """
    from dlcli.serve.metrics import Metrics
    from dlcli.serve.models import Models, names_of, open_model
    from dlcli.serve.reload import Watcher
    from dlcli.serve.state import ServerState
    from dlcli.serve.warm_up import warm_up

    names = names_of([file.path for file in files], config.model_name)
    counted, models = Metrics(), Models()

    def opened(file: ModelFile, name: str, version: str) -> ServedModel:
        model = open_model(file, name, version, config, trust=trust, observe=counted.batch)
        warm_up(model, folder)
        return model

    def reopened(model: ServedModel) -> ServedModel:
        return opened(recognize(model.artifact.path), model.name, model.version)

    with ExitStack() as stack:
        listening = stack.enter_context(bind(config.host, config.port) if bound is None else bound)
        folder = stack.enter_context(temporary_folder())
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="dlcli-predict")
        stack.enter_context(pool)
        stack.callback(models.close)
        for file, (name, version) in zip(files, names, strict=True):
            models.add(opened(file, name, version))
        models.check_confidence(config.min_confidence)
        state = ServerState(models, config, folder, pool, counted, access_log)
        if config.reload != "off":
            watcher = Watcher(state, reopened, force=config.reload == "force")
            stack.callback(watcher.close)
        server = _server(state)
        listening.listen(_BACKLOG)  # from here on clients wait, and are not refused
        yield server, listening, models


def _server(state: ServerState) -> Server:
    import uvicorn

    from dlcli.serve.app import build_app
    from dlcli.serve.connections import BoundedProtocol

    class DrainingServer(uvicorn.Server):
        """It says that it is not ready as soon as a signal ends it."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            state.draining = True
            super().handle_exit(sig, frame)

    config = state.config
    return DrainingServer(
        uvicorn.Config(
            build_app(state),
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=max(1, round(config.timeout_s)),
            timeout_graceful_shutdown=max(1, round(config.drain_s)),
        )
    )

"""The application: its routes, and what every request passes."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from dlcli.errors import DlcliError
from dlcli.files import CannotWrite
from dlcli.machine.threads import usable_cores
from dlcli.serve import protocol
from dlcli.serve.bodies import read_body
from dlcli.serve.errors import RequestError
from dlcli.serve.gateway import Gateway
from dlcli.serve.openapi import openapi
from dlcli.serve.page import page, policy
from dlcli.serve.predictions import Upload, predict_uploads, read_options
from dlcli.serve.protocol import json_reply

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from dlcli.serve.state import ServerState

_PARTS = 256  # of a form


def build_app(state: ServerState) -> Gateway:
    """The application of a server."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    model = "/v2/models/{name}"
    routes = [Route("/predict", predict, methods=["POST"]), Route("/metrics", metrics)]
    routes += [Route("/", index), Route("/openapi.json", description)]
    routes += [
        Route("/v2", protocol.server_metadata),
        Route("/v2/health/live", protocol.live),
        Route("/v2/health/ready", protocol.ready),
    ]
    for path in (model, f"{model}/versions/{{version}}"):
        routes += [
            Route(path, protocol.model_metadata),
            Route(f"{path}/ready", protocol.model_ready),
            Route(f"{path}/infer", protocol.infer, methods=["POST"]),
        ]
    handlers: dict[Any, Any] = {
        DlcliError: _refused,
        HTTPException: _no_route,
        Exception: _defect,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.server = state
    app.state.decoding = threading.Semaphore(usable_cores())
    return Gateway(app, state)


async def predict(request: Request) -> Response:
    """``POST /predict``."""
    from starlette.responses import Response

    state: ServerState = request.app.state.server
    options = read_options(request.query_params, state.config.min_confidence)
    model = state.models.find(request.query_params.get("model"), request.query_params.get("version"))
    body = await read_body(request, state.max_body, state.config.timeout_s)
    uploads = await _uploads(request, body)
    request.state.model, request.state.samples = model.name, len(uploads)
    loop = asyncio.get_running_loop()
    outcome = await loop.run_in_executor(
        state.threads,
        predict_uploads,
        *(model, uploads, options, state.folder, request.app.state.decoding),
    )
    if outcome.warnings:
        request.state.warnings = outcome.warnings
    return Response(outcome.body, outcome.status, media_type=options.media_type)


async def _uploads(request: Request, body: bytes) -> list[Upload]:
    """The body, or the files and texts of a form. Raises: RequestError, HTTPException."""
    from starlette.datastructures import UploadFile
    from starlette.requests import Request as FormRequest

    media_type = _media_type(request.headers.get("content-type"))
    if media_type != "multipart/form-data":
        return [Upload("body", media_type, body)]

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    uploads = []
    async with FormRequest(request.scope, replay).form(max_files=_PARTS, max_fields=_PARTS) as form:
        for name, part in form.multi_items():
            if isinstance(part, UploadFile):
                data = await part.read()
                uploads.append(Upload(part.filename or name, _media_type(part.content_type), data))
            else:
                uploads.append(Upload(name, "", part.encode(errors="replace")))
    if not uploads:
        raise RequestError(400, "the form has no parts")
    return uploads


def _media_type(header: str | None) -> str:
    return (header or "").partition(";")[0].strip().lower()


async def index(request: Request) -> Response:
    """``GET /``."""
    from starlette.responses import HTMLResponse

    headers = {
        "content-security-policy": policy(),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(page(request.app.state.server), headers=headers)


async def description(request: Request) -> Response:
    """``GET /openapi.json``."""
    return json_reply(openapi(request.app.state.server))


async def metrics(request: Request) -> Response:
    """``GET /metrics``."""
    from starlette.responses import Response

    state: ServerState = request.app.state.server
    return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _refused(request: Request, exc: Exception) -> Response:
    """The reply to a request that cannot be served as it is."""
    assert isinstance(exc, DlcliError)
    status = 503 if isinstance(exc, CannotWrite) else 400
    headers: dict[str, str] = {}
    if isinstance(exc, RequestError):
        status, headers = exc.status, exc.headers
    hint = {"hint": exc.hint} if exc.hint else {}
    return json_reply({"error": exc.message, **hint}, status, headers)


async def _no_route(request: Request, exc: Exception) -> Response:
    from starlette.exceptions import HTTPException

    assert isinstance(exc, HTTPException)
    return json_reply({"error": exc.detail}, exc.status_code, dict(exc.headers or {}))


async def _defect(request: Request, exc: Exception) -> Response:
    return json_reply({"error": "the server failed; its log has the reason"}, 500)

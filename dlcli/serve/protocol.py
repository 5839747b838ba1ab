"""The Open Inference Protocol v2 over HTTP, as KServe, Triton and OpenVINO's server speak it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from dlcli import __version__
from dlcli.files import finite
from dlcli.serve.bodies import json_of, read_body
from dlcli.serve.errors import RequestError
from dlcli.serve.tensors import read_inputs, requested_outputs, write_outputs

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from dlcli.data.base import Inputs
    from dlcli.serve.models import Models, ServedModel
    from dlcli.serve.state import ServerState

T = TypeVar("T")
HEADER_LENGTH = "inference-header-content-length"
# Larger bodies are parsed in a thread: others are not to wait for them.
_LARGE_BYTES = 2**16


async def server_metadata(request: Request) -> Response:
    """``GET /v2``."""
    return json_reply({"name": "dlcli", "version": __version__, "extensions": ["binary_tensor_data"]})


async def live(request: Request) -> Response:
    """``GET /v2/health/live``."""
    return json_reply({"live": True})


async def ready(request: Request) -> Response:
    """``GET /v2/health/ready``: 503 while the server drains."""
    state = _state(request)
    return json_reply({"ready": not state.draining}, 503 if state.draining else 200)


async def model_metadata(request: Request) -> Response:
    """``GET /v2/models/NAME[/versions/VERSION]``."""
    models = _state(request).models
    model = _model(request, models)
    return json_reply(model.metadata(list(models.served[model.name])))


async def model_ready(request: Request) -> Response:
    """``GET /v2/models/NAME[/versions/VERSION]/ready``."""
    state = _state(request)
    model = _model(request, state.models)
    return json_reply({"name": model.name, "ready": not state.draining}, 503 if state.draining else 200)


async def infer(request: Request) -> Response:
    """``POST /v2/models/NAME[/versions/VERSION]/infer``."""
    state = _state(request)
    model = _model(request, state.models)
    body = await read_body(request, state.max_body, state.config.timeout_s)
    head, tail = split_body(body, request.headers.get(HEADER_LENGTH))
    large = len(body) > _LARGE_BYTES
    call, inputs = await _in_thread(_parse, model, head, tail, large=large)
    request.state.model, request.state.samples = model.name, len(inputs[0])
    outputs = await asyncio.wrap_future(model.batches.submit(inputs))
    return await _in_thread(_reply, model, call, outputs, large=large or outputs.size > _LARGE_BYTES)


async def _in_thread(function: Callable[..., T], *args: Any, large: bool) -> T:
    return await asyncio.to_thread(function, *args) if large else function(*args)


def split_body(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    """The JSON of a body and the binary data after it. Raises: RequestError (400)."""
    whole = memoryview(body)
    if header_length is None:
        return whole, whole[len(whole) :]
    if not (header_length.isascii() and header_length.isdigit() and int(header_length) <= len(body)):
        raise RequestError(
            400,
            f"Inference-Header-Content-Length is {header_length[:40]!r}, and the body has {len(body)}",
        )
    return whole[: int(header_length)], whole[int(header_length) :]


def _parse(model: ServedModel, head: memoryview, tail: memoryview) -> tuple[dict[str, Any], Inputs]:
    call = json_of(head)
    if not isinstance(call, dict):
        raise RequestError(400, "the request is no JSON object")
    if not isinstance(call.get("id", ""), str):
        raise RequestError(400, "the id is no text")
    requested_outputs(call, model.outputs)  # a wrong name fails before the model runs
    return call, read_inputs(call, tail, model.task, model.inputs)


def _reply(model: ServedModel, call: dict[str, Any], outputs: Any) -> Response:
    from starlette.responses import Response

    entries, parts = write_outputs(call, outputs, model.task, model.outputs)
    reply = {
        "model_name": model.name,
        "model_version": model.version,
        **({"id": call["id"]} if "id" in call else {}),
        "outputs": entries,
    }
    if not parts:
        return json_reply(reply)
    head = to_bytes(reply)
    return Response(
        b"".join([head, *parts]),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(head))},
    )


def to_bytes(value: Any) -> bytes:
    """Strict JSON: NaN and infinities become null."""
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:
        return json.dumps(finite(value), allow_nan=False).encode()


def json_reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply of JSON."""
    from starlette.responses import Response

    return Response(to_bytes(value), status, headers=headers, media_type="application/json")


def _state(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state


def _model(request: Request, models: Models) -> ServedModel:
    return models.find(request.path_params["name"], request.path_params.get("version"))

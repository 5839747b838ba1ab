"""What every request passes: the token, bounds on requests in progress, the access log, the metrics."""

from __future__ import annotations

import hmac
import json
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dlcli.serve.protocol import json_reply

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from dlcli.serve.state import ServerState

# Load balancers ask without a token; the page has no secret and asks the user for it.
OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
# Bodies in memory at the same time, in bodies of the largest size.
_LARGEST_BODIES = 16


# What the log says of a request besides.
_FACTS = ("model", "samples", "warnings")


class Gateway:
    """The application within its limits: 401 without the token, 429 beyond the bounds.

    Each request is a line of JSON on stderr, unless the server is quiet, and counted.
    """

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        reply = {"status": 0, "bytes": 0}

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                reply["status"] = message["status"]
            else:
                reply["bytes"] += len(message.get("body", b""))
            await send(message)

        error = None
        try:
            await self._pass(scope, receive, counting)
        except Exception as exc:  # a defect: the client got 500, the log gets the traceback
            error = exc
        seconds = time.perf_counter() - started
        endpoint = getattr(scope.get("endpoint"), "__name__", "none")
        self._state.metrics.count(endpoint, scope["method"], reply["status"], seconds)
        if error is not None or self._state.access_log:
            _log(scope, reply, seconds, error)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = self._state
        headers = dict(scope["headers"])
        if not self._is_allowed(scope["path"], headers.get(b"authorization", b"")):
            refusal = json_reply(
                {"error": "this server wants its token", "hint": "Authorization: Bearer TOKEN"},
                401,
                {"www-authenticate": "Bearer", "connection": "close"},
            )
            await refusal(scope, receive, send)
            return
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        size = self._claimed_bytes(headers.get(b"content-length"))
        full = state.body_bytes + size > _LARGEST_BODIES * state.max_body
        if state.in_flight >= state.config.max_queue or full:
            refusal = json_reply(
                {"error": f"{state.in_flight} requests are in progress: try again later"},
                429,
                {"retry-after": "1", "connection": "close"},
            )
            await refusal(scope, receive, send)
            return
        state.in_flight += 1
        state.body_bytes += size
        try:
            await self._app(scope, receive, send)
        finally:
            state.in_flight -= 1
            state.body_bytes -= size

    def _claimed_bytes(self, content_length: bytes | None) -> int:
        """The most bytes of a body; one without a length may have any."""
        most = self._state.max_body
        if content_length is None or not content_length.isdigit():
            return most
        return min(int(content_length), most)

    def _is_allowed(self, path: str, authorization: bytes) -> bool:
        token = self._state.config.token
        if token is None or path in OPEN_PATHS:
            return True
        scheme, _, given = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())


def _log(scope: Scope, reply: dict[str, int], seconds: float, error: Exception | None) -> None:
    client = scope.get("client")
    log_line(
        "request",
        method=scope["method"],
        path=scope["path"],
        status=reply["status"],
        ms=round(1000 * seconds, 3),
        bytes=reply["bytes"],
        client=client[0] if client else None,
        **{key: scope.get("state", {})[key] for key in _FACTS if key in scope.get("state", {})},
        **({} if error is None else {"error": "".join(traceback.format_exception(error))}),
    )


def log_line(event: str, **facts: Any) -> None:
    """Write one line of JSON to stderr: the time in UTC, what happened, and its facts."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    sys.stderr.write(json.dumps({"time": now, "event": event, **facts}) + "\n")

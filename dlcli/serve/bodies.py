"""Bodies of requests, within limits: of size, also after decompression, and of time."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from typing import TYPE_CHECKING, Any

from dlcli.files import parse_json
from dlcli.serve.errors import RequestError

if TYPE_CHECKING:
    from starlette.requests import Request

_GZIP = 16 + zlib.MAX_WBITS
_ENCODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}


async def read_body(request: Request, limit: int, timeout_s: float) -> bytes:
    """The body of a request, decompressed.

    Raises: RequestError: 408 for a slow client, 413 for more than ``limit`` bytes, 415 for an unknown
    Content-Encoding, 400 for damaged compression.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
    except TimeoutError as exc:
        raise RequestError(
            408, f"the body did not arrive within {timeout_s:g} s", headers={"connection": "close"}
        ) from exc
    body = b"".join(parts)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    return body if encoding in ("identity", "") else _decompress(body, encoding, limit)


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding not in _ENCODINGS:
        raise RequestError(
            415, f"the Content-Encoding {encoding[:40]!r} is not read", hint="send gzip, or none"
        )
    stream = zlib.decompressobj(_ENCODINGS[encoding])
    try:
        out = stream.decompress(body, limit + 1)
    except zlib.error as exc:
        raise RequestError(400, f"the body is no {encoding}: {exc}") from exc
    if len(out) > limit:
        raise _too_large(limit)
    if not stream.eof:
        raise RequestError(400, f"the {encoding} of the body is incomplete")
    return out


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413,
        f"the body has more than {limit:,} bytes",
        hint="dlcli serve --max-body-mb allows more",
        headers={"connection": "close"},
    )


def _position(data: bytes, name: str) -> int:
    """Where a word is first written outside the texts of a JSON body, in characters from 0."""
    text = data.decode(json.detect_encoding(data), errors="replace")
    words = re.finditer(rf'"(?:\\.|[^"\\])*"|{re.escape(name)}', text)
    return next(word.start() for word in words if word[0] == name)


def json_of(body: bytes | memoryview) -> Any:
    """The value of a body of JSON. Raises: RequestError (400), also for NaN, which Python would read."""
    data = bytes(body)

    def refuse(name: str) -> None:
        raise RequestError(
            400,
            f"{name} is no JSON number (character {_position(data, name)}): null is a missing value",
        )

    try:
        return parse_json(data, constant=refuse)
    except ValueError as exc:  # of encodings too
        raise RequestError(400, f"the body is no JSON: {exc}") from exc

"""The description of a server's paths: OpenAPI 3.1, https://spec.openapis.org/oas/v3.1.0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlcli import __version__
from dlcli.serve.predictions import FORMATS, MEDIA_TYPES, OPTIONS

if TYPE_CHECKING:
    from dlcli.serve.state import ServerState

_ERROR = {
    "description": "What was wrong with the request",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"error": {"type": "string"}, "hint": {"type": "string"}},
                "required": ["error"],
            }
        }
    },
}
# Of /predict, in JSON; `dlcli predict --json` has the same keys of a row.
_PREDICTIONS = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "warnings": {
            "type": "array",
            "items": {"type": "string"},
            "description": "What is unlike the training data or was read otherwise than written: "
            "cells that are no number, unknown values, truncated texts. They count as in dlcli predict",
        },
        "predictions": {"type": "array", "items": {"type": "object"}},
        "failed": {
            "type": "array",
            "items": {"type": "object", "properties": {"error": {"type": "string"}}},
            "description": "Inputs that could not be read; the status is 400 where none could",
        },
    },
    "required": ["warnings", "predictions", "failed"],
}
_REFUSALS = {str(status): _ERROR for status in (400, 401, 404, 408, 413, 415, 429, 503)}


def openapi(state: ServerState) -> dict[str, Any]:
    """The document."""
    tensors = _content("application/json", {"type": "object", "required": ["inputs"]})
    tensors |= _content("application/octet-stream", {"type": "string", "format": "binary"})
    bodies: dict[str, Any] = {}
    for media_type in ("image/*", *MEDIA_TYPES, "multipart/form-data"):
        bodies |= _content(media_type, {})
    replies: dict[str, Any] = {}
    for name, media_type in FORMATS.items():
        replies |= _content(media_type, _PREDICTIONS if name == "json" else {})
    query = [_parameter(name, "query") for name in ("model", "version", *OPTIONS)]
    formats = {"type": "string", "enum": list(FORMATS)}
    query.append({"name": "format", "in": "query", "schema": formats})
    paths: dict[str, Any] = {
        "/predict": {"post": _operation("Predict a photo, rows or texts", query, bodies, replies)},
        "/metrics": {"get": _operation("Metrics in Prometheus' text form")},
        "/v2": {"get": _operation("Metadata of the server")},
        "/v2/health/live": {"get": _operation("Whether the server is alive")},
        "/v2/health/ready": {"get": _operation("Whether the server takes requests")},
    }
    for path, names in (
        ("/v2/models/{name}", ("name",)),
        ("/v2/models/{name}/versions/{version}", ("name", "version")),
    ):
        where = [_parameter(name, "path") for name in names]
        paths[path] = {"get": _operation("Metadata of a model", where)}
        paths[f"{path}/ready"] = {"get": _operation("Whether a model is ready", where)}
        paths[f"{path}/infer"] = {
            "post": _operation(
                "Outputs for tensors (Open Inference Protocol v2)", where, tensors, tensors
            )
        }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": f"dlcli serve: {state.models.names}", "version": __version__},
        "paths": paths,
    }
    if state.config.token is not None:
        schemes = {"bearer": {"type": "http", "scheme": "bearer"}}
        document |= {"components": {"securitySchemes": schemes}, "security": [{"bearer": []}]}
    return document


def _content(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {media_type: {"schema": schema}}


def _parameter(name: str, where: str) -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}}


def _operation(
    summary: str,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    reply: dict[str, Any] | None = None,
) -> dict[str, Any]:
    done = {"description": "Done", **({"content": reply} if reply else {})}
    return {
        "summary": summary,
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": {"required": True, "content": body}} if body else {}),
        "responses": {"200": done, **_REFUSALS},
    }

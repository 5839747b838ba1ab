"""A server on a free port in a thread, and a client of the standard library."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.config import ServeConfig
from dlcli.formats.base import recognize
from dlcli.serve.models import Models
from dlcli.serve.server import opened_server


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """A server that runs in a thread of the test."""

    host: str
    port: int
    models: Models

    def send(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(
                response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.send("POST", path, data.encode() if isinstance(data, str) else data, headers)


@contextmanager
def running(*paths: Path, access_log: bool = False, **settings: Any) -> Iterator[Client]:
    """A server of model files with these settings."""
    files = [recognize(path) for path in paths]
    config = ServeConfig(port=0, **settings)
    with opened_server(files, config, access_log=access_log) as (server, bound, models):
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            host, port = bound.getsockname()[:2]
            yield Client(host, port, models)
        finally:
            server.should_exit = True
            thread.join()

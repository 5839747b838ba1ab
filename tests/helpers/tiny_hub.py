"""A server of one repository of the Hugging Face hub, as huggingface_hub asks for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = "owner/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the files of a folder; yields the address, and the names of files that were sent."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(whole=False)

        def do_GET(self) -> None:
            self._answer(whole=True)

        def log_message(self, *args: Any) -> None:
            pass

        def _answer(self, *, whole: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            name = path.partition("/resolve/")[2].partition("/")[2]
            if name:
                content = (folder / name).read_bytes() if (folder / name).is_file() else None
                sent.extend([name] if whole and content is not None else [])
            else:
                content = json.dumps(_api(folder, path)).encode()
            self.send_response(404 if content is None else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Error-Code" if content is None else "ETag", _digest(content))
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if whole:
                self.wfile.write(content or b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _api(folder: Path, path: str) -> Any:
    """What the hub says of the repository, or the list of its files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = [file.relative_to(folder).as_posix() for file in files]
    if f"/api/models/{REPOSITORY}/tree/" in path:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}
            for name, content in zip(names, map(Path.read_bytes, files), strict=True)
        ]
    if f"/api/models/{REPOSITORY}" in path:
        siblings = [{"rfilename": name} for name in names]
        return {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings}
    return {}


def _digest(content: bytes | None) -> str:
    return "EntryNotFound" if content is None else f'"{hashlib.sha1(content).hexdigest()}"'

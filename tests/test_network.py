"""Whether something can be fetched is known within three seconds; a server on this machine answers."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dlcli import network
from dlcli.errors import DlcliError
from dlcli.network import require


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(int(self.path.rsplit("/", 1)[-1]))
        self.send_header("Location", "/200")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[str]:
    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.mark.parametrize("status", [200, 302, 405, 501])
def test_any_response_is_enough(status: int, server: str) -> None:
    require(f"{server}/{status}", what="the thing")


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusal_is_an_error(status: int, server: str) -> None:
    with pytest.raises(DlcliError, match=rf"cannot fetch the thing from 127\.0\.0\.1: HTTP {status}"):
        require(f"{server}/{status}", what="the thing")


def test_a_closed_port_is_an_error_with_a_way_out() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DlcliError, match="cannot fetch the thing") as info:
        require(f"http://127.0.0.1:{port}/x", what="the thing")
    assert "--data-dir" in str(info.value.hint)
    assert "--weights" in str(info.value.hint)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_CONNECT_S", 0.2)
    monkeypatch.setattr(network, "_GIVEN_UP_AT_S", 0.0)


@pytest.fixture
def slow_server() -> Iterator[str]:
    """Accepts a connection at once, and replies later than is waited for a sign of life."""

    def reply() -> None:
        connection, _ = slow.accept()
        with connection:
            connection.recv(4096)
            time.sleep(0.5)
            with contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.socket() as slow:
        slow.bind(("127.0.0.1", 0))
        slow.listen()
        thread = threading.Thread(target=reply)
        thread.start()
        yield f"127.0.0.1:{slow.getsockname()[1]}/x"
        thread.join()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_says_nothing_is_given_up(slow_server: str) -> None:
    t0 = time.perf_counter()
    with pytest.raises(DlcliError, match=r"no reply within 0\.2 s") as info:
        require(f"http://{slow_server}", what="it", hint="h")
    assert time.perf_counter() - t0 < 0.5
    assert info.value.hint == "h"


@pytest.mark.usefixtures("impatient")
def test_a_host_that_is_slow_after_its_handshake_has_time(
    slow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without TLS below it: what counts is that the connection was made."""
    monkeypatch.setattr(http.client.HTTPSConnection, "connect", http.client.HTTPConnection.connect)
    require(f"https://{slow_server}", what="it")


@pytest.mark.usefixtures("impatient")
def test_a_look_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timeout of Python's ends a look-up of a name; the promise is three seconds all the same."""
    release = threading.Event()
    monkeypatch.setattr(network, "_problem", lambda url, connected: release.wait(20) and None)
    t0 = time.perf_counter()
    with pytest.raises(
        DlcliError, match=r"cannot fetch it from example\.invalid: no reply within 0\.2 s"
    ):
        require("https://example.invalid/x", what="it")
    assert time.perf_counter() - t0 < 1.5
    release.set()


def test_the_proxy_of_the_environment_is_used(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server)
    require("http://example.invalid/200", what="it")  # a host that only a proxy could know


def test_only_web_addresses_are_requested() -> None:
    with pytest.raises(ValueError, match="not an http URL"):
        require("file:///etc/passwd", what="it")

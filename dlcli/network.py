"""Check within three seconds of the start of a command whether a URL can be reached."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from dlcli.errors import DlcliError

# How long a silent host is waited for, less the CPU time that the process has used, which is that of its
# imports: a command shows the error within three seconds of its start.
_GIVEN_UP_AT_S = 2.6
# That long at least, for DNS, proxy, TCP and TLS together.
_CONNECT_S = 1.5
# For the reply of a host to which there is a TLS connection: such a network is slow, not dead.
_REPLY_S = 10.0
# Statuses of servers that are reachable but refuse HEAD requests.
_NO_HEAD = (405, 501)


def require(url: str, *, what: str, hint: str | None = None) -> None:
    """Check that ``url`` responds to a HEAD request; ``what`` names the resource in the error.

    The request runs in a daemon thread, since DNS look-ups have no timeout in Python. It uses the
    proxy variables of the environment. Raises: DlcliError; for a silent host within three seconds of
    the start of a command, or after `_CONNECT_S` where that has computed for longer.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url} is not an http URL")
    problems: list[str | None] = []
    alive = threading.Event()

    def send() -> None:
        problems.append(_problem(url, alive.set))
        alive.set()

    thread = threading.Thread(target=send, name="dlcli-network", daemon=True)
    thread.start()
    limit_s = max(_CONNECT_S, _GIVEN_UP_AT_S - time.process_time())
    if alive.wait(limit_s):
        limit_s = _REPLY_S
        thread.join(limit_s)
    # An empty list: no reply yet. The daemon thread ends with the process.
    problem = problems[0] if problems else f"no reply within {limit_s:.1f} s"
    if problem is not None:
        raise DlcliError(
            f"cannot fetch {what} from {urlsplit(url).hostname}: {problem}",
            hint=hint
            or "check the network and its proxy, or use files on disk: --data-dir DIR for a data set, "
            "--weights FILE for weights (--offline skips the attempt)",
        )


def _problem(url: str, connected: Callable[[], None]) -> str | None:
    """Why ``url`` cannot be reached, or None; calls ``connected`` when a TLS connection is made."""
    # A twentieth of the time of a prediction, which needs no network.
    import http.client
    import urllib.request

    class Connection(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            connected()

    class Handler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Connection, req)

    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "dlcli"})
    try:
        # Not urlopen: it remembers the proxies of its first call.
        with urllib.request.build_opener(Handler).open(request, timeout=_REPLY_S):
            return None
    except urllib.error.HTTPError as exc:
        exc.close()
        return None if exc.code in _NO_HEAD else f"HTTP {exc.code} {exc.reason}"
    except urllib.error.URLError as exc:
        return str(exc.reason)
    except (OSError, ValueError, http.client.HTTPException) as exc:
        return str(exc) or type(exc).__name__

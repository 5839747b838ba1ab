"""Check within three seconds whether a URL can be reached."""

from __future__ import annotations

import threading
from urllib.parse import urlsplit

from dlcli.errors import DlcliError

# For DNS, proxy, TLS and redirects together, so that an error is shown within three seconds.
TIMEOUT_S = 2.5
# Statuses of servers that are reachable but refuse HEAD requests.
_NO_HEAD = (405, 501)


def require(url: str, *, what: str, hint: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
    """Check that ``url`` responds to a HEAD request; ``what`` names the resource in the error.

    The request runs in a daemon thread, since DNS look-ups have no timeout in Python. It uses the
    proxy variables of the environment. Raises: DlcliError after at most ``timeout_s``.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url} is not an http URL")
    problems: list[str | None] = []

    def send() -> None:
        problems.append(_problem(url, timeout_s))

    thread = threading.Thread(target=send, name="dlcli-network", daemon=True)
    thread.start()
    thread.join(timeout_s)
    # An empty list: no reply yet. The daemon thread ends with the process.
    problem = problems[0] if problems else f"no reply within {timeout_s:g} s"
    if problem is not None:
        raise DlcliError(
            f"cannot fetch {what} from {urlsplit(url).hostname}: {problem}",
            hint=hint
            or "check the network and its proxy, or use files on disk: --data-dir DIR for a data set, "
            "--weights FILE for weights (--offline skips the attempt)",
        )


def _problem(url: str, timeout_s: float) -> str | None:
    # A twentieth of the time of a prediction, which needs no network.
    import http.client
    import urllib.request

    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "dlcli"})
    try:
        # Not urlopen: it remembers the proxies of its first call.
        with urllib.request.build_opener().open(request, timeout=timeout_s):
            return None
    except urllib.error.HTTPError as exc:
        exc.close()
        return None if exc.code in _NO_HEAD else f"HTTP {exc.code} {exc.reason}"
    except urllib.error.URLError as exc:
        return str(exc.reason)
    except (OSError, ValueError, http.client.HTTPException) as exc:
        return str(exc) or type(exc).__name__

"""A client of HTTP that costs little: prepared requests over kept connections, in one thread.

    echo '{"port": 8000, "request": "FILE", "clients": 64, "seconds": 2}' | python serving_client.py

Called by ``serving.py``. FILE holds the bytes of one request, head and body. Each client sends it, waits
for the whole reply, and sends it again, for ``seconds`` or until there were ``requests`` replies in all.
Prints one JSON object: replies, seconds, statuses, percentiles of the time of a reply in milliseconds.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any


class Client:
    """One connection."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request, self._received, self._size = request, bytearray(), 0

    def send(self) -> None:
        """Send the request."""
        self._received.clear()
        self._size = 0
        self.started = time.perf_counter()
        self.socket.sendall(self._request)

    def receive(self) -> int | None:
        """Take what has arrived; the status once the reply is whole. Raises: SystemExit."""
        data = self.socket.recv(2**18)
        if not data:
            raise SystemExit("the server closed a connection")
        self._received += data
        if not self._size:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return None
            lines = bytes(self._received[:head]).lower().split(b"\r\n")
            length = next(line for line in lines if line.startswith(b"content-length:"))
            self._size = head + 4 + int(length.partition(b":")[2])
        return int(self._received[9:12]) if len(self._received) >= self._size else None


def load(
    port: int, request: bytes, clients: int, seconds: float, requests: int | None
) -> dict[str, Any]:
    """Keep ``clients`` requests in progress; what came back."""
    selector = selectors.DefaultSelector()
    started = time.perf_counter()
    for client in [Client(port, request) for _ in range(clients)]:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.send()
    times: list[float] = []
    statuses: Counter[int] = Counter()
    while True:
        for key, _ in selector.select(60):
            client = key.data
            status = client.receive()
            if status is not None:
                times.append(time.perf_counter() - client.started)
                statuses[status] += 1
                client.send()
        elapsed = time.perf_counter() - started
        # At least one reply each: percentiles of fewer would be those of the lucky clients.
        if len(times) >= (requests or clients) and elapsed >= seconds:
            break
    times.sort()
    percentiles = {f"p{at}_ms": 1000 * times[int(at / 100 * (len(times) - 1))] for at in (50, 99)}
    return {"replies": len(times), "seconds": elapsed, "statuses": statuses, **percentiles}


def main() -> None:
    call = json.load(sys.stdin)
    request = Path(call["request"]).read_bytes()
    found = load(call["port"], request, call["clients"], call.get("seconds", 0.0), call.get("requests"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()

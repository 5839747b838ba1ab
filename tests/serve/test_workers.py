"""The command in processes of its own: a worker that is killed, a port that is taken, a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest
import tiny


def predict(url: str) -> int:
    request = urllib.request.Request(f"{url}/predict", b'[{"n": 1, "c": "x"}]')
    with urllib.request.urlopen(request, timeout=30) as reply:
        return int(reply.status)


@pytest.mark.slow  # several processes that import torch
@pytest.mark.skipif(os.name == "nt", reason="Windows' processes share no socket")
def test_a_killed_worker_is_started_again_and_a_signal_ends_all(tmp_path: Path) -> None:
    model = str(tiny.save(tmp_path, "table"))
    command = [sys.executable, "-m", "dlcli", "serve", model, "--port"]
    with subprocess.Popen(
        [*command, "0", "--workers", "2", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        assert predict(url) == 200
        workers = psutil.Process(server.pid).children()
        assert len(workers) == 2
        workers[0].kill()
        assert predict(url) == 200  # by the other one
        deadline = time.monotonic() + 60
        while len(alive := [w for w in psutil.Process(server.pid).children() if w.is_running()]) < 2 or (
            workers[0] in alive
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = subprocess.run([*command, url.rpartition(":")[2]], capture_output=True, text=True)
        assert second.returncode == 1
        assert "cannot listen on" in second.stderr
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    with pytest.raises(urllib.error.URLError):
        predict(url)
    assert not [worker for worker in (*workers, *alive) if worker.is_running()]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows' processes share no socket")
def test_a_worker_killed_under_load_loses_only_what_it_had_in_flight(tmp_path: Path) -> None:
    model, clients = str(tiny.save(tmp_path, "table")), 8
    command = [sys.executable, "-m", "dlcli", "serve", model, "--port", "0", "--workers", "2"]
    with subprocess.Popen(
        [*command, "--json", "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        until = time.monotonic() + 6

        def ask() -> list[bool]:
            replies = []
            while time.monotonic() < until:
                try:
                    replies.append(predict(url) == 200)
                except (OSError, HTTPException):
                    replies.append(False)
            return replies

        with ThreadPoolExecutor(clients) as pool:
            asking = [pool.submit(ask) for _ in range(clients)]
            time.sleep(2)
            psutil.Process(server.pid).children()[0].kill()
            replies = [each.result() for each in asking]
        assert sum(map(len, replies)) > 10 * clients
        # A client has one request at a time, so it loses one at most; later ones go to the other worker.
        assert all(each.count(False) <= 1 for each in replies)
        assert all(each[-1] for each in replies)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0

"""`dlcli serve` beside ONNX Runtime in process and servers as tutorials write them, under load.

    python benchmarks/serving.py [MODEL.onnx ...] [--peers PYTHON] [--rounds 5] [--quick]
    python benchmarks/serving.py --malformed 10000 --requests 100000 --rounds 0

For ONNX files of image models; without one, a cnn is trained on digits. In each round every row has its
turn under ``--clients`` clients of one process. The limit is ONNX Runtime alone, called with ``--batch``
prepared samples again and again. ``cpu_ms`` is the processor time of a sample in the server, which other
programs of a busy machine change less than the clock. ``--malformed`` sends damaged requests and counts
their statuses; ``--requests`` sends a tenth as many good ones, then so many, and reads the server's
memory before and after the latter. Prints JSON: each figure as its median, least and largest over the
rounds. The access log is off. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from common import machine

HERE = Path(__file__).parent
LARGE = 32  # samples of a large request
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Row:
    """What is sent to which server, and the samples in it."""

    port: int
    pid: int
    request: Path
    samples: int


def trained(folder: Path) -> Path:
    """A cnn for digits."""
    dlcli = [sys.executable, "-m", "dlcli"]
    data = ["--data", "digits", "--model", "cnn", "--epochs", "3"]
    train = ["train", *data, "--name", "cnn-digits", "--quiet"]
    subprocess.run([*dlcli, *train], cwd=folder, check=True, stdout=sys.stderr)
    export = ["export", "cnn-digits", "--format", "onnx", "--no-latency", "--quiet"]
    subprocess.run([*dlcli, *export], cwd=folder, check=True, stdout=sys.stderr)
    return folder / "runs/cnn-digits/best.onnx"


@contextlib.contextmanager
def process(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program that runs, with its own children, until the end of the block."""
    with subprocess.Popen(argv, text=True, start_new_session=True, **options) as child:
        try:
            yield child
        finally:
            os.killpg(child.pid, signal.SIGTERM)


def start_peer(stack: contextlib.ExitStack, python: str, name: str, model: Path) -> tuple[int, int]:
    """Start a server of ``peers/``; its port and its process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    argv = [python, str(HERE / f"peers/{name}_server.py"), str(model), str(port)]
    child = stack.enter_context(process(argv, stdout=sys.stderr))
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return port, child.pid
        if child.poll() is not None:
            raise SystemExit(f"the server of {name} ended with exit code {child.returncode}")
        time.sleep(0.1)
    raise SystemExit(f"the server of {name} does not listen after a minute")


def start_dlcli(stack: contextlib.ExitStack, model: Path) -> tuple[int, str, int]:
    """Start `dlcli serve`; its port, the name of its model, its process id."""
    argv = [sys.executable, "-m", "dlcli", "serve", str(model), "--port", "0", "--json", "--quiet"]
    child = stack.enter_context(process(argv, stdout=subprocess.PIPE))
    assert child.stdout is not None
    said = json.loads(child.stdout.readline())
    return int(said["url"].rpartition(":")[2]), said["models"][0]["name"], child.pid


def inputs_of(session: Any, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 pixels (n, H, W, C) of a model of images, and its input (n, C, H, W) of them."""
    channels, height, width = session.get_inputs()[0].shape[1:]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (samples, height, width, channels), dtype=np.uint8)
    return pixels, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def body_of(pixels: np.ndarray, *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """The body of a request and its headers."""
    tensor: dict[str, Any] = {"name": "pixels", "datatype": "UINT8", "shape": list(pixels.shape)}
    if not binary:
        tensor["data"] = pixels.reshape(-1).tolist()
        return json.dumps({"inputs": [tensor]}).encode(), {"Content-Type": "application/json"}
    tensor["parameters"] = {"binary_data_size": pixels.nbytes}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + pixels.tobytes(), {HEADER_LENGTH: str(len(head))}


def write_request(path: Path, target: str, pixels: np.ndarray, *, binary: bool) -> Path:
    """A file of the bytes of a request."""
    body, headers = body_of(pixels, binary=binary)
    lines = [f"POST {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    path.write_bytes("\r\n".join([*lines, "", ""]).encode() + body)
    return path


def load(row: Row, clients: int, **bounds: float) -> dict[str, Any]:
    """What clients in a process of their own found."""
    call = {"port": row.port, "request": str(row.request), "clients": clients, **bounds}
    argv = [sys.executable, str(HERE / "serving_client.py")]
    done = subprocess.run(argv, input=json.dumps(call), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{row.request.name}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def cpu_s(pid: int) -> float:
    """Processor time of a process and its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended meanwhile
            children += (task / "children").read_text().split()
    return own + sum(cpu_s(int(child)) for child in children)


def wait_until_idle(rows: dict[str, Row]) -> None:
    """Wait for servers that still work on requests of clients that are gone."""
    pids = {row.pid for row in rows.values()}
    for _ in range(300):
        before = sum(cpu_s(pid) for pid in pids)
        time.sleep(0.2)
        if sum(cpu_s(pid) for pid in pids) - before < 0.02:
            return
    raise SystemExit("a server works on a minute after the last request")


def limit(session: Any, batch: int, seconds: float) -> dict[str, float]:
    """Figures of the session alone."""
    feeds = {session.get_inputs()[0].name: inputs_of(session, batch)[1]}
    session.run(None, feeds)
    started, before, calls = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        session.run(None, feeds)
        calls += 1
    samples = calls * batch
    return {
        "samples_s": samples / (time.perf_counter() - started),
        "cpu_ms": 1000 * (time.process_time() - before) / samples,
    }


def timed(rows: dict[str, Row], session: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Every row in each round; figures over the rounds."""
    alone = "onnxruntime, in process"
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (alone, *rows)}
    for number in range(args.rounds):
        wait_until_idle(rows)
        found[alone].append(limit(session, args.batch, args.seconds))
        for name, row in rows.items():
            wait_until_idle(rows)
            found[name].append(under_load(name, row, args, found[alone][-1]))
            share = found[name][-1]["of_limit"]
            print(f"  round {number + 1}  {name}: {share:.3f} of the limit", file=sys.stderr, flush=True)
    return {
        name: {key: spread([figures[key] for figures in several]) for key in several[0]}
        for name, several in found.items()
        if several
    }


def under_load(
    name: str, row: Row, args: argparse.Namespace, alone: dict[str, float]
) -> dict[str, float]:
    """Figures of a row in one round, also as shares of those of the session alone."""
    before = cpu_s(row.pid)
    reply = load(row, args.clients, seconds=args.seconds)
    if set(reply["statuses"]) != {"200"}:
        raise SystemExit(f"{name}: the statuses are {reply['statuses']}")
    rate = reply["replies"] / reply["seconds"]
    cpu_ms = 1000 * (cpu_s(row.pid) - before) / (reply["replies"] * row.samples)
    return {
        "requests_s": rate,
        "samples_s": rate * row.samples,
        "of_limit": rate * row.samples / alone["samples_s"],
        "cpu_ms": cpu_ms,
        "cpu_of_limit": alone["cpu_ms"] / cpu_ms,
        "p50_ms": reply["p50_ms"],
        "p99_ms": reply["p99_ms"],
        "p99_of_p50": reply["p99_ms"] / reply["p50_ms"],
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and largest."""
    several = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key: float(f"{value:.4g}") for key, value in several.items()}


def damaged(rng: random.Random, body: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """A request with bytes changed, cut out, repeated or put in, in its body or its headers."""
    out = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if out else 0
        end = min(len(out), at + rng.randint(1, 40))
        how = rng.randrange(4)
        if how == 0 and out:
            out[at] = rng.randrange(256)
        elif how == 1:
            del out[at:end]
        elif how == 2:
            out[at:at] = out[at:end]
        else:
            out[at:at] = rng.choice([b"[" * 2000, b"null", b"-1", b"1e999", b"\xff\xfe", b'"', b"{}"])
    if HEADER_LENGTH in headers and rng.random() < 0.3:
        headers = {HEADER_LENGTH: rng.choice(["0", "-1", "x", "999999999", "10"])}
    if rng.random() < 0.1:
        headers = {**headers, "Content-Encoding": rng.choice(["gzip", "deflate", "br", "x"])}
    return bytes(out), headers


def malformed(port: int, name: str, pixels: np.ndarray, count: int) -> dict[str, int]:
    """How often each status came back for damaged requests to /infer and /predict."""
    rng, statuses = random.Random(0), Counter[str]()
    bodies = [body_of(pixels, binary=binary) for binary in (False, True)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(count):
        target = rng.choice([f"/v2/models/{name}/infer", f"/v2/models/{name}/infer", "/predict"])
        try:
            connection.request("POST", target, *damaged(rng, *rng.choice(bodies)))
            reply = connection.getresponse()
            reply.read()
            statuses[str(reply.status)] += 1
        except (http.client.HTTPException, ConnectionError):
            statuses["closed"] += 1
            connection.close()
    return dict(sorted(statuses.items()))


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 1000


def measure(model: Path, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All that is asked of one model."""
    session = onnxruntime.InferenceSession(str(model))
    one, large = inputs_of(session, 1)[0], inputs_of(session, LARGE)[0]
    with contextlib.ExitStack() as stack:
        port, name, pid = start_dlcli(stack, model)
        target = f"/v2/models/{name}/infer"
        in_json = write_request(folder / "json", target, one, binary=False)
        plain = write_request(folder / "plain", "/predict", one, binary=False)
        binary = write_request(folder / "binary", target, one, binary=True)
        several = write_request(folder / "large", target, large, binary=True)
        rows = {
            "dlcli, 1 sample, JSON": Row(port, pid, in_json, 1),
            "dlcli, 1 sample, binary": Row(port, pid, binary, 1),
            f"dlcli, {LARGE} samples, binary": Row(port, pid, several, LARGE),
        }
        if args.rounds:
            peers = {"starlette": sys.executable}
            if args.peers:
                peers |= {"fastapi": args.peers, "litserve": args.peers}
            for peer, python in peers.items():
                started = start_peer(stack, python, peer, model)
                rows[f"{peer}, 1 sample, JSON"] = Row(*started, plain, 1)
        found: dict[str, Any] = {"rows": timed(rows, session, args)}
        if args.malformed:
            found["malformed"] = malformed(port, name, one, args.malformed)
        if args.requests:
            load(rows["dlcli, 1 sample, binary"], args.clients, requests=max(1, args.requests // 10))
            before = memory_mb(pid)
            load(rows["dlcli, 1 sample, binary"], args.clients, requests=args.requests)
            found["memory_mb"] = {"before": before, "after": memory_mb(pid), "requests": args.requests}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument(
        "--peers", metavar="PYTHON", help="a Python that has litserve (with fastapi) and onnxruntime"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a row in a round")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--batch", type=int, default=LARGE, help="samples of a call of the limit")
    parser.add_argument("--malformed", type=int, default=0)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one short round")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 1, 0.5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [path.resolve() for path in args.models] or [trained(folder)]
        found = {str(model): measure(model, args, folder) for model in models}
    versions = [f"{name} {version(name)}" for name in ("onnxruntime", "starlette", "uvicorn")]
    print(json.dumps({"machine": f"{machine()}, {', '.join(versions)}", "models": found}, indent=2))
    if any(code.startswith("5") for each in found.values() for code in each.get("malformed", {})):
        raise SystemExit("a malformed request got a status of 500 or above")


if __name__ == "__main__":
    main()

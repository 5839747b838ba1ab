"""Settings of `dlcli serve`."""

from typing import Literal

from dlcli.schema import Frozen
from dlcli.settings import setting


class ServeConfig(Frozen):
    """Serving"""

    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 is every interface.", "--host")
    port: int = setting(8000, "Port to listen on; 0 picks a free one.", "--port", ge=0, le=65535)
    model_name: tuple[str, ...] = setting(
        (), "Name of a model in URLs, one for each artifact, in their order.", "--model-name"
    )
    workers: int = setting(1, "Processes on the same port, each with its models.", "--workers", ge=1)
    device: str = setting("auto", "cpu, cuda, cuda:1 or auto; ONNX files: tensorrt too.", "--device")
    threads: int | None = setting(
        None, "Threads of each model's calls (default: the runtime's).", "--threads", ge=1
    )
    max_batch: int | None = setting(
        None, "Most samples in one call of a model (default: the batch of predict).", "--max-batch", ge=1
    )
    max_wait_ms: float = setting(
        2.0, "Longest wait for a batch as large as the last one.", "--max-wait-ms", ge=0, le=10_000
    )
    max_queue: int = setting(
        256, "Requests at the same time; others get 429 and Retry-After.", "--max-queue", ge=1
    )
    max_body_mb: float = setting(
        32.0, "Largest body of a request in MB, also after decompression.", "--max-body-mb", gt=0
    )
    token: str | None = setting(
        None, "Bearer token that requests need (default: that of DLCLI_TOKEN, if set).", "--token"
    )
    min_confidence: float | None = setting(
        None, "Classifiers: abstain where no class is as probable.", "--min-confidence", gt=0, le=1
    )
    reload: Literal["parity", "force", "off"] = setting(
        "parity", "Serve a changed file: if it agrees with the served one, always, never.", "--reload"
    )
    timeout_s: float = setting(
        30.0, "Seconds for a client to send a request, and for idle connections.", "--timeout", gt=0
    )
    drain_s: float = setting(
        30.0, "Seconds for requests in progress after SIGTERM.", "--drain-timeout", ge=0
    )

"""What the requests of a server share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlcli.config import ServeConfig
    from dlcli.serve.metrics import Metrics
    from dlcli.serve.models import Models


@dataclass
class ServerState:
    """The models, the settings, the folder of temporary files, and whether the server is going down."""

    models: Models
    config: ServeConfig
    folder: Path
    threads: ThreadPoolExecutor
    metrics: Metrics
    access_log: bool = True
    in_flight: int = 0  # requests with a body
    body_bytes: int = 0  # of these bodies, at most
    draining: bool = False
    max_body: int = field(init=False)

    def __post_init__(self) -> None:
        self.max_body = int(self.config.max_body_mb * 1e6)

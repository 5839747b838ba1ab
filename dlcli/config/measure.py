"""Settings of the measurement before and after `export`, `quantize` and `prune`."""

from dlcli.config.shared import EvaluationData, Split, Timing
from dlcli.settings import setting


class MeasureConfig(Timing, EvaluationData):
    """Measurement before and after"""

    split: Split = setting(
        "auto", "Split to measure on; auto: val, so that test stays unused.", "--split"
    )
    samples: int | None = setting(
        None,
        "Samples to measure on, evenly spaced (default: the whole split; for export 256).",
        "--samples",
        ge=1,
        advanced=True,
    )
    latency: bool = setting(
        True, "Measure latency and throughput, one process per file.", "--latency/--no-latency"
    )

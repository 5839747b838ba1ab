"""Settings of `dlcli benchmark`."""

from typing import Annotated

from dlcli.config.shared import EvaluationData, FixedAmp, ForeignTable, Timing, parse_sizes
from dlcli.settings import PathText, parsed_by, setting


class BenchConfig(Timing, ForeignTable, EvaluationData):
    """Benchmark"""

    data: PathText = setting(
        None, "Other data to measure accuracy on (default: each model's own).", "--data", "-d"
    )
    accuracy: bool = setting(True, "Measure accuracy too.", "--accuracy/--no-accuracy")
    batch_sizes: Annotated[str, parsed_by(parse_sizes)] = setting(
        "1,8,32", "Batch sizes to time, comma-separated.", "--batch-sizes", "-b"
    )
    backends: str = setting(
        "eager",
        "Ways to run a torch model, comma-separated: eager, channels-last, contiguous, compile, "
        "cuda-graph.",
        "--backends",
    )
    seconds: float = setting(2.0, "Seconds of timed calls per model and batch size.", "--seconds", gt=0)
    rounds: int = setting(5, "Rounds in which the models are timed in turn.", "--rounds", ge=2)
    device: str = setting("cpu", "cpu, cuda or cuda:1; ONNX files: tensorrt too.", "--device")
    amp: FixedAmp = setting("none", "Mixed precision of torch models.", "--amp")

"""All settings of `dlcli tune`: those of a training, and those of the search."""

from typing import Annotated, Literal

from pydantic import Field

from dlcli.config.durations import parse_time
from dlcli.config.train import TrainConfig
from dlcli.schema import Frozen
from dlcli.settings import parsed_by, setting

SamplerName = Literal["tpe", "random", "gp", "grid"]
PrunerName = Literal["median", "hyperband", "none"]
EngineName = Literal["local", "ray"]


class SearchConfig(Frozen):
    """Search"""

    trials: int = setting(20, "Number of trials; the first has the default settings.", "--trials", ge=1)
    max_time: Annotated[str | None, parsed_by(parse_time)] = setting(
        None, "Begin no trial after this time, and end those that run: 90s, 30min, 2h.", "--max-time"
    )
    search: tuple[str, ...] = setting(
        (),
        "Settings to search, in place of the model's own: 'optim.lr=1e-4..1e-2:log, "
        "optim.optimizer=adam|sgd'; may be repeated.",
        "--search",
    )
    objective: str | None = setting(
        None,
        "What is searched for: a metric (default: --monitor), or two objectives, the second latency, "
        "size, macs or a metric: accuracy,latency.",
        "--objective",
    )
    sampler: SamplerName = setting("tpe", "Sampler of Optuna, or grid.", "--sampler")
    pruner: PrunerName = setting("median", "When trials end early, after an epoch.", "--pruner")
    workers: int = setting(
        1, "Trials at the same time, each in a process of its own.", "--workers", ge=1
    )
    engine: EngineName = setting("local", "Where workers run: here, or on a Ray cluster.", "--engine")
    cpus_per_trial: int = setting(1, "CPUs a worker asks of the cluster.", "--cpus-per-trial", ge=1)
    gpus_per_trial: float | None = setting(
        None,
        "GPUs a worker asks of it, 0.5 for two on one (default: 1 where there are any).",
        "--gpus-per-trial",
        ge=0,
    )


class TuneConfig(TrainConfig):
    """All settings of `tune`."""

    tune: SearchConfig = Field(default_factory=SearchConfig)

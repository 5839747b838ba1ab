"""Settings: groups of fields that become flags, YAML keys and ``--set`` keys (`dlcli.settings`).

A group's module is imported when its name is first used: building one takes pydantic milliseconds, and
a command's ``--help`` waits for those of its own groups alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlcli.config.adopt import AdoptConfig as AdoptConfig
    from dlcli.config.augment import AugmentConfig as AugmentConfig
    from dlcli.config.benchmark import BenchConfig as BenchConfig
    from dlcli.config.bounds import Bound as Bound
    from dlcli.config.bounds import parse_amount as parse_amount
    from dlcli.config.bounds import parse_bound as parse_bound
    from dlcli.config.bounds import parse_bytes as parse_bytes
    from dlcli.config.bounds import parse_milliseconds as parse_milliseconds
    from dlcli.config.bounds import parse_names as parse_names
    from dlcli.config.data import DataConfig as DataConfig
    from dlcli.config.eval import EvalConfig as EvalConfig
    from dlcli.config.eval import ExplainConfig as ExplainConfig
    from dlcli.config.eval import PredictConfig as PredictConfig
    from dlcli.config.export import ExportConfig as ExportConfig
    from dlcli.config.export import ExportSettings as ExportSettings
    from dlcli.config.finetune import FinetuneConfig as FinetuneConfig
    from dlcli.config.fit import FitConfig as FitConfig
    from dlcli.config.launch import LaunchConfig as LaunchConfig
    from dlcli.config.loss import LossConfig as LossConfig
    from dlcli.config.loss import LossName as LossName
    from dlcli.config.measure import MeasureConfig as MeasureConfig
    from dlcli.config.model import ModelConfig as ModelConfig
    from dlcli.config.optim import OptimConfig as OptimConfig
    from dlcli.config.optim import Optimizer as Optimizer
    from dlcli.config.optim import Scheduler as Scheduler
    from dlcli.config.prune import PruneConfig as PruneConfig
    from dlcli.config.prune import PruneSettings as PruneSettings
    from dlcli.config.quantize import QuantizeConfig as QuantizeConfig
    from dlcli.config.quantize import QuantizeSettings as QuantizeSettings
    from dlcli.config.serve import ServeConfig as ServeConfig
    from dlcli.config.shared import parse_sizes as parse_sizes
    from dlcli.config.ship import ShipConfig as ShipConfig
    from dlcli.config.ship import ShipSettings as ShipSettings
    from dlcli.config.train import TrainConfig as TrainConfig
    from dlcli.config.tune import SearchConfig as SearchConfig
    from dlcli.config.tune import TuneConfig as TuneConfig

_MODULES = {
    "adopt": ("AdoptConfig",),
    "augment": ("AugmentConfig",),
    "benchmark": ("BenchConfig",),
    "bounds": (
        "Bound",
        "parse_amount",
        "parse_bound",
        "parse_bytes",
        "parse_milliseconds",
        "parse_names",
    ),
    "data": ("DataConfig",),
    "eval": (
        "EvalConfig",
        "ExplainConfig",
        "PredictConfig",
    ),
    "export": (
        "ExportConfig",
        "ExportSettings",
    ),
    "finetune": ("FinetuneConfig",),
    "fit": ("FitConfig",),
    "launch": ("LaunchConfig",),
    "loss": (
        "LossConfig",
        "LossName",
    ),
    "measure": ("MeasureConfig",),
    "model": ("ModelConfig",),
    "optim": (
        "OptimConfig",
        "Optimizer",
        "Scheduler",
    ),
    "prune": (
        "PruneConfig",
        "PruneSettings",
    ),
    "quantize": (
        "QuantizeConfig",
        "QuantizeSettings",
    ),
    "serve": ("ServeConfig",),
    "shared": ("parse_sizes",),
    "ship": (
        "ShipConfig",
        "ShipSettings",
    ),
    "train": ("TrainConfig",),
    "tune": (
        "SearchConfig",
        "TuneConfig",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

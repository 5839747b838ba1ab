"""Settings: groups of fields that become flags, YAML keys and ``--set`` keys (`dlcli.settings`)."""

from dlcli.config.augment import AugmentConfig
from dlcli.config.benchmark import BenchConfig
from dlcli.config.bounds import Bound, parse_bound, parse_names
from dlcli.config.data import DataConfig
from dlcli.config.eval import EvalConfig, PredictConfig
from dlcli.config.export import ExportConfig, ExportSettings
from dlcli.config.finetune import FinetuneConfig
from dlcli.config.fit import FitConfig
from dlcli.config.launch import LaunchConfig
from dlcli.config.loss import LossConfig, LossName
from dlcli.config.measure import MeasureConfig
from dlcli.config.model import ModelConfig
from dlcli.config.optim import OptimConfig, Optimizer, Scheduler
from dlcli.config.prune import PruneConfig, PruneSettings
from dlcli.config.quantize import QuantizeConfig, QuantizeSettings
from dlcli.config.shared import parse_sizes
from dlcli.config.train import TrainConfig

__all__ = [
    "AugmentConfig",
    "BenchConfig",
    "Bound",
    "DataConfig",
    "EvalConfig",
    "ExportConfig",
    "ExportSettings",
    "FinetuneConfig",
    "FitConfig",
    "LaunchConfig",
    "LossConfig",
    "LossName",
    "MeasureConfig",
    "ModelConfig",
    "OptimConfig",
    "Optimizer",
    "PredictConfig",
    "PruneConfig",
    "PruneSettings",
    "QuantizeConfig",
    "QuantizeSettings",
    "Scheduler",
    "TrainConfig",
    "parse_bound",
    "parse_names",
    "parse_sizes",
]

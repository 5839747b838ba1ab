"""All settings of `dlcli train`."""

from __future__ import annotations

from dlcli.config.augment import AugmentConfig
from dlcli.config.data import DataConfig
from dlcli.config.fit import FitConfig
from dlcli.config.launch import LaunchConfig
from dlcli.config.loss import LossConfig
from dlcli.config.model import ModelConfig
from dlcli.config.optim import OptimConfig
from dlcli.task import Frozen


class TrainConfig(Frozen):
    """All settings of `train`."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()
    fit: FitConfig = FitConfig()
    launch: LaunchConfig = LaunchConfig()

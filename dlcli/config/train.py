"""All settings of `dlcli train`."""

from pydantic import Field

from dlcli.config.augment import AugmentConfig
from dlcli.config.data import DataConfig
from dlcli.config.fit import FitConfig
from dlcli.config.launch import LaunchConfig
from dlcli.config.loss import LossConfig
from dlcli.config.model import ModelConfig
from dlcli.config.optim import OptimConfig
from dlcli.schema import Frozen


class TrainConfig(Frozen):
    """All settings of `train`."""

    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    fit: FitConfig = Field(default_factory=FitConfig)
    launch: LaunchConfig = Field(default_factory=LaunchConfig)

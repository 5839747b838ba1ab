"""Settings of `dlcli ship`."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from dlcli.config.bounds import NUMBERS_AS_TEXT, parse_bound, parse_bytes, parse_milliseconds
from dlcli.config.durations import parse_time
from dlcli.config.finetune import FinetuneConfig
from dlcli.config.measure import MeasureConfig
from dlcli.schema import Frozen
from dlcli.settings import parsed_by, setting

TargetName = Literal["cpu-x86", "arm", "browser", "phone", "cuda"]
TARGETS: tuple[TargetName, ...] = get_args(TargetName)


class ShipConfig(Frozen):
    """Shipping"""

    model_config = NUMBERS_AS_TEXT

    target: TargetName | None = setting(
        None, "Where the model will run (default: this machine's processor).", "--target", "-t"
    )
    max_drop: Annotated[str, parsed_by(parse_bound)] = setting(
        "1%", "Largest drop of the metric on val, absolute (0.01) or relative (1%).", "--max-drop"
    )
    max_size: Annotated[str | None, parsed_by(parse_bytes)] = setting(
        None, "Largest size of the model's file: 3MB, 500kB.", "--max-size"
    )
    max_latency: Annotated[str | None, parsed_by(parse_milliseconds)] = setting(
        None, "Longest call with the smallest batch: 2ms, 500us.", "--max-latency"
    )
    max_time: Annotated[str | None, parsed_by(parse_time)] = setting(
        None, "Plan for this time, and begin no attempt after it: 90s, 30min, 2h.", "--max-time"
    )
    judge_here: bool = setting(
        False,
        "Judge --max-latency by the latency on this machine, which is not the target.",
        "--judge-here",
    )


class ShipSettings(Frozen):
    """All settings of `ship`."""

    ship: ShipConfig = Field(default_factory=ShipConfig)
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig)
    measure: MeasureConfig = Field(default_factory=MeasureConfig)

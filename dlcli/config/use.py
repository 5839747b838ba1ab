"""The settings of using a model: measuring it on a split, and asking it."""

from __future__ import annotations

from typing import Literal

from dlcli.settings import setting
from dlcli.task import Frozen


class EvalConfig(Frozen):
    """Evaluation"""

    data: str | None = setting(
        None, "Other data to evaluate on (default: what it was trained on).", "--data", "-d"
    )
    data_dir: str | None = setting(None, "Where a named data set lies on disk.", "--data-dir")
    split: Literal["auto", "train", "val", "test", "all"] = setting(
        "auto", "auto: test where there is one, else val.", "--split"
    )
    baselines: bool = setting(
        False, "Fit strong baselines too: TF-IDF, linear, boosted trees, 1-NN.", "--baselines"
    )
    beams: int = setting(
        1, "Translations that are followed at once; 1 takes each best token.", "--beams", ge=1
    )
    tta: Literal["none", "flip"] = setting(
        "none", "Average over views of an image: flip is its mirror image.", "--tta"
    )
    batch_size: int | None = setting(
        None, "Samples at a time (default: by image size).", "--batch-size", "-b", ge=1
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps or xpu.", "--device")
    workers: int | None = setting(
        None, "Threads that decode images (default: one a core).", "--workers", "-j", ge=1, le=256
    )
    on_bad_sample: Literal["skip", "fail"] = setting(
        "skip", "Unreadable samples: skip and count them, or fail.", "--on-bad-sample"
    )
    offline: bool = setting(False, "Never try the network.", "--offline")


class PredictConfig(Frozen):
    """Prediction"""

    top_k: int = setting(3, "How many classes are named for each input.", "--top-k", "-k", ge=1)
    beams: int = setting(
        1, "Translations that are followed at once; 1 takes each best token.", "--beams", ge=1
    )
    tta: Literal["none", "flip"] = setting(
        "none", "Average over views of an image: flip is its mirror image.", "--tta"
    )
    batch_size: int | None = setting(
        None, "Samples at a time (default: by image size).", "--batch-size", "-b", ge=1
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps or xpu.", "--device")
    workers: int | None = setting(
        None, "Threads that decode images (default: one a core).", "--workers", "-j", ge=1, le=256
    )

"""Settings of image augmentation."""

from __future__ import annotations

from typing import Any, Literal

from dlcli.settings import setting
from dlcli.task import Frozen


class AugmentConfig(Frozen):
    """Augmentation"""

    level: Literal["none", "light", "standard", "strong"] | None = setting(
        None,
        "How much training images are varied (default: the model's, else none). "
        "All but none also mirror them: --set augment.flip=0 for digits and letters.",
        "--augment",
    )
    crop_scale: float | None = setting(
        None, "Smallest share of the area that a random resized crop keeps; 1: off.", gt=0, le=1
    )
    flip: float | None = setting(None, "Share of images mirrored left to right.", ge=0, le=1)
    vertical_flip: float | None = setting(None, "Share of images turned upside down.", ge=0, le=1)
    rotation: float | None = setting(None, "Largest rotation in degrees.", ge=0, le=180)
    translate: float | None = setting(None, "Largest shift, as a share of each side.", ge=0, lt=1)
    jitter: float | None = setting(
        None, "Largest change of brightness, contrast and saturation, as a share.", ge=0, lt=1
    )
    randaugment: float | None = setting(None, "Magnitude of RandAugment; 0: off.", ge=0, le=10)
    randaugment_ops: int = setting(2, "Operations that RandAugment draws for an image.", ge=1, le=8)
    erasing: float | None = setting(None, "Share of images that lose a random rectangle.", ge=0, le=1)
    mixup: float | None = setting(None, "MixUp: alpha of its Beta distribution; 0: off.", ge=0, le=100)
    cutmix: float | None = setting(None, "CutMix: alpha of its Beta distribution; 0: off.", ge=0, le=100)
    args: dict[str, dict[str, Any]] = setting(
        {}, "Registered augmentations, each with its own settings."
    )

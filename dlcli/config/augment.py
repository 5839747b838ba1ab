"""Settings of augmentation."""

from typing import Annotated, Any

from dlcli.schema import Frozen
from dlcli.settings import RegisteredName, setting
from dlcli.trust import AUGMENTATIONS_GROUP

LEVELS = ("none", "light", "standard", "strong")
Level = Annotated[str, RegisteredName("augmentation", others=LEVELS, group=AUGMENTATIONS_GROUP)]


class AugmentConfig(Frozen):
    """Augmentation"""

    level: Level | None = setting(
        None,
        "Augmentation (default: the model's, else none). All levels but none flip images: --set "
        "augment.flip=0 for digits and letters. Own code: data of any kind.",
        "--augment",
    )
    crop_scale: float | None = setting(None, "Random resized crop: minimum area; 1: off.", gt=0, le=1)
    flip: float | None = setting(None, "Probability of a horizontal flip.", ge=0, le=1)
    vertical_flip: float | None = setting(None, "Probability of a vertical flip.", ge=0, le=1)
    rotation: float | None = setting(None, "Maximum rotation in degrees.", ge=0, le=180)
    translate: float | None = setting(None, "Maximum translation, relative to each side.", ge=0, lt=1)
    jitter: float | None = setting(
        None, "Color jitter: maximum relative change of brightness, contrast and saturation.", ge=0, lt=1
    )
    randaugment: float | None = setting(None, "RandAugment magnitude; 0: off.", ge=0, le=10)
    randaugment_ops: int = setting(2, "RandAugment operations per image.", ge=1, le=8)
    erasing: float | None = setting(None, "Probability of random erasing.", ge=0, le=1)
    mixup: float | None = setting(None, "MixUp alpha; 0: off.", ge=0, le=100)
    cutmix: float | None = setting(None, "CutMix alpha; 0: off.", ge=0, le=100)
    args: dict[str, dict[str, Any]] = setting({}, "Registered augmentations, each with its settings.")

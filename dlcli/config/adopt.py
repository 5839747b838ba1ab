"""Settings of `dlcli adopt`."""

from typing import Annotated, Literal

from dlcli.config.model import ModelConfig
from dlcli.errors import UsageError
from dlcli.schema import Frozen, Interpolation
from dlcli.settings import PathText, parsed_by, setting


def parse_numbers(text: str, flag: str = "--mean and --std") -> tuple[float, ...]:
    """Return the numbers in "0.5,0.5,0.5". Raises: UsageError for other text."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r} is no list of numbers", hint=f"{flag} take 0.5,0.5,0.5") from None


_IMAGES = {key: ModelConfig.model_fields[key].description or "" for key in ("resize", "interpolation")}


class AdoptConfig(Frozen):
    """What a model file of another program does not say"""

    data: PathText = setting(
        None,
        "Data of the form that the model was trained on: its classes in sorted order, its columns.",
        "--data",
        "-d",
    )
    target: str | None = setting(
        None, "Target column of --data, or columns, comma-separated.", "--target", "-t"
    )
    classes: PathText = setting(
        None,
        "Text file with a class name a line, in the order of the outputs (default: those of --data).",
        "--classes",
    )
    kind: Literal["auto", "image", "tabular"] = setting(
        "auto", "Kind of input (default: by the file, else by --data).", "--kind"
    )
    output_name: str | None = setting(
        None,
        "Which of several outputs it is (default: the one named logits or probabilities, else the one "
        "with a number for each class or column).",
        "--output-name",
    )
    img_size: int | None = setting(
        None, "Side of the images in pixels (default: the file's, else 224).", "--img-size", ge=1
    )
    mean: Annotated[str | None, parsed_by(parse_numbers)] = setting(
        None, "Mean of pixels from 0 to 1, by channel or one number (default: ImageNet's).", "--mean"
    )
    std: Annotated[str | None, parsed_by(parse_numbers)] = setting(
        None, "Std of pixels from 0 to 1, by channel or one number (default: ImageNet's).", "--std"
    )
    resize: Literal["crop", "squash"] = setting("crop", _IMAGES["resize"], "--resize")
    crop_fraction: float = setting(
        0.875, "Centre crop: share of the shorter side.", "--crop-fraction", gt=0, le=1
    )
    interpolation: Interpolation = setting("bilinear", _IMAGES["interpolation"], "--interpolation")

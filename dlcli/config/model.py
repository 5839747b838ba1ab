"""Settings of the model and its initial weights."""

from __future__ import annotations

from typing import Any, Literal

from dlcli.settings import setting
from dlcli.task import Frozen, Interpolation


class ModelConfig(Frozen):
    """Model"""

    name: str | None = setting(
        None, "One of dlcli models, torchvision's or timm:NAME, or file.py:Class.", "--model", "-m"
    )
    img_size: int | None = setting(
        None, "Side of the square input in pixels (default: the model's).", "--img-size", ge=1, le=4096
    )
    pretrained: bool | None = setting(
        None,
        "Start from ImageNet weights (default: when they can be had).",
        "--pretrained/--no-pretrained",
    )
    weights: str | None = setting(
        None, "Start from this file: a dlcli artifact, .pth or .safetensors.", "--weights"
    )
    freeze: str = setting(
        "none",
        "backbone: train the head alone; or names of layers with commas, such as layer1,conv*.",
        "--freeze",
    )
    unfreeze: str | None = setting(
        None,
        "Frozen layers that train from a share of the run on: 'layer4@50%,layer3@75%'.",
        "--unfreeze",
    )
    head: Literal["linear", "mlp"] = setting("linear", "Head of a torchvision model.", "--head")
    embedding_size: int = setting(
        128, "Numbers in the answer to --task embedding.", "--embedding-size", ge=2
    )
    resize: Literal["crop", "squash"] = setting(
        "crop", "Fit images by cutting out the centre, or by squashing both sides."
    )
    crop_fraction: float = setting(1.0, "Share of the shorter side that crop keeps.", gt=0, le=1)
    interpolation: Interpolation = setting("bilinear", "How pixels are resized (antialiased).")
    args: dict[str, Any] = setting({}, "The model's own arguments, such as dropout.")

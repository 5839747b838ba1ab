"""Settings of the model and its initial weights."""

from typing import Annotated, Any, Literal

from dlcli.config.layer_patterns import parse_freeze, parse_lora_targets, parse_unfreeze
from dlcli.schema import Frozen, Interpolation
from dlcli.settings import PathText, parsed_by, setting


class ModelConfig(Frozen):
    """Model"""

    name: str | None = setting(
        None,
        "Model: a name of dlcli models or torchvision, timm:NAME, hf:NAME, or file.py:Class.",
        "--model",
        "-m",
    )
    img_size: int | None = setting(
        None,
        "Image size in pixels; images are square (default: the model's).",
        "--img-size",
        ge=1,
        le=4096,
        advanced=True,
    )
    pretrained: bool | None = setting(
        None,
        "Start from ImageNet weights (default: if available).",
        "--pretrained/--no-pretrained",
    )
    weights: PathText = setting(
        None,
        "Initial weights: a dlcli model, .pth, .safetensors, or a hub's snapshot or name (bert).",
        "--weights",
    )
    optimizer_state: bool = setting(
        False,
        "Begin with the optimizer's state in the file of --weights too.",
        "--optimizer-state",
        advanced=True,
    )
    word_vectors: PathText = setting(
        None,
        "Word vectors for the embedding of texts: GloVe, word2vec text, or .npy and its words.",
        "--word-vectors",
        advanced=True,
    )
    freeze: Annotated[str, parsed_by(parse_freeze)] = setting(
        "none",
        "Layers to freeze: backbone (all but the head), norms (batch norms), or names: layer1,conv*.",
        "--freeze",
        on_resume="forced",
    )
    unfreeze: Annotated[str | None, parsed_by(parse_unfreeze)] = setting(
        None,
        "When to unfreeze frozen layers, as a share of the run: 'layer4@50%,layer3@75%'.",
        "--unfreeze",
        advanced=True,
        on_resume="forced",
    )
    lora: int | None = setting(
        None,
        "LoRA of this rank: train low-rank factors of layers and the head; the rest is frozen.",
        "--lora",
        ge=1,
    )
    lora_targets: Annotated[str | None, parsed_by(parse_lora_targets)] = setting(
        None,
        "Layers of LoRA by name: 'query,value' or 'attn.*' (default: all linear and convolution).",
        "--lora-targets",
        advanced=True,
    )
    lora_alpha: float | None = setting(
        None, "LoRA: the factors count alpha / rank times (default: 2 x rank).", gt=0
    )
    head: Literal["linear", "mlp"] = setting(
        "linear", "Head of a torchvision, timm or bert model.", "--head", advanced=True
    )
    embedding_size: int = setting(
        128, "Dimension of the embedding (--task embedding).", "--embedding-size", ge=2, advanced=True
    )
    resize: Literal["crop", "squash"] = setting(
        "crop", "Resize to a square: centre crop, or ignore the aspect ratio."
    )
    crop_fraction: float = setting(1.0, "Centre crop: share of the shorter side.", gt=0, le=1)
    interpolation: Interpolation = setting("bilinear", "Interpolation of resizing (antialiased).")
    args: dict[str, Any] = setting({}, "Arguments of the model class, such as dropout.")

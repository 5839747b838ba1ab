"""Description of an image input."""

from __future__ import annotations

from dlcli.data.kinds import Description, Facts
from dlcli.task import ImageInput

_RESIZE = {
    "crop": "shorter side to {size}, then center crop {height} x {width}",
    "squash": "both sides to {height} x {width}",
}


def describe(spec: ImageInput) -> Description:
    """Describe shape, resizing and normalisation."""
    channels, height, width = spec.shape
    color = "grey" if channels == 1 else "RGB"
    resize = _RESIZE[spec.resize].format(size=spec.resize_size, height=height, width=width)
    normalise = f"(x / 255 - mean) / std, mean {_numbers(spec.mean)}, std {_numbers(spec.std)}"
    deep: Facts = ()
    if spec.value_range is not None:
        low, high = spec.value_range
        deep = (("more than 8 bits", f"values from {low:,.6g} to {high:,.6g} become 0 to 255"),)
    return Description(
        (
            ("shape", f"{channels} x {height} x {width} (channels, height, width), {color}"),
            *deep,
            ("resize", f"{resize}, {spec.interpolation}"),
            ("normalise", normalise),
        )
    )


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)

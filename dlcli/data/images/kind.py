"""The data kind of images: class folders, raw arrays of named sets, and tables of image files.

Shapes: pixels uint8 (N, H, W, C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlcli.data.base import DataSource, Listed, Pixels, Reader, Samples, Stacked
from dlcli.data.class_folders import has_samples
from dlcli.data.images.arrays import array_inputs, is_image_arrays, read_arrays
from dlcli.data.images.description import describe
from dlcli.data.images.folder import PHOTOS, read_folder, read_other_folder
from dlcli.data.images.inputs import image_inputs, why_no_image
from dlcli.data.images.manifest import find_manifest, is_manifest, read_manifest
from dlcli.data.images.measures import aspects, pixels
from dlcli.data.images.occlusion import occlude_image
from dlcli.data.images.readable import check_readable_classes
from dlcli.data.images.reader import PixelReader
from dlcli.data.images.synthetic import REFERENCE_WORDS, noise, reference_input
from dlcli.data.kinds import KINDS, DataKind, DataListing, ModelNeeds, ReadOptions
from dlcli.data.notices import Notice
from dlcli.data.previews import image_preview
from dlcli.data.scales import make_task
from dlcli.data.series.array_files import ARRAY_SUFFIXES
from dlcli.errors import DlcliError, UsageError
from dlcli.pixels.decode import is_deep_file, normalize, read_values
from dlcli.pixels.deep_values import fit_range
from dlcli.task import ImageInput, TaskSpec

if TYPE_CHECKING:
    from dlcli.config import DataConfig, ModelConfig, TrainConfig

# The channel statistics of ImageNet, for photos, whose own are unknown before decoding.
_PHOTO_MEAN, _PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GREY_MEAN, _GREY_STD = (0.449,), (0.226,)


def recognises(path: Path, config: DataConfig) -> bool:
    """Whether it is a folder with images at some depth, or a table with a column of image files."""
    if not path.is_dir():
        return is_image_arrays(path, config) or is_manifest(path, config)
    return has_samples(path, PHOTOS, loose=True) or is_image_arrays(path, config)


def read(path: Path, config: DataConfig, other: bool) -> DataListing:
    """List the photos of a folder, or of a table of image files, or the images of NumPy files."""
    if is_image_arrays(path, config):
        return read_arrays(path, config, other)
    if not path.is_dir():
        return read_manifest(path, config, other)
    try:
        return _read_class_folders(path, config, other)
    except DlcliError:
        manifest = find_manifest(path, config)
        if manifest is None:
            raise
    listing = read_manifest(manifest, config, other)
    notice = Notice(f"the labels are those of {manifest.name}")
    return replace(listing, notices=(*listing.notices, notice), name=path.name)


def _read_class_folders(path: Path, config: DataConfig, other: bool) -> DataListing:
    """List the photos of class folders. Raises: UsageError for settings that they have no use for."""
    if other:
        return read_other_folder(path)
    for key in ("target", "split_column", "group_column"):
        if getattr(config, key) is not None:
            flag = "--" + key.replace("_", "-")
            raise UsageError(
                f"{flag} {getattr(config, key)}: class folders have no columns",
                hint="give a table of image files: path,label",
            )
    if config.task not in (None, "classification", "embedding"):
        raise UsageError(
            f"--task {config.task}: class folders are for classification and embedding",
            hint="for labels or numbers give a table of image files: path,label",
        )
    return read_folder(path, unseen=config.task == "embedding")


def fit(source: DataSource, config: TrainConfig, needs: ModelNeeds) -> tuple[TaskSpec, list[Notice]]:
    """Fit the input of the model with the range of values of more than 8 bits, and scales of targets.

    Raises: DlcliError when no image of a class can be read.
    """
    spec, notices = image_input(source, config.model, needs), []
    items = source.splits["train"].items
    photos = items.values if isinstance(items, Listed) and items.are_files else ()
    fitted = fit_range(photos, is_deep_file, read_values)
    if fitted is not None:
        value_range, message = fitted
        spec = spec.model_copy(update={"value_range": value_range})
        notices.append(Notice(message, "value-range"))
    notices += check_readable_classes(source, spec)
    return make_task(source, spec, config.model), notices


def make_reader(samples: Samples, task: TaskSpec, options: ReadOptions) -> Reader:
    """Build the reader of a split, which decodes in threads."""
    assert isinstance(task.input, ImageInput)
    scale = options.whole_scale
    return PixelReader(
        samples,
        task.input if scale is None else _whole(task.input, scale),
        with_aspect=scale is not None,
        workers=options.workers,
        cache_bytes=options.cache_bytes,
        disk=options.disk,
        on_bad_sample=options.on_bad_sample,
    )


def _whole(spec: ImageInput, scale: float) -> ImageInput:
    """The input for photos that are squashed, not cropped, to ``scale`` times the size of ``spec``."""
    height, width = round(spec.height * scale), round(spec.width * scale)
    update = {"resize": "squash", "height": height, "width": width, "resize_size": max(height, width)}
    return spec.model_copy(update=update)


def image_input(source: DataSource, model: ModelConfig, needs: ModelNeeds) -> ImageInput:
    """The input of a model for a source: its channels, size and normalisation.

    Raises: UsageError when the model does not accept ``--img-size``.
    """
    native_channels, native_height, native_width = source.native
    channels = native_channels if native_channels in needs.channels else max(needs.channels)
    height, width = _size(needs, model, (native_height, native_width))
    if needs.mean is not None and needs.std is not None:
        mean, std = needs.mean, needs.std
    else:
        mean, std = _statistics(source, channels)
    arrays = native_height > 0
    size = max(height, width)
    return ImageInput(
        channels=1 if channels == 1 else 3,
        height=height,
        width=width,
        # Raw arrays are not cropped; photos keep their aspect ratio unless squashed.
        resize="squash" if arrays else model.resize,
        resize_size=size if arrays or model.resize == "squash" else round(size / model.crop_fraction),
        interpolation=model.interpolation,
        mean=mean,
        std=std,
    )


def _size(needs: ModelNeeds, model: ModelConfig, native: tuple[int, int]) -> tuple[int, int]:
    if model.img_size is not None:
        if model.img_size < needs.min_size:
            raise UsageError(
                f"--img-size {model.img_size} is too small for {needs.name}",
                hint=f"it needs at least {needs.min_size}",
            )
        if model.img_size % needs.size_multiple:
            near = max(1, round(model.img_size / needs.size_multiple)) * needs.size_multiple
            raise UsageError(
                f"--img-size {model.img_size}: {needs.name} needs a multiple of {needs.size_multiple}",
                hint=f"--img-size {near}",
            )
        return model.img_size, model.img_size
    height, width = native if native[0] else (needs.photo_size, needs.photo_size)
    step = needs.size_multiple
    return (
        math.ceil(max(height, needs.min_size) / step) * step,
        math.ceil(max(width, needs.min_size) / step) * step,
    )


def _statistics(source: DataSource, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel, in [0, 1]: of the training pixels of arrays, else of ImageNet."""
    items = source.splits["train"].items
    if not isinstance(items, Stacked):
        return (_GREY_MEAN, _GREY_STD) if channels == 1 else (_PHOTO_MEAN, _PHOTO_STD)
    pixels: Pixels = items.values
    # From a histogram of the 256 values: exact, and without a float copy of the data.
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(pixels.shape[3]):
        share = np.bincount(pixels[..., channel].reshape(-1), minlength=256) / pixels[..., 0].size
        centre = float(share @ values)
        mean.append(round(centre, 4))
        std.append(round(max(float(share @ (values - centre) ** 2) ** 0.5, 1e-3), 4))
    if len(mean) == 3 and channels == 1:
        return (_GREY_MEAN, _GREY_STD)
    repeat = channels // len(mean)
    return tuple(mean * repeat), tuple(std * repeat)


def _inputs(arguments: Sequence[str]) -> Samples:
    """The images of the arguments of `predict`: NumPy files alone, or files, folders and globs."""
    if arguments and all(argument.lower().endswith(ARRAY_SUFFIXES) for argument in arguments):
        return array_inputs(arguments)
    return image_inputs(arguments)


def default_batch_size(spec: ImageInput) -> int:
    """The number of images with the pixels of 64 photos of 224x224, at most 256.

    It affects memory, not results.
    """
    return max(1, min(256, 64 * 224 * 224 // (spec.height * spec.width)))


KINDS.register("image")(
    DataKind(
        name="image",
        unit=lambda task: "images",
        recognises=recognises,
        read=read,
        fit=fit,
        reader=make_reader,
        inputs=lambda arguments, task: _inputs(arguments),
        inputs_by_task=False,
        why_missing=why_no_image,
        reference_input=reference_input,
        reference_words=REFERENCE_WORDS,
        noise=noise,
        to_model=lambda inputs, spec: (normalize(inputs[0], spec),),
        default_batch_size=default_batch_size,
        describe=describe,
        preview=lambda samples, inputs, spec: image_preview(inputs[0][0]),
        occlude=occlude_image,
        measures={"pixels": pixels, "aspect": aspects},
        own_settings=(
            *("model.img_size", "model.pretrained"),
            *("data.cache", "data.cache_dir", "data.cache_limit"),
        ),
        order=10,
    )
)

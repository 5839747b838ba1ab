"""Augmentation is a function of (seed, epoch, sample), whatever the batch, and does what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dlcli.config import AugmentConfig
from dlcli.errors import UsageError
from dlcli.pixels.decode import normalize
from dlcli.task import ImageInput, NumberColumn, TabularInput, TargetNumber, TaskSpec
from dlcli.training.augmentation import ops
from dlcli.training.augmentation.augment import Augment, make_augment, preview
from dlcli.training.augmentation.image_augmentation import LEVELS, ImageAugmentation
from dlcli.training.augmentation.parameters import (
    OPERATIONS,
    AugmentParameters,
    ParameterSampler,
    Policy,
)
from dlcli.zoo.forward import input_tensor

CPU = torch.device("cpu")
SAMPLES, CLASSES = 40, 5
ALL = np.arange(SAMPLES)


def image(height: int = 12, width: int = 16, channels: int = 3) -> ImageInput:
    return ImageInput(
        channels=channels,  # type: ignore[arg-type]
        height=height,
        width=width,
        resize="squash",
        resize_size=12,
        mean=(0.4,) * channels,
        std=(0.2,) * channels,
    )


def task(spec: ImageInput, kind: str = "classification") -> TaskSpec:
    if kind == "regression":
        return TaskSpec(kind="regression", input=spec, targets=(TargetNumber(name="y"),))
    return TaskSpec(kind=kind, input=spec, class_names=tuple("abcde"))  # type: ignore[arg-type]


def augment(
    spec: ImageInput | None = None, *, seed: int = 0, kind: str = "classification", **settings: Any
) -> ImageAugmentation:
    made = make_augment(
        AugmentConfig(**settings), task(spec or image(), kind), samples=SAMPLES, seed=seed, device=CPU
    )
    assert made is not None
    assert made.images is not None
    return made.images


def photos(spec: ImageInput | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth uint8 (N, H, W, C) images and their classes."""
    spec = spec or image()
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0 : spec.height, 0 : spec.width] / 5
    phase = rng.uniform(0, 6, (SAMPLES, 1, 1, spec.channels))
    waves = 127 + 60 * np.sin(x[None, :, :, None] + phase) + 60 * np.cos(y[None, :, :, None] - 2 * phase)
    return torch.from_numpy(waves.astype(np.uint8)), torch.from_numpy(ALL % CLASSES)


UNMIXED = {"mixup": 0, "cutmix": 0}
EACH: list[dict[str, Any]] = [
    {"level": "light"},
    {"level": "standard"},
    {"level": "strong", **UNMIXED},
    {"rotation": 30, "vertical_flip": 0.5},
    {"jitter": 0.5},
    {"randaugment": 9, "randaugment_ops": 4},
    {"erasing": 1.0, "translate": 0.3},
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", EACH, ids=lambda s: "-".join(s))
def test_a_sample_does_not_depend_on_its_batch(settings: dict[str, Any], channels: int) -> None:
    spec = image(channels=channels)
    pixels, targets = photos(spec)
    whole, labels = augment(spec, **settings)(pixels, targets, ALL, 3)
    assert torch.equal(labels, targets)
    assert whole.shape == pixels.shape
    assert not torch.equal(whole.float(), pixels.float())
    other = augment(spec, **settings)  # another process, other batches, another order
    for part in (ALL[5:6], ALL[[30, 5, 7]], ALL[::-1]):
        where = torch.from_numpy(part.copy())
        assert torch.equal(other(pixels[where], targets[where], part, 3)[0], whole[where])


@pytest.mark.parametrize("settings", [*EACH, {"level": "strong"}], ids=lambda s: "-".join(s))
def test_epoch_and_seed_decide_and_the_original_stays(settings: dict[str, Any]) -> None:
    pixels, targets = photos()
    before = pixels.clone()
    make = augment(**settings)
    first, one = make(pixels, targets, ALL, 0)
    again = make(pixels, targets, ALL, 1)[0]
    assert not torch.equal(first, again)
    assert not torch.equal(first, augment(seed=1, **settings)(pixels, targets, ALL, 0)[0])
    repeated, other = augment(**settings)(pixels, targets, ALL, 0)
    assert torch.equal(first, repeated)
    assert torch.equal(one, other)
    assert torch.equal(pixels, before)
    assert first.data_ptr() != pixels.data_ptr()
    assert 0 <= float(first.min()) <= float(first.max()) < 255.01


def test_switching_one_operation_on_leaves_the_others_alone() -> None:
    plain = ParameterSampler(LEVELS["standard"], image(), SAMPLES, 0).epoch(2)
    more = ParameterSampler(
        replace(LEVELS["standard"], erasing=0.5, mixup=1.0), image(), SAMPLES, 0
    ).epoch(2)
    assert np.array_equal(plain.linear, more.linear)  # type: ignore[arg-type]
    assert np.array_equal(plain.crops, more.crops)  # type: ignore[arg-type]
    assert np.array_equal(plain.factors, more.factors)  # type: ignore[arg-type]
    less = ParameterSampler(replace(LEVELS["standard"], jitter=0.0), image(), SAMPLES, 0).epoch(2)
    assert np.array_equal(plain.crops, less.crops)  # type: ignore[arg-type]
    assert less.factors is None


def test_light_only_moves_whole_pixels() -> None:
    pixels, targets = photos()
    out, _ = augment(level="light")(pixels, targets, ALL, 0)
    assert out.dtype == torch.uint8
    flipped = shifted = 0
    for got, was in zip(out.numpy(), pixels.numpy(), strict=True):
        padded = np.pad(was, ((2, 2), (2, 2), (0, 0)), mode="symmetric")
        at = [
            (mirror, dy, dx)
            for mirror in (False, True)
            for dy in range(5)
            for dx in range(5)
            if np.array_equal(got, (padded[:, ::-1] if mirror else padded)[dy : dy + 12, dx : dx + 16])
        ]
        assert len(at) == 1
        flipped += at[0][0]
        shifted += at[0][1:] != (2, 2)
    assert 8 <= flipped <= 32
    assert shifted > 30


@pytest.mark.parametrize(("name", "axis"), [("flip", 2), ("vertical_flip", 1)])
def test_a_flip_is_a_flip_on_both_ways(name: str, axis: int) -> None:
    pixels, targets = photos()
    out, _ = augment(**{name: 1.0})(pixels, targets, ALL, 0)
    assert torch.equal(out, pixels.flip(axis))
    through, _ = augment(**{name: 1.0}, crop_scale=1.0, rotation=1e-9)(pixels, targets, ALL, 0)
    torch.testing.assert_close(through, pixels.flip(axis).float(), atol=0.01, rtol=0)


def test_resampling_turns_by_right_angles_exactly() -> None:
    pixels, _ = photos()
    images = ops.to_planes(pixels)[:, :, :, 2:14]  # square
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]).expand(SAMPLES, 2, 3)
    turned = ops.resample(images, quarter, (12, 12))
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), atol=0.01, rtol=0)
    same = torch.eye(2, 3).expand(SAMPLES, 2, 3)
    torch.testing.assert_close(ops.resample(images, same, (12, 12)), images, atol=0.01, rtol=0)


def test_rotations_keep_lengths_on_images_that_are_no_squares() -> None:
    drawn = ParameterSampler(Policy(rotation=180), image(10, 30), SAMPLES, 0).epoch(0)
    assert drawn.linear is not None
    half = np.diag((15.0, 5.0))  # pixels in one unit of the coordinates
    turned = half @ drawn.linear.astype(np.float64) @ np.linalg.inv(half)
    assert np.allclose(turned @ turned.transpose(0, 2, 1), np.eye(2), atol=1e-5)
    angles = np.rad2deg(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert angles.min() < -90 < 90 < angles.max()
    assert np.allclose(drawn.shift, 0)  # type: ignore[arg-type]


def test_colour_and_the_like_agree_with_torchvision() -> None:
    from torchvision.transforms.v2 import functional as tv

    images = ops.to_planes(photos()[0])
    share = images / 255
    for column, reference in enumerate((tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)):
        for factor in (0.4, 1.0, 1.7):
            factors = torch.ones(SAMPLES, 3)
            factors[:, column] = factor
            got = ops.colour(images, factors)
            torch.testing.assert_close(got, reference(share, factor) * 255, atol=0.2, rtol=0)
    whole = images.to(torch.uint8)
    assert torch.equal(ops.posterize(images, 3), tv.posterize(whole, 3).float())
    assert torch.equal(ops.solarize(images, 100), tv.solarize(whole, 100).float())
    torch.testing.assert_close(ops.autocontrast(images), tv.autocontrast(share) * 255, atol=0.01, rtol=0)
    sharp = ops.sharpness(images, torch.full((SAMPLES,), 1.8))
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(
        sharp[inside], (tv.adjust_sharpness(share, 1.8) * 255)[inside], atol=0.01, rtol=0
    )


def test_colours_are_joined_as_if_one_came_after_the_other() -> None:
    images = ops.to_planes(photos()[0]) * 0.25 + 90  # far from the ends, where nothing is clamped
    factors = torch.tensor([[1.2, 0.7, 1.4]]).expand(SAMPLES, 3)
    after = images
    for column in range(3):
        one = torch.ones(SAMPLES, 3)
        one[:, column] = factors[:, column]
        after = ops.colour(after, one)
    torch.testing.assert_close(ops.colour(images, factors), after, atol=0.01, rtol=0)


def test_autocontrast_leaves_a_channel_of_one_value_alone() -> None:
    images = torch.full((2, 1, 4, 4), 77.0)
    assert torch.equal(ops.autocontrast(images), images)


def test_every_operation_of_randaugment_changes_some_images() -> None:
    pixels, targets = photos()
    make = augment(randaugment=9, randaugment_ops=1)
    out, _ = make(pixels, targets, ALL, 0)
    drawn = ParameterSampler(make.policy, image(), SAMPLES, 0).epoch(0).operations
    assert drawn is not None
    changed = (out - pixels.float()).abs().amax((1, 2, 3)).numpy() > 0.5
    seen = set()
    for row, number in enumerate(drawn[:, 0].tolist()):
        seen.add(number)
        assert changed[row] == (number != 0), OPERATIONS[number]
    assert len(seen) > 8


def test_erasing_fills_one_box_and_touches_nothing_else() -> None:
    spec = image(20, 24)
    pixels, targets = photos(spec)
    out, _ = augment(spec, erasing=0.5)(pixels, targets, ALL, 0)
    drawn = ParameterSampler(Policy(erasing=0.5), spec, SAMPLES, 0).epoch(0)
    assert drawn.erased is not None
    assert drawn.fill is not None
    shares = []
    for row, (top, bottom, left, right) in enumerate(drawn.erased.tolist()):
        expected = pixels[row].float().numpy()
        expected[top:bottom, left:right] = drawn.fill[row]
        assert np.array_equal(out[row].numpy(), expected)
        shares.append((bottom - top) * (right - left) / (20 * 24))
    hit = np.array([share for share in shares if share])
    assert 10 <= len(hit) <= 30
    assert hit.min() > 0.015
    assert 0.2 < hit.max() < 0.36


def test_mixup_adds_the_partner_from_the_other_end() -> None:
    pixels, targets = photos()
    out, shares = augment(mixup=1.0)(pixels, targets, ALL, 0)
    own = shares.gather(1, targets[:, None])[:, 0]
    same = targets == targets.flip(0)
    assert torch.allclose(shares.sum(1), torch.ones(SAMPLES))
    assert float(own.min()) >= 0.5
    assert torch.allclose(own[same], torch.ones(int(same.sum())))
    assert own[~same].std() > 0.05
    weight = own[:, None, None, None]
    blend = pixels * weight + pixels.flip(0) * (1 - weight)
    torch.testing.assert_close(out[~same], blend[~same], atol=0.01, rtol=0)


def test_the_share_of_cutmix_is_that_of_its_pixels() -> None:
    spec = image(20, 24)
    pixels = torch.arange(SAMPLES, dtype=torch.uint8)[:, None, None, None].expand(-1, 20, 24, 3)
    out, shares = augment(spec, cutmix=1.0)(pixels, torch.from_numpy(ALL % CLASSES), ALL, 0)
    seen = 0
    for row in range(SAMPLES):
        mine, other = row % CLASSES, (SAMPLES - 1 - row) % CLASSES
        part = float((out[row, :, :, 0] == row).float().mean())
        assert set(out[row].unique().tolist()) <= {row, SAMPLES - 1 - row}
        assert part >= 0.5
        if mine != other:
            assert float(shares[row, mine]) == pytest.approx(part, abs=1e-6)
            assert float(shares[row, other]) == pytest.approx(1 - part, abs=1e-6)
            seen += part < 1
    assert seen > 15


def test_both_mixes_take_turns_and_labels_mix_too() -> None:
    drawn = ParameterSampler(LEVELS["strong"], image(), SAMPLES, 0).epoch(0)
    assert drawn.mixed is not None
    assert drawn.keep is not None
    cut = drawn.mixed.any(axis=1)
    assert 5 < cut.sum() < 35
    assert (drawn.keep[cut] == 1).all()
    pixels, _ = photos()
    labels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 2, (SAMPLES, CLASSES), dtype=np.uint8)
    )
    _, shares = augment(kind="multilabel", level="strong")(pixels, labels, ALL, 0)
    assert shares.dtype == torch.float32
    assert ((shares >= 0.5 - 1e-6) | (labels == 0)).all()
    assert ((shares <= 0.5 + 1e-6) | (labels == 1)).all()


def test_floats_and_bytes_are_normalised_alike() -> None:
    pixels, targets = photos()
    spec = image()
    for settings in ({"level": "light"}, {"level": "standard"}):
        out, _ = augment(**settings)(pixels, targets, ALL, 0)
        kept = out.clone().numpy()
        expected = (kept.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.4) / 0.2
        got = input_tensor(out, spec)
        assert np.allclose(got.numpy(), expected, atol=1e-5)
        assert got.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(normalize(pixels.numpy(), spec), input_tensor(pixels, spec).numpy(), atol=1e-5)


def test_settings_fill_the_gaps_of_a_level() -> None:
    made = augment(level="light", flip=0, rotation=10)
    assert made.policy == Policy(translate=0.1, rotation=10)
    assert Augment(None, made).sentence == "augmentation: rotation 10, translate 0.1"
    assert not made.mixes
    assert augment(level="strong").mixes


@pytest.mark.parametrize(
    "settings",
    [{}, {"level": "none"}, {"randaugment_ops": 3}, {"level": "light", "flip": 0, "translate": 0}],
)
def test_no_augmentation_changes_nothing(settings: dict[str, Any]) -> None:
    made = make_augment(AugmentConfig(**settings), task(image()), samples=3, seed=0, device=CPU)
    assert made is None


def test_what_is_no_image_is_refused() -> None:
    table = TaskSpec(input=TabularInput(numbers=(NumberColumn(name="x"),)), class_names=("a", "b"))
    for config, named in (
        (AugmentConfig(level="light"), "--augment light"),
        (AugmentConfig(mixup=0.2), "augment.mixup"),
    ):
        with pytest.raises(UsageError, match="for images, not tabular") as caught:
            make_augment(config, table, samples=3, seed=0, device=CPU)
        assert f"remove {named};" in (caught.value.hint or "")
    assert make_augment(AugmentConfig(level="none"), table, samples=3, seed=0, device=CPU) is None


def test_numbers_are_not_mixed() -> None:
    numbers = augment(kind="regression", level="strong")
    assert not numbers.mixes
    assert numbers.policy.erasing == LEVELS["strong"].erasing
    with pytest.raises(UsageError, match="regression has none"):
        augment(kind="regression", cutmix=1.0)


def test_a_preview_is_what_training_shows() -> None:
    pixels, targets = photos()
    make = augment(level="strong")
    shown = preview(Augment(None, make), (pixels[:4],), targets[:4], ALL[:4], 3)
    assert len(shown) == 3
    for epoch, (images, mixed) in enumerate(shown):
        assert images.dtype == torch.uint8
        exact, shares = make(pixels[:4], targets[:4], ALL[:4], epoch)
        torch.testing.assert_close(images.float(), exact, atol=0.51, rtol=0)
        assert torch.equal(mixed, shares)


def test_taking_rows_takes_them_of_every_number() -> None:
    drawn = ParameterSampler(LEVELS["strong"], image(), SAMPLES, 0).epoch(0)
    some = drawn.select(np.array([7, 3]))
    assert isinstance(some, AugmentParameters)
    assert np.array_equal(some.keep, drawn.keep[[7, 3]])  # type: ignore[index, arg-type]
    assert some.steps is None

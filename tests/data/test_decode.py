"""Files as people have them, and files that are broken or hostile. The oracles are Pillow and NumPy."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from PIL import Image, ImageOps

from dlcli.errors import BadSample
from dlcli.pixels.decode import decode, is_grayscale, normalize, whole_image
from dlcli.pixels.opening import _set_warnings
from dlcli.task import ImageInput


@pytest.fixture(autouse=True)
def _pillow_is_told_again() -> None:
    """pytest gives every test its own list of warning filters; the decoder sets its own only once."""
    _set_warnings.cache_clear()


def spec(
    channels: int = 3, height: int = 24, width: int = 24, resize_size: int = 0, **values: Any
) -> ImageInput:
    return ImageInput(
        channels=channels,  # type: ignore[arg-type]
        height=height,
        width=width,
        resize_size=resize_size or max(height, width),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        **values,
    )


def smooth(height: int = 60, width: int = 80) -> np.ndarray:
    """A picture with no symmetry: three different gradients."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [255 * x / width, 255 * y / height, 255 * (x + y) / (height + width)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def far(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# ---- geometry


def test_squash_is_pillows_antialiased_resize(tmp_path: Path) -> None:
    image = Image.fromarray(smooth())
    image.save(tmp_path / "a.png")
    for name in ("nearest", "bilinear", "bicubic", "lanczos"):
        found = decode(tmp_path / "a.png", spec(resize="squash", interpolation=name, width=17))
        assert np.array_equal(found, image.resize((17, 24), getattr(Image.Resampling, name.upper())))


@pytest.mark.parametrize("size", [(96, 48), (48, 96), (48, 48), (12, 24)])
def test_crop_is_resize_of_the_shorter_side_then_centre_crop(
    size: tuple[int, int], tmp_path: Path
) -> None:
    image = Image.fromarray(smooth(size[1], size[0]))
    image.save(tmp_path / "a.png")
    scale = 32 / min(size)
    whole = image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BILINEAR)
    left, top = (whole.width - 24) // 2, (whole.height - 24) // 2
    expected = np.asarray(whole.crop((left, top, left + 24, top + 24)))
    assert far(decode(tmp_path / "a.png", spec(resize_size=32)), expected) <= 1


def test_crop_agrees_with_torchvision(tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.fromarray(smooth(50, 77))
    image.save(tmp_path / "a.png")
    both = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(24)])
    # torchvision rounds the longer side and the offset to whole pixels: half a pixel of a gradient.
    assert far(decode(tmp_path / "a.png", spec(resize_size=32)), np.asarray(both(image))) <= 5


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_extreme_shapes_have_pixels_too(size: tuple[int, int], resize: str, tmp_path: Path) -> None:
    Image.new("RGB", size, (10, 200, 30)).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", spec(resize=resize))
    assert (found == (10, 200, 30)).all()


def test_a_large_jpeg_decoded_at_a_reduced_scale_looks_like_the_whole(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(1200, 1600))
    image.save(tmp_path / "a.jpg", quality=95)
    image.save(tmp_path / "a.png")
    for resize in ("crop", "squash"):
        one = spec(height=64, width=64, resize=resize)
        assert far(decode(tmp_path / "a.jpg", one), decode(tmp_path / "a.png", one)) <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_exif_rotation_is_applied_once(
    orientation: int, suffix: str, resize: str, tmp_path: Path
) -> None:
    upright = Image.fromarray(smooth(300, 200))
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)  # the inverse turn
    exif = Image.Exif()
    exif[0x0112] = undo
    upright.getexif()[0x0112] = undo
    stored = ImageOps.exif_transpose(upright)
    exif[0x0112] = orientation
    quality = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(suffix, {})
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **quality)
    found = decode(tmp_path / f"a.{suffix}", spec(resize=resize, height=20, width=30))
    upright.save(tmp_path / "b.png")
    assert far(found, decode(tmp_path / "b.png", spec(resize=resize, height=20, width=30))) <= 6


# ---- modes


def as_png(pixels: np.ndarray, path: Path) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_keep_their_high_byte(suffix: str, channels: int, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 24 24 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    found = decode(path, spec(channels))
    assert found.shape == (24, 24, channels)
    assert all(np.array_equal(found[..., c], values >> 8) for c in range(channels))


def test_16_bit_colour_png_is_not_saturated(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 24 * 24 * 3).reshape(24, 24, 3).astype(np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 24, 24, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    assert far(decode(tmp_path / "a.png", spec()), values >> 8) <= 1


def test_float_tiff_from_0_to_1_is_scaled_and_others_are_refused(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 24 * 24, dtype=np.float32).reshape(24, 24)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.array_equal(decode(tmp_path / "a.tif", spec(1))[..., 0], np.rint(values * 255))
    Image.fromarray(values * 1000).save(tmp_path / "b.tif")
    with pytest.raises(BadSample, match=r"float pixels are from 0 to 1000; only 0 to 1"):
        decode(tmp_path / "b.tif", spec(1))
    Image.fromarray(values * np.nan).save(tmp_path / "c.tif")
    with pytest.raises(BadSample, match="float"):
        decode(tmp_path / "c.tif", spec(1))


def test_32_bit_integers_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((24, 24), 70_000, dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(BadSample, match="70000"):
        decode(tmp_path / "a.tif", spec(1))


def test_cmyk_jpeg_has_its_colours(tmp_path: Path) -> None:
    Image.new("RGB", (24, 24), (200, 40, 40)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert far(decode(tmp_path / "a.jpg", spec()), np.array([200, 40, 40])) <= 6


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((24, 24, 4), dtype=np.uint8)
    rgba[..., :3] = (200, 0, 0)
    rgba[:12, :, 3] = 255  # the lower half is transparent, red hides under it
    found = decode(as_png(rgba, tmp_path / "a.png"), spec())
    assert (found[:12] == (200, 0, 0)).all()
    assert (found[12:] == 255).all()
    grey = np.stack([np.full((24, 24), 7, np.uint8), rgba[..., 3]], axis=-1)
    found = decode(as_png(grey, tmp_path / "la.png"), spec(1))
    assert (found[:12] == 7).all()
    assert (found[12:] == 255).all()


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palettes_with_transparency(suffix: str, tmp_path: Path) -> None:
    image = Image.new("P", (24, 24), 0)
    image.putpalette([0, 128, 0, 0, 0, 200] + [0] * 762)
    image.paste(1, (0, 0, 24, 12))
    image.save(tmp_path / f"a.{suffix}", transparency=0)
    found = decode(tmp_path / f"a.{suffix}", spec())
    assert (found[:12] == (0, 0, 200)).all()
    assert (found[12:] == 255).all()
    image.save(tmp_path / f"b.{suffix}")
    assert (decode(tmp_path / f"b.{suffix}", spec())[12:] == (0, 128, 0)).all()


def test_palette_with_a_table_of_alphas(tmp_path: Path) -> None:
    image = Image.new("P", (24, 24), 0)
    image.putpalette([0, 0, 0] * 256)
    image.save(tmp_path / "a.png", transparency=bytes([128, *[255] * 255]))
    assert far(decode(tmp_path / "a.png", spec()), np.array([127] * 3)) <= 1


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "YCbCr"])
def test_plain_modes_are_pillows_conversion(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(smooth(24, 24)).convert(mode)
    suffix = "tif" if mode == "YCbCr" else "png"
    image.save(tmp_path / f"a.{suffix}")
    # Pillow 12.0 does not read what it wrote; a sample that cannot be read is named and left out.
    if mode == "YCbCr" and Version(PIL.__version__) < Version("13"):
        with pytest.raises(BadSample, match="truncated"):
            decode(tmp_path / f"a.{suffix}", spec(3))
        return
    assert np.array_equal(decode(tmp_path / f"a.{suffix}", spec(3)), image.convert("RGB"))
    if mode != "YCbCr":
        assert np.array_equal(decode(tmp_path / f"a.{suffix}", spec(1))[..., 0], image.convert("L"))


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (24, 24), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (decode(tmp_path / "a.gif", spec()) == (255, 0, 0)).all()


def test_grayscale_is_recognized_from_the_header(tmp_path: Path) -> None:
    pixels = smooth()
    assert is_grayscale(as_png(pixels[..., 0], tmp_path / "a.png")) is True
    assert is_grayscale(as_png(pixels[..., 0].astype(np.uint16), tmp_path / "b.png")) is True
    assert is_grayscale(as_png(pixels, tmp_path / "c.png")) is False
    (tmp_path / "d.png").write_bytes(b"nothing")
    assert is_grayscale(tmp_path / "d.png") is None


# ---- raw arrays


def test_raw_arrays_go_the_way_of_files(tmp_path: Path) -> None:
    pixels = smooth(50, 50)
    as_png(pixels, tmp_path / "a.png")
    for one in (spec(3), spec(1), spec(3, resize_size=30), spec(3, resize="squash")):
        assert np.array_equal(decode(pixels, one), decode(tmp_path / "a.png", one))
    assert np.array_equal(decode(pixels[..., :1], spec(3)), decode(pixels[..., 0], spec(3)))


def test_an_array_of_the_right_size_is_unchanged_unless_a_border_is_cut() -> None:
    pixels = smooth(24, 24)
    assert np.array_equal(decode(pixels, spec()), pixels)
    assert not np.array_equal(decode(pixels, spec(resize_size=48)), pixels)


# ---- what is refused


def refusal(path: Path) -> str:
    with pytest.raises(BadSample) as info:
        decode(path, spec())
    return info.value.message


def test_empty_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"")
    assert refusal(path) == "the file is empty (0 bytes)"
    path.write_text("Dear diary, this is no photo.")
    assert refusal(path) == "it is not an image of a known format"
    assert refusal(tmp_path / "absent.jpg") == "No such file or directory"


def test_a_program_in_an_image_s_clothes_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert refusal(path) == "it is not an image of a known format"


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tif", "ppm"])
def test_truncated_files_are_bad_and_never_filled_up(suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    decode(path, spec())
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert refusal(path)
        assert path.read_bytes() == whole[: int(len(whole) * share)]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claim(path: Path, side: int) -> Path:
    """A PNG of a few bytes whose header says it is ``side`` pixels wide and high."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")))
    return path


@pytest.mark.parametrize("side", [9_500, 20_000, 60_000])
def test_decompression_bombs_are_refused_by_their_header(side: int, tmp_path: Path) -> None:
    assert "89478485" in refusal(claim(tmp_path / "a.png", side))


def test_a_bomb_is_refused_even_where_pillow_does_not_care(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    reason = refusal(claim(tmp_path / "a.png", 9_500))
    assert reason.startswith("its header claims 9500 x 9500 pixels")


def write_large_jpeg(path: Path, side: int, **options: Any) -> Path:
    """A JPEG of one colour, of more pixels than Pillow opens."""
    Image.new("L", (side, side), 128).save(path, quality=20, **options)
    return path


def test_a_photo_beyond_the_limit_is_decoded_at_a_reduced_scale(tmp_path: Path) -> None:
    path = write_large_jpeg(tmp_path / "a.jpg", 9_500)
    assert path.stat().st_size < 3_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        pixels = decode(path, spec())
    assert (pixels == 128).all()
    assert is_grayscale(path) is True
    assert whole_image(path, spec()).shape == (4750, 4750, 3)


def test_the_limit_of_a_jpeg_is_memory(tmp_path: Path) -> None:
    path = write_large_jpeg(tmp_path / "a.jpg", 64, progressive=True)
    content = path.read_bytes()
    at = content.index(b"\xff\xc2") + 5  # height and width in the frame's header
    path.write_bytes(content[:at] + struct.pack(">HH", 65_000, 65_000) + content[at + 4 :])
    reason = refusal(path)
    assert reason.startswith("its 65000 x 65000 pixels take 8121 MiB to decode, more than the 768 MiB")


def test_a_damaged_exif_is_no_reason_to_refuse_a_photo(tmp_path: Path) -> None:
    image = Image.fromarray(smooth())
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    assert decode(tmp_path / "a.jpg", spec()).shape == (24, 24, 3)


def saved(suffix: str, **values: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(smooth(20, 20)).save(out, suffix, **values)
    return out.getvalue()


WHOLE = [saved(name) for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM", "TGA")]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_gives_pixels_or_a_reason(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.jpg"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(BadSample):
        assert decode(path, spec()).shape == (24, 24, 3)


# ---- normalisation


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_is_bit_for_bit_what_torch_computes(channels: int) -> None:
    torch = pytest.importorskip("torch")
    one = ImageInput(
        channels=channels,  # type: ignore[arg-type]
        height=5,
        width=7,
        resize_size=7,
        mean=(0.485, 0.456, 0.406)[:channels],
        std=(0.229, 0.224, 0.225)[:channels],
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 7, channels), dtype=np.uint8)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (one.mean, one.std))
    expected = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    found = normalize(pixels, one)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, expected.numpy())

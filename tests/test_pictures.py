"""Pictures as people have them: every mode and format comes out upright and RGB, or is refused before it harms."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from cmh.errors import DatasetError
from cmh.features import backbones
from cmh.features.pictures import rgb


def encoded(picture: Any, kind: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **more)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that announces any number of pixels."""
    return png(bytes(1000), width, height, 8, 2)


def png(rows: bytes, width: int, height: int, depth: int, colours: int) -> bytes:
    """A PNG of these samples, row by row, of a depth and kind of colours (2 RGB, 4 grey and alpha, 6 RGB and alpha)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = len(rows) // height
    lines = b"".join(b"\0" + rows[start : start + size] for start in range(0, len(rows), max(1, size)))
    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    pixels = zlib.compress(lines)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def halves() -> Image.Image:
    """Left red, right blue."""
    picture = Image.new("RGB", (40, 20), "blue")
    picture.paste("red", (0, 0, 20, 20))
    return picture


def near(picture: Image.Image, place: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(picture.getpixel(place), colour)).max() < 40)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"])
def test_formats(kind: str) -> None:
    if kind not in Image.SAVE and not Image.init() and kind not in Image.SAVE:
        pytest.skip(f"Pillow without {kind}")
    got = rgb(encoded(halves(), kind))
    assert (got.mode, got.size) == ("RGB", (40, 20))
    assert near(got, (5, 5), (255, 0, 0))
    assert near(got, (35, 5), (0, 0, 255))


def test_cmyk_grey_palette_and_one_bit() -> None:
    cmyk = rgb(encoded(halves().convert("CMYK"), "JPEG", quality=95))
    assert near(cmyk, (5, 5), (255, 0, 0))
    for mode in ("L", "1", "LA"):
        grey = rgb(encoded(Image.new(mode, (4, 4), 1 if mode == "1" else (200 if mode == "L" else (200, 255)))))
        assert grey.mode == "RGB"
        assert len(set(grey.getpixel((1, 1)))) == 1
    palette = rgb(encoded(halves().convert("P", palette=Image.Palette.ADAPTIVE)))
    assert near(palette, (5, 5), (255, 0, 0))


def test_sixteen_bits_of_grey() -> None:
    deep = Image.fromarray(np.full((4, 4), 200 * 256, np.uint16))
    assert rgb(encoded(deep)).getpixel((0, 0)) == (200, 200, 200)


def tiff(samples: NDArray[Any]) -> bytes:
    """A little-endian TIFF of samples `(height, width)` or `(height, width, 3)`: Pillow writes fewer kinds."""
    height, width, *bands = samples.shape
    n, bits, kind = (bands or [1])[0], samples.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, 2 if n > 1 else 1), (273, 200), (277, n)]
    entries += [(278, height), (279, samples.nbytes), (339, kind)]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for tag, value in entries:
        if n > 1 and tag in (258, 339):  # a value for each channel, behind the entries
            head += struct.pack("<HHII", tag, 3, n, 140 if tag == 258 else 150)
        else:
            head += struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value)
    head = (head + bytes(4)).ljust(140, b"\0")
    head += struct.pack(f"<{n}H", *[bits] * n).ljust(10, b"\0") + struct.pack(f"<{n}H", *[kind] * n)
    return head.ljust(200, b"\0") + samples.astype(samples.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "f4"])
@pytest.mark.parametrize("bits", [0, 8, 10, 12, 14, 16])
def test_deep_grey_is_as_bright_as_it_was_meant(dtype: str, bits: int) -> None:
    """A ramp up to the brightest value of so many bits (0: of real numbers from 0 to 1) becomes a ramp up to 255."""
    if (dtype == "i2" and bits == 16) or (dtype[0] != "f" and not bits):
        pytest.skip("there are no such numbers")
    full = 2**bits - 1 if bits else 1
    ramp = np.linspace(0, full, 64).astype(dtype).reshape(8, 8)
    grey = np.asarray(rgb(tiff(ramp)))
    assert (grey == grey[..., :1]).all()
    assert np.abs(grey[..., 0] - np.linspace(0, 255, 64).reshape(8, 8)).max() <= 1.01
    assert (grey[0, 0] == 0).all()
    assert (grey[-1, -1] == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("top", [1, 200, 255, 256, 4095, 65535])
def test_grey_of_12_bits_in_16_is_visible(kind: str, top: int) -> None:
    deep = Image.fromarray(np.array([[0, top]] * 2, np.uint16))
    grey = np.asarray(rgb(encoded(deep, kind)))[..., 0]
    assert grey[0, 0] == 0
    assert grey[0, 1] >= min(top, 60)


OVER = 1.009


@pytest.mark.parametrize("values", [(0, OVER), (-0.009, 1), (0, 255 * OVER), (-2, 255), (0, 65535 * OVER)])
def test_real_numbers_may_overshoot_a_little(values: tuple[float, float]) -> None:
    grey = np.asarray(rgb(tiff(np.array([values], "f4"))))[0, :, 0]
    assert grey.tolist() == [0, 255]


@pytest.mark.parametrize(
    ("dtype", "values", "said"),
    [
        ("f4", (-1, 1), "go from -1 to 1, but must be 0 to 1, 255,"),
        ("f4", (0, 1.5), "go from 0 to 1.5, but"),  # 0 to 255 would be black
        ("f4", (0, 1e6), "go from 0 to 1e"),
        ("f4", (0, np.nan), "go from nan to nan"),
        ("f4", (-np.inf, 1), "go from -inf to 1"),
        ("f4", (0, np.inf), "to inf"),
        ("i2", (-1000, 3000), "go from -1000 to 3000, but must be 0 to 65535; save it with 8 bits a channel"),
        ("i4", (0, 70_000), "go from 0 to 70000"),
    ],
)
def test_values_of_no_known_range_are_named(dtype: str, values: tuple[float, float], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        rgb(tiff(np.array([values], dtype)))


@pytest.mark.parametrize("top", [0, 255, 4095])
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "PNG with alpha", "PNG of grey with alpha"])
def test_colours_that_would_be_black_are_named(kind: str, top: int) -> None:
    colours = {"TIFF": 2, "PNG": 2, "PNG with alpha": 6, "PNG of grey with alpha": 4}[kind]
    n = {2: 3, 4: 2, 6: 4}[colours]

    def deep(value: int) -> bytes:
        samples = np.full((2, 2, n), value, np.uint16)
        samples[..., n - (colours > 2) :] = 65535  # opaque
        return tiff(samples) if kind == "TIFF" else png(samples.byteswap().tobytes(), 2, 2, 16, colours)

    with pytest.raises(DatasetError, match="16 bits a channel, and values of 12 or fewer: it would be black; save it"):
        rgb(deep(top))
    assert rgb(deep(200 * 256)).getpixel((1, 1)) == (200, 200, 200)


@pytest.mark.parametrize(("shape", "dtype"), [((2, 2, 3), "f4"), ((2, 2), "f8")])
def test_what_pillow_cannot_read_is_said(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(DatasetError, match="or of a kind that Pillow cannot read; save it as a PNG with 8 bits"):
        rgb(tiff(np.zeros(shape, dtype)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"])
def test_every_mode_that_a_file_may_have(mode: str) -> None:
    grey = Image.new("L", (4, 4), 255)
    white = grey.convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (4, 4), (255, 128, 128))
    got = rgb(encoded(white, "TIFF"))
    assert got.mode == "RGB"
    assert near(got, (1, 1), (255, 255, 255))


@pytest.mark.parametrize("size", [(1, 1001), (1001, 1)])
def test_a_thread_is_refused(size: tuple[int, int]) -> None:
    """Its shorter side would become 256, and its longer one gigabytes."""
    with pytest.raises(DatasetError, match=rf"is {size[0]} × {size[1]}: one side may be at most 1,000 times"):
        rgb(encoded(Image.new("RGB", size)))
    assert rgb(encoded(Image.new("RGB", (1, 1000)))).size == (1, 1000)


def test_what_is_transparent_becomes_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert rgb(encoded(clear)).getpixel((1, 1)) == (255, 255, 255)
    palette = halves().convert("P", palette=Image.Palette.ADAPTIVE)
    got = rgb(encoded(palette, "GIF", transparency=palette.getpixel((5, 5))))
    assert got.getpixel((5, 5)) == (255, 255, 255)
    assert near(got, (35, 5), (0, 0, 255))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    raw = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert near(rgb(raw), (4, 4), (255, 0, 0))


@pytest.mark.parametrize(("orientation", "size", "red"), [(1, (40, 20), (5, 10)), (3, (40, 20), (35, 10)),
                                                         (6, (20, 40), (10, 5)), (8, (20, 40), (10, 35))])  # fmt: skip
def test_a_camera_that_was_held_otherwise(orientation: int, size: tuple[int, int], red: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = rgb(encoded(halves(), "JPEG", exif=exif, quality=95))
    assert got.size == size
    assert near(got, red, (255, 0, 0))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [30_000, 10_000, 2**31 - 1])
def test_a_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"may have at most|damaged"):
        rgb(bomb(side, side))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_truncated(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))
    raw = encoded(noise, kind)
    for share in (0.9, 0.5, 0.1):
        with pytest.raises(DatasetError, match=r"damaged|no picture"):
            rgb(raw[: int(len(raw) * share)])


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Pillow says about damaged TIFF files
@given(st.binary(max_size=300), st.sampled_from(["", "PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]), st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_any_bytes(raw: bytes, kind: str, place: int) -> None:
    if kind:
        good = encoded(halves(), kind)
        raw = good[:place] + raw + good[place + len(raw) :]
    with contextlib.suppress(DatasetError):
        assert rgb(raw).mode == "RGB"


def test_extraction_says_what_it_cannot_decode() -> None:
    with pytest.raises(DatasetError, match="is empty"):
        backbones.prepared(b"", backbones.about("conv4"))
    assert backbones.prepared(encoded(halves()), backbones.about("conv4")).shape == (64, 64, 3)

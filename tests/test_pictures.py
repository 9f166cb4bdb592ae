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

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
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
        backbones.decode(b"", 8)
    assert backbones.decode(encoded(halves()), 8).shape == (8, 8, 3)

"""One door for encoded pictures: whatever a photo is stored as, it comes out as upright RGB or as a clear refusal.

More than eight bits become eight. Whole numbers (16 or 32 bits of grey) up to 255 stay; others are taken for the fewest
of 10, 12, 14 and 16 bits that hold the brightest, as cameras and scanners store 12 bits in 16. Real numbers (TIFF) are
from 0 to 1, or the same as whole numbers. Colours of 16 bits lose the lower eight in Pillow, so what lies there alone
is refused: it would be black.
"""

from __future__ import annotations

import functools
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from cmh.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

MAX_PIXELS = 89_478_485  # Pillow's own threshold; three bytes each once decoded
MAX_BYTES = 256 * 2**20  # of an encoded picture
# Pillow opens more than these; EPS, for one, starts Ghostscript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
RATIO = 1000  # of a picture's sides at most: its shorter one may be enlarged to that of a network
BITS = (8, 10, 12, 14, 16)  # of whole numbers
OVERSHOOT = 0.01  # of real numbers, beyond the range that they are taken to have: resizing and sharpening leave some
DARK = 16  # colours of 16 bits have 12 or fewer in truth if their upper eight are below this
EIGHT = "save it with 8 bits a channel"
_ROTATED = 0x0112  # the EXIF tag that says how the camera was held


def rgb(raw: bytes) -> Image:
    """The picture as RGB: first frame, rotated as its EXIF data say, transparent parts on white, CMYK converted.

    Raises DatasetError when it cannot be decoded, holds values of no known range, or more than MAX_PIXELS pixels, or is
    longer than RATIO times its width (the last two are found out before decoding).
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not raw:
        raise DatasetError("the picture is empty (zero bytes)")
    formats = _formats()
    try:
        with Image.open(io.BytesIO(raw), formats=formats) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise DatasetError(_too_large(str(width * height)))
            if max(width, height) > RATIO * min(width, height):
                line = f"the picture is {width} × {height}: one side may be at most {RATIO:,} times the other; crop it"
                raise DatasetError(line)
            deep = opened.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in opened.tile)
            opened.load()
            if deep and _brightest(opened) < DARK:
                line = f"the picture has 16 bits a channel, and values of 12 or fewer: it would be black; {EIGHT}"
                raise DatasetError(line)
            rotated = opened.getexif().get(_ROTATED, 1) != 1
            picture = ImageOps.exif_transpose(opened) if rotated else opened
            return _as_rgb(picture)
    except DatasetError:
        raise
    except Image.DecompressionBombError as error:
        raise DatasetError(_too_large(str(error).partition("(")[2].partition(" pixels")[0])) from error
    except UnidentifiedImageError as error:
        line = (
            f"no picture in one of the formats {', '.join(formats)}, or of a kind that Pillow cannot read"
            "; save it as a PNG with 8 bits a channel"
        )
        raise DatasetError(line) from error
    except Exception as error:  # Pillow's decoders raise a dozen kinds for damaged bytes
        line = (str(error).splitlines() or ["no message"])[0]
        raise DatasetError(f"the picture is damaged ({type(error).__name__}: {line})") from error


def _too_large(pixels: str) -> str:
    return f"the picture has {int(pixels):,} pixels, but may have at most {MAX_PIXELS:,}; scale it down"


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    # Pillow warns from MAX_PIXELS on; we refuse there.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _as_rgb(picture: Image) -> Image:
    from PIL import Image

    rgb_picture: Image.Image
    if picture.mode == "RGB" and "transparency" not in picture.info:
        rgb_picture = picture.copy()
    elif picture.mode[0] in "IF":  # 16 or 32 bits of grey
        rgb_picture = Image.fromarray(_eight_bits(np.asarray(picture))).convert("RGB")
    elif picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        rgb_picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    else:
        rgb_picture = picture.convert("RGB")
    return rgb_picture


def _brightest(picture: Image) -> float:
    """The highest value of any colour; how opaque the picture is does not count."""
    bands = zip(picture.getbands(), picture.split(), strict=True)
    return max(float(np.asarray(band).max()) for name, band in bands if name != "A")


def _eight_bits(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey of whole or real numbers `(height, width)` as bytes. Raises DatasetError where their range is not known."""
    values, real = grey.astype(np.float32), grey.dtype.kind == "f"
    low, high, more = float(values.min()), float(values.max()), OVERSHOOT * real
    tops = [1.0] if real and high < DARK else [2.0**bits - 1 for bits in BITS]
    top = next((top for top in tops if high <= top * (1 + more)), 0.0)
    if not top or not low >= -top * more:
        known = "0 to 1, 255, 1023, 4095, 16383 or 65535" if real else "0 to 65535"
        raise DatasetError(f"the picture's values go from {low:g} to {high:g}, but must be {known}; {EIGHT}")
    scaled = values * 255 + 0.5 if top == 1 else values * (256 / (top + 1))
    return scaled.clip(0, 255).astype(np.uint8)

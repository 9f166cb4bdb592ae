"""One door for encoded pictures: whatever a photo is stored as, it comes out as upright RGB or as a clear refusal."""

from __future__ import annotations

import functools
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from cmh.errors import DatasetError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_478_485  # Pillow's own threshold; three bytes each once decoded
MAX_BYTES = 256 * 2**20  # of an encoded picture
# Pillow opens more than these; EPS, for one, starts Ghostscript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_ROTATED = 0x0112  # the EXIF tag that says how the camera was held


def rgb(raw: bytes) -> Image:
    """The picture as RGB: first frame, rotated as its EXIF data say, transparent parts on white, CMYK converted.

    Raises DatasetError when it cannot be decoded or holds more than MAX_PIXELS pixels (found out before decoding).
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
            opened.load()
            rotated = opened.getexif().get(_ROTATED, 1) != 1
            picture = ImageOps.exif_transpose(opened) if rotated else opened
            return _as_rgb(picture)
    except DatasetError:
        raise
    except Image.DecompressionBombError as error:
        raise DatasetError(_too_large(str(error).partition("(")[2].partition(" pixels")[0])) from error
    except UnidentifiedImageError as error:
        raise DatasetError(f"no picture in one of the formats {', '.join(formats)}") from error
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
    elif picture.mode.startswith("I"):  # 16 or 32 bits of grey
        grey = np.asarray(picture).astype(np.float64)
        grey = grey / 256 if grey.max(initial=0) > 255 else grey
        rgb_picture = Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    elif picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        rgb_picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    else:
        rgb_picture = picture.convert("RGB")
    return rgb_picture

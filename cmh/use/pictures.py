"""Pictures as people have them (paths, Pillow's, arrays) as encoded bytes, and which of them are none."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cmh.errors import CmhError, DatasetError, EncoderError
from cmh.features.pictures import MAX_BYTES, rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Picture: TypeAlias = "str | Path | bytes | Image | NDArray[np.uint8]"

SHOWN = 2  # examples in a message


def encoded(picture: Picture) -> bytes:
    """The picture as a file holds it: a path is read, encoded bytes are as they are, pixels are not changed.

    Arrays are grey `(h, w)`, RGB `(h, w, 3)` or RGBA `(h, w, 4)`, uint8. Raises EncoderError.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, (str, Path)):
        path = Path(picture)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise EncoderError(f"more than {MAX_BYTES:,} bytes")
            return path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            raise EncoderError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    from PIL import Image

    if isinstance(picture, np.ndarray):
        shape = picture.shape
        if picture.dtype != np.uint8 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (3, 4)):
            rule = "must be uint8, 0 to 255, (h, w), (h, w, 3) or (h, w, 4)"
            raise EncoderError(f"an array {picture.dtype} {shape}, but it {rule}")
        if not picture.size:
            raise EncoderError(f"an array {picture.shape} without a pixel")
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise EncoderError(f"a {type(picture).__name__}, but it must be a path, a picture of Pillow or an array")
    buffer = io.BytesIO()
    try:
        picture.save(buffer, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise EncoderError(f"cannot be stored as PNG ({error}); picture.convert('RGB') helps") from error
    return buffer.getvalue()


def bad(pictures: Sequence[Picture]) -> dict[int, str]:
    """Which of the pictures are none, and why; by place. Each is decoded, so ask only where something was wrong."""
    found = {}
    for place, picture in enumerate(pictures):
        try:
            rgb(encoded(picture))
        except CmhError as error:
            found[place] = error.problems[0]
    return found


def grouped(problems: Mapping[str, str], what: str) -> list[str]:
    """A line for each reason, with how many and two examples; `problems`: name → reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in problems.items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in by_reason.items():
        some = ", ".join(names[:SHOWN]) + ", …" * (len(names) > SHOWN)
        lines.append(f"{len(names):,} {what}{'s' * (len(names) > 1)} ({some}): {reason}")
    return lines


def name_of(picture: object, place: int) -> str:
    """How a picture is called in messages."""
    return str(picture) if isinstance(picture, (str, Path)) else f"picture {place + 1}"


def all_encoded(pictures: Iterable[Picture]) -> list[bytes]:
    """Every picture as bytes. Raises DatasetError that names all that are none of a kind."""
    raw, problems = [], {}
    for place, picture in enumerate(pictures):
        try:
            raw.append(encoded(picture))
        except EncoderError as error:
            problems[name_of(picture, place)] = error.problems[0]
    if problems:
        raise DatasetError(*grouped(problems, "picture"), heading="pictures that cannot be encoded")
    return raw

"""Contact sheets of what a search found: a PNG, or a page of HTML that needs nothing beside it."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
from collections.abc import Sequence
from pathlib import Path

from cmh import files, style
from cmh.errors import CmhError, EncoderError
from cmh.features.pictures import rgb

SIDE, GAP, LINE = 96, 8, 14  # pixels
COLUMNS = 10
LETTERS = 16  # of a line below a picture
ENDINGS = (".png", ".html")

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">"""


@dataclasses.dataclass(frozen=True)
class Found:
    """One thing that was found: in a line, and in a word or two; `picture`: encoded, where there is one."""

    distance: int
    line: str
    label: str
    picture: bytes | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was found for one query, nearest first; `note`: what is to be said of the query."""

    query: str
    note: str
    found: Sequence[Found]


def write(path: Path, answers: Sequence[Answer], title: str) -> None:
    """The sheet, as PNG or HTML by the ending of its name. Raises EncoderError where it cannot be written."""
    # "replace": names of files may hold bytes that are no UTF-8
    data = _png(answers) if path.suffix.lower() == ".png" else _page(answers, title).encode(errors="replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, data)
    except OSError as error:
        raise EncoderError(f"--sheet {path}: cannot be written ({error.strerror or error})") from error


def check(path: Path) -> None:
    """Raises EncoderError where the name does not say PNG or HTML."""
    if path.suffix.lower() not in ENDINGS:
        raise EncoderError(f"--sheet {path}: must end in {' or '.join(ENDINGS)}")


def thumbnail(raw: bytes, side: int) -> bytes | None:
    """A small PNG of a picture; None where it is none."""
    try:
        picture = rgb(raw)
    except CmhError:
        return None
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _page(answers: Sequence[Answer], title: str) -> str:
    rules = style.sheet(Path(__file__).with_suffix(".css"))
    parts = [HEAD, f"<title>{html.escape(title)}</title>\n<style>\n{rules}</style>"]
    for answer in answers:
        query, note = html.escape(answer.query), html.escape(answer.note)
        parts.append(f'<h2>{query}</h2><p class="note">{note}</p><div class="found">')
        for found in answer.found:
            small = thumbnail(found.picture, 2 * SIDE) if found.picture is not None else None
            image = f'<img alt="" src="data:image/png;base64,{base64.b64encode(small).decode()}">' if small else ""
            parts.append(
                f"<figure>{image}<figcaption><b>{found.distance}</b> {html.escape(found.line)}</figcaption></figure>"
            )
        parts.append("</div>")
    return "\n".join(parts)


def _png(answers: Sequence[Answer]) -> bytes:
    from PIL import Image, ImageDraw

    columns = max(1, min(COLUMNS, max((len(answer.found) for answer in answers), default=1)))
    cell = SIDE + 2 * LINE + GAP
    heights = [2 * LINE + -(-len(answer.found) // columns) * cell for answer in answers]
    sheet = Image.new("RGB", (GAP + columns * (SIDE + GAP), GAP + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for answer, height in zip(answers, heights, strict=True):
        draw.text((GAP, top), _shown(answer.query, 20 * columns), "black")
        for place, found in enumerate(answer.found):
            left, upper = GAP + place % columns * (SIDE + GAP), top + LINE + GAP + place // columns * cell
            small = thumbnail(found.picture, SIDE) if found.picture is not None else None
            if small is not None:
                with Image.open(io.BytesIO(small)) as picture:
                    sheet.paste(picture, (left + (SIDE - picture.width) // 2, upper + (SIDE - picture.height) // 2))
            draw.text((left, upper + SIDE), f"{found.distance}", "#06c")
            draw.text((left, upper + SIDE + LINE - 2), _shown(found.label, LETTERS), "#222")
        top += height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _shown(text: str, letters: int) -> str:
    """What Pillow's own font can draw of a text."""
    bare = "".join(letter if letter.isprintable() else " " for letter in text)
    return bare.encode("latin-1", "replace").decode("latin-1")[:letters]

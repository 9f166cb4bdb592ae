"""Many pictures and texts through an encoder into one file, whose making goes on after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cmh import cache, files
from cmh.errors import DatasetError, EncoderError
from cmh.use import pictures as seen
from cmh.use.encoder import Encoder

AT_ONCE = 256  # pictures or texts; what a kill loses at most
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".mpo")
MOST_LINE = 10_000  # characters of a text: the file of codes has as much room for each as the longest one takes


class Bar(Protocol):
    """What shows how far it is; a bar of tqdm does."""

    def update(self, n: float = 1) -> bool | None: ...


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be encoded: pictures, and texts."""

    images: Sequence[Path]
    texts: Sequence[str]

    def digest(self) -> str:
        """Of the names, sizes and times of the pictures, and of the texts: whether begun work is of the same."""
        found = hashlib.sha256()
        for path in self.images:
            try:
                about = path.stat()
                found.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\0".encode(errors="surrogateescape"))
            except (OSError, ValueError):
                found.update(f"{path}\0".encode(errors="surrogateescape"))
        for text in self.texts:
            found.update(f"{text}\n".encode(errors="replace"))
        return f"{len(self.images)} {len(self.texts)} {found.hexdigest()}"


@dataclasses.dataclass(frozen=True)
class Written:
    """What the file holds, and what was left out."""

    n_images: int
    n_texts: int
    left_out: list[str]  # a line for each reason


def pictures_in(where: Path) -> list[Path]:
    """Pictures in a folder and all below it, sorted by path; or those that a text file lists, one a line, seen from the
    list's folder.

    Raises EncoderError where there is none.
    """
    if where.is_dir():
        found = sorted(path for path in where.rglob("*") if path.suffix.lower() in ENDINGS and _named(path))
        if not found:
            raise EncoderError(f"--images {where}: has no picture ({', '.join(ENDINGS)})")
        return found
    listed = [where.parent / line for line in lines_of(where, "--images") if line]
    if not listed:
        raise EncoderError(f"--images {where}: lists no picture; it must be a folder, or a text file of paths")
    return listed


def _named(path: Path) -> bool:
    """A file, or a link to what is not there (or to itself), which is named later on as what it is."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def texts_in(path: Path) -> list[str]:
    """The texts of a file, one a line. Raises EncoderError where there is none."""
    texts = lines_of(path, "--texts")
    if not texts:
        raise EncoderError(f"--texts {path}: is empty; it must be a text file in UTF-8 with a text a line")
    return texts


def lines_of(path: Path, option: str) -> list[str]:
    """The lines of a text file in UTF-8, without blanks at their ends. Raises EncoderError."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise EncoderError(f"{option} {path}: is not UTF-8 (byte {error.start}); is it a text file?") from error
    except (OSError, ValueError) as error:
        raise EncoderError(f"{option} {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def write(
    encoder: Encoder,
    wanted: Wanted,
    out: Path,
    *,
    skip_bad: bool = False,
    bar: Callable[[int, int], contextlib.AbstractContextManager[Bar]],
) -> Written:
    """Encode all, and write the file `out`, whole or not at all; a start after a kill goes on where that was.

    `bar` is given how many there are and how many are done. Raises EncoderError that names all that is none of a kind,
    unless it is to be skipped; what was encoded so far stays.
    """
    width, n_images = -(-encoder.bits // 8), len(wanted.images)
    n = n_images + len(wanted.texts)
    folder = out.with_name(f".{out.name}.begun")
    shapes: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "codes": ((max(n, 1), width), np.uint8),
        "fine": ((max(n, 1),), np.uint8),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        gathered = cache.Gathered(folder, shapes, {"encoder": encoder.digest, "items": wanted.digest()})
        with bar(n, gathered.done) as shown:
            for start, stop in _blocks(gathered.done, n_images, n):
                codes, fine = (
                    _images(encoder, wanted.images[start:stop])
                    if start < n_images
                    else _texts(encoder, wanted.texts[start - n_images : stop - n_images])
                )
                gathered.arrays["codes"][start:stop], gathered.arrays["fine"][start:stop] = codes, fine
                gathered.save(stop)
                shown.update(stop - start)
        fine = np.asarray(gathered.arrays["fine"][:n]).astype(bool)
        left_out = _problems(encoder, wanted, fine)
        if left_out and not skip_bad:
            raise EncoderError(
                *left_out,
                "--skip-bad leaves them out; what was encoded stays, so that it need not be done again",
                heading=f"{int((~fine).sum()):,} of {n:,} cannot be encoded",
            )
        _save(out, encoder, wanted, np.asarray(gathered.arrays["codes"][:n]), fine)
    except OSError as error:
        raise EncoderError(f"{out}: cannot be written ({error.strerror or error})") from error
    del gathered
    shutil.rmtree(folder, ignore_errors=True)
    return Written(int(fine[:n_images].sum()), int(fine[n_images:].sum()), left_out)


def _blocks(done: int, n_images: int, n: int) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of what is encoded at once: pictures, then texts."""
    start = done
    while start < n:
        stop = min(start + AT_ONCE, n_images if start < n_images else n)
        yield start, stop
        start = stop


def _images(encoder: Encoder, some: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Packed codes of pictures, and which of these are some."""
    try:
        return encoder.encode_images(some, packed=True).astype(np.uint8), np.ones(len(some), np.bool_)
    except DatasetError:
        bad = seen.bad(some)
        if not bad:
            raise
    good = [path for place, path in enumerate(some) if place not in bad]
    fine = np.array([place not in bad for place in range(len(some))])
    codes = np.zeros((len(some), -(-encoder.bits // 8)), np.uint8)
    codes[fine] = encoder.encode_images(good, packed=True)
    return codes, fine


def _texts(encoder: Encoder, some: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Packed codes of texts, and which of these have one."""
    bad = _bad_texts(encoder, some)
    fine = np.array([place not in bad for place in range(len(some))])
    codes = np.zeros((len(some), -(-encoder.bits // 8)), np.uint8)
    if fine.any():
        codes[fine] = encoder.encode_texts([text for text, good in zip(some, fine, strict=True) if good], packed=True)
    return codes, fine


def _bad_texts(encoder: Encoder, some: Sequence[str]) -> dict[int, str]:
    long = {place: f"more than {MOST_LINE:,} characters" for place, text in enumerate(some) if len(text) > MOST_LINE}
    return encoder.bad_texts(some) | long


def _problems(encoder: Encoder, wanted: Wanted, fine: NDArray[np.bool_]) -> list[str]:
    """Why those that are not fine are not: asked again, as an earlier start may have found them."""
    bad_images = [path for path, good in zip(wanted.images, fine, strict=False) if not good]
    found = {str(bad_images[place]): why for place, why in seen.bad(bad_images).items()}
    lines = seen.grouped(found, "picture")
    offset = len(wanted.images)
    bad_texts = [(row, text) for row, text in enumerate(wanted.texts) if not fine[offset + row]]
    if bad_texts:
        examples = _bad_texts(encoder, [text for _, text in bad_texts[: seen.SHOWN]])
        shown = ", ".join(
            f"line {row + 1} {text[:40]!r} ({examples[place]})"
            for place, (row, text) in enumerate(bad_texts[: seen.SHOWN])
        )
        lines.append(
            f"{len(bad_texts):,} text{'s' * (len(bad_texts) > 1)} without a word that this model knows: {shown}"
            + ", …" * (len(bad_texts) > seen.SHOWN)
        )
    return lines


def _save(out: Path, encoder: Encoder, wanted: Wanted, codes: NDArray[np.uint8], fine: NDArray[np.bool_]) -> None:
    n_images = len(wanted.images)
    paths = [files.portable(path, out.parent) for path, good in zip(wanted.images, fine, strict=False) if good]
    lines = [text for text, good in zip(wanted.texts, fine[n_images:], strict=True) if good]
    with files.new_file(out) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            images=codes[:n_images][fine[:n_images]],
            texts=codes[n_images:][fine[n_images:]],
            bits=np.int64(encoder.bits),
            image_paths=np.array(paths, np.str_),
            text_lines=np.array(lines, np.str_),
            encoder=np.array(encoder.digest),
        )

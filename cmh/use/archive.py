"""Zip files whose members are stored as they are, and are read without trust in what the file says of itself."""

from __future__ import annotations

import collections
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cmh import files
from cmh.errors import BundleError

MOST = 2**31 - 1  # bytes of a file: as many as zip has without its extension to 64 bits
MOST_TEXT = 2**26  # of a member of text
MOST_LIST = 2**20  # of the list of members at the end
TEXTS = (".json", ".py")
_END = struct.Struct("<4s4H2LH")  # signature, disks, numbers of members, size and place of their list, comment
_ERRORS = (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError, KeyError, struct.error)


def sizes(path: Path, allowed: Callable[[str], bool]) -> dict[str, int]:
    """The bytes of each member. Raises BundleError that lists all that is wrong, by the file's own list of members."""
    heading = f"{path} is no sound bundle"
    try:
        size = path.stat().st_size
        problems = _end_problems(path, size)
        infos = []
        if not problems:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
    except _ERRORS as error:
        why = getattr(error, "strerror", None) or error
        raise BundleError(f"cannot be read ({why}); fetch it again, or pack it again", heading=heading) from error
    counts = collections.Counter(info.orig_filename for info in infos)
    wrong = {
        "unknown": [name for name in counts if not allowed(name)],
        "twice there": [name for name, n in counts.items() if n > 1],
        "compressed or encrypted (a bundle stores what it holds; pack it again with --bundle)": [
            info.orig_filename
            for info in infos
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size
        ],
        f"texts of more than {MOST_TEXT:,} bytes": [
            info.orig_filename for info in infos if info.filename.endswith(TEXTS) and info.file_size > MOST_TEXT
        ],
    }
    problems += [f"members that are {why}: {some(found)}" for why, found in wrong.items() if found]
    if sum(info.file_size for info in infos) > size:
        problems.append(f"its members together are larger than the file ({size:,} bytes): it is damaged")
    if problems:
        raise BundleError(*problems, heading=heading)
    return {info.filename: info.file_size for info in infos}


def _end_problems(path: Path, size: int) -> list[str]:
    """Seen before zipfile reads a list of members, which could be as large as the file."""
    if not _END.size <= size <= MOST:
        return [f"has {size:,} bytes, but a bundle has {_END.size} to {MOST:,}: is it truncated?"]
    with path.open("rb") as file:
        file.seek(max(0, size - _END.size - 20))
        tail = file.read()
    signature, *_, n_bytes, _, comment = _END.unpack(tail[-_END.size :])
    if signature != b"PK\5\6" or comment or tail.startswith(b"PK\6\7") or n_bytes > MOST_LIST:
        return ["does not end as a bundle does: it is truncated, no zip file, or of another program; fetch it again"]
    return []


def stored(path: Path, name: str, size: int) -> bytes:
    """The `size` bytes of a member. Raises BundleError where it has another size, or cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(name)
            if (info.file_size, info.compress_size, info.compress_type) != (size, size, zipfile.ZIP_STORED):
                raise ValueError("its size is another than was said")
            with archive.open(info) as file:
                return file.read(size)
    except _ERRORS as error:
        raise BundleError(f"{path}: {name} cannot be read ({error}); fetch the bundle again") from error


def write(path: Path, members: Mapping[str, bytes]) -> None:
    """Write the members in their order, without dates: whole or not at all. Raises BundleError, OSError."""
    size = sum(map(len, members.values())) + MOST_LIST
    if size > MOST:
        raise BundleError(f"{path}: would take {size:,} bytes, but a bundle has at most {MOST:,}: pack fewer seeds")
    with files.new_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, raw in members.items():
            info = zipfile.ZipInfo(name)  # of 1980
            info.create_system, info.external_attr = 3, 0o644 << 16  # whatever system wrote it
            archive.writestr(info, raw)


def some(names: Sequence[str]) -> str:
    """A count and two examples."""
    shown = ", ".join(repr(name[:60]) for name in names[:2])
    return f"{len(names):,} ({shown}{', …' * (len(names) > 2)})"

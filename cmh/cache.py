"""Computed arrays on disk, under a key of what they were computed from: made once, whole or not at all.

`$CMH_CACHE` names the folder (default `$XDG_CACHE_HOME/cmh`, that is `~/.cache/cmh`). An entry is a folder of
`.npy` files, JSON notes on them, and a `meta.json` with the sizes and SHA-256 of all; it appears by a rename. Deleting
the cache is safe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cmh import files, machine
from cmh.errors import DatasetError

log = logging.getLogger(__name__)

HASHED_BELOW = 256 * 2**20  # larger files are checked by size alone at a start: reading them all would cost seconds

ROWS_AT_ONCE = 4096  # when rows are gathered into a file: bounds memory


class RowArray(Protocol):
    """An array, a memory map, or what makes its rows when they are asked for: `array[index]` is `(len(index), …)`."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[np.generic]: ...
    def __getitem__(self, index: slice | NDArray[np.int64], /) -> NDArray[np.generic]: ...


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows `index` of an array, gathered while they are written."""

    array: RowArray
    index: NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """An array that comes in blocks of rows, written one after another; `shape` is of the whole."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    blocks: Iterable[NDArray[np.generic]]


@dataclasses.dataclass(frozen=True)
class Moved:
    """A finished `.npy` file on the cache's own disk, which moves into the entry."""

    path: Path


@dataclasses.dataclass(frozen=True)
class Note:
    """Facts about the arrays, kept beside them as `NAME.json`."""

    facts: Mapping[str, object]  # plain values


Content = NDArray[np.generic] | Rows | Blocks | Moved | Note
Contents = Mapping[str, Content]  # of an entry: path in it without the ending → what is there


class Gathered:
    """Arrays that are filled row by row over as many starts as it takes.

    `arrays` are the files in `folder` by name, written in place; `shapes` says shape and number type of each. `done`
    says how far `save` was told last time. What does not fit the asked-for shapes, is damaged, or was begun with other
    versions (`made_with`), is begun anew.
    """

    arrays: dict[str, np.memmap]

    def __init__(
        self,
        folder: Path,
        shapes: Mapping[str, tuple[tuple[int, ...], type[np.generic]]],
        made_with: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        made = json.dumps(dict(made_with or {}), sort_keys=True)
        try:
            self.done = int((folder / "done").read_text())
            self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+", allow_pickle=False) for name in shapes}
            fits = {name: (array.shape, array.dtype.type) for name, array in self.arrays.items()} == dict(shapes)
            fits = fits and (folder / "made_with").read_text() == made
        except (OSError, ValueError, EOFError):
            fits = False
        if not fits or self.done < 0:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "done").unlink(missing_ok=True)
            (folder / "made_with").write_text(made)
            self.done = 0
            self.arrays = {
                name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
                for name, (shape, dtype) in shapes.items()
            }

    def save(self, done: int) -> None:
        """What was written so far stays; a killed process goes on from here."""
        for array in self.arrays.values():
            array.flush()
        self.done = done
        files.write_atomic(self.folder / "done", str(done))

    def finished(self) -> dict[str, Moved]:
        """The files, for the cache entry; `folder` can go afterwards."""
        return {name: Moved(self.folder / f"{name}.npy") for name in self.arrays}


def root() -> Path:
    """The cache folder. Raises DatasetError where no home is known, and CMH_CACHE does not name one."""
    found = machine.cache()
    if found is None:
        raise DatasetError("no home folder is known for the cache; set CMH_CACHE to a folder on a disk with room")
    return found


def key(*parts: str | int) -> str:
    """A short name for what an entry was computed from."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:24]


def entry(name: str, compute: Callable[[], Contents]) -> Path:
    """The folder of the entry `name` (a relative path), computed if it is absent or damaged.

    Of several processes that ask at once one computes and the others wait. Raises DatasetError when the cache
    folder cannot be written.
    """
    path = root() / name
    try:
        if _sound(path):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.locked(lock, wait=False))
            except BlockingIOError:
                log.warning("waiting for another process that prepares %s", path)
                stack.enter_context(files.locked(lock))
            if not path.is_dir() or damage(path):  # another process may have been first
                _make(path, compute)
    except OSError as error:
        raise DatasetError(
            f"the cache folder {root()} cannot be used ({error.strerror or error});"
            " set CMH_CACHE to a folder on another disk, with room"
        ) from error
    return path


def note(path: Path, name: str) -> dict[str, str] | None:
    """The facts of an entry's note; None where it was made without."""
    try:
        facts: dict[str, str] = json.loads((path / f"{name}.json").read_text())
    except FileNotFoundError:
        return None
    return facts


def document(path: Path, name: str) -> dict[str, object] | None:
    """The note of an entry that holds more than texts; None where it was made without, or cannot be read."""
    try:
        facts = json.loads((path / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def arrays_sha256(*paths: Path) -> str:
    """SHA-256 over the sorted (name, SHA-256) pairs of all arrays of entries, as they were written; notes do not count.

    Entries of earlier versions lack the hashes of large files: these are taken once, and kept.
    """
    pairs = []
    for path in paths:
        meta = json.loads((path / "meta.json").read_text())
        without = [name for name, about in meta.items() if not about["sha256"]]
        for name in without:
            meta[name]["sha256"] = files.sha256(path / name)
        if without:
            with contextlib.suppress(OSError):  # a cache that can only be read: then at every start
                files.write_atomic(path / "meta.json", json.dumps(meta, indent=1))
        pairs += [(name, about["sha256"]) for name, about in meta.items() if name.endswith(".npy")]
    return hashlib.sha256(json.dumps(sorted(pairs)).encode()).hexdigest()


def _make(path: Path, compute: Callable[[], Contents]) -> None:
    # We hold the lock, so temporary folders of this entry are leftovers of a process that was killed.
    for leftover in path.parent.glob(f".{path.name}.*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
    try:
        contents = compute()
    except OSError as error:  # a source that cannot be read is no fault of the cache
        raise DatasetError(f"{path.name}: cannot be computed ({type(error).__name__}: {error})") from error
    if path.exists():
        shutil.rmtree(path)
    with files.new_folder(path) as temporary:
        meta = {}
        for name, content in contents.items():
            relative = f"{name}.json" if isinstance(content, Note) else f"{name}.npy"
            file = temporary / relative
            file.parent.mkdir(parents=True, exist_ok=True)
            _save(file, content)
            meta[relative] = {"bytes": file.stat().st_size, "sha256": files.sha256(file)}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1))


def _save(file: Path, content: Content) -> None:
    if isinstance(content, Note):
        file.write_text(json.dumps(dict(content.facts), indent=1))
    elif isinstance(content, Moved):
        content.path.rename(file)
    elif isinstance(content, Rows):
        array, index = content.array, content.index
        some = (index[start : start + ROWS_AT_ONCE] for start in range(0, len(index), ROWS_AT_ONCE))
        _save_blocks(file, Blocks((len(index), *array.shape[1:]), array.dtype, (array[rows] for rows in some)))
    elif isinstance(content, Blocks):
        _save_blocks(file, content)
    else:
        np.save(file, content, allow_pickle=False)


def _save_blocks(file: Path, content: Blocks) -> None:
    dtype, n_rows = np.dtype(content.dtype), 0
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": content.shape}
    with file.open("wb") as out:  # not a memory map: its pages would count as this process's memory
        np.lib.format.write_array_header_1_0(out, about)
        for block in content.blocks:
            out.write(np.ascontiguousarray(block, dtype).data)
            n_rows += len(block)
    assert n_rows == content.shape[0]


def _sound(path: Path) -> bool:
    if not path.is_dir():
        return False
    problem = damage(path)
    if problem:
        log.warning("the cache entry %s is damaged (%s); computing it again", path, problem)
    return not problem


def damage(path: Path) -> str:
    """What is wrong with an entry; empty where it is as it was written."""
    try:
        meta = json.loads((path / "meta.json").read_text())
        if not meta:
            return "meta.json is empty"
        for name, expected in meta.items():
            file = path / name
            size = file.stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size:,} bytes, but was written with {expected['bytes']:,}"
            if size <= HASHED_BELOW and files.sha256(file) != expected["sha256"]:
                return f"the bytes of {name} have changed"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (NotADirectoryError, IsADirectoryError) as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return "meta.json cannot be read"
    return ""

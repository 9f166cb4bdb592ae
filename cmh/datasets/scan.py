"""Files of a dataset looked at once: content hash and faults, remembered for as long as the file is the same.

A file is the same while device, inode, size, modification time and change time (nanoseconds) are: the last cannot be
set by hand, so an edit that keeps size and modification time is seen, too. What is remembered lies in the cache
folder under `scans/`; without it everything is read again, with the same result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from cmh import bars, cache, files
from cmh.errors import DatasetError
from cmh.features.pictures import MAX_BYTES, rgb

VERSION = 2  # of what counts as a fault
THREADS = 4
AHEAD = 64  # pictures in memory at once
LEAVES = "a link that leaves the folder"  # how a path is called that a `Folder` does not follow

Signature = tuple[int, int, int, int, int]
Json = TypeVar("Json")
Job = TypeVar("Job")


@dataclasses.dataclass(frozen=True)
class Seen:
    """A picture file: SHA-256 of its bytes, and what is wrong with it."""

    digest: bytes
    problem: str


def signature(status: os.stat_result) -> Signature:
    """What changes whenever the file does."""
    most = 2**63 - 1  # what an int64 holds; inodes of network file systems may be larger
    return status.st_dev & most, status.st_ino & most, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def signatures(paths: Iterable[Path | str]) -> list[Signature | None]:
    """The signature of each file; None where there is none."""

    def of_file(path: Path | str) -> Signature | None:
        try:
            return signature(os.stat(path))  # noqa: PTH116 - a hundred thousand times
        except (OSError, ValueError):
            return None

    return [of_file(path) for path in paths]


def sha256(path: Path) -> str:
    """Hex digest of a file, read anew only after it has changed. Raises OSError where it cannot be read."""
    return remembered(path, "sha256", lambda: files.sha256(path))


def remembered(path: Path, what: str, compute: Callable[[], Json]) -> Json:
    """`compute()` (plain JSON) of a file, computed anew only after the file has changed.

    Raises OSError where there is no such file.
    """
    name = cache.key("file", VERSION, str(path.resolve()), what, *signature(path.stat()))
    store = cache.root() / "scans" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        known: Json = json.loads(store.read_text())
        return known
    value = compute()
    with contextlib.suppress(OSError):  # no room to remember: only slower
        store.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(store, json.dumps(value))
    return value


def fault_of_name(name: str) -> str:
    """Why a picture's name cannot be used; empty where it can."""
    if not name or "\0" in name or "\n" in name or "\r" in name:
        return "must be a path inside the folder, without line ends"
    if name[0] in "/\\" or name[1:2] == ":":
        return "is an absolute path, but must be one inside the folder"
    if ".." in name and ".." in name.replace("\\", "/").split("/"):
        return "must not hold '..'"
    return ""


class Folder:
    """Finds files in a folder and refuses what lies, or (unless `links`) leads, outside."""

    def __init__(self, root: Path, *, links: bool = False) -> None:
        self.root, self._links = root, links
        self._real = root.resolve()
        self._inside = functools.cache(self._check_parent)

    def find(self, name: str) -> tuple[os.stat_result | None, str]:
        """(status, "") of a regular file, or (None, what is wrong)."""
        if fault := fault_of_name(name):
            return None, fault
        path = f"{self.root}/{name}"  # strings: a data set has a hundred thousand of them
        try:
            if fault := self._inside(path.rpartition("/")[0]):
                return None, fault
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                if not self._links and not Path(path).resolve().is_relative_to(self._real):
                    return None, f"is {LEAVES}"
                status = Path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            if os.path.islink(path):  # noqa: PTH114 - as above
                return None, f"is a link to {os.readlink(path)!r}, which does not exist"  # noqa: PTH115
            return None, "does not exist"
        except (OSError, ValueError, RuntimeError) as error:
            return None, f"cannot be read ({getattr(error, 'strerror', None) or error})"
        if not stat.S_ISREG(status.st_mode):
            return None, "is no file"
        if status.st_size > MAX_BYTES:
            return None, f"has {status.st_size:,} bytes, but may have at most {MAX_BYTES:,}"
        return status, ""

    def _check_parent(self, parent: str) -> str:
        if self._links or Path(parent).resolve().is_relative_to(self._real):
            return ""
        return f"is behind {LEAVES}"


def pictures(
    root: Path, names: Sequence[str], *, called: str, progress: bool = False, links: bool = False
) -> list[Seen]:
    """Every picture decoded once and hashed, in threads; a few at a time, so that memory stays flat."""
    folder = Folder(root, links=links)
    known, seen = _Memory(root), [Seen(b"", "")] * len(names)
    todo: list[tuple[int, Signature]] = []
    for row, name in enumerate(names):
        status, problem = folder.find(name)
        if status is None:
            seen[row] = Seen(b"", problem)
            continue
        old = known.get(name, signature(status))
        if old is None:
            todo.append((row, signature(status)))
        else:
            seen[row] = old
    if not todo:
        return seen
    bar = bars.bar(len(todo), f"{called}: checking pictures", "pic", terminal=progress)
    try:
        for (row, now), result in _in_threads(lambda job: _inspect(root / names[job[0]]), todo):
            seen[row] = result
            known.put(names[row], now, result)
            bar.update()
    finally:
        bar.close()
        known.save()
    return seen


def digest(seen: Iterable[Seen]) -> str:
    """Of the pictures' contents in their order."""
    return hashlib.sha256(b"".join(one.digest for one in seen)).hexdigest()


def _inspect(path: Path) -> Seen:
    try:
        raw = path.read_bytes()
    except OSError as error:
        return Seen(b"", f"cannot be read ({error.strerror})")
    problem = ""
    try:
        rgb(raw)
    except DatasetError as error:
        problem = error.problems[0]
    return Seen(hashlib.sha256(raw).digest(), problem)


def _in_threads(work: Callable[[Job], Seen], jobs: Iterable[Job]) -> Iterator[tuple[Job, Seen]]:
    """Results in order, with at most AHEAD of them under way."""
    left = iter(jobs)
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: list[tuple[Job, Future[Seen]]] = []
        try:
            while True:
                fresh = itertools.islice(left, AHEAD - len(waiting))
                waiting += [(job, pool.submit(work, job)) for job in fresh]
                if not waiting:
                    return
                job, future = waiting.pop(0)
                yield job, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


class _Memory:
    """What was found out about the pictures of a folder, in one file."""

    def __init__(self, root: Path) -> None:
        self.path = cache.root() / "scans" / f"pictures-{cache.key(VERSION, str(root.resolve()))}.npz"
        self.rows: dict[str, tuple[Signature, Seen]] = {}
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                names, faults = (json.loads(stored[key].tobytes()) for key in ("names", "faults"))
                digests = stored["digests"].tobytes()
                for row, (name, then) in enumerate(zip(names, stored["marks"].tolist(), strict=True)):
                    seen = Seen(digests[32 * row : 32 * row + 32], faults.get(str(row), ""))
                    self.rows[name] = tuple(then), seen
        except Exception:  # NumPy and zipfile raise many kinds for damaged bytes: look at the pictures again
            self.rows = {}

    def get(self, name: str, now: Signature) -> Seen | None:
        found = self.rows.get(name)
        return found[1] if found is not None and found[0] == now else None

    def put(self, name: str, now: Signature, seen: Seen) -> None:
        if seen.digest:  # what could not be read may be readable next time
            self.rows[name] = now, seen

    def save(self) -> None:
        rows = list(self.rows.items())
        faults = {str(row): seen.problem for row, (_, (_, seen)) in enumerate(rows) if seen.problem}
        arrays = {
            "names": np.frombuffer(json.dumps([name for name, _ in rows]).encode(), np.uint8),
            "faults": np.frombuffer(json.dumps(faults).encode(), np.uint8),
            "marks": np.array([then for _, (then, _) in rows], np.int64).reshape(-1, 5),
            "digests": np.frombuffer(b"".join(seen.digest for _, (_, seen) in rows), np.uint8),
        }
        with contextlib.suppress(OSError):  # no room to remember: only slower
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with files.new_file(self.path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes the keywords for allow_pickle

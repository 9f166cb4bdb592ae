"""Writing that cannot be half done: temporary name, fsync, rename. And paths in words."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

POLL = 0.02  # seconds between two looks at a lock that another process holds
LOCKLESS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # what flock says on a disk that has none


class NoLocksError(OSError):
    """The disk has no locks, and two commands could write there at once without seeing each other."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data`; a reader or a crash sees the old file or the new one, never a part."""
    with new_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which replaces `path` when the block ends well."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append one line to a small text file: whole or not at all, also with several writers."""
    with locked(path.with_name(f".{path.name}.lock")):
        old = path.read_bytes() if path.exists() else b""
        if old and not old.endswith(b"\n"):
            old += b"\n"
        write_atomic(path, old + line.rstrip("\n").encode() + b"\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends well, and vanishes when it does not.

    If `path` has come to exist meanwhile (another process was first), ours is dropped. Raises OSError where it cannot
    be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        temporary.chmod(0o777 & ~_umask())
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def passing_folder(prefix: str) -> Iterator[Path]:
    """A new folder among the temporary files; it goes with the block, and with the process, however that ends."""
    path = tempfile.mkdtemp(prefix=prefix)
    # Whatever ends this process also ends its side of the pipe, in which nothing is ever written.
    command = ["sh", "-c", 'trap "" HUP INT TERM USR1; cat; exec rm -rf -- "$0"', path]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True):
        yield Path(path)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock file, which stays when it is let go; the lock goes with the process, however that ends.

    Raises BlockingIOError if `wait` is false and another process holds it, NoLocksError where the disk has no locks,
    and another OSError where there can be no such file.
    """
    from filelock import FileLock, Timeout  # late: commands that write nothing need no locks

    path.parent.mkdir(parents=True, exist_ok=True)
    # A soft lock (the file's existence) would outlive a killed process.
    lock = FileLock(path, blocking=wait, poll_interval=POLL, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the lock", str(path)) from error
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
        said = (
            f"this disk has no locks (flock: {error.strerror}), and without them two commands could spoil each other's"
            " files; use another disk, or mount it with locks (Lustre: flock; NFS: lockd)"
        )
        raise NoLocksError(error.errno, said, str(path)) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file now; where nobody can tell (another's folder, no such file), no."""
    try:
        if path.exists():
            with locked(path, wait=False):
                pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short(path: Path) -> str:
    """A path as a person would type it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def quoted(path: Path) -> str:
    """The same as a shell takes it, within a command that is shown."""
    return shlex.quote(short(path))


def portable(path: Path, folder: Path) -> str:
    """A path as a file in `folder` should name it: relative to `folder` where both are likely to be moved together.

    That is where both lie below the current folder, or below that which holds the folder that holds `folder` (the
    project of `studies/NAME`). Whoever reads it joins it to `folder.resolve()`.
    """
    path, folder = path.resolve(), folder.resolve()
    together = (Path.cwd(), folder.parent, *([folder.parent.parent] if len(folder.parts) > 4 else []))
    for root in together:
        if len(root.parts) > 1 and path.is_relative_to(root) and folder.is_relative_to(root):
            return os.path.relpath(path, folder)
    return str(path)


def placed(name: str, folder: Path) -> str:
    """The path that a file in `folder` names, as `portable` made it or a person wrote it: from there, else from the
    current folder, else from the nearest folder above that has it (`folder` may have been moved to another depth)."""
    folder, tail = folder.resolve(), re.sub(r"^(\.\./)+", "", name)
    places = [folder / name, Path.cwd() / name, *(above / tail for above in (folder, *folder.parents))]
    return os.path.normpath(next((place for place in places if place.exists()), places[0]))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

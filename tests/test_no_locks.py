"""A disk without flock (Lustre without `-o flock`, NFS without its lock daemon, some FUSE): it is said."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cmh import cache, files, ledger, tune
from cmh.errors import DatasetError, LedgerError

SAID = r"this disk has no locks \(flock: .+\).*; use another disk, or mount it with locks"


@pytest.fixture(params=[errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK], ids=["Lustre", "FUSE", "NFS"])
def without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Takes flock from the disk that a folder is on."""
    flock = fcntl.flock

    def take(folder: Path) -> None:
        def refused(descriptor: int, operation: int) -> None:
            if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(folder):
                raise OSError(request.param, os.strerror(request.param))
            flock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", refused)

    return take


def test_a_lock(without: Callable[[Path], None], tmp_path: Path) -> None:
    without(tmp_path)
    for wait in (True, False):
        with pytest.raises(files.NoLocksError, match=SAID), files.locked(tmp_path / "lock", wait=wait):
            pass
    with pytest.raises(files.NoLocksError, match=SAID):
        files.append_line(tmp_path / "lines", "one")
    assert not (tmp_path / "lines").exists()


def test_a_study(without: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without(tmp_path)
    assert tune.main(["--method", "ridge", "--bits", "8", "--out", str(tmp_path)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'ridge-clipart-8'}: this disk has no locks (flock: ")
    assert last.endswith("; --out says where studies go")
    assert not (tmp_path / "ridge-clipart-8" / "study.yml").exists()


def test_the_cache(without: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path))
    without(tmp_path)
    with pytest.raises(DatasetError, match=rf"{SAID}.*; set CMH_CACHE to a folder on another disk, with room"):
        cache.entry("part/key", lambda: {"a": np.zeros(3)})
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    made = cache.entry("part/key", lambda: {"a": np.zeros(3)})
    without(tmp_path)
    assert cache.entry("part/key", lambda: {}) == made  # what is there needs no lock


def test_the_ledger(without: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_DATA", str(tmp_path))
    without(tmp_path)
    with pytest.raises(LedgerError, match=rf"{SAID}.*; set CMH_DATA to a folder that can be written, on another disk"):
        ledger.open_test("clipart", "5" * 64, "a test")
    assert not ledger.path("clipart", "5" * 64).exists()

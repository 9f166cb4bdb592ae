"""The array cache and the file writers under bad luck: crashes, damage, several processes, no room."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cmh import cache, files
from cmh.errors import DatasetError

CODE = """
import sys, time, numpy as np
from cmh import cache
def compute():
    with open(sys.argv[1], 'a') as file: file.write('x')
    time.sleep(float(sys.argv[2]))
    return {'a': np.ones(3)}
print(cache.entry('part/key', compute))
"""
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Compute:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> cache.Contents:
        self.calls += 1
        return {"search/image": np.arange(100, dtype=np.float32), "labels": np.ones((2, 3), np.uint8)}


def start(count: Path, seconds: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, str(count), seconds]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_an_entry_is_computed_once(
    root: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    compute = Compute()
    path = cache.entry("part/key", compute)
    assert path == root / "part" / "key"
    assert cache.entry("part/key", compute) == path
    assert compute.calls == 1
    assert np.load(path / "search" / "image.npy").tolist() == list(range(100))
    assert json.loads((path / "meta.json").read_text()).keys() == {"search/image.npy", "labels.npy"}
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == []


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes were hashed, while every array counts as large."""
    names, sha256 = [], files.sha256

    def spy(path: Path) -> str:
        names.append(path.name)
        return sha256(path)

    monkeypatch.setattr(files, "sha256", spy)
    monkeypatch.setattr(cache, "HASHED_BELOW", 100)
    return names


def test_large_files_are_hashed_when_they_are_made_and_not_again(root: Path, hashed: list[str]) -> None:
    path = cache.entry("part/key", Compute())
    assert sorted(hashed) == ["image.npy", "labels.npy"]
    meta = json.loads((path / "meta.json").read_text())
    wanted = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in meta}
    assert {name: about["sha256"] for name, about in meta.items()} == wanted
    hashed.clear()
    cache.entry("part/key", Compute())
    pairs = [["labels.npy", wanted["labels.npy"]], ["search/image.npy", wanted["search/image.npy"]]]
    assert cache.arrays_sha256(path) == hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
    assert hashed == []


@pytest.mark.parametrize("read_only", [False, True])
def test_large_files_of_earlier_versions_are_hashed_once(
    read_only: bool, root: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, compute = cache.entry("part/key", Compute()), Compute()
    wanted, meta = cache.arrays_sha256(path), json.loads((path / "meta.json").read_text())
    meta["search/image.npy"]["sha256"] = ""
    (path / "meta.json").write_text(json.dumps(meta))
    hashed.clear()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    if read_only:
        monkeypatch.setattr(files, "write_atomic", refuse)
    for _ in range(2):
        assert cache.entry("part/key", compute) == path
        assert cache.arrays_sha256(path) == wanted
    assert compute.calls == 0
    assert hashed == ["image.npy"] * (1 + read_only)


def test_the_hash_of_arrays(root: Path) -> None:
    def digest(*entries: cache.Contents) -> str:
        paths = []
        for arrays in entries:
            paths.append(cache.entry(f"part/{len(list(root.glob('part/*')))}", lambda arrays=arrays: arrays))
        return cache.arrays_sha256(*paths)

    ones, twos = np.ones(3), np.full(3, 2.0)
    base = {"a": ones, "b/c": twos}
    assert digest(base) == digest(dict(reversed(base.items()))) == digest({"a": ones}, {"b/c": twos})
    assert digest(base) == digest({**base, "note": cache.Note({"torch": "2"})})
    others = [{"a": twos, "b/c": ones}, {"a": ones}, {"a": ones, "b/d": twos}, {**base, "a": ones.astype(np.float32)}]
    assert len({digest(base), *map(digest, others)}) == 5


def test_notes(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    def compute() -> cache.Contents:
        return {"a": np.ones(3), "made/with": cache.Note({"é": "1"})}

    path = cache.entry("part/key", compute)
    assert cache.note(path, "made/with") == {"é": "1"}
    assert cache.note(path, "none") is None
    (path / "made" / "with.json").write_text("{}")
    assert cache.note(cache.entry("part/key", compute), "made/with") == {"é": "1"}
    assert "with.json has 2 bytes" in caplog.text


def test_keys_differ_with_each_part() -> None:
    keys = {cache.key("a", "b"), cache.key("ab"), cache.key("a", 1), cache.key("a", 2), cache.key("b", "a")}
    assert len(keys) == 5
    assert all(len(key) == 24 for key in keys)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("truncated", r"image\.npy has 428 bytes, but was written with 528"),
        ("longer", r"image\.npy has 529 bytes"),
        ("changed", r"the bytes of search/image\.npy have changed"),
        ("missing", r"image\.npy is missing"),
        ("folder", r"damaged"),
        ("parent", r"image\.npy: Not a directory"),
        ("no meta", r"meta\.json is missing"),
        ("not JSON", r"meta\.json cannot be read"),
        ("not UTF-8", r"meta\.json cannot be read"),
        ("a list", r"meta\.json cannot be read"),
        ("null", r"meta\.json is empty"),
        ("no sizes", r"meta\.json cannot be read"),
        ("empty", r"meta\.json is empty"),
    ],
)
def test_damage_is_said_and_mended(damage: str, said: str, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    compute = Compute()
    path = cache.entry("part/key", compute)
    image, meta = path / "search" / "image.npy", path / "meta.json"
    raw = image.read_bytes()
    if damage in ("missing", "folder"):
        image.unlink()
        if damage == "folder":
            image.mkdir()
    elif damage == "parent":
        image.unlink()
        image.parent.rmdir()
        image.parent.write_text("a file in place of the folder")
    elif damage == "no meta":
        meta.unlink()
    elif damage in ("truncated", "longer", "changed"):
        new = {"truncated": raw[:-100], "longer": raw + b"x", "changed": raw[:-1] + bytes([raw[-1] ^ 1])}
        image.write_bytes(new[damage])
    else:
        text = {"not JSON": b"[", "not UTF-8": b"\xff", "a list": b"[1]", "null": b"null", "empty": b"{}"}
        meta.write_bytes(text.get(damage, b'{"labels.npy": {}}'))
    assert cache.entry("part/key", compute) == path
    (warning,) = caplog.messages  # said once
    assert warning.startswith(f"the cache entry {path} is damaged (")
    assert re.search(said, warning), warning
    assert compute.calls == 2
    assert image.read_bytes() == raw
    assert cache.entry("part/key", compute) == path
    assert compute.calls == 2


def test_a_file_in_place_of_an_entry(root: Path) -> None:
    (root / "part").mkdir(parents=True)
    (root / "part" / "key").write_text("a file")
    with pytest.raises(DatasetError, match="set CMH_CACHE"):
        cache.entry("part/key", Compute())


def test_a_failed_computation_leaves_nothing(root: Path) -> None:
    def broken() -> cache.Contents:
        raise RuntimeError("a bug")

    def unreadable() -> cache.Contents:
        raise FileNotFoundError(2, "No such file", "im1.jpg")

    def objects() -> cache.Contents:
        return {"good": np.ones(2), "bad": np.array([{}], dtype=object)}

    with pytest.raises(RuntimeError, match="a bug"):
        cache.entry("part/key", broken)
    with pytest.raises(DatasetError, match=r"key: cannot be computed \(FileNotFoundError: .*im1\.jpg"):
        cache.entry("part/key", unreadable)
    with pytest.raises(ValueError, match="allow_pickle"):
        cache.entry("part/key", objects)
    assert [path.name for path in (root / "part").iterdir()] == [".key.lock"]
    assert cache.entry("part/key", Compute()).is_dir()


def test_a_root_that_cannot_be_written(root: Path) -> None:
    root.write_text("a file")
    compute = Compute()
    with pytest.raises(DatasetError, match=r"cannot be used .* set CMH_CACHE to a folder on another disk, with room"):
        cache.entry("part/key", compute)
    assert compute.calls == 0


def test_a_killed_process_leaves_no_entry(root: Path, tmp_path: Path) -> None:
    first = start(tmp_path / "count", "60")
    wait_for(tmp_path / "count")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    leftover = root / "part" / ".key.abandoned"  # as if it had been killed while it wrote the arrays
    leftover.mkdir()
    (leftover / "a.npy").write_bytes(b"half")
    assert not (root / "part" / "key").exists()
    compute = Compute()
    assert cache.entry("part/key", compute).is_dir()
    assert compute.calls == 1
    assert sorted(path.name for path in (root / "part").iterdir()) == [".key.lock", "key"]


def test_of_two_processes_one_computes(root: Path, tmp_path: Path) -> None:
    first = start(tmp_path / "count", "3")
    wait_for(tmp_path / "count")
    second = start(tmp_path / "count", "0")
    (out, error), (out_2, error_2) = first.communicate(timeout=60), second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), error + error_2
    assert out == out_2 == f"{root / 'part' / 'key'}\n"
    assert (tmp_path / "count").read_text() == "x"
    assert (error, error_2) == ("", f"waiting for another process that prepares {root / 'part' / 'key'}\n")


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache.root() == Path("/a")
    monkeypatch.setenv("CMH_CACHE", "")
    assert cache.root() == Path("/b/cmh")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert cache.root() == Path("/c/.cache/cmh")


# Writers


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_atomic(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, "é")
    assert path.read_bytes() == "é".encode()
    files.write_atomic(path, b"\0\n")
    assert path.read_bytes() == b"\0\n"
    old = os.umask(0)
    os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o666 & ~old
    assert names(tmp_path) == ["file"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, "old")

    def fail() -> None:
        with files.new_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_append_line_mends_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    files.append_line(path, "one\n")
    path.write_text("one\ntor")
    files.append_line(path, "two")
    assert path.read_text() == "one\ntor\ntwo\n"


def append(path: Path, writer: int) -> None:
    for number in range(10):
        files.append_line(path, f"{writer} {number} " + "x" * 500)


def test_several_processes_append_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    writers = [SPAWN.Process(target=append, args=(path, number)) for number in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    expected = {f"{writer} {number} " + "x" * 500 for writer in range(2) for number in range(10)}
    lines = path.read_text().splitlines()
    assert len(lines) == 20
    assert set(lines) == expected


def test_new_folder(tmp_path: Path) -> None:
    with files.new_folder(tmp_path / "deep" / "folder") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file").write_text("x")
        assert not (tmp_path / "deep" / "folder").exists()
    assert (tmp_path / "deep" / "folder" / "sub" / "file").read_text() == "x"
    assert names(tmp_path / "deep") == ["folder"]


def test_new_folder_vanishes_when_the_block_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with files.new_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert names(tmp_path) == []


def test_new_folder_when_another_was_first(tmp_path: Path) -> None:
    with files.new_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("ours")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").write_text("theirs")
    assert (tmp_path / "folder" / "file").read_text() == "theirs"
    assert names(tmp_path) == ["folder"]


def test_a_passing_folder_goes_with_its_block_and_with_its_process(tmp_path: Path) -> None:
    with files.passing_folder("cmh-test-") as folder:
        (folder / "below").mkdir()
    assert not folder.exists()
    code = (
        "import os, signal\nfrom cmh import files\nwith files.passing_folder('cmh-test-') as folder:\n"
        "    (folder / 'file').touch()\n    print(folder, flush=True)\n    os.killpg(0, signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert killed.returncode == -signal.SIGKILL
    assert Path(killed.stdout.strip()).parent == tmp_path
    deadline = time.monotonic() + 60
    while any(tmp_path.iterdir()):
        assert time.monotonic() < deadline, "the folder has not vanished"
        time.sleep(0.02)


def test_locked(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    with files.locked(path), pytest.raises(BlockingIOError), files.locked(path, wait=False):
        pass
    with files.locked(path, wait=False):
        assert path.exists()


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\nfrom cmh import files\np = pathlib.Path(sys.argv[1])\n"
        "with files.locked(p):\n    p.with_name('held').touch()\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")])
    wait_for(tmp_path / "held")
    with pytest.raises(BlockingIOError), files.locked(tmp_path / "lock", wait=False):
        pass
    holder.kill()
    holder.wait()
    with files.locked(tmp_path / "lock", wait=False):
        pass


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert files.sha256(tmp_path / "empty").startswith("e3b0c44298fc1c14")

"""What a machine leaves to a process: CPUs, and a search where there is no home, or no folder as libraries want it."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cmh import cache, cluster, ledger, machine
from cmh.datasets import benchmarks, facts, loading
from cmh.errors import DatasetError, LedgerError, StudyError
from tests.test_reproduce import make_data

ROOT = Path(__file__).parent.parent
TOKEN = "theirs"  # noqa: S105
USUAL = "/tmp"  # noqa: S108  # of Ray
WITHOUT_A_USER = """
import pwd
def nobody(number): raise KeyError(number)
pwd.getpwuid = nobody
"""


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No home: neither HOME nor an entry of the user."""

    def unknown(number: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "CMH_CACHE", "CMH_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


# CPUs


def test_affinity_counts_and_not_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    monkeypatch.setattr(machine, "_quotas", lambda _: iter(()))
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert machine.cpus() == 64
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")  # of a site that binds nothing
    assert machine.cpus() == 4
    monkeypatch.setattr(machine, "_quotas", lambda _: iter([float("inf"), 2.5, 8.0]))
    assert machine.cpus() == 2
    monkeypatch.setattr(machine, "_quotas", lambda _: iter([0.5]))
    assert machine.cpus() == 1


def groups(folder: Path, root: str, kind: str, options: str, lines: str, limits: Mapping[str, str]) -> Path:
    """A process's folder in /proc, with one mount of control groups and the limits in it."""
    process, top = folder / "proc", folder / "cgroup"
    process.mkdir()
    (process / "cgroup").write_text(lines)
    (process / "mountinfo").write_text(
        f"21 1 0:20 / /proc rw,relatime - proc proc rw\n30 1 0:26 {root} {top} rw shared:4 - {kind} cgroup {options}\n"
    )
    for name, text in limits.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return process


OLD = "4:memory:/a/b\n3:cpuacct,cpu:/a/b\n1:name=systemd:/a/b\n"
V1 = {
    "cpu.cfs_quota_us": "-1\n",
    "cpu.cfs_period_us": "100000\n",
    "a/cpu.cfs_quota_us": "150000\n",
    "a/cpu.cfs_period_us": "100000\n",
}
GROUPS: dict[str, tuple[tuple[str, str, str, str, Mapping[str, str]], float]] = {
    "v2, of a parent": (("/", "cgroup2", "rw", "0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 1"}), 3),
    "v2, a container": (("/c1", "cgroup2", "rw", "0::/c1\n", {"cpu.max": "50000 100000\n"}), 0.5),
    "v2, a namespace": (("/", "cgroup2", "rw", "0::/\n", {"cpu.max": "200000 100000\n"}), 2),
    "v2, from outside": (("/c1", "cgroup2", "rw", "0::/elsewhere\n", {"cpu.max": "200000 100000\n"}), 2),
    "v2, none": (("/", "cgroup2", "rw", "0::/a\n", {}), float("inf")),
    "v1": (("/", "cgroup", "rw,cpuacct,cpu", OLD, V1), 1.5),
    "v1, another controller": (("/", "cgroup", "rw,memory", OLD, V1), float("inf")),
    "broken": (("/", "cgroup2", "rw", "0::/\n", {"cpu.max": "?"}), float("inf")),
}


@pytest.mark.parametrize("name", GROUPS)
def test_quotas_of_control_groups(name: str, tmp_path: Path) -> None:
    given, expected = GROUPS[name]
    assert min(machine._quotas(groups(tmp_path, *given)), default=float("inf")) == expected


def test_no_control_groups(tmp_path: Path) -> None:
    assert list(machine._quotas(tmp_path)) == []


# Folders


@pytest.mark.usefixtures("nobody")
def test_without_a_home_the_cache_is_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.home() is None
    with pytest.raises(DatasetError, match="no home folder is known for the cache; set CMH_CACHE"):
        cache.root()
    with pytest.raises(LedgerError, match="no home folder is known for the ledger of test openings; set CMH_DATA"):
        ledger.path("d", "0")
    monkeypatch.setenv("CMH_CACHE", str(tmp_path))
    assert cache.root() == tmp_path
    assert ledger.path("d", "0").is_relative_to(tmp_path)
    assert benchmarks.folder(facts.FACTS["coco2014"]).is_relative_to(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache.root() == tmp_path


def test_a_home_that_cannot_be_written_has_no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nowhere")
    for name in ("CMH_CACHE", "CMH_DATA"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LedgerError, match=r"/proc/nowhere/cmh-data cannot be written .* set CMH_DATA"):
        ledger.path("d", "0")
    monkeypatch.setenv("CMH_CACHE", str(tmp_path))
    assert ledger.path("d", "0").is_relative_to(tmp_path)


def settled(monkeypatch: pytest.MonkeyPatch, package: Path) -> dict[str, str]:
    """What `settle` has set, with the package in that folder."""
    for name in (*machine.DOWNLOADS, "NUMBA_CACHE_DIR"):
        monkeypatch.setenv(name, "before")  # so that it is as it was afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(machine, "PACKAGE", package)
    before = dict(os.environ)
    machine.settle()
    return {key: value for key, value in os.environ.items() if before.get(key) != value}


def test_libraries_are_left_alone_where_all_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "metrics").mkdir()
    assert settled(monkeypatch, tmp_path) == {}


def test_libraries_write_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMH_CACHE", "cache")
    expected = {"TORCH_HOME": "torch", "HF_HOME": "huggingface", "NUMBA_CACHE_DIR": "numba"}
    assert settled(monkeypatch, Path("/proc/nowhere")) == {
        name: str(tmp_path / "cache" / folder) for name, folder in expected.items()
    }
    monkeypatch.setenv("CMH_CACHE", "/proc/nowhere")
    own = Path(settled(monkeypatch, Path("/proc/nowhere"))["NUMBA_CACHE_DIR"])
    assert own.parent == Path(tempfile.gettempdir())
    own.rmdir()


def in_fresh(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of cmh by a user whom nobody knows."""
    (folder / "sitecustomize.py").write_text(WITHOUT_A_USER)
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "CMH_CACHE", "CMH_DATA")}
    environment = {**kept, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **environment}
    return subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("with_cache", [True, False])
def test_commands_of_a_user_without_a_home(with_cache: bool, tmp_path: Path) -> None:
    given = {"CMH_CACHE": str(tmp_path / "cache")} if with_cache else {}
    done = in_fresh(["cmh.datasets", "show", "coco2014"], tmp_path, **given)
    if with_cache:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "no home folder is known for the cache; set CMH_CACHE" in done.stderr


# Ray


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, USUAL),
        ({"TMPDIR": "SHORT"}, "SHORT"),
        ({"RAY_TMPDIR": "SHORT", "TMPDIR": USUAL}, "SHORT"),
        ({"TMPDIR": "SHORT/" + "long" * 20}, USUAL),
        ({"RAY_TMPDIR": "SHORT/" + "long" * 20}, USUAL),
        ({"TMPDIR": "/proc/nowhere"}, USUAL),
    ],
)
def test_sockets_have_a_short_path(
    given: Mapping[str, str], expected: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory(dir=USUAL, prefix="s") as short:
        for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN"):
            monkeypatch.setenv(name, "before")
            monkeypatch.delenv(name)
        for name, value in given.items():
            monkeypatch.setenv(name, value.replace("SHORT", short))
        with caplog.at_level("INFO"):
            assert cluster._settle_local() == os.environ["RAY_TMPDIR"] == expected.replace("SHORT", short)
        other = bool(given) and expected == USUAL
        assert ("is too long for its sockets, or cannot be written" in caplog.text) == other


def test_no_folder_for_sockets_is_said_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "can_write", lambda _: False)
    with pytest.raises(StudyError, match=r"no folder for its sockets.* set RAY_TMPDIR to a short path"):
        cluster._settle_local()


def test_the_longest_socket_of_ray_fits() -> None:
    path = f"{'x' * machine.SOCKET_ROOM}/ray/session_2026-12-31_23-59-59_123456_4194304/sockets/plasma_store.1"
    assert len(path) <= 107


@pytest.mark.parametrize("mode", ["", "token", "disabled"])
def test_a_session_of_its_own_has_a_token_of_its_own(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, mode)
        if not mode or name != "RAY_AUTH_MODE":
            monkeypatch.delenv(name)
    cluster._settle_local()
    assert len(os.environ.get("RAY_AUTH_TOKEN", "")) == (0 if mode == "disabled" else 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    cluster._settle_local()
    assert os.environ["RAY_AUTH_TOKEN"] == TOKEN


def test_what_does_not_help_is_not_said() -> None:
    assert cluster._cure("The current node timed out during startup", USUAL) == "The same command tries again."
    said = cluster._cure("[Errno 28] No space left on device", "/scratch")
    assert "again" not in said
    assert "Ray writes to /scratch/ray (RAY_TMPDIR names another folder)" in said


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_search_without_home_below_uv_run(tmp_path: Path) -> None:
    """All at once: `uv run` in a folder with much data, a long TMPDIR, one CPU, and a user whom nobody knows."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_A_USER)
    make_data(tmp_path / "data")
    long = tmp_path / ("scratch-" * 12)
    long.mkdir()
    with (tmp_path / "photos.tar").open("wb") as file:
        file.truncate(600 * 2**20)  # Ray packs 512 MiB at most
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "CMH_DATA")}
    environment = {
        **kept,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "CMH_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(long),
        "NUMBA_CACHE_DIR": str(cache.root() / "numba-of-tests"),
    }
    tune = f"{sys.executable} -m cmh.tune --method ridge --dataset data --bits 8"
    tune += " --trials 2 --epochs 1 --seeds 1 --out out"
    # A shell stands for uv: Ray looks at the names of the processes above.
    (tmp_path / "run").write_text(f"{tune}; exit $?\n")
    done = subprocess.run(
        ["taskset", "-c", str(min(os.sched_getaffinity(0))), "bash", "-c", "exec -a uv bash run"],  # noqa: S607
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ", 1 at once" in done.stderr
    assert list((tmp_path / "cache").rglob("openings/*.jsonl"))


def test_no_bar_fills_the_log_of_a_batch_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bool] = []

    def features(_source: object, _name: str, _weights: str, progress: bool) -> Path:
        shown.append(progress)
        raise DatasetError("stop")

    monkeypatch.setenv("CMH_CACHE", str(tmp_path))
    monkeypatch.setattr(loading.extraction, "features", features)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with pytest.raises(DatasetError, match="stop"):
            loading.load("clipart")
    assert shown == [False, True]

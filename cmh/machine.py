"""What a machine leaves to a process: CPUs, and folders that can be written. It knows no library, only their habits.

Batch systems and containers give a part of a computer; Ray, numba and torch each ask for a whole one with a home.
"""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent
DOWNLOADS = {"TORCH_HOME": "torch", "HF_HOME": "huggingface"}  # where these keep what they fetch, if not in the home
SOCKET_ROOM = 37  # characters of a folder in which Ray's sockets have paths of 107 at most, which Linux allows


def cpus() -> int:
    """CPUs that this process may use: its affinity (taskset, cpusets, a step of SLURM) and the quotas of its control
    groups (containers); within a job of SLURM that binds nothing, what the job has on this node. At least 1."""
    most: list[float] = [len(os.sched_getaffinity(0)), *_quotas(Path("/proc/self"))]
    if (given := os.environ.get("SLURM_CPUS_ON_NODE", "")).isdigit():
        most.append(int(given))
    return max(1, int(min(most)))


def _quotas(process: Path) -> Iterator[float]:
    """CPUs that each control group above a process may use, of both versions, where it has a limit.

    `process`: its folder in /proc.
    """
    try:
        groups = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
    except OSError:
        return
    for mount in mounts:
        root, top, kind, options = mount[3], Path(mount[4]), mount[mount.index("-") + 1], mount[-1].split(",")
        for _, controllers, path in groups:
            mine = kind == "cgroup2" if not controllers else kind == "cgroup" and "cpu" in options
            if not mine or (controllers and "cpu" not in controllers.split(",")):
                continue
            # A container may see a part of the tree, with itself at the top.
            group = top / os.path.relpath(path, root) if Path(path).is_relative_to(root) else top
            while group.is_relative_to(top):
                yield _quota(group)
                if group == top:
                    break
                group = group.parent


def _quota(group: Path) -> float:
    """CPUs that a control group may use; infinity where it has no limit."""
    try:
        if (group / "cpu.max").is_file():
            share, period = (group / "cpu.max").read_text().split()
        else:
            share, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(share) / int(period) if share.isdigit() else math.inf
    except (OSError, ValueError):
        return math.inf


def home() -> Path | None:
    """The user's home folder; None where nobody knows one: no HOME, and a user id that no list of users has."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache() -> Path | None:
    """The folder for what can be computed or fetched again: `$CMH_CACHE`, else `$XDG_CACHE_HOME/cmh`, else
    `~/.cache/cmh`; None where none of these is known."""
    if given := os.environ.get("CMH_CACHE"):
        return Path(given)
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "cmh"
    known = home()
    return None if known is None else known / ".cache" / "cmh"


def data() -> Path:
    """The folder of the benchmarks that the user has fetched: `$CMH_DATA`, else `~/cmh-data`; without a home it is in
    the cache's."""
    return Path(os.environ.get("CMH_DATA") or (home() or cache() or Path()) / "cmh-data")


def can_write(folder: Path) -> bool:
    """Whether files can be made in the folder, which is made if it is absent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def settle() -> None:
    """Give libraries that would write to the home, or beside the code, another place where these cannot be written.

    That is `cache()`, and for compiled code a folder of this process where there is none either. What the user has set
    stands. It must be called before they are imported; processes that this one starts have it from here.
    """
    place, known = cache(), home()
    place = None if place is None else place.absolute()
    if place is not None and (known is None or not os.access(known, os.W_OK | os.X_OK)):
        for name, folder in DOWNLOADS.items():
            os.environ.setdefault(name, str(place / folder))
        if known is None:  # Ray asks for one when it is imported
            os.environ["HOME"] = str(place / "home")
    compiled = PACKAGE / "metrics" / "__pycache__"
    beside = os.access(compiled if compiled.is_dir() else compiled.parent, os.W_OK | os.X_OK)
    if "NUMBA_CACHE_DIR" not in os.environ and not beside:
        if place is not None and can_write(place / "numba"):
            os.environ["NUMBA_CACHE_DIR"] = str(place / "numba")
        else:
            os.environ["NUMBA_CACHE_DIR"] = own = tempfile.mkdtemp(prefix="cmh-numba-")
            atexit.register(shutil.rmtree, own, ignore_errors=True)


def socket_folder() -> str:
    """A folder in which Ray can make its sockets: the one that it would take ($RAY_TMPDIR, $TMPDIR, /tmp) where that is
    short enough and can be written, else another; empty where there is none."""
    wanted = [os.environ.get(name, "") for name in ("RAY_TMPDIR", "TMPDIR")]
    return next(
        (
            place
            for place in (*wanted, "/tmp", "/var/tmp", "/dev/shm", str(cache() or ""))  # noqa: S108  # Ray's own names
            if 0 < len(os.path.abspath(place)) <= SOCKET_ROOM and place and can_write(Path(place))  # noqa: PTH100
        ),
        "",
    )

"""Ray's memory monitor kills the worker of a trial that takes too much: on real Ray, with a signal to all processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import cmh.study
from cmh import records
from cmh.cluster import ray
from tests.test_storms import Command, until

THRESHOLD = 0.5  # of the machine's memory, from which on Ray kills
ROOM = int(2.5 * 2**30)  # until then, for the command and all that it starts; a worker and its trial take 0.4 GiB


class Memory:
    """`/proc/meminfo` as on a machine on which nothing but one command takes more memory than before: what else runs
    here meanwhile is not to decide whom Ray kills, and when."""

    def __init__(self, path: Path) -> None:
        self.path, text = path, Path("/proc/meminfo").read_text()
        self.total = int(re.findall(r"MemTotal:\s*(\d+)", text)[0]) * 1024
        if ray._private.utils.get_system_memory() < self.total:
            pytest.skip("Ray looks at the memory of this container, not at that of the machine")
        self.text = re.sub(r"\d+ kB", f"{0:>16} kB", text)
        self.inside = ["unshare", "-rm", "sh", "-ec", 'mount --bind "$0" /proc/meminfo; exec "$@"', str(path)]
        self.say(0)
        tried = subprocess.run([*self.inside, "true"], capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"a file cannot be mounted on /proc/meminfo here: {tried.stderr.strip()}")

    def say(self, taken: int) -> None:
        """So many bytes are taken. In place: another file would not be the one that is mounted."""
        free, said = int(self.total * (1 - THRESHOLD)) + ROOM - taken, self.text
        for name, value in (("MemTotal", self.total), ("MemFree", free), ("MemAvailable", free)):
            said = re.sub(rf"^({name}:\s*) {{15}}0", rf"\g<1>{max(0, value) // 1024:>16}", said, flags=re.MULTILINE)
        with self.path.open("r+" if self.path.exists() else "w") as file:
            file.write(said)

    @contextlib.contextmanager
    def of(self, command: subprocess.Popen[str]) -> Iterator[None]:
        """Within the block it says what the command and all that it has started have taken."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.05):
                self.say(sum(taken(entry) for entry in members(command.pid)))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def members(session: int) -> list[Path]:
    """The processes of a session, from their folders in /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(entry.name)) == session:
                found.append(entry)
    return found


def taken(entry: Path) -> int:
    """Bytes of memory that are the process's alone."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^RssAnon:\s*(\d+) kB", (entry / "status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return 0


def trained(folder: Path) -> list[tuple[str, str]]:
    """(point, process) of every epoch, in the order in which they were begun."""
    path = folder / "epochs"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[1], line.split()[2]) for line in lines]


def tries(folder: Path) -> int:
    """Of trial 0: the processes that trained it."""
    return len({process for point, process in trained(folder) if point == "2"})


def again(epochs: list[tuple[str, str]], point: str) -> list[str]:
    """Whose epochs were begun from the second try of a point to its last epoch."""
    ours = [at for at, (name, _) in enumerate(epochs) if name == point]
    second = next(at for at in ours if epochs[at][1] != epochs[ours[0]][1])
    return [name for name, _ in epochs[second : ours[-1] + 1]]


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_trial_that_takes_too_much_memory_is_tried_again_with_fewer_beside_it(tmp_path: Path) -> None:
    """Trial 0 takes it once, trial 2 always; and while trial 0 is tried again, all processes get SIGTERM."""
    command = Command(tmp_path, [8, 1, 9, 1], 4, "--seeds", "1", "--max-concurrent", "2", epoch_seconds=0.2)
    command.environment |= {"NODE": "here", "RAY_memory_usage_threshold": str(THRESHOLD)}
    command.environment["RAY_memory_monitor_refresh_ms"] = "50"
    memory = Memory(tmp_path / "meminfo")
    command.arguments[:0] = memory.inside
    space = tmp_path / "space.yml"
    space.write_text(space.read_text().replace("[1, 2, 3, 4, 5, 6, 7]", "[1, 8, 9]"))
    process = command.start()
    with memory.of(process):
        until(lambda: tries(tmp_path) > 1 or process.poll() is not None, 240, "the second try of trial 0")
        os.killpg(process.pid, signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error.endswith("\ninterrupted; the same command goes on from here\n")
    assert "Traceback" not in error
    until(lambda: not members(process.pid), 30, "the end of all processes")
    assert cmh.study.open(command.study).trials[0].user_attrs["memory"] == 1
    assert "0,interrupted,point 1" in (command.study / "trials.csv").read_text()
    process = command.start()
    with memory.of(process):
        _, error = process.communicate(timeout=280)
    assert process.returncode == 0, error
    rows = command.rows()
    assert [row["state"] for row in rows] == ["complete", "complete", "failed", "complete"]
    epochs = [row["epochs"] for row in rows]
    assert epochs[2] in ("1", "2")  # one in each of its tries, of which the last may die before its report arrives
    assert [*epochs[:2], *epochs[3:]] == ["4", "4", "4"]
    assert (rows[2]["failure"], rows[2]["error"]) == (
        "oom",
        "the worker was killed because the node ran out of memory",
    )
    begun = trained(tmp_path)
    assert set(again(begun, "2")) == {"2"}
    assert set(again(begun, "4")) == {"4"}
    assert [record.identity.seed for record in records.read(command.study)[0]] == [1]

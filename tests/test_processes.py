"""Long work in several processes: what it gives, and that nothing of it outlives its parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "benchmarks"
SCRIPT = """
import os, sys, time
sys.path.insert(0, {folder!r})
import processes

def work(seconds):
    print(os.getpid(), flush=True)
    time.sleep(seconds)
    return seconds

if __name__ == "__main__":
    print(sorted(processes.as_they_come(work, {tasks}, 2)), flush=True)
"""


def script(tmp_path: Path, tasks: list[int]) -> list[str]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(folder=str(FOLDER), tasks=tasks))
    return [sys.executable, str(path)]


def test_every_task_is_done_once(tmp_path: Path) -> None:
    done = subprocess.run(script(tmp_path, [0, 1, 0]), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 1]"


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc to see which processes there are")
    parent = subprocess.Popen(script(tmp_path, [600, 600]), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [Path("/proc", parent.stdout.readline().strip()) for _ in range(2)]
    assert all(worker.exists() for worker in workers)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while any(worker.exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(worker.exists() for worker in workers)

"""What a trial leaves behind does not stay with its worker."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from cmh import training
from cmh.study import node

# Many small tensors in a thread of its own, as a trial of Ray has one, the last of which stays: what lies below it is
# free, and stays with the process. (In a process of its own: what others have allocated does not matter there.)
SCRIPT = """
import threading
from pathlib import Path
import torch
from cmh import training

def anonymous():
    rows = dict(row.split(":", 1) for row in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(rows["Anonymous"].split()[0]) // 1024

left = []
def trial():
    many = [torch.zeros(4096) for _ in range(12_000)]
    left.append(many[-1])

threads = [threading.Thread(target=trial) for _ in range(3)]
for thread in threads:
    thread.start()
    thread.join()
before = anonymous()
training.release()
print(before - anonymous())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's allocator alone keeps memory so")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100  # MiB, of 190 in each of three threads


def test_a_worker_gives_memory_back_before_each_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class ReleasedError(Exception):
        pass

    def release() -> None:
        raise ReleasedError

    monkeypatch.setattr(training, "release", release)
    with pytest.raises(ReleasedError):
        node.do_task({"study": 0, "kind": "trial", "key": "", "values": {"folder": ""}}, [])

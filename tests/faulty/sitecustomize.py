"""With this folder on PYTHONPATH, `ridge` takes four epochs, and some of its points break in a way of their own.

It reaches Ray's workers, which a monkeypatch in the test's process does not. What a point does is told by its
`lambda_text`; what happens only once leaves a file in `$FAULTS`.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

SLEEPS, MEMORY, HANGS, KILLED, RAISES, KILLED_ALWAYS, DISK = 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0
TAKES_MEMORY, TAKES_MEMORY_ALWAYS = 8.0, 9.0


def once(name: str) -> bool:
    """Whether this is the first time."""
    path = Path(os.environ["FAULTS"], name)
    if path.exists():
        return False
    path.touch()
    return True


def misbehave(kind: float, epoch: int) -> None:
    """What a point does in its second epoch."""
    time.sleep(float(os.environ.get("EPOCH_SECONDS", "0")))
    if kind == KILLED_ALWAYS:
        os.kill(os.getpid(), signal.SIGKILL)
    if epoch != 2:
        return
    if kind == MEMORY and once("memory"):
        raise MemoryError("no more")
    if kind == HANGS:
        time.sleep(10_000)
    if kind == KILLED and once("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == RAISES:
        raise RuntimeError("broke")
    if kind == DISK and once("disk"):
        raise OSError(28, "No space left on device")
    if kind == TAKES_MEMORY_ALWAYS or (kind == TAKES_MEMORY and once("taken")):
        take_memory()


def take_memory() -> None:
    """More and more, until Ray's memory monitor kills this process; 2 GiB at most."""
    held = []
    for _ in range(64):
        held.append(b"x" * 2**25)  # not 0, so that the system must give it
        time.sleep(0.02)
    raise RuntimeError("Ray's memory monitor has not killed this process")


def say_where(node: str, point: float, epoch: int) -> None:
    """Notes that a process of this node trains an epoch of the point; waits in the second while a file says so."""
    faults = Path(os.environ["FAULTS"])
    with (faults / "epochs").open("a") as file:
        file.write(f"{node} {point:g} {os.getpid()}\n")
    while epoch == 2 and (faults / f"hold-{node}").exists():
        time.sleep(0.05)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "cmh.methods.ridge":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            from cmh.training import fitting

            fitting.CHECKPOINT_SECONDS = 0
            module.EPOCHS, epoch = 4, module.Method.epoch

            def faulty(self: Any, batches: Any) -> Any:
                self.count = getattr(self, "count", 0) + 1
                in_worker = Path(sys.argv[0]).name == "default_worker.py"  # the driver trains the controls
                if in_worker and "NODE" in os.environ:
                    say_where(os.environ["NODE"], self.lambdas["image"], self.count)
                if in_worker and self.count == 1 and Path(os.environ["FAULTS"], "secret").exists():
                    import spy

                    spy.look()
                misbehave(self.lambdas["text"], self.count)
                return epoch(self, batches)

            module.Method.epoch = faulty

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder())

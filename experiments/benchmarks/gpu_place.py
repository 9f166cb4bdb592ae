"""What the sections of `gpu.py` share: where they run, data to train on, a clock."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmh import methods, training
from cmh.interfaces import Arrays, SearchData
from cmh.nets.clip import END, START

ROOT = Path(__file__).parents[2]
Found = tuple[dict[str, object], list[str]]  # figures by name, and what was wrong, a line each


class SkippedError(Exception):
    """A section cannot run here; the reason."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where and how long a section runs. `deadline` is one of `time.monotonic()`."""

    device: str
    tiny: bool
    folder: Path
    deadline: float

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def need_cuda(self) -> None:
        """Raises SkippedError on a CPU."""
        if self.device == "cpu":
            raise SkippedError("no CUDA device")


def made(
    n: int, image: int = 64, text: int = 48, labels: int = 5, side: int = 0, queries: int = 50, tokens: int = 0
) -> SearchData:
    """Items that can be learned from; the last ones are validation queries."""
    rng = np.random.default_rng(0)
    classes = np.eye(labels, dtype=np.uint8)[rng.integers(0, labels, n + queries)]
    sides = [
        (classes @ rng.standard_normal((labels, d), np.float32) + rng.standard_normal((n + queries, d), np.float32))
        for d in (image, text)
    ]
    pixels = rng.integers(0, 256, (n + queries, 3, side, side), np.uint8) if side else None
    read = rng.integers(1, START, (n + queries, tokens), np.int32) if tokens else None
    if read is not None:
        read[:, 0], read[:, -1] = START, END
    whole = Arrays(sides[0], sides[1], classes, pixels, read)
    train, query = whole.rows(slice(n)), whole.rows(slice(n, None))
    return SearchData("made", "d", "s", "made", tuple(map(str, range(labels))), train, query, train)


def fit(name: str, place: Place, data: SearchData, **more: Any) -> training.Fitted:
    """A run of two epochs on the place's device."""
    keys = {key: more.pop(key) for key in ("report", "folder") if key in more}
    values = {"bits": 32, "epochs": 2, "threads": 1, "device": place.device, **more}
    return training.fit(methods.get(name), *training.parse(methods.get(name), values), data, **keys)


def curve(name: str, place: Place, data: SearchData, **more: Any) -> list[list[float]]:
    """All numbers of a run's epochs."""
    epochs = fit(name, place, data, **more).curve
    return [[epoch.val_map_i2t, epoch.val_map_t2i, *epoch.terms.values()] for epoch in epochs]


def wait(device: str) -> None:
    """Until all is done that was asked of it."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(place: Place, work: Callable[[], object], at_most: float = 5.0) -> float:
    """The median of some calls, after one that warms up."""
    times: list[float] = []
    began = time.perf_counter()
    for number in range(8):
        wait(place.device)
        start = time.perf_counter()
        work()
        wait(place.device)
        if number:
            times.append(time.perf_counter() - start)
        if times and time.perf_counter() - began > (0.2 if place.tiny else at_most):
            break
    return statistics.median(times)


def command(place: Place, *arguments: object) -> str:
    """What a command of Python prints. Raises RuntimeError with its end where it fails or takes too long."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment |= {"CMH_CACHE": str(place.folder / "cache"), "CMH_DATA": str(place.folder / "data")}
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    try:
        text = process.communicate(timeout=max(1.0, place.left() - 12))[0]
    except subprocess.TimeoutExpired:
        process.terminate()  # a search then ends in order, its workers with it
        text = f"{process.communicate(timeout=10)[0]}\nended, as its time was over"
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {' | '.join(text.strip().splitlines()[-6:])}")
    return text

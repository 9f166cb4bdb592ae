"""Runs of two trees in turns, and what is told of them: how `against.py` measures."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import against_data
import torch

WORKER = Path(__file__).with_name("against_worker.py")
MARK = "CMH_AGAINST"  # in the environment of all that the first command starts, Ray's daemons included
EVERY = 0.5  # seconds between two looks at their memory
SIDES = ("old", "new")


class BrokenError(Exception):
    """A run that did not end well."""


class Pairs:
    """Two trees (old, new), with a cache each, and the arrays that both train on, in the folder `work`."""

    def __init__(
        self, trees: tuple[Path, Path], work: Path, sizes: dict[str, against_data.Made | None], *, tiny: bool
    ) -> None:
        self._trees, self._work, self._sizes, self._tiny = trees, work, sizes, tiny
        work.mkdir(parents=True, exist_ok=True)

    def once(self, name: str, make: Callable[[Path], object]) -> str:
        """The path of what `make` writes, whole or not at all, by whoever asks first."""
        path, half = self._work / name, self._work / f"{name}.half"
        if not path.exists():
            if half.is_dir():  # of a run that was killed
                shutil.rmtree(half)
            make(half)
            half.replace(path)
        return str(path)

    def arrays(self, name: str) -> str:
        """The dataset folder with the arrays of that name; a size of None stands for the clip art."""
        size = self._sizes[name]
        if size is None:
            return self.once(name, against_data.clipart)
        return self.once(f"{name}{'-tiny' * self._tiny}", lambda path: against_data.made(path, size))

    def alone(self, side: int, task: dict[str, Any], threads: int = 1) -> dict[str, Any]:
        """What the worker found in the old (0) or the new (1) tree. Raises BrokenError."""
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            result = Path(folder, "result.json")
            told = json.dumps({"tiny": self._tiny, **task})
            command = [sys.executable, str(WORKER), str(self._trees[side]), told, str(result)]
            self._call(side, command, {"OMP_NUM_THREADS": str(threads)}, folder)
            return dict(json.loads(result.read_text()))

    def first_command(self, side: int, more: list[str]) -> dict[str, Any]:
        """Wall seconds of the README's first command in a new folder, and the peak of its processes' memory in MiB."""
        command = [sys.executable, "-m", "cmh.tune", "--method", "dcmh", "--space", "spaces/dcmh.yml", *more]
        mark, done, peaks = uuid.uuid4().hex, threading.Event(), [0.0]

        def look() -> None:
            while not done.wait(EVERY):
                peaks.append(shared_fairly(f"{MARK}={mark}"))

        watch = threading.Thread(target=look)
        with tempfile.TemporaryDirectory(prefix="cmh-first-") as folder:
            start = time.perf_counter()
            watch.start()
            try:
                self._call(side, command, {MARK: mark}, folder)
            finally:
                seconds = time.perf_counter() - start
                done.set()
                watch.join()
        return {"seconds": seconds, "peak_mib": max(peaks)}

    def _call(self, side: int, command: list[str], more: dict[str, str], folder: str) -> None:
        cache = str(self._work / f"cache-{SIDES[side]}")
        environment = {**os.environ, "PYTHONPATH": str(self._trees[side]), "CMH_CACHE": cache, **more}
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise BrokenError(f"{SIDES[side]} tree: {' '.join(command[1:])[:300]} ended with {done.returncode}: {last}")

    def turns(self, measure: Callable[[int], dict[str, Any]], repeats: int) -> list[list[dict[str, Any]]]:
        """Runs of the old tree and of the new one, `measure` being given which; who goes first changes at each pair."""
        found: list[list[dict[str, Any]]] = [[], []]
        for number in range(repeats):
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                found[side].append(measure(side))
        return found

    def epochs(self, what: str, task: dict[str, Any], most: float | None, repeats: int) -> dict[str, Any]:
        """A line on the epochs of both trees: CPU seconds, MAP, how far the curves differ, peak memory.

        Both train at the new tree's point, as far as the old one knows its hyperparameters: defaults change.
        """
        threads = task["values"]["threads"]
        task = {**task, "config": self.alone(1, {**task, "task": "point"})}
        found = self.turns(lambda side: self.alone(side, task, threads), repeats)
        about = compared(what, "s", threads, [[middle(run["cpu"]) for run in runs] for runs in found], most)
        sides = dict(zip(SIDES, found, strict=True))
        old, new = (runs[0]["map"] for runs in found)
        return {
            **about,
            "MAP": {"old": old[-1], "new": new[-1]},
            "differs": max(abs(a - b) for a, b in zip(old, new, strict=True)),
            "peak_mib": {side: statistics.median(run["peak_mib"] for run in runs) for side, runs in sides.items()},
            "config": task["config"],
            "runs": sides,
            "note": "" if len(old) > 1 else "one epoch, its first",
        }


def epochs_of(method: str, point: str, dataset: str, n_epochs: int, threads: int) -> dict[str, Any]:
    """A task of the worker."""
    values = {"epochs": n_epochs, "threads": threads}
    return {"task": "epochs", "method": method, "point": point, "dataset": dataset, "values": values}


def middle(seconds: list[float]) -> float:
    """The median epoch of a run without its first, if it has another."""
    return statistics.median(seconds[1:] or seconds)


def compared(what: str, unit: str, threads: int, found: list[list[float]], most: float | None) -> dict[str, Any]:
    """A line: medians, least and most of both sides, and of the ratios of the pairs."""
    ratios = [new / old for old, new in zip(*found, strict=True)]
    sides = {name: _spread(numbers) for name, numbers in zip(("old", "new", "ratio"), (*found, ratios), strict=True)}
    return {"what": what, "unit": unit, "threads": threads, **sides, "at most": most}


def _spread(numbers: list[float]) -> dict[str, float]:
    return {"median": statistics.median(numbers), "least": min(numbers), "most": max(numbers)}


HEAD = (
    f"{'':44}{'threads':>7}{'old':>28}{'new':>28}{'new/old':>22}{'at most':>8}     "
    f"{'MAP old':>8}{'new':>8}{'differs':>9}"
)


def line(found: dict[str, Any]) -> str:
    """A line for people."""
    cells = [f"{found['what']:44}{found['threads']:7}"]
    for side, width in (("old", 28), ("new", 28), ("ratio", 22)):
        if side not in found:
            cells.append(" " * width)
            continue
        low, median, high = (found[side][key] for key in ("least", "median", "most"))
        unit = "" if side == "ratio" else f" {found['unit']}"
        cells.append(f"{f'{_figure(median)}{unit} ({_figure(low)}–{_figure(high)})':>{width}}")
    most = found["at most"]
    met = "" if most is None else "met" if found["ratio"]["median"] <= most else "NOT"
    cells.append(f"{'' if most is None else f'{most:.2f}':>8} {met:3} ")
    if "MAP" in found:
        cells.append(f"{found['MAP']['old']:8.4f}{found['MAP']['new']:8.4f}{found['differs']:9.1e}")
    return "".join(cells).rstrip() + (f"  ({found['note']})" if found.get("note") else "")


def _figure(number: float) -> str:
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"


def shared_fairly(mark: str) -> float:
    """MiB of all processes whose environment has this entry; pages that several have count once between them (PSS)."""
    kilobytes = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                rollup = (process / "smaps_rollup").read_text()
                kilobytes += next(int(one.split()[1]) for one in rollup.splitlines() if one.startswith("Pss:"))
    return kilobytes / 1024


def about(trees: tuple[Path, Path]) -> dict[str, Any]:
    """Where and of what the numbers are."""

    def git(tree: Path, *words: str) -> str:
        done = subprocess.run(["git", "-C", str(tree), *words], capture_output=True, text=True, check=False)  # noqa: S607
        return done.stdout.strip()

    model = [one for one in Path("/proc/cpuinfo").read_text().splitlines() if one.startswith("model name")]
    return {
        "commits": {side: git(tree, "rev-parse", "HEAD") for side, tree in zip(SIDES, trees, strict=True)},
        "changed": {side: git(tree, "status", "--short", "-uno") for side, tree in zip(SIDES, trees, strict=True)},
        "cpu": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }

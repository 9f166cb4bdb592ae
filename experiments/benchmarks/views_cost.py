"""What the views of a search cost it: 32 short trials with TensorBoard's files and without, in pairs, in one session.

    python experiments/benchmarks/views_cost.py [--pairs 5] [--minutes 7]

Training is DCMH with small nets, three epochs a trial; all searches try the same points, and within a pair the order
alternates. A search's time is that from its first trial's end to its last one's, and what closing its views takes. Of
each pair is taken by how much views make it longer; shown are the median of all pairs, the least and the most. On a
machine that does other work the clock says little: beside it stand the CPU time that the driver needs more, in which
the views run, and that of their own thread, as shares of the time without views. Expected: at most 2 %.

No pair is begun that would end after so many minutes. Takes 7 at most, with the start of Ray.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from cmh import cluster, commands, config, datasets
from cmh.methods import dcmh
from cmh.study import space as spaces
from cmh.study.resources import Resources
from cmh.study.storage import Store
from cmh.study.tuner import search
from cmh.study.work import Work
from cmh.views import event_files, live
from cmh.views.progress import Progress

FIXED = {"hidden_image": 16, "hidden_text": 16, "batch_size": 128}  # so that all trials take equally long
TRIALS, EPOCHS, AT_ONCE = 32, 3, 2
LIMIT = 0.02


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of a search: by the clock, of CPU time in this process, and of that in its views' thread."""

    wall: float
    cpu: float
    view: float


class Timed(live.Background):
    """A view that knows the CPU time of its thread."""

    spent = 0.0

    def _work(self) -> None:
        super()._work()
        self.spent = time.thread_time()


def now() -> tuple[float, float]:
    """(clock, CPU time of this process)."""
    return time.perf_counter(), time.process_time()


def searched(views: bool, dataset: Any, run: dict[str, Any]) -> Cost:
    """What a search costs from its first trial's end to its last one's, its views' end included."""
    space = spaces.load(spaces.find("dcmh"), method="dcmh", fixed=FIXED, epochs=EPOCHS)
    space = dataclasses.replace(space, sampler="random")  # whose points do not hang on which trial ended first
    ends: list[tuple[float, float]] = []

    class Clock(Progress):
        def ended(self, number: int) -> None:
            super().ended(number)
            ends.append(now())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(f"sqlite:///{folder / 'study.db'}", "study", space, {**config.defaults(dcmh.Config), **FIXED}, 0)
        opened = list[Timed]()
        screen: Any = Clock(store, TRIALS, terminal=False)
        if views:
            sink = event_files.EventFiles(folder / "tensorboard", {"method": "dcmh", "dataset": "clipart", "bits": 16})
            opened.append(Timed(sink, "tensorboard", "", every=2.0, patience=60))
            screen = live.Screens(screen, live.Follower(store, folder, opened, screen.row))
        search([Work(store, TRIALS, folder, run, dataset, screen)], Resources(1, 0, AT_ONCE))
        last = now()
        for view in opened:
            view.close()
        closed = now()
        assert len(ends) == len(store.rows()) == TRIALS
        written = len(list(folder.glob("tensorboard/*/complete")))
        assert written == (TRIALS if views else 0), written
    wall, cpu = (ends[-1][i] - ends[0][i] + closed[i] - last[i] for i in (0, 1))
    return Cost(wall, cpu, sum(view.spent for view in opened))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=commands.whole(1), default=5)
    parser.add_argument("--minutes", type=float, default=7.0)
    asked = parser.parse_args()
    began = time.perf_counter()
    logging.getLogger("cmh").setLevel(logging.ERROR)
    run = {"dataset": "clipart", "bits": 16, "epochs": EPOCHS, "seed": 0, "threads": 1}
    dataset = datasets.load("clipart")
    found: list[tuple[Cost, Cost]] = []  # without views, with them
    with cluster.session(None, on_server_death=commands.end_at_once):
        searched(False, dataset, run)  # compiles, and fills caches
        longest = 0.0
        while len(found) < asked.pairs and time.perf_counter() - began + longest < 60 * asked.minutes:
            start = time.perf_counter()
            first = len(found) % 2 == 1
            pair = {views: searched(views, dataset, run) for views in (first, not first)}
            found.append((pair[False], pair[True]))
            longest = max(longest, time.perf_counter() - start)
            print(f"pair {len(found)}: without {pair[False].wall:.2f} s, with {pair[True].wall:.2f} s", flush=True)
    without, with_views = zip(*found, strict=True)
    print(f"{TRIALS} trials of {EPOCHS} epochs, {AT_ONCE} at once, {len(found)} pairs; medians:")
    for name, costs in (("without views", without), ("with TensorBoard", with_views)):
        wall, cpu, view = (statistics.median(values) for values in zip(*map(dataclasses.astuple, costs), strict=True))
        print(f"{name:<18}{wall:7.2f} s, driver {cpu:.2f} CPU s, of these {view:.2f} in the views' thread")
    for name, more in (
        ("by the clock", [on.wall / off.wall - 1 for off, on in found]),
        ("by the driver's CPU", [(on.cpu - off.cpu) / off.wall for off, on in found]),
        ("by the views' thread", [on.view / off.wall for off, on in found]),
    ):
        middle = statistics.median(more)
        words = f"{middle:+.1%} (from {min(more):+.1%} to {max(more):+.1%})"
        print(f"{name:<22}{words:<32}{'at most' if middle <= LIMIT else 'above'} {LIMIT:.0%}")


if __name__ == "__main__":
    main()

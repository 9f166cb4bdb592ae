"""What the views of a search cost it: 32 short trials with TensorBoard's files and without, in turn, in one session.

    python experiments/benchmarks/views_cost.py [--pairs 5]

Training is DCMH with small nets, three epochs a trial. Shown are the wall time from the first trial's end to the last
one's, and the CPU time of the driver, in which the views run, both as medians, and the views' share of the wall time:
by the clock, and by the CPU time that the driver needs more. Takes a few minutes.
"""

from __future__ import annotations

import argparse
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

SMALL = {"hidden_image": 16, "hidden_text": 16}
TRIALS, EPOCHS, AT_ONCE = 32, 3, 2


def searched(views: bool, dataset: Any, run: dict[str, Any]) -> tuple[float, float]:
    """(wall seconds, CPU seconds of this process) of a search from its first trial's end to its last's."""
    space = spaces.load(spaces.find("dcmh"), method="dcmh", fixed=SMALL, epochs=EPOCHS)
    ends: list[tuple[float, float]] = []

    class Clock(Progress):
        def ended(self, number: int) -> None:
            super().ended(number)
            ends.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(f"sqlite:///{folder / 'study.db'}", "study", space, {**config.defaults(dcmh.Config), **SMALL}, 0)
        opened = list[live.Background]()
        screen: Any = Clock(store, TRIALS, terminal=False)
        if views:
            sink = event_files.EventFiles(folder / "tensorboard", {"method": "dcmh", "dataset": "clipart", "bits": 16})
            opened.append(live.Background(sink, "tensorboard", "", every=2.0, patience=60))
            screen = live.Screens(screen, live.Follower(store, folder, opened, screen.row))
        search([Work(store, TRIALS, folder, run, dataset, screen)], Resources(1, 0, AT_ONCE))
        for view in opened:
            view.close()
        written = len(list(folder.glob("tensorboard/*/events*")))
        assert written == (TRIALS if views else 0), written
    (wall, cpu), (last_wall, last_cpu) = ends[0], ends[-1]
    return last_wall - wall, last_cpu - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=commands.whole(1), default=5)
    pairs = parser.parse_args().pairs
    logging.getLogger("cmh").setLevel(logging.ERROR)
    run = {"dataset": "clipart", "bits": 16, "epochs": EPOCHS, "seed": 0, "threads": 1}
    dataset = datasets.load("clipart")
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with cluster.session(None, on_server_death=commands.end_at_once):
        searched(False, dataset, run)  # compiles, and fills caches
        for number in range(pairs):
            for views in (True, False) if number % 2 else (False, True):
                found[views].append(searched(views, dataset, run))
    (wall, cpu), (wall_on, cpu_on) = (
        [statistics.median(values) for values in zip(*found[views], strict=True)] for views in (False, True)
    )
    print(f"{TRIALS} trials of up to {EPOCHS} epochs, {AT_ONCE} at once, {pairs} pairs")
    print(f"without views: {wall:.2f} s, driver {cpu:.2f} CPU s; with TensorBoard: {wall_on:.2f} s, {cpu_on:.2f} CPU s")
    print(f"share of the wall time: {wall_on / wall - 1:+.1%} by the clock, {(cpu_on - cpu) / wall:+.1%} by CPU time")


if __name__ == "__main__":
    main()

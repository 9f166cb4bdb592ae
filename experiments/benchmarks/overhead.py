"""What the study harness costs a trial: a search of trivial training, and the same under plain Ray Tune, in one run.

    python experiments/benchmarks/overhead.py

Training is the closed form of `ridge` (one epoch, some hundredths of a second). Both searches run the same trainable
over the same space with as many trials at once. "Plain" is Ray Tune with OptunaSearch and ASHAScheduler as their
documentation shows. Start-up (until the first trial has ended) does not count. Expected: cmh below 0.6 s a trial.
Takes a minute or two.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from cmh import cluster, commands, config, datasets
from cmh.methods import ridge
from cmh.study import space as spaces
from cmh.study.resources import Resources
from cmh.study.storage import Store
from cmh.study.tuner import search
from cmh.study.work import Work


class Clock:
    """A view that notes when trials end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def started(self, proposal: Any) -> None:
        """Nothing to note."""

    def reported(self, number: int, epoch: int, value: float) -> None:
        """Nothing to note."""

    def ended(self, number: int) -> None:
        """A trial has ended."""
        self.ends.append(time.perf_counter())


def harness(trials: int, concurrent: int, run: dict[str, Any]) -> tuple[float, float]:
    """(seconds from the first trial's end to the last's, mean training seconds of a trial) under cmh."""
    space = spaces.load(spaces.find("ridge"), method="ridge")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(f"sqlite:///{folder / 'study.db'}", "study", space, config.defaults(ridge.Config), 0)
        clock = Clock()
        work = Work(store, trials, folder, run, datasets.load("clipart"), clock)
        search([work], Resources(1, 0, concurrent))
        rows = store.rows()
        assert [row.state for row in rows] == ["complete"] * trials
    return clock.ends[-1] - clock.ends[0], sum(row.seconds or 0 for row in rows) / trials


def plain(trials: int, concurrent: int, run: dict[str, Any]) -> tuple[float, float]:
    """The same under plain Ray Tune."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    ends: list[float] = []

    class Ends(tune.Callback):
        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    ranges = {name: tune.loguniform(1e-3, 1e2) for name in ("lambda_image", "lambda_text")}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        tuner = tune.Tuner(
            ridge.trainable,
            param_space={**run, **ranges},
            tune_config=tune.TuneConfig(
                metric="val_map",
                mode="max",
                search_alg=OptunaSearch(),
                scheduler=ASHAScheduler(),
                num_samples=trials,
                max_concurrent_trials=concurrent,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0, callbacks=[Ends()]),
        )
        results = tuner.fit()
        assert len(results) == len(ends) == trials
        assert not results.errors
        seconds = [result.metrics["seconds"] for result in results if result.metrics]
    return ends[-1] - ends[0], sum(seconds) / trials


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time the harness per trial, with trivial training.")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--concurrent", type=int, default=2, help="trials at once (default: 2)")
    given = parser.parse_args()
    dataset = datasets.load("clipart")
    run = {"dataset": dataset.name, "features": dataset.features, "bits": 32, "epochs": 1, "seed": 0}
    logging.getLogger("ray").setLevel(logging.ERROR)
    print(f"{given.trials} trials of ridge, {given.concurrent} at once; seconds a trial after the first")
    with cluster.session(None, on_server_death=commands.end_at_once):
        found = {name: work(given.trials, given.concurrent, run) for name, work in (("cmh", harness), ("plain", plain))}
    for name, (seconds, training) in found.items():
        print(f"{name:<6} {seconds / (given.trials - 1):6.3f} s a trial, {training:.3f} s of training in each")
    print(f"cmh takes {found['cmh'][0] / found['plain'][0]:.2f} of plain Ray Tune's time")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

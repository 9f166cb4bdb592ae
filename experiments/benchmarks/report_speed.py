"""How long the report of a large study takes to make and to open, of a made-up study in a real storage.

    python experiments/benchmarks/report_speed.py                       # 24 and 200 trials
    python experiments/benchmarks/report_speed.py --trials 1000 --keep DIR

    python experiments/benchmarks/report_speed.py --study studies/dcmh-clipart-32     # a real one, with its codes

Trials follow DCMH's search space and rungs; their curves are made up. `made`: seconds of `report.write` in a process
that has imported torch and Optuna, as `tune` has (the first, and again); `opened`: until the browser's load event, and
until the last chart stands, in headless Chromium where there is one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState

sys.path.insert(0, str(Path(__file__).parents[2]))

from cmh import config, methods, training
from cmh.config import Value
from cmh.study import controls, folder, samplers, space
from cmh.study.space import Space
from cmh.study.storage import Store
from cmh.training import Epoch, run_folder
from tests.browser import browser, seconds_to_open
from tests.test_identity import identity


def make(place: Path, n_trials: int) -> None:
    """A study of that many trials in a new folder."""
    wanted = space.load(space.find("dcmh"), method="dcmh")
    base, run = config.defaults(methods.get("dcmh").Config), identity(epochs=wanted.epochs)
    place.mkdir(parents=True)
    folder.write_or_check(place, folder.identity(wanted, run, {}), {"name": place.name, "dataset": "clipart"})
    store = Store(f"sqlite:///{place}/study.db", place.name, wanted, base, 0)
    controls.keep(store, {"chance": (0.16, 0.16, 0.16), "ridge (control)": (0.45, 0.48, 0.465)})
    draw, made = np.random.default_rng(0), []
    source = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rungs = [*(wanted.asha.rungs(wanted.epochs) if wanted.asha else []), wanted.epochs]
    for number in range(n_trials):
        trial = source.ask()
        drawn = {item.name: samplers.suggest(trial, item) for item in wanted.ranges}
        epochs = next((rung for rung in rungs if draw.random() > 1 / 3), wanted.epochs)
        height = 0.6 - 0.08 * abs(np.log10(float(drawn["lr_image"])) + 3) + 0.03 * draw.normal()
        curve = {e: float(0.16 + height * (1 - np.exp(-e / 6)) + 0.01 * draw.normal()) for e in range(1, epochs + 1)}
        done = epochs == wanted.epochs
        result = {"seconds": 1.0 * epochs} | ({} if done else {"rung": epochs})
        made.append(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE if done else TrialState.PRUNED,
                value=max(curve.values()) if done else None,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=curve,
                user_attrs={"origin": "search", "result": result},
            )
        )
        _files(place / "trials" / str(number), wanted, {**base, **drawn}, curve)
    fresh = optuna.load_study(study_name=place.name, storage=f"sqlite:///{place}/study.db")
    fresh.add_trials(made)


def _files(home: Path, wanted: Space, values: dict[str, Value], curve: dict[int, float]) -> None:
    home.mkdir(parents=True)
    run, built = training.parse(methods.get("dcmh"), {**values, "bits": 32, "epochs": wanted.epochs})
    best, rows = (0.0, 0), []
    for epoch, value in curve.items():
        best = max(best, (value, epoch))
        one = Epoch(epoch, value, value - 0.02, value + 0.02, *best, best[0], best[0], 1.0 * epoch, 2.0 * epoch, {})
        rows.append({"image_loss": 1 / epoch, "text_loss": 2 / epoch, **one.metrics()})
    run_folder.begin(home, run, built, identity(epochs=wanted.epochs), rows)


def measure(place: Path) -> str:
    """One line about the study's report."""
    from cmh.views import report

    seconds = []
    for _ in range(2):
        start = time.perf_counter(), time.process_time()
        path = report.write(place)
        seconds.append(f"{time.perf_counter() - start[0]:.1f} s ({time.process_time() - start[1]:.1f} of CPU)")
    line = f"made in {seconds[0]}, again in {seconds[1]}; {path.stat().st_size / 2**20:.2f} MiB"
    try:
        with browser() as driver:
            loaded, drawn = seconds_to_open(driver, path)
    except RuntimeError as error:
        return f"{line}; not opened: {error}"
    return f"{line}; opened in {loaded:.2f} s, all charts after {drawn:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[24, 200], metavar="N")
    parser.add_argument("--study", type=Path, metavar="STUDY", help="in place of made-up ones; its report is made anew")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the studies here, and leave them")
    arguments = parser.parse_args()
    if arguments.study is not None:
        print(f"{arguments.study}: {measure(arguments.study)}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        for n_trials in arguments.trials:
            place = (arguments.keep or Path(temporary)) / f"made-up-{n_trials}"
            make(place, n_trials)
            print(f"{n_trials} trials: {measure(place)}")


if __name__ == "__main__":
    main()

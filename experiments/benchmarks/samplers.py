"""Ways to search, compared on stored curves (`curves.py`): nothing is trained, and all of it takes minutes.

    python experiments/benchmarks/samplers.py --jobs 2 --out FOLDER
    python experiments/benchmarks/samplers.py dcmh dsph --ways "tpe asha 3/3" "tpe strict 2/4" random

Each way searches each table's space from scratch, the paper's point first where the table has it, two trials at once,
by cmh's own session, storage, samplers and rungs (others in `search_ways.py`). What a trial scores comes from the table
(`landscape.py`, with its limits). A budget is counted in epochs of full trainings, spent on however many trials.

Regret is the best validation MAP that the table has, less that of the trial that would win if the search ended now: the
best of those that came to their end (0 as long as there is none). Shown are means over the repetitions with 95 %
intervals (t), and over all tables the difference to the first way, of equal repetitions; `≥ default` counts repetitions
that reach the library default's value within the largest budget, and `epochs` is the median of what that took; `trials`
is the median of how many the largest budget was spent on. FOLDER gets `samplers.csv` and, with matplotlib (extra
`[report]`), `samplers.svg`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import heapq
import math
import statistics
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import curve_tables
import processes
import torch
from curve_tables import Row, Table, TableError
from landscape import Landscape
from scipy.stats import t as student
from search_ways import Way, ways

from cmh import config, methods
from cmh.errors import CmhError
from cmh.study import space as spaces
from cmh.study.ranges import Space
from cmh.study.session import Budget, RunningTrial, Session, Work
from cmh.study.storage import Proposal, Store

WORKERS = 2
BASELINE = ways()[0].name
FEWEST = 40  # curves of a table, of which 150 are meant: among few, whoever comes near the best is given its curve
LONGEST_RUNG = 3  # the latest first rung that is compared
COLUMNS = ("method", "way", "repetition", "budget", "regret", "trials", "epochs_to_default")


@dataclasses.dataclass(frozen=True)
class Found:
    """What one search found: regret and trials by budget, and the epochs until it reached the default's value."""

    method: str
    way: str
    repetition: int
    regret: tuple[float, ...]
    trials: tuple[int, ...]  # that had begun
    to_default: float  # or infinity


class _NoView:
    def started(self, proposal: Proposal) -> None: ...
    def reported(self, number: int, epoch: int, value: float) -> None: ...
    def ended(self, number: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Arena:
    """A table with all that searches on it need."""

    table: Table
    space: Space
    landscape: Landscape

    def of(self, origin: str) -> Row | None:
        """The row of a known point."""
        return next((row for row in self.table.rows if row.origin == origin), None)

    @property
    def best(self) -> float:
        """The best validation MAP in the space."""
        return max(max(row.curve, default=0.0) for row in self.landscape.rows)


@functools.cache
def arena(path: Path) -> Arena:
    """Once a process. Raises TableError where it cannot be read."""
    torch.set_num_threads(1)  # of Optuna's GP
    table = curve_tables.read(path)
    about = table.about
    space = spaces.load(spaces.find(about.method), method=about.method, epochs=about.epochs)
    space = dataclasses.replace(space, ranges=curve_tables.as_ranges(about.ranges))
    return Arena(table, space, Landscape(space.ranges, [row for row in table.rows if row.origin != "paper"]))


def search(place: Arena, way: Way, repetition: int, epochs: int) -> list[tuple[float, int]]:
    """Search until so many epochs are spent; of each epoch (validation MAP of the winner so far, trials begun)."""
    method, about = place.table.about.method, place.table.about
    known = {"paper": config.paper(methods.get(method).Config), "default": config.defaults(methods.get(method).Config)}
    first = place.of("paper")
    starts = () if first is None else (("paper", tuple({**known["paper"], **first.values}.items())),)
    space = dataclasses.replace(place.space, sampler=way.sampler, asha=way.asha, start_from=starts)
    store = Store(None, f"{method}-{repetition}", space, known["default"], repetition)
    session = Session(Work(store, epochs, Path(), {"epochs": about.epochs}, None, _NoView()), Budget())  # type: ignore[arg-type]
    if way.prepare is not None:
        session.rungs = way.prepare(store, repetition)  # type: ignore[assignment]  # or what stops like them
    best, n_trials, steps = 0.0, 0, list[tuple[float, int]]()
    clock: list[tuple[int, int]] = [(0, worker) for worker in range(WORKERS)]
    running: dict[int, tuple[RunningTrial, Row]] = {}
    while len(steps) < epochs and not session.search_ended:  # a space of few choices is tried out at some time
        now, worker = heapq.heappop(clock)
        if worker not in running and isinstance(trial := session.take(), RunningTrial):
            origin, values = trial.proposal.origin, trial.proposal.config
            row = place.landscape.row(values, repetition) if origin == "search" else place.of(origin)
            assert row is not None
            running[worker], n_trials = (trial, row), n_trials + 1
        if worker in running:
            trial, row = running[worker]
            epoch = len(store.curve(trial.number)) + 1
            if epoch > len(row.curve):
                session.failed(trial, *row.failed.split(": ", 1))
            else:
                session.reported(trial, {"epoch": epoch, "val_map": row.curve[epoch - 1], "epochs": about.epochs})
            if trial.number not in session.running:
                del running[worker]
                best = max(best, *row.curve) if store.row(trial.number).completed else best
            steps.append((best, n_trials))
        heapq.heappush(clock, (now + 1, worker))
    return [*steps, *[(best, n_trials)] * (epochs - len(steps))]


def find(task: tuple[Path, str, int, tuple[int, ...]]) -> Found:
    """A search, measured."""
    path, name, repetition, budgets = task
    place = arena(path)
    way = next(way for way in ways() if way.name == name)
    full = place.table.about.epochs
    steps = search(place, way, repetition, max(budgets) * full)
    default = place.of("default")
    target = max(default.curve) if default is not None else math.inf
    reached = next((float(spent) for spent, (best, _) in enumerate(steps, start=1) if best >= target), math.inf)
    ends = [steps[budget * full - 1] for budget in budgets]
    regret, n_trials = tuple(place.best - best for best, _ in ends), tuple(number for _, number in ends)
    return Found(place.table.about.method, name, repetition, regret, n_trials, reached)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval."""
    if len(values) < 2:
        return values[0], math.inf
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def report(found: list[Found], budgets: tuple[int, ...], names: list[str]) -> Iterable[str]:
    """The tables, in Markdown."""
    of: Mapping[tuple[str, str], list[Found]] = {
        (one.method, one.way): [each for each in found if (each.method, each.way) == (one.method, one.way)]
        for one in found
    }
    tables = list(dict.fromkeys(one.method for one in found))
    head = " | ".join(f"regret at {budget}" for budget in budgets)
    for method in tables:
        yield f"\n| {method} | {head} | trials | ≥ default | epochs |\n|---|{'---|' * (len(budgets) + 3)}"
        for name in names:
            ours = of[method, name]
            cells = [interval([one.regret[index] for one in ours]) for index in range(len(budgets))]
            reached = [one.to_default for one in ours]
            share = f"{sum(map(math.isfinite, reached))} of {len(reached)}"
            text = " | ".join(f"{mean:.4f} ± {half:.4f}" for mean, half in cells)
            n_trials = statistics.median(one.trials[-1] for one in ours)
            yield f"| {name} | {text} | {n_trials:g} | {share} | {statistics.median(reached):g} |"
    if BASELINE not in names:
        return
    head = " | ".join(map(str, budgets))
    clear = []
    yield f"\n| less regret than {BASELINE} | {head} | better on | ≥ default | epochs |"
    yield f"|---|{'---|' * (len(budgets) + 3)}"
    for name in names:
        reached = [[one.to_default for one in of[method, name]] for method in tables]
        share = ", ".join(str(sum(map(math.isfinite, one))) for one in reached)
        medians = ", ".join(
            "—" if statistics.median(one) == math.inf else f"{statistics.median(one):g}" for one in reached
        )
        if name == BASELINE:
            yield f"| {name} |{' |' * (len(budgets) + 1)} {share} | {medians} |"
            continue
        cells, better = [], 0
        for index in range(len(budgets)):
            gains = {
                method: [
                    theirs.regret[index] - ours.regret[index]
                    for theirs, ours in zip(of[method, BASELINE], of[method, name], strict=True)
                ]
                for method in tables
            }
            cells.append(interval([statistics.mean(one) for one in zip(*gains.values(), strict=True)]))
            better = sum(statistics.mean(one) > 0 for one in gains.values())
        clear += [name] if all(mean > half for mean, half in cells) else []
        text = " | ".join(f"{mean:+.4f} ± {half:.4f}{' *' if abs(mean) > half else ''}" for mean, half in cells)
        yield f"| {name} | {text} | {better} of {len(tables)} | {share} | {medians} |"
    yield "\n±: 95 % interval over repetitions; *: beyond it. Better on: tables, at the largest budget."
    yield f"≥ default, epochs: of {', '.join(tables)}; —: not within the largest budget."
    yield f"Better than {BASELINE} at every budget, beyond the interval: {', '.join(clear) or 'none'}."


def paths(names: list[str], folder: Path, old: bool) -> list[Path]:
    """The tables that are asked for, checked. Raises TableError with all that is wrong with them."""
    found = [curve_tables.path_of(name, folder) for name in dict.fromkeys(names)] or sorted(folder.glob("*.jsonl.gz"))
    if not found:
        raise TableError(f"{folder}: has no tables; `python experiments/benchmarks/curves.py METHOD…` makes them")
    problems: list[str] = []
    for path in found:
        try:
            table = curve_tables.read(path)
            if not old:
                curve_tables.check_current(path, table.about)
        except CmhError as error:
            problems.append(str(error))
            continue
        if len(table.rows) < FEWEST:
            problems.append(f"{path}: has {len(table.rows)} curves, but {FEWEST} are the fewest; `curves.py` goes on")
        if table.about.epochs <= LONGEST_RUNG:
            problems.append(
                f"{path}: has curves of {table.about.epochs} epochs, too few for a rung at epoch {LONGEST_RUNG}"
            )
    if problems:
        raise TableError(*problems)
    return found


def draw(found: list[Found], budgets: tuple[int, ...], names: list[str], path: Path) -> None:
    """Regret against budget, a panel a table."""
    from matplotlib import pyplot as plt

    tables = list(dict.fromkeys(one.method for one in found))
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cmh"})  # small, and equal for equal figures
    figure, panels = plt.subplots(1, len(tables), figsize=(3.4 * len(tables), 3.6), squeeze=False, layout="constrained")
    for panel, method in zip(panels[0], tables, strict=True):
        for number, name in enumerate(names):
            ours = [one.regret for one in found if (one.method, one.way) == (method, name)]
            means, halves = zip(*(interval(list(values)) for values in zip(*ours, strict=True)), strict=True)
            # side by side, that intervals do not lie on each other
            x = [budget * 1.03 ** (number - len(names) / 2) for budget in budgets]
            style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
            panel.errorbar(x, means, halves, label=name, marker="o", markersize=3, linewidth=1, **style)
        panel.set(title=method, xscale="log", xlabel="budget (full trainings)", xticks=budgets)
        panel.set_xticklabels(map(str, budgets))
        panel.minorticks_off()
    panels[0][0].set_ylabel("regret (validation MAP)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Compare, print and draw."""
    known = [way.name for way in ways()]
    extra = [way.name for way in ways() if way.extra]
    quick = [name for name in known if name not in extra]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all tables")
    listed = f"{'; '.join(known)} (default: all but {', '.join(extra)})"
    parser.add_argument("--ways", nargs="+", choices=known, default=quick, metavar="WAY", help=listed)
    parser.add_argument("--budgets", nargs="+", type=int, default=[6, 12, 24], help="full trainings (default: 6 12 24)")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--tables", type=Path, default=curve_tables.FOLDER, metavar="DIR")
    parser.add_argument("--old", action="store_true", help="take tables of other versions of their methods, too")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where samplers.csv and samplers.svg go")
    given = parser.parse_args(arguments)
    if min(given.budgets) < 1 or given.repetitions < 1 or given.jobs < 1:
        parser.error("--budgets, --repetitions and --jobs must be at least 1 (a budget of 1 is one full training)")
    try:
        tables = paths(given.methods, given.tables, given.old)
    except CmhError as error:
        print(error, file=sys.stderr)
        return 2
    budgets = tuple(sorted(set(given.budgets)))
    for path in tables:
        place = arena(path)
        values = f"best {place.best:.4f}, " + ", ".join(
            f"{row.origin} {max(row.curve, default=0):.4f}" for row in place.table.rows if row.origin != "search"
        )
        explained = f"the distance explains {place.landscape.explained:.0%} of their variance"
        print(f"{place.table.about.method}: {len(place.table.rows)} curves; {values}; {explained}", flush=True)
    numbers = range(1, given.repetitions + 1)
    tasks = [(path, name, number, budgets) for path in tables for name in given.ways for number in numbers]
    compared = [arena(path).table.about.method for path in tables]
    found = sorted(
        processes.as_they_come(find, tasks, given.jobs),
        key=lambda one: (compared.index(one.method), given.ways.index(one.way), one.repetition),
    )
    print("\n".join(report(found, budgets, given.ways)))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        with (given.out / "samplers.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for one in found:
                for budget, regret, n_trials in zip(budgets, one.regret, one.trials, strict=True):
                    about = (one.method, one.way, one.repetition, budget)
                    table.writerow((*about, f"{regret:.4f}", n_trials, one.to_default))
        try:
            draw(found, budgets, given.ways, given.out / "samplers.svg")
        except ImportError:
            print('no plot: it needs matplotlib, pip install -e ".[report]"', file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

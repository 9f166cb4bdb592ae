"""Full validation curves of random points of search spaces: what searches are compared on without training anything.

    nice -n 15 python experiments/benchmarks/curves.py dcmh dsph cmhh djsrh dcgh

A curve is that of a trial of `cmh.tune --method METHOD` (clip art, 32 bits, seed 0, one thread) that nothing stops. Of
each method: the library default, the paper's point where its space starts from it, and random points of its space. The
methods take turns, so that all tables grow evenly. Every curve is stored when it is there, in
`experiments/benchmarks/curves/METHOD.jsonl.gz`; the same command goes on where a kill or Ctrl-C left it. A table of
another version of the method is never added to.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import curve_tables
import processes
from curve_tables import About, Row, TableError

from cmh import methods, training
from cmh.errors import CmhError, NotFiniteError
from cmh.identity import MACHINE
from cmh.study import request
from cmh.study.request import Asked, Limits, StudyRequest
from cmh.study.storage import Proposal, Store


def studies(names: list[str], dataset: str, epochs: int | None) -> tuple[StudyRequest, ...]:
    """A search of each method as `cmh.tune` checks it. Raises ConfigError with all that is wrong."""
    nothing = dict.fromkeys(("weights", "trials", "base", "storage"))
    limits = Limits(1, 0, None, None, None, None, None)
    more = {"bits": (32,), "settings": (), "epochs": epochs, "seed": 0, "seeds": 0, "limits": limits, "keep": "winner"}
    source = {"dataset": dataset, "skip_bad": False, "split": "torchcmh", "features": "efficientnet-lite0"}
    asked = Asked(methods=tuple(names), spaces=(), warm_start=(), out=Path("nowhere"), **source, **more, **nothing)  # type: ignore[arg-type]
    return request.check(asked).studies


def about(study: StudyRequest) -> About:
    """What the curves of a study are of."""
    identity = study.identity(study.base)
    machine = {key: value for key, value in dataclasses.asdict(identity).items() if key in MACHINE and value}
    ranges = curve_tables.ranges(study.space.ranges)
    return About(study.space.method, identity.without("config", *MACHINE), ranges, [machine])


def points(study: StudyRequest, n_random: int) -> list[Proposal]:
    """The configurations of a table, in order; the n-th random one is the same however many there are."""
    base = ("default", tuple(study.base.items()))
    starts = (base, *(start for start in study.space.start_from if start[0] == "paper"))
    space = dataclasses.replace(study.space, sampler="random", asha=None, start_from=starts)
    store, limit = Store(None, space.method, space, study.base, study.seed), n_random + len(starts)
    return [proposal for _ in range(limit) if (proposal := store.propose(limit)) is not None]


def row(study: StudyRequest, proposal: Proposal, curve: list[float], seconds: float, failed: str = "") -> Row:
    """The row of a point."""
    active = [item.name for item in study.space.ranges if item.active(proposal.config)]
    curve = [round(value, curve_tables.DIGITS) for value in curve]
    return Row(proposal.origin, {name: proposal.config[name] for name in active}, curve, round(seconds, 1), failed)


def train(task: tuple[StudyRequest, Proposal]) -> tuple[StudyRequest, Row]:
    """Train a point to its end, as a trial of the study."""
    study, proposal = task
    module, curve, began = methods.get(study.space.method), list[float](), time.monotonic()
    values = {**proposal.config, **study.run, **proposal.run, "device": "cpu"}
    run, config = training.parse(module, values)
    failed = ""
    try:
        training.fit(module, run, config, study.dataset.search(), report=lambda epoch, _: curve.append(epoch.val_map))
    except NotFiniteError as error:
        failed = f"nan: {error}"
    return study, row(study, proposal, curve, time.monotonic() - began, failed)


def missing(wanted: tuple[StudyRequest, ...], n_random: int, out: Path) -> Iterator[tuple[StudyRequest, Proposal]]:
    """What is to be trained, the methods in turns. Raises TableError where a table is of something else."""
    waiting = []
    for study in wanted:
        path, there = curve_tables.path_of(study.space.method, out), set()
        if path.exists():
            table = curve_tables.read(path)
            curve_tables.check(path, table.about, about(study))
            there = {found.key for found in table.rows}
        waiting.append([(study, one) for one in points(study, n_random) if row(study, one, [], 0).key not in there])
    for turn in range(max(map(len, waiting), default=0)):
        yield from (tasks[turn] for tasks in waiting if turn < len(tasks))


def main(arguments: list[str] | None = None) -> int:
    """Fill the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", metavar="METHOD")
    parser.add_argument("--points", type=int, default=150, help="random points of each (default: 150)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--fresh", action="store_true", help="begin tables of another version anew")
    parser.add_argument("--out", type=Path, default=curve_tables.FOLDER, metavar="DIR")
    parser.add_argument("--dataset", default="clipart", help="(default: clipart)")
    parser.add_argument("--epochs", type=int, help="of a curve (default: the space's)")
    given = parser.parse_args(arguments)
    if given.points < 0 or given.jobs < 1:
        parser.error("--points must be at least 0, --jobs at least 1")
    try:
        wanted = studies(given.methods, given.dataset, given.epochs)
        given.out.mkdir(parents=True, exist_ok=True)
        tables = {study.space.method: curve_tables.path_of(study.space.method, given.out) for study in wanted}
        for study in wanted if given.fresh else ():
            drop_other(tables[study.space.method], about(study))
        tasks = list(missing(wanted, given.points, given.out))
        print(f"{len(tasks)} curves to train", flush=True)
        for number, (study, found) in enumerate(processes.as_they_come(train, tasks, given.jobs), start=1):
            table = curve_tables.add(tables[study.space.method], about(study), found)
            print(
                f"{number}/{len(tasks)} {study.space.method} {found.origin}: {max(found.curve, default=0):.4f}"
                f" in {found.seconds:.0f} s {found.failed}; {len(table.rows)} rows",
                flush=True,
            )
    except CmhError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def drop_other(path: Path, wanted: About) -> None:
    """Remove a table that is of something else, or cannot be read."""
    try:
        curve_tables.check(path, curve_tables.read(path).about, wanted)
    except TableError:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

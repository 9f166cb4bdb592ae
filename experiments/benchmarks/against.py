"""This checkout beside an older one: epochs, checkpoints, the README's first command, and torchcmh's own loop.

    python experiments/benchmarks/against.py OLD --threads 1 2 --out against.json      # OLD: a checkout of cmh
    python experiments/benchmarks/against.py OLD --only dcmh --epochs 30 --repeats 5   # curves of 30 epochs, too
    python experiments/benchmarks/against.py OLD --only first-command                  # 10 minutes; an idle machine
    python experiments/benchmarks/against.py OLD --only torchcmh --torchcmh CHECKOUT
    python experiments/benchmarks/against.py OLD --growth --out growth.json            # and growth.svg

torchcmh is https://github.com/WangGodder/deep-cross-modal-hashing. OLD is measured in worktrees of this repository:
`git worktree add ../old 8bee503`.

Rows: epochs of DCMH at its default and its paper's point, of every deep method at its default point, of SSAH and SCAHN
at their papers' points (minutes an epoch), of DGCPN with 10,000 items, of DCMH at NUS-WIDE's size; checkpoints of
ResNet-18 under DCMH; if asked for, the first command, and torchcmh's training loop in place of OLD.

Both trees train on the same arrays at this tree's points (what the older one has no name for stays at what it does), in
processes of their own, in turns; the one that goes first changes. An epoch is
CPU seconds (`time.process_time`) of training and validation; the first of a run is warm-up and left out (not where a
run has only one: said so). A run counts by the median of its epochs; a row shows the median of its runs, and the median
of the ratios new/old of its pairs, both with least and most. `MAP` is the last epoch's of both trees, `differs` the
largest difference of their curves, epoch by epoch. JSON holds every number, and the commits.

The clip art is written from this checkout's cache; the other arrays are made up (`against_data.py`). What they are
computed from is cached for each tree in the working folder (`--work`, else a temporary one: about 6 GB with all rows).
Rows of MAP at large sizes are made by `map_speed.py`, growth with a study's trials by `storage_scale.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the files beside this one, also where another imports it
import against_data as data
from against_pairs import HEAD, BrokenError, Pairs, about, compared, epochs_of, line, middle
from plot import Panel, save

HERE = Path(__file__).resolve().parents[2]
SIZES = {  # made-up arrays by name
    "2600": data.Made(2_600),
    "10k": data.Made(10_000),
    "100k": data.Made(100_000),
    "1k": data.Made(1_000),
    "1m": data.Made(1_000_000),
    "nus": data.Made(10_500, 180_500, 2_100, 512, 1_000, 8, 21),
}
TINY = data.Made(200, 50, 30, 16, 40, 3, 5)
# name: (what it is, method, point, arrays, epochs, at most, only one pair)
EPOCHS: dict[str, tuple[str, str, str, str, int, float, bool]] = {
    "dcmh": ("DCMH, default point", "dcmh", "default", "clipart", 8, 0.50, False),
    "dcmh-paper": ("DCMH, paper's point", "dcmh", "paper", "clipart", 4, 0.30, False),
    "ssah-paper": ("SSAH, paper's point", "ssah", "paper", "clipart", 1, 0.40, True),
    "scahn-paper": ("SCAHN, paper's point", "scahn", "paper", "clipart", 1, 0.40, True),
    "dgcpn-10k": ("DGCPN, 10,000 items", "dgcpn", "default", "10k", 3, 0.10, False),
    "nus": ("DCMH, NUS-WIDE's size", "dcmh", "default", "nus", 3, 0.40, False),
}
OTHERS = ("deep", "checkpoint", "first-command", "torchcmh")
OFF = ("first-command", "torchcmh")  # unless asked for: one wants an idle machine, the other a checkout
LOOPS = {"2600": (None, 1.0), "10k": (None, 0.25), "100k": (20, 1.0)}  # arrays: (steps that are timed, at most)
GROWTH = ("1k", "10k", "100k", "1m")


def epochs(pairs: Pairs, name: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A method's epochs, a line for each number of threads."""
    what, method, point, arrays, n_epochs, most, once = EPOCHS[name]
    for threads in given.threads:
        task = epochs_of(method, point, pairs.arrays(arrays), given.epochs or n_epochs, threads)
        yield pairs.epochs(what, task, most, 1 if once else given.repeats)


def deep(pairs: Pairs, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every deep method's default point, and their geometric mean."""
    there = [pairs.alone(side, {"task": "methods"})["names"] for side in (0, 1)]
    names = [name for name in there[1] if name in there[0]]
    for threads in given.threads:
        ratios = []
        for name in names[:2] if given.tiny else names:
            task = epochs_of(name, "default", pairs.arrays("clipart"), given.epochs or 4, threads)
            yield (found := pairs.epochs(f"{name}, default point", task, 1.0, given.repeats))
            ratios.append(found["ratio"]["median"])
        mean = {"median": statistics.geometric_mean(ratios), "least": min(ratios), "most": max(ratios)}
        what = f"geometric mean of {len(ratios)} methods"
        yield {"what": what, "unit": "", "threads": threads, "ratio": mean, "at most": 0.60}


def checkpoint(pairs: Pairs, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """File and write time of DCMH with an image network that is trained along."""
    network, side = ("conv4", 64) if given.tiny else ("resnet18", 256)
    values: dict[str, Any] = {"features": network, "finetune": True, "epochs": 2, "threads": 1}
    if not given.tiny:
        values["weights"] = pairs.once("resnet18.pt", data.resnet18)
    folder = pairs.once(f"pictures{side}", lambda path: data.pictures(path, side))
    task = {"task": "checkpoint", "method": "dcmh", "point": "default", "dataset": folder, "values": values}
    found = pairs.turns(lambda side: pairs.alone(side, task), given.repeats)
    for when, where in (("end", "at the end"), ("within", "within training")):
        if not all(when in one for runs in found for one in runs):
            raise BrokenError(f"a tree wrote no checkpoint {where}")
        for key, unit in (("mib", "MiB"), ("seconds", "s")):
            numbers = [[one[when][key] for one in runs] for runs in found]
            yield compared(f"checkpoint of {network}, {where}", unit, 1, numbers, 0.35)


def command(pairs: Pairs, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The README's first command: wall time and the peak of all its processes' memory."""
    for side in (0, 1):
        values = {"task": "prepare", "method": "dcmh", "point": "default", "dataset": "clipart", "values": {}}
        pairs.alone(side, values)
    more = ["--trials", "2", "--epochs", "4"] if given.tiny else []
    found = pairs.turns(lambda side: pairs.first_command(side, more), given.repeats)
    for key, unit, most in (("seconds", "s", 0.60), ("peak_mib", "MiB", 0.80)):
        what = f"first command, {'wall time' if key == 'seconds' else 'peak memory'}"
        numbers = [[one[key] for one in runs] for runs in found]
        yield compared(what, unit, len(os.sched_getaffinity(0)), numbers, most)


def torchcmh(pairs: Pairs, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """torchcmh's loop in place of the old tree, ours at the paper's point; both without validation."""
    for threads in given.threads:
        for arrays, (steps, most) in LOOPS.items():
            folder, n_epochs = pairs.arrays(arrays), given.epochs or 3
            loop = {"task": "torchcmh", "checkout": str(given.torchcmh.resolve()), "dataset": folder}
            loop |= {"steps": 1 if given.tiny else steps, "threads": threads, "epochs": n_epochs}
            tasks = (loop, epochs_of("dcmh", "paper", folder, n_epochs, threads))
            found = pairs.turns(
                lambda side, tasks=tasks: pairs.alone(side, tasks[side], tasks[0]["threads"]), given.repeats
            )
            timed, all_steps = found[0][0]["steps"]
            note = "" if timed == all_steps else f"torchcmh: {timed} of {all_steps} steps a pass are timed, and scaled"
            train = [[middle(one["train"]) for one in runs] for runs in found]
            about_it = compared(f"torchcmh's loop as old, {arrays} items", "s", threads, train, most)
            yield {**about_it, "note": note, "runs": {"torchcmh": found[0], "new": found[1]}}


def growth(pairs: Pairs, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seconds and peak memory of a DCMH epoch against the training items, which are searched, too."""
    for arrays in GROWTH:
        if (size := SIZES[arrays]).n_train <= given.growth_to:
            task = epochs_of("dcmh", "default", pairs.arrays(arrays), given.epochs or 3, given.threads[-1])
            found = pairs.epochs(f"DCMH, {size.n_train:,} items", task, None, given.repeats)
            yield {**found, "items": size.n_train}


def drawn(found: list[dict[str, Any]], path: Path) -> None:
    """The growth as SVG."""
    panels = []
    for what, unit in (("cpu", "CPU seconds an epoch"), ("peak_mib", "peak memory in MiB")):
        lines = {
            tree: [(one["items"], one[tree]["median"] if what == "cpu" else one[what][tree]) for one in found]
            for tree in ("old", "new")
        }
        panels.append(Panel(f"DCMH: {unit}", "training items", unit, lines))
    save(panels, path)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write JSON. Exit status 1 where a row could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD_CHECKOUT", help="an older checkout of cmh")
    rows = [*EPOCHS, *OTHERS]
    parser.add_argument("--only", nargs="+", choices=rows, metavar="ROW", help=f"of {', '.join(rows)}")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs (default: 3; SSAH and SCAHN: 1)")
    parser.add_argument("--epochs", type=int, help="of a run (default: the row's)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="lines each (default: 1)")
    parser.add_argument("--torchcmh", type=Path, metavar="DIR", help="a checkout of torchcmh, for the row torchcmh")
    parser.add_argument("--growth", action="store_true", help="time and memory of a DCMH epoch against the items")
    parser.add_argument("--growth-to", type=int, default=100_000, metavar="N", help="items (default: 100000)")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keeps arrays and caches (default: a temporary folder)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON; the plot of --growth goes beside it as .svg")
    parser.add_argument("--tiny", action="store_true", help="so small that figures mean nothing")
    given = parser.parse_args(arguments)
    if not (given.old / "cmh" / "__init__.py").is_file():
        parser.error(f"{given.old} holds no cmh/__init__.py: OLD_CHECKOUT must be a checkout of cmh")
    if given.torchcmh and not (given.torchcmh / "torchcmh" / "training" / "DCMH.py").is_file():
        parser.error(f"--torchcmh {given.torchcmh} holds no torchcmh/training/DCMH.py: clone torchcmh there")
    chosen = given.only or [row for row in rows if row not in OFF or (row == "torchcmh" and given.torchcmh)]
    if "torchcmh" in chosen and not given.torchcmh:
        parser.error("the row torchcmh needs --torchcmh DIR")
    if min(given.repeats, *given.threads, given.epochs or 1) < 1:
        parser.error("--repeats, --threads and --epochs must be at least 1")
    trees = (given.old.resolve(), HERE)
    report: dict[str, Any] = {**about(trees), "rows": [], "broken": {}}
    ways = {"deep": deep, "checkpoint": checkpoint, "first-command": command, "torchcmh": torchcmh, "growth": growth}
    with tempfile.TemporaryDirectory(prefix="cmh-against-") as temporary:
        sizes = {name: TINY if given.tiny else size for name, size in {"clipart": None, **SIZES}.items()}
        pairs = Pairs(trees, (given.work or Path(temporary)).resolve(), sizes, tiny=given.tiny)
        print(HEAD)
        for row in ["growth"] if given.growth else chosen:
            try:
                for found in ways[row](pairs, given) if row in ways else epochs(pairs, row, given):
                    report["rows"].append({"row": row, **found})
                    print(line(found), flush=True)
            except BrokenError as error:  # the other rows can do without it
                report["broken"][row] = str(error)
                print(f"{row}: {error}", file=sys.stderr, flush=True)
            if given.out:
                given.out.write_text(json.dumps(report, indent=1) + "\n")
    if given.out and given.growth and report["rows"]:
        drawn(report["rows"], given.out.with_suffix(".svg"))
    return int(bool(report["broken"]))


if __name__ == "__main__":
    raise SystemExit(main())

"""The shipped boards: every method on the clip art at 16, 32, 64 and 128 bits, one budget, three seeds.

    nice -n 15 python experiments/benchmarks/boards.py --jobs 2     # trains what is missing or aged, then writes tables
    python experiments/benchmarks/boards.py --tables                # only writes the tables
    python experiments/benchmarks/boards.py --check                 # do the tables say what the records say?

The budget: each method's library default, 30 epochs, frozen EfficientNet-Lite0 features, one thread; nothing is
searched. Records go to `experiments/boards/BITS/`, a folder a method; a run that is there is not trained again, and one
whose code has changed since is trained anew and replaced. Codes, weights and curves are not kept: boards need none.
From the records alone come the table in README.md (between its two comments), and in `experiments/boards` `boards.csv`,
`boards.md` and `boards.html`, as `cmh.leaderboard` writes them.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import processes
import yaml

from cmh import commands, leaderboard, methods, reproduce
from cmh.board import current, find, papers, rows

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "boards"
PAGES = ("csv", "markdown", "html")
NAMES = dict(zip(PAGES, ("boards.csv", "boards.md", "boards.html"), strict=True))
BITS = (16, 32, 64, 128)
SHOWN = 32  # bits whose order and groups the README shows
BEGIN, END = "<!-- boards.py writes from here -->", "<!-- to here -->"


def request(method: str, bits: int) -> dict[str, object]:
    """What `cmh.reproduce` is asked for."""
    run = {"method": method, "dataset": "clipart", "bits": bits, "epochs": 30, "threads": 1}
    return {**run, "seeds": [1, 2, 3], "label": "library default", "config": {}}


def make(task: tuple[str, int, Path]) -> str:
    """Train a method, or find that it is there; a line on what came of it."""
    method, bits, folder = task
    out, began = folder / str(bits), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        path, log = Path(scratch) / f"{method}.yml", io.StringIO()
        path.write_text(yaml.safe_dump(request(method, bits)))
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            code = reproduce.main([str(path), "--device", "cpu", "--out", str(out)])
    for kept in [*out.glob(f"{method}-*/codes-*.npz"), *out.glob(f"{method}-*/seed-*")]:
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    text = log.getvalue().strip().splitlines()[-1:] if code else ["done"]
    return f"{method} {bits} bits: {' '.join(text)} in {time.monotonic() - began:.0f} s"


def aged(folder: Path) -> Iterator[Path]:
    """Folders of runs that today's code or data would not make."""
    for run in find.find([folder])[0] if folder.is_dir() else ():
        if current.aged(run):
            yield run.folder


def board(folder: Path) -> rows.Board:
    """The board of the records. Raises CmhError where there is none."""
    found, notes = rows.boards(find.find([folder])[0], papers.reported(papers.experiments()), current.aged)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    (one,) = found
    return one


def table(one: rows.Board) -> Iterator[str]:
    """README's table, in the order of 32 bits."""
    of = {(row.method, row.bits): row for row in one.rows}
    lengths = sorted({row.bits for row in one.rows})
    heads = [f"{bits} bits" for bits in lengths]
    yield f"| ranks | group | method | year | kind | {' | '.join(heads)} | i→t, t→i at {SHOWN} | marks |"
    yield f"|{'---|' * (7 + len(lengths))}"
    for row in sorted((row for row in one.rows if row.bits == SHOWN), key=lambda row: -row.map_mean):
        module, cells = methods.get(row.method), []
        for bits in lengths:
            here = of.get((row.method, bits))
            cells.append("" if here is None else f"{here.map_mean:.3f}{interval(here)}")
        ranks = str(row.rank_low) if row.rank_low == row.rank_high else f"{row.rank_low}–{row.rank_high}"
        about = [ranks, row.letters or "", f"`{row.method}`", str(module.YEAR), module.KIND, *cells]
        marks = {mark for bits in lengths for mark in marks_of(of.get((row.method, bits)))}
        both = f"{row.map_i2t:.3f}, {row.map_t2i:.3f}"
        yield f"| {' | '.join([*about, both, ', '.join(sorted(marks))])} |"


def marks_of(row: rows.Row | None) -> list[str]:
    """What a row must not be trusted for."""
    return [] if row is None else [name for name in ("leak", "dead", "aged") if getattr(row, name)]


def interval(row: rows.Row) -> str:
    """± half of the 95 % interval, where there is one."""
    high = row.map_mean_ci95_high
    return "" if high is None else f" ± {high - row.map_mean:.3f}"


def written(folder: Path, readme: Path) -> dict[Path, str]:
    """Every file as the records give it."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        targets = {page: Path(scratch) / name for page, name in NAMES.items()}
        options = [part for page, path in targets.items() for part in (f"--{page}", str(path))]
        with contextlib.redirect_stderr(io.StringIO()) as log:
            code = leaderboard.main([str(folder), *options])
        if code:
            raise SystemExit(log.getvalue())
        found = {folder / path.name: path.read_text(encoding="utf-8") for path in targets.values()}
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join(table(board(folder)))
    return {**found, readme: f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"}


def differing(wanted: dict[Path, str]) -> list[str]:
    """The first lines of each file that are not as they should be."""
    lines = []
    for path, text in wanted.items():
        there = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        change = list(difflib.unified_diff(there, text.splitlines(), str(path), "as the records say", lineterm="", n=0))
        lines += change[:12] + ["…"] * (len(change) > 12)
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Train, write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="default: all")
    parser.add_argument("--bits", nargs="+", type=int, choices=BITS, default=BITS)
    parser.add_argument("--jobs", type=commands.whole(1), default=1, help="processes (default: 1)")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", metavar="FILE")
    parser.add_argument("--tables", action="store_true", help="train nothing, write the tables")
    parser.add_argument("--check", action="store_true", help="train and write nothing; 1 where a table differs")
    given = parser.parse_args(arguments)
    if not (given.tables or given.check):
        for old in set(aged(given.out)):
            shutil.rmtree(old)
        names = given.methods or methods.names()
        order = sorted(given.bits, key=lambda bits: (bits != SHOWN, bits))  # what is shown first
        tasks = [(name, bits, given.out) for bits in order for name in names]
        for number, line in enumerate(processes.as_they_come(make, tasks, given.jobs), start=1):
            print(f"{number}/{len(tasks)} {line}", flush=True)
    wanted = written(given.out, given.readme)
    if given.check:
        lines = differing(wanted)
        cure = "`python experiments/benchmarks/boards.py --tables` writes them"
        print("\n".join([*lines, cure]) if lines else "the tables say what the records say")
        return int(bool(lines))
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

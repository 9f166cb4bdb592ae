"""`python -m cmh.evaluate`: one set of codes under every protocol of the field."""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cmh import codes, commands, files, identity, records, scores
from cmh.board.render import printable
from cmh.codes import Codes
from cmh.errors import CmhError
from cmh.records import Record
from cmh.scores import Line

_DESCRIPTION = """\
Score the same codes as each paper's code would: MAP under four rules for ties, cut at k with every divisor in
use, with queries dropped, cut off or counted as 0, on the epoch that each release would report; precision,
NDCG, Hamming radii and precision-recall curves. Why papers disagree about one method can be read down one column.
"""

_EPILOG = """\
examples:
  python -m cmh.evaluate studies/dcmh-clipart-32              the winner of a study, mean over its seeds
  python -m cmh.evaluate studies/dcmh-clipart-32 --seed 11    one of them
  python -m cmh.evaluate studies/dcmh-clipart-32 --best-epoch one seed, trained again: what each epoch would have shown
  python -m cmh.evaluate codes.npz --csv all.csv              codes of any model

a file of codes, as numpy.savez writes it:
  query_image, query_text        (n, bits), +1 and -1; or packed beside an integer `bits`:
  database_image, database_text    numpy.packbits(codes > 0, axis=1, bitorder="little")
  query_labels, database_labels  (n, labels), 0 and 1; sharing a label is being relevant
  With a leading axis of epochs in all four, (epochs, n, bits), and perhaps `chosen_epoch` (from 1), the table also
  shows what "best epoch on test" is worth. All else is then of the chosen epoch, or else of the last.

columns:
  i→t, t→i          image queries over texts, text queries over images; mean: of the two
  who computes so   read from the releases' code; empty: many, or nobody in particular

k and R: the first k items count, R items of the database are relevant. "by hits": divided by the relevant items
among the first k. Definitions of releases break ties by database order, all others take the mean over all orders.
Codes of 0, which many releases leave where an output is exactly 0, cannot be seen in codes of +1 and -1.
The CSV file (protocol, used_by, k, direction, value, seed) also has the other cuts and all points of the curves.
"""


def main(argv: list[str] | None = None) -> int:
    """Print the table, write it where asked; the exit code."""
    commands.any_terminal()
    arguments = _parser().parse_args(argv)
    return commands.guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    path: Path = arguments.path
    epochs: list[Line] = []
    if path.is_dir():
        title, found = _of_study(path, arguments.seed, one=arguments.best_epoch)
        epochs = _best_epoch(path, int(next(iter(found)))) if arguments.best_epoch else []
    elif arguments.best_epoch:
        raise CmhError(f"--best-epoch: {path} is no folder of a study; a file of codes may have an axis of epochs")
    elif arguments.seed is not None:
        raise CmhError(f"--seed {arguments.seed}: {path} is no folder of a study; a file of codes has no seeds")
    else:
        title, found = str(path), {"": codes.read(path)}
    tables = {seed: [*epochs, *scores.table(one)] for seed, one in found.items()}
    mean = scores.averaged(list(tables.values()))
    if arguments.csv:
        _write(arguments.csv, {**tables, **({"mean": mean} if len(tables) > 1 else {})})
    sys.stdout.write(terminal(title, next(iter(found.values())), mean))
    return 0


def _best_epoch(folder: Path, seed: int) -> list[Line]:
    """What releases would report that choose their epoch by the test split: the winner is trained again, and the test
    split shown after each epoch, which is counted.

    Raises CmhError where it would be another run than the recorded one.
    """
    from cmh import ledger, methods, training  # torch comes in here, with this option alone
    from cmh.study import check, confirm, target

    found = target.read(str(folder))
    if seed not in found.recorded:
        raise CmhError(f"--best-epoch: nothing that can be trained again was recorded with seed {seed} in {folder}")
    values = {**found.config, **found.run, "seed": seed}
    dataset = training.load(training.parse(methods.get(found.method), values)[0])
    again = target.Recorded(confirm.identify(found.method, values, dataset))
    if wrong := check.other_run(found.recorded[seed], again):
        raise CmhError(*wrong, heading=f"--best-epoch: {folder} cannot be trained again, this would be another run")
    own = folder if os.access(folder, os.W_OK) else None
    opened = ledger.open_test(dataset.name, dataset.split_sha256, "cmh.evaluate --best-epoch", folder=own)
    sys.stderr.write(f"note: every epoch meets the test split: opening {opened[0]} by this study, {opened[1]} by all\n")
    by_epoch = scores.epoch_lines(confirm.codes_by_epoch(found.method, values, dataset))
    chosen, there = by_epoch[0].mean, found.recorded[seed].test["map"]
    if chosen is None or abs(chosen - there) > records.MEAN_DIGITS:
        sys.stderr.write(
            f"note: the epoch chosen on validation has MAP {chosen:.6f} now, but {there:.6f} in the record;"
            f" `python -m cmh.reproduce {files.quoted(folder)} --check` says what differs\n"
        )
    return by_epoch


def _of_study(folder: Path, seed: int | None, *, one: bool = False) -> tuple[str, dict[str, Codes]]:
    """Codes of each seed of the winner, or of its first `one`; of the latest run, where the folder is of runs alone."""
    found, notes = records.read(folder)
    sys.stderr.write("".join(f"note: {printable(line)}\n" for line in notes))
    if not found:
        raise CmhError(
            f"{folder}: has no records that can be read; tune and reproduce make some, in the folder of a study"
        )
    plain = [record for record in found if not record.label] or found
    latest = max(plain, key=records.moment)
    of_seed: dict[int, Record] = {}
    for record in sorted(plain, key=records.moment):
        if record.identity.digest(*identity.ROW) == latest.identity.digest(*identity.ROW):
            of_seed[record.identity.seed] = record
    if seed is not None and seed not in of_seed:
        known = ", ".join(map(str, sorted(of_seed)))
        raise CmhError(f"--seed {seed}: the winner in {folder} was recorded with the seeds {known}")
    kept = {number: of_seed[number] for number in sorted(of_seed) if seed in (None, number)}
    if one:
        kept = dict([*kept.items()][:1])
    if lacking := [str(number) for number, record in kept.items() if not record.codes]:
        cure = f"`python -m cmh.reproduce {files.quoted(folder)} --fresh` keeps them"
        raise CmhError(f"{folder}: the codes of seed {', '.join(lacking)} were not kept; {cure}")
    made = latest.identity
    title = f"{folder}: {made.method} on {made.dataset}, seed{'s' * (len(kept) > 1)} {', '.join(map(str, kept))}"
    return title + (" (mean)" if len(kept) > 1 else ""), {str(n): scores.codes_of(folder, r) for n, r in kept.items()}


def terminal(title: str, one: Codes, lines: Sequence[Line]) -> str:
    """The table as aligned text, a heading for each group, and the spread of what is printed as MAP."""
    shown = [line for line in lines if line.shown]
    width = max(len(line.protocol) for line in shown)
    text = [
        title,
        f"  {_about(one)}",
        "",
        f"  {'protocol':<{width}}  {'i→t':>6}  {'t→i':>6}  {'mean':>6}  who computes so",
    ]
    group = ""
    for line in shown:
        if line.group != group:
            group = line.group
            text += ["", f"  {group}"]
        numbers = "  ".join(f"{_number(value):>6}" for value in (line.i2t, line.t2i, line.mean))
        text.append(f"  {line.protocol:<{width}}  {numbers}  {line.used_by}".rstrip())
    return "\n".join([*text, "", *_spread(lines)]) + "\n"


def _about(one: Codes) -> str:
    n_query, n_database = len(one.query_labels), len(one.database_labels)
    empty = _without_relevant(one)
    epoch = ""
    if one.epochs:
        which = f"{one.chosen_epoch}, chosen on validation" if one.chosen_epoch else f"{one.epochs}, the last"
        epoch = f"; epoch {which}, of {one.epochs}"
    queries = f"{n_query} queries ({empty} without relevant items)"
    return f"{one.bits} bits, {queries}, {n_database} items in the database, {one.query_labels.shape[1]} labels{epoch}"


def _without_relevant(one: Codes) -> int:
    occurring = one.database_labels.any(axis=0)
    return int((~(one.query_labels.astype(bool) & occurring).any(axis=1)).sum())


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return "NaN" if math.isnan(value) else f"{value:.4f}"


def _spread(lines: Sequence[Line]) -> list[str]:
    """Between which numbers the releases' MAP of these codes lies."""
    printed = [(line.mean, line) for line in lines if line.printed and line.mean is not None]
    (low, first), (high, last) = min(printed, key=lambda pair: pair[0]), max(printed, key=lambda pair: pair[0])
    return [
        "The same codes score",
        f"  from {low:.4f}  {first.protocol} ({first.used_by})",
        f"  to   {high:.4f}  {last.protocol} ({last.used_by}), and each is printed as MAP.",
    ]


def _write(path: Path, tables: dict[str, list[Line]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["protocol", "used_by", "k", "direction", "value", "seed"])
    for seed, lines in tables.items():
        for line in lines:
            for direction, value in (("i2t", line.i2t), ("t2i", line.t2i), ("mean", line.mean)):
                # None becomes an empty cell, a float its shortest exact text
                writer.writerow([line.protocol, line.used_by, line.k, direction, value, seed])
    try:
        files.write_atomic(path, text.getvalue())
    except OSError as error:
        raise CmhError(f"{path}: cannot be written ({error.strerror})") from error
    sys.stderr.write(f"wrote {path}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmh.evaluate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, metavar="STUDY|CODES.npz", help="folder of a study, or a file of codes")
    parser.add_argument(
        "--seed", type=commands.whole(0), metavar="N", help="of a study: this seed (default: their mean)"
    )
    parser.add_argument(
        "--best-epoch",
        action="store_true",
        help="of a study: train its first seed (or --seed) again and add what choosing the epoch on test is worth",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write everything as CSV, a number a line")
    return parser


if __name__ == "__main__":
    sys.exit(main())

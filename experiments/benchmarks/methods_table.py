"""One Markdown table of many studies: each method's paper setting, default and tuned point beside its row of the board.

    for m in $(python -m cmh.methods | cut -d' ' -f1 | grep -v random); do python -m cmh.tune --method $m; done
    python experiments/benchmarks/methods_table.py studies

Validation MAP is the mean of both directions of a search trial; test MAP and its interval are the board's, of the
latest winner alone. Studies that are not confirmed yet are left out; ROOT should hold one study a method.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cmh import methods
from cmh.board import current, find, rows
from cmh.views import story

HEAD = ("method", "year", "kind", "paper", "default", "tuned", "test i→t", "test t→i", "test mean", "trials")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder of the studies")
    runs, problems = find.find([parser.parse_args().root])
    notes: list[str] = []
    winners = current.without_earlier_winners(runs, notes)
    tuned = {run.record.identity.method: run.folder for run in winners if run.record.selection == "validation"}
    boards, more = rows.boards([run for run in winners if run.folder in tuned.values()], {})
    notes += more
    found = [(row.map_mean, cells(tuned[row.method], row)) for board in boards for row in board.rows]
    print("| " + " | ".join(HEAD) + " |")
    print("|" + "---|" * len(HEAD))
    for _, line in sorted(found, reverse=True):
        print("| " + " | ".join(line) + " |")
    for note in [*problems, *notes]:
        print(f"note: {note}", file=sys.stderr)


def cells(study: Path, row: rows.Row) -> list[str]:
    """The cells of a study."""
    told = story.read_study(study)
    name = told.method
    module = methods.get(name)
    values = [told.controls.get(known, (None,) * 3)[2] for known in ("paper setting", "library default")]
    values.append(None if told.best is None else told.best.best_val_map)
    mean = f"{row.map_mean:.3f}"
    if row.map_mean_ci95_high is not None:
        mean += f" ± {row.map_mean_ci95_high - row.map_mean:.3f}"
    line = [f"`{name}`", str(module.YEAR), module.KIND]
    line += ["–" if value is None else f"{value:.3f}" for value in values]
    return [*line, f"{row.map_i2t:.3f}", f"{row.map_t2i:.3f}", mean, str(row.trials)]


if __name__ == "__main__":
    main()

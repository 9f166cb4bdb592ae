"""One Markdown table of many studies: each method's paper setting, default and tuned point beside its test result.

    for m in $(python -m cmh.methods | cut -d' ' -f1 | grep -v random); do python -m cmh.tune --method $m; done
    python experiments/benchmarks/methods_table.py studies

Validation MAP is the mean of both directions of a search trial; test MAP is that of the confirmed seeds. Studies
that are not confirmed yet are left out.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from cmh import methods, records
from cmh.board.statistics import estimate
from cmh.study.folder import read_study

HEAD = ("method", "year", "kind", "paper", "default", "tuned", "test i→t", "test t→i", "test mean", "trials")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder of the studies")
    studies = sorted(path.parent for path in parser.parse_args().root.glob("*/records.jsonl"))
    rows = [row(study) for study in studies]
    print("| " + " | ".join(HEAD) + " |")
    print("|" + "---|" * len(HEAD))
    for _, cells in sorted(rows, reverse=True):
        print("| " + " | ".join(cells) + " |")


def row(study: Path) -> tuple[float, list[str]]:
    """(what rows are sorted by, the cells) of a study."""
    name = str(read_study(study)["identity"]["method"])
    module = methods.get(name)
    with (study / "trials.csv").open(newline="") as file:
        trials = [trial for trial in csv.DictReader(file) if trial["val_map_best"]]
    best = {trial["origin"]: float(trial["val_map_best"]) for trial in trials if trial["origin"] != "search"}
    tuned = max(float(trial["val_map_best"]) for trial in trials if trial["state"] == "complete")
    found = records.read(study)
    tests = {key: estimate([record.test[key] for record in found]) for key in ("map_i2t", "map_t2i", "map")}
    means = {key: f"{value.mean:.3f}" for key, value in tests.items()}
    if (high := tests["map"].high) is not None:
        means["map"] += f" ± {high - tests['map'].mean:.3f}"
    cells = [f"`{name}`", str(module.YEAR), module.KIND]
    cells += [f"{best[origin]:.3f}" if origin in best else "–" for origin in ("paper", "default")]
    cells += [f"{tuned:.3f}", *means.values(), str(len(trials))]
    return tests["map"].mean, cells


if __name__ == "__main__":
    main()

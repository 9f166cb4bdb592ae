"""The curve of a run as its `curve.csv` has it, also while it is written."""

from __future__ import annotations

import csv
from pathlib import Path


def read_curve(path: Path, problems: list[str]) -> dict[int, dict[str, float]]:
    """The rows of a `curve.csv` by epoch; a last line that is still being written is left out, and so are damaged ones,
    which are a problem."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
        return {}
    lines = text[: text.rfind("\n") + 1].replace("\0", "").splitlines()
    header, *rows = csv.reader(lines) if lines else [[]]
    found, damaged = dict[int, dict[str, float]](), 0
    for cells in rows:
        try:
            row = dict(zip(header, map(float, cells), strict=True))
            epoch = row.pop("epoch")
            row["val_map"] += 0.0  # it has one
            found[int(epoch)] = row
        except (ValueError, KeyError, OverflowError):
            damaged += 1
    if damaged:
        problems.append(f"{path}: {damaged} of {len(rows)} lines are damaged and left out")
    return dict(sorted(found.items()))

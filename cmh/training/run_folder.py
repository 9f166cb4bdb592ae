"""What a run leaves in its folder for people: `config.json`, `curve.csv`, `log.txt`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmh import files
from cmh.identity import Identity
from cmh.interfaces import Config
from cmh.training.run import Run

Rows = Sequence[Mapping[str, object]]  # of a curve, one an epoch


def begin(folder: Path, run: Run, config: Config, identity: Identity, curve: Rows) -> None:
    """Write the settings, and the curve that a checkpoint brought."""
    settings = {key: value for key, value in dataclasses.asdict(run).items() if key != "folder"}
    settings["weights"] = Path(
        run.weights
    ).name  # where they lie is a matter of this machine; what they hold, of identity
    values = {"method": identity.method, **settings, "config": dataclasses.asdict(config)}
    values["identity"] = identity.without()
    files.write_atomic(folder / "config.json", json.dumps(values, indent=2) + "\n")
    if curve:
        note(folder, f"goes on after epoch {curve[-1]['epoch']}")
    buffer = io.StringIO()
    if curve:
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(curve[0])
        writer.writerows(row.values() for row in curve)
    files.write_atomic(folder / "curve.csv", buffer.getvalue())


def append(folder: Path, row: Mapping[str, object], *, first: bool) -> None:
    """Add an epoch to the curve; the `first` one brings the header."""
    with (folder / "curve.csv").open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if first:
            writer.writerow(row)
        writer.writerow(row.values())


def note(folder: Path, text: str) -> None:
    """A line of the log, with its time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

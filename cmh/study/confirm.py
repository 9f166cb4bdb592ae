"""The confirmed test: a configuration trained with fresh seeds, its epoch chosen on validation, the test split opened.

`tune` and `reproduce` both end here, so that their records mean the same.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import __version__, files, methods, records, training
from cmh.config import Value
from cmh.datasets import Dataset
from cmh.records import PROTOCOL, SCHEMA, Record

OPENINGS = "openings.jsonl"


@dataclasses.dataclass(frozen=True)
class Search:
    """What the search that found a configuration cost; all 0 where there was none."""

    trials: int = 0
    epochs: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Tested:
    """One trained run and what it scored; plain values, so that it travels between processes."""

    seed: int
    features: str
    dataset_sha256: str
    split_sha256: str
    epochs: int
    seconds: float
    chosen_epoch: int
    validation: dict[str, float]
    test: dict[str, float]
    device: str
    i2t: NDArray[np.float64]
    t2i: NDArray[np.float64]


def run(
    method: str,
    values: Mapping[str, Value],
    report: Callable[[training.Epoch], None] | None = None,
    dataset: Dataset | None = None,
    fetch: Callable[[str], Any] | None = None,
) -> Tested:
    """Train `method` with a flat mapping of hyperparameters and run settings, then test its best validation epoch.

    The caller counts the opening first (`open_test`). With `folder` set a run that was killed goes on. Whoever has
    the `dataset` may give it, with `fetch("search")` and `fetch("test")` to bring its arrays.
    """
    module = methods.get(method)
    settings, config = training.split(module, values)
    dataset = dataset if dataset is not None else training.load(settings)
    fetch = fetch if fetch is not None else lambda part: getattr(dataset, part)()
    fitted = training.fit(
        module,
        settings,
        config,
        fetch("search"),
        report=None if report is None else lambda epoch, _: report(epoch),
        folder=Path(settings.folder) if settings.folder else None,
    )
    scores, i2t, t2i = training.test(fitted, fetch("test"))
    best = fitted.best
    return Tested(
        seed=settings.seed,
        features=dataset.features,
        dataset_sha256=dataset.sha256,
        split_sha256=dataset.split_sha256,
        epochs=len(fitted.curve),
        seconds=fitted.seconds,
        chosen_epoch=best.epoch,
        validation={"map": best.val_map, "map_i2t": best.val_map_i2t, "map_t2i": best.val_map_t2i},
        test=scores,
        device=training.describe(fitted.device, fitted.threads),
        i2t=i2t,
        t2i=t2i,
    )


def open_test(folder: Path, purpose: str, config: Mapping[str, Value], seeds: list[int]) -> int:
    """How often the test split of this folder has been opened, this time included; written before it happens.

    The same configuration with the same seeds shows nothing new, so going on with it counts once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"purpose": purpose, "config": dict(config), "seeds": seeds}
    past = openings(folder)
    for number, line in enumerate(past, start=1):
        if {key: line.get(key) for key in entry} == entry:
            return number
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    files.append_line(folder / OPENINGS, json.dumps({**entry, "date": date}, sort_keys=True))
    return len(past) + 1


def openings(folder: Path) -> list[dict[str, Any]]:
    """Every opening of the folder's test split, oldest first."""
    path = folder / OPENINGS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_record(
    folder: Path,
    tested: Tested,
    *,
    method: str,
    dataset: str,
    bits: int,
    epochs: int,
    config: Mapping[str, Value],
    selection: str,
    search: Search,
    test_opened: int,
) -> Record:
    """Append the record of a run and its per-query AP to `folder`."""
    digest = hashlib.sha256(json.dumps([dict(config), epochs], sort_keys=True).encode()).hexdigest()[:8]
    record = Record(
        schema=SCHEMA,
        study=folder.resolve().name,
        method=method,
        dataset=dataset,
        dataset_sha256=tested.dataset_sha256,
        split_sha256=tested.split_sha256,
        features=tested.features,
        protocol=PROTOCOL,
        bits=bits,
        seed=tested.seed,
        config=dict(config),
        selection=selection,
        search_trials=search.trials,
        search_epochs=search.epochs,
        search_seconds=search.seconds,
        epochs=epochs,
        training_seconds=tested.seconds,
        chosen_epoch=tested.chosen_epoch,
        validation=tested.validation,
        test=tested.test,
        tie_rule="expected",
        test_opened=test_opened,
        versions=versions(),
        commit=commit(),
        host=platform.node(),
        device=tested.device,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        per_query=f"per-query-{digest}-{bits}-{tested.seed}.npz",
    )
    records.append(folder, record, tested.i2t, tested.t2i)
    return record


def versions() -> dict[str, str]:
    """Of everything that a number may depend on."""
    packages = ("torch", "numpy", "numba", "ray", "optuna")
    return {"cmh": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


def commit() -> str:
    """The checkout's commit, with `+` where files were changed; empty for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""

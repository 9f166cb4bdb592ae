"""The runs of a study that are no trials of its search: controls, further seeds of the best trials, and the
confirmation of its winner, read as far as they can be."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from cmh import identity, records
from cmh.config import Value
from cmh.errors import collected
from cmh.records import Record
from cmh.study import aside, controls
from cmh.views.curve_file import read_curve

Curve = Mapping[int, Mapping[str, float]]  # by epoch: val_map, and where they are known the loss terms, seconds, …
Settings = Mapping[str, Value]


@dataclasses.dataclass(frozen=True)
class Confirmation:
    """The winner trained anew with one seed."""

    name: str  # TRIAL-SEED, as its folder is called
    seed: int
    settings: Settings
    curve: Curve
    chosen_epoch: int | None = None
    validation: Mapping[str, float] = dataclasses.field(default_factory=dict)  # map, map_i2t, map_t2i
    test: Mapping[str, float] = dataclasses.field(default_factory=dict)  # the same and more; empty before the test
    record: Record | None = None


@dataclasses.dataclass(frozen=True)
class Beside:
    """A run that is no trial of the search, on validation alone."""

    name: str  # control-METHOD, control-default, finalist-TRIAL-SEED
    kind: str  # control | finalist: one of the best trials with a further seed
    seed: int | None
    settings: Settings
    curve: Curve  # of one epoch, where no more was kept of it than its result
    state: str  # running (or interrupted) | complete | failed


def besides(place: Path, kept: Mapping[str, object], problems: list[str]) -> list[Beside]:
    """The runs beside a search that trained something, as its storage has `kept` them and their folders have them."""
    found = []
    for name, scores in controls.kept(kept).items():
        if match := re.fullmatch(r"(\w+) \(control\)", name):
            about: Settings = {"method": match[1]}
            found.append(Beside(f"control-{match[1]}", "control", None, about, _point(1, *scores), "complete"))
    ended, kinds = aside.kept(kept), {"control": aside.CONTROLS, "finalist": aside.FINALS}
    for kind, parent in kinds.items():
        begun = {path.parent.name for path in place.glob(f"{parent}/*/config.json")}
        known = {name for name, one in ended.items() if (one.trial is None) == (kind == "control")}
        for name in sorted(begun | {name for name in known if re.fullmatch(r"[\w-]+", name)}):  # views name files so
            home, one = place / parent / name, ended.get(name)
            document, curve = read_json(home / "config.json"), read_curve(home / "curve.csv", problems)
            if one is not None and not curve:
                curve = _point(one.best_epoch, one.val_map_i2t, one.val_map_t2i, one.val_map)
            seed = document.get("seed") if one is None else one.seed
            state = "running" if one is None else "failed" if one.val_map is None else "complete"
            seed = seed if isinstance(seed, int) else None
            found.append(Beside(f"{kind}-{name}", kind, seed, settings_of(document), curve, state))
    return found


def _point(epoch: int, i2t: float | None, t2i: float | None, both: float | None) -> dict[int, dict[str, float]]:
    """The curve of a run of which only what it scored is known."""
    values = {"val_map_i2t": i2t, "val_map_t2i": t2i, "val_map": both}
    row = {name: value for name, value in values.items() if value is not None}
    return {epoch: row} if both is not None else {}


def confirmations(place: Path, problems: list[str]) -> list[Confirmation]:
    """The runs in `confirm/` of a study's folder, with their records, and records whose run has gone; by seed."""
    known, notes = collected(lambda: records.read(place), problems) or ([], [])
    problems += notes
    by_run = {record.identity.digest(): record for record in known}
    found, used = [], set[str]()
    for path in sorted(place.glob("confirm/*/config.json")):
        document, curve = read_json(path), read_curve(path.with_name("curve.csv"), problems)
        made = document.get("identity")
        if isinstance(made, dict) and isinstance(made.get("settings"), dict):
            made = {**made, "settings": identity.dated(made["settings"])}
        match = next((key for key, record in by_run.items() if record.identity.without() == made), "")
        seed = document.get("seed")
        used.add(match)
        one = Confirmation(path.parent.name, seed if isinstance(seed, int) else 0, settings_of(document), curve)
        found.append(_tested(one, by_run[match]) if match else one)
    for key, record in by_run.items():
        if key not in used:
            seed = record.identity.seed
            found.append(_tested(Confirmation(f"{key}-{seed}", seed, record.identity.config, {}), record))
    return sorted(found, key=lambda one: (one.seed, one.name))


def _tested(run: Confirmation, record: Record) -> Confirmation:
    return dataclasses.replace(
        run, chosen_epoch=record.chosen_epoch, validation=record.validation, test=record.test, record=record
    )


def read_json(path: Path) -> dict[str, object]:
    """A mapping in a file; empty where there is none that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def settings_of(document: Mapping[str, object]) -> dict[str, Value]:
    """The hyperparameters in a `config.json`."""
    config = document.get("config")
    items = config.items() if isinstance(config, dict) else ()
    return {str(key): value for key, value in items if isinstance(value, (bool, int, float, str))}

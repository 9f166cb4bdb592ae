"""What is asked for of a target (`target.py`), checked at the door: the target with its changes, on its data.

    cmh.reproduce → Asked → check() → Rerun → rerun.py

Nothing below knows the command line. The dataset is read once on the way.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from cmh import config, datasets, files, methods, training
from cmh.config import INPUTS, Value
from cmh.datasets import Source
from cmh.errors import ConfigError, collected
from cmh.interfaces import Dataset
from cmh.study import packing
from cmh.study import target as targets
from cmh.study.target import Target
from cmh.use import bundle

log = logging.getLogger(__name__)

OWN = ("epochs", "bits", "features", "weights", "captions", *INPUTS)  # run settings that `--set` may change
OPTIONS = ("method", "dataset", "split", "seeds", "label")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What somebody asks for, in plain values; only their form has been checked. None: as the target has it."""

    target: str
    method: str | None  # where a method of one's own is now
    dataset: str | None
    skip_bad: bool
    split: str | None
    settings: tuple[str, ...]  # KEY=VALUE, other than the target's
    seeds: int | None  # run 1 … seeds
    label: str | None
    device: str
    out: Path
    compare: bool
    fresh: bool
    test: bool = False  # open the test split for a winner that was changed
    base: Path | None = None  # a study whose winner's hyperparameters take the place of the target's


@dataclasses.dataclass(frozen=True)
class Rerun:
    """A target with the changes that were asked for. Checked."""

    target: Target
    dataset: Dataset
    device: str
    out: Path
    compare: bool  # with what was recorded
    fresh: bool  # train again what is trained already
    tested: bool = True  # false: validated only, so that no test query helps to choose between changes


def check(asked: Asked) -> Rerun:
    """The target with its changes, its dataset prepared.

    Raises ConfigError where the target, a change or the device cannot be used, or nothing was recorded that could be
    compared; DatasetError where its data cannot be had; RecordError where its records cannot be read,
    BundleError where a bundle is not sound.
    """
    found, changed, source = _changed(asked)
    for note in found.notes:
        log.warning("note: %s", note)
    compare = asked.compare or bundle.named(asked.target)  # a bundle is there to be checked
    if bundle.named(asked.target) and (changed or asked.test or asked.fresh):
        raise ConfigError(
            f"{asked.target}: a bundle is checked as it is: without --set, --from, --split, --test, --fresh"
        )
    if asked.test and found.trial is not None:
        raise ConfigError(f"--test: {asked.target} is a trial of a search, which never meets the test split")
    if compare and not set(found.recorded) & set(found.seeds):
        there = ", ".join(map(str, sorted(found.recorded))) or "none"
        seeds = ", ".join(map(str, found.seeds))
        raise ConfigError(
            f"--check: nothing was recorded for {asked.target} with these settings and seeds {seeds};"
            f" recorded seeds: {there}{_own_runs(found, asked)}"
        )
    dataset = training.load(config.build(training.Run, found.run), source)
    tested = found.trial is None and (asked.test or found.study is None or not changed)
    return Rerun(found, dataset, asked.device, asked.out, compare, asked.fresh, tested)


def _own_runs(found: Target, asked: Asked) -> str:
    """The command that compares the newest run of a file with its record, where there is one."""
    runs = [path for path in asked.out.glob(f"{found.name}-*") if (path / "run.yml").is_file()]
    if not runs or Path(asked.target).is_dir():
        return ""
    newest = max(runs, key=lambda path: path.stat().st_mtime)
    return f"; its newest run: python -m cmh.reproduce {files.quoted(newest)} --check"


def _changed(asked: Asked) -> tuple[Target, bool, Source]:
    """The target with the changes that were asked for, whether there are any, and its data as its reader sees them."""
    at = str(Path(asked.dataset).resolve()) if asked.dataset and datasets.is_folder(asked.dataset) else asked.dataset
    held = None
    if bundle.named(asked.target):
        held, found = packing.target(Path(asked.target), asked.method, at)
    else:
        found = targets.read(asked.target, method=asked.method, dataset=at)
    run = dict(found.run)
    if asked.split:
        run["split"] = asked.split
    if asked.skip_bad:
        run["skip_bad"] = True
    problems: list[str] = []
    changes = config.from_pairs(asked.settings, problems, OPTIONS)
    own: dict[str, Value] = {key: changes.pop(key) for key in OWN if key in changes}
    if own.get("weights"):
        own["weights"] = str(Path(str(own["weights"])).resolve())
    module = methods.get(found.method)
    base = found.config if asked.base is None else targets.winner(asked.base, methods.short(module))
    checked = collected(lambda: config.build(training.Run, run | own, where="run settings"), problems)
    built = collected(lambda: config.build(module.Config, {**base, **changes}, where="hyperparameters"), problems)
    if checked is None or built is None or problems:
        raise ConfigError(*problems)
    run |= {key: getattr(checked, key) for key in (*run, *own)}
    values = dataclasses.asdict(built)
    # A missing dataset is said before anything is written.
    source = training.read(checked)
    if held is not None:
        packing.check_data(held, source)
    old, new = base | found.run, values | run
    changed = [] if asked.base is None or base == found.config else [f"from {asked.base.resolve().name}"]
    changed += [f"{key}={new[key]}" for key in new if new[key] != old.get(key) and key not in ("dataset", "skip_bad")]
    here = {one.identity.dataset_sha256 for one in found.recorded.values() if one.identity is not None}
    same_data = at in (None, found.dataset) or source.sha256 in (*here, found.dataset_sha256)
    label = asked.label if asked.label is not None else ", ".join([*_kept(found.label, changed), *changed])
    with_changes = dataclasses.replace(
        found,
        run=run,
        config=values,
        seeds=list(range(1, asked.seeds + 1)) if asked.seeds else found.seeds,
        selection=found.selection if same_data and not changed else "fixed",
        recorded={} if changed else found.recorded,
        label=label,
    )
    return with_changes, bool(changed), source


def _kept(label: str, changed: list[str]) -> list[str]:
    """What a target's label still says once it was changed: earlier changes, but no name of what it was."""
    parts = label.split(", ") if changed else [label]
    return [part for part in parts if part and (not changed or "=" in part or part.startswith("from "))]

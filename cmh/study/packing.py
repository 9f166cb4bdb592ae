"""A winner, a run or a trial as a bundle (`cmh.use.bundle`), and a bundle as what `cmh.reproduce` runs again."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np

from cmh import config, datasets, methods, training
from cmh.config import Value
from cmh.datasets import Source
from cmh.errors import BundleError, DatasetError
from cmh.identity import Identity
from cmh.study import check
from cmh.study.target import SETTINGS, Recorded, Target
from cmh.use import bundle, description, find, tensors
from cmh.use.bundle import Bundle, Expected, Manifest

log = logging.getLogger(__name__)


def write(called: str, found: Target, out: Path) -> list[str]:
    """Pack the target `called` so, checked as `found`, into the file `out`; lines for people.

    Raises BundleError where there is nothing recorded or no model to pack, or the data are no longer those of the run;
    EncoderError, CheckpointError where a model cannot be read; OSError where the file cannot be written.
    """
    if out.suffix.lower() != ".zip":
        raise BundleError(f"--bundle {out}: must end in .zip, by which it is known")
    if bundle.named(called):
        raise BundleError(f"--bundle: {called} is a bundle already")
    if not out.resolve().parent.is_dir():
        raise BundleError(f"--bundle {out}: there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise BundleError(f"--bundle {out}: is a folder, but must be a file")
    made = {seed: one.identity for seed, one in found.recorded.items() if one.identity is not None}
    if not made:
        raise BundleError(
            f"--bundle: nothing was recorded for {called} that a bundle could be checked by: it packs the folder of a"
            " confirmed study or run, or a complete trial (STUDY:NUMBER); of an experiment file, run it first"
        )
    run = config.build(training.Run, found.run)
    source = training.read(run)
    if problems := _other_data(source, made.values()):
        raise BundleError(*problems, heading=f"{called}: its data are no longer those that were trained on")
    members = {bundle.SPLIT: _arrays(**dict(zip(bundle.SIDES, source.split.parts(), strict=True)))}
    own = methods.spec(found.method)
    if own.endswith(".py"):
        members[bundle.METHOD] = Path(own).read_bytes()
    models, packed = find.models(called, own if own.endswith(".py") else None), list[int]()
    for seed, identity in sorted(made.items()):
        recorded, place, curve = found.recorded[seed], f"seed-{seed}", list[dict[str, float | None]]()
        model = models.get(seed)
        if model is not None and model.about.identity == identity:
            saved = model.checkpoint()
            curve = [{key: _finite(value) for key, value in row.items()} for row in saved.curve]
            members[f"{place}/{description.NAME}"] = description.to_json(_without_paths(model.about)).encode()
            members[f"{place}/weights.npz"] = tensors.to_bytes(saved.best)
            packed.append(seed)
        members[f"{place}/run.json"] = bundle.to_json(
            Expected(
                identity,
                dict(recorded.versions),
                dict(recorded.validation),
                int(recorded.chosen_epoch or 1),
                dict(recorded.test),
                curve,
            )
        )
        if recorded.ap is not None:
            ap = recorded.ap
            members[f"{place}/per-query.npz"] = _arrays(i2t=ap.i2t, t2i=ap.t2i, groups=ap.groups)
    if not packed:
        raise BundleError(f"--bundle: {called} has no weights of a recorded run; --fresh trains it again")
    bundle.write(
        out,
        Manifest(
            version=bundle.VERSION,
            method=next(iter(made.values())).method,
            trial=-1 if found.trial is None else found.trial,
            selection=found.selection,
            label=found.label,
            run=_run(found.run, next(iter(made.values()))),
            config=found.config,
            search=found.cost,
            seeds=sorted(made),
            tolerance=check.tolerance(found.recorded),
            sizes={},
            sha256={},
        ),
        members,
    )
    without = sorted(made.keys() - set(packed))
    lines = [f"seed {seed}: its weights are not here; its numbers are packed without them" for seed in without]
    return [*lines, *([f"{bundle.METHOD}: the text of a method of your own is packed, too"] * own.endswith(".py"))]


def _run(run: Mapping[str, Value], identity: Identity) -> dict[str, Value]:
    """Run settings without a path of this machine."""
    name = run["dataset"] if run["dataset"] in datasets.NAMES else identity.dataset
    return {**{key: run[key] for key in SETTINGS}, "dataset": name, "weights": Path(str(run["weights"])).name}


def _without_paths(about: description.Description) -> description.Description:
    text = dataclasses.replace(about.text, weights=Path(about.text.weights).name)
    return dataclasses.replace(about, method=about.identity.method, weights=Path(about.weights).name, text=text)


def _finite(value: object) -> float | None:
    number = float(value) if isinstance(value, (int, float)) else math.nan
    return number if math.isfinite(number) else None


def _arrays(**arrays: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def target(path: Path, method: str | None = None, dataset: str | None = None) -> tuple[Bundle, Target]:
    """A bundle as a target whose recorded runs are those that it holds. `method` and `dataset` say where those of one's
    own are: of a bundle only names are taken.

    Raises BundleError, ConfigError.
    """
    held = bundle.read(path)
    held.check()  # also what is not compared: who says that a bundle agrees says so of its models, too
    about = held.manifest
    if method is None:
        bundle.check_method(held)
    run = dict(about.run)
    problems = [f"run settings are without {key}" for key in SETTINGS if key not in run]
    problems += [config.unknown(key, SETTINGS) for key in run if key not in SETTINGS]
    if dataset is None and run.get("dataset") not in datasets.NAMES:
        problems.append(
            f"is of a dataset of one's own, {run.get('dataset')!r:.60}; --dataset DIR says where it is here"
        )
    if problems:
        raise BundleError(*problems, heading=f"{path} cannot be run again")
    if run["weights"]:
        run["weights"] = str(path.resolve().parent / Path(str(run["weights"])).name)
    if dataset is not None:
        run["dataset"] = dataset
    recorded = {}
    for seed in about.seeds:
        one = held.expected(seed)
        curve = tuple(math.nan if row.get("val_map") is None else float(row["val_map"] or 0) for row in one.curve)
        recorded[seed] = Recorded(
            one.identity, one.versions, one.validation, one.chosen_epoch, one.test, held.ap(seed), curve
        )
    stated = check.tolerance(recorded)
    if abs(stated - about.tolerance) > 1e-9:
        raise BundleError(f"{path}: states a tolerance of {about.tolerance:.4g}, but its numbers give {stated:.4g}")
    called = method or about.method
    return held, Target(
        name=path.stem,
        method=called,
        run=run,
        config=dataclasses.asdict(config.build(methods.get(called).Config, about.config, where=str(path))),
        seeds=list(about.seeds),
        selection=about.selection,
        search={},
        cost=about.search,
        recorded=recorded,
        label=about.label,
        dataset=str(about.run["dataset"]),
        trial=None if about.trial < 0 else about.trial,
    )


def check_data(held: Bundle, source: Source) -> None:
    """Raises DatasetError that says how data or split differ from what the bundle was made with."""
    made = [held.expected(seed).identity for seed in held.manifest.seeds]
    problems = _other_data(source, made)
    there = held.split()
    if there.sha256() != made[0].split_sha256:
        raise BundleError(f"{held.path}: its split is not the one that its runs name")
    for side, old, new in zip(bundle.SIDES, there.parts(), source.split.parts(), strict=True):
        if not np.array_equal(old, new):
            only = len(np.setdiff1d(old, new)), len(np.setdiff1d(new, old))
            problems.append(
                f"{side}: {len(old):,} items there, {len(new):,} here; {only[0]:,} only there, {only[1]:,} only here"
                + "; in another order" * (only == (0, 0))
            )
    if problems:
        raise DatasetError(
            *problems, heading=f"{held.path}: was made with other data, so that its numbers cannot come out again"
        )


def _other_data(source: Source, made: Iterable[Identity]) -> list[str]:
    here = {"dataset": source.sha256, "split": source.split.sha256()}
    there = [{"dataset": one.dataset_sha256, "split": one.split_sha256} for one in made]
    return [
        f"{what}: {one[what][:12]} there, {here[what][:12]} here (SHA-256)"
        for what in here
        for one in there[:1] + [other for other in there[1:] if other != there[0]]
        if one[what] != here[what]
    ]

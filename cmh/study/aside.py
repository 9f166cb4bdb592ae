"""Runs beside a search, which no sampler and no rung sees: the library's default as a control, and further seeds of the
best trials. Each is trained to its end and validated; what it scored is kept with the study in its storage.

A trial that happens to have the default's configuration is trained for itself: what a search finds, it pays for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmh import methods, typed_json
from cmh.config import Value
from cmh.study import finals
from cmh.study.trial_row import TrialRow

if TYPE_CHECKING:
    from cmh.interfaces import SearchData
    from cmh.study.database import Study
    from cmh.training import Epoch

KEPT = "aside"  # the storage's name for them
FINALISTS = "finalists"  # … for how many trials get further seeds
CONTROL = "default"  # the run of the library's default
CONTROLS, FINALS = "controls", "finals"  # folders in the study's


@dataclasses.dataclass(frozen=True)
class Aside:
    """A run beside the search, that has ended."""

    name: str  # default, or TRIAL-SEED
    trial: int | None  # whose configuration it has; None: the library's default
    seed: int
    val_map: float | None  # at its best epoch; None where it failed
    val_map_i2t: float | None
    val_map_t2i: float | None
    best_epoch: int
    epochs: int
    passes: float
    seconds: float
    device_seconds: float
    device: str
    error: str  # empty: none


def name_of(trial: int, seed: int) -> str:
    """Of the run of a trial's configuration with another seed."""
    return f"{trial}-{seed}"


def run(
    method: str,
    values: Mapping[str, Value],
    report: Callable[[Epoch], None],
    search: Callable[[], SearchData],
) -> Aside:
    """Train a flat mapping of hyperparameters and run settings to its end, on validation alone; what was begun in its
    `folder` goes on. Whoever asked knows its name and trial.

    Raises ConfigError where a value or the device cannot be used, NotFiniteError where a loss or a code is not finite.
    """
    from cmh import training  # late: whoever reads a study needs no torch

    settings, config = training.parse(methods.get(method), values)
    folder = Path(settings.folder)
    fitted = training.fit(
        methods.get(method), settings, config, search(), report=lambda epoch, _: report(epoch), folder=folder
    )
    best, last = fitted.best, fitted.curve[-1]
    return Aside(
        name=folder.name,
        trial=None,
        seed=settings.seed,
        val_map=best.val_map,
        val_map_i2t=best.val_map_i2t,
        val_map_t2i=best.val_map_t2i,
        best_epoch=best.epoch,
        epochs=last.epoch,
        passes=last.passes,
        seconds=fitted.seconds,
        device_seconds=fitted.device_seconds,
        device=fitted.identity.device,
        error="",
    )


def failed(name: str, trial: int | None, seed: int, error: str) -> Aside:
    """A run that came to nothing."""
    return Aside(name, trial, seed, None, None, None, 0, 0, 0.0, 0.0, 0.0, "", error)


def keep(study: Study, one: Aside) -> None:
    """Keep a run with its study, in one write."""
    study.set_user_attr(KEPT, with_run(study.user_attrs, one)[KEPT])


def with_run(attributes: Mapping[str, object], one: Aside) -> dict[str, object]:
    """What a storage keeps of a study, with a further run."""
    found = attributes.get(KEPT)
    known = found if isinstance(found, dict) else {}
    return {**attributes, KEPT: {**known, one.name: dataclasses.asdict(one)}}


def kept(attributes: Mapping[str, object]) -> dict[str, Aside]:
    """The runs among what a storage keeps of a study, by name; none where an older cmh, or a damaged one, has none."""
    found = attributes.get(KEPT)
    made: dict[str, Aside] = {}
    for name, values in found.items() if isinstance(found, dict) else ():
        try:
            made[str(name)] = typed_json.build(Aside, values, {})
        except (ValueError, AttributeError):
            continue
    return made


def finalists_of(attributes: Mapping[str, object]) -> int:
    """How many trials get further seeds, as the storage has it."""
    found = attributes.get(FINALISTS)
    return found if isinstance(found, int) else 0


def of_seeds(runs: Iterable[Aside]) -> dict[tuple[int, int], Aside]:
    """Those with further seeds, by (trial, seed)."""
    return {(one.trial, one.seed): one for one in runs if one.trial is not None}


def standing(rows: Sequence[TrialRow], attributes: Mapping[str, object], seed: int) -> finals.Standing:
    """Who wins a study by what its storage keeps; `seed` is the study's."""
    values = {key: one.val_map for key, one in of_seeds(kept(attributes).values()).items()}
    return finals.standing(rows, finalists_of(attributes), values, seed)

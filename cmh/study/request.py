"""A search as it is asked for: everything is checked here, at the door, and becomes one frozen `Request`.

    cmh.tune → Asked → check() → Request → a StudyRequest for each method and code length → life.py

Nothing below knows the command line. The dataset is read once on the way.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from cmh import config, datasets, methods, training
from cmh.config import INPUTS, Value
from cmh.errors import ConfigError, collected
from cmh.features import backbones
from cmh.identity import Identity
from cmh.interfaces import Dataset
from cmh.study import confirm, folder
from cmh.study import space as spaces
from cmh.study.space import Space


@dataclasses.dataclass(frozen=True)
class Asked:
    """What somebody asks for, in plain values; only their form has been checked."""

    methods: tuple[str, ...]  # names, or files of one's own
    space: str | None  # a file or a built-in name; None: each method's own
    dataset: str  # a name, or a folder of one's own
    skip_bad: bool
    split: str  # the order of a benchmark's split
    features: str
    weights: Path | None
    bits: tuple[int, ...]
    settings: tuple[str, ...]  # KEY=VALUE, out of the search
    trials: int | None  # None: the space's
    epochs: int | None  # None: the space's
    seed: int
    seeds: int  # how many the winner is confirmed with; 0 leaves the test split closed
    warm_start: Path | None
    out: Path
    storage: str | None  # None: SQLite in the study's folder
    limits: Limits


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a study may spend, and what each of its trials is to get; None where nobody said."""

    cpus_per_trial: float
    gpus_per_trial: float | Literal["auto"] | None
    max_concurrent: int | None
    address: str | None  # of a running Ray cluster; None: a session of its own
    time_budget: float | None  # seconds of a study's search, all its starts together
    budget_passes: float | None  # of a study's trials over the training items
    trial_timeout: float | None  # seconds without a report


@dataclasses.dataclass(frozen=True)
class StudyRequest:
    """One study: a method at one code length. Checked."""

    space: Space
    folder: Path
    run: Mapping[str, Value]  # settings that all its trials share
    fixed: Mapping[str, Value]  # hyperparameters that are not searched
    limit: int  # trials in all
    dataset: Dataset
    url: str  # of its Optuna storage
    notes: Mapping[str, object] = dataclasses.field(default_factory=dict)  # for study.yml, beside the request

    @property
    def base(self) -> dict[str, Value]:
        """What a hyperparameter has that is not searched: the library's defaults under the fixed values."""
        return {**config.defaults(methods.get(self.space.method).Config), **self.fixed}

    @property
    def bits(self) -> int:
        """Length of its codes."""
        return int(self.run["bits"])

    @property
    def seed(self) -> int:
        """Of its sampler and of all its trials."""
        return int(self.run["seed"])

    @property
    def rungs(self) -> list[int]:
        """Epochs at which its trials are compared; none without a schedule."""
        return self.space.asha.rungs(self.space.epochs) if self.space.asha is not None else []

    def identity(self, hyperparameters: Mapping[str, Value]) -> Identity:
        """Of a run of this study with these hyperparameters and the study's seed."""
        return confirm.identify(self.space.method, {**hyperparameters, **self.run}, self.dataset)


@dataclasses.dataclass(frozen=True)
class Request:
    """A whole search, checked: its studies in order, and what they share."""

    studies: tuple[StudyRequest, ...]
    seeds: tuple[int, ...]  # of the confirmation; none: the test split stays closed
    limits: Limits


def check(asked: Asked, *, progress: bool = False) -> Request:
    """Everything that can be checked before a search is checked; then the dataset is prepared.

    `progress` shows a bar while the dataset's pictures are looked at. Raises ConfigError that lists all problems at
    once; DatasetError where the arrays cannot be prepared; StudyError where the storage of `warm_start` cannot be read.
    """
    problems: list[str] = []
    names = list(dict.fromkeys(asked.methods))
    if asked.space and len(names) > 1:
        problems.append("--space is one method's, but there are several; leave it out, then each has its own")
    values = collected(lambda: config.from_pairs(asked.settings), problems) or {}
    given = {key: values.pop(key) for key in INPUTS if key in values}
    run = collected(lambda: config.build(training.Run, given, where="--set"), problems)
    inputs: dict[str, Value] = {key: getattr(run, key) for key in given} if run is not None else {}
    searches = [collected(functools.partial(_space, name, values, asked), problems) for name in names]
    if asked.limits.cpus_per_trial == 0 and not asked.limits.gpus_per_trial:
        problems.append("--cpus-per-trial is 0 without --gpus-per-trial: a trial must take something")
    # Reading is cheap; preparing comes only when everything else is right.
    source = collected(
        lambda: datasets.read(asked.dataset, skip_bad=asked.skip_bad, order=asked.split, progress=progress), problems
    )
    collected(lambda: backbones.check(asked.features, str(asked.weights or "")), problems)
    if problems or run is None or source is None:
        raise ConfigError(*problems, heading="" if len(problems) == 1 else "nothing was started")
    dataset = training.load(
        dataclasses.replace(
            run,
            dataset=asked.dataset,
            split=asked.split,
            skip_bad=asked.skip_bad,
            features=asked.features,
            weights=str(asked.weights or ""),
        ),
        source,
    )
    studies = [
        _study(asked, space, fixed, bits, inputs, dataset)
        for space, fixed in filter(None, searches)
        for bits in dict.fromkeys(asked.bits)
    ]
    if asked.warm_start is not None:
        studies = [_warm(study, asked.warm_start) for study in studies]
    seeds = tuple(asked.seed + number for number in range(1, asked.seeds + 1))
    return Request(tuple(studies), seeds, asked.limits)


def _space(name: str, values: Mapping[str, Value], asked: Asked) -> tuple[Space, dict[str, Value]]:
    """A method's search space, and the checked values that `--set` takes out of it."""
    module = methods.get(name)
    problems: list[str] = []
    built = collected(lambda: config.build(module.Config, values, where="--set"), problems)
    fixed: dict[str, Value] = {} if built is None else {key: getattr(built, key) for key in values}

    def load() -> Space:
        path = spaces.find(asked.space or methods.short(module))
        return spaces.load(path, method=methods.short(module), fixed=fixed, epochs=asked.epochs)

    space = collected(load, problems)
    if space is None or problems:
        raise ConfigError(*problems)
    return space, fixed


def _study(
    asked: Asked,
    space: Space,
    fixed: Mapping[str, Value],
    bits: int,
    inputs: Mapping[str, Value],
    dataset: Dataset,
) -> StudyRequest:
    place = asked.out / f"{space.method}-{dataset.name}-{bits}"
    return StudyRequest(
        space=space,
        folder=place,
        run={
            "dataset": str(Path(asked.dataset).resolve()) if datasets.is_folder(asked.dataset) else dataset.name,
            "split": asked.split,
            "skip_bad": asked.skip_bad,
            "features": asked.features,
            "weights": str(asked.weights.resolve()) if asked.weights else "",
            "bits": bits,
            "epochs": space.epochs,
            "seed": asked.seed,
            "threads": training.threads(asked.limits.cpus_per_trial),
            "validate_every": space.validate_every,
            "validation_database": space.validation_database,
            **inputs,
        },
        fixed=fixed,
        limit=asked.trials or space.trials,
        dataset=dataset,
        url=asked.storage or f"sqlite:///{(place / 'study.db').resolve()}",
    )


def _warm(study: StudyRequest, source: Path) -> StudyRequest:
    """The study with the best points of another among its first trials."""
    points = folder.warm_start(study.folder, source, study.space, study.base)
    named = tuple((f"warm {number}", tuple(point.items())) for number, point in enumerate(points, start=1))
    space = dataclasses.replace(study.space, start_from=study.space.start_from + named)
    notes = {"warm_start": {"study": str(source), "points": points}}
    return dataclasses.replace(study, space=space, notes=notes)

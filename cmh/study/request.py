"""A search as it is asked for: everything is checked here, at the door, and becomes one frozen `Request`.

    cmh.tune → Asked → check() → Request → a StudyRequest for each method and code length → life.py

Nothing below knows the command line. The dataset is read once on the way.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from cmh import config, datasets, files, methods, training
from cmh.config import INPUTS, Value
from cmh.errors import ConfigError, collected
from cmh.features import backbones
from cmh.identity import Identity
from cmh.interfaces import Dataset, MethodModule
from cmh.study import address, confirm, folder
from cmh.study import space as spaces
from cmh.study import target as targets
from cmh.study.space import Space

log = logging.getLogger(__name__)

AS_IN_PAPER = ("scale",)  # run settings of a study that its paper point does not share, unless --set fixes them

OPTIONS = ("method", "dataset", "split", "features", "weights", "bits", "epochs", "seed", "seeds", "trials")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What somebody asks for, in plain values; only their form has been checked."""

    methods: tuple[str, ...]  # names, or files of one's own
    spaces: tuple[str, ...]  # files, folders of them or built-in names; whoever is not among them has its own
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
    base: Path | None  # a study whose winner has the values of whatever is not searched
    out: Path
    storage: str | None  # None: SQLite in the study's folder
    limits: Limits
    captions: str = datasets.GIVEN  # of items with several
    keep: str | None = None  # whose weights stay, one of weights.KEEP; None: as the study has it, else the winner's


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
    keep: str = "winner"  # whose weights stay on disk, one of weights.KEEP

    @property
    def base(self) -> dict[str, Value]:
        """What a hyperparameter has that is not searched: the library's defaults under the fixed values."""
        return {**config.defaults(methods.get(self.space.method).Config), **self.fixed}

    @property
    def noted_run(self) -> dict[str, Value]:
        """`run` as a trial writes it down: the dataset by its name, as no trial looks for it by itself."""
        return {**self.run, "dataset": self.dataset.name}

    def places(self) -> dict[str, str]:
        """Where method, dataset and weights are, as a file in the study's folder names them."""
        weights, dataset = str(self.run["weights"]), str(self.run["dataset"])
        found = {"method_file": methods.spec(self.space.method), "dataset": dataset, "weights": weights}
        return {
            key: files.portable(Path(value), self.folder) if "/" in value else value
            for key, value in found.items()
            if value
        }

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

    def identity(self, hyperparameters: Mapping[str, Value], origin: str = "search") -> Identity:
        """Of a run of this study with these hyperparameters, of a trial of that origin; its device is Ray's to say.

        (So nobody looks for it here, where a search would then hold a part of a GPU.)
        """
        values = {**hyperparameters, **self.run, **self.space.run_of(origin), "device": "cpu"}
        return dataclasses.replace(confirm.identify(self.space.method, values, self.dataset), device="")


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
    modules = _modules(asked.methods, problems)
    files = collected(lambda: spaces.of_methods(modules, asked.spaces), problems) or {}
    values = config.from_pairs(asked.settings, problems, OPTIONS)
    given = {key: values.pop(key) for key in INPUTS if key in values}
    run = collected(lambda: config.build(training.Run, given, where="--set"), problems)
    inputs: dict[str, Value] = {key: getattr(run, key) for key in given} if run is not None else {}
    searches = [collected(functools.partial(_space, *each, values, asked), problems) for each in files.items()]
    if asked.limits.cpus_per_trial == 0 and not asked.limits.gpus_per_trial:
        problems.append("--cpus-per-trial is 0 without --gpus-per-trial: a trial must take something")
    storage = None if asked.storage is None else collected(lambda: address.asked(str(asked.storage)), problems)
    collected(lambda: address.check_cluster(asked.limits.address), problems)
    # Reading is cheap; preparing comes only when everything else is right.
    read = dataclasses.replace(
        run or training.Run(),
        dataset=asked.dataset,
        split=asked.split,
        captions=asked.captions,
        skip_bad=asked.skip_bad,
        features=asked.features,
        weights=str(asked.weights or ""),
    )
    source = collected(lambda: training.read(read, progress=progress), problems)
    collected(lambda: backbones.check(asked.features, str(asked.weights or "")), problems)
    if problems or run is None or source is None:
        raise ConfigError(*problems, heading="" if len(problems) == 1 else "nothing was started")
    dataset = training.load(read, source)
    _check_labels(asked.dataset, dataset)
    asked = dataclasses.replace(asked, storage=storage)
    studies = [
        _study(asked, space, fixed, bits, inputs, dataset)
        for space, fixed in filter(None, searches)
        for bits in dict.fromkeys(asked.bits)
    ]
    if asked.warm_start is not None:
        studies = [_warm(study, asked.warm_start) for study in studies]
    seeds = tuple(asked.seed + number for number in range(1, asked.seeds + 1))
    return Request(tuple(studies), seeds, asked.limits)


def _check_labels(name: str, dataset: Dataset) -> None:
    """Raises ConfigError where every ranking of the validation split has the same MAP, so that nothing can be learned
    from it."""
    data = dataset.search()
    queries, database = data.validation_query.labels > 0, data.validation_database.labels > 0
    problem = ""
    if not (queries & database.any(0)).any():
        problem = f"none of the {len(queries)} validation queries has a relevant item, as none shares a label with one"
    elif (queries.all(0) & database.all(0)).any():
        problem = f"every item is relevant to each of the {len(queries)} validation queries, as all carry one label"
    if problem:
        cure = f"`python -m cmh.datasets check {shlex.quote(name)}` shows labels and split"
        raise ConfigError(f"nothing can be learned from {dataset.name}: {problem}; {cure}")


def _modules(wanted: Sequence[str], problems: list[str]) -> list[MethodModule]:
    """The methods, each once; those that are none, or share a name, are problems."""
    found: dict[str, MethodModule] = {}
    for text in wanted:
        module = collected(functools.partial(methods.get, text), problems)
        if module is None:
            continue
        before = found.setdefault(methods.short(module), module)
        if before.__file__ != module.__file__:
            problems.append(f"--method {before.__file__} and {module.__file__}: have one name, but studies go by it")
    return list(found.values())


def _space(name: str, file: Path, values: Mapping[str, Value], asked: Asked) -> tuple[Space, dict[str, Value]]:
    """A method's search space, and the checked values that `--set` takes out of it."""
    module = methods.get(name)
    problems: list[str] = []
    built = collected(lambda: config.build(module.Config, values, where="--set"), problems)
    fixed: dict[str, Value] = {} if built is None else {key: getattr(built, key) for key in values}

    def load() -> Space:
        space = spaces.load(file, method=name, fixed=fixed, epochs=asked.epochs)
        return space if asked.base is None else based(space)

    def based(space: Space) -> Space:
        """The same ranges around another study's winner, which is a point to start from, too."""
        assert asked.base is not None
        found = targets.winner(asked.base, name)
        point = dataclasses.asdict(config.build(module.Config, {**found, **fixed}, where=f"--from {asked.base}"))
        searched = {item.name for item in space.ranges}
        fixed.update({key: value for key, value in point.items() if key not in searched})
        space = spaces.load(file, method=name, fixed=fixed, epochs=asked.epochs)
        inside = all(item.holds(point[item.name]) for item in space.ranges if item.active(point))
        starts = (*space.start_from, *([("from", tuple(point.items()))] if inside else []))
        return dataclasses.replace(space, start_from=starts)

    space = collected(load, problems)
    if space is None or problems:
        raise ConfigError(*problems)
    for note in space.notes:
        log.info("%s: %s", space.method, note)
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
    # What is fixed for all holds for the paper's point, too.
    paper = {
        key: value for key, value in config.paper(training.Run).items() if key in AS_IN_PAPER and key not in inputs
    }
    return StudyRequest(
        space=dataclasses.replace(space, runs=(("paper", tuple(paper.items())),)),
        folder=place,
        run={
            "dataset": str(Path(asked.dataset).resolve()) if datasets.is_folder(asked.dataset) else dataset.name,
            "split": asked.split,
            "captions": asked.captions,
            "skip_bad": asked.skip_bad,
            "features": asked.features,
            "weights": str(asked.weights.resolve()) if asked.weights else "",
            "bits": bits,
            "epochs": space.epochs,
            "seed": asked.seed,
            "threads": training.threads(asked.limits.cpus_per_trial),
            "validate_every": space.validate_every,
            "validation_database": space.validation_database,
            "scale": config.defaults(training.Run)["scale"],
            **inputs,
        },
        fixed=fixed,
        limit=asked.trials or space.trials,
        dataset=dataset,
        notes={} if asked.base is None else {"from": files.portable(asked.base, place)},
        url=folder.storage_for(place, asked.storage),
        keep=asked.keep or (folder.read_study(place).keep if (place / "study.yml").is_file() else "winner"),
    )


def _warm(study: StudyRequest, source: Path) -> StudyRequest:
    """The study with the best points of another among its first trials."""
    points = folder.warm_start(study.folder, source, study.space, study.base)
    named = tuple((f"warm {number}", tuple(point.items())) for number, point in enumerate(points, start=1))
    space = dataclasses.replace(study.space, start_from=study.space.start_from + named)
    notes = {"warm_start": {"study": files.portable(source, study.folder), "points": points}}
    return dataclasses.replace(study, space=space, notes={**study.notes, **notes})

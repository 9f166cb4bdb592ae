"""A search as it is asked for: everything is checked here, at the door, and becomes one frozen `Request`.

    cmh.tune → Asked → check() → Request → a StudyRequest for each method and code length → life.py

Nothing below knows the command line. The dataset is read once on the way.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from cmh import config, datasets, files, methods, training
from cmh.config import INPUTS, Value
from cmh.datasets import Source
from cmh.errors import ConfigError, collected
from cmh.features import backbones
from cmh.identity import Identity
from cmh.interfaces import Dataset, MethodModule
from cmh.study import address, confirm, finals, folder, learnable, starts
from cmh.study import space as spaces
from cmh.study import target as targets
from cmh.study.ranges import outside
from cmh.study.space import Space

log = logging.getLogger(__name__)

Load = Callable[[training.Run, Source | None], Dataset]  # training.load, or one that prepares each dataset once
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
    warm_start: tuple[str, ...]  # a study whose best points are tried first, or starts.DEFAULTS, or both
    base: Path | None  # a study whose winner has the values of whatever is not searched
    out: Path  # where the folders of studies are
    storage: str | None  # None: SQLite in the study's folder
    limits: Limits
    captions: str = datasets.GIVEN  # of items with several
    keep: str | None = None  # whose weights stay, one of weights.KEEP; None: as the study has it, else the winner's
    without: tuple[str, ...] = ()  # components that an ablation takes out: KEY=VALUE, fixed like `settings`
    finalists: int | None = None  # None: the space's


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
    limit: int  # trials that are searched, all its starts together
    dataset: Dataset
    url: str  # of its Optuna storage
    notes: Mapping[str, object] = dataclasses.field(default_factory=dict)  # for study.yml, beside the request
    keep: str = "winner"  # whose weights stay on disk, one of weights.KEEP
    label: str = ""  # what of the method is changed, for boards: KEY=VALUE of an ablation

    @property
    def prior(self) -> str:
        """What beside the paper's point the search was given, for the board; empty: nothing."""
        return self.space.prior or ("from" if "from" in self.notes else "")

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
    studies = looked(asked, functools.partial(training.read, progress=progress), problems)
    if problems:
        raise ConfigError(*problems, heading="" if len(problems) == 1 else "nothing was started")
    return together(asked, studies(training.load))


def together(asked: Asked, studies: Sequence[StudyRequest]) -> Request:
    """Studies as a request with the limits of `asked`, and seeds that no search has seen; says what is to be known."""
    for line in dict.fromkeys(f"{study.space.method}: {note}" for study in studies for note in study.space.notes):
        log.info("%s", line)
    return Request(tuple(studies), tuple(asked.seed + number for number in range(1, asked.seeds + 1)), asked.limits)


def looked(
    asked: Asked, read: Callable[[training.Run], Source], problems: list[str]
) -> Callable[[Load], list[StudyRequest]]:
    """Look at all of a request that needs no arrays, and add what is wrong to `problems`.

    `read` is `training.read`, or one that reads each dataset once. Returns what prepares the dataset by a `Load` and
    gives the studies, of use only where there are no problems; it raises what `check` does.
    """
    modules = _modules(asked.methods, problems)
    files = collected(lambda: spaces.of_methods(modules, asked.spaces), problems) or {}
    values = config.from_pairs((*asked.settings, *asked.without), problems, OPTIONS)
    given = {key: values.pop(key) for key in INPUTS if key in values}
    run = collected(lambda: config.build(training.Run, given, where="--set"), problems)
    inputs: dict[str, Value] = {key: getattr(run, key) for key in given} if run is not None else {}
    searches = [collected(functools.partial(_space, *each, values, asked), problems) for each in files.items()]
    if asked.limits.cpus_per_trial == 0 and not asked.limits.gpus_per_trial:
        problems.append("--cpus-per-trial is 0 without --gpus-per-trial: a trial must take something")
    warm = collected(lambda: starts.warm_study(asked.warm_start), problems)
    storage = None if asked.storage is None else collected(lambda: address.asked(str(asked.storage)), problems)
    collected(lambda: address.check_cluster(asked.limits.address), problems)
    # Reading is cheap; preparing comes only when everything else is right.
    wanted = training.Run(dataset=asked.dataset, split=asked.split, captions=asked.captions, skip_bad=asked.skip_bad)
    source = collected(lambda: read(wanted), problems)
    collected(lambda: backbones.check(asked.features, str(asked.weights or "")), problems)

    def studies(load: Load) -> list[StudyRequest]:
        arrays = config.build(training.Run, {**dataclasses.asdict(wanted), "features": asked.features, **inputs})
        dataset = load(dataclasses.replace(arrays, weights=str(asked.weights or "")), source)
        learnable.check(asked.dataset, dataset)
        found = [
            _study(dataclasses.replace(asked, storage=storage), space, fixed, bits, inputs, dataset)
            for space, fixed in filter(None, searches)
            for bits in dict.fromkeys(asked.bits)
        ]
        return found if warm is None else [_warm(study, warm) for study in found]

    return studies


def _warm(study: StudyRequest, source: Path) -> StudyRequest:
    space, notes = starts.warm(study.space, study.folder, source, study.base)
    return dataclasses.replace(study, space=space, notes={**study.notes, **notes})


def _modules(wanted: Sequence[str], problems: list[str]) -> list[MethodModule]:
    """The methods, each once; those that are none, or share a name, are problems."""
    found: dict[str, MethodModule] = {}
    for text in methods.searched(wanted):
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
        around = (*space.start_from, *([] if outside(space.ranges, point) else [("from", tuple(point.items()))]))
        return dataclasses.replace(space, start_from=around)

    space = collected(load, problems)
    if space is not None:
        base, given = {**config.defaults(module.Config), **fixed}, (asked.trials, asked.finalists, asked.warm_start)
        space = starts.with_options(space, base, problems, *given)
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
    without = (re.sub(r"[^\w.=+-]", "_", pair) for pair in asked.without)
    place = asked.out / "-".join([f"{space.method}-{dataset.name}-{bits}", *without])
    space = starts.as_begun(space, place, {**config.defaults(methods.get(space.method).Config), **fixed})
    # What is fixed for all holds for the paper's point, too.
    paper = {key: v for key, v in config.paper(training.Run).items() if key in AS_IN_PAPER and key not in inputs}
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
        limit=space.trials - finals.runs(space.finalists),
        dataset=dataset,
        notes={} if asked.base is None else {"from": files.portable(asked.base, place)},
        label=", ".join(asked.without),
        url=folder.storage_for(place, asked.storage),
        keep=asked.keep or (folder.read_study(place).keep if (place / "study.yml").is_file() else "winner"),
    )

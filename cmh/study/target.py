"""What `cmh.reproduce` runs again, checked: an experiment file, a study's winner, a run, or one trial of a study."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from cmh import config, datasets, files, methods, records, training, typed_json
from cmh.config import Value
from cmh.errors import ConfigError, RecordError, collected
from cmh.identity import Identity, dated
from cmh.records import NOT_NOTED, SELECTIONS, Cost, PerQuery, Record
from cmh.study.folder import read_study

SETTINGS = (
    *("dataset", "split", "captions", "skip_bad", "features", "weights", "bits", "epochs", "threads"),
    *config.INPUTS,
)
KEYS = ("method", *SETTINGS, "seeds", "selection", "label", "config")
NOTES = ("search", "recorded", "reported", "remarks")  # for people and the board
FILES = ("best.yml", "run.yml")  # of a study, and of a run


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What is known of a run that is to be compared with; empty or None where it is not known."""

    identity: Identity | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    validation: Mapping[str, float] = dataclasses.field(default_factory=dict)  # map, map_i2t, map_t2i
    chosen_epoch: int | None = None
    test: Mapping[str, float] = dataclasses.field(default_factory=dict)  # the same
    ap: PerQuery | None = None
    curve: tuple[float, ...] = ()  # validation MAP of each epoch that was validated


@dataclasses.dataclass(frozen=True)
class Target:
    """What is run."""

    name: str
    method: str
    run: dict[str, Value]  # SETTINGS
    config: dict[str, Value]
    seeds: list[int]
    selection: str
    search: Mapping[str, object]  # what its file says of the search
    cost: Cost  # the same as a record has it
    recorded: dict[int, Recorded]  # by seed
    label: str = ""
    dataset: str = ""  # where its file says that it is
    dataset_sha256: str = ""  # where the file of a study says it
    study: Path | None = None
    trial: int | None = None
    notes: tuple[str, ...] = ()  # what of its records cannot be read

    @property
    def prior(self) -> str:
        """What its search was given beside the paper's point, as its file says."""
        unknown = NOT_NOTED if self.selection == "validation" else ""
        return str(self.search.get("prior", unknown))


def read(text: str, *, method: str | None = None, dataset: str | None = None) -> Target:
    """The target called `text`; `method` and `dataset` say where those of one's own are now, or take another's place.

    Raises ConfigError that lists every problem.
    """
    path, _, trial = text.rpartition(":")
    if path and trial.isdigit() and Path(path).is_dir():
        return _of_trial(Path(path), int(trial), method, dataset)
    if Path(text).is_dir():
        return _of_folder(Path(text), method, dataset)
    if Path(text).is_file():
        return of_file(Path(text), method, dataset)
    raise ConfigError(f"{text}: is no experiment file, no folder of a study or run, and no STUDY:TRIAL")


def of_file(path: Path, method: str | None = None, dataset: str | None = None) -> Target:
    """An experiment file: what lies beside it may be named from there. Raises ConfigError that lists every problem."""
    document = config.load_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: holds {config.shown(document)}, but must be a mapping with {', '.join(KEYS)}")
    problems = [config.unknown(key, (*KEYS, *NOTES)) for key in document if key not in (*KEYS, *NOTES)]
    problems += [
        f"{key} is missing; the file must say it" for key in ("method", "dataset", "config") if key not in document
    ]
    selection = document.get("selection", "fixed")
    if selection not in SELECTIONS:
        problems.append(f"selection is {config.shown(selection)}, but must be one of {', '.join(SELECTIONS)}")
    seeds = document.get("seeds", [1])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        problems.append(f"seeds is {config.shown(seeds)}, but must be a list of integers >= 0")
    settings = {key: document[key] for key in SETTINGS if key in document}
    if path.name in FILES:  # written by a cmh that may have been older; what people write has today's defaults
        settings = dated(settings)
    if isinstance(settings.get("weights"), str) and settings["weights"]:
        settings["weights"] = files.placed(settings["weights"], path.parent)
    named = str(document.get("method"))
    called = method or (files.placed(named, path.parent) if named.endswith(".py") else named)
    hyperparameters = None
    if called.endswith(".py") and not Path(called).is_file():
        problems.append(f"method {called}: no such file; --method FILE says where it is now")
    else:
        hyperparameters = collected(lambda: _hyperparameters(called, document), problems)
    there = settings.get("dataset")
    if isinstance(there, str) and there not in datasets.NAMES and ("/" in there or (path.parent / there).is_dir()):
        settings["dataset"] = there = files.placed(there, path.parent)
        if dataset is None and not Path(there).is_dir():
            problems.append(f"dataset {there}: no such folder; --dataset DIR says where it is now")
    if dataset is not None:
        settings["dataset"] = dataset
    run = collected(lambda: config.build(training.Run, settings), problems)
    search = document.get("search", {})
    cost = collected(lambda: _cost(search), problems)
    if problems or run is None or hyperparameters is None or cost is None:
        raise ConfigError(*problems, heading=str(path))
    return Target(
        name=path.stem,
        method=called,
        run={key: getattr(run, key) for key in SETTINGS},
        config=hyperparameters,
        seeds=seeds,
        selection=selection,
        search=search,
        cost=cost,
        recorded=_recorded(path, document.get("recorded", {})),
        label=str(document.get("label", "")),
        dataset=str(there),
    )


def winner(folder: Path, method: str) -> dict[str, Value]:
    """The hyperparameters of a study's winner, not checked yet; for `--from`.

    Raises ConfigError where the folder holds no winner, or another method's.
    """
    path = folder / "best.yml"
    if not path.is_file():
        raise ConfigError(f"--from {folder}: has no best.yml, which a study writes when its search has ended")
    document = config.load_yaml(path)
    values = document.get("config") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(values, dict):
        raise ConfigError(f"--from {folder}: {path} describes no winner")
    if (theirs := Path(str(document.get("method"))).stem) != method:
        raise ConfigError(f"--from {folder}: is a study of {theirs}, but must be one of {method}")
    return values


def _hyperparameters(method: str, document: Mapping[str, object]) -> dict[str, Value]:
    """Every hyperparameter that an experiment file sets or leaves as it is."""
    values = document.get("config", {})
    if not isinstance(values, dict):
        raise ConfigError(f"config is {config.shown(values)}, but must be a mapping of hyperparameters")
    if "method" not in document:  # which is a problem by itself
        return {}
    return dataclasses.asdict(config.build(methods.get(method).Config, values))


def _cost(search: object) -> Cost:
    """What the search has cost; what is not said is 0."""
    if not isinstance(search, dict):
        raise ConfigError(f"search is {config.shown(search)}, but must be a mapping")
    names = [field.name for field in dataclasses.fields(Cost)]
    try:
        return typed_json.build(Cost, {name: search.get(name, 0) for name in names}, dict.fromkeys(names, 0), "search ")
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _recorded(path: Path, values: object) -> dict[int, Recorded]:
    """The test MAPs that an experiment file says were measured, by seed."""
    wrong = ConfigError(f"{path}: recorded must map seeds to map_i2t and map_t2i")
    if not isinstance(values, dict):
        raise wrong
    try:
        return {
            int(seed): Recorded(test={key: float(row[key]) for key in ("map_i2t", "map_t2i")})
            for seed, row in values.items()
        }
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise wrong from error


def _of_folder(folder: Path, method: str | None, dataset: str | None) -> Target:
    """The winner of a study, or the run of a run folder, with its records."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"{folder}: has no best.yml, which a study writes when its search has ended, and no run.yml")
    target, latest = of_file(path, method, dataset), dict[int, Record]()
    module = methods.get(target.method)
    run = config.build(training.Run, target.run)
    settings = training.settings_of(run)
    found, notes = records.read(folder)
    for record in found:
        made = record.identity
        about = (made.config, made.bits, made.epochs, made.settings)
        if about == (target.config, run.bits, training.n_epochs(module, run), settings):
            latest[made.seed] = record
    known: dict[int, Recorded] = {}
    for seed, one in latest.items():
        try:
            ap = records.per_query(folder, one)
        except RecordError as error:  # it can still be made again
            notes += [f"seed {seed}: {problem}" for problem in error.problems]
        else:
            known[seed] = Recorded(one.identity, one.versions, one.validation, one.chosen_epoch, one.test, ap)
    study = folder if path.name == "best.yml" else None
    name = folder.resolve().name
    if study is None:  # a run is named by its identity: with the same it goes to its own folder again
        name = re.sub(r"-[0-9a-f]{12}$", "", name)
    seeds = sorted(latest) or target.seeds
    data = ""
    if study is None:  # the seeds of a run that was killed are still to come
        seeds = sorted({*seeds, *target.seeds})
    elif (folder / "study.yml").is_file():
        data = str(read_study(folder).identity.get("dataset_sha256", ""))
    return dataclasses.replace(
        target, name=name, seeds=seeds, recorded=known, dataset_sha256=data, study=study, notes=tuple(notes)
    )


def _of_trial(folder: Path, number: int, method: str | None, dataset: str | None) -> Target:
    """A trial as the storage has it; the settings it shares with the others are in `study.yml`."""
    study = read_study(folder)
    if study.seed is None:
        raise ConfigError(f"{folder / 'study.yml'}: says no seed, so its trials cannot be run again")
    method = method or study.method_file
    if method.endswith(".py") and not Path(method).is_file():
        raise ConfigError(f"{folder}: method {method}: no such file; --method FILE says where it is now")
    path = folder / "trials.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    rows = {int(row["number"]): row for row in csv.DictReader(lines)}
    if number not in rows:
        raise ConfigError(f"{folder}: has no trial {number}; it has {len(rows)} trials, see {path}")
    row = rows[number]
    table = config.params(methods.get(method).Config)
    text = {name: row[name] for name in table if row.get(name)}
    raw = {name: {"True": True, "False": False}.get(value, value) for name, value in text.items()}
    values = dataclasses.asdict(config.build(methods.get(method).Config, raw, where=str(path)))
    trained = row.get("copied_from") or str(number)
    place = folder / "trials" / trained / "config.json"
    try:
        written = json.loads(place.read_text(encoding="utf-8"))
        made = Identity(**written["identity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{place}: cannot be read ({error}); a trial that was begun by this cmh has one") from error
    run = {key: written[key] for key in SETTINGS if key in written}
    run |= {key: value for key, value in (("dataset", study.dataset), ("weights", study.weights)) if value}
    if dataset is not None:
        run["dataset"] = dataset
    elif "/" in run["dataset"] and not Path(run["dataset"]).is_dir():
        raise ConfigError(f"{folder}: dataset {run['dataset']}: no such folder; --dataset DIR says where it is now")
    recorded: dict[int, Recorded] = {}
    if row["state"] in ("complete", "diverged"):
        names = {"map": "val_map_best", "map_i2t": "val_map_i2t", "map_t2i": "val_map_t2i"}
        recorded[made.seed] = Recorded(
            identity=made,
            versions=study.versions,
            validation={key: float(row[name]) for key, name in names.items()},
            chosen_epoch=int(row["best_epoch"]),
        )
    return Target(
        name=f"{folder.resolve().name}-trial-{number}",
        method=method,
        run=run,
        config=values,
        seeds=[made.seed],  # of given points each has its own
        selection="fixed",
        search={},
        cost=Cost(),
        recorded=recorded,
        dataset=study.dataset,
        dataset_sha256=made.dataset_sha256,
        study=folder,
        trial=number,
    )

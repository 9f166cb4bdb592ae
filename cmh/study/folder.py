"""What a study leaves: `study.yml`, `study.db`, `trials.csv`, `trials/`, `best.yml`, `records.jsonl`."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from cmh import config as configs
from cmh import files, methods
from cmh.config import Value
from cmh.errors import ConfigError, StudyError
from cmh.identity import STUDY, Identity, differences
from cmh.study import address
from cmh.study.database import best_points, open_study
from cmh.study.ranges import outside
from cmh.study.space import Space
from cmh.study.trial_row import TrialRow

ROOM = 64 * 2**20  # a study on clip art needs some tens of MiB; below this a full disk is near
POINTS = "points"  # of a study that searches nothing, in study.yml: by origin, in what each trial differs
WARM_POINTS = 3  # of another study, tried after the known-good ones and pruned like any
CURES = {  # of what differs, where it can be had as it was
    "threads": "--cpus-per-trial as it was goes on: it is the number of threads, and other sums round differently",
    "torch": "the same version of torch goes on",
    "code": "the code as it was goes on: the method, or something in cmh that it stands on, has changed",
}
COLUMNS = ("number", "state", "origin", "epochs", "val_map_best", "best_epoch", "val_map_i2t", "val_map_t2i")
COLUMNS_END = ("rung", "seconds", "passes", "device_seconds", "device", "failure", "error", "copied_from")


@dataclasses.dataclass(frozen=True)
class StudyFile:
    """What `study.yml` says; empty where an older cmh did not say it."""

    id: str  # the study's own, so that a storage that many share does not give it another's trials
    identity: Mapping[str, object]  # of the request, as `identity` makes it
    method: str
    seed: int | None  # of all its trials
    method_file: str  # where a method of one's own is; else its name
    versions: Mapping[str, str]
    name: str  # in its storage
    storage: str  # address, without a password; of a SQLite file that moves with the folder relative to it
    dataset: str  # name, or where the folder of one's own is
    weights: str  # where the file of the image network's weights is; empty: its own
    keep: str  # whose weights: winner or all
    warm_points: Sequence[dict[str, Value]]  # start points that came from another study

    @property
    def starts_from_default(self) -> bool:
        """Whether the library's default is among its start points: a prior, and no control."""
        names = self.identity.get("start_from")
        return isinstance(names, list) and "default" in names


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Within the block the folder is this process's alone: made if absent, writable, with room on its disk.

    Raises StudyError where the folder cannot be written, its disk is nearly full, or another process has locked it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < ROOM:
            raise StudyError(
                f"{folder}: only {free // 2**20} MiB are free, but a study needs {ROOM // 2**20}; use --out"
            )
        files.write_atomic(folder / ".writable", "")
        (folder / ".writable").unlink()
    except OSError as error:
        raise StudyError(f"{folder}: cannot be written ({error.strerror}); use --out for another folder") from error
    owner = folder / ".owner"
    try:
        with files.locked(folder / ".lock", wait=False):
            files.write_atomic(owner, f"process {os.getpid()} on {platform.node()}")
            yield
    except BlockingIOError:
        holder = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise StudyError(f"{folder}: is in use by {holder}; wait for it or use another --out") from None
    except files.NoLocksError as error:
        raise StudyError(f"{folder}: {error.strerror}; --out says where studies go") from error


def identity(space: Space, run: Identity, fixed: Mapping[str, Value]) -> dict[str, object]:
    """Everything that would mix results if it changed within a study; `run` is the identity of any of its trials."""
    searched = described(space)
    return {
        **run.without(*STUDY),
        "fixed": dict(fixed),
        "params": searched["params"],
        "start_from": [name for name, _ in space.start_from],
        "sampler": searched["sampler"],
        "schedule": searched["schedule"],
    }


def described(space: Space) -> dict[str, object]:
    """Ranges, sampler and schedule of a space, as `study.yml` has them."""
    asha = space.asha
    return {
        "params": {item.name: item.text() + "".join(f", if {k} is {v}" for k, v in item.when) for item in space.ranges},
        "sampler": space.sampler,
        "schedule": "none" if asha is None else f"asha, {asha.first_rung}, {asha.reduction}" + ", strict" * asha.strict,
    }


def write_or_check(folder: Path, wanted: Mapping[str, object], about: Mapping[str, object]) -> bool:
    """Whether the folder held this study already. Where it held none, `study.yml` is written.

    `wanted` is what `identity` makes of the request, `about` what else the file is to say. Raises StudyError where the
    folder holds another study, with every difference, and where nobody knows which; ConfigError where `study.yml`
    cannot be read.
    """
    path = folder / "study.yml"
    if not path.exists():
        if (folder / "study.db").exists():
            raise StudyError(
                f"{folder}: has a study.db without study.yml, so nobody knows whose it is; use another --out"
            )
        write_yaml(path, {"identity": wanted, **about})
        return False
    document = configs.load_yaml(path)
    found = document.get("identity") if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise StudyError(f"{path}: is not a study description; use another --out")
    if lines := differences(found, wanted):
        cures = [cure for key, cure in CURES.items() if any(line.startswith(f"{key}:") for line in lines)]
        raise StudyError(
            *lines,
            *cures,
            "going on would mix results: use another --out (with --warm-start its best points come along), or delete"
            " the folder to start anew",
            heading=f"{folder} holds a study of another request",
        )
    return True


def warm_start(folder: Path, source: Path, space: Space, base: Mapping[str, Value]) -> list[dict[str, Value]]:
    """The best points of the study in `source`, as start points of the one in `folder` (its own, where it has begun).

    Points, not values: MAP at another code length, on other data or after other epochs would mislead the sampler.
    What is not searched here has this study's value. Raises ConfigError where `source` is no study of this method or
    has no point that can be used, StudyError where its storage cannot be read.
    """
    if (folder / "study.yml").is_file():
        return list(read_study(folder).warm_points)
    found = read_study(source)
    if found.method != space.method:
        raise ConfigError(f"--warm-start {source}: is a study of {found.method}, but must be one of {space.method}")
    fixed = found.identity.get("fixed")
    there = {**configs.defaults(methods.get(space.method).Config), **(fixed if isinstance(fixed, dict) else {})}
    points: list[dict[str, Value]] = []
    for params in best_points(open_study(*storage_of(source)), 10 * WARM_POINTS):
        values = {**there, **params}
        point = {**base, **{item.name: values[item.name] for item in space.ranges if item.active(values)}}
        if not outside(space.ranges, point) and point not in points:
            points.append(point)
    if not points:
        raise ConfigError(f"--warm-start {source}: has no complete trial whose point lies inside this search space")
    return points[:WARM_POINTS]


def storage_of(folder: Path) -> tuple[str, str]:
    """The address of a study's storage, and the study's name there.

    Raises ConfigError where the folder holds no study.
    """
    found, beside = read_study(folder), folder.resolve() / "study.db"
    url = address.opened(found.storage, folder)
    file = address.file_of(url)
    if beside.exists() and (file is None or file.name == beside.name):  # older ones name it by its whole path
        url = address.of_file(beside)
    return url, found.name


def storage_for(place: Path, asked: str | None) -> str:
    """The address of a study's storage: where one that is there already has its trials, unless they were moved.

    Raises ConfigError where `asked` is another.
    """
    if not (place / "study.yml").is_file():
        return asked or address.of_file(place.resolve() / "study.db")
    there, _ = storage_of(place)
    file = address.file_of(there)
    moved = file is not None and not file.exists()  # the storage itself is asked whether it has the study
    if asked and not moved and address.without_password(asked) != address.without_password(there):
        raise ConfigError(
            f"--storage {address.without_password(asked)}: the study in {place} has its trials in"
            f" {address.without_password(there)}; leave --storage out, or use another --out"
        )
    return asked or there


def note_storage(folder: Path, url: str) -> None:
    """Keep in `study.yml` where the study's storage is, where that has changed."""
    note(folder, "storage", address.kept(url, folder))


def note(folder: Path, key: str, value: object) -> None:
    """Keep a value in `study.yml`, where it has changed."""
    path = folder / "study.yml"
    document = configs.load_yaml(path)
    if isinstance(document, dict) and document.get(key) != value:
        write_yaml(path, {**document, key: value})


def points_of(folder: Path) -> dict[str, dict[str, Value]]:
    """The given points of a study that searches nothing; none where the folder holds another, or none."""
    path = folder / "study.yml"
    document = configs.load_yaml(path) if path.is_file() else None
    found = document.get(POINTS) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def write_trials(folder: Path, rows: Sequence[TrialRow], names: Sequence[str]) -> None:
    """`trials.csv`: one row a trial, derived from the storage; `names` are the method's hyperparameters."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, *COLUMNS_END, *names])
    for row in rows:
        values = [getattr(row, name) for name in (*COLUMNS, *COLUMNS_END)] + [row.config.get(name) for name in names]
        writer.writerow(["" if value is None else value for value in values])
    files.write_atomic(folder / "trials.csv", buffer.getvalue())


def write_yaml(path: Path, document: Mapping[str, object]) -> None:
    """A mapping as YAML, atomically, in its own order."""
    files.write_atomic(path, yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=100))


def _placed(written: object, folder: Path, mark: str = "") -> str:
    """A path of `study.yml` as it is from here; what has no `mark` in it is a name."""
    text = str(written)
    return files.placed(text, folder) if text and mark in text else text


def read_study(folder: Path) -> StudyFile:
    """`study.yml` of a study folder. Raises ConfigError where there is none, or where it describes no study."""
    path = folder / "study.yml"
    if not path.is_file():
        raise ConfigError(f"{folder}: holds no study.yml, so it is not a study folder")
    document = configs.load_yaml(path)
    identity = document.get("identity") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(identity, dict):
        raise ConfigError(f"{path}: is not a study description")
    method, seed, versions = identity.get("method"), identity.get("seed"), document.get("versions")
    if not isinstance(method, str):
        raise ConfigError(f"{path}: is not a study description")
    warm = document.get("warm_start")
    points = warm.get("points") if isinstance(warm, dict) else None
    return StudyFile(
        id=str(document.get("id", "")),
        identity=identity,
        method=method,
        seed=seed if isinstance(seed, int) else None,
        method_file=_placed(document.get("method_file", method), folder, ".py"),
        versions=versions if isinstance(versions, dict) else {},
        name=str(document.get("name", folder.resolve().name)),
        storage=str(document.get("storage", "")),
        dataset=_placed(document.get("dataset", ""), folder, "/"),
        weights=_placed(document.get("weights", ""), folder),
        keep="all" if document.get("keep") == "all" else "winner",
        warm_points=points if isinstance(points, list) else [],
    )

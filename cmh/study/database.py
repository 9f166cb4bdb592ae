"""The database of a study: its address, its failures in words, and the study in it, opened to be read."""

from __future__ import annotations

import contextlib
import random
import time
import urllib.parse
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
import sqlalchemy.exc
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from cmh.config import Value
from cmh.errors import StudyError
from cmh.study.address import file_of, without_password

__all__ = [
    "Study",
    "best_points",
    "engine_settings",
    "open_storage",
    "open_study",
    "readable_errors",
    "without_password",
]

BUSY_SECONDS = 60.0  # SQLite: how long to wait for another process that holds the database
PAUSES = tuple(0.05 * 2**n for n in range(8))  # seconds at most, between two tries to make the tables; 13 in all


@contextlib.contextmanager
def readable_errors(url: str) -> Iterator[None]:
    """Within the block failures of the storage (no such server, locked, read-only, full) are one message.

    Raises StudyError with that message.
    """
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        cause: BaseException = error.__cause__ or error
        line = (str(getattr(cause, "orig", cause)).splitlines() or [type(cause).__name__])[0]
        if isinstance(cause, ModuleNotFoundError):
            line += "; install the driver of that database with pip"
        raise StudyError(f"the storage {without_password(url)} cannot be used: {line}") from error


def engine_settings(url: str) -> dict[str, object]:
    """What SQLAlchemy is told when it connects to `url`."""
    if url.startswith("sqlite"):  # readers (a notebook, a dashboard) hold it for moments
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    return {"pool_pre_ping": True}  # a server may restart between two writes


def open_storage(url: str, name: str, *, begun: bool) -> optuna.storages.RDBStorage:
    """The storage at `url`, with tables made where it is new.

    Raises StudyError where the study `name` has `begun`, but is not there: it would begin anew over its old trials.
    """
    file = file_of(url)
    gone = begun and file is not None and not str(file).startswith("file:") and not file.is_file()
    storage = None if gone else _with_tables(url)
    if storage is None or (begun and name not in optuna.get_all_study_names(storage)):
        what = "does not exist" if gone else f"holds no study {name}"
        raise StudyError(
            f"the storage {without_password(url)} {what}, but trials of {name} lie in its folder;"
            " say with --storage where they are kept now, or use another --out"
        )
    return storage


def _with_tables(url: str) -> optuna.storages.RDBStorage:
    """The storage, after its tables were made. Of several first users at one moment all but one fail somewhere in that:
    what they were about to make is there. Each tries again, and finds it or makes the rest."""
    for pause in (*PAUSES, None):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=engine_settings(url))
        except sqlalchemy.exc.DBAPIError as error:
            another = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
            if pause is None or not another:
                raise
            time.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
    raise AssertionError


def open_study(url: str, name: str) -> Study:
    """A study as Optuna has it, to be read: writing to it raises.

    Raises StudyError where the database cannot be read, or holds no such study.
    """
    parts = sqlalchemy.engine.make_url(url)
    settings = engine_settings(url)
    if parts.drivername.startswith("sqlite"):
        if not Path(parts.database or "").is_file():
            raise StudyError(f"the storage {parts.database} does not exist")
        quoted = urllib.parse.quote(parts.database or "")  # within a file: address `?`, `#` and `%` mean something
        parts = parts.set(database=f"file:{quoted}", query={"mode": "ro", "uri": "true"})
    elif parts.drivername.startswith("postgresql"):
        settings["connect_args"] = {"options": "-c default_transaction_read_only=on"}
    url = parts.render_as_string(hide_password=False)
    with readable_errors(url), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = optuna.storages.RDBStorage(url, engine_kwargs=settings, skip_table_creation=True)
        try:
            return optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            raise StudyError(f"the storage {without_password(url)} holds no study {name}") from None


def best_points(study: Study, most: int) -> list[dict[str, Value]]:
    """The parameters of its best complete trials, best first, each set once."""
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    points: list[dict[str, Value]] = []
    for trial in sorted(done, key=lambda trial: (-(trial.value or 0.0), trial.number)):
        if trial.params not in points:
            points.append(dict(trial.params))
    return points[:most]


Key = tuple[tuple[str, Value], ...]  # of a configuration with the run settings of its own


def key_of(values: Mapping[str, Value]) -> Key:
    """What two trials share that are to be trained once."""
    return tuple(sorted(values.items()))


def origin_of(trial: optuna.trial.Trial | FrozenTrial) -> str:
    """Where its point comes from: paper, default, point N, warm N, or search."""
    return str(trial.user_attrs.get("origin", "search"))


def stands_for_its_configuration(trial: FrozenTrial) -> bool:
    """Whether it is the trial that is, or was, trained for all of its configuration."""
    result = trial.user_attrs.get("result", {})
    if "copied_from" in result or (trial.state == TrialState.FAIL and result.get("failure") != "nan"):
        return False
    return trial.state.is_finished() or bool(trial.state == TrialState.RUNNING and trial.intermediate_values)

"""What happened in a study, as plain values: its trials with their curves, the confirmation of its winner, what its
numbers are held against. All views read it from here.

It is put together of the storage (the truth of the trials), the curve files, and the records. A study that is half
written, damaged, or of another version of cmh is read as far as it can be; `Story.problems` says what cannot.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cmh import config as configs
from cmh.config import Value
from cmh.errors import ConfigError, StudyError, collected
from cmh.study import aside, controls, database, folder, trial_row
from cmh.study.storage import MOVED
from cmh.study.trial_row import TrialRow
from cmh.views.closing import KNOWN_GOOD
from cmh.views.curve_file import read_curve
from cmh.views.runs import Beside, Confirmation, Curve, Settings, besides, confirmations, read_json, settings_of

if TYPE_CHECKING:
    from cmh.study.figures import Trials
    from cmh.study.outcome import Scores

DIGITS = 1e-9  # by how much a curve file may differ from the storage, which some databases round


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial that was started. A view that looks on while it is trained gives it the state `running`."""

    number: int
    state: str  # complete | diverged | pruned | failed | interrupted | running
    origin: str  # paper, default, from, point N, warm N, or search
    settings: Settings  # every hyperparameter that is known
    curve: Curve
    best_epoch: int | None = None
    best_val_map: float | None = None
    best_i2t: float | None = None  # at the best epoch
    best_t2i: float | None = None
    rung: int | None = None  # where it was pruned
    copied_from: int | None = None  # the trial with the same configuration that was trained
    failure: str = ""  # nan | oom | error | moved, empty otherwise
    error: str = ""  # one line
    seconds: float | None = None
    passes: float = 0.0  # over the training items, that were trained for it
    device: str = ""

    @property
    def completed(self) -> bool:
        """Whether it reached its last epoch."""
        return self.state in ("complete", "diverged")


@dataclasses.dataclass(frozen=True)
class Story:
    """A study as far as it has come."""

    folder: Path
    name: str
    method: str
    dataset: str
    bits: int
    identity: Mapping[str, object]  # of the request, as `study.yml` has it: code, split, epochs, seed, params, …
    document: Mapping[str, object]  # all of `study.yml`
    trials: Sequence[Trial]  # by number
    confirmations: Sequence[Confirmation]  # by seed
    controls: Mapping[str, Scores]  # chance, ridge (control), paper setting, library default: validation MAPs
    seconds: float  # of the search, over all its starts
    winner: int | None  # its trial's number
    kept: Mapping[str, object]  # what its storage keeps beside the trials
    problems: Sequence[str]  # one line each: what could not be read
    besides: Sequence[Beside] = ()  # controls, then further seeds
    stored: Trials = ()  # as Optuna has them, for its own plots; none where the storage cannot be read

    @property
    def best(self) -> Trial | None:
        """The winner so far: of those that were trained to the end the one with the highest validation MAP, unless
        further seeds have said otherwise."""
        return next((trial for trial in self.trials if trial.number == self.winner), None)


def read_study(place: Path) -> Story:
    """The story of the study in a folder. Raises ConfigError where the folder holds nothing of a study."""
    problems: list[str] = []
    about = collected(lambda: folder.read_study(place), problems)
    if about is None and not (place / "trials").is_dir():
        raise ConfigError(*problems)
    document = collected(lambda: configs.load_yaml(place / "study.yml"), []) if about is not None else None
    identity = dict(about.identity) if about is not None else {}
    rows, kept, stored = _stored(place, problems)
    winner = aside.standing(rows, kept, (about.seed if about is not None else None) or 0).winner
    trials = _trials(place, rows, identity.get("params"), problems)
    first: Mapping[str, object] = next((read_json(path) for path in sorted(place.glob("*/*/config.json"))), {})
    known = {**first, **identity}
    bits = known.get("bits")
    return Story(
        folder=place,
        name=place.resolve().name,
        method=str(known.get("method", "")),
        dataset=str(known.get("dataset", "")),
        bits=bits if isinstance(bits, int) else 0,
        identity=identity,
        document=document if isinstance(document, dict) else {},
        trials=trials,
        besides=besides(place, kept, problems),
        confirmations=confirmations(place, problems),
        controls=_controls(kept, trials),
        seconds=float(cast(float, kept.get("seconds", 0.0))),
        winner=None if winner is None else winner.number,
        kept=kept,
        problems=problems,
        stored=stored,
    )


def trial_of(row: TrialRow) -> Trial:
    """A trial as the storage has it: of its curve the MAPs alone."""
    return Trial(
        number=row.number,
        state=row.state,
        origin=row.origin,
        settings=row.config,
        curve={epoch: {"val_map": value} for epoch, value in row.curve.items()},
        best_epoch=row.best_epoch,
        best_val_map=row.val_map_best,
        best_i2t=row.val_map_i2t,
        best_t2i=row.val_map_t2i,
        rung=row.rung,
        copied_from=row.copied_from,
        failure=row.failure,
        error=row.error,
        seconds=row.seconds,
        passes=row.passes,
        device=row.device,
    )


def written(trial: Trial, path: Path, problems: list[str] | None = None) -> Trial:
    """The trial with the rows of its curve file, as far as they are of the epochs that the storage has."""
    notes: list[str] = []
    rows, shown, other = read_curve(path, notes), dict[int, Mapping[str, float]](), list[int]()
    for epoch, kept in trial.curve.items():
        row = rows.get(epoch, kept)
        same = math.isclose(row["val_map"], kept["val_map"], rel_tol=DIGITS) or row is kept
        shown[epoch] = row if same else kept
        other += [] if same else [epoch]
    if other and not notes and trial.failure != MOVED:
        notes.append(
            f"{path}: {len(other)} epochs are otherwise than in the storage, as {other[0]}: only their MAP is shown"
        )
    if problems is not None:
        problems += notes
    return dataclasses.replace(trial, curve=shown)


def _stored(place: Path, problems: list[str]) -> tuple[list[TrialRow], Mapping[str, object], Trials]:
    """The rows of all trials (their `config` is what was searched), what the storage keeps of the study, and the trials
    as it has them."""
    try:
        url, name = folder.storage_of(place)
        with database.readable_errors(url):  # of an address that is none, too
            study = database.open_study(url, name)
            trials = study.get_trials(deepcopy=False)
            kept = study.user_attrs
    except (StudyError, ConfigError) as error:
        problems += [*error.problems, "its trials are shown as their own files have them"]
        return _of_files(place, problems), {}, ()
    begun = [trial for trial in trials if trial.state.name != "WAITING"]
    about = [(one.number, one.state.name, one.intermediate_values, one.user_attrs, dict(one.params)) for one in begun]
    return [trial_row.from_stored(*values) for values in about], kept, trials


def _of_files(place: Path, problems: list[str]) -> list[TrialRow]:
    """The rows of the trials that have a folder, where the storage cannot be read; states are those of `trials.csv`."""
    try:
        lines = (place / "trials.csv").read_text(encoding="utf-8").splitlines(keepends=True)
        said = {row.get("number"): row for row in csv.DictReader(lines)}
    except (OSError, ValueError, csv.Error):
        said = {}
    states = {ours: theirs for theirs, ours in trial_row.STATES.items()} | {"diverged": "COMPLETE"}
    found = []
    for number in sorted(int(path.name) for path in place.glob("trials/*") if path.name.isdecimal()):
        known = said.get(str(number), {})
        written_rows = read_curve(place / "trials" / str(number) / "curve.csv", problems)
        curve = {epoch: row["val_map"] for epoch, row in written_rows.items()}
        result: dict[str, object] = {key: known[key] for key in ("failure", "error", "device") if known.get(key)}
        if (known.get("rung") or "").isdecimal():
            result["rung"] = int(known["rung"])
        if known.get("state") == "diverged":
            result["diverged"] = result.get("error") or "its loss"
        attributes = {"origin": known.get("origin") or "search", "result": result}
        found.append(trial_row.from_stored(number, states.get(str(known.get("state")), ""), curve, attributes, {}))
    return found


def _trials(place: Path, rows: Sequence[TrialRow], params: object, problems: list[str]) -> list[Trial]:
    """Every row with its curve and its whole configuration: from its folder, or its twin's."""
    searched = params if isinstance(params, dict) else {}
    shared: dict[str, Value] = {}  # what is not searched, which trials have in common that died before they wrote it
    found = []
    for row in rows:
        home = place / "trials" / str(row.number if row.copied_from is None else row.copied_from)
        settings = settings_of(read_json(home / "config.json"))
        if row.origin in ("search", "default"):
            shared = shared or {key: value for key, value in settings.items() if key not in searched}
        trial = written(trial_of(row), home / "curve.csv", problems)
        found.append(dataclasses.replace(trial, settings=settings or trial.settings))
    return [dataclasses.replace(trial, settings={**shared, **trial.settings}) for trial in found]


def _controls(kept: Mapping[str, object], trials: Sequence[Trial]) -> dict[str, Scores]:
    """Those that the storage keeps, and the known-good points."""
    found = controls.kept(kept)
    run = aside.kept(kept).get(aside.CONTROL)
    for origin, name in KNOWN_GOOD.items():
        for trial in trials:
            if trial.origin == origin and trial.best_val_map is not None and trial.failure != MOVED:
                found[name] = trial.best_i2t, trial.best_t2i, trial.best_val_map
        if origin == aside.CONTROL and run is not None and run.val_map is not None:
            found[name] = run.val_map_i2t, run.val_map_t2i, run.val_map
    return found

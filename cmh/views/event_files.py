"""Runs as TensorBoard's event files: in a study's `tensorboard/` each trial, control, further seed, confirmation.

What TensorBoard 2.21 makes of such files decides how they are written:

- Its HParams tab takes its columns of one arbitrary run, if any run says what the experiment's are: none does here, and
  then it shows those of all runs. `SummaryWriter.add_hparams` always does. Of a metric it shows the last value, so that
  the best one is a scalar of its own, and of hyperparameters that are written twice the first.
- Its Python loader forgets what comes before a restart only if the run's first file began with a restart, too. Here
  every file begins with one at step 0 and holds its run from the first epoch on. (A loader that looks on loses a run
  whose older file goes away, so that those stay.)

A file is open only while something is written.
"""

from __future__ import annotations

import dataclasses
import math
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from cmh.config import Value
from cmh.views.runs import Beside, Confirmation, Curve
from cmh.views.story import Story, Trial

FOLDER = "tensorboard"  # in the study's
DONE = "complete"  # an empty file beside the events of a run that has ended
TAGS = {  # of a curve file's columns; any other is a term of the loss, or a learning rate
    **{name: name for name in ("val_map", "val_map_i2t", "val_map_t2i")},
    **{"best_epoch": "best/epoch", "best_i2t": "best/val_map_i2t", "best_t2i": "best/val_map_t2i"},
    **{"seconds": "time/seconds", "passes": "time/passes"},
}


@dataclasses.dataclass
class _Run:
    """What this process has written of a run."""

    folder: Path
    file: Path | None = None
    epoch: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    done: bool = False


class EventFiles:
    """A sink for the runs of a study; `about` says what no hyperparameter does: method, dataset, bits."""

    def __init__(self, place: Path, about: Mapping[str, Value]) -> None:
        self.place, self.about = place, dict(about)
        self._runs: dict[str, _Run] = {}

    def trial(self, trial: Trial) -> None:
        """A trial as far as it has come. Raises OSError where it cannot be written."""
        status = {"failed": STATUS_FAILURE, "running": None, "interrupted": None}.get(trial.state, STATUS_SUCCESS)
        last: dict[str, tuple[int, float]] = {}
        if trial.rung is not None:
            last["pruned_at"] = trial.rung, trial.rung
        if trial.failure == "nan":  # its MAP there; the best one stays what it was
            named = re.match(r"epoch (\d+)", trial.error)
            last["val_map"] = int(named[1]) if named else max(trial.curve, default=0) + 1, math.nan
        self._write(f"trial-{trial.number}", {"origin": trial.origin, **trial.settings}, trial.curve, last, status)

    def confirmation(self, run: Confirmation) -> None:
        """A confirmation as far as it has come. Raises OSError where it cannot be written."""
        last = {f"test/{name}": (run.chosen_epoch or 0, value) for name, value in run.test.items()}
        about: dict[str, Value] = {"origin": "confirmation", "seed": run.seed}
        self._write(
            f"confirm-{run.name}", {**about, **run.settings}, run.curve, last, STATUS_SUCCESS if run.test else None
        )

    def beside(self, run: Beside) -> None:
        """A run beside the search as far as it has come. Raises OSError where it cannot be written."""
        seed: dict[str, Value] = {} if run.seed is None else {"seed": run.seed}
        status = {"complete": STATUS_SUCCESS, "failed": STATUS_FAILURE}.get(run.state)
        self._write(run.name, {"origin": run.kind, **seed, **run.settings}, run.curve, {}, status)

    def flush(self, *, last: bool) -> None:
        """Nothing: no file is open."""

    def _write(
        self,
        name: str,
        hparams: Mapping[str, Value],
        curve: Curve,
        last: Mapping[str, tuple[int, float]],
        status: int | None,
    ) -> None:
        run = self._runs.setdefault(name, _Run(self.place / name))
        if run.file is None and status is not None and (run.folder / DONE).exists():
            run.done = True  # by an earlier start
        if run.done:
            return
        events = [] if run.file else list(_head({**self.about, **hparams}))
        events += self._epochs(run, curve)
        if status is not None:
            events += [
                _event(step, [Summary.Value(tag=tag, simple_value=value)]) for tag, (step, value) in last.items()
            ]
            end = SessionEndInfo(status=status, end_time_secs=time.time())
            events.append(_event(0, [_hparams(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))]))
        if events:
            self._append(run, events)
        if status is not None:
            (run.folder / DONE).touch()
            run.done = True

    def _epochs(self, run: _Run, curve: Curve) -> Iterator[Event]:
        """The epochs that are not written yet."""
        new = {epoch: row for epoch, row in curve.items() if epoch > run.epoch}
        ends = time.time() - max((row.get("seconds", 0.0) for row in new.values()), default=0.0)
        for epoch, row in new.items():
            values = {TAGS.get(key) or _term(key): value for key, value in row.items() if key != "val_map_best"}
            if not run.best >= row["val_map"]:
                run.best = max(run.best, -math.inf if math.isnan(row["val_map"]) else row["val_map"])
            values["best/val_map"] = run.best if math.isfinite(run.best) else math.nan
            if "seconds" in row:
                values["time/epoch_seconds"] = (row["seconds"] - run.seconds) / (epoch - run.epoch)
                run.seconds = row["seconds"]
            run.epoch = epoch
            found = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            yield _event(epoch, found, ends + row.get("seconds", 0.0))

    def _append(self, run: _Run, events: list[Event]) -> None:
        if run.file is None:
            run.folder.mkdir(parents=True, exist_ok=True)
            seconds, rest = divmod(time.time_ns(), 10**9)  # files are read in the order of their names
            run.file = run.folder / f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{rest:09d}"
        with run.file.open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())


def clear(place: Path) -> None:
    """Take away what was written to a folder before, and nothing else. Raises OSError where it cannot be."""
    for name in ("events.out.tfevents.*", DONE):
        for path in place.glob(f"*-*/{name}"):
            path.unlink()


def write(story: Story, place: Path) -> int:
    """Write a whole study to a folder that holds nothing yet; how many runs. Raises OSError where it cannot be."""
    files = EventFiles(place, {"method": story.method, "dataset": story.dataset, "bits": story.bits})
    for trial in story.trials:
        files.trial(trial)
    for beside in story.besides:
        files.beside(beside)
    for run in story.confirmations:
        files.confirmation(run)
    return len(story.trials) + len(story.besides) + len(story.confirmations)


def _term(name: str) -> str:
    return f"lr/{name.removeprefix('lr_')}" if name.startswith("lr_") else f"loss/{name}"


def _head(hparams: Mapping[str, Value]) -> Iterator[Event]:
    """The beginning of a run's file."""
    yield Event(wall_time=time.time(), step=0, file_version="brain.Event:2")
    yield Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START))
    start = SessionStartInfo(start_time_secs=time.time())
    for name, value in hparams.items():
        kept = start.hparams[name]
        if isinstance(value, bool):
            kept.bool_value = value
        elif isinstance(value, str):
            kept.string_value = value
        else:
            kept.number_value = value
    yield _event(0, [_hparams(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))])


def _hparams(tag: str, data: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)


def _event(step: int, values: list[Summary.Value], moment: float | None = None) -> Event:
    return Event(wall_time=time.time() if moment is None else moment, step=step, summary=Summary(value=values))

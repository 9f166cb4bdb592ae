"""A target run again in this process: trained, tested and recorded; validated, where it is a trial of a search; or
compared with what was recorded."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cmh import files, ledger, methods, records, training
from cmh.config import Value
from cmh.errors import ConfigError, RecordError
from cmh.identity import FOLDER, Identity
from cmh.interfaces import Dataset
from cmh.records import Record
from cmh.study import check, confirm, folder
from cmh.study.changes import Rerun
from cmh.study.check import Verdict
from cmh.study.target import SETTINGS, Recorded, Target
from cmh.training import Epoch

log = logging.getLogger(__name__)

Bar = Callable[[str, int], contextlib.AbstractContextManager[Callable[[Epoch], None]]]  # of a name and its epochs


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs what was asked for; `bar` shows the epochs of a run as they pass."""

    request: Rerun
    bar: Bar

    @property
    def target(self) -> Target:
        """What is run."""
        return self.request.target

    @property
    def dataset(self) -> Dataset:
        """What it is run on."""
        return self.request.dataset

    def values(self, seed: int, place: Path) -> dict[str, Value]:
        """Hyperparameters and run settings of one seed, whose files go to `place`."""
        own: dict[str, Value] = {"seed": seed, "device": self.request.device, "folder": str(place)}
        named = {"dataset": self.dataset.name}  # it is given to the run, whose files need not say where it is
        return {**self.target.config, **self.target.run, **named, **own}

    def identity(self, seed: int) -> Identity:
        """Of the run with this seed. Raises ConfigError where the device cannot be used."""
        return confirm.identify(self.target.method, self.values(seed, Path()), self.dataset)

    @property
    def folder(self) -> Path:
        """Of this run and all its seeds."""
        digest = self.identity(self.target.seeds[0]).digest(*FOLDER)
        return self.request.out / f"{self.target.name}-{digest}"

    def test(self) -> Iterator[str]:
        """Train, test and record every seed that is not recorded yet; lines for people, as they come.

        Raises ConfigError where the results cannot be written, LedgerError where the opening of the test split cannot
        be noted, NotFiniteError where a loss term or a code is not finite.
        """
        place = _made(self.folder)
        done = self.recorded(place)
        todo = [seed for seed in self.target.seeds if seed not in done]
        for seed, record in done.items():
            yield f"seed {seed}: already trained on {record.date[:16]}; --fresh trains again"
            yield _scores(record)
        if todo:
            opened = self.open_test(todo)
            folder.write_yaml(place / "run.yml", self.description(place))
            for seed in todo:
                yield from self.record(seed, place, opened)
        yield f"records: {files.short(place / 'records.jsonl')}"

    def recorded(self, place: Path) -> dict[int, Record]:
        """The records in the run's folder that need not be made again, by seed."""
        known, notes = ([], []) if self.request.fresh else records.read(place)
        digests = {seed: self.identity(seed).digest() for seed in self.target.seeds}
        found = {record.identity.digest(): record for record in known}
        done = {seed: found[digest] for seed, digest in digests.items() if digest in found}
        for seed, record in list(done.items()):
            try:
                records.per_query(place, record)
            except RecordError as error:  # what no board can use is made again
                notes += error.problems
                del done[seed]
        for note in notes:
            log.warning("note: %s", note)
        return done

    def record(self, seed: int, place: Path, opened: tuple[int, int]) -> Iterator[str]:
        """Train, test and record one seed."""
        own = place / f"seed-{seed}"
        left = self.left(own)
        with self.bar(f"seed {seed}", self.identity(seed).epochs) as show:
            tested = confirm.run(self.target.method, self.values(seed, own), show, self.dataset)
        yield from _resumed(f"seed {seed}", left, tested.resumed, tested.training.epochs)
        record = confirm.write_record(
            place,
            tested,
            selection=self.target.selection,
            search=self.target.cost,
            opened=opened,
            label=self.target.label,
            prior=self.target.prior,
            dataset=self.dataset,
        )
        for line in confirm.audit_lines(record):
            yield f"seed {seed}: {line}"
        yield _scores(record)

    def left(self, place: Path) -> str:
        """When an earlier start left a checkpoint in `place`, empty where none did; `fresh` takes it away."""
        checkpoint = place / "checkpoint.pt"
        if self.request.fresh:
            checkpoint.unlink(missing_ok=True)
        if not checkpoint.is_file():
            return ""
        return datetime.datetime.fromtimestamp(checkpoint.stat().st_mtime, datetime.UTC).isoformat()[:16]

    def open_test(self, seeds: list[int]) -> tuple[int, int]:
        """Note the opening of the test split: in the study that this comes from, where that can be written, else in
        one place for all runs of this name."""
        study, own = self.target.study, ledger.OWN
        if study is not None and os.access(study, os.W_OK):
            counted = study
        elif self.request.compare:  # leaves nothing in OUT
            counted = None
        else:
            counted, own = self.request.out, f"{self.target.name}.{ledger.OWN}"
        opened = ledger.open_test(
            self.dataset.name,
            self.dataset.split_sha256,
            "cmh.reproduce",
            identity=self.identity(seeds[0]),
            seeds=seeds,
            folder=counted,
            own=own,
        )
        if counted is not None and opened[0] > 1:
            log.warning(
                "the test split counted in %s has been opened before: this is opening %d (%d of this split by all)",
                files.short(counted / own),
                *opened,
            )
        return opened

    def validate(self) -> Iterator[str]:
        """Train and validate every seed: a search trial never met the test split, and does not meet it here; lines for
        people.

        Raises ConfigError where the results cannot be written, NotFiniteError where a loss term or a code is not
        finite.
        """
        place, trial = _made(self.folder), self.target.trial
        several = len(self.target.seeds) > 1
        for seed in self.target.seeds:
            name = f"seed {seed}" if trial is None else f"trial {trial}" + f", seed {seed}" * several
            own = place / f"seed-{seed}"
            left = self.left(own)
            fitted = self.fitted(seed, own)
            yield from _resumed(name, left, fitted.resumed, fitted.curve[-1].epoch)
            best = fitted.best
            yield (
                f"{name}: epoch {best.epoch}, validation MAP i→t {best.val_map_i2t:.4f},"
                f" t→i {best.val_map_t2i:.4f}, mean {best.val_map:.4f}; curve: {files.short(own / 'curve.csv')}"
            )
        if trial is None:
            yield f"{self.target.label}: validated only; --test opens the test split and makes a row of the board"

    def fitted(self, seed: int, place: Path) -> training.Fitted:
        """One seed, trained; its files are in `place`."""
        module = methods.get(self.target.method)
        run, hyperparameters = training.parse(module, self.values(seed, place))
        with self.bar(f"seed {seed}", self.identity(seed).epochs) as show:
            return training.fit(
                module,
                run,
                hyperparameters,
                self.dataset.search(),
                report=lambda epoch, _: show(epoch),
                folder=place,
            )

    def compare(self) -> Verdict:
        """Train the recorded seeds anew, in a folder that goes away, and compare.

        Raises LedgerError where the opening of the test split cannot be noted, NotFiniteError where a loss term or a
        code is not finite.
        """
        known = self.target.recorded
        seeds = [seed for seed in self.target.seeds if seed in known]
        found = {seed: Recorded(self.identity(seed)) for seed in seeds}
        if not any(check.other_run(known[seed], found[seed]) for seed in seeds):  # else training could show nothing
            with files.passing_folder("cmh-check-") as folder:
                if self.target.trial is None:
                    self.open_test(seeds)
                found = {seed: self.again(seed, folder / str(seed)) for seed in seeds}
        return check.compare(known, found, self.target.seeds)

    def again(self, seed: int, place: Path) -> Recorded:
        """One seed, run again and not recorded: a trial validated, all else tested."""
        if self.target.trial is not None:
            fitted = self.fitted(seed, place)
            best = fitted.best
            scores = {"map": best.val_map, "map_i2t": best.val_map_i2t, "map_t2i": best.val_map_t2i}
            curve = tuple(epoch.val_map for epoch in fitted.curve)
            return Recorded(fitted.identity, confirm.versions(), scores, best.epoch, curve=curve)
        with self.bar(f"seed {seed}", self.identity(seed).epochs) as show:
            one = confirm.run(self.target.method, self.values(seed, place), show, self.dataset)
        with (place / "curve.csv").open(newline="") as file:
            curve = tuple(float(row["val_map"]) for row in csv.DictReader(file))
        return Recorded(one.identity, confirm.versions(), one.validation, one.chosen_epoch, one.test, one.ap, curve)

    def description(self, place: Path) -> dict[str, object]:
        """The run as an experiment file in `place`."""
        found = self.target
        where = {
            key: files.portable(Path(value), place) if "/" in value else value
            for key, value in (
                ("method", methods.spec(methods.short(methods.get(found.method)))),
                ("dataset", str(found.run["dataset"])),
                ("weights", str(found.run["weights"])),
            )
        }
        return {
            **{key: where.get(key, found.run.get(key)) for key in ("method", *SETTINGS)},
            "seeds": found.seeds,
            "selection": found.selection,
            "label": found.label,
            "config": found.config,
            "search": dict(found.search),
        }


def _scores(record: Record) -> str:
    return (
        f"seed {record.identity.seed}: epoch {record.chosen_epoch}, validation MAP {record.validation['map']:.4f};"
        f" test MAP i→t {record.test['map_i2t']:.4f}, t→i {record.test['map_t2i']:.4f}, mean {record.test['map']:.4f}"
        f" ({record.training.seconds:.0f} s on {record.identity.device})"
    )


def _made(place: Path) -> Path:
    """The folder, made if absent. Raises ConfigError where it cannot be, or cannot be written."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        files.write_atomic(place / ".writable", "")
        (place / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written ({error.strerror}); use --out for another folder") from error
    return place


def _resumed(what: str, left: str, resumed: int, epochs: int) -> Iterator[str]:
    """That a run was not trained from its start, where it was not."""
    if resumed:
        way = f"already trained on {left}" if resumed == epochs else f"went on after epoch {resumed} of {left}"
        yield f"{what}: {way}; --fresh trains again"

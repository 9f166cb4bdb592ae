"""`python -m cmh.reproduce`: run a study's winner, one of its trials or an experiment file again, without Ray."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmh import commands
from cmh.config import INPUTS, Value
from cmh.errors import ConfigError, RecordError

if TYPE_CHECKING:
    from cmh.datasets import Dataset
    from cmh.identity import Identity
    from cmh.records import Record
    from cmh.study.target import Recorded, Target

EPILOG = """\
examples:
  python -m cmh.reproduce experiments/jiang2017_dcmh_clipart.yml    the paper's settings on the built-in clip art
  python -m cmh.reproduce studies/dcmh-clipart-32                   the winner of a study, with its confirmed seeds
  python -m cmh.reproduce studies/dcmh-clipart-32 --check           … trained anew and compared with its records
  python -m cmh.reproduce studies/dcmh-clipart-32 --set gamma=0.5   … with a change: a row of its own on the board
  python -m cmh.reproduce studies/dcmh-clipart-32:7                 trial 7 of a study (validation only)

Results go to OUT/NAME-IDENTITY: run.yml, records.jsonl (for cmh.leaderboard) and, for each seed, config, curve, log and
checkpoint. IDENTITY is the run's: code, data, settings, device and versions, so runs that differ never meet. A killed
run goes on where it stopped; one that is recorded already is shown, and says so; --fresh trains it again. Openings of
the test split are counted in the study, or for all runs of a file in OUT/NAME.openings.jsonl.

--check trains in a folder of its own that goes away, and compares validation MAP, chosen epoch, test MAP and the AP of
each query. With the device, threads and versions of the record all must be equal; otherwise MAP must lie within a
tolerance that is printed with its reason. Exit code 1: something differs, or nothing was compared.
"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    return commands.guarded(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmh.reproduce",
        description="Run a study's winner, one of its trials, or an experiment file again, in this process.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("target", metavar="TARGET", help="an experiment file, the folder of a study or run, or STUDY:TRIAL")
    add("--seeds", type=commands.whole(1), metavar="N", help="run seeds 1 … N instead of the recorded ones")
    add("--check", action="store_true", help="train anew, compare with what was recorded; exit 1 where it differs")
    add("--fresh", action="store_true", help="train again what is trained already")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change hyperparameters, epochs, bits …",
    )
    add("--label", metavar="TEXT", help="what its row is called on the board (default: what was changed)")
    add("--method", metavar="NAME|FILE", help="where a method of one's own is now")
    add("--dataset", metavar="NAME|DIR", help="another dataset than the target's, or where it is now")
    add("--skip-bad", action="store_true", help="go on without the dataset's bad items, and say how many")
    add("--split", metavar="ORDER", help="another split of a benchmark: torchcmh (its seed) or file (the files' order)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--out", type=Path, default=Path("runs"), metavar="DIR", help="where results go (default: runs)")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from cmh import methods, training

    target = _target(arguments)
    module = methods.get(target.method)
    known = target.recorded
    for note in target.notes:
        _say(f"note: {note}")
    if arguments.check and not set(known) & set(target.seeds):
        there = ", ".join(map(str, sorted(known))) or "none"
        asked = ", ".join(map(str, target.seeds))
        raise ConfigError(
            f"--check: nothing was recorded for {arguments.target} with these settings and seeds {asked};"
            f" recorded seeds: {there}"
        )
    dataset = training.load(training.parse(module, {**target.config, **target.run})[0])
    run = _Runner(arguments, target, dataset)
    if not arguments.check:
        return run.validate() if target.trial is not None else run.test()
    return run.check(known)


@dataclasses.dataclass(frozen=True)
class _Runner:
    """A target on its data."""

    arguments: argparse.Namespace
    target: Target
    dataset: Dataset

    def values(self, seed: int, folder: Path) -> dict[str, Value]:
        own = {"seed": seed, "device": self.arguments.device, "folder": str(folder)}
        return {**self.target.config, **self.target.run, **own}

    def identity(self, seed: int) -> Identity:
        from cmh.study import confirm

        return confirm.identify(self.target.method, self.values(seed, Path()), self.dataset)

    @property
    def folder(self) -> Path:
        """Of this run and all its seeds."""
        from cmh.identity import FOLDER

        digest = self.identity(self.target.seeds[0]).digest(*FOLDER)
        return Path(self.arguments.out) / f"{self.target.name}-{digest}"

    def test(self) -> int:
        """Train, test and record every seed that is not recorded yet."""
        from cmh import records
        from cmh.study import confirm, folder

        place = self.folder
        _make(place)
        digests = {seed: self.identity(seed).digest() for seed in self.target.seeds}
        known, notes = ([], []) if self.arguments.fresh else records.read(place)
        found = {record.identity.digest(): record for record in known}
        done = {seed: found[digest] for seed, digest in digests.items() if digest in found}
        for seed, record in list(done.items()):
            try:
                records.per_query(place, record)
            except RecordError as error:  # what no board can use is made again
                notes += error.problems
                del done[seed]
        for note in notes:
            _say(f"note: {note}")
        todo = [seed for seed in self.target.seeds if seed not in done]
        for seed, record in done.items():
            _print(f"seed {seed}: already trained on {record.date[:16]}; --fresh trains again")
            _print(_line(record))
        if todo:
            opened = self.open(todo)
            folder.write_yaml(place / "run.yml", self.description())
            for seed in todo:
                _print(_line(self.record(confirm, seed, place, opened)))
        _print(f"records: {commands.short(place / 'records.jsonl')}")
        return 0

    def record(self, confirm: Any, seed: int, place: Path, opened: tuple[int, int]) -> Record:
        from cmh.records import Cost

        own, search = place / f"seed-{seed}", self.target.search
        left = self.left(own)
        with _bar(seed, self.identity(seed).epochs) as watch:
            tested = confirm.run(self.target.method, self.values(seed, own), watch, self.dataset)
        _taken_up(f"seed {seed}", left, tested.resumed, tested.training.epochs)
        spent = {field.name: search.get(field.name, 0) for field in dataclasses.fields(Cost)}
        record: Record = confirm.write_record(
            place,
            tested,
            selection=self.target.selection,
            search=Cost(**spent),
            opened=opened,
            label=self.target.label,
        )
        for line in confirm.audit_lines(record):
            _print(f"seed {seed}: {line}")
        return record

    def left(self, place: Path) -> str:
        """When an earlier start left a checkpoint here; --fresh takes it away."""
        checkpoint = place / "checkpoint.pt"
        if self.arguments.fresh:
            checkpoint.unlink(missing_ok=True)
        if not checkpoint.is_file():
            return ""
        return datetime.datetime.fromtimestamp(checkpoint.stat().st_mtime, datetime.UTC).isoformat()[:16]

    def open(self, seeds: list[int]) -> tuple[int, int]:
        """Note the opening of the test split: in the study that this comes from, where that can be written, else in
        one place for all runs of this name."""
        from cmh import ledger

        study, own = self.target.study, ledger.OWN
        if study is not None and os.access(study, os.W_OK):
            counted = study
        elif self.arguments.check:  # leaves nothing in OUT
            counted = None
        else:
            counted, own = self.arguments.out, f"{self.target.name}.{ledger.OWN}"
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
            _say(
                f"the test split counted in {commands.short(counted / own)} has been opened before: this is opening"
                f" {opened[0]} ({opened[1]} of this split by all)"
            )
        return opened

    def validate(self) -> int:
        """A search trial never met the test split, and does not meet it here."""
        place = self.folder
        _make(place)
        found = self.validated(self.target.seeds[0], place)
        values = found.validation
        _print(
            f"trial {self.target.trial}: epoch {found.chosen_epoch}, validation MAP i→t {values['map_i2t']:.4f},"
            f" t→i {values['map_t2i']:.4f}, mean {values['map']:.4f}; curve: {commands.short(place / 'curve.csv')}"
        )
        return 0

    def validated(self, seed: int, place: Path) -> Recorded:
        from cmh import methods, training
        from cmh.study import confirm
        from cmh.study.target import Recorded

        module = methods.get(self.target.method)
        run, config = training.parse(module, {**self.values(seed, place)})
        left = self.left(place)
        fitted = training.fit(module, run, config, self.dataset.search(), folder=place)
        _taken_up(f"trial {self.target.trial}", left, fitted.resumed, len(fitted.curve))
        best = fitted.best
        scores = {"map": best.val_map, "map_i2t": best.val_map_i2t, "map_t2i": best.val_map_t2i}
        return Recorded(fitted.identity, confirm.versions(), scores, best.epoch)

    def check(self, known: dict[int, Recorded]) -> int:
        """Train in a folder that goes away, and compare."""
        from cmh.study import check
        from cmh.study.target import Recorded

        seeds = [seed for seed in self.target.seeds if seed in known]
        found = {seed: Recorded(self.identity(seed)) for seed in seeds}
        if not any(check.other_run(known[seed], found[seed]) for seed in seeds):  # else training could show nothing
            with tempfile.TemporaryDirectory(prefix="cmh-check-") as name:
                if self.target.trial is None:
                    self.open(seeds)
                again = self.validated if self.target.trial is not None else self.tested
                found = {seed: again(seed, Path(name) / str(seed)) for seed in seeds}
        verdict = check.compare(known, found, self.target.seeds)
        for line in verdict.lines:
            _print(line)
        _print("check: everything agrees" if verdict.agrees else "check: DIFFERS")
        return 0 if verdict.agrees else 1

    def tested(self, seed: int, place: Path) -> Recorded:
        """A run that is trained and tested, and not recorded."""
        from cmh.study import confirm
        from cmh.study.target import Recorded

        with _bar(seed, self.identity(seed).epochs) as watch:
            one = confirm.run(self.target.method, self.values(seed, place), watch, self.dataset)
        return Recorded(one.identity, confirm.versions(), one.validation, one.chosen_epoch, one.test, one.ap)

    def description(self) -> dict[str, Any]:
        """The run as an experiment file."""
        from cmh import methods
        from cmh.study.target import SETTINGS

        target = self.target
        return {
            "method": methods.spec(methods.short(methods.get(target.method))),
            **{key: target.run[key] for key in SETTINGS},
            "seeds": target.seeds,
            "selection": target.selection,
            "label": target.label,
            "config": target.config,
            "search": dict(target.search),
        }


@contextlib.contextmanager
def _bar(seed: int, epochs: int) -> Iterator[Callable[[Any], None]]:
    """A progress bar on a terminal: gives what is to be called after each epoch."""
    from tqdm import tqdm

    with tqdm(total=epochs, desc=f"seed {seed}", unit="epoch", disable=not sys.stderr.isatty()) as bar:

        def watch(epoch: Any) -> None:
            bar.update(epoch.epoch - bar.n)
            bar.set_postfix_str(f"val_map {epoch.val_map:.4f}, best {epoch.val_map_best:.4f}")

        yield watch


def _target(arguments: argparse.Namespace) -> Target:
    """The target with the changes that were asked for."""
    from cmh import config, datasets, methods, training
    from cmh.study import target as targets

    target = targets.read(arguments.target, method=arguments.method)
    run = dict(target.run)
    if arguments.dataset:
        given = arguments.dataset
        run["dataset"] = str(Path(given).resolve()) if datasets.is_folder(given) else given
    if arguments.split:
        run["split"] = arguments.split
    if arguments.skip_bad:
        run["skip_bad"] = True
    changes = commands.settings(arguments.set)
    own: dict[str, Value] = {key: changes.pop(key) for key in ("epochs", "bits", "features", *INPUTS) if key in changes}
    module = methods.get(target.method)
    checked = config.build(training.Run, run | own, where="run settings")
    run |= {key: getattr(checked, key) for key in (*run, *own)}
    values = dataclasses.asdict(config.build(module.Config, {**target.config, **changes}, where="hyperparameters"))
    # A missing dataset is said before anything is written.
    source = datasets.read(str(run["dataset"]), skip_bad=checked.skip_bad, order=checked.split)
    old, new = target.config | target.run, values | run
    changed = [f"{key}={new[key]}" for key in new if new[key] != old.get(key) and key not in ("dataset", "skip_bad")]
    seeds = list(range(1, arguments.seeds + 1)) if arguments.seeds else target.seeds
    here = {one.identity.dataset_sha256 for one in target.recorded.values() if one.identity is not None}
    same_data = run["dataset"] == target.run["dataset"] or source.sha256 in here
    label = arguments.label if arguments.label is not None else ", ".join([*filter(None, [target.label]), *changed])
    return dataclasses.replace(
        target,
        run=run,
        config=values,
        seeds=seeds,
        selection=target.selection if same_data and not changed else "fixed",
        recorded={} if changed else target.recorded,
        label=label,
    )


def _line(record: Record) -> str:
    return (
        f"seed {record.identity.seed}: epoch {record.chosen_epoch}, validation MAP {record.validation['map']:.4f};"
        f" test MAP i→t {record.test['map_i2t']:.4f}, t→i {record.test['map_t2i']:.4f}, mean {record.test['map']:.4f}"
        f" ({record.training.seconds:.0f} s on {record.identity.device})"
    )


def _make(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written ({error.strerror}); use --out for another folder") from error


def _taken_up(what: str, left: str, resumed: int, epochs: int) -> None:
    """Say that a run was not trained from its start."""
    if resumed:
        way = f"already trained on {left}" if resumed == epochs else f"went on after epoch {resumed} of {left}"
        _print(f"{what}: {way}; --fresh trains again")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())

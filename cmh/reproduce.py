"""`python -m cmh.reproduce`: run a study's winner, one of its trials or an experiment file again, without Ray."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmh import commands
from cmh.config import Value
from cmh.errors import CmhError, ConfigError

TOLERANCE = 0.02  # of MAP; on the machine and thread count of the record the numbers are equal
SETTINGS = (
    *("dataset", "split", "skip_bad", "features", "weights", "bits", "epochs", "threads"),
    *commands.INPUTS,
)
KEYS = ("method", *SETTINGS, "seeds", "selection", "config")
NOTES = ("search", "recorded", "reported", "remarks")  # for people and the board

EPILOG = """\
examples:
  python -m cmh.reproduce experiments/jiang2017_dcmh_clipart.yml    the paper's settings on the built-in clip art
  python -m cmh.reproduce studies/dcmh-clipart-32                   the winner of a study, with its confirmed seeds
  python -m cmh.reproduce studies/dcmh-clipart-32 --check           … and compare with what was recorded
  python -m cmh.reproduce studies/dcmh-clipart-32:7                 trial 7 of a study (validation only)

Results go to OUT/NAME: records.jsonl (for cmh.leaderboard) and, for each seed, config, curve, log and checkpoint.
--check exits with 1 if a MAP differs from the record by more than 0.02. A killed run goes on where it stopped.
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
    add("target", metavar="TARGET", help="an experiment file, a study folder, or STUDY:TRIAL")
    add("--seeds", type=commands.whole(1), metavar="N", help="run seeds 1 … N instead of the recorded ones")
    add("--check", action="store_true", help="compare with what was recorded; exit 1 outside the tolerance")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change hyperparameters, epochs, bits …",
    )
    add("--dataset", metavar="NAME|DIR", help="another dataset than the target's")
    add("--skip-bad", action="store_true", help="go on without the dataset's bad items, and say how many")
    add("--split", metavar="ORDER", help="another split of a benchmark: torchcmh (its seed) or file (the files' order)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add("--out", type=Path, default=Path("runs"), metavar="DIR", help="where results go (default: runs)")
    return parser


@dataclasses.dataclass(frozen=True)
class _Target:
    """What is run: everything checked."""

    name: str
    method: str
    run: dict[str, Value]  # SETTINGS
    config: dict[str, Value]
    seeds: list[int]
    selection: str
    search: Mapping[str, Any]
    recorded: dict[int, dict[str, float]]  # seed → map_i2t, map_t2i
    study: Path | None = None
    trial: int | None = None
    dataset: str = ""  # its name, where run["dataset"] is the folder of your own


def _run(arguments: argparse.Namespace) -> int:
    target = _target(arguments)
    if arguments.check and not target.recorded:
        raise ConfigError(f"--check: nothing was recorded for {arguments.target}; run it without --check first")
    found = _validate_only(target, arguments) if target.trial is not None else _test(target, arguments)
    if not arguments.check:
        return 0
    return _compare(target, found)


def _test(target: _Target, arguments: argparse.Namespace) -> dict[int, dict[str, float]]:
    from tqdm import tqdm

    from cmh import methods
    from cmh.study import confirm

    folder = arguments.out / target.name
    counted_in = target.study or folder
    opened = confirm.open_test(counted_in, "confirm", target.config, target.seeds)
    if opened > 1:
        _say(f"the test split counted in {commands.short(counted_in)} has been opened before: this is opening {opened}")
    cost = {key: target.search.get(key, 0) for key in ("trials", "epochs", "seconds")}
    found: dict[int, dict[str, float]] = {}
    for seed in target.seeds:
        epochs = int(target.run["epochs"])
        with tqdm(total=epochs, desc=f"seed {seed}", unit="epoch", disable=not sys.stderr.isatty()) as bar:

            def watch(epoch: Any, bar: tqdm[Any] = bar) -> None:
                bar.update(epoch.epoch - bar.n)
                bar.set_postfix_str(f"val_map {epoch.val_map:.4f}, best {epoch.val_map_best:.4f}")

            own = {"seed": seed, "device": arguments.device, "folder": str(folder / f"seed-{seed}")}
            tested = confirm.run(target.method, {**target.config, **target.run, **own}, watch)
        record = confirm.write_record(
            folder,
            tested,
            method=methods.short(methods.get(target.method)),
            dataset=target.dataset,
            bits=int(target.run["bits"]),
            epochs=epochs,
            config=target.config,
            selection=target.selection,
            search=confirm.Search(int(cost["trials"]), int(cost["epochs"]), float(cost["seconds"])),
            test_opened=opened,
        )
        found[seed] = {key: record.test[key] for key in ("map_i2t", "map_t2i")}
        sys.stdout.write(
            f"seed {seed}: epoch {record.chosen_epoch}, validation MAP {record.validation['map']:.4f}; test MAP"
            f" i→t {record.test['map_i2t']:.4f}, t→i {record.test['map_t2i']:.4f}, mean {record.test['map']:.4f}"
            f" ({record.training_seconds:.0f} s on {record.device})\n"
        )
        sys.stdout.flush()
    sys.stdout.write(f"records: {commands.short(folder / 'records.jsonl')}\n")
    return found


def _validate_only(target: _Target, arguments: argparse.Namespace) -> dict[int, dict[str, float]]:
    """A search trial never met the test split, and does not meet it here."""
    from cmh import methods, training

    seed = target.seeds[0]
    module = methods.get(target.method)
    folder = arguments.out / target.name
    values = {**target.config, **target.run, "seed": seed, "device": arguments.device}
    run, config = training.split(module, values)
    data = training.load(run).search()
    best = training.fit(module, run, config, data, folder=folder).best
    sys.stdout.write(
        f"trial {target.trial}: epoch {best.epoch}, validation MAP i→t {best.val_map_i2t:.4f},"
        f" t→i {best.val_map_t2i:.4f}, mean {best.val_map:.4f}; curve: {commands.short(folder / 'curve.csv')}\n"
    )
    return {seed: {"val_map": best.val_map}}


def _compare(target: _Target, found: dict[int, dict[str, float]]) -> int:
    worst = 0.0
    for seed in target.seeds:
        if seed not in target.recorded:
            sys.stdout.write(f"seed {seed}: not recorded, so not compared\n")
            continue
        for key, recorded in target.recorded[seed].items():
            difference = abs(found[seed][key] - recorded)
            worst = max(worst, difference)
            sys.stdout.write(f"seed {seed} {key}: recorded {recorded:.4f}, now {found[seed][key]:.4f}\n")
    verdict = "within" if worst <= TOLERANCE else "OUTSIDE"
    sys.stdout.write(f"largest difference {worst:.4f}: {verdict} the tolerance of {TOLERANCE}\n")
    return 0 if worst <= TOLERANCE else 1


def _target(arguments: argparse.Namespace) -> _Target:
    from cmh import config, datasets, methods

    path, _, trial = arguments.target.rpartition(":")
    if path and trial.isdigit() and Path(path).is_dir():
        target = _of_trial(Path(path), int(trial))
    elif Path(arguments.target).is_dir():
        target = _of_study(Path(arguments.target))
    elif Path(arguments.target).is_file():
        target = _of_file(Path(arguments.target))
    else:
        raise ConfigError(f"{arguments.target}: is no experiment file, no study folder and no STUDY:TRIAL")
    run = dict(target.run)
    if arguments.dataset:
        given = arguments.dataset
        run["dataset"] = str(Path(given).resolve()) if datasets.is_folder(given) else given
    if arguments.split:
        run["split"] = arguments.split
    if arguments.skip_bad:
        run["skip_bad"] = True
    changes = commands.settings(arguments.set)
    from cmh import training

    own: dict[str, Value] = {
        key: changes.pop(key) for key in ("epochs", "bits", "features", *commands.INPUTS) if key in changes
    }

    module = methods.get(target.method)
    checked = config.build(training.Run, run | own, where="run settings")
    run |= {key: getattr(checked, key) for key in (*run, *own)}
    values = dataclasses.asdict(config.build(module.Config, {**target.config, **changes}, where="hyperparameters"))
    # A missing dataset is said before anything is written.
    source = datasets.read(str(run["dataset"]), skip_bad=checked.skip_bad, order=checked.split)
    changed = values != target.config or run != target.run
    seeds = list(range(1, arguments.seeds + 1)) if arguments.seeds else target.seeds
    return dataclasses.replace(
        target,
        run=run,
        config=values,
        seeds=seeds,
        name=target.name + ("-changed" if changed else ""),
        selection="fixed" if changed else target.selection,
        recorded={} if changed else target.recorded,
        dataset=source.name,
    )


def _of_file(path: Path) -> _Target:
    """An experiment file. Raises ConfigError that lists every problem."""
    from cmh import config, methods, training
    from cmh.records import SELECTIONS

    document = config.load_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: holds {document!r}, but must be a mapping with {', '.join(KEYS)}")
    method = str(document.get("method"))
    if method.endswith(".py"):  # a method of your own, beside the experiment file or by its whole path
        method = str(path.parent / method)
    problems = [config.unknown(key, (*KEYS, *NOTES)) for key in document if key not in (*KEYS, *NOTES)]
    problems += [f"{key} is missing" for key in ("method", "dataset", "config") if key not in document]
    selection = document.get("selection", "fixed")
    if selection not in SELECTIONS:
        problems.append(f"selection is {selection!r}, but must be one of {', '.join(SELECTIONS)}")
    seeds = document.get("seeds", [1])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        problems.append(f"seeds is {seeds!r}, but must be a list of integers >= 0")
    settings = {key: document[key] for key in SETTINGS if key in document}
    run, values = settings, document.get("config", {})
    try:
        checked = config.build(training.Run, settings)
        run = {key: getattr(checked, key) for key in SETTINGS}
    except CmhError as error:
        problems += error.problems
    try:
        if not isinstance(values, dict):
            raise ConfigError(f"config is {values!r}, but must be a mapping of hyperparameters")
        if "method" in document:
            values = dataclasses.asdict(config.build(methods.get(method).Config, values))
    except CmhError as error:
        problems += error.problems
    recorded, search = document.get("recorded", {}), document.get("search", {})
    if not isinstance(search, dict):
        problems.append(f"search is {search!r}, but must be a mapping")
    if problems:
        raise ConfigError(*problems, heading=str(path))
    return _Target(path.stem, method, run, values, seeds, selection, search, _recorded(path, recorded))


def _recorded(path: Path, values: Any) -> dict[int, dict[str, float]]:
    try:
        return {int(seed): {key: float(row[key]) for key in ("map_i2t", "map_t2i")} for seed, row in values.items()}
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ConfigError(f"{path}: recorded must map seeds to map_i2t and map_t2i") from error


def _of_study(folder: Path) -> _Target:
    from cmh import records

    best = folder / "best.yml"
    if not best.is_file():
        raise ConfigError(f"{folder}: has no best.yml; a study writes it when its search has ended")
    target = _of_file(best)
    own = [
        record
        for record in records.read(folder)
        if record.config == target.config and record.epochs == target.run["epochs"]
    ]
    recorded = {record.seed: {key: record.test[key] for key in ("map_i2t", "map_t2i")} for record in own}
    seeds = sorted(recorded) or target.seeds
    return dataclasses.replace(target, name=folder.resolve().name, seeds=seeds, recorded=recorded, study=folder)


def _of_trial(folder: Path, number: int) -> _Target:
    """A trial as the storage has it; the settings it shares with the others are in `study.yml`."""
    import csv
    import json

    from cmh import config, methods
    from cmh.study.folder import read_study

    study = read_study(folder)
    identity, method = study["identity"], str(study.get("method_file", study["identity"]["method"]))
    path = folder / "trials.csv"
    rows = {int(row["number"]): row for row in csv.DictReader(path.open(newline=""))} if path.is_file() else {}
    if number not in rows:
        raise ConfigError(f"{folder}: has no trial {number}; it has {len(rows)} trials, see {path}")
    row = rows[number]
    table = config.params(methods.get(method).Config)
    text = {name: row[name] for name in table if row.get(name)}
    raw = {name: {"True": True, "False": False}.get(value, value) for name, value in text.items()}
    values = dataclasses.asdict(config.build(methods.get(method).Config, raw, where=str(path)))
    trained = row.get("copied_from") or str(number)
    written = json.loads((folder / "trials" / trained / "config.json").read_text())
    run = {key: written[key] for key in SETTINGS if key in written}
    recorded = {int(identity["seed"]): {"val_map": float(row["val_map_best"])}} if row["state"] == "complete" else {}
    return _Target(
        name=f"{folder.resolve().name}-trial-{number}",
        method=method,
        run=run,
        config=values,
        seeds=[int(identity["seed"])],
        selection="fixed",
        search={},
        recorded=recorded,
        study=folder,
        trial=number,
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())

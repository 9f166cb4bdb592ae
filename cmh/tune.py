"""`python -m cmh.tune`: search hyperparameters on the validation split, confirm the winner, test it once."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmh import commands
from cmh.config import Value
from cmh.errors import CmhError, ConfigError, StudyError

if TYPE_CHECKING:
    from cmh.records import Record
    from cmh.study.space import Space
    from cmh.study.storage import Row, Store

EPILOG = """\
examples:
  python -m cmh.tune --method dcmh --space spaces/dcmh.yml             the main job, on the built-in clip art
  python -m cmh.tune --method dcmh --space dcmh --bits 16 32 64        one study for each code length
  python -m cmh.tune --method dcmh --space dcmh --trials 100           the same study again, with more trials
  python -m cmh.tune --method dcmh --space dcmh --plan                 check everything, start nothing

The same command again goes on where it stopped (after a kill, too). A study lives in OUT/METHOD-DATASET-BITS:
study.yml (the request), study.db (Optuna), trials.csv, trials/NUMBER/, best.yml (the winner, for cmh.reproduce),
records.jsonl (test results, for cmh.leaderboard). The search sees training and validation items only; the test
split is opened by the confirmation, and every opening is counted.
"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    return commands.guarded(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmh.tune",
        description="Search a method's hyperparameters with Ray Tune, Optuna and ASHA, then test the winner once.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--method",
        required=True,
        metavar="NAME|FILE",
        help="the method (`python -m cmh.methods` lists them), or a file",
    )
    add("--space", required=True, metavar="FILE", help="search space; a file, or the name of a built-in one (dcmh)")
    add("--dataset", default="clipart", metavar="NAME|DIR", help="default: %(default)s, which comes with cmh")
    add("--skip-bad", action="store_true", help="go on without the dataset's bad items, and say how many")
    add(
        "--split",
        default="torchcmh",
        metavar="ORDER",
        help="split of a benchmark: torchcmh (its seed; default) or file (the order of the files)",
    )
    add(
        "--features",
        default="efficientnet-lite0",
        metavar="NETWORK",
        help="frozen image network (default: %(default)s)",
    )
    add("--weights", type=Path, metavar="FILE", help="weights for it (default: its own)")
    add("--bits", nargs="+", type=commands.whole(1), default=[32], metavar="N", help="code lengths (default: 32)")
    add(
        "--trials",
        type=commands.whole(1),
        metavar="N",
        help="trials in all, earlier ones included (default: the space's)",
    )
    add("--epochs", type=commands.whole(1), metavar="N", help="epochs of a full trial (default: the space's)")
    add("--time-budget", type=commands.duration, metavar="TIME", help="end the search after 45s, 30m, 1.5h …")
    add("--seed", type=commands.whole(0), default=0, metavar="N", help="seed of sampler and training (default: 0)")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="fix hyperparameters; or finetune=true …",
    )
    add("--seeds", type=commands.whole(1), default=3, metavar="N", help="seeds of the confirmation (default: 3)")
    add("--no-confirm", action="store_true", help="leave the test split closed")
    add("--out", type=Path, default=Path("studies"), metavar="DIR", help="where studies go (default: studies)")
    add("--storage", metavar="URL", help="Optuna storage (default: SQLite in the study's folder)")
    add("--address", metavar="HOST:PORT", help="join a running Ray cluster (auto: the one of this machine)")
    add("--cpus-per-trial", type=commands.number, default=1.0, metavar="N", help="default: 1")
    add(
        "--gpus-per-trial",
        type=commands.number,
        metavar="N",
        help="may be a fraction (default: 1 where there are GPUs)",
    )
    add("--max-concurrent", type=commands.whole(1), metavar="N", help="trials at once (default: as many as fit)")
    add("--plan", action="store_true", help="check everything, print the first points and an estimate, and stop")
    return parser


@dataclasses.dataclass(frozen=True)
class _Job:
    """One study: what is asked for, checked."""

    space: Space
    folder: Path
    run: dict[str, Value]  # settings that all its trials share
    fixed: dict[str, Value]
    limit: int
    dataset: Any

    @property
    def base(self) -> dict[str, Value]:
        """Library defaults under the fixed values."""
        from cmh import config, methods

        return {**config.defaults(methods.get(self.space.method).Config), **self.fixed}


def _run(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    jobs = _jobs(arguments)
    if arguments.plan:
        for job in jobs:
            _plan(job, arguments)
        return 0
    complete = True
    from cmh import methods
    from cmh.study import confirm, folder

    with contextlib.ExitStack() as stack:
        for job in jobs:
            stack.enter_context(folder.held(job.folder))
            data = {
                "dataset": job.dataset.name,
                "dataset_sha256": job.dataset.sha256,
                "split_sha256": job.dataset.split_sha256,
                "features": job.dataset.features,
            }
            fixed = {**job.fixed, **_inputs(job.run)}
            about = folder.identity(job.space, data, int(job.run["bits"]), arguments.seed, fixed)
            notes = {
                "method_file": methods.spec(job.space.method),
                "versions": confirm.versions(),
                "storage": _url(job, arguments),
            }
            if folder.check_identity(job.folder, about, notes):
                _say(f"{commands.short(job.folder)}: going on with the study that is there")
        controls = [_controls(job) for job in jobs]
        from cmh import cluster

        stack.enter_context(cluster.session(arguments.address))
        for job, control in zip(jobs, controls, strict=True):
            complete &= _study(job, control, arguments)
    _say(f"done in {time.monotonic() - started:.0f} s")
    return 0 if complete else 130


def _jobs(arguments: argparse.Namespace) -> list[_Job]:
    """Everything checked that can be, all problems at once."""
    from cmh import config, datasets, methods, training
    from cmh.features import backbones
    from cmh.study import space as spaces

    problems: list[str] = []

    def tried(work: Any) -> Any:
        try:
            return work()
        except CmhError as error:
            problems.extend(f"{error.heading}: {problem}" if error.heading else problem for problem in error.problems)
            return None

    module = tried(lambda: methods.get(arguments.method))
    path = tried(lambda: spaces.find(arguments.space))
    raw = tried(lambda: commands.settings(arguments.set)) or {}
    inputs = {key: raw.pop(key) for key in commands.INPUTS if key in raw}
    checked = tried(lambda: config.build(training.Run, inputs, where="--set"))
    inputs = {key: getattr(checked, key) for key in inputs} if checked is not None else {}
    fixed: dict[str, Value] = {}
    if module is not None:
        built = tried(lambda: config.build(module.Config, raw, where="--set"))
        fixed = {key: getattr(built, key) for key in raw} if built is not None else {}
    space = None
    if module is not None and path is not None:
        name = methods.short(module)
        space = tried(lambda: spaces.load(path, method=name, fixed=fixed, epochs=arguments.epochs))
    if arguments.cpus_per_trial == 0 and not arguments.gpus_per_trial:
        problems.append("--cpus-per-trial is 0 without --gpus-per-trial: a trial must take something")
    # Reading is cheap; preparing comes only when everything else is right.
    options = {"skip_bad": arguments.skip_bad, "order": arguments.split}
    tried(lambda: datasets.read(arguments.dataset, **options, progress=sys.stderr.isatty()))
    tried(lambda: backbones.check(arguments.features, str(arguments.weights or "")))
    if problems:
        raise ConfigError(*problems, heading="" if len(problems) == 1 else "nothing was started")
    assert space is not None
    dataset = datasets.load(
        arguments.dataset,
        features=arguments.features,
        weights=str(arguments.weights or ""),
        **options,
        pixels=bool(inputs.get("finetune")),
    )
    place = str(Path(arguments.dataset).resolve()) if datasets.is_folder(arguments.dataset) else dataset.name
    return [
        _Job(
            space=space,
            folder=arguments.out / f"{space.method}-{dataset.name}-{bits}",
            run={
                "dataset": place,
                "split": arguments.split,
                "skip_bad": arguments.skip_bad,
                "features": arguments.features,
                "weights": str(arguments.weights.resolve()) if arguments.weights else "",
                "bits": bits,
                "epochs": space.epochs,
                "seed": arguments.seed,
                **inputs,
            },
            fixed=fixed,
            limit=arguments.trials or space.trials,
            dataset=dataset,
        )
        for bits in dict.fromkeys(arguments.bits)
    ]


def _inputs(run: Mapping[str, Value]) -> dict[str, Value]:
    return {key: run[key] for key in commands.INPUTS if key in run}


def _url(job: _Job, arguments: argparse.Namespace) -> str:
    return arguments.storage or f"sqlite:///{(job.folder / 'study.db').resolve()}"


def _plan(job: _Job, arguments: argparse.Namespace) -> None:
    from cmh import methods, training
    from cmh.study.storage import Store

    space = job.space
    store = Store(None, "plan", space, job.base, arguments.seed)
    lines = [
        f"{job.folder}: {space.method} on {job.dataset.name}, {job.run['bits']} bits,"
        f" {job.limit} trials of {space.epochs} epochs"
    ]
    rungs = space.asha.rungs(space.epochs) if space.asha is not None else []
    lines.append(f"rungs: {', '.join(map(str, rungs)) or 'none'}; sampler: {space.sampler}")
    lines.append("first points:")
    for _ in range(min(5, job.limit)):
        proposal = store.propose(job.limit)
        if proposal is None:
            break
        searched = " ".join(
            f"{item.name}={proposal.config[item.name]:.3g}"
            if isinstance(proposal.config[item.name], float)
            else f"{item.name}={proposal.config[item.name]}"
            for item in space.ranges
        )
        lines.append(f"  {proposal.number} ({proposal.origin}): {searched}")
    most = job.limit * space.epochs
    likely = _likely_epochs(space, job.limit)
    run, config = training.split(methods.get(space.method), {**job.base, **job.run, "epochs": 1, "threads": 1})
    fitted = training.fit(methods.get(space.method), run, config, job.dataset.search())
    lines.append(
        f"estimate: about {likely:.0f} epochs (at most {most}); one epoch of the default point took"
        f" {fitted.seconds:.2f} s here on one thread, so about {likely * fitted.seconds / 60:.1f} CPU minutes"
    )
    sys.stdout.write("\n".join(lines) + "\n")


def _likely_epochs(space: Space, trials: int) -> float:
    """If every rung lets exactly 1/reduction through; the start points run to the end."""
    protected = min(len(space.start_from), trials)
    left, done, total = float(trials - protected), 0, float(protected * space.epochs)
    for rung in space.asha.rungs(space.epochs) if space.asha is not None else []:
        total += left * (rung - done)
        left, done = left / space.asha.reduction if space.asha is not None else left, rung
    return total + left * (space.epochs - done)


def _controls(job: _Job) -> dict[str, tuple[float, float, float]]:
    """Validation MAP (i→t, t→i, mean) of chance and of the linear control. It also compiles the metric for all."""
    from cmh import methods, training

    data = job.dataset.search()
    floor = training.chance(data)
    ridge = methods.get("ridge")
    run, config = training.split(ridge, {key: value for key, value in job.run.items() if key not in commands.INPUTS})
    best = training.fit(ridge, run, config, data).best
    return {"chance": (floor, floor, floor), "ridge (control)": (best.val_map_i2t, best.val_map_t2i, best.val_map)}


def _study(job: _Job, controls: Mapping[str, Any], arguments: argparse.Namespace) -> bool:
    from cmh import config, methods
    from cmh.study import folder, workers
    from cmh.study.storage import Store, readable_errors
    from cmh.views.progress import Progress

    url = _url(job, arguments)
    terminal = sys.stderr.isatty()
    with readable_errors(url):
        store = Store(url, job.folder.name, job.space, job.base, arguments.seed)
        resources = workers.share(arguments.max_concurrent, arguments.cpus_per_trial, arguments.gpus_per_trial)
        rungs = job.space.asha.rungs(job.space.epochs) if job.space.asha is not None else []
        _say(
            f"{commands.short(job.folder)}: {job.limit} trials of up to {job.space.epochs} epochs,"
            f" {resources.concurrent} at once; rungs {', '.join(map(str, rungs)) or 'none'}"
        )
        began = time.monotonic()
        view = Progress(store, job.limit, _say, terminal)
        try:
            finished = workers.search(
                store,
                limit=job.limit,
                folder=job.folder,
                run=job.run,
                resources=resources,
                time_budget=arguments.time_budget,
                view=view,
            )
        finally:
            view.close()
            store.add_seconds(time.monotonic() - began)
            rows = store.rows()
            folder.write_trials(job.folder, rows, list(config.params(methods.get(job.space.method).Config)))
    complete = [row for row in rows if row.state == "complete" and row.val_map_best is not None]
    stopped_by_time = not finished and arguments.time_budget is not None
    if not finished and not stopped_by_time:
        raise KeyboardInterrupt
    if not complete:
        failures = [f"trial {row.number}: {row.error}" for row in rows if row.state == "failed"]
        raise StudyError(
            f"{job.folder}: no trial was completed, so there is no winner; see {job.folder / 'trials.csv'}",
            *failures[:3],
        )
    best = max(complete, key=lambda row: (row.val_map_best or 0.0, -row.number))
    _write_best(job, best, store, rows, arguments)
    records: list[Record] = []
    if not arguments.no_confirm:
        records = _confirm(job, best, store, rows, arguments, resources.concurrent)
    _closing(job, rows, best, controls, records)
    return True


def _write_best(job: _Job, best: Row, store: Store, rows: list[Row], arguments: argparse.Namespace) -> None:
    from cmh import methods
    from cmh.study import folder, workers

    folder.write_yaml(
        job.folder / "best.yml",
        {
            "method": methods.spec(job.space.method),
            "dataset": job.run["dataset"],
            **{key: job.run[key] for key in ("split", "skip_bad") if job.run[key] not in ("torchcmh", False)},
            "features": job.run["features"],
            **({"weights": job.run["weights"]} if job.run["weights"] else {}),
            "bits": job.run["bits"],
            "epochs": job.space.epochs,
            **_inputs(job.run),
            "seeds": [int(job.run["seed"])],
            "threads": workers.threads(arguments.cpus_per_trial),
            "selection": "validation",
            "config": best.config,
            "search": {
                "study": job.folder.name,
                "trial": best.number,
                "trials": len(rows),
                "epochs": sum(row.epochs for row in rows),
                "seconds": round(store.seconds(), 1),
                "val_map": best.val_map_best,
            },
        },
    )


def _confirm(
    job: _Job, best: Row, store: Store, rows: list[Row], arguments: argparse.Namespace, concurrent: int
) -> list[Record]:
    """Train the winner with fresh seeds and open the test split; what was confirmed before is not run again."""
    from cmh import methods, records
    from cmh.study import confirm, workers

    seeds = [arguments.seed + number for number in range(1, arguments.seeds + 1)]
    done = {
        record.seed: record
        for record in records.read(job.folder)
        if record.config == best.config and record.epochs == job.space.epochs and record.selection == "validation"
    }
    missing = [seed for seed in seeds if seed not in done]
    if not missing:
        return [done[seed] for seed in seeds]
    opened = confirm.open_test(job.folder, "confirm", best.config, seeds)
    if opened > 1:
        _say(f"the test split of this study has been opened before: this is opening {opened}, and its records say so")
    _say(f"confirming trial {best.number} with seeds {', '.join(map(str, missing))}: training, then the test split")
    search = confirm.Search(len(rows), sum(row.epochs for row in rows), store.seconds())
    values = [
        {
            **best.config,
            **job.run,
            "seed": seed,
            "folder": str((job.folder / "confirm" / f"{best.number}-{seed}").resolve()),
        }
        for seed in missing
    ]
    for tested in workers.confirm_all(
        methods.spec(job.space.method),
        values,
        arguments.cpus_per_trial,
        workers.gpus(arguments.gpus_per_trial),
        concurrent,
    ):
        done[tested.seed] = confirm.write_record(
            job.folder,
            tested,
            method=job.space.method,
            dataset=job.dataset.name,
            bits=int(job.run["bits"]),
            epochs=job.space.epochs,
            config=best.config,
            selection="validation",
            search=search,
            test_opened=opened,
        )
        score = done[tested.seed].test
        _say(
            f"seed {tested.seed}: test MAP i→t {score['map_i2t']:.4f}, t→i {score['map_t2i']:.4f},"
            f" mean {score['map']:.4f}"
        )
    return [done[seed] for seed in seeds]


def _closing(
    job: _Job, rows: list[Row], best: Row, controls: Mapping[str, tuple[float, float, float]], records: list[Record]
) -> None:
    """The closing table, on stdout."""
    from cmh.board.statistics import estimate

    scores: list[tuple[str, tuple[float | None, float | None, float | None]]] = list(controls.items())
    names = {"paper": "paper setting", "default": "library default"}
    by_origin = {row.origin: row for row in rows}
    for origin, name in names.items():
        if origin in by_origin:
            row = by_origin[origin]
            note = "" if row.state == "complete" else f" ({row.state})"
            scores.append((name + note, (row.val_map_i2t, row.val_map_t2i, row.val_map_best)))
    scores.append((f"tuned (trial {best.number})", (best.val_map_i2t, best.val_map_t2i, best.val_map_best)))
    lines = [
        "",
        f"{job.space.method} on {job.dataset.name}, {job.run['bits']} bits, {job.space.epochs} epochs;"
        " tie-expected MAP over the whole database",
        f"{'':<24}{'validation':^24}{'test':^32}".rstrip(),
        f"{'':<24}{'i→t':>8}{'t→i':>8}{'mean':>8}{'i→t':>8}{'t→i':>8}{'mean':>8}".rstrip(),
    ]
    for name, values in scores:
        lines.append(f"{name:<24}" + "".join(f"{'-' if value is None else f'{value:.4f}':>8}" for value in values))
    if records:
        tests = {key: estimate([record.test[key] for record in records]) for key in ("map_i2t", "map_t2i", "map")}
        lines[-1] += "".join(f"{tests[key].mean:>8.4f}" for key in tests)
        half = tests["map"].high
        if half is not None:
            lines[-1] += f" ± {half - tests['map'].mean:.4f}"
        opened = max(record.test_opened for record in records)
        lines.append(f"test: mean of {len(records)} seeds (± half of the 95 % interval); test split opened {opened}×")
    where = commands.short(job.folder)
    lines += [
        "",
        f"every trial           {where}/trials.csv",
        f"reproduce the winner  python -m cmh.reproduce {where}",
        f"see the board         python -m cmh.leaderboard {commands.short(job.folder.parent)}",
        "",
    ]
    sys.stdout.write("\n".join(lines))
    sys.stdout.flush()


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

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
from cmh.config import INPUTS, Value
from cmh.errors import CmhError, ConfigError, StudyError

if TYPE_CHECKING:
    from cmh.identity import Identity
    from cmh.records import Cost, Record
    from cmh.signals import Interrupts
    from cmh.study.confirm import Confirmed
    from cmh.study.session import Work
    from cmh.study.space import Space
    from cmh.study.storage import Store, TrialRow

EPILOG = """\
examples:
  python -m cmh.tune --method dcmh --space spaces/dcmh.yml             the main job, on the built-in clip art
  python -m cmh.tune --method dcmh ridge --bits 16 32 64               six studies, one after the other, no idle worker
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
    add("--method", required=True, nargs="+", metavar="NAME|FILE", help="methods (`python -m cmh.methods`) or files")
    add("--space", metavar="FILE", help="search space; a file, or the name of a built-in one (default: the method's)")
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
        help="image network, frozen unless finetune is set (default: %(default)s)",
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
    add(
        "--time-budget",
        type=commands.duration,
        metavar="TIME",
        help="end a study's search after 45s, 30m, 1.5h …, all its starts together",
    )
    add(
        "--budget-passes",
        type=commands.number,
        metavar="N",
        help="end a study's search after N passes of its trials over the training items (an epoch may be several)",
    )
    add("--trial-timeout", type=commands.duration, metavar="TIME", help="fail a trial that reports nothing for so long")
    add("--seed", type=commands.whole(0), default=0, metavar="N", help="seed of sampler and training (default: 0)")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"fix hyperparameters, or how items are taken: {', '.join(INPUTS)}",
    )
    add("--warm-start", type=Path, metavar="STUDY", help="start with the best points of another study of the method")
    add("--seeds", type=commands.whole(1), default=3, metavar="N", help="seeds of the confirmation (default: 3)")
    add("--no-confirm", action="store_true", help="leave the test split closed")
    add("--out", type=Path, default=Path("studies"), metavar="DIR", help="where studies go (default: studies)")
    add("--storage", metavar="URL", help="Optuna storage (default: SQLite in the study's folder)")
    add("--address", metavar="HOST:PORT", help="join a running Ray cluster (auto: the one of this machine)")
    add("--cpus-per-trial", type=commands.number, default=1.0, metavar="N", help="default: 1")
    add(
        "--gpus-per-trial",
        type=lambda text: text if text == "auto" else commands.number(text),
        metavar="N",
        help="may be a fraction; auto: as much as an epoch was measured to need (default: 1 where there are GPUs)",
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
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)  # for study.yml, beside the request

    def identity(self, config: Mapping[str, Value]) -> Identity:
        """Of a run of this study with these hyperparameters and the study's seed."""
        from cmh.study import confirm

        return confirm.identify(self.space.method, {**config, **self.run}, self.dataset)

    @property
    def base(self) -> dict[str, Value]:
        """Library defaults under the fixed values."""
        from cmh import config, methods

        return {**config.defaults(methods.get(self.space.method).Config), **self.fixed}


def _run(arguments: argparse.Namespace) -> int:
    from cmh.signals import Interrupts

    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts(commands.end_interrupted))
        jobs = _jobs(arguments)
        if arguments.plan:
            for job in jobs:
                _plan(job, arguments)
            return 0
        jobs = [_begun(job, arguments, stack) for job in jobs]
        controls = {_control_key(job): _controls(job) for job in jobs}
        from cmh import cluster

        stack.enter_context(cluster.session(arguments.address, on_server_death=commands.end_at_once))
        interrupts.install()  # Ray has taken SIGTERM
        _search(jobs, controls, arguments, interrupts)
    _say(f"done in {time.monotonic() - started:.0f} s")
    return 0


def _begun(job: _Job, arguments: argparse.Namespace, stack: contextlib.ExitStack) -> _Job:
    """The study in its folder, which is ours from here on: a new one, or the one that is there."""
    from cmh import ledger, methods
    from cmh.study import confirm, folder, storage

    stack.enter_context(folder.held(job.folder))
    about = folder.identity(job.space, job.identity(job.base), job.fixed)
    notes = {
        "method_file": methods.spec(job.space.method),
        "versions": confirm.versions(),
        "storage": storage.without_password(_url(job, arguments)),
        **job.notes,
    }
    if folder.check_identity(job.folder, about, notes):
        _say(f"{commands.short(job.folder)}: going on with the study that is there")
    else:
        for line in _warnings(job):
            _say(line)
    if past := ledger.openings(job.folder / ledger.OWN, (job.dataset.name, job.dataset.split_sha256)):
        _say(
            f"{commands.short(job.folder)}: its test split has been opened {len(past)}× already, last on"
            f" {past[-1].get('date', 'an unknown day')[:10]}; a further opening is counted, and its records say so"
        )
    return job


def _warnings(job: _Job) -> list[str]:
    """A hyperparameter that changes nothing is searched in vain."""
    from cmh import methods, training
    from cmh.study import preflight

    run, _ = training.parse(methods.get(job.space.method), {**job.base, **job.run})
    return [f"warning: {line}" for line in preflight.idle(job.space, run, job.dataset.search(), job.base)]


def _jobs(arguments: argparse.Namespace) -> list[_Job]:
    """Everything checked that can be, all problems at once."""
    from cmh import config, datasets, training
    from cmh.features import backbones

    problems: list[str] = []

    def tried(work: Any) -> Any:
        try:
            return work()
        except CmhError as error:
            problems.extend(f"{error.heading}: {problem}" if error.heading else problem for problem in error.problems)
            return None

    names = list(dict.fromkeys(arguments.method))
    if arguments.space and len(names) > 1:
        problems.append("--space is one method's, but there are several; leave it out, then each has its own")
    raw = tried(lambda: commands.settings(arguments.set)) or {}
    inputs = {key: raw.pop(key) for key in INPUTS if key in raw}
    checked = tried(lambda: config.build(training.Run, inputs, where="--set"))
    inputs = {key: getattr(checked, key) for key in inputs} if checked is not None else {}
    searches = [tried(lambda name=name: _space(name, raw, arguments)) for name in names]
    if arguments.cpus_per_trial == 0 and not arguments.gpus_per_trial:
        problems.append("--cpus-per-trial is 0 without --gpus-per-trial: a trial must take something")
    # Reading is cheap; preparing comes only when everything else is right.
    options = {"skip_bad": arguments.skip_bad, "order": arguments.split}
    tried(lambda: datasets.read(arguments.dataset, **options, progress=sys.stderr.isatty()))
    tried(lambda: backbones.check(arguments.features, str(arguments.weights or "")))
    if problems:
        raise ConfigError(*problems, heading="" if len(problems) == 1 else "nothing was started")
    dataset = datasets.load(
        arguments.dataset,
        features=arguments.features,
        weights=str(arguments.weights or ""),
        **options,
        pixels=bool(inputs.get("finetune")),
    )
    place = str(Path(arguments.dataset).resolve()) if datasets.is_folder(arguments.dataset) else dataset.name
    jobs = [
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
                "threads": training.threads(arguments.cpus_per_trial),
                **inputs,
            },
            fixed=fixed,
            limit=arguments.trials or space.trials,
            dataset=dataset,
        )
        for space, fixed in searches
        for bits in dict.fromkeys(arguments.bits)
    ]
    return jobs if arguments.warm_start is None else [_warm(job, arguments.warm_start) for job in jobs]


def _warm(job: _Job, source: Path) -> _Job:
    """The study with the best points of another among its first trials."""
    from cmh.study import folder

    points = folder.warm_start(job.folder, source, job.space, job.base)
    named = tuple((f"warm {number}", tuple(point.items())) for number, point in enumerate(points, start=1))
    space = dataclasses.replace(job.space, start_from=job.space.start_from + named)
    notes = {"warm_start": {"study": str(source), "points": points}}
    return dataclasses.replace(job, space=space, notes=notes)


def _space(name: str, raw: Mapping[str, Value], arguments: argparse.Namespace) -> tuple[Space, dict[str, Value]]:
    """A method's search space, and the values that `--set` takes out of it."""
    from cmh import config, methods
    from cmh.study import space as spaces

    module = methods.get(name)
    problems: list[str] = []
    fixed: dict[str, Value] = {}
    try:
        built = config.build(module.Config, raw, where="--set")
        fixed = {key: getattr(built, key) for key in raw}
    except ConfigError as error:
        problems += [f"--set: {problem}" for problem in error.problems]
    try:
        path = spaces.find(arguments.space or methods.short(module))
        space = spaces.load(path, method=methods.short(module), fixed=fixed, epochs=arguments.epochs)
    except ConfigError as error:
        problems += [f"{error.heading}: {problem}" if error.heading else problem for problem in error.problems]
    if problems:
        raise ConfigError(*problems)
    return space, fixed


def _inputs(run: Mapping[str, Value]) -> dict[str, Value]:
    return {key: run[key] for key in INPUTS if key in run}


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
    lines += _warnings(job)
    most = job.limit * space.epochs
    likely = _likely_epochs(space, job.limit)
    run, config = training.parse(methods.get(space.method), {**job.base, **job.run, "epochs": 1, "threads": 1})
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


def _control_key(job: _Job) -> tuple[int, bool]:
    """What the controls of a study depend on: code length, and whether its method sees no labels."""
    from cmh import methods

    return int(job.run["bits"]), methods.get(job.space.method).KIND == "unsupervised"


def _controls(job: _Job) -> dict[str, tuple[float, float, float]]:
    """Validation MAP (i→t, t→i, mean) of chance and of the shallow controls; this also compiles the metric for all.

    The control of methods that see no labels is CCA-ITQ; ridge stands above it as what labels are worth.
    """
    from cmh import methods, training

    data = job.dataset.search()
    floor = training.chance(data)
    values = {"chance": (floor, floor, floor)}
    for name in ("ridge", "cca_itq") if _control_key(job)[1] else ("ridge",):
        module = methods.get(name)
        settings = {key: value for key, value in job.run.items() if key not in INPUTS}
        best = training.fit(module, *training.parse(module, settings), data).best
        values[f"{name} (control)"] = best.val_map_i2t, best.val_map_t2i, best.val_map
    return values


def _search(
    jobs: list[_Job], controls: Mapping[tuple[int, bool], Any], arguments: argparse.Namespace, interrupts: Interrupts
) -> None:
    """All studies in one session."""
    from cmh.study import folder, resources, tuner
    from cmh.study.session import Budget
    from cmh.study.storage import Store, readable_errors

    joined, gpus = arguments.address is not None, arguments.gpus_per_trial
    with contextlib.ExitStack() as stack:
        studies = []
        for job in jobs:
            url = _url(job, arguments)
            with readable_errors(url):
                owner = folder.read_study(job.folder).get("id", "")
                store = Store(url, job.folder.name, job.space, job.base, arguments.seed, owner)
            study = _Study(job, store, controls[_control_key(job)], arguments, several=len(jobs) > 1)
            stack.callback(study.close)
            studies.append(study)
        works = [study.work() for study in studies]
        if gpus == "auto":
            gpus, why = resources.measured_gpus(works, arguments.cpus_per_trial, joined)
            _say(f"--gpus-per-trial auto: {why}")
        trial = resources.share(arguments.max_concurrent, arguments.cpus_per_trial, gpus, joined)
        for job in jobs:
            rungs = job.space.asha.rungs(job.space.epochs) if job.space.asha is not None else []
            _say(
                f"{commands.short(job.folder)}: {job.limit} trials of up to {job.space.epochs} epochs,"
                f" {trial.concurrent} at once; rungs {', '.join(map(str, rungs)) or 'none'}"
            )
        tuner.search(
            works,
            trial,
            budget=Budget(arguments.time_budget, arguments.budget_passes),
            trial_timeout=arguments.trial_timeout,
            interrupts=interrupts,
        )


class _Study:
    """One study from its first trial to its closing table."""

    def __init__(
        self, job: _Job, store: Store, controls: Mapping[str, Any], arguments: argparse.Namespace, several: bool
    ) -> None:
        from cmh.views.progress import Progress

        self.job, self.store, self.controls, self.arguments = job, store, controls, arguments
        self.view = Progress(store, job.limit, _say, sys.stderr.isatty(), job.folder.name if several else "")
        self.rows: list[TrialRow] = []
        self.best: TrialRow | None = None
        self.opened = 0, 0
        self.records: dict[int, Record] = {}  # by seed
        self.seeds = [arguments.seed + number for number in range(1, arguments.seeds + 1)]
        self.closed = False

    def work(self) -> Work:
        """What the workers need."""
        from cmh.study.session import Work

        job = self.job
        return Work(self.store, job.limit, job.folder, job.run, job.dataset, self.view, self.ended, self.tested)

    def close(self) -> None:
        """Write what is there of the trials; once."""
        from cmh import config, methods
        from cmh.study import folder

        if not self.closed:
            self.closed = True
            self.view.close()
            self.rows = self.store.rows()
            table = config.params(methods.get(self.job.space.method).Config)
            folder.write_trials(self.job.folder, self.rows, list(table))

    def ended(self) -> list[dict[str, Value]]:
        """The search has ended: write its files; the winner with each seed that is to be confirmed."""
        from cmh import ledger, records
        from cmh.study import confirm

        self.close()
        job, complete = self.job, [row for row in self.rows if row.state == "complete"]
        self.say_budget()
        if not complete:
            cures = {"pruned": "more --trials", "interrupted": "a longer --time-budget or --budget-passes"}
            counts = {state: sum(row.state == state for row in self.rows) for state in cures}
            raise StudyError(
                f"{job.folder}: no trial was completed, so there is no winner; see {job.folder / 'trials.csv'}",
                *[
                    f"trials {state}: {count}; the same command with {cures[state]} goes on"
                    for state, count in counts.items()
                    if count
                ],
                *[f"trial {row.number}: {row.error}" for row in self.rows if row.state == "failed"][:3],
            )
        best = self.best = max(complete, key=lambda row: (row.val_map_best or 0.0, -row.number))
        _write_best(job, best, self.store, self.rows)
        identity = job.identity(best.config)
        if not self.arguments.no_confirm:
            found = confirm.of_identity(records.read(job.folder)[0], identity)
            cost = _cost(self.rows, self.store)
            self.records = {
                seed: confirm.with_search(job.folder, found[seed], cost) for seed in self.seeds if seed in found
            }
        missing = [seed for seed in self.seeds if seed not in self.records]
        if self.arguments.no_confirm or not missing:
            self.closing()
            return []
        self.opened = ledger.open_test(
            job.dataset.name,
            job.dataset.split_sha256,
            "cmh.tune",
            identity=identity,
            seeds=self.seeds,
            folder=job.folder,
        )
        self.say(
            f"confirming trial {best.number} with seeds {', '.join(map(str, missing))}: training, then the test split"
        )
        if self.opened[0] > 1:
            self.say(f"this is opening {self.opened[0]} of this study's test split, and its records say so")
        shared = {**best.config, **job.run}
        folders = {seed: (job.folder / "confirm" / f"{best.number}-{seed}").resolve() for seed in missing}
        return [{**shared, "seed": seed, "folder": str(folders[seed])} for seed in missing]

    def tested(self, tested: Confirmed) -> None:
        """A seed of the winner was trained and tested."""
        from cmh.study import confirm

        record = confirm.write_record(
            self.job.folder,
            tested,
            selection="validation",
            search=_cost(self.rows, self.store),
            opened=self.opened,
        )
        self.records[record.identity.seed] = record
        self.say(
            f"seed {record.identity.seed}: test MAP i→t {record.test['map_i2t']:.4f}, t→i {record.test['map_t2i']:.4f},"
            f" mean {record.test['map']:.4f}"
        )
        for line in confirm.audit_lines(record):
            self.say(f"seed {record.identity.seed}: {line}")
        if len(self.records) == len(self.seeds):
            self.closing()

    def say_budget(self) -> None:
        """Whether the search ended because its budget was spent."""
        seconds, passes = self.store.seconds(), sum(row.passes for row in self.rows)
        left = self.job.limit - sum(row.failure != "moved" for row in self.rows)
        waiting = left > 0 or any(row.state == "interrupted" for row in self.rows)
        for option, wanted, spent in (
            ("--time-budget", self.arguments.time_budget, seconds),
            ("--budget-passes", self.arguments.budget_passes, passes),
        ):
            if waiting and wanted is not None and spent >= wanted:
                self.say(
                    f"the search has spent its {option}: {spent:.0f} of {wanted:g}, all its starts together;"
                    f" the same command with more goes on"
                )

    def closing(self) -> None:
        """The closing table."""
        assert self.best is not None
        _closing(self.job, self.rows, self.best, self.controls, [self.records[seed] for seed in sorted(self.records)])

    def say(self, text: str) -> None:
        """A line on stderr, with the study's name where there are several."""
        _say(f"{self.view.name}  {text}" if self.view.name else text)


def _cost(rows: list[TrialRow], store: Store) -> Cost:
    """What the search has cost."""
    from cmh.records import Cost

    return Cost(
        trials=len(rows),
        epochs=sum(row.spent for row in rows),
        passes=sum(row.passes for row in rows),
        seconds=store.seconds(),
        device_seconds=sum(row.device_seconds or 0.0 for row in rows),
    )


def _write_best(job: _Job, best: TrialRow, store: Store, rows: list[TrialRow]) -> None:
    from cmh import methods
    from cmh.study import folder

    cost = _cost(rows, store)
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
            "threads": job.run["threads"],
            "selection": "validation",
            "config": best.config,
            "search": {
                "study": job.folder.name,
                "trial": best.number,
                "trials": cost.trials,
                "epochs": cost.epochs,
                "passes": round(cost.passes, 3),
                "seconds": round(cost.seconds, 1),
                "device_seconds": round(cost.device_seconds, 1),
                "val_map": best.val_map_best,
            },
        },
    )


def _closing(
    job: _Job,
    rows: list[TrialRow],
    best: TrialRow,
    controls: Mapping[str, tuple[float, float, float]],
    records: list[Record],
) -> None:
    """The closing table, on stdout."""
    from statistics import mean

    from cmh import ledger

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
        lines[-1] += "".join(
            f"{mean(record.test[key] for record in records):>8.4f}" for key in ("map_i2t", "map_t2i", "map")
        )
        half = _half_interval(job.folder, records)
        lines[-1] += "" if half is None else f" ± {half:.4f}"
        split = job.dataset.name, job.dataset.split_sha256
        opened, by_all = (  # also after these records were made
            len(ledger.openings(file, split)) for file in (job.folder / ledger.OWN, ledger.path(*split))
        )
        lines.append(
            f"test: mean of {len(records)} seed{'s' * (len(records) > 1)}"
            f"{'' if half is None else ' (± half of the 95 % interval over seeds and queries)'}; test split"
            f" opened {opened}× by this study, {by_all}× by all"
        )
    where = commands.short(job.folder)
    lines += [
        "",
        f"every trial           {where}/trials.csv",
        f"reproduce the winner  python -m cmh.reproduce {where}",
        f"see the board         python -m cmh.leaderboard {commands.short(job.folder.parent)}",
        "",
    ]
    from tqdm import tqdm

    tqdm.write("\n".join(lines), file=sys.stdout, end="")
    sys.stdout.flush()


def _half_interval(folder: Path, records: list[Record]) -> float | None:
    """Half of the 95 % interval of the records' mean test MAP, from these seeds alone (a board pools what seeds change
    over its rows); None for one seed."""
    import numpy as np

    from cmh import records as files
    from cmh.board.statistics import intervals, levels

    queries = [files.per_query(folder, record) for record in records]
    found = intervals(levels([np.stack([(ap.i2t + ap.t2i) / 2 for ap in queries])], queries[0].groups))
    return None if found is None else float(found[0])


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

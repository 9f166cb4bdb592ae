"""Every part of Ray and Optuna that cmh uses and that they do not promise to keep: it is there, as cmh takes it to be.

An upgrade that moves one fails here, with a sentence that says what moved and which file uses it.
"""

from __future__ import annotations

import ast
import configparser
import dataclasses
import functools
import importlib.metadata
import inspect
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.samplers import QMCSampler
from packaging.requirements import Requirement
from ray.air.execution._internal import actor_manager
from ray.tune.experiment import Trial
from ray.tune.schedulers import async_hyperband

from cmh import cluster
from cmh.cluster import ASHAScheduler, TrialScheduler, ray
from cmh.study import samplers, tuner

ROOT = Path(__file__).parent.parent
CODE = [Path(ray.__file__).parent / folder for folder in ("_common", "_private", "train", "tune")]


@dataclasses.dataclass(frozen=True)
class Part:
    """`check` raises, or returns False, where it is not as cmh takes it to be; `move` takes it away."""

    library: str
    name: str
    shape: str
    file: str
    purpose: str
    words: tuple[str, ...]  # private names by which the file gets at it
    check: Callable[[], bool]
    move: Callable[[pytest.MonkeyPatch], None]


def moved(part: Part) -> str:
    """A sentence where the part is not as cmh takes it to be; empty where it is."""
    try:
        found, error = part.check(), ""
    except Exception as caught:
        found, error = False, f" ({type(caught).__name__}: {caught})"
    if found:
        return ""
    version = importlib.metadata.version(part.library)
    return f"{part.library} {version} has moved {part.name} ({part.shape}): {part.file} uses it {part.purpose}{error}"


def asha() -> ASHAScheduler:
    """One with rungs at 1, 2 and 4, that has seen a trial with the number 7."""
    scheduler = ASHAScheduler(
        time_attr="epoch", metric="map", mode="max", max_t=4, grace_period=1, reduction_factor=2, stop_last_trials=False
    )
    see(scheduler, 7, 0.5)
    return scheduler


def see(scheduler: Any, number: int, value: float) -> str:
    trial = SimpleNamespace(trial_id=number)
    scheduler.on_trial_add(None, trial)
    return str(scheduler.on_trial_result(None, trial, {"epoch": 1, "map": value}))


def asha_decides_by_cutoff() -> bool:
    scheduler = asha()
    scheduler._brackets[0].cutoff = lambda recorded: 1.0 if recorded == {7: 0.5} else 0.0  # type: ignore[method-assign]
    return see(scheduler, 8, 0.9) == TrialScheduler.STOP


def asha_reads_ids_alone() -> bool:
    scheduler = asha()
    return see(scheduler, 8, 0.4) == TrialScheduler.STOP and see(scheduler, 9, 0.6) == TrialScheduler.CONTINUE


def dead_servers() -> bool:
    def process(code: int | None) -> Any:
        return SimpleNamespace(process=SimpleNamespace(poll=lambda: code))

    node = SimpleNamespace(all_processes={kind: [process(-9), process(None)] for kind in cluster.SERVERS})
    kinds = [kind for kind, _ in ray._private.node.Node.dead_processes(node)]
    own = ray._private.ray_constants
    return kinds == list(cluster.SERVERS) == [own.PROCESS_TYPE_RAYLET, own.PROCESS_TYPE_GCS_SERVER]


def ray_trial() -> bool:
    trial = Trial("made up", stub=True)
    error_file = inspect.getattr_static(Trial, "error_file")
    return trial.temporary_state.ray_actor is None and isinstance(error_file, property) and type(trial.trial_id) is str


def memory_kill_ends_tune() -> bool:
    """Of the two errors with which a worker's end is told, Tune's manager of workers takes one and raises the other."""
    kind, taken = actor_manager.RayActorManager, list[Exception]()
    task: Any = SimpleNamespace(_tracked_actor=SimpleNamespace(actor_id=1, _on_error=None))
    task._on_error = lambda _, error: taken.append(error)
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    died = ray.exceptions.RayActorError(error_msg="OutOfMemory: so it was")
    kind._actor_task_failed(manager, task, died)
    try:
        kind._actor_task_failed(manager, task, ray.exceptions.OutOfMemoryError("low on memory"))
    except RuntimeError:
        return taken == [died] and str(died) == "OutOfMemory: so it was"
    return False


def servers_start_by_popen() -> bool:
    services = ray._private.services
    starts = "process = ConsolePopen(" in inspect.getsource(services.start_ray_process)
    return starts and issubclass(services.ConsolePopen, subprocess.Popen)


def sigterm_is_taken_there() -> bool:
    code = inspect.getsource(ray.init)
    return "ray._private.utils.set_sigterm_handler(" in code and "signal.signal(" not in code


@functools.cache
def ray_code() -> str:
    return "\n".join(path.read_text() for folder in CODE for path in folder.rglob("*.py"))


def settings_are_read() -> bool:
    return all(f'"{name}"' in ray_code() and name in os.environ for name in cluster.SETTINGS)


def running_trial() -> bool:
    study = optuna.create_study()
    study.ask().report(0.5, 1)
    (frozen,) = study.get_trials()
    trial = optuna.trial.Trial(study, frozen._trial_id)
    trial.report(0.7, 2)
    study.tell(trial, 0.7)
    (frozen,) = study.get_trials()
    return (frozen.number, frozen.value, frozen.intermediate_values) == (0, 0.7, {1: 0.5, 2: 0.7})


def sobol_point() -> bool:
    class Fixed(QMCSampler):
        def _find_sample_id(self, study: Any, search_space: Any) -> int:
            return point

    def first(wanted: int) -> float:
        nonlocal point
        point = wanted
        study = optuna.create_study(sampler=Fixed(seed=1, scramble=True))
        study.add_trial(optuna.create_trial(params={"x": 0.0}, distributions=ranges, value=0))
        return study.ask(ranges).params["x"]

    point, ranges = 0, dict[str, Any](x=optuna.distributions.FloatDistribution(0, 1))
    asked = list(inspect.signature(QMCSampler._find_sample_id).parameters)
    return asked == ["self", "study", "search_space"] and first(3) == first(3) != first(4)


def seen_trials() -> bool:
    class Seen(optuna.Study):
        def __init__(self, study: optuna.Study) -> None:
            self.__dict__.update(study.__dict__)

        def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> Any:
            asked.append((deepcopy, states, use_cache))
            return super()._get_trials(deepcopy, states, use_cache)

    study, asked = optuna.create_study(), list[Any]()
    study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 1.0)
    sampler = optuna.samplers.GPSampler(seed=0, n_startup_trials=1)
    ranges = sampler.infer_relative_search_space(Seen(study), study.get_trials()[0])
    sampler.sample_relative(Seen(study), study._storage.get_trial(study.ask()._trial_id), ranges)
    return len(asked) >= 2 and Seen(study).get_trials() == study.get_trials()


def without(kind: type, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Instances of the class come to be without their attribute."""

    def move(monkeypatch: pytest.MonkeyPatch) -> None:
        begin = kind.__init__  # type: ignore[misc]

        def init(self: Any, *arguments: Any, **more: Any) -> None:
            begin(self, *arguments, **more)
            self.__dict__[f"{name}_moved"] = self.__dict__.pop(name)

        monkeypatch.setattr(kind, "__init__", init)

    return move


def needs_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    add = ASHAScheduler.on_trial_add

    def on_trial_add(self: Any, controller: Any, trial: Any) -> None:
        assert trial.status == Trial.PENDING
        add(self, controller, trial)

    monkeypatch.setattr(ASHAScheduler, "on_trial_add", on_trial_add)


PARTS = [
    Part(
        library="ray",
        name="ASHAScheduler()._brackets",
        shape="a list of one bracket",
        file="cmh/study/rungs.py",
        purpose="to reach the rungs and the rule",
        words=("_brackets",),
        check=lambda: type(asha()._brackets) is list and len(asha()._brackets) == 1,
        move=without(ASHAScheduler, "_brackets"),
    ),
    Part(
        library="ray",
        name="ASHAScheduler()._brackets[0]._rungs",
        shape="pairs of an epoch and a dict from trial ids to values",
        file="cmh/study/rungs.py",
        purpose="to fill the rungs of a study that goes on",
        words=("_rungs",),
        check=lambda: dict(asha()._brackets[0]._rungs) == {4: {}, 2: {}, 1: {7: 0.5}},
        move=without(async_hyperband._Bracket, "_rungs"),
    ),
    Part(
        library="ray",
        name="ASHAScheduler()._brackets[0].cutoff",
        shape="called with the dict of a rung, and what is below its answer stops",
        file="cmh/study/rungs.py",
        purpose="for the strict rule",
        words=("_brackets",),
        check=asha_decides_by_cutoff,
        move=lambda patch: patch.setattr(async_hyperband._Bracket, "on_result", lambda *_: TrialScheduler.CONTINUE),
    ),
    Part(
        library="ray",
        name="ASHAScheduler().on_trial_add and on_trial_result",
        shape="they ask no controller, and of a trial its trial_id alone",
        file="cmh/study/rungs.py",
        purpose="with the trial numbers of a study",
        words=(),
        check=asha_reads_ids_alone,
        move=needs_a_status,
    ),
    Part(
        library="ray",
        name="ray._private.worker._global_node",
        shape="None, or the node that this process has started",
        file="cmh/cluster.py",
        purpose="to see that a server of its session has died",
        words=("_private", "_global_node"),
        check=lambda: ray.is_initialized() or ray._private.worker._global_node is None,
        move=lambda patch: patch.delattr(ray._private.worker, "_global_node"),
    ),
    Part(
        library="ray",
        name="Node.dead_processes()",
        shape="pairs of a kind, raylet or gcs_server among them, and a process",
        file="cmh/cluster.py",
        purpose="to see that a server of its session has died",
        words=(),
        check=dead_servers,
        move=lambda patch: patch.setattr(ray._private.node.Node, "dead_processes", lambda self: []),
    ),
    Part(
        library="ray",
        name="ray._private.services.ConsolePopen",
        shape="a subprocess.Popen by which a session's servers are started",
        file="cmh/signals.py",
        purpose="to start them in process groups of their own",
        words=(),
        check=servers_start_by_popen,
        move=lambda patch: patch.delattr(ray._private.services, "ConsolePopen"),
    ),
    Part(
        library="ray",
        name="ray._private.utils.set_sigterm_handler",
        shape="by which ray.init takes SIGTERM, and not otherwise",
        file="cmh/signals.py",
        purpose="to keep it",
        words=(),
        check=sigterm_is_taken_there,
        move=lambda patch: patch.setattr(ray, "init", lambda: None),
    ),
    Part(
        library="ray",
        name="RayActorManager._actor_task_failed(tracked_actor_task, exception)",
        shape="takes a RayActorError, and raises at an OutOfMemoryError (else cmh need not turn one into the other)",
        file="cmh/study/tuner.py",
        purpose="so that a worker killed by Ray's memory monitor does not end the search",
        words=("_internal",),
        check=memory_kill_ends_tune,
        move=lambda patch: patch.setattr(
            actor_manager.RayActorManager, "_actor_task_failed", lambda self, tracked_actor_task, exception: None
        ),
    ),
    Part(
        library="ray",
        name="the environment variables of cmh.cluster.SETTINGS",
        shape="named in Ray's code",
        file="cmh/cluster.py",
        purpose="to set what has no other setting",
        words=(),
        check=settings_are_read,
        move=lambda patch: patch.setitem(cluster.SETTINGS, "TUNE_MOVED", "1"),
    ),
    Part(
        library="ray",
        name="Trial.temporary_state.ray_actor, error_file and trial_id",
        shape="None before it starts; a property; a text",
        file="cmh/study/tuner.py",
        purpose="to kill a worker that hangs, and to read what another died of",
        words=(),
        check=ray_trial,
        move=without(Trial, "temporary_state"),
    ),
    Part(
        library="optuna",
        name="FrozenTrial._trial_id",
        shape="the number with which optuna.trial.Trial(study, number) takes up a running trial",
        file="cmh/study/storage.py",
        purpose="to go on with a trial that was interrupted",
        words=("_trial_id",),
        check=running_trial,
        move=lambda patch: patch.setattr(optuna.trial.Trial, "__init__", lambda self, study: None),
    ),
    Part(
        library="optuna",
        name="Study._get_trials(deepcopy, states, use_cache)",
        shape="gives samplers the history",
        file="cmh/study/samplers.py",
        purpose="to show them what pruned trials are worth",
        words=("_get_trials",),
        check=seen_trials,
        move=lambda patch: patch.delattr(optuna.Study, "_get_trials"),
    ),
    Part(
        library="optuna",
        name="QMCSampler._find_sample_id(study, search_space)",
        shape="says which point of the sequence is next",
        file="cmh/study/samplers.py",
        purpose="to make it the trial's number",
        words=("_find_sample_id",),
        check=sobol_point,
        move=lambda patch: patch.delattr(QMCSampler, "_find_sample_id"),
    ),
]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
def test_it_is_there_as_cmh_takes_it_to_be(part: Part) -> None:
    if problem := moved(part):
        pytest.fail(problem, pytrace=False)


@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
def test_what_has_moved_is_said_in_one_sentence(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    part.move(monkeypatch)
    problem = moved(part)
    assert problem.startswith(f"{part.library} {importlib.metadata.version(part.library)} has moved {part.name} (")
    assert f"): {part.file} uses it {part.purpose}" in problem
    assert "\n" not in problem


def private_names(path: Path) -> set[str]:
    """The private attributes that a file uses and does not define itself."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    own = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own |= {node.id for node in nodes if isinstance(node, ast.Name)}
    own |= {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return {name for name in used - own if name.startswith("_") and not name.startswith("__")}


def private_methods(module: Any) -> set[str]:
    """Private methods of Ray and Optuna that the classes of a module replace."""
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    theirs = [base for kind in kinds for base in kind.__mro__ if base.__module__.split(".")[0] in ("ray", "optuna")]
    return {
        name
        for name in {name for kind in kinds for name in vars(kind)} & {name for base in theirs for name in vars(base)}
        if name.startswith("_") and not name.startswith("__") and name not in ("_abc_impl",)
    }


def test_no_private_part_is_used_that_is_not_checked() -> None:
    paths = [ROOT / "cmh" / "cluster.py", *sorted((ROOT / "cmh" / "study").glob("*.py"))]
    assert len(paths) > 15
    used = {(str(path.relative_to(ROOT)), name) for path in paths for name in private_names(path)}
    used |= {("cmh/study/samplers.py", name) for name in private_methods(samplers)}
    used |= {("cmh/study/tuner.py", name) for name in private_methods(tuner)}
    assert used == {(part.file, word) for part in PARTS for word in part.words}


@pytest.mark.parametrize("library", ["ray", "optuna"])
def test_the_bounds_hold_what_is_installed(library: str) -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = [line for line in parser["options"]["install_requires"].split("\n") if line and line[0] != "#"]
    (wanted,) = [found for found in map(Requirement, lines) if found.name == library]
    assert sorted(bound.operator for bound in wanted.specifier) == ["<", ">="]
    assert importlib.metadata.version(library) in wanted.specifier

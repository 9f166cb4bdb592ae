"""Many studies in one command: who may hold how many workers, whose time it is, what a broken one takes along."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh import datasets, methods
from cmh.errors import ConfigError, StudyError
from cmh.methods.__main__ import main as methods_main
from cmh.signals import Interrupts
from cmh.study import controls, dispatcher, folder, population, tuner
from cmh.study.dispatcher import Dispatcher
from cmh.study.request import Request
from cmh.study.resources import Resources
from cmh.study.session import Budget, Work
from cmh.study.space import Range, Space
from cmh.study.storage import Store
from cmh.views import overview
from tests.test_address import asked
from tests.test_reproduce import here, make_data  # noqa: F401

SPACE = Space("ridge", (Range("lambda_image", "float", 0.1, 1),), (), "random", None, 1, 4)
SILENT: Any = SimpleNamespace(started=lambda _: None, reported=lambda *_: None, ended=lambda _: None)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
        self.now = 0.0
        if monkeypatch is not None:
            monkeypatch.setattr(dispatcher, "time", SimpleNamespace(monotonic=lambda: self.now))


def many(limits: list[int], places: int, budget: float | None = None) -> Dispatcher:
    """A dispatcher of studies of so many trials each, named a, b, c …"""
    works = [
        Work(
            Store(None, name, SPACE, {"lambda_image": 0.5}, 0),
            limit,
            Path(name),
            {"epochs": 1},
            SimpleNamespace(),  # type: ignore[arg-type]
            SILENT,
        )
        for name, limit in zip("abcdefgh", limits, strict=False)
    ]
    return Dispatcher(works, Resources(1, 0, places), Budget(budget), None, Interrupts())


def done(one: Dispatcher, trial_id: str) -> None:
    one.reported(trial_id, {"epoch": 1, "val_map": 0.5, "epochs": 1})


def held(one: Dispatcher) -> str:
    return "".join(sorted(assignment.session.work.folder.name for assignment in one.assigned.values()))


def test_each_study_has_its_share_and_earlier_ones_come_first() -> None:
    one = many([9, 9, 1], 4)
    for number in range(4):
        one.next_task(str(number))
    assert held(one) == "aabb"
    done(one, "0")
    one.next_task("4")
    assert held(one) == "aabb"
    two = many([1, 1, 9], 4)  # what the first two leave is the third's
    for number in range(4):
        two.next_task(str(number))
    assert held(two) == "abcc"
    alone = many([9], 4)
    for number in range(4):
        alone.next_task(str(number))
    assert held(alone) == "aaaa"


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(1, 6), st.randoms(use_true_random=False))
def test_no_place_is_empty_while_there_is_work_and_none_has_more_than_its_share(
    limits: list[int], places: int, random: Any
) -> None:
    one, started, left = many(limits, places), 0, sum(limits)
    while not one.finished:
        while one.next_task(str(started)) is not None:
            started += 1
        assert len(one.assigned) == min(places, left)
        counts = collections.Counter(held(one))
        share = math.ceil(places / sum(not session.over for session in one.sessions)) if one.assigned else 0
        wanting = [
            s for s in one.sessions if not s.store.exhausted(s.work.limit) and counts[s.work.folder.name] < share
        ]
        assert not wanting or max(counts.values()) <= share
        if one.assigned:
            done(one, random.choice(list(one.assigned)))
            left -= 1
    assert started == sum(limits)
    assert [len(session.store.rows()) for session in one.sessions] == limits


def test_time_is_shared_out_by_what_each_study_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    one = many([9, 9], 3)
    for number in range(3):
        one.next_task(str(number))
    assert held(one) == "aab"
    clock.now = 30
    one.look_at_the_clock()
    assert [session.store.seconds() for session in one.sessions] == [20, 10]
    alone = many([9], 3)
    alone.next_task("0")
    clock.now = 40
    alone.look_at_the_clock()
    assert alone.sessions[0].store.seconds() == 10  # all of it, however few trials run


def test_a_time_budget_is_of_a_studys_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    one = many([9, 9], 2, budget=10)
    one.next_task("0")
    one.next_task("1")
    clock.now = 19
    done(one, "0")
    assert one.next_task("2") is not None
    assert held(one) == "ab"
    clock.now = 21
    done(one, "2")
    done(one, "1")
    assert one.next_task("3") is None
    assert one.finished


def test_a_storage_that_breaks_ends_its_study_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    one, killed = many([3, 2], 4), list[str]()
    for number in range(4):
        one.next_task(str(number))
        one.started(str(number), lambda number=number: killed.append(str(number)))  # type: ignore[misc]
    assert held(one) == "aabb"
    broken = one.sessions[0]
    monkeypatch.setattr(broken.store, "report", lambda *_: (_ for _ in ()).throw(StudyError("no room")))
    assert one.reported("0", {"epoch": 1, "val_map": 0.5, "epochs": 1})  # its worker is stopped
    assert killed == ["1"]
    assert held(one) == "bb"
    assert not one.stopping
    done(one, "2")
    done(one, "3")
    assert one.next_task("9") is None
    assert one.finished
    assert tuner._problems(one) == ["a: no room"]
    assert len(one.sessions[1].store.rows()) == 2


def test_who_reports_while_all_is_to_end_trains_no_further() -> None:
    """Its checkpoint has the epoch, and is the last thing that it writes: of two epochs one would be lost for good, for
    a trial that goes on reports the last one alone."""
    one = many([2], 2)
    one.next_task("0")
    one.next_task("1")
    epoch = {"epoch": 1, "val_map": 0.5, "epochs": 9}
    assert not one.reported("0", epoch)
    one.interrupts.asked = 1
    assert one.reported("1", epoch)
    one.kill_all()
    assert one.reported("0", {**epoch, "epoch": 2})  # one that was on its way
    assert [dict(row.curve) for row in one.sessions[0].store.rows()] == [{1: 0.5}, {}]


def test_an_error_that_is_no_users_is_raised_at_the_end() -> None:
    one = many([1], 1)
    with one.guarded(one.sessions[0]):
        raise ZeroDivisionError
    assert one.stopping
    with pytest.raises(ZeroDivisionError):
        tuner._problems(one)


# The request


def test_words_for_many_methods() -> None:
    every = methods.searched(["all"])
    assert len(every) >= 20
    assert "random" not in every  # nothing to search
    kinds = [methods.searched([kind]) for kind in methods.KINDS]
    assert sorted(name for kind in kinds for name in kind) == every
    assert kinds[2] == ["cca_itq", "ridge"]
    assert methods.searched(["ridge", "shallow", "mine.py"]) == ["ridge", "cca_itq", "mine.py"]


def two_datasets() -> None:
    make_data(Path("other"), changed=True)
    Path("other/dataset.yml").write_text("name: other\nfeatures: data.npz\n")


def of(*names: str, **changes: Any) -> list[Any]:
    return [dataclasses.replace(asked(Path("studies")), dataset=name, epochs=1, **changes) for name in names]


def test_several_datasets_are_one_request_and_each_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    two_datasets()
    read, seen = datasets.read, list[str]()
    monkeypatch.setattr(datasets, "read", lambda name, **more: seen.append(name) or read(name, **more))  # type: ignore[func-returns-value]
    wanted = [*of("data", "other", methods=("shallow",), bits=(8, 16)), *of("data", without=("lambda_image=1.0",))]
    found = population.check(wanted)
    assert seen == ["data", "other"]
    names = [
        f"{method}-{data}-{bits}" for data in ("made", "other") for method in ("cca_itq", "ridge") for bits in (8, 16)
    ]
    assert [study.folder.name for study in found.studies] == [*names, "ridge-made-8-lambda_image=1.0"]
    assert found.studies[-1].label == "lambda_image=1.0"
    assert found.studies[-1].fixed == {"lambda_image": 1.0}
    assert found.studies[-1].dataset is found.studies[0].dataset
    scores = controls.of_studies([study for study in found.studies if study.bits == 8])
    assert scores[0] is not scores[2]  # of another dataset
    assert scores[0]["ridge (control)"] != scores[2]["ridge (control)"]


def test_the_problems_of_all_requests_stand_in_one_message() -> None:
    with pytest.raises(ConfigError) as error:
        population.check(of("nope", "data", "neither", settings=("gama=1",)), ["--sweep x: is wrong"])
    problems = error.value.problems
    assert len(problems) == len(set(problems)) == 4
    assert [part in text for part, text in zip(("--sweep", "gama", "'nope'", "'neither'"), problems, strict=True)] == [
        True
    ] * 4


def test_two_datasets_of_one_name_are_refused() -> None:
    make_data(Path("again"), changed=True)
    with pytest.raises(ConfigError, match=r"1 folders \(studies/ridge-made-8\) would hold two studies each"):
        population.check(of("data", "again"))


def test_a_method_that_fails_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    assert methods_main(["new", "mine"]) == 0
    Path("mine.py").write_text(Path("mine.py").read_text().replace("    pairs = ", "    1 / 0\n    pairs = ", 1))
    request = population.check(of("data", methods=("mine.py", "ridge"), bits=(8, 16)))
    problems: list[str] = []
    left = population.tried(request, problems)
    assert [study.folder.name for study in left.studies] == ["ridge-made-8", "ridge-made-16"]
    assert len(problems) == 2
    assert "fails on one batch of made" in problems[0]
    assert problems[1] == "studies/mine-made-16: left out, as its method fails on another code length"
    assert sum(message.startswith("left out: ") for message in caplog.messages) == 2
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        population.tried(Request(request.studies[:1], (), request.limits), [])
    with pytest.raises(StudyError, match="ZeroDivisionError"):
        population.tried(Request(request.studies[:2], (), request.limits), [])


def test_a_folder_that_is_in_use_leaves_the_others_alone() -> None:
    request = population.check(of("data", methods=("shallow",)))
    problems: list[str] = []
    with folder.locked_folder(request.studies[0].folder), contextlib.ExitStack() as stack:
        left = population.begun(request, problems, stack)
        assert [study.folder.name for study in left.studies] == ["ridge-made-8"]
        assert (left.studies[0].folder / "study.yml").is_file()
        assert "is in use by process" in problems[0]


# The bar


def test_the_bar_over_all_says_what_runs_what_is_done_and_how_long_the_rest_takes() -> None:
    clock = Clock()
    studies: list[Any] = [
        SimpleNamespace(folder=Path(f"{method}-{bits}"), space=SimpleNamespace(method=method), limit=4)
        for method in ("ridge", "dcmh")
        for bits in (8, 16)
    ]
    bar = overview.Overview(studies, 2, terminal=False, clock=lambda: clock.now)

    def text() -> str:
        return f"{bar.bar.desc}: {bar.bar.n}/{bar.bar.total}, {bar.bar.postfix}"

    first, second, third, _ = (bar.parts[study.folder] for study in studies)
    assert text() == "0 of 4 studies done, 4 wait: 0/16, ? left"
    first.found([SimpleNamespace(seconds=10.0), SimpleNamespace(seconds=20.0), SimpleNamespace(seconds=None)])  # type: ignore[list-item]
    third.trial_started(0)
    clock.now = 100
    third.trial_ended(0, 0.5)
    third.trial_ended(1, 0.5)  # another's curve stands for it
    second.trial_started(0)
    third.trial_started(2)
    # 1 and 4 trials of 15 s, 2 and 4 of 100 s, and the winners' seeds, 2 of 20 s or 100 s; two places
    expected = (5 * 15 + 6 * 100 + 2 * (20 + 20 + 100 + 100)) / 2
    assert bar.left() == pytest.approx(expected)
    assert text() == "0 of 4 studies done, 1 wait: 5/16, about 10 min left; ridge-16 0/4; dcmh-8 2/4 best 0.5000"
    third.search_ended()
    third.finished()
    assert bar.left() == pytest.approx((5 * 15 + 4 * 100 + 2 * (20 + 20 + 100)) / 2)
    assert text().startswith("1 of 4 studies done, 1 wait: 5/16")
    bar.close()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(29, "29 s"), (90, "2 min"), (3600, "1 h 0 min"), (12_000, "3 h 20 min"), (200_000, "2 d 7 h")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert overview.duration(seconds) == words


def test_a_single_study_has_a_bar_of_its_own() -> None:
    request: Any = SimpleNamespace(studies=[1])
    with overview.over(request, terminal=False) as found:
        assert found is None

"""What is tried next: each sampler learns from the history, in which most trials were pruned. No Ray, no training."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from cmh.study import figures
from cmh.study.samplers import OUTSIDE, STARTUP_TRIALS, _Worth
from cmh.study.space import Asha, Range, Space
from cmh.study.storage import Store
from cmh.views import worth as worths

RANGES = (Range("lr", "float", 1e-4, 1e-1, log=True), Range("gamma", "float", 0, 1), Range("units", "int", 2, 64))
CHOICES = (Range("lr", "choice", choices=(0.1, 0.01, 1e-4)), Range("units", "int", 2, 8))
BASE: dict[str, Any] = {"lr": 1e-4, "gamma": 0.0, "units": 2}
TRIALS, EPOCHS = 11, 4


@functools.cache
def played(sampler: str) -> list[dict[str, Any]]:
    """The configurations of a study in which two trials of three are pruned at the first rung."""
    ranges = CHOICES if sampler == "grid" else RANGES
    space = Space("dcmh", ranges, (("default", tuple(BASE.items())),), sampler, Asha(1, 3), EPOCHS, TRIALS)
    store, found = Store(None, "s", space, BASE, seed=3), []
    for _ in range(TRIALS):
        proposal = store.propose(TRIALS)
        assert proposal is not None
        config = proposal.config
        top = math.exp(-((math.log10(config["lr"]) + 2) ** 2) - (config["gamma"] - 0.4) ** 2 - config["units"] / 64)
        pruned = bool(proposal.number % 3)
        for epoch in range(1, 2 if pruned else EPOCHS + 1):
            store.report(proposal.number, epoch, top * (1 - 0.5**epoch))
        if pruned:
            store.prune(proposal.number, 1, {})
        else:
            store.complete(proposal.number, {})
        found.append(config)
    complete = sum(row.completed for row in store.rows())
    assert complete < STARTUP_TRIALS  # so few that Optuna's own GP and CMA-ES would never begin
    return found


def learned(sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_a_sampler_learns_once_as_many_trials_have_ended_as_it_needs(sampler: str) -> None:
    learned(sampler)
    random, found = played("random"), played(sampler)
    for number, (blind, seen) in enumerate(zip(random, found, strict=True)):
        assert (seen["lr"] == blind["lr"]) == (number < STARTUP_TRIALS), number


@pytest.mark.parametrize("sampler", ["qmc", "grid"])
def test_a_sampler_with_a_plan_is_not_random_from_the_start(sampler: str) -> None:
    random, found = played("random"), played(sampler)
    assert all(blind != seen for blind, seen in zip(random[1:], found[1:], strict=True))
    assert len({tuple(config.items()) for config in found}) == TRIALS


def test_a_sampler_sees_pruned_trials_as_complete_and_the_storage_does_not_change() -> None:
    study = optuna.create_study(direction="maximize")
    for curve in ({1: 0.5, 2: 0.8, 3: 0.7}, {}):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        for epoch, value in curve.items():
            trial.report(value, epoch)
        study.tell(trial, state=TrialState.PRUNED)
    study.tell(study.ask(), 0.3)
    study.ask()
    own = study.ask().number
    seen = _Worth(study, own).get_trials()
    assert [(trial.state, trial.value) for trial in seen] == [
        (TrialState.COMPLETE, 0.8),  # as a complete trial: the best of its curve
        (TrialState.PRUNED, None),  # nothing is known of it
        (TrialState.COMPLETE, 0.3),
        (TrialState.RUNNING, None),
    ]
    assert seen[0].params == study.trials[0].params
    assert [trial.number for trial in _Worth(study, own).get_trials(states=[TrialState.COMPLETE])] == [0, 2]
    there = [(trial.state, trial.value) for trial in study.get_trials()]
    assert there[0] == (TrialState.PRUNED, 0.7)  # Optuna's own value of it: the last of its curve
    assert len(there) == 5


@pytest.mark.parametrize("sampler", ["priorband", "tpe", "gp", "cmaes", "random", "qmc"])
def test_no_sampler_sees_a_start_point_outside_of_the_ranges(sampler: str, tmp_path: Path) -> None:
    """What a paper's own optimizer wants, and what comes of it, says nothing of the space."""
    learned(sampler)
    found = []
    for units, worth in ((128, 0.9), (1024, 0.1)):
        start = (("paper", (("lr", 1e-4), ("gamma", 0.0), ("units", units))),)
        space = Space("dcmh", RANGES, start, sampler, Asha(1, 3), EPOCHS, TRIALS)
        url, proposals = f"sqlite:///{tmp_path}/{units}.db", []
        for number in range(TRIALS):
            store = Store(url, "s", space, BASE, seed=3)  # as after a kill
            proposal = store.propose(TRIALS)
            assert proposal is not None
            assert proposal.number == number
            store.report(number, 1, worth if proposal.origin == "paper" else proposal.config["lr"])
            store.complete(number, {})
            proposals.append(proposal)
        paper, *others = proposals
        assert paper.protected
        assert paper.config == {"lr": 1e-4, "gamma": 0.0, "units": units}
        assert store.row(0).config == paper.config
        assert store.row(0).val_map_best == worth
        assert len({tuple(one.config.items()) for one in others}) == len(others)
        assert all(item.holds(one.config[item.name]) for one in others for item in RANGES)
        found.append([one.config for one in others])
        assert len(figures.valued(store.study.get_trials(), None)) == len(others)
        assert figures.slices(store.study.get_trials()) is not None
        stored = store.study.get_trials()
        story = SimpleNamespace(stored=[*stored[1:], stored[0]], identity={}, trials=[])
        assert worths.read(story).ranges["units"].high == 64  # type: ignore[arg-type, attr-defined]
    assert found[0] == found[1]


def test_a_start_point_outside_that_is_begun_anew_stays_outside() -> None:
    space = Space("dcmh", RANGES, (("paper", (("lr", 3.0), ("gamma", 0.0), ("units", 2))),), "tpe", None, 1, 3)
    store = Store(None, "s", space, BASE, seed=3)
    first = store.propose(3)
    assert first is not None
    store.replace(first.number, "moved", {})
    again = store.propose(3)
    assert again is not None
    assert (again.number, again.origin, again.config) == (1, "paper", first.config)
    assert all(OUTSIDE in trial.user_attrs for trial in store.study.trials)

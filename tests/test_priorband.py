"""PriorBand: what a point is drawn from, how often, and that nothing is drawn outside of the space."""

from __future__ import annotations

import collections
import math
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from cmh.seeding import derive
from cmh.study.distributions import distribution
from cmh.study.priorband import DEVIATION, PriorBand
from cmh.study.ranges import Asha, Range, Space
from cmh.study.storage import Store

RANGES = (
    Range("lr", "float", 1e-4, 1e-1, log=True),
    Range("kind", "choice", choices=("a", "b", "c")),
    Range("units", "int", 2, 10, when=(("kind", "b"),)),
)
PAPER: dict[str, Any] = {"lr": 1e-3, "kind": "b", "units": 4}
EPOCHS = 30


def space(asha: Asha | None = Asha(1, 3, strict=True), **starts: dict[str, Any]) -> Space:  # noqa: B008
    named = tuple((name.replace("_", " "), tuple(point.items())) for name, point in starts.items())
    return Space("dcmh", RANGES, named, "priorband", asha, EPOCHS, 400)


def study(n: int, worth: str = "lr", asha: Asha | None = Asha(1, 3, strict=True), **starts: Any) -> Store:  # noqa: B008
    """So many trials, whose one epoch is worth a hyperparameter of theirs."""
    store = Store(None, "s", space(asha, **starts), PAPER, 0)
    for _ in range(n):
        proposal = store.propose(400)
        assert proposal is not None
        store.report(proposal.number, 1, float(proposal.config[worth]))
        store.prune(proposal.number, 1, {})
    return store


def beginnings(of: Space, point: dict[str, Any], n: int = 3) -> optuna.Study:
    """So many trials of one point with an epoch each."""
    store = optuna.create_study(direction="maximize")
    known = {item.name: distribution(item) for item in of.ranges}
    for _ in range(n):
        store.add_trial(optuna.create_trial(params=point, distributions=known, value=0.5, intermediate_values={1: 0.5}))
    return store


def sources(of: Space, trials: list[optuna.trial.FrozenTrial], n: int = 2000) -> collections.Counter[str]:
    return collections.Counter(PriorBand(of, seed).source(trials, np.random.default_rng(seed))[0] for seed in range(n))


@pytest.mark.parametrize("first", [1, 3, 9, 27])
def test_a_share_is_uniform_that_falls_with_the_first_rung(first: int) -> None:
    found = sources(space(Asha(first, 3), paper=PAPER), [])
    assert found["uniform"] / 2000 == pytest.approx(1 / (1 + first), abs=0.03)
    assert found["incumbent"] == 0  # nobody has reached a rung


def test_without_a_schedule_trials_are_as_dear_as_they_get() -> None:
    found = sources(space(None, paper=PAPER), [])
    assert found["uniform"] / 2000 == pytest.approx(1 / (1 + EPOCHS), abs=0.02)


def test_points_lie_inside_and_choices_near_the_prior_are_its_own_more_often() -> None:
    store = study(200, worth="lr", paper=PAPER)
    found = [trial.params for trial in store.study.trials[1:]]
    assert all(item.holds(point[item.name]) for point in found for item in RANGES if item.active(point))
    assert all(("units" in point) == (point["kind"] == "b") for point in found)
    kinds = collections.Counter(point["kind"] for point in found)
    assert kinds["b"] > max(kinds["a"], kinds["c"])


def test_the_incumbent_is_trusted_where_the_best_lie_far_from_the_prior() -> None:
    """And the prior where they lie near it."""
    far, near = {**PAPER, "lr": 1e-4, "units": 2}, {**PAPER, "lr": 1e-1, "units": 10}
    found = study(40, paper=far).study.trials
    assert max(trial.params["lr"] for trial in found) > 0.03
    of_far = sources(space(paper=far), found)
    assert of_far["incumbent"] > 3 * of_far["prior"]
    of_near = sources(space(paper=near), found)
    assert of_near["prior"] / of_near["incumbent"] > 2 * of_far["prior"] / of_far["incumbent"]


def test_incumbent_and_its_share_are_those_of_the_paper_by_hand() -> None:
    """Six trials at the first rung, three at the second: the best third of those three, by rank, says whom to trust."""
    asha = Asha(1, 3, strict=True)
    store = Store(None, "s", space(asha, paper=PAPER), PAPER, 0)
    curves = [[0.2], [0.3, 0.4, 0.6], [0.1], [0.4, 0.4, 0.5], [0.35, 0.5, 0.55], [0.9], [0.95]]
    for curve in curves:
        proposal = store.propose(400)
        assert proposal is not None
        for epoch, value in enumerate(curve, start=1):
            store.report(proposal.number, epoch, value)
    store.fail(6, "nan", "loss", {})  # the best of all, and dead
    sampler, trials = PriorBand(store.space, 0), store.study.get_trials()
    incumbent, share = sampler._incumbent(trials)
    assert incumbent == trials[5].params
    top = [trials[1].params]
    of = [sum(sampler.density(point, centre) for point in top) for centre in (sampler.prior, incumbent)]
    assert share == pytest.approx(of[1] / sum(of))


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_too_few_trials_at_a_rung_say_nothing(rest: int) -> None:
    found = study(rest, paper=PAPER)
    assert PriorBand(found.space, 0)._incumbent(found.study.trials) == ({}, 0.0)


def test_a_prior_stands_around_the_start_point_that_is_trusted_most() -> None:
    other, third = {**PAPER, "lr": 0.01}, {**PAPER, "lr": 0.02}
    assert PriorBand(space(paper=PAPER), 0).prior == PAPER
    assert PriorBand(space(paper=PAPER, default=other), 0).prior == other
    assert PriorBand(space(paper=PAPER, default=other, warm_1=third), 0).prior == third
    assert PriorBand(space(), 0).prior == {}
    assert PriorBand(space(paper={**PAPER, "kind": "a"}), 0).prior == {"lr": 1e-3, "kind": "a"}  # no units under it


def test_a_prior_outside_of_the_ranges_stands_at_their_ends() -> None:
    store = study(120, paper={"lr": 3.0, "kind": "b", "units": 64})
    drawn = [trial.params for trial in store.study.trials[1:]]
    assert all(item.holds(point[item.name]) for point in drawn for item in RANGES if item.active(point))
    assert np.median([point["lr"] for point in drawn]) > 1e-2  # the middle of the range is 3e-3


def test_without_a_start_point_and_a_rung_points_are_uniform() -> None:
    sampler_of, item = (lambda seed: PriorBand(space(None), seed)), RANGES[0]
    fresh = optuna.create_study()
    trial = fresh.ask()._cached_frozen_trial
    drawn = [sampler_of(seed).sample_relative(fresh, trial, {}) for seed in range(2000)]
    shares = [item.share(point["lr"]) for point in drawn]  # type: ignore[arg-type]
    assert stats.kstest(shares, "uniform").pvalue > 0.01
    kinds = collections.Counter(point["kind"] for point in drawn)
    assert min(kinds.values()) > 600


def test_a_step_keeps_about_half_of_the_incumbent() -> None:
    rates = [Range(f"lr_{number}", "float", 1e-4, 1e-1, log=True) for number in range(6)]
    wide = Space("dcmh", (*rates, RANGES[1]), (), "priorband", Asha(1, 3), EPOCHS, 400)
    store = beginnings(wide, {item.name: 1e-2 for item in rates} | {"kind": "a"})
    best = store.trials[0]
    kept, n = collections.Counter[str](), 0
    for seed in range(1000):
        sampler = PriorBand(wide, seed)
        point = sampler.sample_relative(store, best, {})
        if sampler.source(store.get_trials(), np.random.default_rng(derive(seed, "priorband")))[0] == "incumbent":
            n += 1
            kept.update(name for name, value in best.params.items() if point[name] == value)
    assert n > 300
    assert np.mean([kept[item.name] for item in rates]) / n == pytest.approx(0.5, abs=0.05)
    assert kept["kind"] / n == pytest.approx(0.5 + 0.5 / 3, abs=0.08)  # one of three


def test_a_step_always_leads_somewhere() -> None:
    """A copy of the incumbent is a trial that tells nothing. Where a space has one point, there is nowhere to go."""
    store = study(60, paper={**PAPER, "lr": 1e-4, "units": 2})
    best = max(store.study.trials, key=lambda trial: trial.params["lr"])
    for seed in range(300):
        point = PriorBand(store.space, seed).sample_relative(store.study, best, {})
        assert any(point[name] != value for name, value in best.params.items())
    one = Space("dcmh", (Range("kind", "choice", choices=("a",)),), (), "priorband", Asha(1, 3), EPOCHS, 9)
    alone = beginnings(one, {"kind": "a"})
    assert {PriorBand(one, seed).sample_relative(alone, alone.trials[0], {})["kind"] for seed in range(9)} == {"a"}


@given(middle=st.floats(0, 1), other=st.floats(0, 1))
def test_densities_are_those_of_scipy(middle: float, other: float) -> None:
    item = RANGES[0]
    sampler = PriorBand(Space("dcmh", (item,), (), "priorband", None, EPOCHS, 1), 0)
    centre, point = {"lr": item.at(middle)}, {"lr": item.at(other)}
    slow = stats.truncnorm(-middle / DEVIATION, (1 - middle) / DEVIATION, loc=middle, scale=DEVIATION).pdf(other)
    assert sampler.density(point, centre) == pytest.approx(slow, rel=1e-6)


@pytest.mark.parametrize("centre", [{"lr": 3e-4, "kind": "a"}, {"lr": 3e-4}, {"kind": "a"}, {}])
def test_densities_add_up_to_one(centre: dict[str, Any]) -> None:
    """Also of a centre without some hyperparameters, or without any: there all is uniform."""
    sampler = PriorBand(space(), 0)
    total, _ = integrate.quad(
        lambda share: sum(sampler.density({"lr": RANGES[0].at(share), "kind": kind}, centre) for kind in "abc"), 0, 1
    )
    assert total == pytest.approx(1, abs=1e-6)


@given(low=st.floats(1e-6, 1), width=st.floats(0.01, 1e3), share=st.floats(0, 1), log=st.booleans())
def test_places_in_a_range_go_back_and_forth(low: float, width: float, share: float, log: bool) -> None:
    item = Range("x", "float", low, low + width, log=log)
    value = item.at(share)
    assert item.holds(value)
    assert item.share(value) == pytest.approx(share, abs=1e-6)
    assert (item.share(item.low), item.share(item.high)) == (0, pytest.approx(1))
    if not log:
        assert value == pytest.approx(low + share * width)
    else:
        assert math.log(float(value)) == pytest.approx(math.log(low) + share * math.log((low + width) / low))

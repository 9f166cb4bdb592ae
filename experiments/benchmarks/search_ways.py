"""Ways to search that `samplers.py` compares: what proposes the next point, and who is stopped at which epoch.

Whatever has cmh's name is cmh's own code: `cmh.study.samplers`, and the rungs of `cmh.study.rungs`.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import optuna
from landscape import at, place
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from cmh.config import Value
from cmh.seeding import derive
from cmh.study.ranges import Asha, Space
from cmh.study.rungs import Rungs
from cmh.study.storage import Store

DEVIATION = 0.25  # of a prior, and of a step from the incumbent, in shares of a range
MUTATED = 0.5  # share of the hyperparameters that such a step changes


class Stopper(Protocol):
    """Says whether a trial ends here; told of every epoch of every trial, also of those that are never stopped."""

    def stops(self, number: int, epoch: int, curve: Mapping[int, float], /) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to search. `sampler` is one of cmh's; `prepare` may put another in the store's study, and gives a stopper
    in the place of `asha`'s, from the store, the point that a prior stands around, and a seed."""

    name: str
    sampler: str = "tpe"
    asha: Asha | None = None
    prepare: Callable[[Store, Mapping[str, Value], int], Stopper | None] | None = None
    prior: str = "paper"


class Brackets:
    """Hyperband (Li et al., JMLR 2018) with cmh's strict rungs: trials take turns between first rungs, as many at each
    as Hyperband has, those with the earliest first."""

    def __init__(self, epochs: int, first: int = 1, reduction: int = 3) -> None:
        firsts = Asha(first, reduction).rungs(epochs)
        self.reduction = reduction
        self._rungs = [Rungs(Asha(rung, reduction, strict=True), epochs, ()) for rung in firsts]
        n = len(firsts)
        sizes = [math.ceil(n / (n - index) * reduction ** (n - index - 1)) for index in range(n)]
        self._turns = [index for index, size in enumerate(sizes) for _ in range(size)]

    def of(self, number: int) -> int:
        """The index of the first rung of a trial."""
        return self._turns[number % len(self._turns)]

    def stops(self, number: int, epoch: int, curve: Mapping[int, float]) -> bool:
        """By the rungs of the trial's bracket."""
        return self._rungs[self.of(number)].stops(number, epoch, curve)

    @property
    def reached(self) -> dict[int, dict[int, float]]:
        """The best of each trial (by number) at each rung (by epoch), of all brackets."""
        found: dict[int, dict[int, float]] = {}
        for rungs in self._rungs:
            for epoch, values in rungs.reached.items():
                found.setdefault(epoch, {}).update(values)
        return found


class PriorBand(BaseSampler):
    """The sampler of PriorBand (Mallik et al., NeurIPS 2023): uniform, around a prior, or a step from the incumbent.

    With a first rung of index r, 1 in 1 + reduction^r is uniform. The rest is of the prior until a rung holds
    `reduction` trials; then it is shared by how likely the best 1/reduction of the highest such rung are under either,
    weighted by rank. Differences: trials come one by one to several workers, and what stopped is not taken up again.
    """

    def __init__(self, space: Space, mode: Mapping[str, Value], brackets: Brackets, seed: int) -> None:
        self.items = {item.name: item for item in space.ranges}
        self.mode, self.brackets, self.seed = mode, brackets, seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn together."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: object) -> dict[str, object]:
        """Nothing."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        """From the trial's source, the same for all its hyperparameters."""
        draw = np.random.default_rng(derive(self.seed, "value", trial.number, param_name))
        item, (source, centre) = self.items[param_name], self._source(study, trial.number)
        if source == "incumbent" and draw.random() >= MUTATED and param_name in centre:
            return centre[param_name]
        uniform = source == "uniform" or param_name not in centre
        if item.kind == "choice":
            if source == "prior" and not uniform and draw.random() < 0.5:
                return centre[param_name]
            return item.choices[int(draw.integers(len(item.choices)))]
        if uniform:
            return at(item, draw.random())
        middle = min(1.0, max(0.0, place(item, centre)))
        while not 0 <= (share := draw.normal(middle, DEVIATION)) <= 1:
            pass
        return at(item, share)

    def _source(self, study: optuna.Study, number: int) -> tuple[str, Mapping[str, Value]]:
        reduction = self.brackets.reduction
        uniform = 1 / (1 + reduction ** self.brackets.of(number))
        known = {epoch: values for epoch, values in self.brackets.reached.items() if len(values) >= reduction}
        incumbent: Mapping[str, Value] = {}
        of_incumbent = 0.0
        if known:
            trials = study.get_trials(deepcopy=False)
            values = known[max(known)]
            ranked = sorted(values, key=values.__getitem__, reverse=True)[: max(1, len(values) // reduction)]
            best = max(((value, one) for reached in known.values() for one, value in reached.items()))[1]
            incumbent = trials[best].params
            scores = [
                sum((len(ranked) - rank) * self.density(trials[one].params, centre) for rank, one in enumerate(ranked))
                for centre in (self.mode, incumbent)
            ]
            of_incumbent = scores[1] / sum(scores) if sum(scores) > 0 else 0.5
        draw = np.random.default_rng(derive(self.seed, "source", number)).random()
        if draw < uniform:
            return "uniform", {}
        return ("incumbent", incumbent) if draw < uniform + (1 - uniform) * of_incumbent else ("prior", self.mode)

    def density(self, values: Mapping[str, Value], centre: Mapping[str, Value]) -> float:
        """Of a point under normal distributions around another, cut off at the ends of the ranges."""
        found = 1.0
        for name, item in self.items.items():
            if name not in values or name not in centre:
                continue
            if item.kind == "choice":
                found *= 0.5 * (values[name] == centre[name]) + 0.5 / len(item.choices)
                continue
            middle, scale = min(1.0, max(0.0, place(item, centre))), DEVIATION * math.sqrt(2)
            inside = (math.erf((1 - middle) / scale) + math.erf(middle / scale)) / 2
            height = math.exp(-(((place(item, values) - middle) / scale) ** 2)) / (scale * math.sqrt(math.pi))
            found *= height / inside
        return found


class Extrapolation:
    """Stops a trial whose end will not reach the best that any trial has had, after each epoch from the `first` on.

    A curve is taken to go on as a − b·epoch^−c. For each of a few c the two others are fitted by least squares (later
    epochs count more); of those c that fit nearly as well as the best (twice its squared error), the one that promises
    most is believed, and the deviation of the fit is added to it: a trial is stopped where even that is too little.
    (Domhan et al., IJCAI 2015, average over eleven such families, and stop by probability.)
    """

    POWERS = (0.1, 0.25, 0.5, 1.0, 2.0)

    def __init__(self, epochs: int, first: int = 4) -> None:  # three numbers are fitted
        self.epochs, self.first, self.best = epochs, first, -math.inf

    def stops(self, number: int, epoch: int, curve: Mapping[int, float]) -> bool:
        """Whether even the end that is hoped for lies below the best."""
        values = [curve[one] for one in sorted(curve)]
        self.best = max(self.best, *values)
        return epoch >= self.first and max(max(values), self.hoped(values)) < self.best

    def hoped(self, values: Sequence[float]) -> float:
        """The end that is hoped for, of a curve so far."""
        epochs, y = np.arange(1.0, len(values) + 1), np.asarray(values)
        fits = []
        for power in self.POWERS:
            x = -(epochs**-power)
            weights = epochs / epochs.sum()
            dx, dy = x - weights @ x, y - weights @ y
            slope = max(0.0, float(weights @ (dx * dy)) / float(weights @ dx**2))
            error = float(weights @ (dy - slope * dx) ** 2)
            fits.append((error, weights @ y + slope * (-(self.epochs**-power) - weights @ x)))
        least = min(error for error, _ in fits)
        return max(float(end) + math.sqrt(error) for error, end in fits if error <= 2 * least + 1e-8)


class Pruner:
    """A pruner of Optuna, which reads the trial as it is stored."""

    def __init__(self, pruner: BasePruner, store: Store) -> None:
        self.pruner, self.store = pruner, store

    def stops(self, number: int, epoch: int, curve: Mapping[int, float]) -> bool:
        """As `trial.should_prune()`."""
        return self.pruner.prune(self.store.study, self.store.study.get_trials(deepcopy=False)[number])


def _hyperband(store: Store, _: Mapping[str, Value], seed: int) -> Stopper:
    """Optuna's Hyperband with Optuna's TPE, each bracket of which learns by itself."""
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=store.space.epochs, reduction_factor=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
    store.study.pruner, store.study.sampler = pruner, sampler
    return Pruner(pruner, store)


def _median(store: Store, _: Mapping[str, Value], seed: int) -> Stopper:
    return Pruner(optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2), store)


def _priorband(store: Store, mode: Mapping[str, Value], seed: int) -> Stopper:
    brackets = Brackets(store.space.epochs)
    store.study.sampler = PriorBand(store.space, mode, brackets, seed)
    return brackets


def ways(space: Space) -> list[Way]:
    """What is compared; the first is cmh as it is, by the space's own sampler and schedule."""
    return [
        Way("today", space.sampler, space.asha),
        Way("random", "random"),
        Way("tpe", "tpe"),
        Way("gp", "gp"),
        *(
            Way(f"tpe strict {first}/{reduction}", "tpe", Asha(first, reduction, strict=True))
            for first, reduction in ((1, 3), (2, 4), (3, 3))
        ),
        Way("tpe brackets", "tpe", None, lambda store, _mode, _seed: Brackets(store.space.epochs)),
        Way("gp strict 2/4", "gp", Asha(2, 4, strict=True)),
        Way("priorband", "random", None, _priorband),
        Way("priorband (default)", "random", None, _priorband, prior="default"),
        Way("tpe extrapolation", "tpe", None, lambda store, _mode, _seed: Extrapolation(store.space.epochs)),
        Way("tpe extrapolation 8", "tpe", None, lambda store, _mode, _seed: Extrapolation(store.space.epochs, 8)),
        Way("tpe median", "tpe", None, _median),
        Way("optuna hyperband", "tpe", None, _hyperband),
    ]

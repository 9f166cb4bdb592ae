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
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from cmh.study.ranges import Asha, Space
from cmh.study.rungs import Rungs
from cmh.study.samplers import SeededSampler
from cmh.study.storage import Store


class Stopper(Protocol):
    """Says whether a trial ends here; told of every epoch of every trial, also of those that are never stopped."""

    def stops(self, number: int, epoch: int, curve: Mapping[int, float], /) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to search. `sampler` is one of cmh's; `prepare` may put another in the store's study, and gives a stopper
    in the place of `asha`'s, from the store and a seed."""

    name: str
    sampler: str = "tpe"
    asha: Asha | None = None
    prepare: Callable[[Store, int], Stopper | None] | None = None
    extra: bool = False  # compared only where it is asked for


class Brackets:
    """Hyperband (Li et al., JMLR 2018) with cmh's strict rungs: trials take turns between first rungs, as many at each
    as Hyperband has, those with the earliest first."""

    def __init__(self, epochs: int, first: int = 1, reduction: int = 3) -> None:
        firsts = Asha(first, reduction).rungs(epochs)
        self._ashas = [Asha(rung, reduction, strict=True) for rung in firsts]
        self._rungs = [Rungs(asha, epochs, ()) for asha in self._ashas]
        n = len(firsts)
        sizes = [math.ceil(n / (n - index) * reduction ** (n - index - 1)) for index in range(n)]
        self._turns = [index for index, size in enumerate(sizes) for _ in range(size)]

    def of(self, number: int) -> int:
        """The index of the first rung of a trial."""
        return self._turns[number % len(self._turns)]

    def stops(self, number: int, epoch: int, curve: Mapping[int, float]) -> bool:
        """By the rungs of the trial's bracket."""
        return self._rungs[self.of(number)].stops(number, epoch, curve)

    def asha(self, number: int) -> Asha:
        """The rungs of a trial."""
        return self._ashas[self.of(number)]


class _Bracketed(SeededSampler):
    """PriorBand as in its paper, whose share of uniform points hangs on a trial's bracket."""

    def __init__(self, space: Space, seed: int, brackets: Brackets) -> None:
        super().__init__(space, seed)
        self.brackets = brackets

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Of the trial's bracket."""
        self.space = dataclasses.replace(self.space, asha=self.brackets.asha(trial.number))
        return super().infer_relative_search_space(study, trial)


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


def _hyperband(store: Store, seed: int) -> Stopper:
    """Optuna's Hyperband with Optuna's TPE, each bracket of which learns by itself."""
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=store.space.epochs, reduction_factor=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
    store.study.pruner, store.study.sampler = pruner, sampler
    return Pruner(pruner, store)


def _median(store: Store, seed: int) -> Stopper:
    return Pruner(optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2), store)


def _brackets(store: Store, _seed: int) -> Stopper:
    return Brackets(store.space.epochs)


def _priorband(store: Store, seed: int) -> Stopper:
    brackets = Brackets(store.space.epochs)
    store.study.sampler = _Bracketed(store.space, seed, brackets)
    return brackets


def ways() -> list[Way]:
    """What is compared. The first is what the shipped spaces said before, the second what they say."""
    early = Asha(1, 3, strict=True)
    return [
        Way("tpe asha 3/3", "tpe", Asha(3, 3)),
        Way("priorband strict 2/3", "priorband", Asha(2, 3, strict=True)),
        Way("random", "random"),
        Way("tpe", "tpe"),
        Way("gp", "gp"),
        Way("tpe strict 1/3", "tpe", early),
        Way("tpe strict 3/3", "tpe", Asha(3, 3, strict=True)),
        Way("priorband hyperband", "priorband", None, _priorband),
        Way("tpe extrapolation", "tpe", None, lambda store, _seed: Extrapolation(store.space.epochs)),
        Way("optuna hyperband", "tpe", None, _hyperband),
        Way("priorband strict 1/3", "priorband", early, extra=True),
        Way("priorband strict 3/3", "priorband", Asha(3, 3, strict=True), extra=True),
        Way("priorband asha 2/3", "priorband", Asha(2, 3), extra=True),
        Way("tpe strict 2/4", "tpe", Asha(2, 4, strict=True), extra=True),
        Way("gp strict 2/4", "gp", Asha(2, 4, strict=True), extra=True),  # slow: many trials, and a GP for each
        Way("tpe hyperband", "tpe", None, _brackets, extra=True),
        Way("tpe extrapolation 8", "tpe", None, lambda store, _seed: Extrapolation(store.space.epochs, 8), extra=True),
        Way("tpe median", "tpe", None, _median, extra=True),
    ]

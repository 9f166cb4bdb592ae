"""PriorBand (Mallik et al., "PriorBand: Practical Hyperparameter Optimization in the Age of Deep Learning", NeurIPS
2023): a point is drawn uniformly, around a prior, or as a step from the best point so far.

With a schedule whose first rung is at epoch e, 1 point in 1 + e is uniform (the paper's 1 + η^r; its least fidelity is
1). The others are of the prior until a rung holds `reduction` trials. Then prior and incumbent share them by how likely
the best 1/reduction of the highest such rung are under either, the k-th of n weighted by n + 1 - k.

The prior is a normal distribution around a start point, cut off at the ends of the ranges. That point is the first
there is of another study's best, its winner, the library's default, a point of the space file, the paper's; of a value
outside of its range (a paper's rate of another optimizer) the nearest end. Without a start point all is uniform.

Differences from the paper:
1. Trials come one by one to several workers, by asynchronous halving in place of Hyperband's brackets, as the authors'
   library NePS has it, too. On our stored curves it found more ("Ways to search" in README).
2. What was stopped is not taken up again.
3. A choice keeps the prior's value in half of the draws and is uniform in the rest (the paper leaves the weight open).
4. A step that changes nothing is drawn again: its trial would tell nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from cmh.config import Value
from cmh.seeding import derive
from cmh.study.distributions import distribution
from cmh.study.ranges import Range, Space, best_at

DEVIATION = 0.25  # of the prior, and of a step from the incumbent, in shares of a range
MUTATED = 0.5  # share of the hyperparameters that such a step changes
KEPT = 0.5  # share of the draws of the prior that keep its choice
TRIES = 100  # to step away from the incumbent, before a space is taken to have no other point
PRIORS = ("warm", "from", "default", "point", "paper")  # how the names of start points begin, the most trusted first


class PriorBand(BaseSampler):
    """Draws the hyperparameters of one trial, whatever it is told later. `seed` is of that trial alone."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self.ranges = {item.name: item for item in space.ranges}
        starts = [(name.split()[0], point) for name, point in space.starts() if name.split()[0] in PRIORS]
        _, point = min(starts, key=lambda start: PRIORS.index(start[0]), default=("", {}))
        self.prior = {name: point[name] for name, item in self.ranges.items() if point and item.active(point)}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All hyperparameters: they have one source. Those that turn out not to exist are not asked for."""
        return {item.name: distribution(item) for item in self.space.ranges}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        """A value of each."""
        draw = np.random.default_rng(derive(self.seed, "priorband"))
        source, centre = self.source(study.get_trials(deepcopy=False), draw)
        kept = {"uniform": 0.0, "prior": KEPT, "incumbent": 0.0}[source]
        for _ in range(TRIES):
            values: dict[str, object] = {name: self._near(centre, name, draw, kept) for name in self.ranges}
            if source != "incumbent":
                break
            values |= {name: value for name, value in centre.items() if draw.random() >= MUTATED}
            if any(values[name] != value for name, value in centre.items()):
                break
        return values

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        """A range that is not the space's, as no trial has: nothing is known of it."""
        return optuna.samplers.RandomSampler(self.seed).sample_independent(study, trial, param_name, param_distribution)

    def source(self, trials: Sequence[FrozenTrial], draw: np.random.Generator) -> tuple[str, Mapping[str, Value]]:
        """What a point is drawn from, and around what: uniform, prior or incumbent."""
        first = self.space.epochs if self.space.asha is None else self.space.asha.first_rung
        uniform, (incumbent, share) = 1 / (1 + first), self._incumbent(trials)
        drawn = draw.random()
        if drawn < uniform:
            return "uniform", {}
        return ("incumbent", incumbent) if drawn < uniform + (1 - uniform) * share else ("prior", self.prior)

    def _near(self, centre: Mapping[str, Value], name: str, draw: np.random.Generator, kept: float) -> Value:
        """A value near that of the centre, a choice's itself in a share of `kept`; uniform where it has none."""
        item = self.ranges[name]
        if item.kind == "choice":
            if draw.random() < kept and item.holds(centre.get(name, "")):
                return centre[name]
            return item.choices[int(draw.integers(len(item.choices)))]
        if name not in centre:
            return item.at(draw.random())
        while not 0 <= (share := draw.normal(_within(item, centre), DEVIATION)) <= 1:
            pass
        return item.at(share)

    def _incumbent(self, trials: Sequence[FrozenTrial]) -> tuple[Mapping[str, Value], float]:
        """The best point so far, and its share of what is not uniform; 0 as long as no rung holds enough trials."""
        epochs, asha = self.space.epochs, self.space.asha
        reduction, rungs = (3, [epochs]) if asha is None else (asha.reduction, asha.rungs(epochs))
        values: dict[int, float] = {}
        best: tuple[float, Mapping[str, Value]] = (-math.inf, {})
        points = {trial.number: trial.params for trial in trials if trial.state != TrialState.FAIL}
        for rung in rungs:
            found = {
                trial.number: value
                for trial in trials
                if trial.number in points and (value := best_at(rung, trial.intermediate_values)) is not None
            }
            if len(found) >= reduction:
                values = found
                number = max(found, key=found.__getitem__)
                best = max(best, (found[number], points[number]), key=lambda one: one[0])
        if not values:
            return {}, 0.0
        top = sorted(values, key=values.__getitem__, reverse=True)[: max(1, len(values) // reduction)]
        of_prior, of_best = (
            sum((len(top) - rank) * self.density(points[number], centre) for rank, number in enumerate(top))
            for centre in (self.prior, best[1])
        )
        return best[1], of_best / (of_best + of_prior) if of_best + of_prior > 0 else 0.5

    def density(self, point: Mapping[str, Value], centre: Mapping[str, Value]) -> float:
        """Of a point under the distribution around another; uniform where that has no value."""
        found = 1.0
        for name in self.ranges.keys() & point.keys():
            item = self.ranges[name]
            if item.kind == "choice":
                kept = KEPT if name in centre else 0.0
                found *= kept * (point[name] == centre.get(name)) + (1 - kept) / len(item.choices)
                continue
            if name not in centre:
                continue
            middle, scale = _within(item, centre), DEVIATION * math.sqrt(2)
            inside = (math.erf((1 - middle) / scale) + math.erf(middle / scale)) / 2
            height = math.exp(-(((item.share(point[name]) - middle) / scale) ** 2)) / (scale * math.sqrt(math.pi))
            found *= height / inside
        return found


def _within(item: Range, point: Mapping[str, Value]) -> float:
    """Where a point's value lies in a range of numbers, or the end that is nearest to it."""
    return min(1.0, max(0.0, item.share(point[item.name])))

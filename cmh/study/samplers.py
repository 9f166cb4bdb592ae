"""What is tried next: Optuna's samplers, seeded so that a proposal depends on its trial's number and the history alone.

A sampler is built anew for each trial. So a study that was killed and goes on proposes what an uninterrupted one would
have proposed.

**What a pruned trial is worth** to a sampler, whichever it is: the best validation MAP of its curve, as a complete one;
the curve ends at the rung where it was pruned. Left alone, Optuna's GP and CMA-ES learn from complete trials only, of
which ASHA leaves few, and are random search until there are enough; its TPE ranks every pruned trial below all complete
ones, a bad start point that is never pruned included. So each sampler looks at the study through `_Worth`. In the
storage a pruned trial stays what it is. (`priorband.py` compares trials rung by rung instead.)

**A start point outside of the ranges** (a paper's, whose learning rates are those of another optimizer) is a trial, but
no sampler sees it: of the space it says nothing. (A grid, which Optuna reads from the storage itself, has none.)
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Container

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from cmh.errors import StudyError
from cmh.seeding import derive
from cmh.study.distributions import distribution
from cmh.study.priorband import PriorBand
from cmh.study.space import Space

STARTUP_TRIALS = 8  # trials before TPE models the history; start points inside the ranges count
OUTSIDE = "outside"  # among a trial's attributes: it lies outside of the ranges


class SeededSampler(BaseSampler):
    """Builds the space's sampler anew for each trial, seeded by (study seed, trial number).

    A parameter that is drawn by itself has a stream of its own name: those that a killed process has stored already
    are not drawn again, and must not move the others. Raises StudyError where the sampler's package is missing.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self._relative = _build(space, 0)

    def _of(self, trial: FrozenTrial, *stream: str) -> BaseSampler:
        return _build(self.space, derive(self.seed, "sampler", trial.number, *stream) % 2**32)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The parameters that are drawn together; and the sampler that draws them."""
        study, self._relative = _Worth(study, trial.number), self._of(trial)
        if self.space.sampler == "qmc":
            self._relative = _Sobol(derive(self.seed, "sampler") % 2**32, self.space, trial.number)
        return self._relative.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, object]:
        """Values of the parameters that are drawn together."""
        return self._relative.sample_relative(_Worth(study, trial.number), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> object:
        """The value of a parameter that is drawn by itself."""
        seen = (
            study if self.space.sampler == "grid" else _Worth(study, trial.number)
        )  # which looks for the trial itself
        return self._of(trial, param_name).sample_independent(seen, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """What the sampler notes before a trial is asked for."""
        self._of(trial).before_trial(study, trial)


class _Worth(optuna.Study):
    """A study as the sampler of a trial sees it: pruned trials are complete, with the best value of their curves, and
    those outside of the ranges are not there.

    Nor is the trial itself: what a killed process had drawn for it already must not move what is drawn now.
    """

    def __init__(self, study: optuna.Study, number: int) -> None:
        self.__dict__.update(study.__dict__)  # the same study in the same storage: nothing is read or made
        self._number = number

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        """What every sampler of Optuna asks for."""
        trials = super()._get_trials(deepcopy, None, use_cache)
        others = [trial for trial in trials if trial.number != self._number and OUTSIDE not in trial.user_attrs]
        seen = [_completed(trial) for trial in others]
        return seen if states is None else [trial for trial in seen if trial.state in states]


def _completed(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.PRUNED or not trial.intermediate_values:
        return trial
    seen = copy.copy(trial)
    seen.state, seen.value = TrialState.COMPLETE, max(trial.intermediate_values.values())
    return seen


class _Sobol(optuna.samplers.QMCSampler):
    """A Sobol sequence over all ranges of the space, whose point is the trial's number.

    Optuna counts its points in the storage, where a kill skips one; and its space is what the first trial had.
    """

    def __init__(self, seed: int, space: Space, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(seed=seed, scramble=True, warn_independent_sampling=False)
        self.space, self.number = space, number

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {item.name: distribution(item) for item in self.space.ranges}

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self.number  # Optuna has no setting for it


def _build(space: Space, seed: int) -> BaseSampler:
    if space.sampler == "priorband":
        return PriorBand(space, seed)
    with warnings.catch_warnings():  # multivariate TPE, GP and QMC are marked experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _SAMPLERS[space.sampler](seed)


def _tpe(seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=STARTUP_TRIALS,
        multivariate=True,
        group=True,  # conditional parameters are modelled in groups that occur together
        constant_liar=True,
    )


def _cmaes(seed: int) -> BaseSampler:
    try:
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    except ImportError as error:
        raise StudyError("search.sampler is 'cmaes', which needs the package cmaes: pip install cmaes") from error


_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "cmaes": _cmaes,
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
    "qmc": lambda seed: optuna.samplers.RandomSampler(seed=seed),  # what lies outside the sequence: nothing
    "grid": lambda seed: optuna.samplers.BruteForceSampler(seed=seed),
}

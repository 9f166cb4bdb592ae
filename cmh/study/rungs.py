"""Ray's ASHA over a study's own trial numbers, refilled from its storage: there a trial is the same after a resume."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping

from cmh.cluster import ASHAScheduler, TrialScheduler
from cmh.study.ranges import Asha, best_at

METRIC = "val_map_best"


class Rungs:
    """The epochs at which trials are compared, and what was reached there.

    `history` has (number, validation MAP by epoch, whether it has ended) of the trials that have reported before.
    """

    def __init__(self, asha: Asha, epochs: int, history: Iterable[tuple[int, Mapping[int, float], bool]]) -> None:
        self._asha = ASHAScheduler(
            time_attr="epoch",
            metric=METRIC,
            mode="max",
            max_t=epochs,
            grace_period=asha.first_rung,
            reduction_factor=asha.reduction,
            stop_last_trials=False,
        )
        self._added: set[int] = set()
        if asha.strict:
            cutoff = functools.partial(_strict_cutoff, asha.reduction)
            self._asha._brackets[0].cutoff = cutoff  # type: ignore[method-assign]  # Ray has no setting for it
        for number, curve, ended in history:
            # The last epoch of a trial that goes on is reported again, and decided then.
            self._note(number, curve, max(curve) + ended)

    @property
    def reached(self) -> dict[int, dict[int, float]]:
        """The best validation MAP so far of each trial (by number) that reached a rung (by epoch)."""
        return {int(rung): recorded for rung, recorded in self._asha._brackets[0]._rungs}

    def stops(self, number: int, epoch: int, curve: Mapping[int, float]) -> bool:
        """Whether the trial is among those that do not go on; notes it where it reached a rung.

        Earlier epochs of its curve were decided before a kill: the trial went on, and its checkpoint is ahead of them.
        """
        self._note(number, curve, epoch)
        trial, best = _Numbered(number), max(value for past, value in curve.items() if past <= epoch)
        if number not in self._added:
            self._added.add(number)
            self._asha.on_trial_add(None, trial)  # type: ignore[arg-type]  # it reads the trial's id alone
        decision = self._asha.on_trial_result(None, trial, {"epoch": epoch, METRIC: best})  # type: ignore[arg-type]
        return bool(decision == TrialScheduler.STOP)

    def _note(self, number: int, curve: Mapping[int, float], before: int) -> None:
        """What the trial had reached at the rungs before an epoch, where that is not known yet."""
        decided = {epoch: value for epoch, value in curve.items() if epoch < before}
        for rung, recorded in self.reached.items():
            if (best := best_at(rung, decided)) is not None:
                recorded.setdefault(number, best)


def _strict_cutoff(reduction: int, recorded: Mapping[int, float]) -> float:
    """What the next at a rung must reach to be one of its best floor(n / reduction), itself counted among the n."""
    passing = (len(recorded) + 1) // reduction
    return sorted(recorded.values(), reverse=True)[passing - 1] if passing else math.inf


@dataclasses.dataclass
class _Numbered:
    """Stands for a trial of Ray."""

    trial_id: int

"""What a study that is searched is made of: its work, its budget, who watches it, and the pieces that workers have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, SupportsFloat

from cmh.config import Value
from cmh.interfaces import Dataset
from cmh.study.aside import Aside
from cmh.study.confirm import Confirmed
from cmh.study.storage import Proposal, Store
from cmh.study.weights import Keeper

HUGE, GROWN = 1e9, 1e3  # a loss at the last epoch that is so large, or so many times its smallest, has diverged
RESULT_KEYS = ("best_epoch", "best_i2t", "best_t2i", "seconds", "passes", "device_seconds", "device")


class View(Protocol):
    """Who watches a search."""

    def started(self, proposal: Proposal) -> None:
        """A trial was handed to a worker."""

    def reported(self, number: int, epoch: int, value: float) -> None:
        """An epoch's validation MAP was stored."""

    def ended(self, number: int) -> None:
        """A trial is complete, pruned or failed."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a study's search may spend, over all its starts; None is no limit."""

    seconds: float | None = None  # by the clock
    passes: float | None = None  # of all trials over the training items


@dataclasses.dataclass
class RunningValidation:
    """A run beside the search that a worker has, trained and validated: a flat mapping of hyperparameters and run
    settings, and the trial that it is another seed of (None: it is the control)."""

    values: dict[str, Value]
    trial: int | None = None


@dataclasses.dataclass(frozen=True)
class Work:
    """A study that is to be searched, and what follows.

    `run` holds the settings that all its trials share (dataset, features, bits, epochs, seed); each trial writes to
    `folder/trials/<number>`, from where the `keeper` takes weights that nobody needs any more. `control` has the runs
    beside the search, for workers that it leaves idle. When no trial is left, `finals` says who gets further seeds, for
    which a `share` of the budget is kept, round by round until it says nobody: then the search has ended, `ended` says
    which runs are to be confirmed, as flat mappings, and `tested` is given each that is done, as `validated` is each
    that was beside the search.
    """

    store: Store
    limit: int
    folder: Path
    run: Mapping[str, Value]
    dataset: Dataset
    view: View
    ended: Callable[[], list[dict[str, Value]]] = lambda: []
    tested: Callable[[Confirmed], None] = lambda _: None
    control: Sequence[RunningValidation] = ()
    finals: Callable[[], list[RunningValidation]] = lambda: []
    share: float = 0.0
    validated: Callable[[Aside], None] = lambda _: None
    keeper: Keeper | None = None  # None keeps all weights


@dataclasses.dataclass
class RunningTrial:
    """A trial of the search that a worker has."""

    proposal: Proposal
    newest: Mapping[str, object] = dataclasses.field(default_factory=dict)  # what it reported last
    lowest: dict[str, float] = dataclasses.field(default_factory=dict)  # size of each loss since the worker began

    @property
    def number(self) -> int:
        """Of the trial in its study."""
        return self.proposal.number

    def note(self, result: Mapping[str, object]) -> None:
        """Take in what it reported."""
        self.newest = result
        for name in result:
            if name == "loss" or name.endswith("_loss"):
                size = abs(number_of(result, name))
                self.lowest[name] = min(size, self.lowest.get(name, size))

    def diverged(self) -> str:
        """Which loss has become huge, in words; empty where none has."""
        sizes = {name: abs(number_of(self.newest, name)) for name in self.lowest if name in self.newest}
        return ", ".join(
            f"{name} ended at {sizes[name]:.2g}"
            for name in sizes
            if sizes[name] >= HUGE or sizes[name] >= GROWN * max(1.0, self.lowest[name])
        )

    def summary(self) -> dict[str, object]:
        """What of the newest report the storage keeps."""
        return {key: self.newest[key] for key in RESULT_KEYS if key in self.newest}


@dataclasses.dataclass
class RunningConfirmation:
    """A confirmation run that a worker has: a flat mapping of hyperparameters and run settings."""

    values: dict[str, Value]


def number_of(result: Mapping[str, object], key: str, default: float | None = None) -> float:
    """A number of a report; the default where it is absent."""
    value = result[key] if default is None else result.get(key, default)
    assert isinstance(value, SupportsFloat)
    return float(value)

"""A trial of a study as `trials.csv` and the closing table show it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from cmh.config import Value

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}  # Optuna's, and ours; any other: interrupted


@dataclasses.dataclass(frozen=True)
class TrialRow:
    """A trial that was started."""

    number: int
    state: str  # complete | diverged | pruned | failed | interrupted
    origin: str
    epochs: int
    copied_from: int | None  # the trial with the same configuration that was trained
    val_map_best: float | None
    best_epoch: int | None
    val_map_i2t: float | None  # at the best epoch
    val_map_t2i: float | None
    rung: int | None  # where it was pruned
    seconds: float | None
    passes: float  # over the training items, that were trained for it
    device_seconds: float | None
    device: str
    failure: str  # nan | oom | error | moved, empty otherwise
    error: str
    config: dict[str, Value]
    curve: dict[int, float]  # validation MAP by epoch

    @property
    def completed(self) -> bool:
        """Whether it reached its last epoch. Where its loss has diverged by then, its best epoch still counts."""
        return self.state in ("complete", "diverged")

    @property
    def spent(self) -> int:
        """Epochs that were trained for it."""
        return self.epochs if self.copied_from is None else 0


def from_stored(
    number: int, state: str, curve: Mapping[int, float], attributes: Mapping[str, Any], config: dict[str, Value]
) -> TrialRow:
    """The row of a trial from what its storage keeps: Optuna's name of its state, and what `Store` has written."""
    curve = dict(sorted(curve.items()))
    result = attributes.get("result", {})
    best = max(curve.values(), default=math.nan)
    diverged = str(result.get("diverged", "")) if state == "COMPLETE" else ""
    return TrialRow(
        number=number,
        state="diverged" if diverged else STATES.get(state, "interrupted"),
        origin=str(attributes.get("origin", "search")),
        epochs=max(curve, default=0),
        copied_from=result.get("copied_from"),
        val_map_best=best if curve else None,
        best_epoch=next((epoch for epoch, value in curve.items() if value == best), None),
        val_map_i2t=result.get("best_i2t"),
        val_map_t2i=result.get("best_t2i"),
        rung=result.get("rung"),
        seconds=result.get("seconds"),
        passes=result.get("passes", attributes.get("passes_an_epoch", 0.0) * max(curve, default=0)),
        device_seconds=result.get("device_seconds"),
        device=result.get("device", ""),
        failure=result.get("failure", ""),
        error=result.get("error", diverged),
        config=config,
        curve=curve,
    )

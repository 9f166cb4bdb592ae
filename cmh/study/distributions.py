"""A range of a search space as Optuna has it."""

from __future__ import annotations

import optuna
from optuna.distributions import BaseDistribution

from cmh.config import Value
from cmh.study.ranges import Range


def distribution(item: Range) -> BaseDistribution:
    """The range."""
    if item.kind == "choice":
        return optuna.distributions.CategoricalDistribution(item.choices)
    if item.kind == "int":
        return optuna.distributions.IntDistribution(int(item.low), int(item.high), log=item.log)
    return optuna.distributions.FloatDistribution(item.low, item.high, log=item.log)


def suggest(trial: optuna.trial.Trial, item: Range) -> Value:
    """The value that a trial has in a range: proposed now, and stored, if it has none yet."""
    if item.kind == "choice":
        choice: Value = trial.suggest_categorical(item.name, item.choices)  # type: ignore[assignment]  # never None
        return choice
    if item.kind == "int":
        return trial.suggest_int(item.name, int(item.low), int(item.high), log=item.log)
    return trial.suggest_float(item.name, item.low, item.high, log=item.log)

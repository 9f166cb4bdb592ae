"""Hyperparameters without effect: found before a search spends trials on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from cmh import config as configs
from cmh import datasets
from cmh.audits.part import EPOCHS, Trial
from cmh.config import Value
from cmh.interfaces import Config, MethodModule, SearchData
from cmh.training import Run

ITEMS, ITEMS_FROM_PIXELS = 96, 12
BATCHES = 3


@datasets.locked()
def idle_hyperparameters(
    module: MethodModule,
    run: Run,
    config: Config,
    data: SearchData,
    ends: Mapping[str, tuple[Value, Value]],
    *,
    given: Mapping[str, Mapping[str, Value]] | None = None,
) -> list[str]:
    """Train EPOCHS short epochs at both ends of each hyperparameter, same seed; name those whose codes are the same.

    Compared are the outputs whose signs are the codes, bit for bit: whatever has an effect has one on them. The batch
    size is not tried: the audit has its own, and another number of steps is another result.

    Parameters
    ----------
    config: the values of all others. ends: two legal values by name. given: values of others under which a
    hyperparameter exists (its conditions), by its name.

    Returns findings. Raises ConfigError for values that the method's Config refuses, where the device cannot be used,
    and where the backbone cannot be trained along.
    """
    findings = []
    for name, (low, high) in ends.items():
        if name == "batch_size":
            continue
        conditions = dict((given or {}).get(name, {}))
        built = [
            configs.build(module.Config, {**dataclasses.asdict(config), **conditions, name: value})
            for value in (low, high)
        ]
        if _same(module, run, built, data):
            where = "".join([f"in {EPOCHS} epochs", *(f", {key} = {value}" for key, value in conditions.items())])
            findings.append(f"hyperparameter `{name}` has no effect: {low} and {high} give the same codes ({where})")
    return findings


def _same(module: MethodModule, run: Run, built: list[Config], data: SearchData) -> bool:
    """Whether both configurations give the same outputs after each epoch."""
    runs = (_outputs(module, run, config, data) for config in built)
    return all(
        one is not None and two is not None and all(map(torch.equal, one, two)) for one, two in zip(*runs, strict=True)
    )


def _outputs(
    module: MethodModule, run: Run, config: Config, data: SearchData
) -> Iterator[tuple[Tensor, Tensor] | None]:
    """Outputs `(n, bits)` of images and texts after each epoch; None where a value makes training impossible, which
    is an effect.
    """
    n = ITEMS_FROM_PIXELS if run.finetune else ITEMS
    try:
        trial = Trial(module, run, config, data, n=n, batch_size=-(-n // BATCHES))
        for number in range(1, trial.epochs + 1):
            trial.epoch(number)
            yield trial.outputs()
    except (RuntimeError, ValueError):
        yield None

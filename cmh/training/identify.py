"""What a run's numbers are of, known before it starts."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch

from cmh.identity import Identity, code_hash
from cmh.interfaces import Config, Dataset, MethodModule, SearchData
from cmh.training.device import kind, resolve
from cmh.training.run import Run, n_epochs, settings_of


def identify(module: MethodModule, run: Run, config: Config, data: SearchData | Dataset) -> Identity:
    """The identity of a run. Raises ConfigError where its device cannot be used."""
    device, threads = resolve(run)
    return Identity(
        method=module.__name__.rpartition(".")[2],
        code=_code(module),  # type: ignore[arg-type]  # mypy takes a Protocol for unhashable
        dataset=data.name,
        dataset_sha256=data.sha256,
        split_sha256=data.split_sha256,
        arrays_sha256=data.arrays_sha256,
        features=data.features,
        bits=run.bits,
        epochs=n_epochs(module, run),
        seed=run.seed,
        config=dataclasses.asdict(config),
        settings=settings_of(run),
        threads=threads,
        device=kind(device),
        torch=str(torch.__version__),
    )


@functools.cache
def _code(module: MethodModule) -> str:
    """Once a module: what is imported is what runs, even where the file is edited meanwhile."""
    return code_hash(Path(str(module.__file__)))

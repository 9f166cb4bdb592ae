"""Cross-modal hashing: methods, metrics, protocol, and a study harness on Ray Tune and Optuna."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cmh import machine

if TYPE_CHECKING:
    from cmh import datasets, metrics, scan, study
    from cmh.use import Encoder, load

__all__ = ["Encoder", "__version__", "datasets", "load", "metrics", "scan", "study"]

__version__ = "0.1.0"

machine.settle()  # here, as numba, torch and Ray read it when they are imported


def __getattr__(name: str) -> object:
    """What needs torch or takes long to import, when it is asked for: `cmh.load`, `cmh.Encoder`, and modules."""
    if name in ("Encoder", "load"):
        return getattr(importlib.import_module("cmh.use"), name)
    if name in __all__:
        return importlib.import_module(f"cmh.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

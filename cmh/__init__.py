"""Cross-modal hashing: methods, metrics, protocol, and a study harness on Ray Tune and Optuna."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from cmh import machine

if TYPE_CHECKING:
    from cmh.use import Encoder, load

__all__ = ["Encoder", "__version__", "load"]

__version__ = "0.1.0"

machine.settle()  # here, as numba, torch and Ray read it when they are imported


def __getattr__(name: str) -> object:
    """`cmh.load` and `cmh.Encoder`, whose modules need torch, when they are asked for."""
    if name in ("Encoder", "load"):
        return getattr(importlib.import_module("cmh.use"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

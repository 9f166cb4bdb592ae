"""Optuna's plots with plotly, loaded without what draws the same ones with matplotlib."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator

import optuna

NAME = "optuna.visualization"


@contextlib.contextmanager
def without_matplotlib() -> Iterator[None]:
    """Within the block `optuna.visualization` is one that has not loaded matplotlib, which takes half a second; whoever
    imports it afterwards gets the whole. Where either is loaded already, nothing is changed."""
    if NAME in sys.modules or "matplotlib" in sys.modules:
        yield
        return
    lazy = optuna.visualization
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # cannot be imported: Optuna does without
    try:
        importlib.import_module(NAME)
    finally:
        del sys.modules["matplotlib"]
    try:
        yield
    finally:
        for module in [one for one in sys.modules if one.startswith(NAME)]:
            del sys.modules[module]
        optuna.visualization = lazy

"""The methods: one paper, one file. The folder is the registry."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from cmh.config import unknown
from cmh.errors import ConfigError


def names() -> list[str]:
    """All methods, in alphabetical order."""
    return sorted(item.name for item in pkgutil.iter_modules([str(Path(__file__).parent)]) if item.name[0] != "_")


def get(name: str) -> ModuleType:
    """The module of a method: `Config`, `Method`, `trainable`, and what `cmh.methods NAME` prints.

    Raises ConfigError for a name that is no method.
    """
    if name not in names():
        raise ConfigError(f"method {unknown(name, names())}")
    return importlib.import_module(f"cmh.methods.{name}")

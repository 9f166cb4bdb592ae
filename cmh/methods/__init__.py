"""The methods: one paper, one file. The folder is the registry; a file of your own counts too, by its path."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from cmh.config import params, unknown
from cmh.errors import ConfigError
from cmh.interfaces import MethodModule, Setup
from cmh.methods._refused import REFUSED

KINDS = ("supervised", "unsupervised", "shallow")
PARTS = ("TITLE", "YEAR", "KIND", "LABELS", "SOURCE", "Config", "Method", "trainable")  # of a method's module


def names() -> list[str]:
    """The methods that come with cmh, in alphabetical order."""
    return sorted(item.name for item in pkgutil.iter_modules([str(Path(__file__).parent)]) if item.name[0] != "_")


def searched(wanted: Iterable[str]) -> list[str]:
    """Names and files of methods, each once, where `all` or a kind stands for all such methods of cmh that have
    hyperparameters.
    """
    found: list[str] = []
    for text in wanted:
        if text != "all" and text not in KINDS:
            found.append(text)
            continue
        modules = {name: get(name) for name in names()}
        found += [name for name, one in modules.items() if text in ("all", one.KIND) and params(one.Config)]
    return list(dict.fromkeys(found))


def get(name: str) -> MethodModule:
    """The module of a method: `Config`, `Method`, `trainable`, and what `cmh.methods NAME` prints.

    `name` is a method of cmh or the path of a Python file (`mine.py`), which is known by its file's name from then on.
    Raises ConfigError for a name that is neither (with the reason where the method is known and refused), for a file
    that is no method, and for fields of a Config that have a run setting's name.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    if f"{__name__}.{name}" in sys.modules and name.isidentifier() and name[0] != "_":
        return _checked(sys.modules[f"{__name__}.{name}"])
    if name not in names():
        if reason := REFUSED.get(name.lower()):
            raise ConfigError(f"method {name} is not here. {reason}")
        own = f"; did you mean the file {name}.py?" if Path(f"{name}.py").is_file() else ""
        raise ConfigError(f"method {unknown(name, names())}{own}")
    return _checked(importlib.import_module(f"{__name__}.{name}"))


def _checked(module: ModuleType) -> MethodModule:
    """The module as the method that it is. Raises ConfigError that names the parts it lacks."""
    if not _is_method(module):
        missing = ", ".join(part for part in PARTS if not hasattr(module, part))
        raise ConfigError(f"method {module.__file__}: has no {missing}; see `python -m cmh.methods new NAME`")
    return module


def _is_method(module: ModuleType) -> TypeGuard[MethodModule]:
    return all(hasattr(module, part) for part in PARTS)


def short(module: MethodModule) -> str:
    """How a method is called in studies, records and on boards."""
    return module.__name__.rpartition(".")[2]


def spec(name: str) -> str:
    """What `get` needs in another process: the path of a method of your own, else the name."""
    return name if name in names() else str(get(name).__file__)


def _from_file(path: Path) -> MethodModule:
    path = path.resolve()
    name = f"{__name__}.{path.stem}"
    if not path.is_file():
        raise ConfigError(f"method {path}: no such file; `python -m cmh.methods new NAME` writes one")
    if not path.stem.isidentifier() or path.stem[0] == "_" or path.stem in names():
        raise ConfigError(f"method {path}: the file's name must be a Python name that no method of cmh has")
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__file__ == str(path):
        return _checked(loaded)
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None  # the file exists and ends in .py
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # before it runs: its dataclasses and `train(__name__, …)` look it up
    try:
        found.loader.exec_module(module)
        method = _checked(module)
        _check_fields(method)
    except ConfigError:
        del sys.modules[name]
        raise
    except Exception as error:  # whatever a user's file raises while it is read
        del sys.modules[name]
        raise ConfigError(f"method {path}: cannot be imported ({type(error).__name__}: {error})") from error
    return method


def _check_fields(module: MethodModule) -> None:
    """Raises ConfigError where a value for a hyperparameter would be one for the run, too."""
    from cmh.training import Run  # loads torch, as the method's file has done

    runs, given = ({field.name for field in dataclasses.fields(cls)} for cls in (Run, Setup))
    if both := [name for name in getattr(module.Config, "__dataclass_fields__", {}) if name in runs]:
        raise ConfigError(
            *(
                f"method {module.__file__}: the field `{name}` of Config has a run setting's name, so that a value for"
                f" one would be given to both: rename it{f', or take `setup.{name}`' if name in given else ''}"
                for name in both
            )
        )

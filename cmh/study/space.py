"""The search space file: which hyperparameters are searched, where, and with what budget."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cmh
from cmh import config, methods
from cmh.config import Value
from cmh.errors import ConfigError, collected
from cmh.interfaces import MethodModule
from cmh.study import space_reader
from cmh.study.ranges import Asha, Range, Space

__all__ = ["Asha", "Range", "Space", "find", "load", "of_methods"]


def of_methods(modules: Sequence[MethodModule], asked: Sequence[str]) -> dict[str, Path]:
    """The space file of each method, by the method's name.

    `asked` are files, built-in names and folders of files; a file is of the method that it names, else of the one that
    has its name. A method without one among them has its own: that beside the file of a method of one's own, or the
    built-in one. Raises ConfigError that lists every file that is of none of the methods, and every method without one.
    """
    names = {methods.short(module): module for module in modules}
    found: dict[str, Path] = {}
    problems: list[str] = []
    for text in asked:
        folder = Path(text) if Path(text).is_dir() else None
        files = sorted(folder.glob("*.y*ml")) if folder is not None else _found(text, problems)
        known = {file: _method_of(file) for file in files}
        if len(asked) == len(names) == len(files) == 1 and folder is None:
            known = dict.fromkeys(files, next(iter(names)))  # where it names another, its reader says so
        wanted = {file: name for file, name in known.items() if name in names}
        if files and names and not wanted:
            those = ", ".join(sorted(set(known.values())))
            problems.append(
                f"--space {text}: is of {those}, but --method asks for {', '.join(names)}; a file names its method with"
                " `method: NAME`"
            )
        elif folder is not None and not files:
            problems.append(f"--space {text}: is a folder without a .yml file")
        for file, name in wanted.items():
            if found.setdefault(name, file) != file:
                problems.append(f"--space {found[name]} and {file} are both of {name}; one method has one space")
    for name, module in names.items():
        if name not in found:
            problems += _own(name, module, found)
    if problems:
        raise ConfigError(*problems)
    return found


def _found(text: str, problems: list[str]) -> list[Path]:
    path = collected(lambda: find(text), problems)
    return [] if path is None else [path]


def _own(name: str, module: MethodModule, found: dict[str, Path]) -> list[str]:
    """Note the space of a method for which none was asked; a problem where it has none."""
    if name in methods.names():
        path = collected(lambda: find(name), [])
        found |= {} if path is None else {name: path}
        return [] if path is not None else [f"method {name}: has no search space of its own; --space FILE names one"]
    beside = Path(str(module.__file__)).with_suffix(".yml")
    if not beside.is_file():
        return [f"method {module.__file__}: {beside.name} is not beside it; --space FILE says where its space is"]
    found[name] = beside
    return []


def _method_of(file: Path) -> str:
    """The method that a space file names; its own name where it names none, or cannot be read."""
    document = collected(lambda: config.load_yaml(file), [])
    return str(document.get("method", file.stem)) if isinstance(document, dict) else file.stem


def find(path: str) -> Path:
    """The file at `path`; a built-in one for `NAME` or `NAME.yml`, and for `spaces/NAME.yml` where no `spaces` is.

    Built-in spaces lie in `search_spaces/` (checkout or installed package). Any other path must exist: a mistyped one
    is not taken for another file that happens to have its name. Raises ConfigError that names the nearest there are.
    """
    asked = Path(path)
    if asked.is_file():
        return asked
    package = Path(cmh.__file__).parent
    folders = [folder for folder in (package.parent / "search_spaces", package / "search_spaces") if folder.is_dir()]
    known = {file.stem: file for folder in reversed(folders) for file in folder.glob("*.yml")}
    name, parent = asked.name.removesuffix(".yml"), asked.parent
    bare = asked == Path(asked.name)
    if name in known and not asked.is_dir() and (bare or (parent == Path("spaces") and not parent.exists())):
        return known[name]
    what = "a folder" if asked.is_dir() else "no such file"
    near = [f"the built-in {close}" for close in difflib.get_close_matches(name, known, n=1)]
    if parent.is_dir():
        beside = {file.name: file for file in parent.glob("*.y*ml") if file.is_file()}
        near += [str(beside[close]) for close in difflib.get_close_matches(asked.name, beside, n=1)]
    elif not bare:
        what += f" ({parent} does not exist)"
    hint = f" did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"--space {path}: {what};{hint} built in: {', '.join(sorted(known))}")


def outline(path: Path, *, method: str, fixed: Mapping[str, Value]) -> Space:
    """A built-in file, which is known to be right, without its start points: the method's module, which loads torch,
    is not asked. Raises ConfigError as `load` does, but for what only the method knows."""
    document = config.load_yaml(path)
    assert isinstance(document, dict)
    examples: dict[str, Value] = {}  # of each hyperparameter a value, whose kind is its own
    for name, spec in document["params"].items():
        examples |= spec.get("when", {})
        values = next(spec[kind] for kind in ("float", "int", "choice") if kind in spec)
        examples[name] = float(values[0]) if "float" in spec or float in map(type, values) else values[0]
    fields = [
        (name, type(value), config.param(value, ""))  # type: ignore[type-var]  # it is one of its kinds
        for name, value in examples.items()
    ]
    unchecked = dataclasses.make_dataclass("Unchecked", fields, frozen=True)
    return space_reader.read({**document, "start_from": []}, unchecked, method=method, fixed=fixed, heading=str(path))


def load(path: Path, *, method: str, fixed: Mapping[str, Value] | None = None, epochs: int | None = None) -> Space:
    """Read and check a space file for `method`; `fixed` values (from --set) are taken out of the search.

    Raises ConfigError that lists every problem of the file at once.
    """
    return space_reader.read(
        config.load_yaml(path),
        methods.get(method).Config,
        method=method,
        fixed=fixed or {},
        epochs=epochs,
        heading=str(path),
    )

"""The search space file: which hyperparameters are searched, where, and with what budget."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import cmh
from cmh import config, methods
from cmh.config import Value
from cmh.errors import ConfigError
from cmh.study import space_reader
from cmh.study.ranges import Asha, Range, Space

__all__ = ["Asha", "Range", "Space", "find", "load"]


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

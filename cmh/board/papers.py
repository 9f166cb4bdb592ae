"""What papers report, from experiment files. These numbers have other protocols: shown beside ours, never ranked."""

from __future__ import annotations

from pathlib import Path

import cmh
from cmh.config import load_yaml, unknown
from cmh.errors import ConfigError

Results = dict[tuple[str, str, int], tuple[float | None, float | None, str]]

_KEYS = ("source", "protocol", "results")
_DIRECTIONS = ("i2t", "t2i")


def experiments() -> Path:
    """Where the experiment files lie: in the installed package, or beside it in a checkout."""
    package = Path(cmh.__file__).parent
    shipped = package / "experiments"
    # without the second test, a folder of that name that some other package installs would be ours
    beside = package.parent / "experiments" if (package.parent / "pyproject.toml").is_file() else shipped
    return shipped if shipped.is_dir() else beside


def reported(folder: Path) -> Results:
    """(method, dataset, bits) → (i2t, t2i, source with its protocol); nothing where there is no folder.

    Of two files on one key the first by name counts. Raises ConfigError that lists every problem of every file.
    """
    results: Results = {}
    problems: list[str] = []
    for path in sorted([*folder.glob("*.yml"), *folder.glob("*.yaml")]):
        try:
            values = load_yaml(path)
        except ConfigError as error:
            problems += error.problems
        except (ValueError, TypeError, RecursionError) as error:  # a date such as 2001-99-99, a list as a key
            problems.append(f"{path}: not valid YAML: {error}")
        else:
            found, wrong = _results(values)
            problems += [f"{path}: {problem}" for problem in wrong]
            results = found | results
    if problems:
        raise ConfigError(*problems, heading="the experiment files cannot be read")
    return results


def _results(values: object) -> tuple[Results, list[str]]:
    """What one file reports, and what is wrong with it. Its other keys are not the leaderboard's business."""
    if not isinstance(values, dict):
        return {}, ["must be a mapping with the keys method, dataset, reported"]
    table = values.get("reported")
    if table is None:
        return {}, []
    if not isinstance(table, dict):
        return {}, [f"reported is {table!r}, but must be a mapping with the keys {', '.join(_KEYS)}"]
    problems = [f"reported: {unknown(key, _KEYS)}" for key in table if key not in _KEYS]
    method, dataset = values.get("method"), values.get("dataset")
    for key, name in (("method", method), ("dataset", dataset)):
        if not isinstance(name, str):
            problems.append(f"{key} is {name!r}, but results are reported: it must name the {key} they belong to")
    rows = table.get("results") or {}
    if not isinstance(rows, dict):
        return {}, [*problems, f"reported results are {rows!r}, but must be a mapping: bits → i2t and t2i"]
    source = "; ".join(str(table[key]) for key in ("source", "protocol") if table.get(key)) or "source not named"
    found: Results = {}
    for bits, pair in rows.items():
        here = f"reported results of {bits!r} bits"
        if not isinstance(bits, int) or isinstance(bits, bool) or bits < 1:
            problems.append(f"{here}: the number of bits must be an integer >= 1")
        elif not isinstance(pair, dict):
            problems.append(f"{here} are {pair!r}, but must be a mapping with the keys i2t, t2i")
        else:
            problems += [f"{here}: {unknown(key, _DIRECTIONS)}" for key in pair if key not in _DIRECTIONS]
            problems += [
                f"{here}: {name} is {pair[name]!r}, but must be a number from 0 to 1"
                for name in _DIRECTIONS
                if not _is_map(pair.get(name))
            ]
            found[str(method), str(dataset), bits] = (pair.get("i2t"), pair.get("t2i"), source)
    return found, problems


def _is_map(value: object) -> bool:
    """Papers may leave one direction out."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1)

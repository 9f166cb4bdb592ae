"""Tables of full validation curves, one file a method: `curves.py` makes them, `samplers.py` reads them.

A table is gzipped lines of JSON: the first says what all its curves are of, each other one is a `Row`. It is replaced
as a whole at each row, so that a kill costs the curve in training alone.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from cmh import files, methods
from cmh.config import Value
from cmh.errors import CmhError
from cmh.identity import code_hash, differences
from cmh.study import space as spaces
from cmh.study.space import Range

FOLDER = Path(__file__).parent / "curves"
DIGITS = 4  # of a validation MAP


class TableError(CmhError):
    """A table that cannot be read, or is of something else than is asked for."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A configuration and how it trained: `curve[e - 1]` is its validation MAP after epoch e.

    `values` are those of the searched hyperparameters that exist beside each other; the paper's point may have others
    of those that are not searched, too. `failed` says what training died of (`nan: …`), after the epochs of `curve`.
    """

    origin: str  # paper, default or search
    values: dict[str, Value]
    curve: list[float]
    seconds: float
    failed: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What no two rows of a table share."""
        return self.origin, json.dumps(self.values, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class About:
    """What all curves of a table are of. `identity` is a run's, without hyperparameters and what belongs to a machine;
    `machines` has the latter, of each machine that rows were made on."""

    method: str
    identity: dict[str, object]
    ranges: dict[str, dict[str, Any]]  # of the search space, by hyperparameter
    machines: list[dict[str, object]]

    @property
    def epochs(self) -> int:
        """Of a full curve."""
        return int(str(self.identity["epochs"]))


@dataclasses.dataclass(frozen=True)
class Table:
    """Curves of one method."""

    about: About
    rows: list[Row]


def path_of(method: str, folder: Path = FOLDER) -> Path:
    """Where a method's table is."""
    return folder / f"{method}.jsonl.gz"


def read(path: Path) -> Table:
    """The table in a file. Raises TableError where there is none that can be read."""
    try:
        about, *rows = gzip.decompress(path.read_bytes()).decode().splitlines()
        table = Table(About(**json.loads(about)), [Row(**json.loads(row)) for row in rows])
        _ = table.about.epochs, as_ranges(table.about.ranges)
        return table
    except FileNotFoundError as error:
        method = path.name.partition(".")[0]
        cure = f"`python experiments/benchmarks/curves.py {method}` makes it"
        raise TableError(f"{path}: there is no table of {method}; {cure}") from error
    except (OSError, EOFError, zlib.error, ValueError, TypeError, LookupError, AttributeError) as error:
        raise TableError(f"{path}: is no table of curves ({error}); take it away and make it again") from error


def write(path: Path, table: Table) -> None:
    """Replace the file; equal tables give equal bytes."""
    lines = [json.dumps(dataclasses.asdict(part), ensure_ascii=False) for part in (table.about, *table.rows)]
    files.write_atomic(path, gzip.compress("\n".join(lines).encode(), mtime=0))


def add(path: Path, about: About, row: Row) -> Table:
    """Add a row to a table that others may add to at the same time, and give what is there then. A row that is there
    already stays as it is. Raises TableError where the table there is of something else."""
    with files.locked(path.with_name(f".{path.name}.lock")):
        found = read(path) if path.exists() else Table(about, [])
        check(path, found.about, about)
        machines = [*found.about.machines, *(one for one in about.machines if one not in found.about.machines)]
        rows = found.rows if row.key in {one.key for one in found.rows} else [*found.rows, row]
        table = Table(dataclasses.replace(found.about, machines=machines), rows)
        write(path, table)
    return table


def check(path: Path, there: About, here: About) -> None:
    """Raises TableError with all that differs, where curves of both must not stand in one table."""
    lines = differences({**there.identity, "space": told(there.ranges)}, {**here.identity, "space": told(here.ranges)})
    if lines:
        raise TableError(*lines, heading=f"{path}: is a table of something else; --fresh begins it anew")


def ranges(found: tuple[Range, ...]) -> dict[str, dict[str, Any]]:
    """A search space as a table holds it."""
    return {item.name: json.loads(json.dumps(dataclasses.asdict(item))) for item in found}


def told(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The search space of a table, a line for each hyperparameter, all digits of its range."""

    def line(item: Range) -> str:
        span = item.text() if item.choices else f"[{item.low}, {item.high}]{' log' * item.log}"
        return f"{item.kind} {span}" + "".join(f" where {key} is {value}" for key, value in item.when)

    return {item.name: line(item) for item in as_ranges(found)}


def as_ranges(found: dict[str, dict[str, Any]]) -> tuple[Range, ...]:
    """The search space of a table."""
    items = []
    for spec in found.values():
        more = {"choices": tuple(spec["choices"]), "when": tuple((key, value) for key, value in spec["when"])}
        items.append(Range(**{**spec, **more}))
    return tuple(items)


def check_current(path: Path, about: About) -> None:
    """Raises TableError where the method, or its shipped search space, is no longer what the curves are of."""
    space = spaces.load(spaces.find(about.method), method=about.method, epochs=about.epochs)
    here = {"code": code_hash(Path(str(methods.get(about.method).__file__))), "space": told(ranges(space.ranges))}
    lines = differences({"code": about.identity["code"], "space": told(about.ranges)}, here)
    if lines:
        cure = "`curves.py --fresh` makes it again; --old compares on it as it is"
        raise TableError(*lines, heading=f"{path}: is a table of another version of {about.method}; {cure}")

"""Search engines that take codes: how each wants them, how it is asked. Its packages are imported where they are used.

Every engine here looks at all items. Graphs (HNSW) are left out: among equal codes, of which short ones have many,
links lead to equal codes only, and what lies elsewhere is not found (docs/engines.md).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cmh import files
from cmh.encoded import Encoded
from cmh.engines import arrays, databases
from cmh.engines.forms import BYTES, SIGNS, TEXT, Answer
from cmh.errors import ExportError

Place = Any  # the folder to write to, or the connection to a server
_FILL = "zeros, to a multiple of 8 bits"


@dataclasses.dataclass(frozen=True)
class Engine:
    """One of `ENGINES`.

    `distribution` is its package, `modules` what is imported, `extra` the extra of cmh that brings both. `form` is how
    it takes codes, a key of `FORMS`, `padding` what fills up the last byte. `write(place, encoded)` puts all sets
    there; `ask(place, set, queries, bits, k)` gives the k nearest items of one, queries being in the engine's form.
    `search` is how people ask, with `{set}` and `{bits}`. `tables`: to a server, not to a folder.
    """

    distribution: str
    modules: tuple[str, ...]
    extra: str
    form: str
    padding: str
    write: Callable[[Place, Encoded], None]
    ask: Callable[[Place, str, Any, int, int], Answer]
    search: str
    tables: bool = False

    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]

    def version(self, there: Place) -> str:
        """Of its package, or of the server's extension."""
        return databases.version(there) if self.tables else importlib.metadata.version(self.distribution)


ENGINES = {
    "faiss": Engine(
        "faiss-cpu",
        ("faiss",),
        "faiss",
        BYTES,
        _FILL,
        arrays.write_faiss,
        arrays.ask_faiss,
        "faiss.read_index_binary('{set}.faiss').search(queries, k)",
    ),
    "usearch": Engine(
        "usearch",
        ("usearch",),
        "usearch",
        BYTES,
        _FILL,
        arrays.write_usearch,
        arrays.ask_usearch,
        "usearch.index.search(usearch.io.load_matrix('{set}.bbin'), queries, k, 'hamming', exact=True, dtype='b1')",
    ),
    "sqlite-vec": Engine(
        "sqlite-vec",
        ("sqlite_vec", "apsw"),
        "sqlite-vec",
        BYTES,
        _FILL,
        databases.write_sqlite_vec,
        databases.ask_sqlite_vec,
        "codes.db: SELECT item, name, distance FROM {set} WHERE code MATCH vec_bit(?) AND k = 20 ORDER BY distance",
    ),
    "pgvector": Engine(
        "psycopg",
        ("psycopg",),
        "pgvector",
        TEXT,
        "none",
        databases.write_pgvector,
        databases.ask_pgvector,
        "SELECT item, name, code <~> %s::bit({bits}) AS distance FROM cmh_{set} ORDER BY distance, item LIMIT 20",
        tables=True,
    ),
    "npy": Engine(
        "numpy",
        ("numpy",),
        "",
        BYTES,
        _FILL,
        arrays.write_npy,
        arrays.ask_npy,
        "cmh.scan.nearest(queries, numpy.load('{set}.npy'), {bits}, k)",
    ),
    "mat": Engine(
        "scipy",
        ("scipy",),
        "",
        SIGNS,
        "none",
        arrays.write_mat,
        arrays.ask_mat,
        "codes.mat, torchcmh's variables: q_img, q_txt, r_img, r_txt",
    ),
}


def check_place(engine: Engine, out: str) -> None:
    """Raises ExportError where `out` is there already, or is no address of a server where it must be one."""
    if engine.tables:
        databases.check_address(out)
    elif Path(out).exists():
        raise ExportError(f"{out}: exists already; name a new folder, or remove this one")


@contextlib.contextmanager
def place(engine: Engine, out: str) -> Iterator[Place]:
    """A new folder `out`, or a transaction with the server that `out` is the address of: what is written in the block
    stays if it ends well, and is gone if it does not.

    Raises ExportError where there can be no such place.
    """
    check_place(engine, out)
    if engine.tables:
        with databases.transaction(out) as connection:
            yield connection
        return
    try:
        with files.new_folder(Path(out)) as folder:
            yield folder
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error})") from error


def describe(engine: Engine, there: Place, about: dict[str, Any]) -> None:
    """Put what is known of the codes beside them: into `codes.json` of the folder, or into the tables' comments."""
    text = json.dumps(about, indent=1, ensure_ascii=False)
    if engine.tables:
        for name in about["sets"]:
            databases.comment(there, f"cmh_{name}", text)
    else:
        files.write_atomic(there / "codes.json", text + "\n")


def described(engine: Engine, there: Place, name: str) -> dict[str, Any]:
    """What stands beside a set."""
    text = databases.commented(there, f"cmh_{name}") if engine.tables else (there / "codes.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found

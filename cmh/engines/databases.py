"""Engines that are databases: sqlite-vec and pgvector. A set of codes is a table with item, code and name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmh.encoded import Encoded
from cmh.engines.forms import FORMS, TEXT, Answer, Packed, flags, names
from cmh.errors import ExportError

if TYPE_CHECKING:
    import apsw
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

OLDEST = (0, 7)  # version of pgvector that has Hamming distances


@contextlib.contextmanager
def _sqlite(folder: Path) -> Iterator[apsw.Connection]:
    """The file `codes.db`. Raises ExportError for what SQLite refuses, a full disk for one."""
    import apsw  # Python's own sqlite3 is often built without extensions
    import sqlite_vec

    base = apsw.Connection(str(folder / "codes.db"))
    try:
        base.enable_load_extension(True)
        base.load_extension(sqlite_vec.loadable_path())
        yield base
    except apsw.Error as error:
        raise ExportError(f"sqlite-vec: {error}") from error
    finally:
        base.close()


def write_sqlite_vec(folder: Path, encoded: Encoded) -> None:
    """Tables by the names of the sets."""
    with _sqlite(folder) as base:
        for name, packed in encoded.sets.items():
            columns = f"item integer primary key, code bit[{8 * packed.shape[1]}], +name text"
            base.execute(f"create virtual table {name} using vec0({columns})")
            rows = zip(range(len(packed)), map(bytes, packed), names(encoded, name), strict=True)
            with base:
                base.executemany(f"insert into {name}(item, code, name) values (?, vec_bit(?), ?)", rows)  # noqa: S608


def ask_sqlite_vec(folder: Path, name: str, queries: Packed, bits: int, k: int) -> Answer:
    """The file opened again."""
    ask = f"select distance, item from {name} where code match vec_bit(?) and k = {k} order by distance"  # noqa: S608
    with _sqlite(folder) as base:
        return _split([base.execute(ask, (bytes(query),)).fetchall() for query in queries])


def _split(found: list[list[tuple[Any, ...]]]) -> Answer:
    """Rows (distance, item) of each query."""
    return [[row[0] for row in rows] for rows in found], [[row[1] for row in rows] for rows in found]


def check_address(address: str) -> None:
    """Raises ExportError where it is none of PostgreSQL."""
    if not address.startswith(("postgresql://", "postgres://")):
        raise ExportError(f"{address}: must be postgresql://user@host/base, the address of the server")


@contextlib.contextmanager
def transaction(address: str) -> Iterator[Connection]:
    """With the server at `address`: kept if the block ends well, undone if it does not.

    Raises ExportError for what the server refuses.
    """
    import psycopg

    try:
        with psycopg.connect(address, connect_timeout=10) as connection:
            yield connection
    except psycopg.Error as error:
        raise ExportError(f"PostgreSQL: {str(error).strip()}") from error


def write_pgvector(connection: Connection, encoded: Encoded) -> None:
    """Tables `cmh_SET`. Raises ExportError where the server's extension is too old."""
    from psycopg import sql

    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    if tuple(map(int, version(connection).split(".")[:2])) < OLDEST:
        raise ExportError(f"pgvector {version(connection)} has no Hamming distance; the server needs 0.7 or newer")
    for name, packed in encoded.sets.items():
        table = sql.Identifier(f"cmh_{name}")
        columns = sql.SQL("item bigint PRIMARY KEY, code bit({}) NOT NULL, name text NOT NULL").format(encoded.bits)
        connection.execute(sql.SQL("CREATE TABLE {} ({})").format(table, columns))
        rows = zip(FORMS[TEXT](flags(packed, encoded.bits)), names(encoded, name), strict=True)
        with connection.cursor().copy(sql.SQL("COPY {} (item, code, name) FROM STDIN").format(table)) as copy:
            for item, row in enumerate(rows):
                copy.write_row((item, *row))


def ask_pgvector(connection: Connection, name: str, queries: list[str], bits: int, k: int) -> Answer:
    """Without an index: a scan."""
    from psycopg import sql

    template = sql.SQL("SELECT code <~> %s::bit({}) AS distance, item FROM {} ORDER BY distance, item LIMIT {}")
    ask = template.format(bits, sql.Identifier(f"cmh_{name}"), k)
    return _split([connection.execute(ask, (query,)).fetchall() for query in queries])


def version(connection: Connection) -> str:
    """Of the server's extension."""
    (found,) = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone() or ("",)
    return str(found)


def comment(connection: Connection, table: str, text: str) -> None:
    """Say something about a table, beside it."""
    from psycopg import sql

    connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(sql.Identifier(table), sql.Literal(text)))


def commented(connection: Connection, table: str) -> str:
    """What is said about a table."""
    (text,) = connection.execute("SELECT obj_description(%s::regclass)", (table,)).fetchone() or ("",)
    return str(text)

"""Addresses: of storages, as somebody asks for one, as `study.yml` keeps it, and as a database is opened by it; and of
Ray clusters."""

from __future__ import annotations

import os
import re
from pathlib import Path

import sqlalchemy
from sqlalchemy.engine import make_url

from cmh import files
from cmh.errors import ConfigError

SHARED = ("postgresql", "mysql", "mariadb")  # servers that Optuna can keep trials in
RIGHT = "an address is sqlite:///FILE.db or postgresql://USER@HOST/BASE"


def of_file(path: Path) -> str:
    """The address of the SQLite file at `path`; what would end a path there (`?`, `%`, `#`) is quoted."""
    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def file_of(url: str) -> Path | None:
    """The file of a SQLite address; None for a server, for a database in memory, and for what is no address."""
    try:
        parts = make_url(url)
    except sqlalchemy.exc.ArgumentError:
        return None
    if not parts.drivername.startswith("sqlite") or not parts.database or parts.database == ":memory:":
        return None
    return Path(parts.database)


def without_password(url: str) -> str:
    """An address as it may be shown and kept; PostgreSQL's client takes a password from PGPASSWORD, too."""
    try:
        parts = make_url(url)
    except sqlalchemy.exc.ArgumentError:
        return url
    if parts.password is None:
        return url
    return sqlalchemy.URL.create(
        parts.drivername, parts.username, None, parts.host, parts.port, parts.database, parts.query
    ).render_as_string(hide_password=False)


def asked(text: str) -> str:
    """What `--storage` means by `text`: a relative SQLite file is one below the current folder.

    Raises ConfigError that shows an address as it should be where this is none.
    """
    scheme, found, rest = text.partition("://")
    if not found:
        file = Path(re.sub("^sqlite:/*", "", text))
        near = f"did you mean {of_file(file)}?" if text.strip() and "@" not in text else RIGHT
        raise ConfigError(f"--storage {text!r}: is no address; {near}")
    kind = scheme.partition("+")[0]
    if kind == "postgres":  # as some hosts still write it
        raise ConfigError(f"--storage {scheme}://…: did you mean {scheme.replace('postgres', 'postgresql')}://…?")
    if kind in SHARED:
        return text
    if kind != "sqlite":
        raise ConfigError(f"--storage {scheme}://…: no trials can be kept there; {RIGHT}")
    if not rest.startswith("/"):
        raise ConfigError(f"--storage {text}: has two slashes, but a file has three; did you mean sqlite:///{rest}?")
    plain = "?" in rest and "=" not in rest.partition("?")[2]  # a path with a question mark, and no options
    path_text = rest[1:] if plain else make_url(text).database or ""
    if path_text in ("", ":memory:"):
        raise ConfigError(f"--storage {text}: names no file, so that no trial would be kept; {RIGHT}")
    if path_text.startswith("file:"):  # SQLite's own form, with options of its own
        return text
    path = Path(path_text).absolute()
    if path.is_dir():
        raise ConfigError(f"--storage {text}: is a folder; did you mean {of_file(Path(path_text) / 'optuna.db')}?")
    return of_file(path.resolve())


def kept(url: str, folder: Path) -> str:
    """The address as `study.yml` in `folder` has it: no password, and a SQLite file that moves with the study relative
    to it."""
    path = file_of(url)
    if path is None or not path.is_absolute():
        return without_password(url)
    return of_file(Path(files.portable(path, folder)))


def opened(kept: str, folder: Path) -> str:
    """The address that `kept` made."""
    path = file_of(kept)
    if path is None or path.is_absolute() or str(path).startswith("file:"):
        return kept
    return of_file(Path(os.path.normpath(folder.resolve() / path)))


def check_cluster(wanted: str | None) -> None:
    """Raises ConfigError where `wanted` is no address of a Ray cluster, with the one that is probably meant."""
    if wanted is None or wanted == "auto":
        return
    host, _, port = wanted.rpartition(":")
    if host and "/" not in host and port.isdigit():
        return
    name = re.split("[:/]", wanted.rpartition("://")[2])[0]
    if wanted == "local":
        cure = "for a session of one's own leave --address out"
    else:
        cure = (
            f"did you mean {name or 'HOST'}:6379? (6379 is what `ray start --head` takes; auto: this machine's cluster)"
        )
    raise ConfigError(f"--address {wanted}: must be HOST:PORT of a Ray cluster's head, or auto; {cure}")

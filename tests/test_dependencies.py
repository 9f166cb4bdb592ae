"""What cmh imports, it declares: a package that came with another one may go with it."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "cmh").rglob("*.py"))


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it, without extras and bounds."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name.strip())[0]).lower()


def imported() -> dict[str, str]:
    """Top-level package → a file of cmh that imports it, wherever in it."""
    found: dict[str, str] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names: Iterable[str] = ()
            if isinstance(node, ast.Import):
                names = (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = (node.module,)
            for name in names:
                found.setdefault(name.partition(".")[0], str(path.relative_to(ROOT)))
    return {name: path for name, path in found.items() if name not in (*sys.stdlib_module_names, "cmh")}


def lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def test_every_package_that_is_imported_is_declared() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = [text for extra, text in parser["options.extras_require"].items() if extra != "test"]
    declared = {normal(line) for text in (parser["options"]["install_requires"], *extras) for line in lines(text)}
    packages = imported()
    assert len(packages) >= 12
    installed = importlib.metadata.packages_distributions()
    missing = []
    for name, path in packages.items():
        candidates = {normal(each) for each in (name, *installed.get(name, ()))}
        if not candidates & declared:
            missing.append(f"{path} imports {name}, of {' or '.join(sorted(candidates))}")
    assert missing == []

"""Imports only go down, and the giants enter through one door each."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "errors": 0,
    "seeding": 0,
    "files": 0,
    "npz": 0,
    "signals": 0,
    "config": 1,
    "identity": 1,
    "ledger": 1,
    "records": 1,
    "nets": 2,
    "losses": 2,
    "metrics": 2,
    "codes": 2,
    "curves": 3,
    "protocols": 3,
    "scores": 3,
    "datasets": 3,
    "features": 3,
    "cluster": 3,
    "training": 4,
    "audits": 5,
    "methods": 5,
    "study": 6,
    "board": 6,
    "views": 6,
    "commands": 7,
    "tune": 7,
    "reproduce": 7,
    "leaderboard": 7,
    "evaluate": 7,
    "__main__": 7,
    "__init__": 0,
}
DOORS = {"ray": {"cmh/cluster.py", "cmh/study/workers.py"}, "optuna": {"cmh/study/storage.py"}}
SOURCES = sorted((ROOT / "cmh").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(parts: tuple[str, ...]) -> int:
    return 7 if parts[-1] == "__main__" else FLOORS[parts[0]]


def test_nobody_but_ray_says_which_gpus_are_seen() -> None:
    assert len(SOURCES) >= 40
    assert [str(path) for path in SOURCES if "CUDA_VISIBLE_DEVICES" in path.read_text()] == []


def test_imports_only_go_down() -> None:
    assert len(SOURCES) >= 40
    wrong = []
    for path in SOURCES:
        own = path.relative_to(ROOT / "cmh").with_suffix("").parts
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "cmh" and len(parts) > 1 and parts[1] in FLOORS and FLOORS[parts[1]] > floor(own):
                wrong.append(f"{'/'.join(own)} imports {name}")
    assert not wrong


@pytest.mark.parametrize("giant", DOORS)
def test_giants_enter_through_their_door(giant: str) -> None:
    users = {
        str(path.relative_to(ROOT)) for path in SOURCES if any(name.split(".")[0] == giant for name in imported(path))
    }
    assert users == DOORS[giant]


@pytest.mark.parametrize("command", ["tune", "reproduce", "leaderboard", "evaluate", "methods", "datasets"])
def test_help_teaches_without_the_giants(command: str) -> None:
    code = (
        f"import sys, importlib\nsys.argv = ['cmh']\nfrom cmh.__main__ import main\n"
        f"try:\n    main([{command!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        "loaded = {'ray', 'optuna', 'torch'} & set(sys.modules)\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_setup_lists_every_package() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = {line for line in parser["options"]["packages"].split("\n") if line and not line.startswith("#")}
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in SOURCES if path.name == "__init__.py"}
    assert listed == found | {"cmh.experiments", "cmh.search_spaces"}

"""Imports only go down, and the giants enter through one door each."""

from __future__ import annotations

import ast
import collections
import configparser
import itertools
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from cmh import studies

ROOT = Path(__file__).parent.parent
DOORS = {
    "ray": {"cmh/cluster.py"},
    "optuna": {
        "cmh/study/database.py",
        "cmh/study/distributions.py",
        "cmh/study/figures.py",
        "cmh/study/notebook.py",
        "cmh/study/priorband.py",
        "cmh/study/samplers.py",
        "cmh/study/storage.py",
    },
}
SOURCES = sorted((ROOT / "cmh").rglob("*.py"))


COMMANDS = {
    *("commands", "tune", "reproduce", "leaderboard", "evaluate", "encode", "search", "export", "studies"),
    *("__main__", "methods.__main__", "datasets.__main__"),
}
MOST_LINES = 300
MOST_ANY = 80


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules_imported(path: Path) -> set[str]:
    """The modules of cmh that a file imports by their own name, or from which it takes a name."""
    found = set()
    for name in imported(path):
        if name in MODULES:
            found.add(name)
        elif name.rpartition(".")[0] in MODULES and name.startswith("cmh."):
            found.add(name.rpartition(".")[0])
    return found - {"cmh"}


def room(module: str) -> str:
    """A room is a package or a single file right under cmh; commands inside a package are rooms of their own."""
    parts = module.split(".")
    return ".".join(parts[1:]) if parts[-1] == "__main__" else parts[1] if len(parts) > 1 else "cmh"


def circles(needs: dict[str, set[str]]) -> list[list[str]]:
    """The sets of names that reach each other."""
    reach = {name: set(below) for name, below in needs.items()}
    for middle in reach:
        for name, below in reach.items():
            if middle in below:
                reach[name] = below | reach[middle]
    together = {frozenset(other for other in reach[name] if name in reach[other]) for name in reach}
    return sorted(sorted(one) for one in together if one)


def needed_rooms() -> dict[str, set[str]]:
    needs: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if module != "cmh":
            needs.setdefault(room(module), set()).update(map(room, modules_imported(path)))
    return {name: below - {name} for name, below in needs.items()}


def floors() -> dict[str, int]:
    """One above the highest floor that a room imports from; 0 where it imports nothing of cmh."""
    needs, found = needed_rooms(), dict[str, int]()

    def floor(name: str) -> int:
        if name not in found:
            found[name] = max((floor(below) + 1 for below in needs.get(name, ())), default=0)
        return found[name]

    return {name: floor(name) for name in needs}


def test_nobody_but_ray_says_which_gpus_are_seen() -> None:
    assert len(SOURCES) >= 40
    assert [str(path) for path in SOURCES if "CUDA_VISIBLE_DEVICES" in path.read_text()] == []


def test_imports_go_in_no_circle() -> None:
    assert len(MODULES) >= 40
    assert circles({module: modules_imported(path) for module, path in MODULES.items()}) == []
    assert circles(needed_rooms()) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]


def test_contributing_shows_the_floors_that_are_measured() -> None:
    """With the table as it should be in the message."""
    measured: dict[int, list[str]] = {}
    for name, floor in floors().items():
        measured.setdefault(floor, []).append(name)
    table = {
        int(match[1]): sorted(re.findall(r"`([^`]+)`", match[2]))
        for match in re.finditer(r"^\| (\d+) \| ([^|]*) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    }
    wanted = {floor: sorted(names) for floor, names in sorted(measured.items())}
    assert table == wanted, "\n".join(
        f"| {floor} | {', '.join(f'`{n}`' for n in names)} |" for floor, names in wanted.items()
    )


def test_no_file_is_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_few_values_are_of_any_type() -> None:
    used = [
        path
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == "Any"
    ]
    assert len(used) < MOST_ANY, collections.Counter(str(path.relative_to(ROOT)) for path in used).most_common()


def code_lines(path: Path) -> list[str]:
    """The lines of a file without docstrings, imports, comments and empty ones."""
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse(path.read_text())):
        alone = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if alone or isinstance(node, (ast.Import, ast.ImportFrom)):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def test_methods_are_short_and_share_by_composition() -> None:
    papers = [path for path in (ROOT / "cmh" / "methods").glob("*.py") if path.name[0] != "_"]
    assert len(papers) >= 17
    lengths = {path.stem: len(path.read_text().splitlines()) for path in papers}
    assert {name: n for name, n in lengths.items() if n > 250} == {}
    assert statistics.median(lengths.values()) <= 150, lengths
    users: dict[tuple[str, ...], set[str]] = {}
    for path in papers:
        lines = code_lines(path)
        for start in range(len(lines) - 4):
            users.setdefault(tuple(lines[start : start + 5]), set()).add(path.stem)
    assert {run: names for run, names in users.items() if len(names) > 2} == {}


def rules(text: str) -> set[tuple[str, str, str]]:
    """(condition, selector, declaration) of a stylesheet."""
    found = set()
    bare = " ".join(re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL).split())
    for condition, inside, selector, body in re.findall(
        r"(@media[^{]+)\{((?: ?[^{}]+\{[^{}]*\})*) ?\}|([^{}]+)\{([^{}]*)\}", bare
    ):
        for selectors, some in re.findall(r"([^{}]+)\{([^{}]*)\}", inside) if condition else [(selector, body)]:
            for one, declared in itertools.product(selectors.split(","), some.split(";")):
                if declared.strip():
                    found.add((condition.strip(), one.strip(), declared.strip()))
    return found


def test_rules_of_stylesheets_are_found() -> None:
    text = "a, b { c: d; e: f } /* x { y: z } */ @media print { a { c: d; } g { h: i } } j { k: l; }"
    both = {("", one, declared) for one in "ab" for declared in ("c: d", "e: f")}
    assert rules(text) == {*both, ("@media print", "a", "c: d"), ("@media print", "g", "h: i"), ("", "j", "k: l")}


def test_no_two_stylesheets_of_pages_repeat_a_rule() -> None:
    """What pages share stands in `style.css` alone, and no page brings rules in its own text."""
    sheets = {str(path.relative_to(ROOT)): rules(path.read_text()) for path in (ROOT / "cmh").rglob("*.css")}
    assert len(sheets) >= 5
    assert min(map(len, sheets.values())) > 5
    repeated = {
        (one, other): sheets[one] & sheets[other]
        for one, other in itertools.combinations(sorted(sheets), 2)
        if sheets[one] & sheets[other]
    }
    assert repeated == {}
    pages = [path for path in (ROOT / "cmh").rglob("*") if path.suffix in (".py", ".html")]
    styles = [text for path in pages for text in re.findall(r"<style[^>]*>(.*?)</style>", path.read_text(), re.DOTALL)]
    assert len(styles) >= 3
    assert [text for text in styles if ":" in text] == []


def test_library_code_is_silent() -> None:
    """It logs; only commands write to the terminal and end the process."""
    wrong = [
        f"{path.relative_to(ROOT)}: {word}"
        for module, path in MODULES.items()
        if room(module) not in COMMANDS and module not in studies.COMMANDS.values()
        for word in ("sys.stderr.write", "sys.stdout.write", "print(", "os._exit")
        if word in "\n".join(code_lines(path))
    ]
    assert wrong == []


@pytest.mark.parametrize("giant", DOORS)
def test_giants_enter_through_their_door(giant: str) -> None:
    users = {
        str(path.relative_to(ROOT)) for path in SOURCES if any(name.split(".")[0] == giant for name in imported(path))
    }
    assert users == DOORS[giant]


@pytest.mark.parametrize(
    "command",
    [
        *("tune", "reproduce", "leaderboard", "evaluate", "encode", "search", "export", "studies"),
        *("methods", "datasets"),
    ],
)
def test_help_teaches_without_the_giants(command: str) -> None:
    code = (
        f"import sys, importlib\nsys.argv = ['cmh']\nfrom cmh.__main__ import main\n"
        f"try:\n    main([{command!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        "loaded = {'ray', 'optuna', 'torch'} & set(sys.modules)\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_what_the_readme_calls_is_there_after_import_cmh() -> None:
    called = sorted(set(re.findall(r"`(?:\w+ = )?cmh\.(\w+\.\w+)\(", (ROOT / "README.md").read_text())))
    assert {"study.open", "datasets.load", "metrics.mean_average_precision"} <= set(called)
    code = f"import cmh, operator\nfor name in {called}: assert callable(operator.attrgetter(name)(cmh)), name"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_setup_lists_every_package() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = {line for line in parser["options"]["packages"].split("\n") if line and not line.startswith("#")}
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in SOURCES if path.name == "__init__.py"}
    assert listed == found | {"cmh.experiments", "cmh.search_spaces"}

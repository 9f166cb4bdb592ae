"""Boards as LaTeX, as a page and as figures: what they show is the board's, whatever the names are; what is left out is
said."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmh import codes, leaderboard, protocols, records
from cmh.board import across, latex, page, rows
from cmh.codes import Codes
from cmh.metrics import counted
from cmh.records import PerQuery
from tests.browser import asked_for, browser, said
from tests.test_board import add, board_of, record, several
from tests.test_metrics import distances_and_relevance

NASTY = r"""a_b&50%$x^2~#{}\input{y}--?`<script>alert(1)</script>|"'é中ð""" + "\x00\x1b\n"
DOCUMENT = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{t.tex}\end{document}"


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder: Path) -> rows.Board:
    """Two code lengths; at 16 bits two rows that are equal and one that is worse, with marks; at 32 one is missing."""
    several(folder, 0.6, 0.6, 0.3, bits=16, label="bits=16", audits={"leak": ["it leaks"], "dead": []})
    several(folder, 0.7, 0.65, bits=32, label="bits=32", date="2025-03-01T00:00:00+00:00")
    (board,), _ = board_of(folder)
    return board


# --- LaTeX


def lines_of(text: str, start: str) -> list[list[str]]:
    """The cells of the lines that start so."""
    return [re.split(r" & ", line.removesuffix(r" \\")) for line in text.splitlines() if line.startswith(start)]


def test_the_best_is_bold_the_second_underlined_and_equal_ones_alike(tmp_path: Path) -> None:
    text = latex.text([made(tmp_path)])
    wide, of_16, of_32 = re.findall(r"\\begin\{table.*?\\end\{table", text, re.DOTALL)
    mark = r"$^{\dagger}$"
    ((*_, first), (*_, second), (*_, third)) = (lines_of(of_16, f"m{n}")[0] for n in range(3))
    assert [first, second, third] == ["a", "a", "b"]
    numbers = [lines_of(of_16, f"m{n}")[0][2:5] for n in range(3)]
    for equal in numbers[:2]:
        assert [cell.split(" ")[0] for cell in equal] == [r"\textbf{0.600}"] * 3
    assert [cell.split(" ")[0] for cell in numbers[2]] == [r"\underline{0.300}"] * 3
    assert lines_of(of_32, "m1")[0][2] == r"\underline{0.650}"
    (lost,) = lines_of(wide, f"m2{mark}")
    assert lost[1:] == [
        r"\underline{0.300}",
        r"\underline{0.300}",
        r"\underline{0.300}$^{\mathrm{b}}$",
        "--",
        "--",
        "--",
    ]
    (both,) = lines_of(wide, f"m0{mark}")  # its rows differ in `bits=…` alone, so they are one
    assert both[3:5] == [r"\textbf{0.600}$^{\mathrm{a}}$", r"\textbf{0.700}"]


def test_captions_state_protocol_budget_and_marks(tmp_path: Path) -> None:
    text = latex.text([made(tmp_path)])
    captions = re.findall(r"\\caption\{(.*)\}", text)
    assert len(captions) == 3
    for caption in captions:
        for words in ("Budget of each row: trials 24, epochs 30, seeds 3", "protocol cmh-1, ties expected", "50 test"):
            assert words in caption
        assert "share a letter" in caption
    assert r"$\dagger$: a code depended" in captions[1]
    assert "dagger" not in captions[2]
    several(
        tmp_path, 0.5, bits=32, epochs=7, date="2025-04-01T00:00:00+00:00", search=records.Cost(), selection="fixed"
    )
    text = latex.text(board_of(tmp_path)[0])
    assert "Budgets differ: trials 0 to 24, epochs 7 to 30, seeds 3, hyperparameters fixed, validation." in text
    assert r" & validation & 24 $\times$ 30 & 3 & " in text


def test_one_row_is_neither_bold_nor_grouped(tmp_path: Path) -> None:
    add(tmp_path / "a", record())
    text = latex.text(board_of(tmp_path)[0])
    assert lines_of(text, "dcmh") == [["dcmh", "1", "0.400", "0.500", "0.450"]]
    assert text.count(r"\begin{table}") == 1
    assert "& mean \\\\" in text
    assert "letter" not in text
    assert r"$\pm$" not in text


@given(st.text())
def test_escaped_text_has_no_sign_that_latex_reads(text: str) -> None:
    escaped = latex.escape(text)
    plain = re.sub(r"\\(text[a-z]+|dots)\{\}|\\[{}$&#%_]|\$\\(to|pm|times)\$|\{\}", "", escaped)
    assert not set(plain) & set('\\{}$&#%_^~<>|"\n')
    assert "--" not in escaped
    assert all(letter.isascii() or "À" <= letter <= "ÿ" for letter in plain)


def test_any_names_compile(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    several(tmp_path / "r", 0.6, 0.3, dataset=NASTY, label=NASTY, features=NASTY, tie_rule=NASTY)
    several(tmp_path / "s", 0.6, 0.3, dataset=NASTY, label=NASTY, features=NASTY, tie_rule=NASTY, bits=64)
    add(tmp_path / "t", record(method=NASTY))
    (tmp_path / "t.tex").write_text(latex.text(board_of(tmp_path)[0]))
    (tmp_path / "main.tex").write_text(DOCUMENT)
    command = ["pdflatex", "-halt-on-error", "-no-shell-escape", "-interaction=nonstopmode", "main.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout.decode(errors="replace")[-2000:]
    assert b"Missing character" not in (tmp_path / "main.log").read_bytes()


# --- rows side by side


def test_series_have_names_of_their_own(tmp_path: Path) -> None:
    x = {"label": "x"}
    changes: list[dict[str, Any]] = [{}, {"epochs": 5}, {"selection": "paper"}, x, {**x, "code": "d" * 64}]
    changes += [{"bits": 64}, {"bits": 64, "label": "bits=64, x"}]
    for number, change in enumerate(changes):
        add(tmp_path / str(number), record(0.9 - number / 10, 0.5, study=str(number), **change))
    (board,), _ = board_of(tmp_path)
    found = {one.name: sorted(one.rows) for one in across.series(board)}
    assert found == {
        "dcmh, validation, 24 × 30": [32, 64],
        "dcmh, validation, 24 × 5": [32],
        "dcmh, paper": [32],
        "dcmh (x), validation, 24 × 30, #1": [32, 64],
        "dcmh (x), validation, 24 × 30, #2": [32],
    }


# --- the page


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    several(folder / "r", 0.6, 0.5, 0.4, 0.3, label=NASTY, features=NASTY)
    several(folder / "s", 0.7, 0.6, bits=64, features=NASTY, selection="paper", audits={"leak": [NASTY], "dead": []})
    (folder / "page.html").write_text(
        page.html(board_of(folder, reported={("m0", "clipart", 32): (0.1, 0.2, NASTY)})[0])
    )
    return folder / "page.html"


def test_names_from_files_are_text_in_the_page(written: Path) -> None:
    text = written.read_text()
    assert text.count("<script>") == 1
    assert not {"\x00", "\x1b"} & set(text)
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r"""(?:src|href|action)=["'](?!data:)|url\(|https?://|@import""", text)


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    try:
        opened = browser(390, 844)
        driver = opened.__enter__()
    except RuntimeError as error:
        pytest.skip(str(error))
    yield driver
    opened.__exit__(None, None, None)


def shown(driver: Any, table: int = 0) -> list[str]:
    """Methods of the rows that can be seen."""
    heads = driver.find_elements("css selector", "table")[table].find_elements("css selector", "tbody th")
    return [head.text.split(" ")[0] for head in heads if head.is_displayed()]


def test_the_page_sorts_and_filters_by_keyboard_and_asks_for_nothing(driver: Any, written: Path) -> None:
    driver.get(written.as_uri())
    assert shown(driver) == ["m0", "m1", "m2", "m3"]
    head = driver.find_elements("css selector", "thead th")[0]
    assert (head.text, head.get_attribute("aria-sort")) == ("method", None)
    button = head.find_element("css selector", "button")
    for direction, order in (("ascending", "m0 m1 m2 m3"), ("descending", "m3 m2 m1 m0")):
        button.send_keys("\ue007")  # Enter
        assert head.get_attribute("aria-sort") == direction
        assert shown(driver) == order.split()
    mean = next(one for one in driver.find_elements("css selector", "thead th") if one.text.startswith("mean"))
    mean.find_element("css selector", "button").send_keys(" ")
    assert (mean.get_attribute("aria-sort"), head.get_attribute("aria-sort")) == ("descending", None)
    assert shown(driver) == ["m0", "m1", "m2", "m3"]
    words = driver.find_element("id", "words")
    words.send_keys("M2")
    assert (shown(driver), shown(driver, 1)) == (["m2"], [])
    assert driver.find_element("id", "count").text == "1 of 6 rows"
    driver.find_element("css selector", "button[type=reset]").click()
    driver.find_element("id", "bits").send_keys("64")
    assert (shown(driver), shown(driver, 1)) == ([], ["m0", "m1"])
    driver.find_element("css selector", "button[type=reset]").click()
    driver.find_element("id", "selection").send_keys("validation")
    assert (shown(driver), shown(driver, 1)) == (["m0", "m1", "m2", "m3"], [])
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
    assert asked_for(driver) == [written.as_uri()]
    assert said(driver) == []


def test_cells_of_several_numbers_sort_by_all_and_empty_ones_come_last(driver: Any, written: Path) -> None:
    driver.get(written.as_uri())
    script = """const table = document.querySelector("table"), head = table.tHead.rows[0].cells[1];
    [...table.tBodies[0].rows].forEach((row, at) => (row.cells[1].textContent = arguments[0][at]));
    const seen = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent);
    head.firstChild.click(); const up = seen(); head.firstChild.click(); return [up, seen()];"""
    up, down = driver.execute_script(script, ["24 × 30", "", "3–10", "24 × 9"])
    assert up == ["3–10", "24 × 9", "24 × 30", ""]
    assert down == ["24 × 30", "24 × 9", "3–10", ""]


# --- figures


def add_with_codes(folder: Path, seed: int, **changes: Any) -> Codes:
    """A run whose record is of the codes that lie beside it."""
    random = np.random.default_rng(seed)
    bits = changes.get("bits", 32)
    signs = {name: random.choice([-1, 1], ((12, 30)["data" in name], bits)) for name in codes.CODES}
    labels = {name: random.integers(0, 2, ((12, 30)["data" in name], 3)) for name in codes.LABELS}
    kept = Codes(**signs, **labels)  # type: ignore[arg-type]  # signs become packed codes
    i2t, t2i = (side.ranked.average_precision() for side in protocols.directions(kept))
    one = record(counted.mean(i2t), counted.mean(t2i), seed=seed, codes=f"codes-{bits}-{seed}.npz", **changes)
    one = dataclasses.replace(one, per_query=f"{bits}-{seed}.npz")
    folder.mkdir(parents=True, exist_ok=True)
    codes.write(folder / one.codes, kept)
    records.append(folder, one, PerQuery(i2t, t2i, np.arange(12) // 2))
    return kept


def test_figures_are_of_the_board_and_of_the_codes(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra [report] is not installed")
    for seed in (1, 2):
        for bits in (8, 16):
            add_with_codes(alone / "runs/a", seed, bits=bits, method="_a$x", label="long " * 20)
            add_with_codes(alone / "runs/b", seed + 5, bits=bits, method="b_1^2")
    add_with_codes(alone / "runs/c", 9, bits=8, method="other")
    shutil.copy(alone / "runs/c/codes-8-9.npz", alone / "runs/a/codes-8-1.npz")
    add(alone / "runs/d", record(bits=16, method="none", split_sha256="5" * 64), n_queries=12, of_a_group=2)
    assert leaderboard.main(["runs", "--figures", "figs/new", "--latex", "t.tex"]) == 0
    heard = capsys.readouterr().err
    assert "8 bits: PR curves and precision@N are without 1 of 3 rows, whose codes cannot be used: _a$x (long" in heard
    assert "16 bits: PR curves and precision@N are without 1 of 3 rows, whose codes were not kept: none;" in heard
    assert "`python -m cmh.reproduce runs/d --fresh` keeps those of the first" in heard
    kinds = ["map-bits", *(f"{kind}-{bits}" for kind in ("budget", "pr", "precision", "ranks") for bits in (16, 8))]
    names = sorted(path.name for path in (alone / "figs/new").iterdir())
    assert names == sorted(f"clipart-efficientnet-lite0-{kind}.{end}" for kind in kinds for end in ("pdf", "png"))
    for path in (alone / "figs/new").iterdir():
        data = path.read_bytes()
        if path.suffix == ".png":
            assert struct.unpack(">I", data[16:20])[0] in (
                round(85 / 25.4 * 300) - 1,
                round(178 / 25.4 * 300) - 1,
                1004,
                2102,
            )
        else:
            assert data.count(b"/FontFile2") >= 1
            assert b"/Type3" not in data


def test_curves_are_means_over_seeds_of_what_a_slow_count_gives(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra [report] is not installed")
    from cmh.board import figures

    kept = [add_with_codes(tmp_path, seed, bits=4) for seed in (1, 2)]
    ((board,), _), notes = board_of(tmp_path), list[str]()
    found = figures._curves([("a", board.runs[0])], "here", notes)["a"]
    assert not notes
    for way, (query, base) in enumerate((("query_image", "database_text"), ("query_text", "database_image"))):
        expected = np.zeros((2, 6))
        for one in kept:
            signs = [
                np.unpackbits(getattr(one, name), axis=-1, bitorder="little")[:, :4].astype(int) * 2 - 1
                for name in (query, base)
            ]
            for distances, relevant in distances_and_relevance((*signs, one.query_labels, one.database_labels)):
                far, hit = np.array(distances), np.array(relevant)
                chance = np.array([np.mean(hit[far == d]) for d in np.sort(far)])  # of the item at each rank
                hits = chance.cumsum()[np.array([1, 2, 5, 10, 20, 30]) - 1]
                expected[0] += hits / [1, 2, 5, 10, 20, 30] / 24
                expected[1] += hits / max(hit.sum(), 1) / 24
        ranks, precision, recall = found[way]
        assert list(ranks) == [1, 2, 5, 10, 20, 30]
        np.testing.assert_allclose([precision, recall], expected, atol=1e-12)


def test_drawn_numbers_are_the_rows_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra [report] is not installed")
    import matplotlib.style

    from cmh.board import figures

    board = made(tmp_path)
    with matplotlib.style.context(figures.STYLE):
        drawn = dict(figures._figures(board, []))
    (container, *_) = drawn["map-bits"].axes[2].containers
    assert list(container[0].get_ydata()) == [row.map_mean for row in board.rows if row.method == "m0"]
    (caps, *_) = container[2]
    halves = [(high - low) / 2 for (_, low), (_, high) in caps.get_segments()]
    assert halves == pytest.approx([r.map_mean_ci95_high - r.map_mean for r in board.rows if r.method == "m0"])  # type: ignore[operator]
    texts = {text.get_text().strip() for text in drawn["ranks-16"].axes[0].texts}
    assert texts == {"a", "m0  0.600  (1–2)", "m1  0.600  (1–2)", "m2  0.300  (3)"}
    budget = drawn["budget-16"].axes
    assert [axes.get_xlabel().split(" ")[0] for axes in budget] == ["device", "passes"]
    assert [float(one[0].get_xdata()[0]) for one in budget[1].containers] == [310, 310, 310]


def test_looks_differ_and_do_not_reach_for_ever(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra [report] is not installed")
    import matplotlib.style

    from cmh.board import figures

    for row in range(31):
        add(tmp_path / f"m{row}", record(0.9 - row / 100, method=f"m{row:02}"))
    ((board,), _), notes = board_of(tmp_path), list[str]()
    with matplotlib.style.context(figures.STYLE):
        looks = figures._looks(across.series(board), "here", notes)
    assert notes == ["here: 3 rows beyond the 28th are not drawn: m28, m29, …"]
    for kinds in (("color", "linestyle"), ("color", "marker", "fillstyle")):  # of a line, of a point
        assert len({tuple(look[kind] for kind in kinds) for look in looks.values()}) == 28
    for a, b in itertools.pairwise(looks.values()):
        assert a["marker"] != b["marker"]


def test_two_boards_of_one_name_have_files_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra [report] is not installed")
    from cmh.board import figures

    for letter in "67":
        add(tmp_path / letter, record(dataset="../É x", split_sha256=letter * 64))
    names, notes = figures.write(board_of(tmp_path)[0], tmp_path / "figs")
    starts = ("x-efficientnet-lite0-budget-32", "x-efficientnet-lite0--2-budget-32")
    assert names == [f"{start}.{end}" for start in starts for end in ("pdf", "png")]
    assert sum("no figure of MAP against bits: all rows have 32" in note for note in notes) == 2
    assert sum("no figure of rank groups" in note for note in notes) == 2


# --- the command


def test_what_cannot_be_written_is_one_line_each(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra [report] is not installed")
    add(alone / "runs" / "a", record())
    (alone / "file").write_text("")
    assert leaderboard.main(["--latex", "file/t.tex", "--html", "file/p.html", "--figures", "file"]) == 2
    heard = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert heard[-3:] == [
        "  - file/t.tex: cannot be written (File exists)",
        "  - file/p.html: cannot be written (File exists)",
        "  - file: figures cannot be written there (File exists)",
    ]
    assert leaderboard.main(["--latex", "x", "--html", "./x", "--csv", "x"]) == 2
    heard = capsys.readouterr().err.splitlines()
    assert sum("both name" in line for line in heard) == 2
    assert not (alone / "x").exists()


def test_without_the_extra_one_message_names_it(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(alone / "runs" / "a", record())
    monkeypatch.setattr(leaderboard.importlib.util, "find_spec", lambda name: None)
    assert leaderboard.main(["--html", "p.html", "--figures", "figs", "--latex", "t.tex"]) == 2
    heard = capsys.readouterr().err
    assert "--html needs jinja2, of the extra [report]: pip install 'cmh[report]'" in heard
    assert "--figures needs matplotlib, of the extra [report]" in heard
    assert not (alone / "t.tex").exists()


def test_a_board_without_rows_is_not_written(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(alone / "runs" / "a", record())
    (path,) = (alone / "runs" / "a").glob("*.npz")
    with np.load(path) as arrays:
        np.savez(path, i2t=arrays["i2t"] / 2, t2i=arrays["t2i"], groups=arrays["groups"])
    assert leaderboard.main(["--latex", "t.tex"]) == 2
    assert "there is no row to write: all runs were left out" in capsys.readouterr().err
    assert not (alone / "t.tex").exists()

"""The report of a study: what it says, what it does with damaged studies, and how it stands in a browser."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import html.parser
import importlib.util
import itertools
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmh import codes, files, ledger, protocols, records, studies, tune
from cmh.datasets import clipart
from cmh.errors import CmhError, ConfigError, DatasetError, RecordError, StudyError
from cmh.records import PerQuery, Record
from cmh.study import figures
from cmh.views import report
from cmh.views.report import page, retrieval, sheets
from cmh.views.story import read_study
from tests.browser import DRAWN, asked_for, browser, said, seconds_to_open
from tests.made_study import BITS, EPOCHS, MadeStudy, whole
from tests.test_identity import identity
from tests.test_records import record

pytestmark = pytest.mark.skipif(
    None in map(importlib.util.find_spec, figures.EXTRA),
    reason="the extra [report] is not installed",
)

PLACES = "[...document.querySelectorAll('.place')]"  # of charts, in a page
EVIL = "</script><script>alert(1)</script> & <b>bold</b>"


class Page(html.parser.HTMLParser):
    """A page's text, its tags, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif not self.inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(place: Path) -> Page:
    return Page(report.write(place).read_text(encoding="utf-8"))


def confirmed(place: Path, seed: int, config: dict[str, Any], **changes: Any) -> Record:
    """A record with codes of the clip art, better than chance, as a confirmation leaves it."""
    source = clipart.read()
    draw, split = np.random.default_rng(seed), source.split
    rows = np.concatenate([split.train, split.other, split.validation])
    plane = draw.normal(size=(source.labels.shape[1], BITS))
    signs = {
        f"{side}_{kind}": np.where(source.labels[some] @ plane + draw.normal(size=(len(some), BITS)) >= 0, 1, -1)
        for side, some in (("query", split.query), ("database", rows[source.labels[rows].any(axis=1)]))
        for kind in ("image", "text")
    }
    kept = codes.Codes(
        **{name: codes.pack(some) for name, some in signs.items()},
        bits=BITS,
        query_labels=source.labels[split.query],
        database_labels=source.labels[rows[source.labels[rows].any(axis=1)]],
        query_groups=source.query_groups(),
    )
    i2t, t2i = (side.ranked.average_precision() for side in protocols.directions(kept))
    about = {"dataset_sha256": source.sha256, "split_sha256": split.sha256()} | changes
    run = identity(bits=BITS, epochs=EPOCHS, seed=seed, config=config, **about)
    digest = run.digest()
    test = {"map_i2t": float(i2t.mean()), "map_t2i": float(t2i.mean()), "map": float((i2t.mean() + t2i.mean()) / 2)}
    names = {"per_query": f"per-query-{digest}.npz", "codes": f"codes-{digest}.npz"}
    made = dataclasses.replace(record(test=test, chosen_epoch=EPOCHS, **names), identity=run)
    codes.write(place / made.codes, kept)
    records.append(place, made, PerQuery(i2t, t2i, source.query_groups()))
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with trials in all states, failed ones with an error full of signs, confirmed with two seeds."""
    place = tmp_path_factory.mktemp("studies") / "dcmh <clip> & 16"
    study = whole(place)
    shutil.rmtree(place / "confirm")
    (place / "records.jsonl").unlink()
    failed = study.begin()
    study.epochs(failed, 0.2)
    study.end(failed, "failed", kind="error", reason=EVIL)
    config = dict(read_study(place).best.settings)  # type: ignore[union-attr]
    made = [confirmed(place, seed, config) for seed in (1, 2)]
    ledger.open_test(
        "clipart", made[0].identity.split_sha256, "test", identity=made[0].identity, seeds=[1], folder=place
    )
    return place


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def test_the_report_says_it_all(finished: Path) -> None:
    before = (finished / ledger.OWN).read_bytes()
    shown = page_of(finished)
    story = read_study(finished)
    for words in ("chance", "ridge (control)", "library default", "tuned (trial 4)", "Optimism of the winner"):
        assert words in shown.text
    assert f"{story.best.best_val_map:.4f}" in shown.text  # type: ignore[union-attr]
    assert "No importance is shown: it needs 20 trials" in shown.text
    assert "What could not be read" not in shown.text
    assert f"{story.confirmations[0].record.test['map']:.4f}" in shown.text  # type: ignore[union-attr]
    charts = [attributes["id"] for tag, attributes in shown.tags if attributes.get("class") == "chart"]
    drawn = ["bars", "budget", "curves", "slices", "slices-complete", "recall", "cuts", "radius", "distances"]
    assert charts == drawn
    assert "7 of 7 trials" not in shown.text
    assert "6 of 7 trials, by their validation MAP at the first rung, epoch 1" in shown.text
    assert "2 of 7 trials, by their best validation MAP" in shown.text
    pictures = [attributes["src"] for tag, attributes in shown.tags if tag == "img"]
    assert len(pictures) == (12 + 6) + (12 + 6) * 10
    assert all(str(address).startswith("data:image/webp;base64,") for address in pictures)
    assert (finished / ledger.OWN).read_bytes() == before  # nothing is opened anew
    headings = [int(tag[1]) for tag, _ in shown.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert (finished / report.NAME).stat().st_size < 4e6


def test_it_is_written_without_what_takes_seconds_to_load(finished: Path) -> None:
    code = (
        "import sys, pathlib\nfrom cmh.views import report\nreport.write(pathlib.Path(sys.argv[1]))\n"
        "loaded = {'torch', 'numba', 'ray', 'sklearn'} & set(sys.modules)\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code, str(finished)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_signs_of_html_stay_signs(finished: Path) -> None:
    shown = page_of(finished)
    assert EVIL in shown.text
    assert "dcmh <clip> & 16" in shown.text
    kinds = [attributes.get("type") for tag, attributes in shown.tags if tag == "script"]
    assert set(kinds) == {"application/json", "application/octet-stream", None}
    assert kinds.count(None) == 1
    assert not any(tag == "b" for tag, _ in shown.tags)
    for script, kind in zip(shown.scripts, kinds, strict=True):
        if kind == "application/json":
            json.loads(script)
    hover = json.loads(shown.scripts[kinds.index("application/json") + 2])["data"]
    assert any("&lt;script&gt;" in trace["hovertemplate"] for trace in hover)


def test_a_story_of_three_trials_in_numbers() -> None:
    rows = figures.started([frozen(0, {1: 0.3, 2: 0.4}, "COMPLETE"), frozen(1, {1: 0.1}), frozen(2, {1: 0.2, 2: 0.5})])
    line = figures.budget(rows).data[0]
    assert (list(line.x), list(line.y)) == ([2, 3, 5], [0.4, 0.4, 0.5])


def frozen(number: int, curve: dict[int, float], state: str = "PRUNED", **params: Any) -> Any:
    """A trial as Optuna has it."""
    import optuna

    ranges: dict[str, Any] = {
        name: optuna.distributions.FloatDistribution(0, 1)
        if isinstance(value, float)
        else optuna.distributions.CategoricalDistribution([value])
        for name, value in params.items()
    }
    made = optuna.trial.create_trial(
        state=optuna.trial.TrialState[state],
        value=max(curve.values()) if state == "COMPLETE" else None,
        params=params,
        distributions=ranges,
        intermediate_values=curve,
    )
    made.number = number
    return made


def pruned_by(cause: str, n_trials: int = 24) -> list[Any]:
    """Trials whose value at the first rung hangs on one hyperparameter; the three best ones go on, and what they reach
    hangs on another."""
    draw = np.random.default_rng(3)
    found = []
    for number in range(n_trials):
        params = {name: float(draw.random()) for name in ("lr", "decay", "gamma")}
        curve = {1: 0.01, 2: params[cause]}
        if params[cause] > 0.85:
            curve[6] = 1 + params["decay"]
        conditional = {"rare": 0.5} if number % 6 == 0 else {}
        found.append(frozen(number, curve, "COMPLETE" if 6 in curve else "PRUNED", fixed="x", **params, **conditional))
    return found


@pytest.mark.parametrize("cause", ["lr", "gamma"])
def test_importance_is_that_of_all_trials_at_the_first_rung(cause: str) -> None:
    trials = pruned_by(cause)
    (bar,) = figures.importance(trials, 2).data  # type: ignore[union-attr]
    assert bar.y[-1] == cause  # the longest one stands at the end
    assert set(bar.y) == {"lr", "decay", "gamma"}  # not what is constant, nor what few have
    assert "24 trials" in figures.importance(trials, 2).layout.xaxis.title.text  # type: ignore[union-attr]
    assert figures.importance(trials[:19], 2) is None
    assert figures.importance(trials, None) is None  # few are complete
    assert figures.importance([frozen(n, {2: 0.5}, lr=n / 30) for n in range(30)], 2) is None  # all values are equal
    assert figures.importance([frozen(n, {2: n / 30}, lr=0.5) for n in range(30)], 2) is None  # all points are


def test_slices_keep_the_numbers_of_trials() -> None:
    trials = pruned_by("lr")
    complete = [trial.number for trial in trials if trial.state.name == "COMPLETE"]
    shown = next(trace for trace in figures.slices(trials).data if trace.marker.color is not None)  # type: ignore[union-attr]
    assert list(shown.marker.color) == complete
    assert figures.slices([frozen(0, {1: 0.5}, "COMPLETE", gamma=0.5)]) is not None  # of one hyperparameter
    assert figures.slices([]) is None
    assert figures.slices([frozen(0, {1: 0.5}, "COMPLETE")]) is None  # without a hyperparameter


@given(
    st.lists(st.dictionaries(st.integers(1, 6), st.floats(0, 1) | st.just(float("nan")), max_size=5), max_size=6),
    st.integers(1, 4),
)
def test_trials_are_compared_where_they_met(curves: list[dict[int, float]], rung: int) -> None:
    """A second implementation: walk each curve epoch by epoch, up to the first one from the rung on."""
    expected = {}
    for number, curve in enumerate(curves):
        best = None
        for epoch in range(1, 7):
            value = curve.get(epoch)
            if value is not None and value == value and (best is None or value > best):
                best = value
            if value is not None and epoch >= rung:
                if best is not None:
                    expected[number] = best
                break
    trials = [frozen(number, curve) for number, curve in enumerate(curves)]
    assert {row.number: value for row, value in figures.valued(trials, rung)} == expected


def test_sheets_and_figures_agree_with_slow_loops(finished: Path) -> None:
    made = records.read(finished)[0][0]
    kept = codes.read(finished / made.codes)
    look = sheets.look(finished, made, kept)
    found = {sheet.title: sheet for sheet in sheets.sheets(look, kept, protocols.directions(kept))}
    assert len(found) == 4
    source = clipart.read()
    bits = {name: np.unpackbits(getattr(kept, name), axis=1, bitorder="little") for name in codes.CODES}
    words = source.words()  # type: ignore[misc]
    for place in (0, len(kept.query_labels) - 1):  # the first and the last query of the dozen
        distances = [int((bits["query_image"][place] != row).sum()) for row in bits["database_text"]]
        nearest = sorted(range(len(distances)), key=lambda item: (distances[item], item))[:10]
        query, answers = found["image → text, queries spread over the test split"].pairs[0 if place == 0 else -1]
        assert query.picture
        assert not query.text
        assert [answer.note for answer in answers] == [f"distance {distances[item]}" for item in nearest]
        shares = [(kept.query_labels[place] & kept.database_labels[item]).any() for item in nearest]
        assert [answer.relevant for answer in answers] == shares
        rows = look.rows["database"][nearest]
        assert [answer.text.split(" …")[0] for answer in answers] == [" ".join(words[row][:14]) for row in rows]
    worst = [float(query.note[3:]) for query, _ in found["text → image, the worst failures"].pairs]
    assert worst == sorted(worst)
    sides = [protocols.directions(kept)]
    shown = retrieval.use_of_bits([kept]).rows[3]
    sizes = [rows.tobytes() for rows in kept.database_text]
    largest = max(sizes.count(one) for one in set(sizes))
    assert (shown[3].split()[0], shown[4]) == (f"{len(set(sizes)):,}", f"{largest:,}")
    relevant = (kept.query_labels @ kept.database_labels.T) > 0
    away = np.array([(row != bits["database_text"]).sum(axis=1) for row in bits["query_image"]])
    bar = retrieval.distance_figure(sides).data[0]
    assert list(bar.y) == pytest.approx(np.bincount(away[relevant], minlength=BITS + 1) / relevant.sum())
    first = np.take_along_axis(relevant, away.argsort(axis=1, kind="stable"), axis=1)[:, :1000].mean()
    assert float(retrieval.numbers(sides).rows[0][6]) == pytest.approx(first, abs=0.01)  # ties: the order or their mean


def test_nothing_of_the_test_split_is_shown_that_the_study_did_not_open(copy: Path) -> None:
    (copy / ledger.OWN).unlink()
    shown = page_of(copy)
    assert "names no opening of this test split by the study" in shown.text
    assert not any(tag == "img" for tag, _ in shown.tags)


def test_another_dataset_is_not_shown_for_that_of_the_codes(finished: Path, tmp_path: Path) -> None:
    made = records.read(finished)[0][0]
    other = dataclasses.replace(made, identity=dataclasses.replace(made.identity, dataset_sha256="0" * 64))
    kept = codes.read(finished / made.codes)
    with pytest.raises(DatasetError, match="no longer the dataset"):
        sheets.look(finished, other, kept)
    with pytest.raises(DatasetError, match="no longer those of the stored codes"):
        sheets.Look(clipart.read(), dataclasses.replace(kept, query_labels=1 - kept.query_labels))
    gone = dataclasses.replace(clipart.read(), files=(tmp_path / "gone.png",) * len(clipart.read().labels))
    with pytest.raises(DatasetError, match=r"gone\.png: a picture cannot be read \(No such file"):
        sheets.sheets(sheets.Look(gone, kept), kept, protocols.directions(kept))
    with pytest.raises(RecordError, match="names no opening"):
        sheets.look(tmp_path, made, kept)


def _cut(name: str) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        (place / name).write_bytes((place / name).read_bytes()[:-40][::-1])

    return spoil


def _write(name: str, text: str) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        (place / name).write_text(text)

    return spoil


def _remove(pattern: str) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        for path in place.glob(pattern):
            path.unlink()

    return spoil


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no study.yml": (_remove("study.yml"), "study.yml"),
    "no storage": (_remove("study.db"), "study.db"),
    "a damaged storage": (_cut("study.db"), "storage"),
    "a damaged curve": (_cut("trials/0/curve.csv"), "curve.csv"),
    "damaged records": (_cut("records.jsonl"), "records.jsonl"),
    "an empty study.yml": (_write("study.yml", ""), "study.yml"),
    "no codes": (_remove("codes-*"), "codes-"),
    "no APs": (_remove("per-query-*"), "per-query-"),
    "a damaged best.yml": (_write("best.yml", "a: ["), "best.yml"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_study_is_shown_as_far_as_possible(damage: str, finished: Path, plain: Path, tmp_path: Path) -> None:
    spoil, named = DAMAGE[damage]
    copy = shutil.copytree(finished if named in ("codes-", "per-query-", "best.yml") else plain, tmp_path / "copy")
    spoil(copy)
    shown = page_of(copy)
    assert "What could not be read" in shown.text
    assert named in shown.text[: shown.text.index("Search", 300)]
    assert "Every trial" in shown.text


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(
        ["study.yml", "records.jsonl", "trials/0/curve.csv", "trials/4/config.json", "openings.jsonl"]
    ),
    at=st.floats(0, 1),
    bytes_=st.binary(max_size=6),
)
def test_whatever_stands_in_its_files_a_report_is_made_or_refused(
    plain: Path, name: str, at: float, bytes_: bytes
) -> None:
    path = plain / name
    whole_file = path.read_bytes()
    place = int(at * len(whole_file))
    path.write_bytes(whole_file[:place] + bytes_ + whole_file[place + 3 :])
    with contextlib.suppress(CmhError):
        page_of(plain)
    path.write_bytes(whole_file)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose confirmed runs kept no codes."""
    place = tmp_path_factory.mktemp("plain") / "study"
    whole(place)
    (place / ledger.OWN).write_text('{"purpose": "test"}\n')
    return place


@pytest.mark.parametrize("n_trials", [0, 1, 2])
def test_a_study_that_has_hardly_begun(n_trials: int, tmp_path: Path) -> None:
    study = MadeStudy(tmp_path / "young")
    for _ in range(n_trials):
        study.epochs(study.begin(), 0.3)
    shown = page_of(tmp_path / "young")
    assert f"{n_trials} trials" in shown.text
    assert "No importance" in shown.text


def test_a_winner_that_is_not_the_confirmed_one_is_said(plain: Path, tmp_path: Path) -> None:
    place = shutil.copytree(plain, tmp_path / "later" / plain.name)
    study = MadeStudy(place)
    study.begin()  # the interrupted one
    better = study.begin()
    study.epochs(better, 0.8, 0.9, 0.9, 0.9)
    study.end(better)
    assert "of an earlier winner" in page_of(place).text


def test_the_command(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert studies.main(["report", str(plain), "--out", str(tmp_path / "here.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'here.html'}\n"
    assert (tmp_path / "here.html").is_file()
    assert studies.main(["report", str(tmp_path)]) == 2
    assert "study.yml" in capsys.readouterr().err
    assert studies.main(["report", str(plain), "--out", str(tmp_path / "no" / "folder.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(files, "write_atomic", refuse)
    with pytest.raises(StudyError, match=r"report\.html: the report cannot be written \(Read-only.*--out FILE"):
        report.write(plain)


def test_without_the_extra_a_search_ends_normally(
    plain: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = figures.importlib.util.find_spec
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None if name == "plotly" else found(name))
    with pytest.raises(
        StudyError, match=r"the extra \[report\] is not installed \(plotly\): pip install 'cmh\[report\]'"
    ):
        report.write(plain)
    outcome: Any = SimpleNamespace(study=SimpleNamespace(folder=plain, notes={}))
    (plain / report.NAME).unlink(missing_ok=True)
    caplog.set_level(logging.INFO)
    tune._write_reports([outcome], None, None, None)
    assert [message.startswith("no report: the extra [report] is not installed") for message in caplog.messages] == [
        True
    ]
    monkeypatch.undo()
    tune._write_reports([outcome], KeyboardInterrupt, None, None)  # who interrupts wants no seconds of drawing
    assert not (plain / report.NAME).exists()
    tune._write_reports([outcome], StudyError, None, None)  # of another study of the same command
    assert (plain / report.NAME).exists()


def test_a_drawing_that_fails_fails_no_search(
    plain: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(story: object) -> str:
        raise ZeroDivisionError("of a drawing")

    monkeypatch.setattr(page, "html", fail)
    report.write_softly(plain)
    assert caplog.messages == ["no report: ZeroDivisionError: of a drawing (`python -m cmh.studies report` tells more)"]


def test_codes_of_an_older_run_are_counted(copy: Path) -> None:
    lines = (copy / "records.jsonl").read_text().splitlines()
    first = json.loads(lines[0]) | {"codes": ""}
    (copy / "records.jsonl").write_text("\n".join([json.dumps(first), lines[1]]) + "\n")
    shown = page_of(copy)
    assert "the codes of 1 of 2 confirmed runs were not kept" in shown.text
    assert "confirmed run with seed 2" in shown.text


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    try:
        with browser() as driver:
            yield driver
    except RuntimeError as error:
        pytest.skip(str(error))


def test_in_a_browser(finished: Path, chromium: Any) -> None:
    path = report.write(finished)
    for width in (1280, 390):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        seconds_to_open(chromium, path)
        assert asked_for(chromium) == [path.as_uri()]
        assert said(chromium) == []
        assert int(chromium.execute_script(DRAWN)) == 9
        traces = chromium.execute_script(f"return {PLACES}.map((place) => place.querySelectorAll('.trace').length)")
        assert min(traces) > 0
        wide = chromium.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, "the page is wider than the window"
    assert "alert" not in chromium.execute_script(
        "return [...document.scripts].map((s) => s.type ? '' : s.text).join()"
    )


def test_in_a_browser_that_cannot_unpack(finished: Path, chromium: Any) -> None:
    path = report.write(finished)
    said(chromium)
    without = {"source": "delete window.DecompressionStream"}
    script = chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", without)
    chromium.get(path.as_uri())
    words = chromium.execute_script("return document.querySelector('.place').innerText")
    chromium.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    assert words.startswith("This chart is drawn by a script")
    assert said(chromium) == []


def test_a_folder_without_a_study(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.yml"):
        report.write(tmp_path)

"""What people see of a study: its lines while it runs, its plan, its closing table."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cmh import bars
from cmh.study import request
from cmh.study.outcome import Outcome
from cmh.study.trial_row import from_stored
from cmh.training import Epoch
from cmh.views import closing, plan, progress
from tests.test_address import asked


def test_lines_stand_below_a_header_that_says_what_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = [
        from_stored(0, "COMPLETE", {1: 0.3, 2: 0.5, 3: 0.4}, {"result": {"seconds": 12.0}}, {"gamma": 0.1}),
        from_stored(1, "PRUNED", {1: 0.2}, {"result": {"seconds": 2.0, "rung": 1}}, {"gamma": 0.2}),
    ]
    space = SimpleNamespace(asha=None, epochs=3, ranges=[SimpleNamespace(name="gamma")])
    store: Any = SimpleNamespace(space=space, rows=list, row=rows.__getitem__)
    for name in "", "dcmh-8":
        caplog.clear()
        shown = progress.Progress(store, 2, name, terminal=False)
        shown.ended(0)
        shown.ended(1)
        header, first, second = caplog.messages
        start = header.index("best epoch")
        assert first[start:].startswith("epoch  2/3 ")
        assert second[start:].startswith("epoch  1/1 ")
        assert first[header.index("MAP") :].startswith("0.5000")
        assert first[header.index("settings") :] == "gamma=0.1"
        assert header.startswith(f"{name}  trial" if name else "trial")


def test_the_closing_commands_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (study,) = request.check(asked(Path("my studies"))).studies
    row = from_stored(0, "COMPLETE", {1: 0.5}, {"result": {}}, {})
    lost = from_stored(1, "COMPLETE", {1: 0.4}, {"result": {"diverged": "loss ended at 8e+12"}, "origin": "paper"}, {})
    text = closing.table(Outcome(study, [row, lost], row, {"chance": (0.1, 0.1, 0.1)}, []))
    assert "paper setting (diverged)" in text
    commands = [shlex.split(line[line.index("python") :]) for line in text.splitlines() if "python -m" in line]
    assert [words[-1] for words in commands] == ["my studies/ridge-clipart-8", "my studies"]


@pytest.mark.parametrize("n_epochs", [1, 2])
def test_a_plan_estimates_from_a_warm_epoch(n_epochs: int) -> None:
    """The first one in a process compiles and loads: here it takes 100 s, the others 2."""
    seconds: Iterator[list[float]] = iter([[100.0, 102.0]] if n_epochs == 2 else [[100.0], [2.0]])

    def fit() -> Any:
        return SimpleNamespace(curve=[SimpleNamespace(epoch=1, seconds=value) for value in next(seconds)])

    assert plan._warm_seconds(fit) == 2.0
    assert list(seconds) == []


def test_a_plan_counts_the_epochs_that_a_closed_form_makes(tmp_path: Path) -> None:
    (study,) = request.check(asked(tmp_path)).studies
    assert (study.space.epochs, study.limit) != (1, 1)
    assert f"(at most {study.limit + 1})" in plan.text(study)  # with the control


def test_where_there_is_no_terminal_a_plain_line_comes_every_so_often(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one for each step, and no carriage returns."""
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    with bars.bar(3000, "clipart: features", "pic", terminal=False) as bar:
        for _ in range(3000):
            now[0] += bars.EVERY / 1000
            bar.update()
            bar.refresh()
    with progress.epochs_bar("seed 1", 2, terminal=False) as show:
        for epoch in 1, 2:
            now[0] += bars.EVERY
            show(Epoch(epoch, 0.5, 0.4, 0.6, 0.5, 1, 0.4, 0.6, 2.0 * epoch, 2.0, {}))
    assert [line.split(" [")[0] for line in caplog.messages if "pic" in line] == [
        f"clipart: features: {n}/3000 pic" for n in (1000, 2000, 3000)
    ]
    assert "val_map 0.5000, best 0.5000]" in caplog.messages[-1]
    assert not any("\r" in line for line in caplog.messages)
    assert capsys.readouterr() == ("", "")

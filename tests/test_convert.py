"""Datasets made of the files in which hashing papers pass them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from cmh import datasets
from cmh.datasets import convert
from cmh.errors import DatasetError
from tests.test_mat import put, put_cells
from tests.test_own_data import own_cache, picture, run  # noqa: F401 - a fixture for every test here

N = 40
LABELS = np.eye(4, dtype=np.uint8)[np.arange(N) % 4]


def pictures(folder: Path) -> Path:
    (folder / "images" / "more").mkdir(parents=True)
    for row in range(N):
        (folder / "images" / "more" / f"im{row}.png").write_bytes(picture(row))
    return folder


def clip_files(folder: Path, names: list[str], *, version: str = "7", label: str = "category", each: int = 5) -> None:
    """index.mat, caption.mat and label.mat: padded paths, an n × 5 cell of captions, labels."""
    captions = [[f"a boat with {'abcde'[number]} sails" for number in range(each)] for _ in names]
    captions[1][-1] = ""
    savemat(folder / "caption_one_hot.mat", {"caption": np.ones((len(names), 3))})
    if version == "7":
        savemat(folder / "index.mat", {"index": np.array(names)})
        savemat(folder / "caption.mat", {"caption": np.array(captions, object)})
        savemat(folder / "label.mat", {label: LABELS})
        return
    import h5py

    width = max(map(len, names))
    codes = np.array([[ord(letter) for letter in name.ljust(width, "\0")] for name in names], np.uint16)
    for file, variable in (("index", "index"), ("caption", "caption"), ("label", label)):
        with h5py.File(folder / f"{file}.mat", "w") as written:
            if file == "index":
                put(written, variable, codes, "char")
            elif file == "caption":
                put_cells(written, variable, captions)
            else:
                put(written, variable, LABELS, "uint8")


@pytest.mark.parametrize("version", ["7", "7.3"])
@pytest.mark.parametrize(
    "paths", ["/home/somebody/data/images/more/im{}.png", "more/im{}.png", "C:\\data\\more\\im{}.png"]
)
def test_clip_era_files_become_items(
    version: str, paths: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever's paths they hold."""
    source = pictures(tmp_path / "source")
    clip_files(source, [paths.format(row) for row in range(N)], version=version)
    images = ["--images", str(source / "images")] if "home" not in paths else []
    assert run("convert", str(source), str(tmp_path / "MIR 25"), *images, "--query", "6", "--validation", "5") == 0
    said = capsys.readouterr().out
    assert f"{N} items; pictures in {source}" in said
    assert f"python -m cmh.datasets check '{tmp_path / 'MIR 25'}' looks at it" in said
    found = datasets.read(str(tmp_path / "MIR 25"))
    assert found.name == "mir-25"
    assert found.label_names == ("label 1", "label 2", "label 3", "label 4")
    assert np.array_equal(found.labels, LABELS)
    assert [path.name for path in found.files] == [f"im{row}.png" for row in range(N)]
    assert found.words is not None
    assert [len(words) for words in found.words()][:3] == [15, 12, 15]
    assert [len(part) for part in found.split.parts()] == [6, 5, N - 11, 0]


def test_absolute_paths_that_are_right(tmp_path: Path) -> None:
    source = pictures(tmp_path / "photos")
    (tmp_path / "lists").mkdir()
    clip_files(
        tmp_path / "lists", [str(source / "images" / "more" / f"im{row}.png") for row in range(N)], label="label"
    )
    convert.convert(tmp_path / "lists", tmp_path / "new")
    found = datasets.read(str(tmp_path / "new"))
    assert found.files[0] == source / "images" / "more" / "im0.png"
    assert [len(part) for part in found.split.parts()] == [4, 4, 32, 0]


def test_clip_era_files_that_do_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures(tmp_path / "source")
    names = [f"/far/away/more/im{row}.jpg" for row in range(N)]
    clip_files(source, names)
    new = tmp_path / "new"
    with pytest.raises(DatasetError, match=r"the first is '/far/away/more/im0.jpg'; --images FOLDER says where"):
        convert.convert(source, new)
    clip_files(source, names[:9])
    with pytest.raises(DatasetError, match=r"index.mat: index 9, caption.mat: caption 9, label.mat: category 40"):
        convert.convert(source, new)
    savemat(source / "label.mat", {"label": np.arange(9)[:, None]})
    with pytest.raises(DatasetError, match=r"must be labels .items, labels. of 0 and 1"):
        convert.convert(source, new)
    (source / "label.mat").unlink()
    with pytest.raises(DatasetError, match=r"must hold index, caption, label or I_tr.*found caption, index"):
        convert.convert(source, new)
    with pytest.raises(DatasetError, match=r"must be a .mat or .npz file, or a folder with .mat files"):
        convert.convert(tmp_path / "nothing.mat", new)
    with pytest.raises(DatasetError, match="exists already"):
        convert.convert(source, source)
    assert not new.exists()
    (tmp_path / "file").write_text("")
    clip_files(source, [f"more/im{row}.png" for row in range(N)])
    assert run("convert", str(source), str(tmp_path / "file" / "new"), "--images", str(source / "images")) == 2
    assert "cannot be written" in capsys.readouterr().err


def sides(**more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image, text = rng.random((N, 6)), (rng.random((N, 5)) < 0.4).astype(float)
    found = {}
    for side, rows in (("tr", slice(30)), ("te", slice(30, N))):
        found |= {f"I_{side}": image[rows], f"T_{side}": text[rows], f"L_{side}": LABELS[rows]}
    return {**found, **more}


@pytest.mark.parametrize("form", ["mat", "npz", "class numbers", "a row of them", "other names", "database"])
def test_training_items_and_queries_become_arrays(form: str, tmp_path: Path) -> None:
    some = sides()
    if form in ("class numbers", "a row of them"):
        for side in ("tr", "te"):
            some[f"L_{side}"] = some[f"L_{side}"].argmax(1)[:, None] + 1
            some[f"L_{side}"] = some[f"L_{side}"].T if form == "a row of them" else some[f"L_{side}"]
    if form == "database":  # as some have it: the training items once more, and others
        more = np.random.default_rng(1).random((3, 6))
        some |= {"I_db": np.concatenate([some["I_tr"], more]), "T_db": np.concatenate([some["T_tr"], np.ones((3, 5))])}
        some["L_db"] = np.concatenate([some["L_tr"], LABELS[:3]])
    expected = np.concatenate([some["I_tr"], some["I_te"]])
    if form == "other names":
        names = dict(zip("ITL", ("X", "Y", "L"), strict=True)), {"tr": "Train", "te": "Test"}
        some = {f"{names[0][key[0]]}{names[1][key[2:]]}": value for key, value in some.items()}
    path = tmp_path / ("x.npz" if form == "npz" else "x.mat")
    np.savez(path, **some) if form == "npz" else savemat(path, {**some, "param": 3})
    line = convert.convert(path, tmp_path / "new", validation=7)
    others = 3 if form == "database" else 0
    assert line.endswith(f"{'database 3, ' if others else ''}query 10, train 23, validation 7")
    found = datasets.read(str(tmp_path / "new"))
    assert [len(part) for part in found.split.parts()] == [10, 7, 23, others]
    assert found.image is not None
    assert np.allclose(found.image()[np.arange(N)], expected)
    assert np.array_equal(found.labels[:N], LABELS)
    assert found.split.query.tolist() == list(range(30, 40))
    again = tmp_path / "again"
    convert.convert(path, again, validation=7)
    assert datasets.read(str(again)).split.sha256() == found.split.sha256()


FAULTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no labels": ({"L_te": None}, 0, "query: has no labels; found"),
    "no queries": (dict.fromkeys(("I_te", "T_te", "L_te")), 0, "query: has no image and no text and no labels"),
    "rows": ({"I_tr": np.ones((6, 30))}, 0, r"rows disagree: I_tr \(6, 30\), .* transposed\?"),
    "columns": ({"I_te": np.ones((10, 3))}, 0, "image: the numbers of columns disagree"),
    "all are drawn": ({}, 30, "--validation 30: there are only 30 training items"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_sides_that_do_not_do(fault: str, tmp_path: Path) -> None:
    changes, validation, said = FAULTS[fault]
    some = {key: value for key, value in sides(**changes).items() if value is not None}
    np.savez(tmp_path / "x.npz", **some)
    with pytest.raises(DatasetError, match=said):
        convert.convert(tmp_path / "x.npz", tmp_path / "new", validation=validation)
    assert not (tmp_path / "new").exists()


def test_a_dataset_yml_that_names_such_a_file_is_told(tmp_path: Path) -> None:
    savemat(tmp_path / "x.mat", sides())
    (tmp_path / "dataset.yml").write_text("name: x\nfeatures: x.mat\nsplit: {query: 3, validation: 2}\n")
    with pytest.raises(DatasetError, match=r"I_te, I_tr, L_te, .* python -m cmh.datasets convert"):
        datasets.read(str(tmp_path))
    assert convert.known_as(["index", "caption"]) != ""
    assert convert.known_as(["image", "y_true"]) == ""

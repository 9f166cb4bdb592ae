"""MATLAB files of every version, as MATLAB, Octave, SciPy and h5py write them, with what lies beside the arrays."""

from __future__ import annotations

import contextlib
import io
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.io import savemat, whosmat
from scipy.sparse import csc_matrix

from cmh import datasets
from cmh.datasets import arrays, mat, mat5
from cmh.errors import DatasetError

SIDES = np.array(["query"] * 3 + ["validation"] * 2 + ["train"] * 7)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMH_CACHE", str(tmp_path / "cache"))


def values() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    text = (rng.random((12, 6)) < 0.3).astype(float)
    return {"image": rng.random((12, 5)), "text": text, "labels": np.eye(3)[np.arange(12) % 3]}


def dataset(folder: Path, file: str = "data.mat") -> Path:
    split = "" if file == "own.mat" else "split: {query: 3, validation: 2}\n"
    (folder / "dataset.yml").write_text(f"name: holiday\nfeatures: {file}\n{split}")
    return folder


# Versions 5 to 7.2


def element(kind: int, data: bytes) -> bytes:
    """One element of the format: tag, data, padding."""
    if 0 < len(data) <= 4:
        return struct.pack("<2H", kind, len(data)) + data.ljust(4, b"\0")
    return struct.pack("<2I", kind, len(data)) + data + bytes(-len(data) % 8)


def matlab_object(name: str, kind: str = "string") -> bytes:
    """A variable of one of MATLAB's newer classes, as MATLAB writes it; what it holds lies elsewhere."""
    inside = element(6, struct.pack("<2I", 13, 0)) + element(5, struct.pack("<2i", 6, 1)) + element(1, b"")
    inside += element(6, struct.pack("<6I", 0xDD000000, 2, 1, 1, 1, 1))
    parts = [element(6, struct.pack("<2I", 17, 0)), element(1, name.encode()), element(1, b"MCOS")]
    parts += [element(1, kind.encode()), element(14, inside)]
    return element(14, b"".join(parts))


def with_objects(path: Path, some: dict[str, Any], *objects: bytes, compressed: bool) -> Path:
    """The variables, and objects before and behind them."""
    savemat(path, some, do_compression=compressed)
    raw = path.read_bytes()
    more = [struct.pack("<2I", 15, len(zlib.compress(one))) + zlib.compress(one) for one in objects]
    more = more if compressed else list(objects)
    path.write_bytes(raw[:128] + b"".join(more[:1]) + raw[128:] + b"".join(more[1:]))
    return path


@pytest.mark.parametrize("compressed", [False, True], ids=["v6", "v7"])
def test_strings_beside_arrays_do_no_harm(compressed: bool, tmp_path: Path) -> None:
    some = {**values(), "flags": np.ones((2, 2), bool), "words": np.array(["a"], object)}
    objects = [matlab_object("names"), matlab_object("all_of_the_tags"), matlab_object("when", "datetime")]
    path = with_objects(tmp_path / "data.mat", some, *objects, compressed=compressed)
    with pytest.raises(TypeError):  # the day SciPy lists such files, mat5 can go
        whosmat(path)
    found = mat.variables(path)
    assert {name: kind for name, (_, kind) in found.items()} == {
        **{"image": "double", "text": "double", "labels": "double", "flags": "logical", "words": "cell"},
        **{"names": "string", "all_of_the_tags": "string", "when": "datetime"},
    }
    assert found["image"][0] == (12, 5)
    source = datasets.read(str(dataset(tmp_path)))
    assert source.image is not None
    assert np.allclose(source.image()[np.arange(12)], some["image"])
    for ask in (mat.texts, arrays.texts):
        with pytest.raises(DatasetError, match=r"names is of class string.*names = cellstr\(names\)"):
            ask(path, "names")
    with pytest.raises(DatasetError, match=r"when is of class datetime, but must hold texts.*builds no objects"):
        mat.texts(path, "when")
    with pytest.raises(DatasetError, match="names is of class string, but must hold numbers"):
        mat.numbers(path, "names")


def test_the_listing_is_as_scipys(tmp_path: Path) -> None:
    kinds: dict[str, Any] = {name: np.ones((2, 3), name) for name in ("int8", "uint16", "int64", "float32", "float64")}
    some = {**kinds, "cells": np.array([["a", "b"]], object), "letters": np.array(["ab", "c"]), "x": {"a": 1}}
    some |= {"sparse": csc_matrix(np.eye(3)), "logical": np.ones(3, bool), "a" * 31: np.zeros((0, 4))}
    for compressed in (False, True):
        savemat(tmp_path / "x.mat", some, do_compression=compressed)
        assert mat5.variables(tmp_path / "x.mat") == mat.variables(tmp_path / "x.mat")


@pytest.mark.parametrize("cut", [100, 130, 150, 200])
def test_a_damaged_file_with_objects_is_named(cut: int, tmp_path: Path) -> None:
    path = with_objects(tmp_path / "x.mat", values(), matlab_object("names"), compressed=True)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DatasetError, match="cannot be read as a MATLAB file"):
        mat.variables(path)
    savemat(path, values())
    path.write_bytes(path.read_bytes()[:128] + element(9, bytes(64)))
    with pytest.raises(DatasetError, match="cannot be read as a MATLAB file"):
        mat.variables(path)


def test_a_damaged_sparse_matrix_is_named(tmp_path: Path) -> None:
    """SciPy (1.17) takes its indices as they are, and turning it into rows ends the process."""
    path = tmp_path / "x.mat"
    matrix = csc_matrix(np.eye(7, 5)[::-1])
    savemat(path, {"tags": matrix})
    raw = path.read_bytes()
    rows = matrix.indices.astype("<i4").tobytes()
    assert raw.count(rows) == 1
    path.write_bytes(raw.replace(rows, np.full(5, 2**30, "<i4").tobytes()))
    with pytest.raises(DatasetError, match=r"tags cannot be read .ValueError: .*indices"):
        arrays.numbers(path, "tags")


def test_octaves_sparse_logical_has_a_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savemat(tmp_path / "x.mat", values())

    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("cannot reshape array of size 73 into shape (12,3)")

    monkeypatch.setattr("scipy.io.loadmat", fails)
    with pytest.raises(DatasetError, match=r"if Octave wrote it, save double\(labels\) there"):
        mat.numbers(tmp_path / "x.mat", "labels")


# Version 7.3


def put(file: Any, name: str, value: NDArray[Any], kind: str = "double") -> Any:
    stored = file.create_dataset(name, data=np.ascontiguousarray(value.T))
    stored.attrs["MATLAB_class"] = np.bytes_(kind)
    return stored


def put_sparse(file: Any, name: str, value: NDArray[Any], kind: str = "double") -> Any:
    matrix, group = csc_matrix(value), file.create_group(name)
    group.attrs["MATLAB_class"], group.attrs["MATLAB_sparse"] = np.bytes_(kind), np.uint64(value.shape[0])
    group["jc"] = matrix.indptr.astype("u8")
    if matrix.nnz:
        group["ir"] = matrix.indices.astype("u8")
        group["data"] = matrix.data.astype("u1" if kind == "logical" else "f8")
    return group


def put_empty(file: Any, name: str, shape: tuple[int, ...], kind: str) -> Any:
    stored = put(file, name, np.array(shape, np.uint64), kind)
    stored.attrs["MATLAB_empty"] = np.uint8(1)
    return stored


def put_cells(file: Any, name: str, cells: list[list[Any]]) -> None:
    """Texts, numbers or None for [] behind references."""
    table = np.empty((len(cells[0]), len(cells)), h5py.ref_dtype)
    for row, some in enumerate(cells):
        for column, cell in enumerate(some):
            at = f"#refs#/{name}{row}_{column}"
            if cell is None or cell == "":
                inner = put_empty(file, at, (0, 0), "double" if cell is None else "char")
            elif isinstance(cell, str):
                inner = put(file, at, np.array([[ord(letter) for letter in cell]], np.uint16), "char")
            elif isinstance(cell, dict):
                inner = file.create_group(at)
            else:
                inner = put(file, at, np.array([[cell]], float))
            table[column, row] = inner.ref
    file.create_dataset(name, data=table, dtype=h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_("cell")


@pytest.mark.parametrize("kind", ["double", "logical"])
def test_sparse_matrices_of_newer_files(kind: str, tmp_path: Path) -> None:
    some = values()
    with h5py.File(tmp_path / "data.mat", "w", userblock_size=512) as file:
        put(file, "image", some["image"])
        for name in ("text", "labels"):
            put_sparse(file, name, some[name], kind)
    assert mat.variables(tmp_path / "data.mat")["text"] == ((12, 6), "sparse")
    source = datasets.read(str(dataset(tmp_path)))
    assert np.array_equal(source.text()[np.arange(12)], some["text"])
    assert np.array_equal(source.labels, some["labels"])


def test_sparse_matrices_with_nothing_stored_and_with_empty_ends(tmp_path: Path) -> None:
    few = np.zeros((7, 5))
    few[2, 1] = 3
    with h5py.File(tmp_path / "x.mat", "w") as file:
        put_sparse(file, "nothing", np.zeros((4, 3)))
        put_sparse(file, "few", few)
    nothing, some = arrays.numbers(tmp_path / "x.mat", "nothing"), arrays.numbers(tmp_path / "x.mat", "few")
    assert np.array_equal(nothing.whole(), np.zeros((4, 3)))
    assert np.array_equal(some.whole(), few)


@pytest.mark.parametrize("fault", ["rows", "starts", "no starts", "link", "outside", "complex"])
def test_sparse_matrices_that_cannot_be(fault: str, tmp_path: Path) -> None:
    path, said = tmp_path / "x.mat", "cannot be read as a MATLAB 7.3 file"
    with h5py.File(path, "w") as file:
        group = put_sparse(file, "tags", np.eye(4))
        if fault == "rows":
            group["ir"][...] = 9
        elif fault == "starts":
            group["jc"][...] = [0, 3, 1, 2, 4]
        elif fault == "complex":
            del group["data"]
            group["data"] = np.ones(4, complex)
            said = "must hold real numbers"
        else:
            said = "of class double in a group"
            del group["jc"]
            if fault == "link":
                group["jc"] = h5py.ExternalLink("/etc/passwd", "/x")
            elif fault == "outside":
                group.create_dataset("jc", (5,), "u8", external=[(str(tmp_path / "other"), 0, 40)])
    with pytest.raises(DatasetError, match=said):
        mat.numbers(path, "tags")


def test_what_is_asked_for_is_what_the_message_says(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.mat", "w") as file:
        put(file, "split", np.ones((6, 1), np.uint32), "string")
        put_empty(file, "nothing", (60, 0), "double")
        put_empty(file, "no_texts", (0, 0), "cell")
    path = tmp_path / "x.mat"
    with pytest.raises(DatasetError, match=r"split is of class string, but must hold texts.*cellstr\(split\)"):
        arrays.texts(path, "split")
    assert mat.variables(path)["nothing"][0] == (60, 0)
    assert arrays.numbers(path, "nothing").shape == (60, 0)
    assert mat.texts(path, "no_texts") == []


@pytest.mark.parametrize("version", ["7", "7.3"])
def test_texts_are_alike_in_all_versions(version: str, tmp_path: Path) -> None:
    """Padding by NULs or blanks goes; [] and '' in a cell are empty texts; other things in it are refused."""
    path = tmp_path / "x.mat"
    padded = ["query\0\0\0\0\0", "validation", "train \0\0\0\0"]
    codes = np.array([[ord(letter) for letter in row] for row in padded], np.uint16)
    cells: list[list[Any]] = [["a", "b "], [None, ""], ["c\0", "d"]]
    if version == "7":
        old = np.array([[np.zeros((0, 0)) if cell is None else cell for cell in row] for row in cells], object)
        wrong = np.array([["a"], [3.0]], object)
        savemat(path, {"letters": np.array(padded), "cells": old, "wrong": wrong})
    else:
        with h5py.File(path, "w") as file:
            put(file, "letters", codes, "char")
            put_cells(file, "cells", cells)
            put_cells(file, "wrong", [["a"], [3.0]])
            put_cells(file, "struct", [["a"], [{"x": 1}]])
        with pytest.raises(DatasetError, match="cells that are no texts"):
            mat.texts(path, "struct")
    assert mat.texts(path, "letters") == [("query",), ("validation",), ("train",)]
    assert mat.texts(path, "cells") == [("a", "b"), ("", ""), ("c", "d")]
    with pytest.raises(DatasetError, match="cells that are no texts"):
        mat.texts(path, "wrong")


# Which way round


def test_arrays_the_other_way_round_are_asked_about(tmp_path: Path) -> None:
    some = values()
    savemat(tmp_path / "data.mat", {key: value.T for key, value in some.items()})
    with pytest.raises(DatasetError) as error:
        datasets.read(str(dataset(tmp_path)))
    (line,) = error.value.problems
    assert "image 5, text 6, labels 3; image is 5 × 12, text is 6 × 12, labels is 3 × 12: transposed?" in line
    savemat(tmp_path / "data.mat", {**some, "image": some["image"].T})
    with pytest.raises(DatasetError, match="image 5, text 12, labels 12; image is 5 × 12: transposed"):
        datasets.read(str(tmp_path))
    savemat(tmp_path / "data.mat", {**some, "image": some["image"][:7]})
    with pytest.raises(DatasetError, match=r"image 7, text 12, labels 12; a row of each must be the same item$"):
        datasets.read(str(tmp_path))
    with h5py.File(tmp_path / "data.mat", "w") as file:  # rows first, as h5py writes what it is given
        for key, value in some.items():
            file[key] = value
    with pytest.raises(DatasetError, match=r"transposed .MATLAB would have written it column by column; NumPy did not"):
        datasets.read(str(tmp_path))


def test_a_square_array_of_unknown_layout_is_said(tmp_path: Path) -> None:
    some = {**values(), "image": np.random.default_rng(1).random((12, 12))}
    for marked in (True, False):
        with h5py.File(tmp_path / "data.mat", "w") as file:
            for key, value in some.items():
                stored = put(file, key, value)
                if not marked:
                    del stored.attrs["MATLAB_class"]
        source = datasets.read(str(dataset(tmp_path)))
        assert source.image is not None
        assert np.allclose(source.image()[np.arange(12)], some["image"], atol=1e-6)
        assert [("data.mat: image is square" in note) for note in source.notes] == [] if marked else [True]


@pytest.mark.parametrize("compressed", [False, True])
def test_elements_that_scipy_would_follow_anywhere_are_refused(compressed: bool, tmp_path: Path) -> None:
    """Where bytes of a header are damaged SciPy reads beyond the file, and the process ends; sound forms pass."""
    cells = np.array([["a", ""], ["", "b"]], object)
    sound = {
        **{"plain": np.eye(3), "cube": np.zeros((2, 3, 5), np.int16), "empty": np.zeros((0, 3)), "cells": cells},
        **{"sparse": csc_matrix(np.eye(4)), "letters": np.array(["abc", "de"]), "logical": np.eye(3) > 0},
        **{"complex": np.eye(2) * 1j, "one": 3.0, "nothing": np.zeros((0, 0))},
    }
    path = tmp_path / "x.mat"
    savemat(path, sound, do_compression=compressed)
    for name in sound:
        mat5.check(path, name)
    if compressed:
        return
    raw, n_refused = path.read_bytes(), 0
    for name in ("plain", "sparse", "cells"):
        start = raw.index(name.encode().ljust(8, b"\0")) - 40  # its flags: a tag, and eight bytes
        for place, value in ((start + 9, 8), (start + 4, 9), (start + 48, 99), (start + 53, 255)):
            path.write_bytes(raw[:place] + bytes([value]) + raw[place + 1 :])
            with contextlib.suppress(ValueError, struct.error):
                mat5.check(path, name)
                continue
            n_refused += 1
    assert n_refused >= 9
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="name no other"):
        mat5.check(path, "other")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(128, 10_000), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_a_check_of_damaged_elements_ends(changes: list[tuple[int, int]], compressed: bool) -> None:
    buffer = io.BytesIO()
    cells = np.array(["a", "", "bc"], object)
    savemat(buffer, {"x": np.eye(3), "s": csc_matrix(np.eye(3)), "c": cells}, do_compression=compressed)
    raw = bytearray(buffer.getvalue())
    for place, value in changes:
        raw[128 + place % (len(raw) - 128)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.mat")
        path.write_bytes(raw)
        for name in "xsc":
            with contextlib.suppress(ValueError, OSError, struct.error, zlib.error):
                mat5.check(path, name)

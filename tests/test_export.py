"""Codes for search engines, each asked for real."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cmh.export
from cmh import codes, encoded, engines, scan
from cmh.engines import ENGINES, arrays, databases, forms
from cmh.errors import CmhError, ExportError, RecordError
from cmh.export import export
from tests import servers

Packed = NDArray[np.uint8]
IN_FOLDERS = [name for name, engine in ENGINES.items() if not engine.tables]


def signs(n: int, bits: int, seed: int = 0) -> NDArray[np.int8]:
    """±1, each code several times."""
    rng = np.random.default_rng([n, bits, seed])
    return rng.choice(np.array([-1, 1], np.int8), (max(n // 4, 1), bits))[rng.integers(max(n // 4, 1), size=n)]


def encoded_file(path: Path, n_bits: int = 12, n_images: int = 130, n_texts: int = 70, **changes: Any) -> Path:
    """As `cmh.encode` writes it."""
    given = {
        "images": codes.pack(signs(n_images, n_bits)),
        "texts": codes.pack(signs(n_texts, n_bits, 1)),
        "bits": np.int64(n_bits),
        "image_paths": np.array([f"a/{j}.jpg" for j in range(n_images)], np.str_),
        "text_lines": np.array([f"ein Bär, {j}" for j in range(n_texts)], np.str_),
        "encoder": np.array("0123abcd"),
        **changes,
    }
    np.savez(path, **{name: array for name, array in given.items() if array is not None})
    return path


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real PostgreSQL with pgvector."""
    with servers.running(servers.with_pgvector()) as url:
        yield url


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if missing := ENGINES[name].missing():
        pytest.skip(f"{', '.join(missing)} is not installed: pip install cmh[{ENGINES[name].extra}]")
    return name


@pytest.mark.parametrize("engine", IN_FOLDERS, indirect=True)
@pytest.mark.parametrize("bits", [1, 12, 64, 100])
def test_every_engine_answers_as_the_scan(engine: str, bits: int, tmp_path: Path) -> None:
    about = export(encoded_file(tmp_path / "codes.npz", bits), engine, tmp_path / "new")
    beside = json.loads((tmp_path / "new" / "codes.json").read_text())
    assert beside == about
    assert (beside["engine"], beside["bits"], beside["encoder"]) == (engine, bits, "0123abcd")
    assert beside["form"] in forms.FORMS
    assert {name: one["items"] for name, one in beside["sets"].items()} == {"images": 130, "texts": 70}
    assert beside["verified"] == {"queries_a_set": 10, "nearest": 50}
    assert {path.suffix for path in (tmp_path / "new").iterdir()} - {".json"}


def test_matlab_variables_are_torchcmhs(tmp_path: Path) -> None:
    from scipy.io import loadmat

    export(encoded_file(tmp_path / "codes.npz", 12), "mat", tmp_path / "new")
    found = loadmat(tmp_path / "new" / "codes.mat")
    for name, wanted in (("img", signs(130, 12)), ("txt", signs(70, 12, 1))):
        for role in "qr":
            np.testing.assert_array_equal(found[f"{role}_{name}"], wanted)


def test_a_confirmed_runs_codes_have_queries_and_database(tmp_path: Path) -> None:
    from scipy.io import loadmat

    labels = np.ones((30, 2), np.uint8)
    given = {name: codes.pack(np.stack([signs(30, 9, j), signs(30, 9, 9)])) for j, name in enumerate(codes.CODES)}
    run = codes.Codes(**given, query_labels=labels, database_labels=labels, bits=9, chosen_epoch=1)
    codes.write(tmp_path / "codes.npz", run)
    about = export(tmp_path / "codes.npz", "mat", tmp_path / "new")
    found = loadmat(tmp_path / "new" / "codes.mat")
    for j, variable in enumerate(("q_img", "q_txt", "r_img", "r_txt")):
        np.testing.assert_array_equal(found[variable], signs(30, 9, j))
    assert list(about["sets"]) == list(codes.CODES)


@pytest.mark.skipif(bool(ENGINES["sqlite-vec"].missing()), reason="sqlite-vec or apsw is not installed")
def test_a_table_has_what_the_items_are(tmp_path: Path) -> None:
    lines = np.array(["", "a\ud800b", "n\0l", *"defg"])
    export(encoded_file(tmp_path / "codes.npz", 12, n_texts=7, text_lines=lines), "sqlite-vec", tmp_path / "new")
    with databases._sqlite(tmp_path / "new") as base:
        assert base.execute("select name from images where item = 3").fetchall() == [("a/3.jpg",)]
        found = base.execute("select name from texts order by item").fetchall()
    assert [row[0] for row in found] == ["", "a\\ud800b", "n\\x00l", *"defg"]


def test_pgvector(server: str, tmp_path: Path) -> None:
    import psycopg

    path = encoded_file(tmp_path / "codes.npz", 12)
    about = export(path, "pgvector", server)
    with psycopg.connect(server) as connection:
        assert connection.execute("SELECT code, name FROM cmh_texts WHERE item = 3").fetchall() == [
            ("".join("01"[bit] for bit in (signs(70, 12, 1)[3] > 0).tolist()), "ein Bär, 3")
        ]
        assert json.loads(databases.commented(connection, "cmh_images")) == about
        assert about["engine_version"] == databases.version(connection)
    with pytest.raises(ExportError, match='relation "cmh_images" already exists'):
        export(path, "pgvector", server)


def test_pgvector_leaves_nothing_where_answers_differ(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    path = encoded_file(tmp_path / "codes.npz", n_images=0, images=np.empty((0, 2), np.uint8))
    with psycopg.connect(server) as connection:
        connection.execute("DROP TABLE IF EXISTS cmh_images, cmh_texts")
    monkeypatch.setattr(forms, "FORMS", {**forms.FORMS, forms.TEXT: lambda flags: ["0" * 12] * len(flags)})
    with pytest.raises(ExportError, match=r"answers otherwise; nothing was kept.*\n.*texts: .* of 10 queries"):
        export(path, "pgvector", server)
    with psycopg.connect(server) as connection:
        assert connection.execute("SELECT to_regclass('cmh_texts')").fetchone() == (None,)


def test_a_server_without_pgvector_or_with_an_old_one(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    path = encoded_file(tmp_path / "codes.npz")
    monkeypatch.setattr(databases, "OLDEST", (99, 0))
    with pytest.raises(ExportError, match=r"pgvector [\d.]+ has no Hamming distance; the server needs"):
        export(path, "pgvector", server)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE ROLE other LOGIN")  # who may not install extensions, nor make tables
        connection.execute("DROP EXTENSION IF EXISTS vector CASCADE")
    with pytest.raises(ExportError, match="permission denied"):
        export(path, "pgvector", server.replace("cmh:secret", "other"))


@pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="no driver: pip install cmh[pgvector]")
def test_addresses_of_no_server(tmp_path: Path) -> None:
    path = encoded_file(tmp_path / "codes.npz")
    with pytest.raises(ExportError, match=r"new: must be postgresql://user@host/base"):
        export(path, "pgvector", "new")
    with pytest.raises(ExportError, match="connection failed") as caught:
        export(path, "pgvector", "postgresql://me:secret@127.0.0.1:1/base")
    assert "secret" not in str(caught.value)


BROKEN: dict[str, Callable[[Any], Any]] = {
    "far": lambda answer: ([[d + 1 for d in row] for row in answer[0]], answer[1]),
    "other items": lambda answer: (answer[0], [[(j + 1) % 130 for j in row] for row in answer[1]]),
    "one item": lambda answer: (answer[0], [[0] * len(row) for row in answer[1]]),
    "few": lambda answer: ([row[:-1] for row in answer[0]], [row[:-1] for row in answer[1]]),
    "none": lambda answer: ([[] for _ in answer[0]], [[] for _ in answer[1]]),
    "item -1": lambda answer: (answer[0], [[-1, *row[1:]] for row in answer[1]]),
    "item n": lambda answer: (answer[0], [[130, *row[1:]] for row in answer[1]]),
    "farthest": lambda answer: ([row[::-1] for row in answer[0]], [row[::-1] for row in answer[1]]),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_an_engine_that_answers_otherwise(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = ENGINES["npy"]

    def ask(*arguments: Any) -> forms.Answer:
        answer: forms.Answer = BROKEN[broken](true.ask(*arguments))
        return answer

    monkeypatch.setitem(ENGINES, "npy", dataclasses.replace(true, ask=ask))
    with pytest.raises(ExportError, match="answers otherwise; nothing was kept") as caught:
        export(encoded_file(tmp_path / "codes.npz", 12), "npy", tmp_path / "new")
    assert "images: " in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["codes.npz"]


def test_another_order_of_ties_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(folder: Path, name: str, queries: Packed, bits: int, k: int) -> forms.Answer:
        database = np.load(folder / f"{name}.npy")
        distances, items = scan.nearest(queries, np.ascontiguousarray(database[::-1]), bits, k)
        return distances.tolist(), (len(database) - 1 - items).tolist()

    monkeypatch.setitem(ENGINES, "npy", dataclasses.replace(ENGINES["npy"], ask=backwards))
    export(encoded_file(tmp_path / "codes.npz", 12), "npy", tmp_path / "new")


@pytest.mark.parametrize("engine", IN_FOLDERS, indirect=True)
def test_bits_in_another_order_than_is_said(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer and its description that disagree: queries are packed as the description says."""
    true = ENGINES[engine]

    def write(place: Path, encoded: encoded.Encoded) -> None:
        turned = {name: codes.pack(np.where(forms.flags(p, 12), 1, -1)[:, ::-1]) for name, p in encoded.sets.items()}
        true.write(place, dataclasses.replace(encoded, sets=turned))

    monkeypatch.setitem(ENGINES, engine, dataclasses.replace(true, write=write))
    with pytest.raises(ExportError, match="answers otherwise"):
        export(encoded_file(tmp_path / "codes.npz", 12), engine, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("engine", ["faiss", "usearch", "sqlite-vec", "pgvector"])
def test_an_engine_that_is_not_installed(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, engine, dataclasses.replace(ENGINES[engine], modules=("no_such_module",)))
    with pytest.raises(ExportError, match=rf"needs no_such_module, .*pip install 'cmh\[{engine}\]'"):
        export(encoded_file(tmp_path / "codes.npz"), engine, tmp_path / "new")


def test_places_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encoded_file(tmp_path / "codes.npz")
    with pytest.raises(ExportError, match=r"--to milvus is no engine .* faiss, usearch"):
        export(path, "milvus", tmp_path / "new")
    with pytest.raises(ExportError, match="exists already"):
        export(path, "npy", tmp_path)
    with pytest.raises(ExportError, match="cannot be written"):
        export(path, "npy", path / "new")
    monkeypatch.setattr(arrays, "MATLAB_BYTES", 12 * 100)
    with pytest.raises(ExportError, match=r"images: at 12 bytes an item .* export npy"):
        export(path, "mat", tmp_path / "new")


@pytest.mark.skipif(bool(ENGINES["sqlite-vec"].missing()), reason="sqlite-vec or apsw is not installed")
def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import apsw

    class Small(apsw.Connection):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.execute("pragma max_page_count = 3")

    monkeypatch.setattr(apsw, "Connection", Small)
    with pytest.raises(ExportError, match=r"sqlite-vec: .*full"):
        export(encoded_file(tmp_path / "codes.npz"), "sqlite-vec", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None, "encoder": None}, ["without images, encoder", "it holds bits, image_paths"]),
        ({"bits": np.int64(20)}, ["images have 2 bytes an item, but 20 bits are 3", "texts have 2"]),
        ({"bits": np.int64(9)}, ["images have bits set beyond bit 9"]),
        ({"bits": np.float64(12)}, ["bits is 12.0"]),
        ({"bits": np.array([12, 12])}, ["bits is None"]),
        ({"encoder": np.int64(3)}, ["encoder is array(3)"]),
        ({"images": signs(130, 12)}, ["images are int8 (130, 12)", "cmh.codes.pack"]),
        ({"image_paths": np.array(["a"])}, ["image_paths are <U1 (1,), but must be texts, as many as images: (130,)"]),
        ({"image_paths": np.arange(130), "bits": np.int64(0)}, ["image_paths are int64", "bits is 0"]),
        (
            {
                **{name: np.empty((0, 2), np.uint8) for name in ("images", "texts")},
                **{name: np.array([], np.str_) for name in ("image_paths", "text_lines")},
            },
            ["both empty"],
        ),
    ],
)
def test_files_that_are_no_codes(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(RecordError) as caught:
        encoded.read(encoded_file(tmp_path / "codes.npz", **changes))
    assert [word for word in [*words, "codes.npz is no file of codes"] if word not in str(caught.value)] == []


def huge(path: Path) -> None:
    """A header that names 10^15 codes, in a sound archive."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**15, 2)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.npy", header.getvalue() + b"\0" * 99)


def pickled(path: Path) -> None:
    np.savez(path, allow_pickle=True, images=np.array([{"a": 1}], dtype=object))


def compressed(path: Path) -> None:
    np.savez_compressed(path, **np.load(path))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3000])


def turned(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("change", [huge, pickled, compressed, cut, turned, lambda path: path.write_bytes(b"no zip")])
def test_files_that_cannot_be_trusted(change: Callable[[Path], object], tmp_path: Path) -> None:
    path = encoded_file(tmp_path / "codes.npz")
    encoded.read(path)
    change(path)
    with pytest.raises(RecordError, match=r"codes\.npz is no file of codes.*\n.*cannot be read as numpy\.savez writes"):
        encoded.read(path)


def test_files_cut_anywhere(tmp_path: Path) -> None:
    whole = encoded_file(tmp_path / "codes.npz", n_images=3, n_texts=3).read_bytes()
    path = tmp_path / "cut.npz"
    for length in range(0, whole.index(b"PK\1\2"), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError):
            encoded.read(path)


def test_a_runs_codes_that_are_too_long(tmp_path: Path) -> None:
    given = {name: codes.pack(signs(3, 4097)) for name in codes.CODES}
    ones = np.ones((3, 1), np.uint8)
    codes.write(tmp_path / "codes.npz", codes.Codes(**given, query_labels=ones, database_labels=ones, bits=4097))
    with pytest.raises(RecordError, match=r"cannot be searched.*\n.*at most 4096"):
        encoded.read(tmp_path / "codes.npz")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = encoded_file(tmp_path / "codes.npz", n_texts=1)
    assert cmh.export.main([str(path), "--to", "npy", "--out", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out
    assert "images: 130 codes of 12 bits; ask: cmh.scan.nearest(queries, numpy.load('images.npy'), 12, k)" in said
    assert "answered 10 queries of each as an exact scan does" in said
    assert cmh.export.main([str(tmp_path / "none.npz"), "--to", "npy", "--out", str(tmp_path / "other")]) == 2
    assert "none.npz: cannot be read (No such file or directory)" in capsys.readouterr().err
    with pytest.raises(CmhError):
        export(tmp_path, "npy", tmp_path / "other")


def test_what_is_beside_can_be_used(tmp_path: Path) -> None:
    """The line of `ask`, as it stands."""
    about = export(encoded_file(tmp_path / "codes.npz", 12), "npy", tmp_path / "new")
    names = {"cmh": cmh, "queries": codes.pack(signs(130, 12)[:2]), "k": 3, "numpy": np}
    line = about["sets"]["images"]["ask"].replace("'images", f"'{tmp_path / 'new' / 'images'}")
    assert eval(line, names)[0][:, 0].tolist() == [0, 0]  # noqa: S307
    assert engines.described(ENGINES["npy"], tmp_path / "new", "images") == about

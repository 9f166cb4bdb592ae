"""`cmh.encode` and `cmh.search`: what they write, find, draw, skip and refuse."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cmh
from cmh import datasets, encode, search
from cmh.errors import CheckpointError, DatasetError, EncoderError
from cmh.use import collection, description, encoder, sheet, streaming
from cmh.use.encoder import Encoder
from tests.test_encoder import BITS, database, recorded


@pytest.fixture(scope="module")
def model(run: Path) -> Encoder:
    return cmh.load(run)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eleven pictures in two folders, one file that is none, and one that is not looked at."""
    place, draw = tmp_path / "photos", np.random.default_rng(0)
    (place / "deep").mkdir(parents=True)
    for row in range(11):
        pixels = draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / ("deep" if row % 2 else "") / f"{row:02}.png")
    (place / "bad.JPG").write_text("none")
    (place / "notes.txt").write_text("none")
    return place


def said(capsys: pytest.CaptureFixture[str], main: Any, *arguments: Any) -> tuple[int, str, str]:
    code = main(list(map(str, arguments)))
    found = capsys.readouterr()
    return code, found.out, found.err


# cmh.encode


def test_a_folder_and_texts_in_one_file(
    run: Path, model: Encoder, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "AT_ONCE", 4)
    texts, out = photos / "notes.txt", photos.parent / "codes.npz"
    texts.write_text("red guitar\nxyzzy\n\n a flower \n")
    options = (run, "--images", photos, "--texts", texts, "--out", out)
    code, _, err = said(capsys, encode.main, *options)
    assert code == 2
    assert not out.exists()
    assert "3 of 16 cannot be encoded" in err
    assert f"1 picture ({photos}/bad.JPG): no picture in one of the formats" in err
    assert "2 texts without a word that this model knows: line 2 'xyzzy' (xyzzy (not in the vocabulary))" in err
    # what was encoded stays: nothing is encoded again
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode_images", None)
        patch.setattr(Encoder, "encode_texts", None)
        code, out_text, _ = said(capsys, encode.main, *options, "--skip-bad")
    assert code == 0
    assert "11 pictures and 2 texts as codes of 12 bits" in out_text
    assert "left out: 2 texts" in out_text
    with np.load(out, allow_pickle=False) as found:
        assert sorted(found.files) == ["bits", "encoder", "image_paths", "images", "text_lines", "texts"]
        paths = [out.parent / name for name in found["image_paths"].tolist()]
        assert paths == sorted(photos.rglob("*.png"))
        assert np.array_equal(found["images"], model.encode_images(paths, packed=True))
        assert found["images"].dtype == np.uint8
        assert found["text_lines"].tolist() == ["red guitar", "a flower"]
        assert np.array_equal(found["texts"], model.encode_texts(["red guitar", "a flower"], packed=True))
        assert found["bits"] == BITS
        assert str(found["encoder"]) == model.digest
    assert [path.name for path in out.parent.iterdir() if "begun" in path.name] == []


def test_a_kill_costs_one_block_and_changed_pictures_all(
    model: Encoder, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "AT_ONCE", 4)
    out, seen, whole = photos.parent / "codes.npz", list[int](), Encoder.encode_images

    def counted(self: Encoder, pictures: Any, *, packed: bool = False) -> Any:
        seen.append(len(pictures))
        if sum(seen) > 8:
            raise KeyboardInterrupt
        return whole(self, pictures, packed=packed)

    @contextlib.contextmanager
    def bar(n: int, done: int) -> Iterator[Any]:
        starts.append((n, done))
        yield type("Bar", (), {"update": lambda *_: None})()

    starts: list[tuple[int, int]] = []
    wanted = streaming.Wanted(sorted(photos.rglob("*.png")), [])
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode_images", counted)
        with pytest.raises(KeyboardInterrupt):
            streaming.write(model, wanted, out, bar=bar)
    assert not out.exists()
    written = streaming.write(model, wanted, out, bar=bar)
    assert starts == [(11, 0), (11, 8)]
    assert (written.n_images, written.n_texts, written.left_out) == (11, 0, [])
    with np.load(out, allow_pickle=False) as found:
        assert np.array_equal(found["images"], model.encode_images(wanted.images, packed=True))
        assert found["texts"].shape == (0, 2)
    begun = wanted.digest()
    Image.new("RGB", (3, 3)).save(wanted.images[3])
    assert wanted.digest() != begun
    assert (
        streaming.Wanted([photos / "gone.png"], ["a"]).digest()
        != streaming.Wanted([photos / "gone.png"], ["b"]).digest()
    )


def test_lists_of_pictures_and_texts(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = photos / "list.txt"
    listed.write_text("00.png\n\ndeep/01.png\n", encoding="utf-8-sig")
    assert streaming.pictures_in(listed) == [photos / "00.png", photos / "deep" / "01.png"]
    (photos / "none.txt").write_text("\n")
    (photos / "empty").mkdir()
    (photos / "latin.txt").write_bytes(b"caf\xe9")
    (photos / "gone.png").symlink_to("nowhere.png")
    (photos / "folder.png").symlink_to("deep")
    assert photos / "gone.png" in streaming.pictures_in(photos)
    assert photos / "folder.png" not in streaming.pictures_in(photos)
    (photos / "nothing.txt").write_text("")
    with pytest.raises(EncoderError, match=r"--texts .*nothing\.txt: is empty"):
        streaming.texts_in(photos / "nothing.txt")
    code, _, err = said(capsys, encode.main, run, "--texts", photos / "nothing.txt", "--out", photos / "new" / "x.npz")
    assert (code, "nothing.txt: is empty" in err) == (2, True)
    for path, problem in (
        (photos / "none.txt", "lists no picture"),
        (photos / "empty", "has no picture"),
        (photos / "gone", "cannot be read (No such file or directory)"),
        (photos / "latin.txt", "is not UTF-8"),
    ):
        with pytest.raises(EncoderError) as caught:
            streaming.pictures_in(path)
        assert problem in str(caught.value)
    (photos / "long.txt").write_text("red " * 3000)
    code, _, err = said(capsys, encode.main, run, "--texts", photos / "long.txt", "--out", photos / "new" / "x.npz")
    assert code == 2
    assert "more than 10,000 characters" in err
    (photos / "file").write_text("")
    code, _, err = said(capsys, encode.main, run, "--images", listed, "--out", photos / "file" / "x.npz")
    assert code == 2
    assert "x.npz: cannot be written" in err
    with pytest.raises(SystemExit):
        encode.main([str(run), "--out", "x.npz"])
    assert "nothing to encode" in capsys.readouterr().err


def test_what_is_wrong_with_no_picture_is_not_hidden(
    model: Encoder, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise DatasetError("the weights are gone")

    monkeypatch.setattr(Encoder, "encode_images", broken)
    with pytest.raises(DatasetError, match="the weights are gone"):
        streaming._images(model, [photos / "00.png"])


def test_codes_go_to_an_engine_at_once(
    run: Path, model: Encoder, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = photos.parent / "codes.npz"
    options = (run, "--images", photos, "--out", out, "--skip-bad", "--to", "npy")
    code, said_out, _ = said(capsys, encode.main, *options)
    assert code == 0
    assert "images: 11 codes of 12 bits; ask: cmh.scan.nearest(" in said_out
    beside = out.with_name("codes-npy")
    assert np.array_equal(
        np.load(beside / "images.npy"), model.encode_images(sorted(photos.rglob("*.png")), packed=True)
    )
    assert json.loads((beside / "codes.json").read_text())["encoder"] == model.digest
    # what cannot be is said before anything is encoded
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode_images", None)
        for more, problem in (
            ((), f"{beside}: exists already"),
            (("--to", "pgvector", "--at", "new"), "new: must be postgresql://user@host/base"),
        ):
            code, _, err = said(capsys, encode.main, *options, *more)
            assert code == 2
            assert problem in err
    for more, problem in (
        (("--to", "pgvector"), "--to pgvector needs --at postgresql://user@host/base"),
        (("--to", "pigs"), "invalid choice: 'pigs'"),
    ):
        with pytest.raises(SystemExit):
            encode.main([*map(str, options), *more])
        assert problem in capsys.readouterr().err
    with pytest.raises(SystemExit):
        encode.main([*map(str, options[:-2]), "--at", "new"])
    assert "it needs --to ENGINE" in capsys.readouterr().err


# cmh.search


def by_hand(query: np.ndarray[Any, Any], items: np.ndarray[Any, Any], k: int) -> list[tuple[int, int]]:
    """(distance, place) of the nearest, one bit at a time."""
    distances = [sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(query, item, strict=True)) for item in items]
    return sorted((distance, place) for place, distance in enumerate(distances))[:k]


def table(out: str) -> list[tuple[int, str]]:
    """(distance, what) of each line of a table."""
    lines = [line.split(None, 2) for line in out.splitlines() if line[:4].strip().isdigit()]
    return [(int(distance), what) for _, distance, what in lines]


@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_the_clip_art_is_searched_by_default(
    kind: str, run: Path, model: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, rows = database()
    items = recorded(run, model.seed)
    code, out, _ = said(
        capsys, search.main, run, "red guitar maps", "--top", 7, "--find", kind, "--sheet", tmp_path / "s.png"
    )
    assert code == 0
    assert "red guitar maps (used: red, guitar; not used: maps (names a label" in out
    query = model.encode_texts(["red guitar maps"], packed=True)[0]
    titles = source.captions() if source.captions is not None else []
    wanted = by_hand(query, items.database_image if kind == "pictures" else items.database_text, 7)
    assert table(out) == [(distance, f"clipart {rows[place]} · {titles[rows[place]]}") for distance, place in wanted]
    with Image.open(tmp_path / "s.png") as drawn:
        assert drawn.width > 7 * 96
        assert len(drawn.convert("RGB").getcolors(1 << 20) or []) > 50


def test_a_picture_finds_itself(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, rows = database()
    row = int(rows[:40].min())
    (tmp_path / "query.png").write_bytes(next(raw for number, raw in enumerate(source.pictures()) if number == row))
    code, out, _ = said(capsys, search.main, run, "--image", tmp_path / "query.png", "--top", 4000)
    found = table(out)
    assert code == 0
    assert len(found) == len(rows)
    assert any(distance == 0 and what.startswith(f"clipart {row} ") for distance, what in found)


def test_own_codes_are_searched_with_their_names(
    run: Path, model: Encoder, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = photos / "<script>alert(1)<.png"
    shutil.copy(photos / "00.png", evil)
    (tmp_path / "texts.txt").write_text("red guitar\na <b>flower</b> & more\n")
    file, page = tmp_path / "codes.npz", tmp_path / "new" / "s.html"
    said(capsys, encode.main, run, "--images", photos, "--texts", tmp_path / "texts.txt", "--out", file, "--skip-bad")
    (photos / "02.png").unlink()
    options = ("--in", file, "--top", 20)
    code, out, _ = said(capsys, search.main, run, *options, "red <guitar>", "--sheet", page)
    assert code == 0
    assert len(table(out)) == 12
    text = page.read_text()
    assert "<script" not in text
    assert html.escape("red <guitar>") in text
    assert text.count("data:image/png;base64,") == 11  # one is gone
    links: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(str(value) for name, value in attrs if name in ("src", "href"))

    Links().feed(text)
    assert all(link.startswith("data:") for link in links)
    code, out, _ = said(capsys, search.main, run, "--image", evil, *options, "--find", "texts")
    assert [what for _, what in table(out)]
    assert "a <b>flower</b> & more" in out
    # codes of another model say nothing here
    code, _, err = said(capsys, search.main, run, "red", "--seed", 3 - model.seed, "--in", file)
    assert code == 2
    assert "encode them with the same model" in err
    said(capsys, encode.main, run, "--images", photos, "--out", file, "--skip-bad")
    code, _, err = said(capsys, search.main, run, "red", *options, "--find", "texts")
    assert code == 2
    assert f"--find texts: {file} holds no texts" in err


def test_a_search_for_nothing_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, search.main, run, "map")
    assert code == 2
    assert "'map': map (names a label: such words were left out of training)" in err
    code, _, err = said(capsys, search.main, run, "red", "--sheet", "s.pdf")
    assert code == 2
    assert "--sheet s.pdf: must end in .png or .html" in err
    with pytest.raises(SystemExit):
        search.main([str(run)])
    assert "nothing to search for" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    with pytest.raises(EncoderError, match="cannot be written"):
        sheet.write(tmp_path / "file" / "s.png", [], "")


def test_a_name_breaks_no_line_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    search._show(sheet.Answer("red\x1b[2J", "of\n", [sheet.Found(1, "a\nb\x1b[31m.jpg", "", None)]))
    assert capsys.readouterr().out == "red?[2J (of?)\nrank  distance  what\n   1         1  a?b?[31m.jpg\n\n"


def test_what_is_no_picture_is_left_white(tmp_path: Path) -> None:
    found = [sheet.Found(1, "a \udcff", "café \x07 Ω \udcff", b"none"), sheet.Found(2, "b", "b", None)]
    answer = sheet.Answer("query", "", found)
    assert sheet._png([answer]).startswith(b"\x89PNG")
    assert "<img" not in sheet._page([answer], "t")
    sheet.write(tmp_path / "s.html", [answer], "a name that is no UTF-8: \udcff")
    assert "a name that is no UTF-8: ?<" in (tmp_path / "s.html").read_text(encoding="utf-8")
    assert sheet._shown("café \x07 Ω", 20) == "café   ?"


# What is loaded


def test_a_study_and_its_trials(run: Path, model: Encoder, tmp_path: Path) -> None:
    study = tmp_path / "studies" / "dcmh"
    for seed in (1, 2):
        shutil.copytree(run / f"seed-{seed}", study / "confirm" / f"7-{seed}")
    shutil.copytree(run / "seed-1", study / "trials" / "7", ignore=shutil.ignore_patterns("encoder.json"))
    (study / "study.yml").write_text("identity: {}\n")
    with pytest.raises(EncoderError, match=r"has no winner yet: .*NUMBER takes a trial"):
        cmh.load(study)
    (study / "trials.csv").write_text("number,copied_from\n7,\n8,7\n")
    query = ["red guitar"]
    one = cmh.load(run, seed=1).encode_texts(query)
    assert np.array_equal(cmh.load(f"{study}:7").encode_texts(query), one)
    assert np.array_equal(cmh.load(f"{study}:8").encode_texts(query), one)
    with pytest.raises(EncoderError, match="trial 9 cannot be loaded: it has 2 trials"):
        cmh.load(f"{study}:9")
    (study / "trials" / "7" / "checkpoint.pt").unlink()
    with pytest.raises(EncoderError, match=r"trial 7 cannot be loaded: its checkpoint\.pt is not there"):
        cmh.load(f"{study}:7")
    (study / "best.yml").write_text("search: {trial: seven}\n")
    with pytest.raises(EncoderError, match="does not say which trial is the winner"):
        cmh.load(study)
    (study / "best.yml").write_text("search: {trial: 7}\n")
    assert cmh.load(study).seed == model.seed
    for path in study.glob("confirm/*/checkpoint.pt"):
        path.unlink()
    with pytest.raises(EncoderError, match=r"no confirmation of trial 7 has weights .* cmh\.reproduce"):
        cmh.load(study)


def test_what_is_no_model_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="is no folder of a study or run, and no STUDY:TRIAL"):
        cmh.load(tmp_path / "gone")
    with pytest.raises(EncoderError, match=r"it has no best\.yml, run\.yml or config\.json"):
        cmh.load(tmp_path)
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        cmh.lod  # noqa: B018
    place = tmp_path / "seed"
    shutil.copytree(run / "seed-1", place)
    (place / "checkpoint.pt").write_bytes(b"none")
    with pytest.raises(CheckpointError, match="the checkpoint cannot be read"):
        cmh.load(place)
    shutil.copy(run / "seed-2" / "checkpoint.pt", place)
    with pytest.raises(CheckpointError, match="of another run"):
        cmh.load(place)
    (place / "encoder.json").unlink()
    (place / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match="nobody knows what the run was of"):
        cmh.load(place)
    with pytest.raises(EncoderError, match="nobody knows what the run was of"):
        description.describe(place, datasets.load("clipart"), None, validation=0.1, chosen_epoch=1)  # type: ignore[arg-type]


def test_descriptions_are_not_believed(
    run: Path, model: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = json.loads((run / "seed-1" / "encoder.json").read_text())

    def read(**changes: Any) -> description.Description:
        return description.of_json(json.dumps({**good, **changes}).encode(), "it")

    assert read() == description.of_json((run / "seed-1" / "encoder.json").read_bytes(), "it")
    for changes, problem in (
        ({"version": 2}, "is of version 2, but this cmh reads 1: a newer cmh wrote it"),
        ({"version": "1"}, "version is '1', but must be an integer"),
        ({"network": "resnet5"}, "features 'resnet5' is not known"),
        ({"text": {**good["text"], "kind": "runes"}}, "text kind is 'runes', but must be one of words"),
        ({"text_dim": 5}, "words, but text_dim is 5"),
        ({"more": 1}, "unknown 'more'"),
        ({"image_dim": 0}, "image_dim is 0, but must be >= 1"),
    ):
        with pytest.raises(EncoderError) as caught:
            read(**changes)
        assert problem in str(caught.value)
    for raw in (b"", b"[1]", b"{" * 5):
        with pytest.raises(EncoderError):
            description.of_json(raw, "it")
    # pictures would become other features
    about = model.description
    monkeypatch.setattr(encoder.weights, "rebuilt", lambda *_: None)
    (tmp_path / "w.pth").write_bytes(b"other")
    for changes, problem in (
        ({"preparation": 1}, "pictures were prepared by version 1 when this model was trained"),
        ({"weights": "./gone.pth"}, "no such file; the model was trained on its features"),
        ({"weights": "./w.pth"}, "are not those that the features were made with"),
    ):
        with pytest.raises(EncoderError) as caught:
            Encoder(dataclasses.replace(about, **changes), {}, tmp_path)
        assert problem in str(caught.value)


def test_other_versions_are_said(model: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "cmh"):
        encoder._say_versions(dataclasses.replace(model.description, provenance={"pillow": "1.0"}))
    assert "features were made with pillow 1.0" in caplog.text


def test_a_cache_without_the_rule_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description.cache, "document", lambda *_: None)
    with pytest.raises(EncoderError, match="does not say how texts became vectors"):
        description.describe(run / "seed-1", datasets.load("clipart"), None, validation=0.1, chosen_epoch=1)  # type: ignore[arg-type]


def test_pictures_of_files_that_are_gone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    pictures = collection.Pictures([tmp_path / "a", tmp_path / "b"])
    assert pictures.some([0, 1]) == {0: b"a"}
    assert collection.Items(np.zeros((1, 1), np.uint8), ["x/a"], [], pictures).label(0) == "a"


def test_captions_are_words_where_nothing_else_is_known() -> None:
    source = datasets.read("clipart")
    bare = dataclasses.replace(source, captions=None, words=lambda: [["a", "b"]])
    assert collection._captions(bare) == ["a b"]
    assert collection._captions(dataclasses.replace(bare, words=None)) == []

"""Datasets of one's own as other tools leave them: linked, in tables, with captions, class numbers and other words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from cmh import datasets
from cmh.datasets import labelled, loading
from cmh.datasets.own import item_list
from cmh.datasets.own.tables import Form
from cmh.datasets.problems import Problems
from cmh.errors import DatasetError
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


def table(folder: Path, text: str | bytes, *, name: str = "items.csv", **more: Any) -> Path:
    """A dataset whose items are this table."""
    write(folder, items=name, **more)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def cells(between: str = ",", header: str = "image,text,labels", join: str = ";", n: int = 12) -> str:
    """Twelve lines with an image, a text and two labels each."""
    names = header.split(",")
    lines = [between.join(names)]
    for row in range(n):
        value = {
            "image": f"pictures/{row}.png",
            "text": "a boat at sea",
            "labels": f"{LABELS[row % 3]}{join}{LABELS[(row + 1) % 3]}",
        }
        quoted = [value.get(name, f"x{row}") for name in names]
        lines.append(between.join(f'"{cell}"' if between in cell else cell for cell in quoted))
    return "\n".join(lines) + "\n"


def read(folder: Path, **more: Any) -> datasets.Source:
    return datasets.read(str(folder), **more)


# Links, and pictures elsewhere


def moved_out(folder: Path) -> Path:
    """The pictures' folder becomes a link to one beside the dataset's."""
    shutil.move(str(folder / "pictures"), str(folder.parent / "elsewhere"))
    (folder / "pictures").symlink_to(folder.parent / "elsewhere")
    return folder


def test_links_out_of_the_folder_are_followed_where_dataset_yml_says_so(tmp_path: Path) -> None:
    before = read(write(tmp_path / "d"))
    folder = moved_out(tmp_path / "d")
    loading._LAST.clear()  # the files are the same, and this process has read them
    line, nothing = problems_of(folder)
    behind = [
        f"items.jsonl:{row + 1}: image 'pictures/{row}.png': is behind a link that leaves the folder" for row in (0, 1)
    ]
    cures = "images: FOLDER in dataset.yml says where the pictures lie, or links: follow in dataset.yml follows it"
    assert line.startswith(f"12 times picture: {'; '.join(behind)}; … ({cures}")
    assert nothing == "no item is left without a problem"
    with pytest.raises(DatasetError, match="behind a link"):
        read(folder, skip_bad=True)  # nothing is bad about them
    document = yaml.safe_load((folder / "dataset.yml").read_text())
    (folder / "dataset.yml").write_text(yaml.safe_dump({**document, "links": "follow"}))
    after = read(folder)
    assert after.sha256 == before.sha256
    assert list(after.pictures()) == list(before.pictures())
    dataset = datasets.load(str(folder), progress=False)
    assert (dataset.search().train.image[:, 0] == after.split.train * 10).all()
    (folder / "dataset.yml").write_text(yaml.safe_dump({**document, "links": "inside"}))
    assert "behind a link" in problems_of(folder)[0]


def test_one_linked_picture_is_not_left_out_in_silence(tmp_path: Path) -> None:
    folder = write(tmp_path / "d")
    shutil.move(str(folder / "pictures" / "3.png"), str(tmp_path / "3.png"))
    (folder / "pictures" / "3.png").symlink_to(tmp_path / "3.png")
    with pytest.raises(DatasetError, match="is a link that leaves the folder; images: FOLDER"):
        read(folder, skip_bad=True)
    (folder / "dataset.yml").write_text((folder / "dataset.yml").read_text() + "links: follow\n")
    assert read(folder).n_items == 12
    (tmp_path / "3.png").unlink()  # as git-annex and DVC leave what was not fetched
    assert f"is a link to '{tmp_path / '3.png'}', which does not exist" in only_problem(folder)


@pytest.mark.parametrize("file", ["features.npz", "items.jsonl", "tags.npy"])
def test_linked_files_are_followed_where_dataset_yml_says_so(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    if file == "features.npz":
        write_arrays(folder)
    else:
        write(folder, text={"kind": "matrix", "file": "tags.npy"})
        np.save(folder / "tags.npy", np.eye(12, 3))
    before = read(folder)
    shutil.move(str(folder / file), str(tmp_path / file))
    (folder / file).symlink_to(tmp_path / file)
    assert f"{file}' is a link that leaves the folder; links: follow in dataset.yml follows it" in only_problem(folder)
    (folder / "dataset.yml").write_text((folder / "dataset.yml").read_text() + "links: follow\n")
    assert read(folder).sha256 == before.sha256


@pytest.mark.parametrize("how", ["absolute", "relative", "inside"])
def test_pictures_may_lie_in_a_folder_of_their_own(how: str, tmp_path: Path) -> None:
    before = read(write(tmp_path / "d"))
    some = [{**record, "image": record["image"].removeprefix("pictures/")} for record in records()]
    elsewhere = {"absolute": tmp_path / "photos", "relative": tmp_path / "photos", "inside": tmp_path / "e" / "pics"}
    root = {"absolute": str(tmp_path / "photos"), "relative": "../photos", "inside": "pics"}[how]
    folder = write(tmp_path / "e", some, images=root)
    shutil.move(str(folder / "pictures"), str(elsewhere[how]))
    after = read(folder)
    assert after.sha256 == before.sha256
    assert after.files[0] == folder / root / "0.png"
    assert datasets.load(str(folder), progress=False).sha256 == before.sha256
    some[3]["image"] = "../d/pictures/3.png"
    (folder / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    assert "must not hold '..'; pictures are looked for in " in only_problem(folder)
    some[3]["image"] = "3.png"
    (folder / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    (elsewhere[how] / "3.png").unlink()
    (elsewhere[how] / "3.png").symlink_to(tmp_path / "d" / "pictures" / "3.png")
    assert "is a link that leaves the folder" in only_problem(folder)  # the same rule in the other folder
    shutil.rmtree(elsewhere[how])
    assert "is no folder; dataset.yml names it under images" in only_problem(folder)


BAD_YML = {
    "links": ({"links": "all"}, "links is 'all', but must be one of inside, follow"),
    "links, a mapping": ({"links": {}}, "must be one of inside, follow"),
    "images": ({"images": 3}, "images is 3, but must be a folder"),
    "images absent": ({"images": "photos"}, "photos: is no folder"),
    "columns": ({"items": "items.csv", "columns": ["a"]}, "must be a mapping such as {text: caption}"),
    "columns, field": ({"items": "items.csv", "columns": {"txt": "a"}}, "columns: 'txt' is not known; did you mean"),
    "columns, name": ({"items": "items.csv", "columns": {"text": 3}}, "text is 3, but must be the name of a column"),
    "columns of JSON": ({"columns": {"text": "a"}}, "columns goes with tables"),
    "separator of JSON": ({"label_separator": "|"}, "label_separator goes with tables"),
    "separator": ({"items": "items.csv", "label_separator": ""}, "label_separator is '', but must be a text"),
    "items absolute": ({"items": "/data/items.jsonl"}, "link it into the folder, and write links: follow"),
    "split, test": ({"split": {"test": 3, "val": 2}}, "split: 'test' is not known; did you mean 'query'?"),
    "split, val": ({"split": {"query": 3, "val": 2}}, "split: 'val' is not known; did you mean 'validation'?"),
    "labels": ({"labels": [1.5]}, "must be a list of different texts"),
}


@pytest.mark.parametrize("fault", BAD_YML)
def test_bad_options(fault: str, tmp_path: Path) -> None:
    changes, said = BAD_YML[fault]
    folder = write(tmp_path / "d", **changes)
    (folder / "items.csv").write_text(cells())
    found = problems_of(folder)
    assert any(said in line for line in found), found
    assert len(found) == 1 + (fault == "split, test"), found


@pytest.mark.parametrize("key", ["items", "images", "text"])
def test_names_that_no_file_can_have(key: str, tmp_path: Path) -> None:
    name = "x" * 300
    value = {"items": f"{name}.csv", "images": name, "text": {"kind": "clip", "weights": name}}[key]
    assert "cannot be read (File name too long)" in only_problem(write(tmp_path / "d", **{key: value}))


def test_options_that_go_with_items(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "d", _yml="images: .\ncolumns: {}\nlabel_separator: ';'\n")
    assert [line.split(": ")[1] for line in problems_of(folder)] == [
        f"{key} goes with items; features are arrays" for key in ("images", "columns", "label_separator")
    ]


# Tables


@pytest.mark.parametrize("between", [",", ";", "\t", "|"])
def test_cells_between_whatever_the_first_line_shows(between: str, tmp_path: Path) -> None:
    join = "," if between == ";" else ";"
    one = read(table(tmp_path / "a", cells(between, join=join), label_separator=join))
    two = read(write(tmp_path / "b", two_labels()))
    assert one.sha256 == two.sha256
    assert one.notes == ()


def two_labels() -> list[dict[str, Any]]:
    return [
        {
            "image": f"pictures/{row}.png",
            "text": "a boat at sea",
            "labels": [LABELS[row % 3], LABELS[(row + 1) % 3]],
        }
        for row in range(12)
    ]


@pytest.mark.parametrize("form", ["tsv", "utf-16", "utf-8-sig", "sep", "crlf", "Title", "empty lines and ends"])
def test_tables_as_spreadsheets_write_them(form: str, tmp_path: Path) -> None:
    expected = read(write(tmp_path / "a", two_labels())).sha256
    text, name = cells(";" if form == "sep" else "\t", join="+"), "items.tsv" if form == "tsv" else "items.csv"
    raw = text.encode()
    if form in ("utf-16", "utf-8-sig"):
        raw = text.encode(form)
    elif form == "sep":
        raw = b"sep=;\r\n" + raw
    elif form == "crlf":
        raw = raw.replace(b"\n", b"\r\n")
    elif form == "Title":
        raw = raw.replace(b"image\ttext\tlabels", b"Image\tText\tLabels")
    elif form == "empty lines and ends":
        raw = raw.replace(b"\n", b"\t\t\n") + b"\t\t\t\t\n\n"
        raw = raw.replace(b"labels\t\t\n", b"labels\n")
    assert read(table(tmp_path / "b", raw, name=name, label_separator="+")).sha256 == expected


def test_other_columns_are_left_aside_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = ",image,url,text,labels,Unnamed: 0,split_id"
    folder = table(tmp_path / "d", cells(header=header))
    assert read(folder).sha256 == read(write(tmp_path / "e", two_labels())).sha256
    assert run("check", str(folder)) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    ignored = "one without a name, 'url', 'Unnamed: 0', 'split_id'"
    line = f"items.csv: columns that cmh does not read are ignored: {ignored}"
    assert notes == [f"note: {line}"]
    labelled.say.cache_clear()
    assert run("prepare", str(folder)) == 0
    said = capsys.readouterr()
    assert line not in said.out
    assert said.err.splitlines().count(f"holiday: {line}") == 1


def test_other_keys_of_json_lines_are_left_aside_with_one_line(tmp_path: Path) -> None:
    some = [{**record, "id": row, "url": None} for row, record in enumerate(records())]
    source = read(write(tmp_path / "d", some))
    assert source.notes == ("items.jsonl: keys that cmh does not read are ignored: 'id', 'url'",)
    assert source.sha256 == read(write(tmp_path / "e")).sha256
    for record in some:
        record["lables"] = record.pop("labels")
    folder = write(tmp_path / "f", some)
    with pytest.raises(DatasetError, match="did you mean 'labels'"):
        read(folder, skip_bad=True)


HEADERS = {
    "misspelt": ("image,texst,labels", {}, ["column 'texst' is not known; did you mean 'text'?"]),
    "twice": ("image,text,labels,text", {}, ["column text stands twice"]),
    "no image": ("filename,text,labels", {}, ["has no column image", "columns: {image: filename} in dataset.yml"]),
    "no text": ("image,Caption,labels", {}, ["no column text and no column tags", "columns: {text: Caption}"]),
    "nothing": ("a,b,c", {}, ["has no column image; found 'a', 'b', 'c'", "columns: {image: NAME}"]),
    "mapped": ("image,text,labels", {"text": "caption"}, ["has no column 'caption', which dataset.yml names"]),
}


@pytest.mark.parametrize("fault", HEADERS)
def test_first_lines_that_do_not_do(fault: str, tmp_path: Path) -> None:
    header, columns, said = HEADERS[fault]
    found = problems_of(table(tmp_path / "d", cells(header=header), columns=columns))
    assert all(any(part in line for line in found) for part in said), found
    assert len(found) <= 2
    with pytest.raises(DatasetError):
        read(tmp_path / "d", skip_bad=True)


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    """As Flickr30k's list is passed on: blanks around the signs, a column of numbers."""
    lines = ["image_name| number| comment| kind"]
    lines += [f"pictures/{row}.png| 0| a boat at sea| {LABELS[row % 3]};{LABELS[(row + 1) % 3]}" for row in range(12)]
    names = {"image": "image_name", "text": "comment", "labels": "kind"}
    source = read(table(tmp_path / "d", "\n".join(lines), columns=names))
    assert source.sha256 == read(write(tmp_path / "e", two_labels())).sha256
    assert source.notes == ("items.csv: columns that cmh does not read are ignored: 'number'",)


def test_bytes_that_are_no_utf_8_have_a_cure(tmp_path: Path) -> None:
    folder = table(tmp_path / "d", cells().replace("boat", "böat").encode("cp1252"))
    assert "is no CSV file in UTF-8" in only_problem(folder)
    assert "save it again as such" in only_problem(folder)
    folder = table(tmp_path / "e", cells().encode("utf-16-le"))  # without the mark at its beginning
    assert "holds NULs, as UTF-16 does" in only_problem(folder)


def test_what_pandas_writes_for_nothing_is_nothing(tmp_path: Path) -> None:
    some = [{**record, "group": float("nan"), "split": float("nan")} for record in records()]
    some[11] |= {"labels": float("nan"), "tags": float("nan")}
    same = [{**record} for record in records()]
    del same[11]["labels"], same[11]["tags"]
    assert read(write(tmp_path / "d", some)).sha256 == read(write(tmp_path / "e", same)).sha256


@pytest.mark.parametrize("sign", [",", "|", "/", " ", "\t"])
def test_labels_that_look_like_several_are_pointed_at(sign: str, tmp_path: Path) -> None:
    between = ";" if sign == "," else ","
    some = [{**record, "labels": [sign.join(record["labels"])]} for record in two_labels()]
    some[0]["labels"], some[1]["labels"], some[2]["labels"] = ["sea"], ["city"], ["tree"]
    text = cells(between, join=sign).splitlines()
    text[1:4] = [line.rpartition(between)[0] + between + label for line, label in zip(text[1:4], LABELS, strict=True)]
    for folder in (table(tmp_path / "a", "\n".join(text)), write(tmp_path / "b", some)):
        (note,) = read(folder).notes
        assert note.startswith("3 labels look like several in one, such as ")
        assert f"label_separator: {sign!r} in dataset.yml" in note
    assert read(table(tmp_path / "c", "\n".join(text), label_separator=sign)).notes == ()


def test_a_likely_separator_is_pointed_at_where_the_labels_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = table(tmp_path / "d", cells(";", join=","), labels=list(LABELS))
    assert any(line.startswith("note: 3 labels look like several") for line in problems_of(folder))
    assert run("check", str(folder)) == 2
    found = capsys.readouterr()
    assert (found.out + found.err).count("write label_separator: ','") == 1


def test_labels_of_several_words_are_left_alone(tmp_path: Path) -> None:
    some = [
        {**record, "labels": [("potted plant", "dining table", "Smith, John")[row % 3]]} for row, record in numbered()
    ]
    assert read(write(tmp_path / "d", some)).notes == ()


def numbered() -> list[tuple[int, dict[str, Any]]]:
    return list(enumerate(records()))


@given(
    st.lists(st.lists(st.text(alphabet='ab";|\t,\n', max_size=5), min_size=1, max_size=4), max_size=5),
    st.sampled_from(["image,text", "image;labels", "sep=|", "image|text\tlabels", ""]),
    st.sampled_from(";,| "),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_table(tmp_path: Path, some: list[list[str]], first: str, separator: str) -> None:
    path = tmp_path / "any.csv"
    path.write_text("\n".join([first, *(",".join(row) for row in some)]))
    found = Problems()
    items = item_list.read(path, found, Form({}, separator))
    assert items or found
    assert all(not separator.strip() or separator not in label for item in items for label in item.labels)


# Captions


def captions(n: int = 5, **more: Any) -> list[dict[str, Any]]:
    return [
        {"image": record["image"], "text": f"a boat, number {'abcde'[number]}", "labels": record["labels"], **more}
        for record in records()
        for number in range(n)
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lines_of_one_picture_are_texts_of_one_item(kind: str, tmp_path: Path) -> None:
    lists = [{**record, "text": [f"a boat, number {letter}" for letter in "abcde"]} for record in records()]
    for record in lists:
        del record["tags"]
    expected = read(write(tmp_path / "a", lists))
    some = captions()
    if kind == "jsonl":
        folder = write(tmp_path / "b", records())
        (folder / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    else:
        lines = [f'{one["image"]},"{one["text"]}",{one["labels"][0]}' for one in some]
        folder = table(tmp_path / "b", "\n".join(["image,text,labels", *lines]))
    source = read(folder)
    assert source.sha256 == expected.sha256
    assert source.split.sha256() == expected.split.sha256()
    assert source.n_skipped == 0
    assert source.notes == ("12 pictures stand in 60 lines: the lines of a picture are texts of one item",)
    assert sum(datasets.load(str(folder), progress=False).sizes.values()) == 12


def test_a_bad_line_costs_its_text_alone(tmp_path: Path) -> None:
    some = captions()
    some[2]["text"] = ""
    folder = write(tmp_path / "d")
    (folder / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    assert only_problem(folder) == "items.jsonl:3: has no text and no tags"
    source = read(folder, skip_bad=True)
    assert (source.n_items, source.n_skipped) == (12, 1)
    assert source.words is not None
    assert [len(words) for words in source.words()] == [8 if row == 0 else 10 for row in range(12)]


@pytest.mark.parametrize("part", ["labels", "group", "split"])
def test_lines_of_one_picture_that_contradict_each_other(part: str, tmp_path: Path) -> None:
    some = captions(2)
    for row, record in enumerate(some):
        record |= {} if part == "labels" else {part: f"g{row // 2}" if part == "group" else "train"}
    first, some[1][part] = some[1][part], ["tree"] if part == "labels" else "query"
    folder = write(tmp_path / "d", split={"query": 3, "validation": 2} if part != "split" else None)
    (folder / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    line = next(line for line in problems_of(folder) if "stands in line 1 already" in line)
    assert f"but {part} differs" in line
    with pytest.raises(DatasetError, match="join them in one line"):
        read(folder, skip_bad=True)
    some[1][part] = {"labels": first, "group": "", "split": None}[part]  # said once is enough
    (folder / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    if part == "split":
        assert not any("already" in line for line in problems_of(folder))
    else:
        assert read(folder).n_items == 12


def test_a_given_matrix_has_a_row_for_each_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", text={"kind": "matrix", "file": "tags.npy"})
    np.save(folder / "tags.npy", np.eye(12, 3))
    some = records()
    some[5]["image"] = some[4]["image"]
    (folder / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in some))
    assert "text: kind: matrix has a row for each line" in only_problem(folder)


# Class numbers, words for sides, labels that are none


@pytest.mark.parametrize("form", ["(n,)", "(n, 1)", "(1, n)", "float", "from 1"])
def test_class_numbers_become_columns(form: str, tmp_path: Path) -> None:
    classes = np.array([0, 2, 5] * 4)
    expected = np.eye(3, dtype=np.uint8)[np.arange(12) % 3]
    given = {
        "(n,)": classes,
        "(n, 1)": classes[:, None],
        "(1, n)": classes[None],
        "float": classes.astype(float),
        "from 1": classes,
    }[form]
    source = read(write_arrays(tmp_path / "d", labels=given))
    assert np.array_equal(source.labels, expected)
    assert source.label_names == ("class 0", "class 2", "class 5")
    (note,) = source.notes
    assert note == "features.npz: labels: labels are class numbers; each of the 3 classes (0 … 5) is a column"


@pytest.mark.parametrize(("first", "names"), [(0, "abc"), (1, "abc"), (1, "abcd")])
def test_class_numbers_with_names(first: int, names: str, tmp_path: Path) -> None:
    """Counted from 0, or from 1 where only that fits; in arrays and in items alike."""
    numbers = np.arange(12) % 3 + first
    start = 1 if first and len(names) == 3 else 0
    wanted = list(names[first - start : first - start + 3])
    folder = write_arrays(tmp_path / "d", labels=numbers, _yml=f"labels: [{', '.join(names)}]\n")
    some = [{**record, "labels": int(numbers[row])} for row, record in numbered()]
    for source in (read(folder), read(write(tmp_path / "e", some, labels=list(names)))):
        assert list(source.label_names) == wanted
        assert np.array_equal(source.labels, np.eye(3)[np.arange(12) % 3])
        assert any(f"is a column; {start} is 'a'" in note for note in source.notes)


def test_class_numbers_in_items(tmp_path: Path) -> None:
    some = [{**record, "labels": [row % 3, (row + 1) % 3, 7.0]} for row, record in numbered()]
    source = read(write(tmp_path / "d", some))
    assert source.label_names == ("0", "1", "2", "7")
    assert source.notes == ("items: labels are class numbers; each of the 4 classes (0 … 7) is a column",)
    lines = [f"pictures/{row}.png,a boat,{row % 3};{(row + 1) % 3};7" for row in range(12)]
    same = [{"image": record["image"], "text": "a boat", "labels": record["labels"]} for record in some]
    tabled = read(table(tmp_path / "e", "\n".join(["image,text,labels", *lines])))
    assert tabled.sha256 == read(write(tmp_path / "f", same)).sha256
    single = [{**record, "labels": "sea", "tags": "sky"} for record in records()]
    assert read(write(tmp_path / "g", single)).label_names == ("sea",)


@pytest.mark.parametrize("form", ["npz", "bytes", "mat"])
def test_arrays_of_class_names(form: str, tmp_path: Path) -> None:
    names = np.array([LABELS[row % 3] for row in range(12)])
    folder = write_arrays(tmp_path / "d", labels=names.astype("S") if form == "bytes" else names)
    if form == "mat":
        savemat(folder / "features.mat", dict(np.load(folder / "features.npz")))
        (folder / "dataset.yml").write_text((folder / "dataset.yml").read_text().replace("npz", "mat"))
    source = read(folder)
    assert source.label_names == tuple(sorted(LABELS))
    assert [source.label_names[column] for column in source.labels.argmax(1)] == names.tolist()
    (folder / "dataset.yml").write_text((folder / "dataset.yml").read_text() + "labels: [sea, citi, tree]\n")
    line = only_problem(folder)
    assert line.startswith("4 times label: features.")
    assert "labels: row 1: label 'city' is not known" in line
    assert "did you mean 'citi'?" in line


BAD_LABELS = {
    "-1 and 1": (np.where(np.eye(12, 3) > 0, 1, -1), "holds -1 and 1: write (labels > 0)"),
    "-1 and 1, a list": (np.array([-1, 1] * 6), "holds -1 and 1: write (labels > 0)"),
    "-1, 0 and 1": (np.eye(12, 3) - np.eye(12, 3, 1), "holds -1 and 0 and 1: write (labels > 0)"),
    "0 and 255": (np.eye(12, 3) * 255, "holds 0 and 255: write (labels > 0)"),
    "negative": (np.arange(12) - 4, "is taken for class numbers, but holds -4.0, -3.0, -2.0; must be 0, 1, 2"),
    "halves": (np.arange(12) / 2, "but holds 0.5, 1.5, 2.5"),
    "NaN": (np.full(12, np.nan), "but holds nan"),
    "too many names": (np.arange(12), "labels has 2 names, but features.npz: labels holds class numbers from 0 to 11"),
}


@pytest.mark.parametrize("fault", BAD_LABELS)
def test_labels_that_mean_something_else(fault: str, tmp_path: Path) -> None:
    labels, said = BAD_LABELS[fault]
    folder = write_arrays(tmp_path / "d", labels=labels, _yml="labels: [a, b]\n" if "names" in fault else "")
    assert said in only_problem(folder)
    with pytest.raises(DatasetError):
        read(folder, skip_bad=True)


def test_numbers_of_items_are_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmh.datasets.own.labels.MOST_CLASSES", 11)
    assert "holds 12 different ones: are they of items?" in only_problem(
        write_arrays(tmp_path / "d", labels=np.arange(12))
    )


def test_lists_where_matrices_must_be(tmp_path: Path) -> None:
    """Written by SciPy, a list is one row: of as many columns as there are items."""
    folder = write_arrays(tmp_path / "d")
    savemat(folder / "features.mat", {key: np.arange(12.0) for key in ("image", "text", "labels")})
    (folder / "dataset.yml").write_text("name: x\nfeatures: features.mat\nsplit: {query: 3, validation: 2}\n")
    assert problems_of(folder)


def test_one_column_of_ones_stays_one_label(tmp_path: Path) -> None:
    source = read(write_arrays(tmp_path / "d", labels=np.ones((12, 1), np.uint8)))
    assert source.label_names == ("label 1",)
    assert source.notes == ()


@pytest.mark.parametrize(
    ("word", "side"),
    [("test", "query"), ("val", "validation"), ("valid", "validation"), ("dev", "validation"), ("Train", "train")],
)
def test_other_words_for_sides(word: str, side: str, tmp_path: Path) -> None:
    """Named with the right word, once; never left out as bad."""
    some = [{**record, "split": ("query", "validation", "train", word)[row % 4]} for row, record in numbered()]
    sides = np.array([record["split"] for record in some])
    for folder in (write(tmp_path / "a", some, split=None), write_arrays(tmp_path / "b", split=sides)):
        line = only_problem(folder)
        assert line.startswith("3 times split: ")
        assert f"split is '{word}', but must be" in line or f"is '{word}', but must be" in line
        assert f"did you mean {side!r}?" in line
        with pytest.raises(DatasetError, match="did you mean"):
            read(folder, skip_bad=True)


# One line a cause


def test_problems_of_one_cause_are_one_line_with_two_examples(tmp_path: Path) -> None:
    """Whatever the kind; and all kinds at once."""
    some = records(300)
    for number, record in enumerate(some):
        if number % 3 == 0:
            record["image"] = f"nowhere/{number}.png"
        elif number % 3 == 1:
            record["labels"] = [f"wood {number}"]
        else:
            record["split"] = "outside"
    folder = write(tmp_path / "d", some, split=None, labels=list(LABELS), lisence="x", text={"weight": "idf"})
    (folder / "pictures" / "298.png").write_bytes(b"")
    found = [line for line in problems_of(folder) if not line.startswith(("--skip-bad", "note: "))]
    for part in (
        "lisence",
        "weight is 'idf'",
        "100 times split: items.jsonl:3: split is 'outside', but must be one of query, validation, train, database;"
        " items.jsonl:6: split is 'outside'",
        "100 times picture: items.jsonl:1: image 'nowhere/0.png': does not exist",
        "items.jsonl:299: image 'pictures/298.png': the picture is empty",
        "100 times label: items.jsonl:2: label 'wood 1' is not known",
        "no item is left without a problem",
    ):
        assert sum(part in line for line in found) == 1, (part, found)
    assert len(found) == 7, found


def test_many_causes_of_one_kind_end_somewhere() -> None:
    problems = Problems()
    for number in range(40):
        problems.item(number, "odd", "x" * number)
    lines = list(problems.lines())
    assert len(lines) == 11
    assert lines[-1] == "… and 30 more: odd"


# What is written about it


def test_every_option_and_its_default_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """By the README and by `--help`, of the whole command and of `check`."""
    from cmh.config import params
    from cmh.datasets.own.settings import KEYS, Draw
    from cmh.features.text import Options

    readme = (Path(__file__).parent.parent / "README.md").read_text()
    start = readme.index("**Your own dataset**")
    told = [readme[start : readme.index("**Whose number", start)]]
    for arguments in (["--help"], ["check", "--help"]):
        with pytest.raises(SystemExit):
            run(*arguments)
        told.append(capsys.readouterr().out)
    for text in told:
        flat = " ".join(text.split())
        for key in (*KEYS, *params(Draw), *params(Options), "stop_words"):
            assert f"{key}:" in flat, (key, text)
        for kind in ("words", "sentences", "clip", "matrix", "list of captions"):
            assert kind in flat
    given = yaml.safe_load(told[0].partition("```yaml")[2].partition("```")[0])
    assert given["text"].items() <= {"stop_words": "none", **{k: p.default for k, p in params(Options).items()}}.items()
    assert {**given["split"], "query": 0, "validation": 0} == {k: p.default for k, p in params(Draw).items()}
    assert (given["links"], given["label_separator"], given["columns"]) == ("inside", Form().label_separator, {})
    assert "label_separator: of a table" in told[1]
    assert "(default: ';')" in told[1]
    assert "(default: inside)" in " ".join(told[1].split())


def test_the_readmes_example_is_a_dataset(tmp_path: Path) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    example = readme[readme.index("**Your own dataset**") :].partition("```yaml")[2].partition("```")[0]
    document = yaml.safe_load(example)
    document["split"] |= {"query": 3, "validation": 2}
    assert read(write(tmp_path / "a", **document)).sha256 == read(write(tmp_path / "b")).sha256

"""IAPR TC-12 as its sites distribute it: `images/00/25.jpg`, `annotations/00/25.eng`, and the labels of its segments.

The captions come with the photos; the labels are those of the segmented edition (SAIAPR TC-12): `labels.txt` in each of
its folders (photo, segment, label number a line) and `wlist.txt` (number, name). Photos with a label and a text, by
number; the text (title and description) becomes a bag of words over 2,000 words of the training items. As captions
the parts of the description count, which semicolons separate, and the title after them.

The layout of the segmented edition is as its description has it; it was not at hand (unverified).
"""

from __future__ import annotations

import hashlib
import html
import re
from pathlib import Path

import numpy as np

from cmh.datasets.facts import Facts
from cmh.datasets.official import Parts, first
from cmh.datasets.problems import Problems
from cmh.errors import DatasetError

TEXTS = ("annotations", "annotations_complete_eng")
PHOTOS = ("images",)
SEGMENTS = ("saiapr_tc-12", "saiapr_tc_12", "saiapr")


def missing(root: Path, facts: Facts) -> list[str]:
    """What is not there of this distribution."""
    wanted = (
        (PHOTOS, f"/ ({facts.n_official:,} photos: 00/25.jpg …)"),
        (TEXTS, "/ (captions: 00/25.eng …)"),
        (SEGMENTS, "/ (labels of the segmented edition: wlist.txt and 00/labels.txt …)"),
    )
    return [f"{root / names[0]}{what}" for names, what in wanted if first(root, *names) is None]


def read(root: Path, facts: Facts) -> Parts:
    """Photos, captions and labels. Raises DatasetError."""
    photo_folder, text_folder, segments = (first(root, *names) for names in (PHOTOS, TEXTS, SEGMENTS))
    assert photo_folder is not None
    assert text_folder is not None
    assert segments is not None
    problems: list[str] = []
    names = _label_names(segments, problems)
    labels_of: dict[int, set[int]] = {}
    for file in sorted(segments.rglob("labels.txt")):
        for line, row in enumerate(file.read_text("latin-1").splitlines(), start=1):
            cells = row.split()
            if len(cells) >= 3 and all(cell.isdigit() for cell in cells[:3]) and int(cells[2]) in names:
                labels_of.setdefault(int(cells[0]), set()).add(int(cells[2]))
            elif cells:
                problems.append(f"{file}:{line}: is {row!r}, but must be photo, segment and label number of wlist.txt")
    found: list[tuple[int, str, tuple[str, str]]] = []  # number, picture, title and description
    n_all = 0
    for file in text_folder.rglob("*.eng"):
        if not file.stem.isdigit():
            problems.append(f"{file}: its name is no photo number")
            continue
        n_all += 1
        said = _said(file.read_text("latin-1"))
        if int(file.stem) in labels_of and any(said):
            inside = file.relative_to(text_folder).with_suffix(".jpg")
            found.append((int(file.stem), f"{photo_folder.name}/{inside.as_posix()}", said))
    if problems:
        grouped = Problems()
        for problem in problems:
            grouped.add("line", problem)
        raise DatasetError(*grouped.lines(), heading=f"{facts.title} in {root} cannot be used")
    found.sort()
    used = sorted({label for number, _, _ in found for label in labels_of[number]})
    columns = {label: column for column, label in enumerate(used)}
    labels = np.zeros((len(found), len(used)), np.uint8)
    for place, (number, _, _) in enumerate(found):
        labels[place, [columns[label] for label in labels_of[number]]] = 1

    return Parts(
        n_all=n_all,
        pictures=[picture for _, picture, _ in found],
        labels=labels,
        label_names=[names[label] for label in used],
        n_tags=None,
        digest=hashlib.sha256("\0".join(". ".join(filter(None, said)) for _, _, said in found).encode()).hexdigest(),
        captions=[
            [part for part in (*map(str.strip, said.split(";")), title) if part] for _, _, (title, said) in found
        ],
    )


def _label_names(segments: Path, problems: list[str]) -> dict[int, str]:
    path = segments / "wlist.txt"
    if not path.is_file():
        problems.append(f"{path}: does not exist; it names the labels")
        return {}
    names = {}
    for line, row in enumerate(path.read_text("latin-1").splitlines(), start=1):
        match = re.fullmatch(r"\s*(\d+)\s+(\S.*?)\s*", row)
        if match:
            names[int(match[1])] = match[2]
        elif row.strip():
            problems.append(f"{path}:{line}: is {row!r}, but must be a number and a name")
    return names


def _said(document: str) -> tuple[str, str]:
    """Title and description. The files are XML by name, but not all of them by syntax: only the two tags are read."""
    title, description = (
        re.search(rf"<{tag}>(.*?)</{tag}>", document, re.DOTALL | re.IGNORECASE) for tag in ("TITLE", "DESCRIPTION")
    )
    return _text(title), _text(description)


def _text(match: re.Match[str] | None) -> str:
    return html.unescape(match[1]).strip() if match else ""

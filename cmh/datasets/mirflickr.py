"""MIRFlickr-25K as its site distributes it: photos `im1.jpg` …, `meta/tags/tags1.txt` …, `annotations/LABEL.txt`.

As for the DCMH release: the 24 potential labels (not the `_r1` ones), the tags that at least 20 photos have (here over
all photos, as published), and the photos that have a label and a tag; under splits of some releases on CLIP all that
have a label.
"""

from __future__ import annotations

import collections
import hashlib
from pathlib import Path

import numpy as np

from cmh.datasets.facts import Facts
from cmh.datasets.official import Parts, first, numbered
from cmh.datasets.releases import BY_NAME
from cmh.errors import DatasetError
from cmh.features import wording

PHOTOS = ("images", "mirflickr")
TAGS = ("meta/tags", "mirflickr/meta/tags", "images/meta/tags", "tags")
ANNOTATIONS = ("annotations", "mirflickr25k_annotations_v080")


def missing(root: Path, facts: Facts) -> list[str]:
    """What is not there of this distribution."""
    wanted = (
        (PHOTOS, f"the photos im1.jpg … im{facts.n_official}.jpg"),
        (TAGS, f"tags1.txt … tags{facts.n_official}.txt, a tag a line"),
        (ANNOTATIONS, "animals.txt …, a photo number a line"),
    )
    return [f"{root / names[0]}/ ({what})" for names, what in wanted if first(root, *names) is None]


def read(root: Path, facts: Facts) -> Parts:
    """Photos, tags and labels. Raises DatasetError."""
    photo_folder, tag_folder, label_folder = (first(root, *names) for names in (PHOTOS, TAGS, ANNOTATIONS))
    assert photo_folder is not None
    assert tag_folder is not None
    assert label_folder is not None
    photos = numbered(photo_folder, r"im(\d+)\.jpg")
    row = {number: place for place, number in enumerate(photos)}
    problems: list[str] = []
    tag_files = numbered(tag_folder, r"tags(\d+)\.txt")
    if absent := sorted(photos.keys() - tag_files.keys()):
        problems.append(f"{tag_folder}: {len(absent):,} photos have no tags file, the first is tags{absent[0]}.txt")
    raw = [(tag_folder / tag_files[number]).read_bytes() if number in tag_files else b"" for number in photos]
    documents = [[line.strip().lower() for line in text.decode("utf-8", "replace").splitlines()] for text in raw]
    files = sorted(
        file for file in label_folder.glob("*.txt") if not file.stem.endswith("_r1") and file.stem.lower() != "readme"
    )
    labels = np.zeros((len(photos), len(files)), np.uint8)
    for column, file in enumerate(files):
        numbers = file.read_bytes().split()
        wrong = [number for number in numbers if not number.isdigit() or int(number) not in row]
        if wrong:
            problems.append(
                f"{file}: {len(wrong):,} lines are no photo that is here, the first is {wrong[0].decode('latin-1')!r}"
            )
        labels[[row[int(number)] for number in numbers if number not in set(wrong)], column] = 1
    if problems:
        raise DatasetError(*problems, heading=f"{facts.title} in {root} cannot be used")
    counts = collections.Counter(tag for document in documents for tag in set(document) if tag)
    words = [
        tag for tag, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= facts.tag_count
    ]
    known = set(words)
    kept = [
        place
        for place in range(len(photos))
        if labels[place].any() and (known.intersection(documents[place]) or not facts.tagged)
    ]
    names = list(photos.values())
    if facts.order == BY_NAME:
        kept.sort(key=names.__getitem__)
    return Parts(
        n_all=len(photos),
        pictures=[f"{photo_folder.relative_to(root)}/{names[place]}" for place in kept],
        labels=labels[kept],
        label_names=[file.stem for file in files],
        n_tags=len(words),
        text=lambda: wording.bag([documents[place] for place in kept], words, kind="tags"),
        digest=hashlib.sha256(b"\0".join(raw)).hexdigest(),
        words=lambda: [[tag for tag in documents[place] if tag in known] for place in kept],
        captions=[(" ".join(filter(None, documents[place])),) for place in kept],
    )

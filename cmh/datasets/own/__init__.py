"""Your own dataset: a folder with `dataset.yml`, and items with pictures or arrays of features.

    name: holiday
    licence: CC0-1.0
    items: items.jsonl   # or .csv, .tsv: image, text and/or tags, labels; optional group, split (`own.item_list`)
    images: /data/photos # optional: where the pictures lie, absolute or seen from here; by default this folder
    links: inside        # or follow: links may lead out of the folder, those of the pictures and those of other files
    columns: {text: caption}  # of a table whose columns have other names; by default none have
    label_separator: ";" # of several labels, or tags, in one cell of a table
    features: data.npz   # or, in place of items: image (n, d), text (n, d), labels (n, c) 0/1 or class numbers (n,);
                         # optional split, group; also one .mat file, or {image: image.npy, text: text.npy, …}
    labels: [sea, city]  # optional: their names and order, or those of class numbers
    split: {query: 500, validation: 300, train: 2000, seed: 0, by: group, stratify: false}  # where items carry no split
    text: {size: 2000, min_count: 2, stop_words: none, label_words: keep, weight: binary, captions: all}  # optional;
                         # label_words: keep, drop (forms and compounds of label names), telling (also what stands for
                         # a label); captions: all, first, draw

`split` of an item is query (test), validation (queries for selection), train, or database (searched, not trained
on). Items of one group never fall on two sides. Everything that is wrong is named in one error.

What the arrays are computed from is known by content: pictures and files are hashed, once for as long as a file does
not change (`cmh.datasets.scan`), so that a dataset which changes never meets its old features.

`settings` reads dataset.yml; `items` (with `item_list`) and `features` read what it names, one kind of dataset each;
`rows` is what both have in common: good rows, their split, groups and labels.
"""

from __future__ import annotations

from pathlib import Path

from cmh.datasets.catalogue import GIVEN
from cmh.datasets.labelled import say
from cmh.datasets.own import features, items, settings
from cmh.datasets.problems import Problems
from cmh.datasets.source import Source


def read(folder: Path, *, captions: str = GIVEN, skip_bad: bool = False, progress: bool = False) -> Source:
    """The dataset in a folder, with its captions as dataset.yml says or as asked; what was taken in one of several ways
    is logged.

    Raises DatasetError that names everything wrong with it.
    """
    problems = Problems(skip_bad=skip_bad)
    source = inspect(folder, problems, captions=captions, progress=progress)
    problems.stop(str(folder), skip_bad=skip_bad, with_notes=True)
    assert source is not None  # nothing fatal was found
    for note in source.notes:
        say(f"{source.name}: {note}")
    return source


def inspect(folder: Path, problems: Problems, *, captions: str = GIVEN, progress: bool = False) -> Source | None:
    """The dataset without its bad items, and everything that is wrong with it in `problems`.

    None where there is nothing to go on with.
    """
    try:
        wanted = settings.read(folder, problems, captions)
        if wanted.items is not None:
            return items.source(folder, wanted, wanted.items, problems, progress=progress)
        if wanted.features:
            return features.source(folder, wanted, problems)
    except OSError as error:  # no right to read it, or gone while we looked
        problems.add("file", f"{error.filename or folder}: cannot be read ({error.strerror or error})")
    return None

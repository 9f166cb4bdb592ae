"""Every option of a dataset.yml in words, for `--help`; what has a table of rules is described by it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from cmh.config import params
from cmh.datasets.own.settings import Draw
from cmh.datasets.own.tables import SEPARATOR
from cmh.features import text

PLAIN = {
    "name": "a short name of a-z, 0-9, '-', '_' and '.'",
    "licence": "a text for people (default: none)",
    "items": "a .jsonl, .csv or .tsv file; an item has image (a path), text (one, or a list of captions) and/or tags,"
    " labels (names or class numbers; none where an item is only searched, or trained on without labels), and may have"
    " group (near-duplicates share one) and split (query, validation, train or database). Several lines with one image"
    " are texts of one item",
    "images": "folder of the pictures, absolute or seen from dataset.yml (default: the folder of dataset.yml)",
    "links": "inside: links that lead out of the folder are refused; follow: they are followed, of pictures and of"
    " other files (default: inside)",
    "columns": "of a table whose columns have other names: {text: caption} (default: none have)",
    "label_separator": f"of a table: what stands between several labels, or tags, in one cell (default: {SEPARATOR!r})",
    "features": "in place of items: a .npz or .mat file with image (n, d), text (n, d) and labels, or {image:"
    " image.npy, text: text.npy, labels: labels.npy}; labels are (n, c) of 0 and 1, or class numbers (n,); also split,"
    " group",
    "labels": "names of the labels in their order, or of class numbers (default: those that occur)",
    "split": "how to draw the sides where items carry none",
    "text": "how texts of items become vectors",
}
PARTS = {"split": Draw, "text": text.Options}
STOP_WORDS = "stop_words: words: left out; none, english, or a list of words (default: none)"
LACKING = ("query", "validation")  # without a default


def described() -> str:
    """Key, meaning and default of every option, a paragraph each."""
    return "\n".join(line for key, said in PLAIN.items() for line in _paragraphs(key, said))


def _paragraphs(key: str, said: str) -> Iterator[str]:
    yield textwrap.fill(f"{key}: {said}", 110, initial_indent="  ", subsequent_indent="      ")
    for name, one in params(PARTS[key]).items() if key in PARTS else ():
        default = "" if name in LACKING else f" (default: {_yaml(one.default)})"
        choices = f"; {', '.join(one.choices)}" if one.choices else ""
        line = f"{name}: {one.help}{choices}{default}"
        yield textwrap.fill(line, 110, initial_indent="    ", subsequent_indent="        ")
    if key == "text":
        yield f"    {STOP_WORDS}"


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value == "" else str(value)

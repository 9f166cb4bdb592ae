"""From a name or folder to a dataset: read, its features extracted where the cache lacks them, its arrays mapped."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cmh import cache, files
from cmh.config import unknown
from cmh.datasets import drawn, sparse
from cmh.datasets.cached import CachedDataset
from cmh.datasets.catalogue import CAPTIONS, GIVEN, NAMES, ORDERS, is_folder
from cmh.datasets.facts import FACTS
from cmh.datasets.source import Source
from cmh.errors import DatasetError
from cmh.features import backbones, extraction, extras, tokens, wording

if TYPE_CHECKING:
    from cmh.datasets.scan import Signature

log = logging.getLogger(__name__)

DEFAULT_FEATURES = "efficientnet-lite0"
SAID = {"all": "", "first": "first captions", "draw": "drawn captions"}  # with the features, in records and on boards
ARRAYS_VERSION = 4  # of which arrays and notes an entry holds
# The dataset that this process read last, with what it was asked for: a worker trains many trials on one.
_LAST: dict[tuple[str, str, bool, str, str], tuple[Source, list[Signature | None]]] = {}


def load(
    name: str,
    *,
    features: str = DEFAULT_FEATURES,
    weights: str = "",
    pixels: bool = False,
    context_length: int = 0,
    progress: bool = True,
    skip_bad: bool = False,
    order: str = "torchcmh",
    captions: str = GIVEN,
    source: Source | None = None,
) -> CachedDataset:
    """A dataset, prepared if it is not in the cache yet.

    Parameters
    ----------
    name: a built-in dataset, or the path of a folder with `dataset.yml`.
    features, weights: the image network, and a file of weights where it needs one.
    pixels: the pictures are there too, decoded once, as the network wants them: for training it along.
    context_length: the texts are there too, as so many tokens, for training the network's text tower along, and their
    vectors are that tower's as it comes; 0: no tokens, and vectors as the dataset says.
    skip_bad: go on without bad items; `skipped.json` beside the arrays says which.
    order: split of a benchmark: torchcmh's seed, or the order of its files as in the DCMH release.
    captions: of items that have several: all as one text, the first, or draw; `given`: as the dataset says.
    source: what `read` gave for this name, `skip_bad`, `order` and `captions`, where the caller has read it already.

    Raises DatasetError when it is unknown, missing or broken.
    """
    called = backbones.check(features, weights)
    if context_length and not tokens.SHORTEST <= context_length <= tokens.PLACES:
        rule = f"0 (no text tower) or {tokens.SHORTEST} to {tokens.PLACES}"
        raise DatasetError(f"context_length is {context_length}, but must be {rule}")
    progress = progress and sys.stderr.isatty()  # a bar fills the log of a batch system
    if source is None:
        source = read(name, skip_bad=skip_bad, order=order, captions=captions, progress=progress)
    if source.image is not None:
        if features != DEFAULT_FEATURES or weights:
            raise DatasetError(f"features {called}: {source.name} brings its own image features; leave --features out")
        called = source.features
    split, starts = source.split, source.starts
    if context_length and starts is not None:
        raise DatasetError(
            f"captions of {source.name} are drawn, but a text tower that is trained along reads one text an item; take"
            " captions all or first, or train the image tower alone: context_length 0"
        )
    split_sha256 = split.sha256()
    read_as = (tokens.VERSION, context_length) if context_length else ()
    made_of = (source.sha256, split_sha256, called, backbones.VERSION, ARRAYS_VERSION, *read_as)
    entry = f"{source.name}/{cache.key(*made_of)}"
    rows = {"search": np.concatenate([split.train, split.other, split.validation]), "test": split.query}

    def arrays() -> cache.Contents:
        extras.check(source.text_kind, "" if source.image is not None else features)
        image: cache.RowArray
        # The text first: what is wrong with it is known within seconds.
        read = tokens.of(source, context_length) if context_length else None
        text = source.text() if read is None else tokens.vectors(read, features, weights, source.name, progress)
        if source.image is not None:
            image, made = source.image(), {"given": source.sha256}
        else:
            extracted = extraction.features(source, features, weights, progress)
            image, made = np.load(extracted / "image.npy", mmap_mode="r"), extraction.provenance(extracted)
        whole: dict[str, cache.RowArray] = {"image": image, "labels": source.labels}
        rule = wording.rule_of(text, source.text_kind, source.text_weights)
        if read is not None:
            whole["tokens"], rule = read, wording.TextRule(wording.TOKENS)
        parts: dict[str, cache.Content] = {
            f"{part}/{key}": cache.Rows(array, rows[part]) for part in rows for key, array in whole.items()
        }
        parts |= sparse.contents(text, rows) if starts is None else drawn.contents(text, starts, rows)
        notes = {extraction.PROVENANCE: cache.Note(made), wording.NOTE: cache.Note(dataclasses.asdict(rule))}
        return {**parts, "test/group": source.query_groups(), **notes}

    folder, pixel_folder = cache.entry(f"prepared/{entry}", arrays), None
    _note_skipped(source, folder)
    if pixels:
        pixel_folder = extraction.pixels(source, features, rows, progress, made_of=(source.sha256, split_sha256))
    given, along = source.image is not None, f"{'both towers ' * bool(context_length)}fine-tuned" if pixels else ""
    return CachedDataset(
        name=source.name,
        sha256=source.sha256,
        split_sha256=split_sha256,
        features=", ".join(filter(None, [called, along, SAID[source.taken]])),
        label_names=source.label_names,
        sizes={part: len(getattr(split, part)) for part in ("query", "validation", "train", "other")},
        folder=folder,
        pixel_folder=pixel_folder,
        arrays_sha256=cache.arrays_sha256(folder, *([] if pixel_folder is None else [pixel_folder])),
        provenance={"given": source.sha256} if given else extraction.provenance(folder, pixel_folder),
    )


def read(
    name: str, *, skip_bad: bool = False, order: str = "torchcmh", captions: str = GIVEN, progress: bool = False
) -> Source:
    """The reader's view of a dataset, before any feature is computed.

    Every picture is looked at once, and again only after it has changed. Raises DatasetError that names everything
    that is wrong.
    """
    from cmh.datasets import benchmarks, clipart, own, scan  # late: `--help` needs none of the readers

    if order not in ORDERS:
        raise DatasetError(f"split {unknown(order, ORDERS)}")
    if captions not in (GIVEN, *CAPTIONS):
        raise DatasetError(f"captions {unknown(captions, [GIVEN, *CAPTIONS])}")
    if name not in FACTS and order != "torchcmh":
        raise DatasetError(f"split {order} is one of the benchmarks' ({', '.join(FACTS)}); {name} has its own")
    if name == "clipart":
        if captions not in (GIVEN, "all"):
            raise DatasetError(f"captions {captions}: an item of {name} has one text, its title with its tags")
        return clipart.read()
    if name not in FACTS and not is_folder(name):
        raise DatasetError(f"dataset {unknown(name, NAMES)}, or a folder with dataset.yml")
    path = benchmarks.folder(FACTS[name]) if name in FACTS else Path(name)
    request = (str(path.resolve()), str(cache.root()), skip_bad, order, captions)
    known = _LAST.get(request)
    if known is not None and scan.signatures(known[0].inputs) == known[1]:
        return known[0]
    if name in FACTS:
        try:
            source = benchmarks.read(
                FACTS[name], path, order=order, captions=captions, skip_bad=skip_bad, progress=progress
            )
        except OSError as error:
            raise DatasetError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error
    else:
        source = own.read(path, captions=captions, skip_bad=skip_bad, progress=progress)
    _LAST.clear()
    if source.inputs:
        _LAST[request] = source, scan.signatures(source.inputs)
    return source


def _note_skipped(source: Source, folder: Path) -> None:
    """Which items were left out, beside the arrays that lack them; said once."""
    path = folder / "skipped.json"
    if not source.skipped or path.exists():
        return
    skipped, whole = source.n_skipped, source.n_skipped + source.n_items
    note = {"items": skipped, "of": whole, "problems": source.skipped}
    files.write_atomic(path, json.dumps(note, indent=1, ensure_ascii=False))
    log.warning("%s: %s items left out (--skip-bad); see %s", source.name, f"{skipped:,} of {whole:,}", path)

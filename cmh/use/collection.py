"""What is searched: codes of pictures and texts, and what they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh import cache, codes, encoded, files
from cmh.datasets import CachedDataset, Source
from cmh.errors import CmhError, EncoderError, RecordError
from cmh.use import bundle, find
from cmh.use import pictures as seen
from cmh.use.encoder import Encoder

KINDS = ("pictures", "texts")


@dataclasses.dataclass(frozen=True)
class Items:
    """Things of one kind: packed codes `(n, ceil(bits / 8))`, a name and perhaps a caption of each, and where pictures
    of them are."""

    codes: NDArray[np.uint8]
    names: Sequence[str]
    captions: Sequence[str]  # empty: none
    pictures: Pictures | None = None

    def label(self, place: int) -> str:
        """An item in a word or two."""
        return (self.captions[place] if self.captions else "") or self.short(place)

    def short(self, place: int) -> str:
        """The name of an item without its folders."""
        return self.names[place] if self.pictures is None else self.names[place].rpartition("/")[2]

    def line(self, place: int) -> str:
        """An item in words."""
        return " · ".join(filter(None, [self.names[place], self.captions[place] if self.captions else ""]))


class Pictures:
    """Encoded pictures by the place of their item: files, or those of a dataset's source."""

    def __init__(self, of: Source | Sequence[Path], rows: NDArray[np.int64] | None = None) -> None:
        self._of, self._rows = of, rows

    def some(self, places: Iterable[int]) -> Mapping[int, bytes]:
        """Those that can be read, and are no larger than a picture may be."""
        found: dict[int, bytes] = {}
        for place in set(places):
            row = int(place if self._rows is None else self._rows[place])
            try:
                found[place] = self._of.picture(row) if isinstance(self._of, Source) else _file(self._of[row])
            except (OSError, CmhError):  # moved since: its line is still true
                continue
        return found


def _file(path: Path) -> bytes:
    """A list may name anything: what is no file (a device has no end) is not read. Raises EncoderError."""
    if not path.is_file():
        raise EncoderError(f"{path}: is no file")
    return seen.encoded(path)


def of_file(path: Path, encoder: Encoder) -> dict[str, Items]:
    """A file of `cmh.encode`, by kind. Raises RecordError where it is none, or was made by another model."""
    found = encoded.read(path)
    if found.bits != encoder.bits or found.encoder != encoder.digest:
        theirs = f"{found.bits} bits of model {found.encoder or 'unknown'}"
        raise RecordError(
            f"{path}: holds codes of {theirs}, but a query would have {encoder.bits} bits of model {encoder.digest};"
            " encode them with the same model"
        )
    result = {}
    if "images" in found.sets:
        names = found.names["images"]
        paths = [Path(files.placed(name, path.parent)) for name in names]
        result["pictures"] = Items(found.sets["images"], names, [], Pictures(paths))
    if "texts" in found.sets:
        result["texts"] = Items(found.sets["texts"], found.names["texts"], [])
    return result


def of_dataset(encoder: Encoder) -> dict[str, Items]:
    """The database of the dataset that the model was trained on (every item with a label that is no test query), by
    kind; its codes are computed once.

    Raises EncoderError where the dataset is no longer as it was, DatasetError where it cannot be read.
    """
    dataset, source = find.dataset_of(encoder.folder, encoder.description.identity)
    split = source.split
    rows = np.concatenate([split.train, split.other, split.validation])
    rows = rows[source.labels[rows].any(1)]
    # somebody's bundle may say that it is of a run that it is not of: its codes are its own
    own = [files.sha256(encoder.folder)] if bundle.named(encoder.folder) else []
    entry = f"codes/{source.name}/{cache.key(encoder.digest, dataset.arrays_sha256, *own)}"
    folder = cache.entry(entry, lambda: _computed(encoder, dataset))
    images, texts = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("images", "texts"))
    captions = _captions(source)
    names = [source.files[row].name if source.files else f"{source.name} {row}" for row in rows.tolist()]
    said = [captions[row] for row in rows.tolist()] if captions else []
    pictures = Pictures(source, rows) if source.image is None else None
    return {
        "pictures": Items(images, names, said, pictures),
        "texts": Items(texts, names, said, pictures),
    }


def _computed(encoder: Encoder, dataset: CachedDataset) -> cache.Contents:
    """Packed codes of the database, from the features that are there."""
    data = dataset.search()
    found: dict[str, list[NDArray[np.int8]]] = {"images": [], "texts": []}
    for part in (data.validation_database, data.validation_query.labelled()):
        images = part.image if part.pixels is None else part.pixels
        found["images"].append(encoder.hash_images(images))
        several = part.captions
        found["texts"].append(
            encoder.hash_texts(part.read) if several is None else encoder.hash_texts(several.text, several.starts)
        )
    return {name: codes.pack(np.concatenate(blocks)) for name, blocks in found.items()}


def _captions(source: Source) -> Sequence[str]:
    if source.captions is not None:
        return source.captions()
    return [" ".join(words) for words in source.words()] if source.words is not None else []

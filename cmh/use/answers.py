"""What a page to search with asks a model: answers about a collection, as values for JSON."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import scan
from cmh.errors import DatasetError, EncoderError
from cmh.use import pictures as seen
from cmh.use import sheet
from cmh.use.collection import KINDS, Items
from cmh.use.encoder import Encoder
from cmh.use.streaming import MOST_LINE

MOST_BYTES = 32 * 2**20  # of a picture to search with
MOST_FOUND = 200
KEPT = 2048  # small pictures in memory
SIDE = 256  # of a small picture


class Answers:
    """What an encoder finds in a collection. One question at a time goes through the model,
    whichever thread asks.

    Raises EncoderError where neither texts nor pictures can be asked with, or there is nothing to find.
    """

    def __init__(self, encoder: Encoder, items: Mapping[str, Items], target: str, top: int) -> None:
        about = encoder.description
        self.reads, self.sees = about.text.kind != "matrix", bool(about.network)
        if not (self.reads or self.sees):
            raise EncoderError(
                f"--serve {target}: the model was trained on given features and text vectors, so that it can take"
                " neither a text nor a picture; cmh.load(…).encode_images takes such features"
            )
        self._encoder, self._target, self._top = encoder, target, min(top, MOST_FOUND)
        self._items = {kind: items[kind] for kind in KINDS if kind in items and len(items[kind].codes)}
        if not self._items:
            raise EncoderError(f"--serve {target}: there is nothing to find")
        self._versions = {kind: _version(encoder, one) for kind, one in self._items.items()}
        self._model, self._disk = threading.Lock(), threading.Lock()
        self._small = functools.lru_cache(KEPT)(self._drawn)

    def about(self) -> dict[str, Any]:
        """Of the model, and what can be asked."""
        made = self._encoder.description.identity
        cannot = [] if self.reads else ["It was trained on given text vectors, so that it reads no text."]
        if not self.sees:
            cannot.append("It was trained on given features of pictures, so that it sees no picture.")
        return {
            "target": utf8(self._target),
            "model": f"{made.method} on {made.dataset}, {made.bits} bits, seed {made.seed}",
            "items": {kind: len(items.codes) for kind, items in self._items.items()},
            "reads": self.reads,
            "sees": self.sees,
            "cannot": " ".join(cannot),
            "most_bytes": MOST_BYTES,
        }

    def for_text(self, text: str, find: str, top: int | None) -> dict[str, Any]:
        """What is near a text: `found`, with the words that are used and those left out; a text without any word that
        is used has a `problem` in place of an answer."""
        if not self.reads:
            raise EncoderError(self.about()["cannot"])
        if len(text) > MOST_LINE:
            raise EncoderError(f"the text has {len(text):,} characters, but may have at most {MOST_LINE:,}")
        reading = self._encoder.read_text(text)
        said = {"query": f"“{text}”", "used": reading.used, "left_out": reading.left_out}
        if self._encoder.bad_texts([text]):
            return {**said, "problem": "this model knows no word of the text: it has no answer", "found": []}
        with self._model:
            code = self._encoder.encode_texts([text], packed=True).astype(np.uint8)
            return {**said, "found": self._found(code, find, top)}

    def for_picture(self, raw: bytes, find: str, top: int | None) -> dict[str, Any]:
        """What is near an encoded picture. Raises EncoderError where it is none."""
        if not self.sees:
            raise EncoderError(self.about()["cannot"])
        with self._model:
            try:
                code = self._encoder.encode_images([raw], packed=True).astype(np.uint8)
            except DatasetError as error:
                raise EncoderError(seen.bad([raw]).get(0, str(error))) from error
            return {"query": "your picture", "found": self._found(code, find, top)}

    def for_item(self, of: str, item: int, find: str, top: int | None) -> dict[str, Any] | None:
        """What is near an item of the collection, by the code that it has there; None where it has no such item."""
        items = self._items.get(of)
        if items is None or item >= len(items.codes):
            return None
        code = items.codes[item : item + 1]
        with self._model:
            found = self._found(code, find, top)
        return {"query": utf8(f"“{items.label(item)}”"), "query_picture": self._address(of, item), "found": found}

    def picture(self, version: str, item: int) -> bytes | None:
        """A small PNG of an item's picture, where there is one."""
        kind = next((kind for kind, ours in self._versions.items() if ours == version), "")
        return self._small(kind, item) if kind else None

    def _drawn(self, kind: str, item: int) -> bytes | None:
        items = self._items[kind]
        if items.pictures is None or item >= len(items.codes):
            return None
        with self._disk:
            raw = items.pictures.some([item])
        return sheet.thumbnail(raw[item], SIDE) if item in raw else None

    def _found(self, code: NDArray[np.uint8], find: str, top: int | None) -> list[dict[str, Any]]:
        if find not in self._items:
            raise EncoderError(f"there are no {find} to find")
        items = self._items[find]
        distances, places = scan.nearest(code, items.codes, self._encoder.bits, top or self._top)
        return [
            {
                "item": item,
                "distance": distance,
                "name": utf8(items.short(item)),
                "caption": utf8(items.captions[item]) if items.captions else "",
                "picture": self._address(find, item),
            }
            for distance, item in zip(distances[0].tolist(), places[0].tolist(), strict=True)
        ]

    def _address(self, kind: str, item: int) -> str:
        return f"api/picture/{self._versions[kind]}/{item}" if self._items[kind].pictures is not None else ""


def _version(encoder: Encoder, items: Items) -> str:
    """Of a collection: what a browser keeps of another one is not shown here."""
    found = hashlib.sha256(f"{encoder.digest}\0{items.captions[:1]}".encode(errors="replace"))
    found.update(items.codes.tobytes())
    for name in items.names:
        found.update(f"{name}\0".encode(errors="surrogatepass"))
    return found.hexdigest()[:16]


def utf8(text: str) -> str:
    """File names may hold bytes that are no UTF-8."""
    return text.encode(errors="replace").decode()

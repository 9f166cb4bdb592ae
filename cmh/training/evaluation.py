"""What a method's codes score: MAP of both directions on validation, everything on test."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from cmh import metrics
from cmh.errors import NotFiniteError
from cmh.interfaces import Arrays, Method, SearchData, TestData
from cmh.losses import sign
from cmh.nets import bags

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ENCODE_ROWS = 4096  # items encoded at once: bounds memory, changes no code
ENCODE_PICTURES = 64  # the same where pictures go through a whole network

Codes = NDArray[np.int8]  # ±1 (n, bits)
Inputs: TypeAlias = "NDArray[np.generic] | csr_array"


@dataclasses.dataclass(frozen=True)
class Tested:
    """What the codes of test queries and database scored: metrics, the AP of every query `(n_query,)`, and the codes
    ±1 `(n, bits)` by what they are of."""

    metrics: dict[str, float]
    i2t: NDArray[np.float64]
    t2i: NDArray[np.float64]
    codes: dict[str, Codes]  # query_image, query_text, database_image, database_text


def score(method: Method, data: TestData, device: torch.device, from_pixels: bool) -> Tested:
    """Codes and metrics of a method as it is. Whoever calls this opens the test split and must count it."""
    return Ranking(data.query, data.database, device, from_pixels).everything(method)


def chance(data: SearchData) -> float:
    """Validation MAP of codes that say nothing: every item at the same distance, all orders equally likely."""
    labels = [metrics.pack_labels(arrays.labels) for arrays in (data.validation_query, data.validation_database)]
    codes = [np.zeros((len(words), 1), np.uint64) for words in labels]
    return float(metrics.average_precision_packed(codes[0], codes[1], labels[0], labels[1], 1).mean())


class Ranking:
    """AP of queries against a database in both directions; labels are packed once."""

    def __init__(self, query: Arrays, database: Arrays, device: torch.device, from_pixels: bool) -> None:
        self._query, self._database, self._device, self._from_pixels = query, database, device, from_pixels
        self._labels = metrics.pack_labels(query.labels), metrics.pack_labels(database.labels)

    def average_precision(self, method: Method) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """AP of every query `(n_query,)`: image to text, text to image."""
        i2t, t2i = (self._rank(*codes) for codes in self._codes(method).values())
        return i2t, t2i

    def everything(self, method: Method) -> Tested:
        """MAP and further metrics with their usual names for both directions, the AP of every query, and the codes."""
        values: dict[str, float] = {}
        ap: dict[str, NDArray[np.float64]] = {}
        both = self._codes(method)
        for name, codes in both.items():
            ap[name] = self._rank(*codes)
            arguments = (*codes, self._query.labels, self._database.labels)
            precision, recall = metrics.precision_recall_within(*arguments, radius=2)
            values[f"map_{name}"] = float(ap[name].mean())
            values[f"map_at_50_{name}"] = metrics.mean_average_precision(*arguments, k=50)
            values[f"ndcg_at_100_{name}"] = metrics.ndcg(*arguments, k=100)
            values[f"precision_radius_2_{name}"], values[f"recall_radius_2_{name}"] = precision, recall
        (query_image, database_text), (query_text, database_image) = both["i2t"], both["t2i"]
        return Tested(
            {"map": (values["map_i2t"] + values["map_t2i"]) / 2, **values},
            ap["i2t"],
            ap["t2i"],
            {
                "query_image": query_image,
                "query_text": query_text,
                "database_image": database_image,
                "database_text": database_text,
            },
        )

    def _codes(self, method: Method) -> dict[str, tuple[Codes, Codes]]:
        """Codes of (queries, database) for each direction."""
        return {
            "i2t": (self._images(method, self._query), self._texts(method, self._database)),
            "t2i": (self._texts(method, self._query), self._images(method, self._database)),
        }

    def _rank(self, query: Codes, database: Codes) -> NDArray[np.float64]:
        packed = metrics.pack_codes(query), metrics.pack_codes(database)
        return metrics.average_precision_packed(*packed, *self._labels, query.shape[1])

    def _images(self, method: Method, items: Arrays) -> Codes:
        if not self._from_pixels:
            return self._encoded("image", method, items.image, ENCODE_ROWS, torch.float32)
        assert items.pixels is not None  # the dataset was loaded with them, or training had not begun
        return self._encoded("image", method, items.pixels, ENCODE_PICTURES, torch.uint8)

    def _texts(self, method: Method, items: Arrays) -> Codes:
        return self._encoded("text", method, items.text, ENCODE_ROWS, torch.float32)

    def _encoded(self, modality: str, method: Method, inputs: Inputs, at_once: int, dtype: torch.dtype) -> Codes:
        encode = method.encode_image if modality == "image" else method.encode_text
        codes = []
        with torch.inference_mode():
            for start in range(0, inputs.shape[0], at_once):
                rows = bags.tensor(inputs[start : start + at_once])
                outputs = encode(rows.to(self._device, dtype))
                if not bool(torch.isfinite(outputs).all()):
                    raise NotFiniteError(f"the {modality} codes hold NaN or infinite values")
                codes.append(sign(outputs).to("cpu", torch.int8).numpy())
        return np.concatenate(codes)

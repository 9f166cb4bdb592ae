"""What a method's codes score: MAP of both directions on validation, everything on test."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmh import metrics
from cmh.errors import NotFiniteError
from cmh.interfaces import Arrays, Method, SearchData, TestData
from cmh.losses import sign
from cmh.metrics import counted
from cmh.metrics.counted import Counts
from cmh.metrics.ranked import Ranked
from cmh.nets import bags, captions
from cmh.nets.transfer import as_net_input, on_gpu, to_device
from cmh.seeding import derive

ENCODE_ROWS = 1024  # items encoded at once: bounds memory, changes no code
ENCODE_PICTURES = 64  # the same where pixels or tokens go through a whole network, or an item is many vectors
KEPT_BYTES = 2**30  # of features of one side and modality: as much stays on a GPU

Codes = NDArray[np.int8]  # ±1 (n, bits)


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


def sample(database: Arrays, n: int) -> Arrays:
    """n items of a database, drawn once and for all; all of them where n is 0 or no less than there are.

    The draw depends on nothing but n and the size of the database, so all trials of a search are ranked on the same.
    """
    n_all = len(database.labels)
    if not 0 < n < n_all:
        return database
    draw = torch.Generator().manual_seed(derive(0, "validation database"))
    return database.rows(np.sort(torch.randperm(n_all, generator=draw)[:n].numpy()))


class Ranking:
    """AP of queries against a database in both directions; labels are prepared once.

    Where captions are drawn in training, a text's code is the sign of the mean of its captions' outputs, of queries and
    of the database alike: nothing is drawn here, so that no epoch is chosen for its luck.

    On a GPU everything stays there: labels, codes, and features where they are at most KEPT_BYTES (else they go there
    in blocks each time); what comes back are two histograms a query.
    """

    def __init__(self, query: Arrays, database: Arrays, device: torch.device, from_pixels: bool) -> None:
        self._sides = {"query": query, "database": database}
        self._device, self._from_pixels = device, from_pixels
        self._histograms = _counter(query.labels, database.labels, device)
        self._inputs = {
            (side, modality): self._placed(modality, items)
            for side, items in self._sides.items()
            for modality in ("image", "text")
        }
        # Which rows of the texts are an item's.
        self._starts = {
            (side, "text"): items.captions.starts for side, items in self._sides.items() if items.captions is not None
        }

    def average_precision(self, method: Method) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """AP of every query `(n_query,)`: image to text, text to image."""
        i2t, t2i = (
            counted.average_precision(*self._histograms(*codes), None, "expected")
            for codes in self._both_ways(self._codes(method)).values()
        )
        return i2t, t2i

    def everything(self, method: Method) -> Tested:
        """MAP and further metrics with their usual names for both directions, the AP of every query, and the codes."""
        values: dict[str, float] = {}
        ap: dict[str, NDArray[np.float64]] = {}
        codes = self._codes(method)
        for name, pair in self._both_ways(codes).items():
            counts = self._histograms(*pair)
            ap[name] = counted.average_precision(*counts, None, "expected")
            precision, recall = (by_radius[:, min(2, pair[0].shape[1])] for by_radius in counted.within(*counts))
            values[f"map_{name}"] = float(ap[name].mean())
            values[f"map_at_50_{name}"] = counted.mean(counted.average_precision(*counts, 50, "expected"))
            values[f"ndcg_at_100_{name}"] = counted.mean(counted.ndcg(*counts, 100))
            values[f"precision_radius_2_{name}"] = counted.mean(precision)
            values[f"recall_radius_2_{name}"] = counted.mean(recall)
        return Tested(
            {"map": (values["map_i2t"] + values["map_t2i"]) / 2, **values},
            ap["i2t"],
            ap["t2i"],
            {f"{side}_{modality}": tensor.cpu().numpy() for (side, modality), tensor in codes.items()},
        )

    def _codes(self, method: Method) -> dict[tuple[str, str], Tensor]:
        """Codes ±1 `(n, bits)` of each side and modality, int8 on the device."""
        return {
            key: self._encoded(key[1], method, inputs, self._starts.get(key)) for key, inputs in self._inputs.items()
        }

    def _both_ways(self, codes: dict[tuple[str, str], Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Those of (queries, database) for each direction."""
        return {
            "i2t": (codes["query", "image"], codes["database", "text"]),
            "t2i": (codes["query", "text"], codes["database", "image"]),
        }

    def _placed(self, modality: str, items: Arrays) -> Tensor:
        """Features `(n, d)`, pixels or tokens: on a GPU if they are small enough, else where they lie."""
        if modality == "image" and self._from_pixels:
            assert items.pixels is not None  # the dataset was loaded with them, or training had not begun
            return torch.from_numpy(items.pixels)
        if modality == "text" and items.tokens is not None:
            return torch.from_numpy(items.tokens)
        texts = items.text if items.captions is None else items.captions.text
        features = bags.tensor(items.image if modality == "image" else texts)
        keep = on_gpu(self._device) and 4 * math.prod(features.shape) <= KEPT_BYTES
        return features.to(self._device) if keep else features

    def _encoded(
        self, modality: str, method: Method, inputs: Tensor, starts: NDArray[np.int64] | None = None
    ) -> Tensor:
        """Codes `(n, bits)` of inputs `(n, …)`; with `starts` `(n + 1,)` of items with several rows each."""
        encode = method.encode_image if modality == "image" else method.encode_text
        many = inputs.ndim > 2 or not inputs.is_floating_point()
        at_once = ENCODE_PICTURES if many else ENCODE_ROWS
        codes, finite = [], torch.ones((), dtype=torch.bool, device=self._device)
        with torch.inference_mode():
            for rows, of_items in captions.blocks(len(inputs), at_once, starts):
                outputs = captions.means(encode(as_net_input(to_device(inputs[rows], self._device))), of_items)
                finite = finite & torch.isfinite(outputs).all()  # asked once, so that no block waits for the device
                codes.append(sign(outputs).to(torch.int8))
            if not bool(finite):
                raise NotFiniteError(f"the {modality} codes hold NaN or infinite values")
            return torch.cat(codes)


def _counter(
    query_labels: NDArray[np.uint8], database_labels: NDArray[np.uint8], device: torch.device
) -> Callable[[Tensor, Tensor], tuple[Counts, Counts]]:
    """What counts all and relevant items at each distance, `(n_query, bits + 1)` each, of codes `(n, bits)` of queries
    and database: on a GPU there, else by the compiled kernel. Both give the same integers."""
    if on_gpu(device):
        there = [torch.from_numpy(labels).to(device) for labels in (query_labels, database_labels)]
        return lambda query, database: metrics.histograms(query, database, *there)
    words = metrics.pack_labels(query_labels), metrics.pack_labels(database_labels)

    def count(query: Tensor, database: Tensor) -> tuple[Counts, Counts]:
        return Ranked(metrics.pack_codes(query), metrics.pack_codes(database), *words, query.shape[1]).counts

    return count

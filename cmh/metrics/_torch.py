"""The histograms of `_kernel` by matrix products, for codes that already lie on a GPU. The integers are the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from cmh.metrics._checks import Matrix

# Pairs held at once, at about 20 bytes each.
_PAIRS = 2**24
# Queries held beside each other: neighbours in memory are of different queries, so that threads of a GPU that count
# at the same moment do not wait for the same bin.
_QUERIES = 1024
# float16 holds every whole number up to 2048, and bins go up to 2 bits + 1.
_HALF_BITS = 1023


def histograms(
    query_codes: Matrix,
    database_codes: Matrix,
    query_labels: Matrix,
    database_labels: Matrix,
    *,
    device: torch.device | str,
    pairs: int = _PAIRS,
    half: bool | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All items and relevant items at each Hamming distance, two `(n_query, bits + 1)` arrays, computed on `device`.

    Codes are ±1 `(n, bits)`, labels 0/1 `(n, c)`, unchecked. At most `pairs` pairs are held at once, or one item's with
    some queries. `half`: products in float16 where that is exact; by default on everything but a CPU, where it is slow.
    Nothing waits for the device before the end, if all four lie there.
    """
    device = torch.device(device)
    bits = query_codes.shape[1]
    use_half = (device.type != "cpu" if half is None else half) and bits <= _HALF_BITS
    # Products are sums of ±1: small integers, exact in float32 and in float16, also where they are taken in TF32 or
    # bfloat16 or partial sums are kept in float16. Of the labels only sum > 0 is asked, which no rounding changes.
    # Under autocast the sums themselves would be rounded to bfloat16.
    dtype = torch.float16 if use_half else torch.float32
    with torch.no_grad(), torch.autocast(device.type, enabled=False), _in_any_order():
        # The negative of the codes: bits + product is then twice the distance.
        query, labels = -_moved(query_codes, device, dtype), _moved(query_labels, device, dtype)
        n_query = len(query)
        # Bin 2 d holds what is irrelevant at distance d, bin 2 d + 1 what is relevant.
        counts = torch.zeros((2 * (bits + 1), n_query), dtype=torch.int64, device=device)
        one = torch.ones((), dtype=torch.int64, device=device)
        items = max(1, pairs // min(n_query, _QUERIES))
        for first in range(0, len(database_codes), items):  # outside, so that each item is moved once
            some = slice(first, first + items)
            item, item_labels = (_moved(side[some], device, dtype) for side in (database_codes, database_labels))
            for at in range(0, n_query, _QUERIES):
                these = slice(at, at + _QUERIES)
                place = (item @ query[these].T).add_(bits)  # (items, queries)
                place += item_labels @ labels[these].T > 0
                counts[:, these].scatter_add_(0, place.long(), one.expand_as(place))
        of_query = counts.T.reshape(n_query, bits + 1, 2)
        return of_query.sum(dim=2).cpu().numpy(), of_query[:, :, 1].contiguous().cpu().numpy()


@contextlib.contextmanager
def _in_any_order() -> Iterator[None]:
    """Without torch's deterministic algorithms: whole numbers add up to the same in any order, and sorting all pairs
    first, as these do on a GPU, takes many times as long."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def _moved(matrix: Matrix, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A matrix or some of its rows `(n, columns)` there; it moves as it is and is converted there."""
    return torch.as_tensor(matrix).detach().to(device).to(dtype)

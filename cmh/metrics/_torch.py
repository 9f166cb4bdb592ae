"""The histograms of `_kernel` by matrix products, for codes that already lie on a GPU. The integers are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cmh.metrics._checks import Matrix

# Pairs held at once, at about 30 bytes each.
_PAIRS = 2**24


def histograms(
    query_codes: Matrix,
    database_codes: Matrix,
    query_labels: Matrix,
    database_labels: Matrix,
    *,
    device: torch.device | str,
    pairs: int = _PAIRS,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All items and relevant items at each Hamming distance, two `(n_query, bits + 1)` arrays, computed on `device`.

    Codes are ±1 `(n, bits)`, labels 0/1 `(n, c)`, unchecked. At most `pairs` pairs are held at once, or one query's.
    """
    # Sums of ±1 and of 0/1 are small integers: exact in float32, also where products are taken in TF32 or bfloat16.
    # Under autocast the sums themselves would be rounded.
    with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
        query, database, labels, database_label = (
            _float(matrix, device) for matrix in (query_codes, database_codes, query_labels, database_labels)
        )
        n_query, bits = query.shape
        bins = 2 * (bits + 1)
        rows = max(1, pairs // len(database))
        counts = torch.empty((n_query, bins), dtype=torch.int64, device=device)
        for first in range(0, n_query, rows):
            inner = query[first : first + rows] @ database.T  # (rows, n_database)
            place = (
                bits - inner
            ).long()  # twice the distance: bin 2 d holds what is irrelevant, 2 d + 1 what is relevant
            place += labels[first : first + rows] @ database_label.T > 0
            place += torch.arange(len(place), device=device)[:, None] * bins
            found = torch.bincount(place.flatten(), minlength=len(place) * bins)
            counts[first : first + rows] = found.view(-1, bins)
        pairs_of_bins = counts.view(n_query, bits + 1, 2)
        return pairs_of_bins.sum(dim=2).cpu().numpy(), pairs_of_bins[:, :, 1].contiguous().cpu().numpy()


def _float(matrix: Matrix, device: torch.device | str) -> torch.Tensor:
    return torch.as_tensor(matrix).detach().to(device=device, dtype=torch.float32)

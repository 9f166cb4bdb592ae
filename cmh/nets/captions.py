"""Items with several captions each: a net's outputs on all of them, made into one output an item.

`starts` `(n + 1,)` says whose rows are whose: item i has those from `starts[i]` to `starts[i + 1]`, at least one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Starts = NDArray[np.int64]


def blocks(n_rows: int, at_once: int, starts: Starts | None = None) -> Iterator[tuple[slice, Starts | None]]:
    """The rows of so many items at once, and where the captions of each of these begin; without `starts` an item is a
    row."""
    for first in range(0, n_rows if starts is None else len(starts) - 1, at_once):
        if starts is None:
            yield slice(first, first + at_once), None
        else:
            some = starts[first : first + at_once + 1]
            yield slice(int(some[0]), int(some[-1])), some


def means(outputs: Tensor, starts: Starts | None) -> Tensor:
    """Outputs `(m, bits)` of a block's rows to their means `(n, bits)`, one an item; without `starts` as they are."""
    if starts is None:
        return outputs
    lengths = torch.from_numpy(np.diff(starts)).to(outputs.device)
    owners = torch.arange(len(lengths), device=outputs.device).repeat_interleave(lengths, output_size=len(outputs))
    sums = outputs.new_zeros(len(lengths), outputs.shape[1]).index_add_(0, owners, outputs)
    return sums / lengths[:, None]

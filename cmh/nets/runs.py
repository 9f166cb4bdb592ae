"""Maps of which most neighbouring rows are equal, kept as their runs of equal rows: SCAHN's published text net.

Of the 849 rows that a text of the clip art has at six scales, 15 differ from the one before. Whatever looks at one row
at a time is computed once a run, statistics count a run as often as it has rows, and a convolution over all rows takes
sums of its weight over a run's rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

EDGES = 8192  # products `(out, in)` by `(in, columns)` at once: of 64 × 64 numbers, 134 MB


@dataclass(frozen=True)
class Runs:
    """Runs of equal rows in maps `(b, d, …)`, item after item; an item's first run begins at row 0.

    Of each run, `(n,)`: its item, its first row `place`, its number of rows `length`, and the run `before` it in its
    item, which for an item's first run is its last one.
    """

    item: Tensor
    place: Tensor
    length: Tensor
    before: Tensor
    n_items: int

    @classmethod
    def of(cls, rows: Tensor) -> Runs:
        """Those of maps `(b, d, columns)`; NaN equals nothing."""
        n_items, height = rows.shape[:2]
        first = torch.ones((n_items, height), dtype=torch.bool)
        first[:, 1:] = (rows[:, 1:] != rows[:, :-1]).any(2)
        item, place = first.nonzero(as_tuple=True)
        flat = item * height + place
        length = torch.diff(flat, append=flat.new_tensor([n_items * height]))
        per_item = first.sum(1)
        before = torch.arange(len(item)) - 1
        before[place == 0] += per_item
        return cls(item, place, length, before, n_items)

    def convolved(self, maps: Tensor, weight: Tensor) -> Tensor:
        """What a convolution of kernel (d, 1) makes of the whole maps: `(b, out, columns)`.

        Parameters
        ----------
        maps: of each run its row, `(n, in, columns)`. weight: `(out, in, d, 1)`.

        With P_r the sum of the weight's first r rows, a run from r to s of value a gives (P_s − P_r) a. So a change
        from a to a' at row r gives P_r (a − a'), and the last run P_d a: one product a run, and no difference of sums.
        """
        sums = weight[..., 0].permute(2, 0, 1).to(torch.float64).cumsum(0).to(weight.dtype)  # (d, out, in): P_1 … P_d
        inner = self.place > 0
        steps = maps[self.before] - maps * inner.to(maps.dtype)[:, None, None]
        to = torch.where(inner, self.place, len(sums)) - 1
        out = maps.new_zeros(self.n_items, weight.shape[0], maps.shape[2])
        for at, step, item in zip(*(torch.split(part, EDGES) for part in (to, steps, self.item)), strict=True):
            out = out.index_add(0, item, sums[at] @ step)
        return out

    def normed(self, maps: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """Batch norm of `maps` `(n, channels, columns)` with the statistics of the whole maps, which it keeps, too."""
        if norm.training:
            total = int(self.length.sum()) * maps.shape[2]
            share = (self.length.to(maps.dtype) / total)[:, None, None]
            mean = (maps * share).sum((0, 2))
            centred = maps - mean[:, None]
            variance = (centred.square() * share).sum((0, 2))
            _keep(norm, mean.detach(), variance.detach() * (total / max(total - 1, 1)))
        else:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            centred, variance = maps - norm.running_mean[:, None], norm.running_var
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        return centred * scale[:, None] + norm.bias[:, None]


def _keep(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """What the layer itself does with a batch's statistics in training."""
    assert norm.momentum is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)

"""How the entries of a large matrix are distributed, of which only blocks are ever in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

BINS = 400  # of the histogram whose fullest bin is the mode


def distribution(blocks: Callable[[], Iterator[Tensor]], bound: float) -> dict[str, Tensor]:
    """Of the off-diagonal entries of all blocks `(m, m)`: mode, scales to its left and right, lowest, highest; scalars.

    The mode is the centre of the fullest of BINS bins on [−bound, bound]. A Gaussian is fitted to the entries left of
    it and a Laplace distribution to those right of it, both centred at the mode. `blocks()` is called twice.
    """

    def entries() -> Iterator[Tensor]:
        for S in blocks():
            yield S[~torch.eye(len(S), dtype=torch.bool, device=S.device)].double().clamp(-bound, bound)

    pools = [(torch.histc(e, BINS, -bound, bound), e.min(), e.max()) for e in entries() if len(e)]
    counts, lows, highs = (torch.stack(values) for values in zip(*pools, strict=True))
    mode = (2 * counts.sum(0).argmax() + 1) * bound / BINS - bound
    sums = torch.zeros(4, dtype=torch.float64, device=mode.device)
    for e in entries():
        below, above = (mode - e).relu(), (e - mode).relu()
        sums += torch.stack([(below > 0).sum(), below.square().sum(), (above > 0).sum(), above.sum()])
    left, right = sums[1] / sums[0].clamp_min(1), sums[3] / sums[2].clamp_min(1)
    values = {"mode": mode, "scale_left": left.sqrt(), "scale_right": right, "low": lows.min(), "high": highs.max()}
    return {name: value.float() for name, value in values.items()}

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


def lower_of_two(values: Tensor) -> Tensor:
    """Probability `(n,)` that a value is of the lower of two Gaussians that are fitted to all of them.

    As NRCH fits them: values are put into [0, 1]; k-means, from both ends, says which are together at first; then at
    most 10 rounds of expectation and maximisation, until the mean log likelihood rises by less than .5. 5e-4 is added
    to a variance.
    """
    x = values.double()
    x = (x - x.min() + 1e-8) / (x.max() - x.min() + 1e-8)
    middles = torch.stack([x.min(), x.max()])
    for _ in range(10):
        near = (x[:, None] - middles).abs().argmin(1)
        share = torch.stack([near == 0, near == 1], 1).to(x)
        middles = (share * x[:, None]).sum(0) / share.sum(0).clamp_min(1)
    before = -torch.inf
    for _ in range(10):
        weights = share.sum(0).clamp_min(1e-8)
        middles = (share * x[:, None]).sum(0) / weights
        variances = (share * (x[:, None] - middles).square()).sum(0) / weights + 5e-4
        logs = (weights / len(x)).log() - ((x[:, None] - middles).square() / variances + variances.log()) / 2
        share, now = logs.softmax(1), float(logs.logsumexp(1).mean())
        if now - before < 0.5:
            break
        before = now
    return share[:, int(middles.argmin())]

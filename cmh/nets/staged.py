"""SCAHN's nets: four stages one after another with a code from each, and the learned weights that fuse those."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmh.nets.multiscale import ScaleMap, raw_map
from cmh.nets.runs import Runs

ROWS_PER_RUN = 4  # of a text's map: with fewer, a convolution over all rows takes less time and memory


class Staged(nn.Module):
    """Stages one after another, and a head on each."""

    def __init__(self, stages: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages, self.heads = nn.ModuleList(stages), nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        """h^1 … h^4 as `(4, b, bits)`."""
        codes = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            codes.append(torch.tanh(head(x)))
        return torch.stack(codes)


class Fusion(nn.Module):
    """z = Σ_l W_l ∘ h^l with a learned W `(4, bits)`: `(4, b, bits)` to `(b, bits)`."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, bits).normal_(0.25, 1 / bits))

    def forward(self, layers: Tensor) -> Tensor:
        """What the stages' codes come to."""
        return fuse(layers, self.weight)


def fuse(layers: Tensor, weight: Tensor) -> Tensor:
    """z = Σ_l W_l ∘ h^l: `(4, b, K)` and W `(4, K)` give `(b, K)`."""
    return (layers * weight[:, None]).sum(0)


def mlp_stages(n_in: int, hidden: int, bits: int) -> Staged:
    """Four fully connected stages, each with batch norm and a linear hash layer as its head."""
    sizes = [n_in, hidden, hidden, hidden]
    stages = [nn.Sequential(nn.Linear(before, hidden), nn.ReLU()) for before in sizes]
    heads = [nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, bits)) for _ in stages]
    return Staged(stages, heads)


class Residual(nn.Module):
    """Two convolutions with batch norm beside a projection with batch norm; `kernel` shrinks the map."""

    def __init__(self, n_in: int, n_out: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_in, n_out, (1, 3), padding=(0, 1), bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, kernel, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.skip = nn.Sequential(nn.Conv2d(n_in, n_out, kernel, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """The next map: `(b, n_in, h, w)` to `(b, n_out, h', w')`."""
        return torch.relu(self.body(x) + self.skip(x))


class ScaleStage(nn.Module):
    """The first stage: texts `(b, d)`, their maps at six scales, one residual block over all rows, `(b, out, 1, 6)`.

    Where few rows differ from the one before, each run of equal rows is computed once (on a CPU: a GPU would have to
    wait until the runs are counted).
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.scales, self.block = ScaleMap(), Residual(1, n_out, (n_in, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Texts to the map of the first stage."""
        rows = raw_map(x)
        if not rows.is_cuda:
            runs = Runs.of(rows)
            if ROWS_PER_RUN * len(runs.item) <= rows.shape[0] * rows.shape[1]:
                return self._by_runs(rows, runs)
        return self.by_rows(rows)

    def by_rows(self, rows: Tensor) -> Tensor:
        """The same of every row `(b, d, 6)` of `raw_map`."""
        found: Tensor = self.block(self.scales.weigh(rows).unsqueeze(1))
        return found

    def _by_runs(self, rows: Tensor, runs: Runs) -> Tensor:
        across, norm, _, down, last = self.block.body
        skip, skip_norm = self.block.skip
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(down, nn.Conv2d)
        assert isinstance(skip, nn.Conv2d)
        values = self.scales.weigh(rows[runs.item, runs.place]).unsqueeze(1)  # (n, 1, 6)
        maps = torch.relu(runs.normed(across(values.unsqueeze(2)).squeeze(2), norm))
        body = last(runs.convolved(maps, down.weight).unsqueeze(2))
        return torch.relu(body + skip_norm(runs.convolved(values, skip.weight).unsqueeze(2)))


def multiscale_stages(n_in: int, bits: int) -> Staged:
    """The published text net: maps of width 6, 4, 2 and 1."""
    stages = [
        ScaleStage(n_in, 64),
        Residual(64, 128, (1, 3)),
        Residual(128, 256, (1, 3)),
        Residual(256, 512, (1, 2)),
    ]
    heads = [
        nn.Sequential(
            nn.Conv2d(channels, 256, (1, width)),
            nn.ReLU(),
            nn.LocalResponseNorm(2, alpha=1e-4, beta=0.75, k=1.0),
            nn.Conv2d(256, bits, 1),
            nn.Flatten(),
        )
        for channels, width in ((64, 6), (128, 4), (256, 2), (512, 1))
    ]
    net = Staged(stages, heads)
    for module in net.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net

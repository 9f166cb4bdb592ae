"""A text vector at several scales: beside itself averages over windows of neighbouring words. SSAH's and SCAHN's."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import block_diag, csr_array
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, interpolate, linear

from cmh.nets.bags import Bags

SCALES = (50, 30, 15, 10, 5)  # words that one average covers; never more than the text vector has


def averages(x: Tensor) -> list[Tensor]:
    """Of texts `(b, d)`, for each scale, the averages of its windows, `(b, windows)`."""
    row = x.unsqueeze(1)
    windows = (min(scale, x.shape[1]) for scale in SCALES)
    return [avg_pool1d(row, window, window).squeeze(1) for window in windows]


def stretched(x: Tensor, width: int, mode: str) -> Tensor:
    """Averages `(b, windows)` stretched to `(b, width)` as `interpolate` does it in this mode."""
    return interpolate(x.unsqueeze(1), width, mode=mode).squeeze(1)


class ScaleVector(nn.Module):
    """SSAH's: one weight a scale, straight lines between the averages, all in one row: `(b, d)` to `(b, 6 d)`."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(len(SCALES)))

    def weighed(self, x: Tensor) -> list[Tensor]:
        """For each scale the weighed averages of texts `(b, d)` after a ReLU, `(b, windows)`."""
        return [torch.relu(weight * found) for weight, found in zip(self.weights, averages(x), strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """The vector and its five copies."""
        return torch.cat([x, *(stretched(found, x.shape[1], "linear") for found in self.weighed(x))], 1)


class ScaleLinear(nn.Module):
    """A linear layer on what `ScaleVector` gives, without that row: `(b, d)` to `(b, out)`.

    Stretching is linear and always the same, W·stretch(a) = (W·Stretch)·a, so the weight is folded instead of the
    averages being stretched: of 849 words 353 averages are left for 4,245 stretched ones, and the text itself is
    multiplied as what it is, a bag of words or not. Parameters start as those of the two modules given.
    """

    fold: Tensor

    def __init__(self, scales: ScaleVector, layer: nn.Linear) -> None:
        super().__init__()
        width = layer.in_features // (1 + len(SCALES))
        by_text, by_copies = layer.weight.detach().tensor_split([width], 1)
        self.scales = scales
        self.text = nn.Linear(width, layer.out_features)
        self.text.weight, self.text.bias = nn.Parameter(by_text.clone()), layer.bias
        self.copies = nn.Parameter(by_copies.T.contiguous())  # (5 d, out): the fold adds up its rows
        self.register_buffer("fold", _fold(width, layer.weight.dtype), persistent=False)  # on a GPU a dense matrix

    def forward(self, x: Tensor) -> Tensor:
        """Texts `(b, d)` to `(b, out)`."""
        folded = linear(self.fold, self.copies.T)  # (averages, out)
        by_text: Tensor = self.text(x)
        return by_text + torch.cat(self.scales.weighed(x), 1) @ folded


def _fold(width: int, dtype: torch.dtype) -> Bags:
    """How far each average counts at each place of the five stretched copies, `(averages, 5 width)`.

    `interpolate`'s straight lines: place i lies at (i + ½) windows / width − ½ between the averages.
    """
    blocks = []
    for scale in SCALES:
        count = width // min(scale, width)
        places = (np.arange(width) + 0.5) * count / width - 0.5
        blocks.append([np.interp(places, np.arange(count), average) for average in np.eye(count)])
    matrix = csr_array(block_diag(blocks))
    return Bags.of(matrix).with_entries(torch.from_numpy(matrix.data).to(dtype))


def fold_scales(net: nn.Sequential) -> None:
    """Put a `ScaleLinear` in the place of a net's first two modules, a `ScaleVector` and a linear layer."""
    scales, layer = net[0], net[1]
    assert isinstance(scales, ScaleVector)
    assert isinstance(layer, nn.Linear)
    net[1] = ScaleLinear(scales, layer)
    del net[0]


class ScaleMap(nn.Module):
    """SCAHN's: weight and bias a scale, averages repeated, side by side as a map: `(b, d)` to `(b, 1, d, 6)`."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(1, 1, 1) for _ in SCALES)

    def forward(self, x: Tensor) -> Tensor:
        """The vector and its five copies."""
        return self.weigh(raw_map(x)).unsqueeze(1)

    def weigh(self, rows: Tensor) -> Tensor:
        """Rows `(…, 6)` of a text's number and the averages around it, the averages weighed and after a ReLU."""
        weight, bias = (
            torch.cat([getattr(one, name).flatten() for one in self.convolutions]) for name in ("weight", "bias")
        )
        return torch.cat([rows[..., :1], torch.relu(rows[..., 1:] * weight + bias)], -1)


def raw_map(x: Tensor) -> Tensor:
    """Of texts `(b, d)` each number beside the averages around it, one a scale: `(b, d, 6)`."""
    return torch.stack([x, *(stretched(found, x.shape[1], "nearest") for found in averages(x))], 2)

"""A text vector at several scales: beside itself averages over windows of neighbouring words. SSAH's and SCAHN's."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, interpolate

SCALES = (50, 30, 15, 10, 5)  # words that one average covers; never more than the text vector has


def copies(x: Tensor, weigh: Iterable[Callable[[Tensor], Tensor]], mode: str) -> list[Tensor]:
    """A text vector `(b, 1, d)` and for each scale its averages: weighed, after a ReLU, stretched back to `(b, 1, d)`.

    `weigh`: a function for each scale. `mode`: how `interpolate` stretches.
    """
    width = x.shape[2]
    found = [x]
    for scale, weighed in zip(SCALES, weigh, strict=True):
        window = min(scale, width)
        averages = torch.relu(weighed(avg_pool1d(x, window, window)))
        on_line = mode == "linear" and averages.is_cuda
        found.append(_stretched(averages, width) if on_line else interpolate(averages, width, mode=mode))
    return found


def _stretched(averages: Tensor, width: int) -> Tensor:
    """`linear` in a picture of height 1: on a GPU torch has a deterministic gradient for that, and none for a line."""
    return interpolate(averages.unsqueeze(2), (1, width), mode="bilinear").squeeze(2)


class ScaleVector(nn.Module):
    """SSAH's: one weight a scale, straight lines between the averages, all in one row: `(b, d)` to `(b, 6 d)`."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(len(SCALES)))

    def forward(self, x: Tensor) -> Tensor:
        """The vector and its five copies."""
        return torch.cat(copies(x.unsqueeze(1), [weight.mul for weight in self.weights], "linear"), 1).flatten(1)


class ScaleMap(nn.Module):
    """SCAHN's: weight and bias a scale, averages repeated, side by side as a map: `(b, d)` to `(b, 1, d, 6)`."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(1, 1, 1) for _ in SCALES)

    def forward(self, x: Tensor) -> Tensor:
        """The vector and its five copies."""
        return torch.stack(copies(x.unsqueeze(1), self.convolutions, "nearest"), 3)

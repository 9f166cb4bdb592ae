"""What closed forms have: a linear map of each modality, and a covariance with its ridge."""

from __future__ import annotations

import torch
from torch import Tensor

from cmh.interfaces import Setup, State


class LinearMaps:
    """(x − mean) W of each modality: means `(d,)` and weights `(d, width)`, 0 until they are solved."""

    def __init__(self, setup: Setup, width: int) -> None:
        dims = {"image": setup.image_dim, "text": setup.text_dim}
        self.means = {name: torch.zeros(dim, device=setup.device) for name, dim in dims.items()}
        self.weights = {name: torch.zeros(dim, width, device=setup.device) for name, dim in dims.items()}

    def solve(self, name: str, mean: Tensor, weight: Tensor) -> None:
        """Set the map of one modality, in place: a restored one then has the same layout, and so rounds alike."""
        self.means[name].copy_(mean)
        self.weights[name].copy_(weight)

    def encode(self, name: str, features: Tensor) -> Tensor:
        """Features `(n, d)` of one modality to `(n, width)`."""
        return (features - self.means[name]) @ self.weights[name]

    def state(self) -> State:
        """Means and weights."""
        return {"means": self.means, "weights": self.weights}


def ridged(covariance: Tensor, share: float) -> Tensor:
    """A covariance `(d, d)` with λI added, where λ is this share of the mean variance."""
    ridge = share * covariance.diagonal().mean().clamp_min(1e-12)
    return covariance + ridge * torch.eye(len(covariance)).to(covariance)

"""Ridge: labels regressed from features, a random rotation, the sign. A linear control without a paper.

For each modality, W = (XᵀX + λnI)⁻¹ XᵀY on centred features X and centred labels Y; the code of an item is
sign(x W R), where R is one random matrix for both modalities whose rows (bits > labels) or columns are
orthonormal (QR of a Gaussian matrix). It takes one closed-form pass and no gradient. A deep method that does
not beat it has not earned its network.

Source: the ridge regression of Hoerl and Kennard, Technometrics 1970, DOI 10.1080/00401706.1970.10488634;
random rotation before the sign as in the baseline of Gong and Lazebnik, CVPR 2011 ("PCA-RR").

Differences from the sources:

1. Labels take the place of principal directions, so that the two modalities meet in one space.
2. λ is relative to the number of items and to the mean variance of the features, so that its scale means the
   same on every dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup, State
from cmh.nets.linear import LinearMaps, ridged
from cmh.seeding import derive
from cmh.training import train

TITLE = "Ridge regression to the labels, random rotation, sign"
YEAR = 1970
KIND = "shallow"
LABELS = True
SOURCE = "DOI 10.1080/00401706.1970.10488634"
EPOCHS = 1  # a closed form has nothing to repeat


@dataclass(frozen=True)
class Config:
    """Hyperparameters of the linear control."""

    lambda_image: float = param(1.0, "regularisation λ of the image regression", above=0, high=1e6)
    lambda_text: float = param(1.0, "regularisation λ of the text regression", above=0, high=1e6)


class Method:
    """The control as the trainer drives it: one closed-form epoch."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.lambdas = {"image": config.lambda_image, "text": config.lambda_text}
        self.labels, n_labels = setup.known_labels, setup.known_labels.shape[1]
        draw = torch.Generator().manual_seed(derive(setup.seed, "rotation"))
        self.rotation = _orthonormal(n_labels, setup.bits, draw).to(self.labels)
        self.maps = LinearMaps(setup, n_labels)

    def epoch(self, batches: Batches) -> dict[str, float]:
        """Solve both regressions. Returns the mean squared residual of each."""
        terms = {}
        targets = self.labels - self.labels.mean(0)
        for name, share in self.lambdas.items():
            gram, cross, total = self._moments(name, batches(), targets)
            n = len(targets)
            mean = total / n
            covariance = gram / n - torch.outer(mean, mean)
            # Targets are centred, so centring the features changes nothing in XᵀY.
            solved = torch.linalg.solve(ridged(covariance, share), cross / n)
            self.maps.solve(name, mean, solved)
            explained = 2 * (solved * cross / n).sum() - (solved * (covariance @ solved)).sum()
            terms[f"{name}_residual"] = float(targets.square().sum(1).mean() - explained)
        return terms

    def _moments(self, name: str, batches: Iterator[Batch], targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """XᵀX, XᵀY and the column sum of X in float64, batch by batch: memory does not grow with N."""
        dim = len(self.maps.means[name])
        gram = torch.zeros(dim, dim, dtype=torch.float64, device=targets.device)
        cross = torch.zeros(dim, targets.shape[1], dtype=torch.float64, device=targets.device)
        total = torch.zeros(dim, dtype=torch.float64, device=targets.device)
        for batch in batches:
            x = getattr(batch, name).double()
            gram += x.T @ x
            cross += x.T @ targets[batch.index].double()
            total += x.sum(0)
        return gram, cross, total

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return self.maps.encode("image", features) @ self.rotation

    def encode_text(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return self.maps.encode("text", features) @ self.rotation

    def state(self) -> State:
        """Everything that encoding depends on."""
        return {**self.maps.state(), "rotation": self.rotation}


def _orthonormal(n_rows: int, n_columns: int, draw: torch.Generator) -> Tensor:
    """`(n_rows, n_columns)` with orthonormal rows or columns, whichever are fewer."""
    tall = torch.randn(max(n_rows, n_columns), min(n_rows, n_columns), generator=draw)
    basis: Tensor = torch.linalg.qr(tall)[0]
    return basis if n_rows >= n_columns else basis.T


def trainable(config: dict[str, object]) -> None:
    """Fit the control with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

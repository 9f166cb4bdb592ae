"""DNpH: Qin, Huo, Huang, Dai, Zhang and Zhang, "Deep Neighborhood-preserving Hashing with Quadratic Spherical Mutual
Information for Cross-modal Retrieval", TMM 2024, DOI 10.1109/TMM.2023.3349075. (Not DNPH, the proxy hashing of the same
group.)

With f and g the outputs of the image and the text net for the b items of a batch, D_ij = 1 where two items share a
label (else 0), Y_ij = ½(1 + cos(a_i, b_j)) and M = b² / Σ D, DNpH minimises, over (a, b) = (f, f), (g, g), (f, g),

    J = Σ_(a,b) Σ_ij [ (D_ij Y_ij − 1)² + Y_ij² / M ].

That is the quadratic mutual information of codes and labels in its squared and clamped form: the first part asks
similar pairs for a cosine of 1 and is the constant 1 for others; the second asks all pairs for −1, the more, the more
pairs of the batch are similar. An item is its own neighbour. An epoch is one pass; each batch gives 3 × b × b cosines
and one joint step of both nets.

Differences from the paper and from the authors' code (QinLab-WFU/DNpH @e27c5b0):

1. The paper's text was not available: formula and values are those of the code. The code lacks a module and does not
   start.
2. J is a sum over pairs, as in the code; Adam does not see its scale.
3. What the code can do beside is an option that is off: a given M (`M`, 0: that of the batch), a Gaussian kernel on
   outputs in the place of the cosine, Y = e^(−|a_i−b_j|²/(2σ²)) (`kernel`, `sigma`), and the form that is not squared,
   J = Σ_(a,b) Σ_ij [ −D_ij Y_ij + Y_ij / M ] (`square_clamp: false`).
4. The code adds 1e-8 to each norm; here a norm is at least 1e-12.
5. The code fine-tunes CLIP ViT-B/32 (learning rate 1e-5) under the heads, on pictures and tokens. On frozen features
   the heads, Linear → dropout .2 → tanh, are all that is left; our default gives them a hidden layer.
6. The code's BertAdam (no bias correction, decoupled weight decay .2, each tensor's gradient clipped to norm 1, warm-up
   and a cosine) is Adam here, without decay or clipping, with rates that fall straight to a hundredth over the run.
7. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .613, the paper's point .542.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import cosines, similar, weighted
from cmh.nets.proxies import pair_of_heads
from cmh.training import train

TITLE = "Deep Neighborhood-preserving Hashing with Quadratic Spherical Mutual Information for Cross-modal Retrieval"
YEAR = 2024
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1109/TMM.2023.3349075"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DNpH."""

    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-3)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-3)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)
    dropout: float = param(0.2, "share of the bits that are set to 0 in training", low=0, below=1)
    M: float = param(0.0, "divisor M of the second part; 0: pairs / similar pairs of the batch", low=0, high=1e6)
    kernel: str = param("cosine", "similarity Y of two outputs", choices=["cosine", "gaussian"])
    sigma: float = param(3.0, "width σ (gaussian)", above=0, high=1e3)
    square_clamp: bool = param(True, "whether the two parts are squared")
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=0)


class Method:
    """DNpH as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        self.pair = pair_of_heads(setup, config)
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the mean of J over the steps and of its six terms."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, f: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        labels = self.labels[batch.index]
        return step_loss(f, g, similar(labels, labels), self.config)


def step_loss(f: Tensor, g: Tensor, D: Tensor, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms: `f`, `g` `(b, K)` with gradient, D `(b, b)` 0/1."""
    share = 1 / config.M if config.M else D.mean()
    terms = {}
    for name, a, b in (("image", f, f), ("text", g, g), ("image_text", f, g)):
        Y = affinity(a, b, config)
        terms[f"in_{name}"] = (D * Y - 1).square().sum() if config.square_clamp else -(D * Y).sum()
        terms[f"between_{name}"] = share * (Y.square() if config.square_clamp else Y).sum()
    return weighted(terms, {})


def affinity(codes: Tensor, others: Tensor, config: Config) -> Tensor:
    """Y `(b, m)` in [0, 1] of codes `(b, K)` and `(m, K)`."""
    if config.kernel == "cosine":
        return (1 + cosines(codes, others)) / 2
    squares = codes.square().sum(1, keepdim=True) + others.square().sum(1) - 2 * codes @ others.T
    return torch.exp(-squares.clamp_min(0) / (2 * config.sigma**2))


def trainable(config: dict[str, object]) -> None:
    """Train DNpH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

"""DHaPH: Huo, Qin, Zhang, Huang and Nie, "Deep Hierarchy-aware Proxy Hashing with Self-paced Learning for Cross-modal
Retrieval", TKDE 2024, DOI 10.1109/TKDE.2024.3401050.

With f and g the outputs of the image and the text net for the items of a batch, S_ij = 1 where two items share a label
(else 0) and s_ij = cos(a_i, b_j), DHaPH minimises Σ ℓ(a, b) over (a, b) = (f, f), (g, g), (f, g),

    ℓ = −mean_i log [ Σ_j S_ij w⁺_ij e^(s_ij/τ) / ( Σ_j S_ij w⁺_ij e^(s_ij/τ) + Σ_j (1 − S_ij) w⁻_ij e^(s_ij/τ) ) ],

    w⁺ = e^(−(1+s)δ/4),   w⁻ = e^(−(1−s)δ),   δ = min(1, e / ⌊E/3⌋) in epoch e = 1…E.

The weights are constants for the gradient: self-paced, they turn from all pairs to the hard ones over the first third
of the run, and stay so. An item is its own positive, within a modality, too. `τ` is `tau`; `self_paced: false` is δ =
0. An epoch is one pass; each batch of b pairs gives 3 × b × b cosines and one joint step of both nets.

Differences from the paper and from the authors' code (QinLab-WFU/DHaPH @44c3c9c):

1. The paper's text was not available: formula and values are those of the code.
2. What gives the method its name has no effect on a code: the hyperbolic loss of a hierarchy of 500 proxies is given
   detached outputs, so that it trains its own proxies and its map into the Poincaré ball, which are used nowhere else.
   Its weight α = 1, margin, curvature, clipping radius and neighbours (topk) can change no code, and the part is left
   out: what trains the codes is the loss above. (An authors' value with the outputs not detached is in the golden file:
   codes would get a gradient of about a tenth of this one.)
3. ⌊E/3⌋ is at least 1, for runs of fewer than three epochs.
4. The code fine-tunes CLIP ViT-B/32 (learning rate 1e-5) under the heads, on pictures and tokens. On frozen features
   the heads, Linear → dropout .2 → tanh, are all that is left; our default gives them a hidden layer.
5. The code's BertAdam (no bias correction, decoupled weight decay .2, each tensor's gradient clipped to norm 1, warm-up
   and a cosine) is Adam here, without decay or clipping, with rates that fall straight to a hundredth over the run.
6. Sums of exponentials are computed from their logarithms: the same value, also for a small τ.
7. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .619, the paper's point .594.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import pair_cosines, similar, weighted
from cmh.nets.proxies import pair_of_heads
from cmh.training import train

TITLE = "Deep Hierarchy-aware Proxy Hashing with Self-paced Learning for Cross-modal Retrieval"
YEAR = 2024
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1109/TKDE.2024.3401050"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DHaPH."""

    tau: float = param(0.3, "temperature τ of the cosines", low=0.01, high=10)
    self_paced: bool = param(True, "whether pairs are weighted; without, δ is 0")
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-3)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-3)
    dropout: float = param(0.2, "share of the bits that are set to 0 in training", low=0, below=1)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=0)


class Method:
    """DHaPH as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels, self.epochs = config, setup.known_labels, setup.epochs
        self.pair = pair_of_heads(setup, config)
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the mean loss of a step and its three terms."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, f: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        labels, pace = self.labels[batch.index], delta(self.pair.n_epochs + 1, self.epochs)
        paced = pace if self.config.self_paced else 0.0
        return step_loss(f, g, similar(labels, labels), tau=self.config.tau, delta=paced)


def delta(epoch: int, epochs: int) -> float:
    """δ in an epoch, counted from 1, of a run of so many."""
    return min(1.0, epoch / max(epochs // 3, 1))


def step_loss(f: Tensor, g: Tensor, S: Tensor, *, tau: float, delta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its terms: `f`, `g` `(b, K)` with gradient, S `(b, b)`."""
    return weighted({name: contrast(s, S, tau=tau, delta=delta) for name, s in pair_cosines(f, g).items()}, {})


def contrast(s: Tensor, similar: Tensor, *, tau: float, delta: float) -> Tensor:
    """ℓ from cosines s `(b, m)`; each row of S `(b, m)` must have a 1."""
    with torch.no_grad():
        log_weights = torch.where(similar > 0, -(1 + s) * delta / 4, -(1 - s) * delta)
    logits = s / tau + log_weights
    return (logits.logsumexp(1) - logits.masked_fill(similar == 0, -torch.inf).logsumexp(1)).mean()


def trainable(config: dict[str, object]) -> None:
    """Train DHaPH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

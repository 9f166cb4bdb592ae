"""DDWSH: "Deep Distance Weighted Sampling Hashing for Cross-modal Retrieval" (authors of the QinLab group), TMM 2026,
ieeexplore.ieee.org/document/11353914.

With f and g the outputs of the image and the text net for the b items of a batch, d_ij = |a_i/|a_i| − b_j/|b_j|| for
(a, b) = (f, f), (g, g), (f, g), and one triplet (a, p, n) for each item a that shares a label with another item of the
batch and none with a third, DDWSH minimises

    J = Σ_(a,b) (1/T) Σ_a [ max(0, d_ap − β_a + m) + max(0, β_a − d_an + m) ],

T the number of triplets of which a half is active, β_a the mean of the learnt boundaries β_c of a's classes. p is drawn
evenly from the items that share a label with a, n from those that share none, with a probability that is inverse to how
often its distance occurs between points on a sphere of K dimensions (distance weighted sampling; distances below .5
count as .5):

    log 1/q(d) = (2 − K) log d − ½ (K − 3) log max(1 − d²/4, 1e-8).

`m` is `margin`, the first β `beta`. An item is never its own positive, in the third pair, too. An epoch is one pass;
each step trains both nets and the boundaries.

Differences from the paper and from the authors' code (QinLab-WFU/DDWSH @91c2982):

1. The paper's text was not available: formula and values are those of the code, which stops at its first step (it asks
   for `beta_constant`, which is never set, and for numpy, which is not imported). β is learnt here, as its lines say.
2. The code hands the b × b distances to the sampler where it wants outputs: q(d) is then of distances between rows of
   distances, in b dimensions. `sampler: distances` does that; the default, and the paper's point, are outputs of a's
   own modality, which is what the sampler is written for.
3. The code's cut-offs and temperatures that no line reads are left out. Where a batch has no triplet its sum fails;
   here a pair of modalities without one adds 0.
4. p and n are found from two uniform numbers each by inverting the distribution, which is the same draw.
5. The code fine-tunes CLIP ViT-B/32 (learning rate 1e-5) under the heads, on pictures and tokens. On frozen features
   the heads, Linear → dropout .2 → tanh, are all that is left; our default gives them a hidden layer.
6. The code's BertAdam (no bias correction, decoupled weight decay .2, which also pulls β to 0, each tensor's gradient
   clipped to norm 1, warm-up and a cosine) is Adam here, without decay or clipping, with rates that fall straight to a
   hundredth over the run.
7. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .624, the paper's point .536.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import similar, weighted
from cmh.nets.optimizers import Falling, optimizer
from cmh.nets.proxies import Proxies, pair_of_heads
from cmh.training import train

TITLE = "Deep Distance Weighted Sampling Hashing for Cross-modal Retrieval"
YEAR = 2026
KIND = "supervised"
LABELS = True
SOURCE = "ieeexplore.ieee.org/document/11353914"
NEAREST = 0.5  # distances below count as this one


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DDWSH."""

    margin: float = param(0.2, "margin m on both sides of the boundary", low=0, high=2)
    beta: float = param(1.2, "boundaries β at the start, a distance of unit vectors", above=0, high=2)
    sampler: str = param("outputs", "whose distances negatives are drawn by", choices=["outputs", "distances"])
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=0)
    dropout: float = param(0.2, "share of the bits that are set to 0 in training", low=0, below=1)
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-3)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-3)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)
    lr_beta: float = param(1e-3, "learning rate of the boundaries at the start; 0: they stay", low=0, high=10)


class Method:
    """DDWSH as the trainer drives it. `boundaries` is β `(c,)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        self.pair = pair_of_heads(setup, config)
        net = Proxies(torch.full((self.labels.shape[1],), config.beta)).to(setup.device)
        self.boundaries, self.pair.nets["boundaries"] = net.table, net
        if config.lr_beta:
            self.pair.team.add("boundaries", optimizer("adam", net, lr=config.lr_beta), Falling("linear", end=0.01))
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the means of J and its three terms."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, f: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        draws = torch.rand(3, len(f), 2, device=f.device)
        return step_loss(f, g, self.boundaries, self.labels[batch.index], draws, self.config)


def step_loss(
    f: Tensor, g: Tensor, boundaries: Tensor, labels: Tensor, draws: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms: `f`, `g` `(b, K)`, β `(c,)`, labels `(b, c)`, and of each pair of modalities (images,
    texts, both) and item the uniform numbers `(3, b, 2)` that its positive and its negative are drawn with."""
    f, g = normalize(f), normalize(g)
    beta, S, terms = labels @ boundaries / labels.sum(1).clamp_min(1), similar(labels, labels), {}
    for (name, a, b), draw in zip((("image", f, f), ("text", g, g), ("image_text", f, g)), draws, strict=True):
        with torch.no_grad():
            rows = a if config.sampler == "outputs" else distances(a, b)
            used, p, n = triplets(rows, S, draw)
        near, far = ((a - b[other]).norm(dim=1).clamp_min(1e-8) for other in (p, n))
        parts = used * torch.stack([relu(near - beta + config.margin), relu(beta - far + config.margin)])
        terms[name] = parts.sum() / (parts > 0).any(0).sum().clamp_min(1)
    return weighted(terms, {})


def triplets(rows: Tensor, S: Tensor, draw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which items have a triplet `(b,)` 0/1, and the positive and the negative of each `(b,)`, by numbers `(b, 2)`.

    `rows` `(b, n)` is what the negatives' distances are between; n is the number of dimensions in q.
    """
    positives = S * (1 - torch.eye(len(S), dtype=S.dtype, device=S.device))
    used = positives.any(1) & (S == 0).any(1)
    d = distances(rows, rows).clamp_min(NEAREST)
    log_rarity = (2 - rows.shape[1]) * d.log() - (rows.shape[1] - 3) / 2 * (1 - d.square() / 4).clamp_min(1e-8).log()
    rarity = (log_rarity - log_rarity.masked_fill(S > 0, 0).amax(1, keepdim=True)).exp() * (S == 0)
    p, n = inverted(positives, draw[:, 0]), inverted(rarity, draw[:, 1])
    return used.to(S.dtype), p, n


def inverted(weights: Tensor, draw: Tensor) -> Tensor:
    """The entry of each row of weights `(b, m)` at which their running sum passes a share `(b,)` of the whole."""
    sums = weights.cumsum(1)
    passed = (sums <= draw[:, None] * sums[:, -1:]).sum(1)
    last = (sums < sums[:, -1:]).sum(1)  # where rounding would pass the end
    return torch.minimum(passed, last)


def distances(rows: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances `(b, m)` of rows `(b, d)` and `(m, d)`."""
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")


def trainable(config: dict[str, object]) -> None:
    """Train DDWSH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

"""DIMCH: "Cross-modal Hashing via Diverse Instances Matching" (authors of the toolbox that holds it), TIP 2025,
ieeexplore.ieee.org/document/10974482.

Each net makes s instances of an item, x_1 … x_s of an image and y_1 … y_s of a text, vectors of K numbers; the outputs
are f = tanh(mean_k x_k) and g alike. With the smooth Chamfer similarity of two items and the triplets over anchors a,
items p that share r_ap > 0 labels with a, and items n that share none,

    sim = ½ [ mean_k (1/τ) log Σ_l e^(τ cos(x_k, y_l)) + mean_l (1/τ) log Σ_k e^(τ cos(x_k, y_l)) ],
    tri(D, m) = Σ_{a,p,n} w_ap max(0, D_ap − D_an + m) / #{(a, p, n): D_ap − D_an + m > 0},

w_ap = (2^r_ap − 1)/(best DCG of a in the batch), D = max(0, 1 − sim) or E = max(0, 1 − cos(f, g)), DIMCH minimises

    J = ½ α_t [tri(D, m_t) + tri(Dᵀ, m_t)] + ½ α_h [tri(E, m_h) + tri(Eᵀ, m_h)]
        + α_m [mean k(x, x') − 2 mean k(x, y) + mean k(y, y')] + α_u [u(x) + u(y)]
        + ½ α_q [mean (f − sign f)² + mean (g − sign g)²],

k = e^(−γ|x̂ − ŷ|) over all instances of the batch (x̂ = x/|x|; maximum mean discrepancy), u the diversity,
Σ e^(−20|x̂ − x̂'|²)/(½ s (s − 1)) over pairs of instances. `s, τ, γ` are `instances, temperature, mmd_gamma`, `α_t, α_h,
α_m, α_u, α_q` are `triplet_alpha, hash_triplet_alpha, mmd_alpha, unif_alpha, quan_alpha`, `m_t, m_h` are
`token_triplet_margin, triplet_margin`. An item is its own p, too. An epoch is one pass; each step trains both nets.

Differences from the paper and from the authors' code (kalenforn/clip-based-cross-modal-hash @6d64ae2):

1. The paper's text was not available: formula and values are those of the code and its configuration.
2. The code makes the instances of CLIP's 50 patch and 32 word tokens, which are fine-tuned along (learning rate 1e-5),
   by a convolution. Of token arrays `(n, tokens, width)` that is done here, too; of one vector an item, all that other
   features have, a linear layer makes s vectors of `hidden` units, and the rest is the code's.
3. The code's u takes the pairs of the whole batch, so that it drives items apart, not an item's instances
   (`diversity: batch`, the paper's point). Our default takes the pairs within each item and the mean over items.
4. The code's own loss for pairs, temperatures and margins that no line reads are left out.
5. No b × b × b and no (b s)³ block is built; distances of unit rows come from their cosines.
6. The code's BertAdam (no bias correction, decoupled weight decay .2, each tensor's gradient clipped to norm 1, warm-up
   and a cosine) is Adam here, without decay or clipping, with rates that fall straight to a hundredth over the run.
   First weights are PyTorch's; the code draws Kaiming's.
7. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .620; the paper's point, with batches of 20, was not tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import cosines, gains, sign, triplet_counts, weighted
from cmh.nets import instances as sets
from cmh.nets.instances import Instances
from cmh.nets.optimizers import Falling
from cmh.nets.pair import Pair
from cmh.training import train

TITLE = "Cross-modal Hashing via Diverse Instances Matching"
YEAR = 2025
KIND = "supervised"
LABELS = True
SOURCE = "ieeexplore.ieee.org/document/10974482"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DIMCH."""

    instances: int = param(8, "instances s of an item", low=1, high=1024)
    temperature: float = param(16.0, "temperature τ of the similarity of two items", above=0, high=80)
    mode: str = param("smooth_chamfer", "similarity of two items", choices=["smooth_chamfer", "chamfer"])
    triplet_alpha: float = param(50.0, "weight α_t of the triplets of instances", low=0, high=1e4)
    hash_triplet_alpha: float = param(50.0, "weight α_h of the triplets of outputs", low=0, high=1e4)
    mmd_alpha: float = param(1.0, "weight α_m of the discrepancy of images and texts", low=0, high=1e4)
    unif_alpha: float = param(0.3, "weight α_u of the diversity", low=0, high=1e4)
    quan_alpha: float = param(1.0, "weight α_q of the quantisation", low=0, high=1e4)
    mmd_gamma: float = param(0.5, "γ of the discrepancy's kernel", above=0, high=1e3)
    token_triplet_margin: float = param(0.3, "margin m_t of the triplets of instances", low=0, high=2)
    triplet_margin: float = param(0.3, "margin m_h of the triplets of outputs", low=0, high=2)
    diversity: str = param("item", "pairs of u: an item's, or the batch's", choices=["item", "batch"], paper="batch")
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-3)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-3)
    dropout: float = param(0.3, "dropout before the hash layer", low=0, below=1)
    batch_size: int = param(64, "items a step", low=1, high=4096, paper=20)
    hidden: int = param(128, "units of each instance made of one vector", low=1, high=65536, paper=512)


class Method:
    """DIMCH as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        image, text = (
            Instances(of.shape[1:], config.instances, config.hidden, setup.bits, dropout=config.dropout)
            for of in (setup.image, setup.text)
        )
        self.pair = Pair(setup, config, image, text, falling=Falling("linear", end=0.01))
        self.state = self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the means of J and its terms."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return step_loss(x, y, merged(x), merged(y), self.labels[batch.index], self.config)

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return merged(self.pair.encode_image(features))

    def encode_text(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return merged(self.pair.encode_text(features))


def merged(instances: Tensor) -> Tensor:
    """Outputs `(n, K)` of instances `(n, s, K)`."""
    return torch.tanh(instances.mean(1))


def step_loss(
    x: Tensor, y: Tensor, f: Tensor, g: Tensor, labels: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms without weights: instances `(b, s, K)`, outputs `(b, K)`, labels `(b, c)`."""
    near = {"image": sets.cosines(x, x), "text": sets.cosines(y, y), "image_text": sets.cosines(x, y)}
    weights, terms = gains(labels), {}
    D = (1 - sets.similarity(near["image_text"], config.temperature, smooth=config.mode != "chamfer")).clamp_min(0)
    E = (1 - cosines(f, g)).clamp_min(0)
    for name, d, margin in (("tokens", D, config.token_triplet_margin), ("outputs", E, config.triplet_margin)):
        terms[f"{name}_image"] = triplets(d, weights, margin)
        terms[f"{name}_text"] = triplets(d.T.contiguous(), weights, margin)
    far = {name: sets.distances(cosine, own=name != "image_text") for name, cosine in near.items()}
    image, text, both = ((-config.mmd_gamma * far[name]).exp().mean() for name in near)
    terms["mmd"] = image - 2 * both + text
    crowds = (sets.crowding(near[name], 20, within=config.diversity) for name in ("image", "text"))
    terms["diversity"] = torch.stack(list(crowds)).sum()
    for name, codes in (("image", f), ("text", g)):
        terms[f"quantisation_{name}"] = (codes - sign(codes)).square().mean()
    factors = {"tokens": config.triplet_alpha / 2, "outputs": config.hash_triplet_alpha / 2, "mmd": config.mmd_alpha}
    factors |= {"diversity": config.unif_alpha, "quantisation": config.quan_alpha / 2}
    return weighted(terms, {name: factors[name.partition("_")[0]] for name in terms})


def triplets(far: Tensor, weights: Tensor, margin: float) -> Tensor:
    """tri of distances `(b, b)`."""
    within, reached, count = triplet_counts(far, (weights > 0).to(far.dtype), margin=margin, weights=weights)
    return ((far * (within - reached)).sum() + margin * within.sum()) / count.clamp_min(1)


def trainable(config: dict[str, object]) -> None:
    """Train DIMCH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

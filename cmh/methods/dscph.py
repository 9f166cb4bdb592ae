"""DScPH: Qin, Wu, Zhang, Huang and Nie, "Deep Semantic-consistent Penalizing Hashing for Cross-modal Retrieval", TMM
27, 2025, ieeexplore.ieee.org/document/10855579.

With h = f, g the outputs of the image and the text net for the items of a batch, c the cosine of h_i and a learnt proxy
of a class, L = 1 where the item has the class and [·] a constant for the gradient, DScPH minimises Σ_h of three terms:

    proxy      1 − TP / (TP + P + N),   TP = 2 + 2 Σ L max(0, c),   P = Σ L (1 − c) [e^(1.3 (1 − c))],
               N = Σ_{c > τ} (1 − L) (c − ψ) [e^(1.3 (c − 1))], sums over all items and classes;
    triplets   the mean of s_an − s_ap + ε over triplets with 0 < s_ap − s_an < ε, s = cos, where a and p share a class
               and a and n do not, + the mean of max(0, h_a·h_n − β) over such pairs a, n with s_an ≥ β;
    variance   the mean of σ(z) (1 − σ(z)), z the rotated h scaled to length 1.

`τ`, `ψ`, `ε`, `β` are `tau`, `psi`, `margin` and `beta`; the weights of the last two terms are `triplets` and
`variance`. The modalities meet in the proxies alone. An epoch is one pass; each step trains both nets and the proxies.

Differences from the paper and from the authors' code (QinLab-WFU/DScPH @573fd7a):

1. The paper's text was not available: formula and values are those of the code, which lacks modules and does not start.
   The same group's toolbox (@8040b44) has τ .9, ψ .7 and no triplets; our default has none either.
2. The variance has next to no effect: the mean of z² is 1/K whatever the code is, so that the term is ¼ − 1/(16 K) up
   to fourth order, and codes are signs of h, which is not rotated. It is off by default; with it (`variance`) there is
   a rotation of K Householder reflections, trained at `lr_rotation` (in the toolbox never), which starts as −1.
3. ε and β begin each epoch as given, for the images of its first batch; from its texts on they are half of the mean
   s_ap − s_an (at least 0) and 1 − (1 − mean s_an)/2 of those images, as in the code, whose miner is to follow all
   batches.
4. h_a·h_n is not scaled, and up to K, while β is on the scale of cosines: as in the code.
5. The proxies start from N(0, 2/C) (the code: evenly between ±√(6/(C + K))).
6. The code fine-tunes CLIP ViT-B/32 (rate 1e-5) under the heads. On frozen features the heads, Linear → dropout .2 →
   tanh, are all that is left; our default gives them a hidden layer.
7. The code's BertAdam (no bias correction, decoupled weight decay .2, each tensor's gradient clipped to norm 1, warm-up
   and a cosine) is Adam here, without decay or clipping; the nets' rates fall straight to a hundredth over the run.
8. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .623 (with triplets and a rate of the proxies of 1e-3 .526, without triplets .617), the paper's point .383,
   below ridge: its proxies hardly move at 1e-5, its heads have no hidden layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import cosines, mean_where, semi_hard, similar, strangers, weighted
from cmh.nets.optimizers import optimizer
from cmh.nets.proxies import Proxies, first_proxies, pair_of_heads
from cmh.nets.rotation import reflected
from cmh.training import train

TITLE = "Deep Semantic-consistent Penalizing Hashing for Cross-modal Retrieval"
YEAR = 2025
KIND = "supervised"
LABELS = True
SOURCE = "ieeexplore.ieee.org/document/10855579"
STEEP = 1.3  # of the constant exponentials in P and N
Bounds = tuple[Tensor, Tensor]  # ε, β
Learnt = tuple[Tensor, Tensor | None]  # proxies (c, K), and where they are trained the reflections (K, K)


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DScPH."""

    tau: float = param(0.3, "threshold τ: other classes at smaller cosines cost nothing", low=-1, below=1)
    psi: float = param(0.3, "ψ: cosine at which another class costs nothing", low=-1, below=1)
    triplets: float = param(0.0, "weight of the triplets within a modality", low=0, high=1e3, paper=1)
    margin: float = param(0.25, "margin ε of the first images of an epoch", low=0, high=2)
    beta: float = param(0.0, "bound β of the first images of an epoch", low=-1, high=1)
    variance: float = param(0.0, "weight of the variance of bits; 0: no rotation either", low=0, high=1e3, paper=1)
    dropout: float = param(0.2, "share of the bits that are set to 0 in training", low=0, below=1)
    lr_proxies: float = param(0.01, "learning rate of the proxies (Adam)", above=0, high=10, paper=1e-5)
    lr_rotation: float = param(1e-5, "learning rate of the rotation (Adam)", above=0, high=10)
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-3)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-3)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=0)


class Method:
    """DScPH as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        self.pair = pair_of_heads(setup, config)
        proxies, eye = first_proxies(setup), torch.eye(setup.bits, device=setup.device)
        rotation = self._trained("rotation", eye, config.lr_rotation) if config.variance else None
        self.learnt = (self._trained("proxies", proxies, config.lr_proxies), rotation)
        self.given = (torch.tensor(config.margin, device=setup.device), torch.tensor(config.beta, device=setup.device))
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def _trained(self, name: str, first: Tensor, lr: float) -> Tensor:
        self.pair.team.nets[name] = net = Proxies(first)
        self.pair.team.add(name, optimizer("adam", net, lr=lr))
        return net.table

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the means of the loss and its terms."""
        self.bounds: Bounds | None = None  # of the first batch's images, once they are known
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, f: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        labels, first = self.labels[batch.index], self.bounds or self.given
        self.bounds = self.bounds or bounds(f, similar(labels, labels), self.given)
        return step_loss(f, g, labels, self.learnt, (first, self.bounds), self.config)


def step_loss(
    image: Tensor, text: Tensor, labels: Tensor, learnt: Learnt, used: tuple[Bounds, Bounds], config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its terms without weights: outputs `(b, K)`, labels `(b, c)`, ε and β of both."""
    terms, S = {}, similar(labels, labels)
    for name, h, (margin, beta) in (("image", image, used[0]), ("text", text, used[1])):
        terms[f"proxy_{name}"] = proxy_loss(cosines(h, learnt[0]), labels, config)
        if config.triplets:
            s = cosines(h, h)
            terms[f"triplets_{name}"] = semi_hard(s, S, margin)
            terms[f"apart_{name}"] = mean_where(relu(h @ h.T - beta), strangers(S) * (s >= beta))
        if learnt[1] is not None:
            share = torch.sigmoid(normalize(reflected(h, learnt[1])))
            terms[f"variance_{name}"] = (share * (1 - share)).mean()
    weights = {"triplets": config.triplets, "apart": config.triplets, "variance": config.variance, "proxy": 1}
    return weighted(terms, {name: weights[name.split("_")[0]] for name in terms})


def proxy_loss(c: Tensor, labels: Tensor, config: Config) -> Tensor:
    """The first term from cosines c and labels `(b, c)`."""
    hits = 2 + 2 * (labels * relu(c)).sum()
    misses = (labels * (1 - c) * torch.exp(STEEP * (1 - c.detach()))).sum()
    far = (1 - labels) * (c > config.tau)
    return 1 - hits / (hits + misses + (far * (c - config.psi) * torch.exp(STEEP * (c.detach() - 1))).sum())


def bounds(h: Tensor, S: Tensor, given: Bounds) -> Bounds:
    """ε and β from outputs `(b, K)`; those given where there is no triplet (difference 3)."""
    with torch.no_grad():
        s, positive = cosines(h, h), S - torch.diag(S.diagonal())
        n_positive, n_negative = positive.sum(1), (1 - S).sum(1)
        count = (n_positive * n_negative).sum()
        gaps = (n_negative * (positive * s).sum(1) - n_positive * ((1 - S) * s).sum(1)).sum() / count.clamp_min(1)
        beta = 1 - (1 - mean_where(s, strangers(S))) / 2
        return torch.where(count > 0, relu(gaps) / 2, given[0]), torch.where(count > 0, beta, given[1])


def trainable(config: dict[str, object]) -> None:
    """Train DScPH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

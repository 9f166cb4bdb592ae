"""DCHUC: Tu, Mao, Ma, Hu, Yan, Wei and Huang, "Deep Cross-Modal Hashing with Hashing Functions and Unified Hash Codes
Jointly Learning", TKDE 34(2), pp. 560-572, 2022, arXiv:1907.12490.

With F, G ∈ (−1, 1)^{N×K} the outputs of the image and the text net for the N training items, V ∈ {−1, +1}^{N×K} one
code an item for both modalities, W ∈ R^{K×C}, L the labels, and S_ij = 1 where two items share a label, else −r, r the
ratio of such pairs to the others (S adds up to 0), DCHUC minimises

    J = |F Vᵀ − K S|² + |G Vᵀ − K S|² + μ |F Gᵀ − K S|² + γ |V − ½(F + G)|²
        + α (|F W − L|² + |G W − L|²) + β |V W − L|² + η |W|²,

all |·|² sums over squares. An epoch is `passes` times a pass that trains the image net and one that trains the text
net, whose batches see S of the batch and all items, but S of the batch alone in the term of μ; a step divides its share
of J by N·b. Then, once, V is renewed bit by bit, in ascending order, each bit by the sign that makes J smallest given
the others, and W by its ridge regression. `γ, α, μ, β, η` have their names spelt out.

Differences from the paper and from the authors' code (rongchengtu1/DCHUC @2cf46ed):

1. The paper's formulas were not available: formula and values are those of the code, without 3, 4.
2. Its database codes are V, learnt from the labels of the whole database, and an epoch of it is on 2000 items drawn of
   the database. Here codes are the signs of the nets' outputs, for queries and database, V is of training items alone,
   and an epoch is on all of them; so outputs stay from epoch to epoch, where the code's begin at 0.
3. In the term of μ the code compares u_i g_jᵀ with S of item i and the item whose number in the dataset is j's place in
   the pass, another one (`between: places`, the paper's point). Here it is S of i and j (`between: items`).
4. The code renews V with the shares of G and W in the bracket of the other bits counted twice (`update: twice`, the
   paper's point). `update: exact` is the derivative of J.
5. The code fine-tunes AlexNet; on frozen features the hash layer is all that is left of its image net (`hidden_image:
   0`, the paper's point here); our default has a hidden layer. Its text net has 10,240 hidden units.
6. The code's rates fall by 1.5 after the 11th and the 21st epoch, here after the 10th and 20th (`schedule: step`).
7. sign(0) = +1. V starts at 0, W from N(0, .01²). Where all items share a label r is 0.
8. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .627; the paper's point .460, below ridge. On smaller data the default's .563 is .416 with the slip of 3, .556
   with that of 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup, State
from cmh.losses import Means, similar, weighted
from cmh.nets.optimizers import schedule_param
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp
from cmh.nets.unified import UnifiedCodes, centred
from cmh.training import train

TITLE = "Deep Cross-Modal Hashing with Hashing Functions and Unified Hash Codes Jointly Learning"
YEAR = 2022
KIND = "supervised"
LABELS = True
SOURCE = "arXiv:1907.12490"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DCHUC."""

    gamma: float = param(200.0, "weight γ of |V − ½(F + G)|²", low=0, high=1e6)
    alpha: float = param(50.0, "weight α of the labels that W makes of outputs", low=0, high=1e6)
    mu: float = param(50.0, "weight μ of pairs of an image and a text", low=0, high=1e6)
    beta: float = param(1.0, "weight β of the labels that W makes of V", low=0, high=1e6)
    eta: float = param(50.0, "ridge η of W", above=0, high=1e6)
    between: str = param("items", "whose S the term of μ has", choices=["items", "places"], paper="places")
    update: str = param("exact", "how V is renewed", choices=["exact", "twice"], paper="twice")
    passes: int = param(1, "passes of each net an epoch", low=1, high=100, paper=3)
    optimizer: str = param("adam", "how the nets are trained", choices=["adam", "sgd"], paper="sgd")
    schedule: str = schedule_param("step", "fall: straight to lr_end over the run, or by lr_decay every ten epochs")
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-4)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=4e-3)
    lr_end: float = param(0.01, "last learning rate as a share of the first (linear)", above=0, high=1)
    lr_decay: float = param(1 / 1.5, "factor on the learning rate (step)", above=0, high=1)
    decay_every: int = param(10, "epochs between its falls (step)", low=1, high=1_000_000)
    weight_decay: float = param(0.0, "weight decay of the nets", low=0, high=1, paper=5e-4)
    batch_size: int = param(64, "items a step", low=1, high=65536)
    dropout: float = param(0.0, "share of the text net's hidden units set to 0 in training", low=0, below=1, paper=0.5)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=10240)


class Method:
    """DCHUC as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels, self.codes = config, setup.known_labels, UnifiedCodes(setup)
        image = mlp(setup.image_dim, config.hidden_image, setup.bits)
        text = mlp(setup.text_dim, config.hidden_text, setup.bits, dropout=config.dropout)
        self.pair = Pair(setup, config, nn.Sequential(image, nn.Tanh()), nn.Sequential(text, nn.Tanh()))
        self.encode_image, self.encode_text = self.pair.encode_image, self.pair.encode_text

    def epoch(self, batches: Batches) -> dict[str, float]:
        """The passes, V and W. Returns the terms of the last pass of each net."""
        found: dict[str, float] = {}
        for _ in range(self.config.passes):
            for name, other in (("image", "text"), ("text", "image")):
                terms = self._pass(name, other, batches())
                found |= {f"{name}_{term}": value for term, value in terms.items()}
        weights = {name: getattr(self.config, name) for name in ("gamma", "alpha", "beta", "eta")}
        self.codes.update(self.labels, **weights, times=2 if self.config.update == "twice" else 1)
        self.pair.end_epoch()
        return found

    def _pass(self, name: str, other: str, batches: Iterator[Batch]) -> dict[str, float]:
        means, done, codes = Means(), 0, self.codes
        for index, u in self.pair.outputs_of(name, batches):
            labels = self.labels[index]
            S = centred(similar(labels, self.labels), codes.r)
            places = torch.arange(done, done + len(index), device=index.device)
            T = S[:, index if self.config.between == "items" else places]
            own, others = codes.V[index], codes.outputs[other][index]
            loss, terms = step_loss(u, others, codes.V, own, S, T, codes.W, labels, self.config)
            self.pair.step(loss, name)
            codes.outputs[name][index] = u.detach()
            means.add({"loss": loss, **terms})
            done += len(index)
        return means.values()

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        return {**self.pair.state(), "codes": self.codes.state()}


def step_loss(
    u: Tensor, others: Tensor, V: Tensor, own: Tensor, S: Tensor, T: Tensor, W: Tensor, labels: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """One batch's share of J, and its terms without weights, all divided by N·b.

    Parameters
    ----------
    u: outputs of the net being trained `(b, K)`, with gradient. others: the other net's for the same items.
    V: codes of all items `(N, K)`. own: those of the batch `(b, K)`. S: of the batch and all items `(b, N)`.
    T: of the batch alone `(b, b)`. W: `(K, c)`. labels: `(b, c)`.
    """
    bits, pairs = u.shape[1], S.numel()
    terms = {
        "codes": (u @ V.T - bits * S).square().sum() / pairs,
        "pairs": (u @ others.T - bits * T).square().sum() / pairs,
        "labels": (u @ W - labels).square().sum() / pairs,
        "quantisation": (own - (u + others) / 2).square().sum() / pairs,
    }
    return weighted(terms, {"pairs": config.mu, "labels": config.alpha, "quantisation": config.gamma})


def trainable(config: dict[str, object]) -> None:
    """Train DCHUC with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

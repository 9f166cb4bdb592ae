"""DCGH: Chen, Zhu and Zhu, "Deep Class-guided Hashing for Multi-label Cross-modal Retrieval", 2024, arXiv:2410.15387.

The symbols are those of DSPH: f and g the outputs of the image and the text net for the b items of a batch, p_c a
learnt proxy of class c, L_ic = 1 where item i has label c, D the pairs of items that have at least two labels each and
share none; ρ_ij is the cosine of the label vectors of two items. With Σ_P over (a, b) = (f, f), (g, g), (f, g), DCGH
minimises

    J = Σ_{h=f,g} [ mean_{L_ic=1} (1 − cos(h_i, p_c)) + mean_{L_ic=0} max(0, cos(h_i, p_c)) ]
      + α Σ_P mean_{(i,j)∈D} max(0, cos(a_i, b_j)) + β Σ_P mean_{ρ_ij>0} max(0, ρ_ij − cos(a_i, b_j))
      + γ Σ_{h=f,g} mean_i Var_c( L_ic (1 − cos(h_i, p_c)) ).

The first two lines without β are DSPH with τ = 0; β asks items that share labels to be as near as their labels are, γ
asks each item to be equally near to all its classes. The variance is the unbiased one over all C classes, with a 0 for
each that the item does not have, so an item of one label has one, too. `α`, `β` and `γ` are `alpha`, `beta` and
`gamma`. An epoch is one pass; each step trains both nets and the proxies.

Differences from the paper and from the authors' code (donnotnormal/DCGH @9177df6):

1. The paper's text was not available: formula and values are those of the code, where α, β and γ have no names but are
   the numbers .8, .05 and 1. Its threshold from a code table is read and not used; its Hamming margins (`B_loss`) and
   its label net are never called: they are left out.
2. The paper speaks of a variance among an item's classes; lines for that are commented out in the code. `variance: own`
   takes it over the item's own classes alone, divided by their number; that is off.
3. The code fine-tunes CLIP ViT-B/32 (learning rate 1e-5) under the heads, on pictures and tokens. On frozen features
   the heads, Linear → dropout .2 → tanh, are all that is left; our default gives them a hidden layer.
4. The code's BertAdam (no bias correction, decoupled weight decay .2, each tensor's gradient clipped to norm 1, warm-up
   and a cosine) is Adam here, without decay or clipping, with rates that fall straight to a hundredth over the run.
5. A mean over nothing is 0, and so is the variance where there is one class.
6. The proxies start from tanh of N(0, 2/C), drawn in a stream of the run's seed instead of seed 0.
7. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .623, the paper's point .565.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import cosines, mean_where, pair_cosines, proxy_terms, weighted
from cmh.nets.proxies import add_proxies, pair_of_heads
from cmh.training import train

TITLE = "Deep Class-guided Hashing for Multi-label Cross-modal Retrieval"
YEAR = 2024
KIND = "supervised"
LABELS = True
SOURCE = "arXiv:2410.15387"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DCGH."""

    alpha: float = param(0.8, "weight α of pairs of items that share no label", low=0, high=1e3)
    beta: float = param(0.05, "weight β of pairs of items that share labels", low=0, high=1e3)
    gamma: float = param(1.0, "weight γ of the variance over an item's classes", low=0, high=1e3)
    variance: str = param(
        "all", "over all classes with 0 where an item has none, or its own alone", choices=["all", "own"]
    )
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-3)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-3)
    lr_proxies: float = param(0.02, "learning rate of the proxies (SGD)", above=0, high=10)
    momentum: float = param(0.9, "momentum of the proxies", low=0, below=1)
    decay_proxies: float = param(5e-4, "weight decay of the proxies", low=0, high=1)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=0)
    dropout: float = param(0.2, "share of the bits that are set to 0 in training", low=0, below=1)


class Method:
    """DCGH as the trainer drives it. `proxies` is `(c, bits)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        self.pair = pair_of_heads(setup, config)
        self.proxies = add_proxies(self.pair, setup, config, squashed=True)
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the means of J and its twelve terms."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, f: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return step_loss(f, g, self.proxies, self.labels[batch.index], self.config)


def step_loss(
    f: Tensor, g: Tensor, proxies: Tensor, labels: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms without weights: `f`, `g` `(b, K)`, `proxies` `(c, K)`, labels `(b, c)`."""
    terms, rho = proxy_terms(f, g, proxies, labels), cosines(labels, labels)
    for name, cosine in pair_cosines(f, g).items():
        terms[f"alike_{name}"] = mean_where(relu(rho - cosine), (rho > 0).to(rho.dtype))
    for name, codes in (("image", f), ("text", g)):
        terms[f"variance_{name}"] = spread(1 - cosines(codes, proxies), labels, config.variance).mean()
    weights = {"apart": config.alpha, "alike": config.beta, "variance": config.gamma}
    return weighted(terms, {name: weights.get(name.partition("_")[0], 1) for name in terms})


def spread(distances: Tensor, labels: Tensor, over: str) -> Tensor:
    """Variance `(b,)` of an item's distances `(b, c)` to its classes, over `all` classes or its `own`."""
    own = distances * labels
    if over == "all":
        return own.var(1, correction=min(1, labels.shape[1] - 1))
    n = labels.sum(1, keepdim=True).clamp_min(1)
    return (labels * (distances - own.sum(1, keepdim=True) / n).square()).sum(1) / n[:, 0]


def trainable(config: dict[str, object]) -> None:
    """Train DCGH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

"""DSPH: Huo, Qin, Dai, Wang, Zhang, Huang and Wang, "Deep Semantic-Aware Proxy Hashing for Multi-Label Cross-Modal
Retrieval", TCSVT 2023, DOI 10.1109/TCSVT.2023.3285266.

With f and g the outputs of the image and the text net for the items of a batch, p_c a learnt proxy of class c, L_ic = 1
where item i has label c, and D the pairs of items that have at least two labels each and share none, DSPH minimises

    J = Σ_{h=f,g} [ mean_{L_ic=1} (1 − cos(h_i, p_c)) + mean_{L_ic=0} max(0, cos(h_i, p_c) − τ) ]
      + α Σ_{(a,b)=(f,f),(g,g),(f,g)} mean_{(i,j)∈D} max(0, cos(a_i, b_j) − τ).

The proxies hold the two modalities together; only the last of the terms over pairs compares an image with a text. τ is
1 − 2d/K, where d is the largest minimum distance known of ⌈log₂ C⌉-dimensional binary codes of length K (a table that
comes with the code): 0 for up to 32 classes at 16, 32 and 64 bits; for 80 classes .25, .125 and 0. `α` is `alpha`, `τ`
is `tau`. An epoch is one pass; each step trains both nets and the proxies.

Differences from the paper and from the authors' code (QinLab-WFU/DSPH @078b1a1):

1. The paper's text was not available: formula and values are those of the code.
2. τ is a hyperparameter. The paper's point here has the table's value for up to 32 classes.
3. The code fine-tunes CLIP ViT-B/32 (learning rate 1e-5) under the heads, on pictures and tokens. On frozen features
   the heads, Linear → dropout .2 → tanh, are all that is left; our default gives them a hidden layer.
4. The code's BertAdam (betas .9 and .98, no bias correction, decoupled weight decay .2, each tensor's gradient clipped
   to norm 1, rates that rise over the first tenth of the steps and fall as a cosine) is Adam here, without decay or
   clipping, with rates that fall straight to a hundredth over the run: their mean is the same.
5. A mean over nothing (no pair in D, a batch where all items have all labels) is 0. The code guards D alone.
6. The proxies start from N(0, 2/C) in a stream of the run's seed; the code gives them seed 0 and resets torch's
   generator by it. Their SGD (rate .02, momentum .9, decay 5e-4) is the code's.
7. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .621, the paper's point .550.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import proxy_terms, weighted
from cmh.nets.proxies import add_proxies, pair_of_heads
from cmh.training import train

TITLE = "Deep Semantic-Aware Proxy Hashing for Multi-Label Cross-Modal Retrieval"
YEAR = 2023
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1109/TCSVT.2023.3285266"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DSPH."""

    alpha: float = param(0.8, "weight α of the terms over pairs of items that share no label", low=0, high=1e3)
    tau: float = param(0.0, "threshold τ: cosines below it cost nothing", low=-1, below=1)
    lr_proxies: float = param(0.02, "learning rate of the proxies (SGD)", above=0, high=10)
    momentum: float = param(0.9, "momentum of the proxies", low=0, below=1)
    decay_proxies: float = param(5e-4, "weight decay of the proxies", low=0, high=1)
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-3)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-3)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=0)
    dropout: float = param(0.2, "share of the bits that are set to 0 in training", low=0, below=1)


class Method:
    """DSPH as the trainer drives it. `proxies` is `(c, bits)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        self.pair = pair_of_heads(setup, config)
        self.proxies = add_proxies(self.pair, setup, config)
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the means of J and its seven terms."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, f: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return step_loss(f, g, self.proxies, self.labels[batch.index], self.config)


def step_loss(
    f: Tensor, g: Tensor, proxies: Tensor, labels: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms without α: `f`, `g` `(b, K)` and `proxies` `(c, K)` with gradient, labels `(b, c)`."""
    terms = proxy_terms(f, g, proxies, labels, threshold=config.tau)
    return weighted(terms, {name: config.alpha for name in terms if name.startswith("apart")})


def trainable(config: dict[str, object]) -> None:
    """Train DSPH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

"""DMsH-LN: Wu, Qin, Hou, Dai, Huang and Zhang, "Deep multi-similarity hashing via label-guided network for cross-modal
retrieval", Neurocomputing 2024, DOI 10.1016/j.neucom.2024.128830.

With f and g the outputs of the image and the text net for the b items of a batch, S_ij = 1 where two items share a
label (else 0) and s_ij a similarity of a_i and b_j, (a, b) = (f, f), (g, g), (f, g), DMsH-LN minimises

    J = Σ_(a,b) (1/b) Σ_i [ 1/α log(1 + Σ_{j∈P_i} e^(−α (s_ij − λ))) + 1/β log(1 + Σ_{j∈N_i} e^(β (s_ij − λ))) ],

the multi-similarity loss (Wang et al., CVPR 2019), P_i and N_i the pairs of a row that are not yet told apart: of those
with S = 1 (and s < 1 − 1e-5) the ones below the largest s of a pair with S = 0 plus ε, of those with S = 0 the ones
above the smallest s of the former minus ε. A row without such pairs costs nothing and still counts in b. `α, β, λ, ε`
are `scale_pos, scale_neg, threshold, margin`. An epoch is one pass; each step trains both nets.

Differences from the paper and from the authors' code (QinLab-WFU/DMsH-LN @f22eba7):

1. Of the paper only the abstract was available: formula and values are those of the code, which imports modules that
   are not there and does not start.
2. The label-guided network of the title is left out. The code has none: S is of the plain labels, as here. The same
   group's toolbox (@8040b44) has one, whose outputs h say that two items are similar where ⟨h_i, h_j⟩ > 0; no gradient
   comes back from that, so it stays as drawn, and then calls all pairs similar: J is 0, and nothing is trained.
3. The code scales rows of the table of inner products to length 1 (`similarity: rows`, the paper's point) where the
   loss that it adapts has the cosine (`cosine`, our default). In `rows` s hangs on the batch and is about 1/√b, far
   below λ, and an item is a positive of its own.
4. The code passes over every batch that has not just 128 items, the last one included; here each is trained on.
5. The code fine-tunes CLIP ViT-B/32 (learning rate 1e-5) under the heads, on pictures and tokens. On frozen features
   the heads, Linear → dropout .2 → tanh, are all that is left; our default gives them a hidden layer. First weights are
   PyTorch's own, not Kaiming's with fan-out.
6. The code's BertAdam (no bias correction, decoupled weight decay .2, each tensor's gradient clipped to norm 1, warm-up
   and a cosine) is Adam here, without decay or clipping, with rates that fall straight to a hundredth over the run.
7. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .611, the paper's point .580.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import cosines, similar, weighted
from cmh.nets.proxies import pair_of_heads
from cmh.training import train

TITLE = "Deep multi-similarity hashing via label-guided network for cross-modal retrieval"
YEAR = 2024
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1016/j.neucom.2024.128830"
SAME = 1 - 1e-5  # a similar pair from here on has nothing left to learn


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DMsH-LN."""

    similarity: str = param(
        "cosine", "cosines, or inner products whose rows are scaled to 1", choices=["cosine", "rows"], paper="rows"
    )
    threshold: float = param(0.5, "similarity λ that both kinds of pairs are to reach", low=-1, high=1)
    margin: float = param(0.1, "margin ε within which pairs are not yet told apart", low=0, high=2)
    scale_pos: float = param(2.0, "steepness α of similar pairs", above=0, high=1e3)
    scale_neg: float = param(40.0, "steepness β of other pairs", above=0, high=1e3)
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-3)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-3)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=0)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)
    dropout: float = param(0.2, "share of the bits that are set to 0 in training", low=0, below=1)


class Method:
    """DMsH-LN as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.pair = config, pair_of_heads(setup, config)
        self.labels = setup.known_labels
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the means of J and its three terms."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, f: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        own = self.labels[batch.index]
        return step_loss(f, g, similar(own, own), self.config)


def step_loss(f: Tensor, g: Tensor, S: Tensor, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms: `f`, `g` `(b, K)` with gradient, S `(b, b)` 0/1."""
    terms = {}
    for name, a, b in (("image", f, f), ("text", g, g), ("image_text", f, g)):
        s = cosines(a, b) if config.similarity == "cosine" else normalize(a @ b.T)
        terms[name] = multi_similarity(s, S, config)
    return weighted(terms, {})


def multi_similarity(s: Tensor, S: Tensor, config: Config) -> Tensor:
    """A term of J from similarities s and S `(b, m)`."""
    with torch.no_grad():
        positive, negative = (S > 0) & (s < SAME), S == 0
        lowest = s.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
        highest = s.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
        positive, negative = positive & (s - config.margin < highest), negative & (s + config.margin > lowest)
        rows = (positive.any(1) & negative.any(1)).to(s.dtype)
    near = log_sum(-config.scale_pos * (s - config.threshold), positive) / config.scale_pos
    far = log_sum(config.scale_neg * (s - config.threshold), negative) / config.scale_neg
    return (rows * (near + far)).mean()


def log_sum(x: Tensor, mask: Tensor) -> Tensor:
    """log(1 + Σ e^x) `(b,)` over the entries of a row `(b, m)` where the mask is true; it does not overflow."""
    return pad(x.masked_fill(~mask, -torch.inf), (1, 0)).logsumexp(1)


def trainable(config: dict[str, object]) -> None:
    """Train DMsH-LN with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

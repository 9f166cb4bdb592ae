"""DNPH: Huo, Qin, Dai, Zhang, Huang and Wang, "Deep Neighborhood-aware Proxy Hashing with Uniform Distribution
Constraint for Cross-modal Retrieval", TOMM 2024, DOI 10.1145/3643639. (Not DNpH, the mutual information of the same
group: that is `dnph_qmi`.)

With f and g the outputs of the image and the text net for the b items of a batch, h the 2b rows of both, p_c a proxy of
class c and L_ic = 1 where item i has label c, DNPH minimises

    J = mean_i Σ_c −L_ic log softmax_c( −(|ĥ_i − p̂_c|² + μ L_ic) ) − w [ mean_i f_i·n_σ(i) + mean_i g_i·n_τ(i) ].

ĥ and p̂ have length 1; the margin μ makes an item's own classes look further away than they are. n are b random rows of
±1, drawn anew each step, and σ, τ the assignments of rows to items that minimise Σ_i |f_i − n_σ(i)| and Σ_i |g_i −
n_τ(i)|: outputs are drawn to rows that are spread evenly over all codes. `μ` is `margin`, `w` is `uniformity`. An epoch
is one pass and one joint step of both nets a batch.

Differences from the paper and from the authors' code (QinLab-WFU/OUR-DNPH @e3f19ec):

1. The paper's text was not available: formula and values are those of the code.
2. The code makes an optimizer for the proxies and never calls it: they stay random. That is the paper's point here
   (`lr_proxies: 0`); our default trains them.
3. The code adds the cross-entropy of two class heads on CLIP's features to the first of an item's labels. They do not
   stand on the outputs: on frozen features they change no code, and are left out.
4. Image and text of an item have different rows n, which pulls them apart. Our default has no such term, which also
   needs its assignments (Hungarian method, O(b³)) on the CPU, so that each step waits for a GPU.
5. The code fine-tunes CLIP ViT-B/32 (learning rate 1e-5) under the heads, on pictures and tokens. On frozen features
   the heads, Linear → dropout .2 → tanh, are all that is left; our default gives them a hidden layer.
6. The code's BertAdam (no bias correction, decoupled weight decay .2, each tensor's gradient clipped to norm 1, warm-up
   and a cosine) is Adam here, without decay or clipping, with rates that fall straight to a hundredth over the run.
7. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .620 (with `scale: none` .614, and .528 with `uniformity` .1), the paper's point .421, below ridge: a part is
   the rows, the rest random proxies and heads without a hidden layer, not measured apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import cosines, sign, weighted
from cmh.nets.proxies import add_proxies, first_proxies, pair_of_heads
from cmh.training import train

TITLE = "Deep Neighborhood-aware Proxy Hashing with Uniform Distribution Constraint for Cross-modal Retrieval"
YEAR = 2024
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1145/3643639"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DNPH."""

    margin: float = param(1.0, "margin μ that is added to the squared distance of an item's own classes", low=0, high=4)
    uniformity: float = param(0.0, "weight w of the nearness to random rows of ±1", low=0, high=1e3, paper=0.1)
    lr_proxies: float = param(0.02, "learning rate of the proxies (SGD); 0: they stay random", low=0, high=10, paper=0)
    momentum: float = param(0.9, "momentum of the proxies", low=0, below=1)
    decay_proxies: float = param(5e-4, "weight decay of the proxies", low=0, high=1)
    dropout: float = param(0.2, "share of the bits that are set to 0 in training", low=0, below=1)
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-3)
    lr_text: float = param(2e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-3)
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=0)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)


class Method:
    """DNPH as the trainer drives it. `proxies` is `(c, bits)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        self.pair = pair_of_heads(setup, config)
        self.proxies = add_proxies(self.pair, setup, config) if config.lr_proxies else first_proxies(setup)
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the means of J and its terms."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, f: Tensor, g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        noise = sign(torch.rand_like(f) - 0.5) if self.config.uniformity else None
        return step_loss(f, g, self.proxies, self.labels[batch.index], noise, self.config)


def step_loss(
    f: Tensor, g: Tensor, proxies: Tensor, labels: Tensor, noise: Tensor | None, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms without weights: f, g, n (or none) `(b, K)`, proxies `(c, K)`, labels `(b, c)`."""
    terms, w = {}, config.uniformity
    for name, codes in (("image", f), ("text", g)):
        terms[f"proxy_{name}"] = proxy_loss(codes, proxies, labels, margin=config.margin)
        if noise is not None:
            terms[f"uniformity_{name}"] = (codes * noise[assigned(codes, noise)]).sum(1).mean()
    return weighted(terms, {name: 0.5 if name.startswith("proxy") else -w for name in terms})


def proxy_loss(h: Tensor, proxies: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """The first term of J of one modality, a mean over its rows `(n, K)`; labels `(n, c)`."""
    far = 2 - 2 * cosines(h, proxies)  # squared distance of unit rows
    return -(labels * (-far - margin * labels).log_softmax(1)).sum(1).mean()


def assigned(codes: Tensor, noise: Tensor) -> Tensor:
    """Which row of the noise `(b, K)` each code `(b, K)` gets, `(b,)`: the least sum of distances, none twice."""
    far = torch.cdist(codes.detach(), noise, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.from_numpy(linear_sum_assignment(far.cpu().numpy())[1]).to(codes.device)


def trainable(config: dict[str, object]) -> None:
    """Train DNPH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

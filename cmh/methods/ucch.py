"""UCCH: Hu, Zhu, Lin, Peng, Zhao and Peng, "Unsupervised Contrastive Cross-modal Hashing", TPAMI 45(3), 2023,
DOI 10.1109/TPAMI.2022.3177356.

A memory bank holds a row v_i for each of the N training pairs; its key k_i is sgn(v_i) scaled to unit length. With
h^x_i, h^y_i the unit outputs of the image and the text net for a batch of b, UCCH minimises β L_c + (1 − β) L_r:

    L_c = −mean_i log p(i | h^x_i) − mean_i log p(i | h^y_i),
    p(i | h) = e^{h·k_i/τ} / (e^{h·k_i/τ} + Σ_j e^{h·k_j/τ}),      j = K_n items drawn from all N, with replacement;

    L_r = mean_i [m + log Σ_j e^{M~_ij} − M_ii] + the same of Mᵀ,  M_ij = h^x_i · h^y_j,
    M~_ij = M_ij where M_ii − M_ij ≤ m, else M_ij − ζ.

The contrast L_c sets continuous outputs against binary keys, so nothing is relaxed; the ranking L_r keeps pairs that
are far enough apart out of the way (lowered by ζ). Keys are constants, and after a step the batch's rows follow: v_i ←
unit(δ v_i + (1 − δ) unit((h^x_i + h^y_i) / 2)). In the first `warm_up` epochs the batch is its own dictionary, with
keys sgn(h^x_i + h^y_i), and δ = 0. An epoch is one pass. ζ is `shift`, K_n `n_negatives`.

Differences from the paper and from the authors' code (penghu-cs/UCCH @0c20e62):

1. Scores are taken against all N keys, `(b, N)`, and each key counts in the sum as often as it was drawn. The code
   gathers b·(K_n + 1) keys of K bits first; the sum is the same.
2. The contrast is a log-softmax; the code takes the logarithm of a softmax, which can underflow.
3. Terms are means over the batch, as in the code; the paper writes L_c as a sum.
4. The bank's rows are kept at unit length, as in the code; eq. 5 of the paper does not say so. Only their signs are
   read, so it changes how soon a bit flips.
5. The bank starts at fair random signs; 69 % of the code's are −1. It matters only without warm-up.
6. sgn(0) = +1, as in the paper; the code leaves 0.
7. A pass visits every item; the code leaves out the last short batch.
8. The learning rate's falls at epochs 30, 60, … are left out: the paper trains for 20.
9. The epoch is chosen on the validation split; the code ranks the first 2000 training items among themselves.
10. A backbone that is trained along is trained from the first epoch; the code holds it still for 5 warm-up epochs.
11. β is called alpha in the code. The paper chose it on validation data; β = .7 and ζ = .1 are the README's for
    MIRFlickr (the code's defaults are .9 and 1). For other datasets both are unverified.
12. The default values are ours: narrow nets, small batches, higher learning rates, more weight decay, and 512 negatives
    (with replacement, so the paper's 4096 would draw each of a few thousand items more than once).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from cmh.config import param
from cmh.interfaces import Batches, Setup, State
from cmh.losses import Means, sign
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp
from cmh.seeding import derive
from cmh.training import train

TITLE = "Unsupervised Contrastive Cross-modal Hashing"
YEAR = 2023
KIND = "unsupervised"
LABELS = False
SOURCE = "DOI 10.1109/TPAMI.2022.3177356"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of UCCH."""

    beta: float = param(0.7, "share β of the contrast in the loss; the ranking has the rest", low=0, high=1)
    tau: float = param(0.9, "temperature τ of the contrast", above=0, high=100)
    delta: float = param(0.4, "share δ of the old row when the memory bank is renewed", low=0, below=1)
    n_negatives: int = param(512, "keys drawn for each item from the bank", low=1, high=1_000_000, paper=4096)
    warm_up: int = param(1, "first epochs whose keys are those of the batch", low=0, high=1_000_000)
    margin: float = param(0.2, "margin m of the ranking", low=0, high=2)
    shift: float = param(0.1, "what a pair beyond the margin is lowered by, ζ", low=0, high=100)
    optimizer: str = param("adam", "how the nets are trained", choices=["adam", "sgd"])
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-4)
    lr_text: float = param(3e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-4)
    schedule: str = param(
        "linear",
        "how learning rates fall: not, or straight, or by equal factors (log), to lr_end over the run",
        choices=["constant", "linear", "log"],
        paper="constant",
    )
    lr_end: float = param(0.01, "last learning rate as a share of the first (linear, log)", above=0, high=1)
    momentum: float = param(0.9, "momentum (sgd)", low=0, below=1)
    weight_decay: float = param(1e-3, "weight decay on weights and biases", low=0, high=1, paper=1e-6)
    clip: float = param(1.0, "largest norm of both nets' gradient", above=0, high=1e6)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=256)
    hidden_image: int = param(1024, "units of a hidden layer of the image net", low=0, high=65536, paper=8192)
    layers_image: int = param(1, "hidden layers of the image net", low=1, high=8, paper=2)
    hidden_text: int = param(1024, "hidden units of the text net", low=0, high=65536, paper=8192)


class Method:
    """UCCH as the trainer drives it. The memory bank is `(N, bits)`, its rows of unit length."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config = config
        self.weights = {name: getattr(config, name) for name in ("beta", "tau", "margin", "shift")}
        image = nn.Sequential(mlp(setup.image_dim, [config.hidden_image] * config.layers_image, setup.bits), nn.Tanh())
        text = nn.Sequential(mlp(setup.text_dim, config.hidden_text, setup.bits), nn.Tanh())
        self.pair = Pair(setup, config, image, text)
        draw = torch.Generator().manual_seed(derive(setup.seed, "bank"))
        self.bank = normalize(sign(torch.randn(setup.n_train, setup.bits, generator=draw))).to(setup.device)
        self.encode_image, self.encode_text = self.pair.encode_image, self.pair.encode_text

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the mean loss and its terms: contrast of each modality, ranking."""
        warm_up, means = self.pair.n_epochs < self.config.warm_up, Means()
        for batch, image, text in self.pair.outputs(batches()):
            x, y = normalize(image), normalize(text)
            dictionary = batch_dictionary(x, y) if warm_up else self._dictionary(batch.index)
            loss, terms = step_loss(x, y, dictionary, **self.weights)
            self.pair.step(loss, clip=self.config.clip)
            self.bank[batch.index] = renewed(self.bank[batch.index], x, y, delta=0 if warm_up else self.config.delta)
            means.add({"loss": loss, **terms})
        self.pair.end_epoch()
        return means.values()

    def _dictionary(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, own and counts of `contrast`. The trainer seeds the global generator anew each epoch."""
        drawn = torch.randint(len(self.bank), (len(index), self.config.n_negatives), device=index.device)
        return sign(self.bank), index, occurrences(index, drawn, len(self.bank))

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        return {**self.pair.state(), "bank": self.bank}


def step_loss(
    x: Tensor,
    y: Tensor,
    dictionary: tuple[Tensor, Tensor, Tensor],
    *,
    beta: float,
    tau: float,
    margin: float,
    shift: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """β L_c + (1 − β) L_r of unit codes `(b, K)`, and its three terms. dictionary: `contrast`'s keys, own, counts."""
    terms = {
        "image_contrast": contrast(x, *dictionary, tau=tau),
        "text_contrast": contrast(y, *dictionary, tau=tau),
        "ranking": ranking(x, y, margin=margin, shift=shift),
    }
    total = beta * (terms["image_contrast"] + terms["text_contrast"]) + (1 - beta) * terms["ranking"]
    return total, {term: value.detach() for term, value in terms.items()}


def contrast(codes: Tensor, keys: Tensor, own: Tensor, counts: Tensor, *, tau: float) -> Tensor:
    """−log p of each item's own key, the mean over the batch.

    codes: unit rows `(b, K)`. keys: ±1 `(M, K)`, constants. own: each item's key `(b,)`. counts: how often each key
    stands in the sum under the fraction `(b, M)`.
    """
    scores = codes @ keys.T / (tau * math.sqrt(keys.shape[1]))
    own_scores = scores.gather(1, own[:, None]).squeeze(1)
    return (torch.logsumexp(scores + counts.to(scores.dtype).log(), 1) - own_scores).mean()


def batch_dictionary(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, own and counts of `contrast` for a batch that is its own dictionary, each item once."""
    keys = sign(x + y).detach()
    return keys, torch.arange(len(x), device=x.device), x.new_ones(len(x), len(x))


def occurrences(own: Tensor, drawn: Tensor, n_keys: int) -> Tensor:
    """How often each key stands among an item's own `(b,)` and its drawn ones `(b, n)`: `(b, n_keys)`."""
    columns = torch.cat([own[:, None], drawn], 1)
    zeros = torch.zeros(len(own), n_keys, device=own.device)
    return zeros.scatter_add_(1, columns, zeros.new_ones(columns.shape))


def ranking(x: Tensor, y: Tensor, *, margin: float, shift: float) -> Tensor:
    """L_r of unit codes `(b, K)`, in both directions. Which pairs are lowered is a constant."""
    scores = x @ y.T
    own = scores.diagonal()
    total = scores.new_zeros(())
    for rows in (scores, scores.T):
        lowered = torch.where(rows.detach() >= own.detach()[:, None] - margin, rows, rows - shift)
        total = total + (margin + torch.logsumexp(lowered, 1) - own).mean()
    return total


def renewed(rows: Tensor, x: Tensor, y: Tensor, *, delta: float) -> Tensor:
    """The memory bank's rows after a step, from the old ones and the codes, all `(b, K)`."""
    return normalize(delta * rows + (1 - delta) * normalize(x.detach() + y.detach()))


def trainable(config: dict[str, object]) -> None:
    """Train UCCH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

"""NRCH: Wang, Qin, Sun, Peng, Peng and Hu, "Robust Contrastive Cross-modal Hashing with Noisy Labels", ACM MM 2024,
DOI 10.1145/3664647.3680564. (The authors' names are unverified.)

With u and v the outputs of the image and the text net for the b items of a batch, rows of length 1, U = tanh(u), V =
tanh(v), s_ij = ⟨U_i, V_j⟩, T_ij = 1 where two different items share a label (else 0), and W a learnt centre of each
class, NRCH minimises

    J = λ mean_i r_i + (1 − λ) mean_i q_i + Σ_{h=u,v} mean_ic (2 L_ic − 1 − ⟨h_i, tanh W_c⟩)²,
    r_i = 2 m − 2 s_ii + 2 τ log Σ_j e^((1 − T_ij) c_ij/τ),   c_ij = s_ij − [s_ij < s_ii − m],  c_ii = max(0, s_ii),
    q_i = mean_k (|U_ik| − 1/√K)² + mean_k (|V_ik| − 1/√K)².

Only an item's own pair is drawn together: a wrong label can hide a pair from the sum (it then counts e⁰), but makes no
pair similar. In the last part of J u and v are constants: it trains W alone, and W says which items to trust. After
`warmup` epochs each epoch begins with a pass that finds each item's largest Σ_h (1 − ⟨h, tanh W_c⟩)² over its labels; a
mixture of two Gaussians is fitted to these, put into [0, 1], and the epoch's other pass, the training, is on the items
that belong to the lower one with a probability of at least `threshold`. `λ, m, τ` are `lamb, margin, tau`.

Differences from the paper and from the authors' code (LonganWANG-cs/NRCH @b190e97):

1. The paper's text was not available: formula and values are those of the code.
2. The code computes c' with s_jj in the place of s_ii for the direction from text to image, and then uses c in both
   sums. `sums: both` takes c' in the second one; the default, and the paper's point, is the code.
3. The code draws noise onto the labels (20, 50 or 80 %); here labels are those of the dataset.
4. Items that are not trusted are left out of means and sums instead of the batch: the same numbers. The code fits the
   mixture with scikit-learn, from a random k-means; here k-means starts at both ends.
5. The code's nets have 8192 units a layer (three layers for images, two for texts), on VGG-19 features. Its RMSprop is
   Adam here, by default with falling rates; W has a rate of its own.
6. The default values are ours. On the clip art v3 (32 bits, 30 epochs, validation MAP, chance .162, ridge .475) they
   give .316, below ridge: no term draws items of one label together (labels permuted: .224). Paper's point: not tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import similar, weighted
from cmh.nets.distribution import lower_of_two
from cmh.nets.optimizers import Falling, optimizer, schedule_param
from cmh.nets.pair import Pair
from cmh.nets.proxies import Proxies
from cmh.nets.towers import mlp
from cmh.seeding import derive
from cmh.training import train

TITLE = "Robust Contrastive Cross-modal Hashing with Noisy Labels"
YEAR = 2024
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1145/3664647.3680564"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of NRCH."""

    lamb: float = param(0.6, "weight λ of the ranking; the quantisation has 1 − λ", low=0, high=1)
    margin: float = param(0.2, "margin m below a pair, from which others are shifted down by 1", low=0, high=2)
    tau: float = param(0.1, "temperature τ of the sums", low=0.02, high=10, paper=1.0)
    sums: str = param("image", "whose sums: image to text twice, or both directions", choices=["image", "both"])
    warmup: int = param(19, "epochs that train on all items", low=0, high=1_000_000)
    threshold: float = param(0.3, "least probability of a trusted item; 0: all are", low=0, below=1)
    schedule: str = schedule_param("constant", "fall: straight to lr_end over the run, or not")
    lr_end: float = param(0.01, "last learning rates as a share of the first (linear)", above=0, high=1)
    lr_image: float = param(3e-4, "learning rate of the image net", above=0, high=10, paper=1e-5)
    lr_text: float = param(1e-3, "learning rate of the text net", above=0, high=10, paper=1e-5)
    lr_centres: float = param(1e-3, "learning rate of the centres W", above=0, high=10, paper=1e-5)
    weight_decay: float = param(1e-5, "weight decay of the nets", low=0, high=1)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)
    hidden_image: int = param(1024, "units of the image net's first hidden layer", low=0, high=65536, paper=8192)
    hidden_image_2: int = param(0, "units of its second; 0: none", low=0, high=65536, paper=8192)
    hidden_text: int = param(1024, "units of the text net's hidden layer", low=0, high=65536, paper=8192)


class UnitRows(nn.Module):
    """tanh, and rows of length 1: `(n, bits)` to the same."""

    def forward(self, outputs: Tensor) -> Tensor:
        return nn.functional.normalize(torch.tanh(outputs))


class Method:
    """NRCH as the trainer drives it. `centres` is W `(c, bits)`, `trusted` `(N,)` is 1 for the items of this epoch."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels = config, setup.known_labels
        image = mlp(setup.image_dim, [config.hidden_image, config.hidden_image_2], setup.bits)
        text = mlp(setup.text_dim, config.hidden_text, setup.bits)
        self.pair = Pair(setup, config, nn.Sequential(image, UnitRows()), nn.Sequential(text, UnitRows()))
        draw = torch.Generator().manual_seed(derive(setup.seed, "centres"))
        first = nn.init.orthogonal_(torch.empty(self.labels.shape[1], setup.bits), generator=draw)
        net = Proxies(first).to(setup.device)
        self.centres, self.pair.nets["centres"] = net.table, net
        self.pair.team.add("centres", optimizer("adam", net, lr=config.lr_centres), Falling.of(config))
        self.trusted = torch.ones(setup.n_train, device=setup.device)
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """A pass that says whom to trust, once it is time, and one that trains. Returns means of J and its terms."""
        if self.config.threshold and self.pair.n_epochs >= self.config.warmup:
            doubt = torch.zeros_like(self.trusted)
            with torch.no_grad():
                for batch, u, v in self.pair.outputs(batches()):
                    doubt[batch.index] = doubts(u, v, self.centres, self.labels[batch.index])
            self.trusted = (lower_of_two(doubt) >= self.config.threshold).to(doubt.dtype)
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, u: Tensor, v: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        of = self.labels[batch.index], self.trusted[batch.index]
        return step_loss(u, v, self.centres, *of, self.config)


def step_loss(
    u: Tensor, v: Tensor, centres: Tensor, labels: Tensor, trusted: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of the trusted items of a batch and its terms: unit rows `(b, K)`, W `(c, K)`, labels `(b, c)`, 0/1 `(b,)`."""
    U, V, own = torch.tanh(u), torch.tanh(v), torch.eye(len(u), dtype=torch.bool, device=u.device)
    s, hidden = U @ V.T, similar(labels, labels).masked_fill(own, 0)
    n, pairs = trusted.sum().clamp_min(1), s.diagonal()
    ways = (pairs[:, None], pairs[:, None] if config.sums == "image" else pairs)
    sums = (log_sums(s, one, hidden, trusted, own, config) for one in ways)
    ranking = 2 * config.margin - 2 * pairs + torch.stack(list(sums)).sum(0)
    uneven = sum(((codes.abs() - u.shape[1] ** -0.5).square().mean(1) for codes in (U, V)), torch.zeros_like(pairs))
    misses = [(2 * labels - 1 - codes.detach() @ torch.tanh(centres).T).square().mean(1) for codes in (u, v)]
    rows = {"ranking": ranking, "quantisation": uneven, "centres": misses[0] + misses[1]}
    terms = {name: (trusted * values).sum() / n for name, values in rows.items()}
    return weighted(terms, {"ranking": config.lamb, "quantisation": 1 - config.lamb})


def log_sums(s: Tensor, pairs: Tensor, hidden: Tensor, trusted: Tensor, own: Tensor, config: Config) -> Tensor:
    """τ log Σ_j e^(…/τ) of each row `(b,)`, over trusted j; `pairs` are the s that others are compared with."""
    c = s - (s < pairs - config.margin).to(s.dtype)
    c = torch.where(own, c.clamp_min(0), c) * (1 - hidden) / config.tau
    outside = (trusted == 0) & ~own  # a row that is not trusted is not counted: its own pair keeps it finite
    return config.tau * c.masked_fill(outside, -torch.inf).logsumexp(1)


def doubts(u: Tensor, v: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """The largest loss of an item's own classes `(b,)`."""
    far = sum(((1 - codes @ torch.tanh(centres).T).square() for codes in (u, v)), torch.zeros_like(labels))
    return (far * labels).amax(1)


def trainable(config: dict[str, object]) -> None:
    """Train NRCH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

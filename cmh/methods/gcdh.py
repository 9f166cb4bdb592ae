"""GCDH: Bai, Zeng, Ma and Zhang, "Graph Convolutional Network Discrete Hashing for Cross-Modal Retrieval", TNNLS 2022,
DOI 10.1109/TNNLS.2022.3174970.

With f and g ∈ (−1, 1)^{b×K} the outputs of the image and the text net for a batch, φ and ψ the features under them, L
the labels, B ∈ {−1, +1}^{N×K} and W ∈ R^{C×E} vectors of the classes, GCDH minimises (sums, but a mean over the logits)

    J = α [tri(f, g) + tri(f, f) + tri(g, f) + tri(g, g)] + |B − f|² + |B − g|² + BCE([φ ψ] Wᵀ, L),
    tri(s, t) = Σ_{a,p,n} w_ap max(0, d_ap − d_an + m),    w_ap = (2^r_ap − 1)/(best DCG of a in the batch),

over anchors a of s, items p of t that share r_ap > 0 labels with a (a itself, too) and n that share none; d = 1 − cos.
W is what two graph convolutions make of word vectors of the classes, W = Â lrelu(Â V W_1) W_2, Â the normalised graph
whose edge c → c' stands where P(c' | c) ≥ δ on the training labels.

An epoch is one pass and then, F and G the outputs of the pass, γ_e = γ ρ^e in epoch e = 0, 1, …,

    R = (LᵀL + I)⁻¹ LᵀB,   B ← sign(L R + γ_e C − D + μ (F + G)),   C ← polar(B + D/γ_e),   D ← D + γ_e (B − C),

polar(M) = M (MᵀM)^−½, the nearest matrix with orthonormal columns; at first C = B and D = 0. `α, m, γ, ρ, μ, δ` are
`alpha`, `margin`, `gamma`, `rho`, `mu`, `delta`. Without γ there is no C and no D.

Differences from the paper and from the authors' code (Zjut-MultimediaPlus/GCDH @99c4ced):

1. The paper's text was not available: formula and values are those of the code, which has a syntax error.
2. The code transposes a factor of C's singular value decomposition once too often: its C is not the nearest and hangs
   on arbitrary signs. C's columns have norm 1, those of B √N, so that D grows against B by about γ_e B an epoch, to
   .7 B in 30 epochs at the code's γ and ρ. Our default is γ = 0.
3. The code's V are GloVe's vectors of the class names; here 300 numbers a class are drawn from N(0, 1) and stay.
4. The code trains ResNet-50 along; frozen features are φ (`hidden_image: 0`, the paper's point here). The text net has
   the widths `hidden_text`, a half and a quarter of it (8192, 4096, 2048 in the code).
5. Triplets are summed without the b × b × b block. First weights are PyTorch's own, not He's.
6. A batch of one item passes batch normalisation with its running statistics. sign(0) = +1.
7. Learning rates reach a hundredth in the last epoch, in the code one epoch later.
8. The default values are ours: narrower nets, higher rates. On the clip art v3 (32 bits, 30 epochs, validation MAP,
   chance .162, ridge .475) they give .632; the paper's point, whose text net has 48 million weights, was not tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cmh.config import param
from cmh.interfaces import Batches, Setup, State
from cmh.losses import Means, cosine_triplets, gains, similar, weighted
from cmh.nets.buffers import LabelCodes
from cmh.nets.draws import normals
from cmh.nets.graph_convolution import ClassGraph
from cmh.nets.optimizers import Falling, optimizer
from cmh.nets.team import MODALITIES, Team
from cmh.nets.towers import layers
from cmh.training import train

TITLE = "Graph Convolutional Network Discrete Hashing for Cross-Modal Retrieval"
YEAR = 2022
KIND = "supervised"
LABELS = True
SOURCE = "DOI 10.1109/TNNLS.2022.3174970"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of GCDH."""

    alpha: float = param(10.0, "weight α of the triplets", low=0, high=1e4)
    margin: float = param(0.4, "margin m of the triplets, in cosine distance", low=0, high=2)
    gamma: float = param(0.0, "first weight γ of the balanced codes C; 0: none", low=0, high=1e3, paper=0.01)
    rho: float = param(1.05, "factor ρ on γ each epoch", low=1, high=2)
    mu: float = param(0.5, "weight μ of the outputs in the update of B", low=0, high=1e4)
    delta: float = param(0.3, "least P(c' | c) of an edge between classes", low=0, high=1)
    lr_image: float = param(3e-4, "learning rate of the image net at the start", above=0, high=10, paper=1e-4)
    lr_text: float = param(1e-3, "learning rate of the text net at the start", above=0, high=10, paper=1e-4)
    lr_graph: float = param(1e-3, "learning rate of the graph net at the start", above=0, high=10, paper=1e-4)
    lr_end: float = param(0.01, "last learning rates as a share of the first", above=0, high=1)
    weight_decay: float = param(5e-4, "weight decay of all nets", low=0, high=1)
    batch_size: int = param(64, "items a step", low=1, high=4096)
    hidden_image: int = param(1024, "units of the image's features; 0: the frozen ones", low=0, high=65536, paper=0)
    hidden_text: int = param(1024, "units of the text net's first layer", low=4, high=65536, paper=8192)
    hidden_graph: int = param(256, "units between the graph convolutions", low=1, high=65536, paper=1024)


class Method:
    """GCDH as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels, n = config, setup.known_labels, config.hidden_text
        widths = {"image": config.hidden_image or setup.image_dim, "text": n // 4}
        image = layers(setup.image_dim, [config.hidden_image], normalised=True)
        text = layers(setup.text_dim, [n, n // 2, n // 4], normalised=True)
        nets = {"image": setup.image_net(image), "text": setup.text_net(text)}
        for name, width in widths.items():
            nets[f"{name}_hash"] = nn.Sequential(nn.Linear(width, setup.bits), nn.Tanh())
        (V,) = normals(setup, "words", (self.labels.shape[1], 300))
        nets["graph"] = ClassGraph(V, self.labels, config.hidden_graph, sum(widths.values()), threshold=config.delta)
        self.team, falling = Team(setup, nets), Falling("log", end=config.lr_end)
        for part, lr in (("image", config.lr_image), ("text", config.lr_text), ("graph", config.lr_graph)):
            trained = [net for name, net in self.team.nets.items() if name.startswith(part)]
            self.team.add(part, optimizer("adam", *trained, lr=lr, weight_decay=config.weight_decay), falling)
        self.codes = LabelCodes(setup)

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass, and B. Returns J of a step and its terms."""
        nets, means = self.team.nets, Means()
        for batch in batches():
            self.team.train(len(batch.index) > 1)  # batch normalisation has no variance of one item
            features = [nets[name](getattr(batch, name)) for name in MODALITIES]
            f, g = (nets[f"{name}_hash"](rows) for name, rows in zip(MODALITIES, features, strict=True))
            self.codes.outputs[batch.index] = f.detach() + g.detach()
            logits = torch.cat(features, 1) @ nets["graph"]().T
            loss, terms = step_loss(f, g, self.codes.B[batch.index], logits, self.labels[batch.index], self.config)
            self.team.step(loss)
            means.add({"loss": loss, **terms})
        gamma = self.config.gamma * self.config.rho ** self.team.schedules["image"].last_epoch
        self.codes.update(self.labels, gamma=gamma, mu=self.config.mu)
        self.team.end_epoch()
        return means.values()

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`."""
        return self.team.encode(features, "image", "image_hash")

    def encode_text(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`."""
        return self.team.encode(features, "text", "text_hash")

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        return {**self.team.state(), **self.codes.state()}


def step_loss(
    f: Tensor, g: Tensor, B: Tensor, logits: Tensor, labels: Tensor, config: Config
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms without α: codes `(b, K)`, class logits and labels `(b, C)`."""
    S, weights, terms = similar(labels, labels), gains(labels), {}
    for name, s in (("image", f), ("text", g)):
        far = cosine_triplets(s, f, S, margin=config.margin, weights=weights)
        terms[f"triplets_{name}"] = far + cosine_triplets(s, g, S, margin=config.margin, weights=weights)
        terms[f"quantisation_{name}"] = (B - s).square().sum()
    terms["labels"] = binary_cross_entropy_with_logits(logits, labels)
    return weighted(terms, {"triplets_image": config.alpha, "triplets_text": config.alpha})


def trainable(config: dict[str, object]) -> None:
    """Train GCDH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

"""MITH: Liu, Wu, Zhang, Zhang and Lu, "Multi-Granularity Interactive Transformer Hashing for Cross-modal Retrieval",
ACM MM 2023, DOI 10.1145/3581783.3612411.

Image and text of an item have two codes of K bits each: c from the vector of the whole, t from its parts (patches,
words), gathered by concept (`nets/tokens.py`). C and T are the newest of all N training items, S_ij = 1 where two items
share a label, z and u the vectors of length 1 behind c and t. With m for both modalities, sg for a constant, NLL(A, b)
= mean [log(1 + e^θ) − S θ], θ = ½ clip(A·b, ±64), and B = sign Σ_m (λ c_m + (1 − λ) t_m), MITH minimises

    J = ι Σ_m NLL(T_m, t_m) + β [NLL(C_image, c_text) + NLL(C_text, c_image)] + γ Σ_m |½ (c_m + t_m) − B|² / (bK)
      + δ [NCE(z_image, z_text) + α NCE(u_image, u_text)] + μ Σ_m (|sg(c_m) − t_m|² + .1 |c_m − sg(t_m)|²) / b.

NCE is the cross-entropy, both ways, of an item among the b of its batch by inner products / .07; that of u is of a
concept among the K of one item. `intra` is ι, `lambda_` λ, and so on. The code is the sign of c + t. An epoch is one
pass and one joint step a batch.

Differences from the paper and from the authors' code (DarrenZZhang/MM23-MITH @4583a7c):

1. The paper's text was not available: formula and values are those of the code.
2. The code fine-tunes CLIP ViT-B/32 (learning rate 2e-6) under its nets. Here features are frozen: tokens where the
   dataset has them (`scale` leaves those as they are), else one vector an item, which is its own only part: then
   gathering only says which concepts an item has. Of CLIP's text 31 tokens beside the end are kept.
3. Features of another width than `width` pass one linear layer each first, as the nets behind are shared between the
   modalities. The paper's point has CLIP's 512.
4. The code's BertAdam (no bias correction, decoupled weight decay .01, each tensor's gradient clipped to norm 1,
   warm-up over a twentieth and a cosine) is Adam here, without decay or clipping; rates fall straight to a hundredth.
5. A·b is clipped for codes of more than 64 bits only; for others it changes nothing.
6. The default values are ours: on vectors the transformer over concepts (two layers of width 512 in the paper's point)
   has nothing to read but which concepts there are, and takes most of the time. On the clip art v3 (32 bits, 30 epochs,
   validation MAP, chance .162, ridge .475) they give .608, with the paper's δ 50 .461, below ridge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmh.config import param
from cmh.interfaces import Batches, Setup, State
from cmh.losses import Means, clipped_nll, info_nce, sign, similar, weighted
from cmh.nets.draws import normals
from cmh.nets.optimizers import Falling, optimizer
from cmh.nets.team import MODALITIES, Team
from cmh.nets.tokens import Concepts, Gathered, Outputs, outputs
from cmh.training import train

TITLE = "Multi-Granularity Interactive Transformer Hashing for Cross-modal Retrieval"
YEAR = 2023
KIND = "supervised"
LABELS = True
TOKENS = True
SOURCE = "DOI 10.1145/3581783.3612411"
TEMPERATURE, BACK = 0.07, 0.1
Both = dict[str, Outputs]  # by modality
Buffers = dict[str, Tensor]  # C and T by code and modality


@dataclass(frozen=True)
class Config:
    """Hyperparameters of MITH."""

    intra: float = param(1.0, "weight ι of the likelihood of t within a modality", low=0, high=1e3)
    beta: float = param(10.0, "weight β of the likelihood of c between modalities", low=0, high=1e3)
    gamma: float = param(1.0, "weight γ of the rounding", low=0, high=1e3, paper=8)
    delta: float = param(1.0, "weight δ of the contrast between modalities", low=0, high=1e3, paper=50)
    alpha: float = param(0.01, "weight α of the contrast of concepts within δ", low=0, high=1e3)
    mu: float = param(0.1, "weight μ of the distance between c and t", low=0, high=1e3, paper=1)
    lambda_: float = param(0.99, "share λ of c in B", low=0, high=1)
    lr: float = param(1e-3, "learning rate at the start", above=0, high=10)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=128)
    width: int = param(128, "width of all vectors", low=2, high=4096, paper=512)
    residual_layers: int = param(1, "shared residual layers", low=0, high=16, paper=2)
    transformer_layers: int = param(0, "layers of the transformer over concepts", low=0, high=16, paper=2)
    most: int = param(64, "concepts that a part may speak for", low=1, high=4096, paper=8)


class Method:
    """MITH as the trainer drives it. `buffers` are C and T of both modalities, `(n_train, bits)`."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.labels, width = config, setup.known_labels, config.width
        dims = {"image": setup.image_dim, "text": setup.text_dim}
        first = {m: nn.Identity() if dims[m] == width else nn.Linear(dims[m], width) for m in MODALITIES}
        self.concepts = Concepts(width, setup.bits, config.residual_layers)
        self.gathered = {m: Gathered(width, setup.bits, config.transformer_layers, config.most) for m in MODALITIES}
        towers = {"image": setup.image_net(first["image"]), "text": setup.text_net(first["text"])}
        nets = {**towers, "concepts": self.concepts}
        self.team = Team(setup, {**nets, **{f"{m} parts": net for m, net in self.gathered.items()}})
        self.team.add("all", optimizer("adam", *self.team.nets.values(), lr=config.lr), Falling("linear", end=0.01))
        first_codes = normals(setup, "buffers", *4 * [(setup.n_train, setup.bits)])
        self.buffers = dict(zip(("c_image", "c_text", "t_image", "t_text"), first_codes, strict=True))

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass. Returns the means of J and its terms."""
        means = Means()
        self.team.train()
        for batch in batches():
            both = {"image": self._outputs("image", batch.image), "text": self._outputs("text", batch.text)}
            for m, (c, t, _, _) in both.items():
                self.buffers[f"c_{m}"][batch.index], self.buffers[f"t_{m}"][batch.index] = c.detach(), t.detach()
            S = similar(self.labels[batch.index], self.labels)
            loss, terms = step_loss(both, self.buffers, S, self.config)
            self.team.step(loss)
            means.add({"loss": loss, **terms})
        self.team.end_epoch()
        return means.values()

    def _outputs(self, modality: str, x: Tensor) -> Outputs:
        return outputs(self.team.nets[modality], self.concepts, self.gathered[modality], x)

    def encode_image(self, features: Tensor) -> Tensor:
        """c + t `(n, K)` of vectors `(n, d)` or tokens `(n, 1 + L, d)`; their signs are the codes."""
        self.team.train(False)
        c, t, _, _ = self._outputs("image", features)
        return c + t

    def encode_text(self, features: Tensor) -> Tensor:
        """The same of texts."""
        self.team.train(False)
        c, t, _, _ = self._outputs("text", features)
        return c + t

    def state(self) -> State:
        """All nets and their optimizer, C and T."""
        return {**self.team.state(), "buffers": self.buffers}


def step_loss(both: Both, buffers: Buffers, S: Tensor, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms without weights. Buffers `(N, K)` hold the batch's rows already; S `(b, N)`."""
    terms, share = {}, config.lambda_
    B = sign(torch.stack([share * c + (1 - share) * t for c, t, _, _ in both.values()]).sum(0)).detach()
    for m, (c, t, _, _) in both.items():
        other = MODALITIES[m == "image"]
        terms[f"intra_{m}"] = clipped_nll(t, buffers[f"t_{m}"], S)
        terms[f"inter_{m}"] = clipped_nll(c, buffers[f"c_{other}"], S)
        terms[f"rounding_{m}"] = ((c + t) / 2 - B).square().mean()
        apart, back = (c.detach() - t).square().sum(1).mean(), (c - t.detach()).square().sum(1).mean()
        terms[f"distance_{m}"] = apart + BACK * back
    image, text = both["image"], both["text"]
    terms["contrast"] = info_nce(image[2][None], text[2][None], temperature=TEMPERATURE)
    terms["concepts"] = info_nce(image[3], text[3], temperature=TEMPERATURE)
    weights = {"intra": config.intra, "inter": config.beta, "rounding": config.gamma, "distance": config.mu}
    weights |= {"contrast": config.delta, "concepts": config.delta * config.alpha}
    return weighted(terms, {name: weights[name.split("_")[0]] for name in terms})


def trainable(config: dict[str, object]) -> None:
    """Train MITH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

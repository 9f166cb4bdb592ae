"""DSAH: Yang, Wu, Zhang, Zhang, Li and Wang, "Deep Semantic-Alignment Hashing for Unsupervised Cross-Modal Retrieval",
ICMR 2020, DOI 10.1145/3372278.3390673.

For a batch of m pairs with fixed image features F_I and texts F_T, let S_I = 2 cos(F_I, F_I) − 1, S_T = 2 cos(F_T, F_T)
− 1 and S = K (α S_I + (1 − α) S_T) (K is a factor here, no number of bits). With h the outputs of a net, B = tanh(a h),
a = √(epoch + 1) for epochs counted from 0, and C = cos(B_I, B_T), a step minimises

    J = |cos(B_I, B_I) − S|² + |cos(B_T, B_T) − S|² + |C − S|² + mean_i (C_ii − K)² + 2 |C − Cᵀ|²
      + η (|cos(B_I, B_I) − K S_I|² + |cos(B_T, B_T) − K S_T|²),

|·|² a mean over m × m, S a constant, C and Cᵀ both with gradient. An epoch is one pass; each step trains both nets. A
code is sign(h). No label is used. `α, K, η` are `alpha, K, eta`. For K > 1 no cosine reaches the fourth term's target:
it pulls each pair together all the way.

Differences from the paper and from the authors' code (idejie/DSAH @b231976):

1. The paper's text was not available: formula and values are those of the code.
2. The code also decodes each code to the other modality's normalised features (two linear layers, mean squares added
   to J), but from sign(B): no gradient comes back to a code. `decode: signs` has that, `none` (the default, and the
   paper's point) leaves it out, which changes no code; `decode: codes` decodes B itself, so that it reaches the codes.
3. There AlexNet is trained along, with its dropout, on randomly cropped pictures, and F_I comes from a second, fixed
   copy of it, of the same crop. On frozen features the hash layer is all that is left of it (`hidden_image: 0`, the
   paper's point here); our default adds a hidden layer.
4. SGD is without Nesterov's correction here; rates (.005), momentum (.7) and decay are the code's.
5. A last, shorter batch is trained on, with its own m; the code drops it.
6. sign(0) = +1; the released codes leave 0.
7. a grows with the number of epochs, whatever number is planned: to √30 in a search, to √200 in the code.
8. The default values are ours: Adam, a far larger K, as much weight on texts as on images. On the clip art v3 (32 bits,
   30 epochs, validation MAP, chance .162, CCA-ITQ .282) they give .294 (K = 1.5: .261, 3: .283, 6: .288), the paper's
   point .288.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize, tanh

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import cosines, pair_cosines, sign, weighted
from cmh.nets.optimizers import optimizer
from cmh.nets.pair import Pair
from cmh.nets.towers import mlp
from cmh.training import train

TITLE = "Deep Semantic-Alignment Hashing for Unsupervised Cross-Modal Retrieval"
YEAR = 2020
KIND = "unsupervised"
LABELS = False
SOURCE = "DOI 10.1145/3372278.3390673"


@dataclass(frozen=True)
class Config:
    """Hyperparameters of DSAH."""

    alpha: float = param(0.5, "share α of the images in the similarity S", low=0, high=1, paper=0.9)
    K: float = param(12.0, "factor K on S", above=0, high=100, paper=1.5)
    eta: float = param(0.1, "weight η of each modality's own similarity", low=0, high=1e4)
    decode: str = param("none", "decode codes to the other modality's features", choices=["none", "signs", "codes"])
    optimizer: str = param("adam", "how the nets are trained", choices=["adam", "sgd"], paper="sgd")
    hidden_image: int = param(1024, "hidden units of the image net; 0: hash layer only", low=0, high=65536, paper=0)
    lr_image: float = param(3e-4, "learning rate of the image net", above=0, high=10, paper=5e-3)
    hidden_text: int = param(1024, "hidden units of the text net; 0: hash layer only", low=0, high=65536, paper=4096)
    lr_text: float = param(1e-3, "learning rate of the text net", above=0, high=10, paper=5e-3)
    momentum: float = param(0.7, "momentum (sgd)", low=0, below=1)
    weight_decay: float = param(1e-4, "weight decay on weights and biases", low=0, high=1, paper=5e-4)
    batch_size: int = param(64, "items a step", low=1, high=65536, paper=32)


class Method:
    """DSAH as the trainer drives it."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config = config
        image = mlp(setup.image_dim, config.hidden_image, setup.bits)
        text = mlp(setup.text_dim, config.hidden_text, setup.bits)
        self.pair = Pair(setup, config, image, text)
        if config.decode != "none":
            sizes = {"image": (setup.text_dim, config.lr_image), "text": (setup.image_dim, config.lr_text)}
            for name, (width, lr) in sizes.items():
                decoder = nn.Linear(setup.bits, width).to(setup.device)
                self.pair.nets[f"from_{name}"] = decoder
                kind, momentum, decay = config.optimizer, config.momentum, config.weight_decay
                stepper = optimizer(kind, decoder, lr=lr, momentum=momentum, weight_decay=decay)
                self.pair.team.add(f"from_{name}", stepper)
        self.encode_image, self.encode_text, self.state = self.pair.encode_image, self.pair.encode_text, self.pair.state

    def epoch(self, batches: Batches) -> dict[str, float]:
        """One pass that trains both nets. Returns the means of J and its terms over the steps."""
        return self.pair.one_pass(batches, self._loss)

    def _loss(self, batch: Batch, image: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        a, nets = (self.pair.n_epochs + 1) ** 0.5, self.pair.nets
        codes, features = (tanh(a * image), tanh(a * text)), (batch.features, batch.text_features)
        decoded = None
        if self.config.decode != "none":
            B_I, B_T = codes if self.config.decode == "codes" else map(sign, codes)
            decoded = nets["from_text"](B_T), nets["from_image"](B_I)
        return step_loss(*codes, *features, self.config, decoded)


def step_loss(
    B_I: Tensor, B_T: Tensor, F_I: Tensor, F_T: Tensor, config: Config, decoded: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """J of a batch and its terms without weights: B `(m, bits)` with gradient, features `(m, d)` without.

    `decoded`: image features `(m, d_i)` decoded from the texts' codes, text features `(m, d_t)` from the images'.
    """
    S_I, S_T = (2 * cosines(F, F) - 1 for F in (F_I, F_T))
    S, found = config.K * (config.alpha * S_I + (1 - config.alpha) * S_T), pair_cosines(B_I, B_T)
    terms = {name: mse_loss(C, S) for name, C in found.items()}
    C = found["image_text"]
    terms["pairs"] = (C.diagonal() - config.K).square().mean()
    terms["symmetry"] = mse_loss(C, C.T)
    terms["own_image"] = mse_loss(found["image"], config.K * S_I)
    terms["own_text"] = mse_loss(found["text"], config.K * S_T)
    if decoded:
        terms["decoded_image"], terms["decoded_text"] = map(mse_loss, decoded, (normalize(F_I), normalize(F_T)))
    return weighted(terms, {"symmetry": 2, "own_image": config.eta, "own_text": config.eta})


def trainable(config: dict[str, object]) -> None:
    """Train DSAH with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

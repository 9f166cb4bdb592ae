"""CCA-ITQ: Gong and Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes", CVPR 2011,
DOI 10.1109/CVPR.2011.5995432 (journal version: Gong, Lazebnik, Gordo and Perronnin, TPAMI 2013,
DOI 10.1109/TPAMI.2012.193). The shallow control for methods that see no labels.

With X and Y the centred image and text features of the training pairs, C_xx = cov(X) + λ_x I, C_yy = cov(Y) + λ_y I
and C_xy = cov(X, Y), canonical correlation analysis finds the pairs of directions whose projections correlate most:

    C_xx^−½ C_xy C_yy^−½ = U diag(r) Vᵀ,   W_x = C_xx^−½ U diag(r),   W_y = C_yy^−½ V diag(r),   r falling, K columns,

each scaled by its correlation r. Iterative quantisation then turns the embeddings Z = [X W_x; Y W_y], so that they lie
near the corners of the cube:

    min |B − Z R|²  over B ∈ {−1, +1}^{2N×K} and R with R Rᵀ = I:   B = sign(Z R), then R = P Qᵀ for Zᵀ B = P S Qᵀ.

The code of an image is sign((x − mean) W_x R), that of a text sign((y − mean) W_y R). It takes one epoch of two passes:
the moments, batch by batch in float64, then the embeddings. `λ` is `lambda_image` and `lambda_text`, relative to the
mean variance of the modality; the rounds of quantisation are `n_iterations`.

Differences from the paper and from the authors' code (cca.m, ITQ.m):

1. The paper correlates images with their tags or labels and hashes images only. Here the other side is the text, it
   gets codes as well, and one rotation learnt from both embeddings keeps them comparable. No label is used.
2. λ is relative to the mean variance of the features. The released code adds 1e-4 as it is, which says something else
   for every kind of feature; 1e-4 is the paper's point here all the same, now as a share of that variance.
3. W_y is computed like W_x, from the same decomposition. The released code derives it from W_x by a regression; the
   two agree. Cholesky factors take the place of symmetric roots, and U comes from the eigenvectors on the smaller side.
4. Codes longer than the smaller side has features: R is then wide, with orthonormal rows, and the problem stays the
   same. It is what directions without any correlation would give, since r = 0 scales them away.
5. The released loop ends with one update of R more than it says (51 for 50).
6. Our default λ is far larger. On the clip art v2 (32 bits, validation MAP, chance .156) it gives .325, the paper's
   1e-4 .201: with fewer items than features nearly every direction then correlates in the training set (mean r .99).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmh.config import param
from cmh.interfaces import Batch, Batches, Setup, State
from cmh.losses import sign
from cmh.nets.linear import LinearMaps, ridged
from cmh.seeding import derive
from cmh.training import train

TITLE = "Iterative Quantization on canonical correlations of image and text"
YEAR = 2011
KIND = "shallow"
LABELS = False
SOURCE = "DOI 10.1109/CVPR.2011.5995432"
ROWS = 65536  # embeddings rotated at once: bounds memory
EPOCHS = 1  # a closed form and its rounds have nothing to repeat


@dataclass(frozen=True)
class Config:
    """Hyperparameters of CCA-ITQ."""

    lambda_image: float = param(100.0, "regularisation λ of the image covariance", above=0, high=1e6, paper=1e-4)
    lambda_text: float = param(1.0, "regularisation λ of the text covariance", above=0, high=1e6, paper=1e-4)
    n_iterations: int = param(50, "rounds of iterative quantisation; 0 keeps the random rotation", low=0, high=10_000)


class Method:
    """CCA-ITQ as the trainer drives it: one epoch."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.config, self.setup, self.maps = config, setup, LinearMaps(setup, setup.bits)
        draw = torch.Generator().manual_seed(derive(setup.seed, "rotation"))
        n_directions = min(setup.bits, setup.image_dim, setup.text_dim)
        rotation = nn.init.orthogonal_(torch.empty(n_directions, setup.bits, dtype=torch.float64), generator=draw)
        self.rotation = rotation.to(setup.device)

    def epoch(self, batches: Batches) -> dict[str, float]:
        """Both steps. Returns the mean correlation of the directions in use, and |B − Z R|² per item and bit."""
        means, covariances = self._moments(batches())
        lambdas = self.config.lambda_image, self.config.lambda_text
        W_x, W_y, r = directions(*covariances, *lambdas, n=len(self.rotation))
        Z = torch.empty(2, self.setup.n_train, len(r), device=self.setup.device)  # all that grows with N
        for batch in batches():
            Z[0, batch.index] = ((batch.features - means[0]) @ W_x).float()
            Z[1, batch.index] = ((batch.text - means[1]) @ W_y).float()
        self.rotation, error = quantise(Z.flatten(0, 1), self.rotation, self.config.n_iterations)
        for name, mean, W in zip(("image", "text"), means, (W_x, W_y), strict=True):
            self.maps.solve(name, mean, W @ self.rotation)
        return {"correlation": float(r.mean()), "quantisation": float(error)}

    def _moments(self, batches: Iterator[Batch]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """Means of both modalities, and cov(X), cov(Y), cov(X, Y), batch by batch in float64."""
        d_x, d_y, n = self.setup.image_dim, self.setup.text_dim, self.setup.n_train
        shapes = ((d_x,), (d_y,), (d_x, d_x), (d_y, d_y), (d_x, d_y))
        moments = [torch.zeros(shape, dtype=torch.float64, device=self.setup.device) for shape in shapes]
        for batch in batches:
            x, y = batch.features.double(), batch.text.double()
            for moment, total in zip(moments, (x.sum(0), y.sum(0), x.T @ x, y.T @ y, x.T @ y), strict=True):
                moment += total / n
        m_x, m_y, xx, yy, xy = moments
        return (m_x, m_y), (xx - torch.outer(m_x, m_x), yy - torch.outer(m_y, m_y), xy - torch.outer(m_x, m_y))

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return self.maps.encode("image", features)

    def encode_text(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)`; their signs are the codes."""
        return self.maps.encode("text", features)

    def state(self) -> State:
        """Everything that encoding depends on."""
        return {**self.maps.state(), "rotation": self.rotation}


def directions(
    c_xx: Tensor, c_yy: Tensor, c_xy: Tensor, lambda_x: float, lambda_y: float, *, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The n most correlated directions from the covariances: W_x `(d_x, n)`, W_y `(d_y, n)`, both scaled, and r `(n,)`.

    λ is relative to the mean variance of the modality.
    """
    L_x, L_y = (torch.linalg.cholesky(ridged(c, share)) for c, share in ((c_xx, lambda_x), (c_yy, lambda_y)))
    M = torch.linalg.solve_triangular(L_x, c_xy, upper=False)
    M = torch.linalg.solve_triangular(L_y, M.T, upper=False).T  # (d_x, d_y), singular values r
    wide = M.shape[0] <= M.shape[1]
    squares, vectors = torch.linalg.eigh(M @ M.T if wide else M.T @ M)  # rising
    first, r = vectors[:, -n:].flip(1), squares[-n:].flip(0).clamp_min(0).sqrt()
    U, V = (first * r, M.T @ first) if wide else (M @ first, first * r)  # both times r
    W_x, W_y = (torch.linalg.solve_triangular(L.T, A, upper=True) for L, A in ((L_x, U), (L_y, V)))
    return W_x, W_y, r


def quantise(Z: Tensor, rotation: Tensor, n_iterations: int) -> tuple[Tensor, Tensor]:
    """R `(n, K)` after so many rounds from a first one, and |B − Z R|² per entry; Z is `(rows, n)`."""
    for _ in range(n_iterations):
        cross = torch.zeros_like(rotation)
        for rows in torch.split(Z, ROWS):
            cross += rows.T @ sign(rows @ rotation.to(rows))
        P, _, Q = torch.linalg.svd(cross, full_matrices=False)
        rotation = P @ Q
    outputs = (rows @ rotation.to(rows) for rows in torch.split(Z, ROWS))
    error = torch.stack([(sign(output) - output).square().sum() for output in outputs]).sum()
    return rotation, error / (len(Z) * rotation.shape[1])


def trainable(config: dict[str, object]) -> None:
    """Fit CCA-ITQ with a flat mapping of hyperparameters and run settings, alone or under Ray Tune."""
    train(__name__, config)

"""A linear layer that knows how sure its weights are: a Gaussian around them, from a diagonal Laplace approximation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

EPS = 1e-6  # as in the authors' code of DPBE, in lengths and in standard deviations


class LaplaceLinear(nn.Module):
    """Features `(n, d)` to outputs `(n, K)`, by weights θ that are drawn from N(θ̂, σ²), σ = 1/(√(h + 1) + 1e-6).

    θ̂ are `weight` `(K, d)` and `bias` `(K,)`, which are trained; the precisions h of the same shapes start at `first`
    and grow by `observe`. `kept` draws are what an evaluation uses until `draw_kept` draws others; without any, and
    before the first time, it is θ̂.
    """

    def __init__(self, n_in: int, bits: int, *, first: float, kept: int) -> None:
        super().__init__()
        start = nn.Linear(n_in, bits)
        self.weight, self.bias = start.weight, start.bias
        self.n_kept = kept
        for name, theta in (("weight", start.weight), ("bias", start.bias)):
            self.register_buffer(f"h_{name}", torch.full_like(theta, first, requires_grad=False))
            self.register_buffer(f"kept_{name}", theta.detach().expand(max(kept, 1), *theta.shape).clone())

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """`n` draws of the weights, `(n, K, d)` and `(n, K)`, whose gradient is that of θ̂."""
        drawn = []
        for theta, h in ((self.weight, self.get_buffer("h_weight")), (self.bias, self.get_buffer("h_bias"))):
            noise = torch.randn(n, *theta.shape, dtype=theta.dtype, device=theta.device)
            drawn.append(theta + noise / ((h + 1).sqrt() + EPS))
        return drawn[0], drawn[1]

    @torch.no_grad()
    def draw_kept(self) -> None:
        """Draw anew what an evaluation uses."""
        fresh = self.draw(self.n_kept) if self.n_kept else (self.weight[None], self.bias[None])
        for name, values in zip(("kept_weight", "kept_bias"), fresh, strict=True):
            self.get_buffer(name).copy_(values)

    def forward(self, x: Tensor) -> Tensor:
        """The mean over the kept draws of their outputs, each of length 1; `(n, d)` to `(n, K)`."""
        return units(outputs(x, self.get_buffer("kept_weight"), self.get_buffer("kept_bias"))).mean(1)

    @torch.no_grad()
    def observe(self, x: Tensor, z: Tensor, *, scale: float, memory: float) -> None:
        """h ← memory · h + scale · `curvature` of features `(n, d)` and outputs `(n, m, K)`."""
        for name, found in zip(("h_weight", "h_bias"), curvature(x, z), strict=True):
            self.get_buffer(name).mul_(memory).add_(found, alpha=scale)


def outputs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What several draws `(m, K, d)`, `(m, K)` of a layer give for features `(n, d)`: `(n, m, K)`."""
    return linear(x, weight.flatten(0, 1), bias.flatten()).reshape(len(x), *bias.shape)


def units(z: Tensor) -> Tensor:
    """z / (|z| + 1e-6) over the last axis."""
    of_length_one: Tensor = z / (z.norm(dim=-1, keepdim=True) + EPS)
    return of_length_one


def curvature(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal of JᵀJ, `(K, d)` and `(K,)`, for the Jacobian J of y = `units(z)` in the layer's weights and biases.

    z are its outputs `(n, m, K)` for features x `(n, d)`, over whose rows and draws it is a mean.
    ∂y_j/∂z_k is (δ_jk − y_j y_k)/(|z| + 1e-6), whose squares add up to (1 − y_k² (2 − |y|²))/(|z| + 1e-6)² over j.
    """
    y = units(z)
    slopes = (1 - y.square() * (2 - y.square().sum(-1, keepdim=True))) / (z.norm(dim=-1, keepdim=True) + EPS).square()
    of_items = slopes.mean(1)
    return of_items.T @ x.square() / len(x), of_items.mean(0)

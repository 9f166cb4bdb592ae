"""Critics: small nets that tell the features of one modality from those of the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn, optim
from torch.nn.functional import softplus

from cmh.nets.optimizers import optimizer

PENALTY = 10.0  # weight of the gradient penalty: AGAH, CPAH and DADH all take the value of Gulrajani et al.


def critic_optimizer(kind: str, critic: nn.Module, *, lr: float) -> optim.Optimizer:
    """Betas and weight decay as AGAH, CPAH and DADH have them."""
    return optimizer(kind, critic, lr=lr, betas=(0.5, 0.9), weight_decay=1e-4)


def critic_loss(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    mix: Tensor,
    *,
    kind: Literal["wasserstein", "logistic"],
    weight: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """weight·(real + fake) + PENALTY·(gradient penalty), and these three terms (the last with its factor).

    `wasserstein`: −mean D(real) and mean D(fake). `logistic`: −mean log σ(D(real)) and −mean log(1 − σ(D(fake))).
    What made `real` and `fake` gets no gradient.
    """
    real, fake = real.detach(), fake.detach()
    of_real, of_fake = torch.split(critic(torch.cat([real, fake])), [len(real), len(fake)])
    if kind == "logistic":
        of_real, of_fake = -softplus(-of_real), softplus(of_fake)
    penalty = PENALTY * gradient_penalty(critic, real, fake, mix)
    terms = {"real": -of_real.mean(), "fake": of_fake.mean(), "penalty": penalty}
    total = weight * (terms["real"] + terms["fake"]) + penalty
    return total, {name: term.detach() for name, term in terms.items()}


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """mean (|∇D(x)|₂ − 1)² at x = mix·real + (1 − mix)·fake, of Gulrajani et al. (NIPS 2017, arXiv:1704.00028).

    `mix` is drawn from [0, 1): `(b, 1)` for one number an item, as in that paper, or `(b, d)` for one a coordinate.
    """
    between = (mix * real + (1 - mix) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty: Tensor = (torch.linalg.vector_norm(slope, dim=1) - 1).square().mean()
    return penalty

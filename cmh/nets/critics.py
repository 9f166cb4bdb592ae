"""Critics: small nets that tell the features of one modality from those of the other, and whom they train against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor, nn, optim
from torch.nn.functional import softplus

from cmh.interfaces import Setup
from cmh.nets.optimizers import Falling, Rates, optimizer
from cmh.nets.team import Team

PENALTY = 10.0  # weight of the gradient penalty: AGAH, CPAH and DADH all take the value of Gulrajani et al.

Kind = Literal["wasserstein", "logistic"]


class _Rates(Rates, Protocol):
    """And of critics."""

    @property
    def lr_critic(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def adversaries(
    setup: Setup, config: _Rates, nets: Mapping[str, nn.Module], critics: Collection[str], *, every: int
) -> Team:
    """Nets and critics as AGAH, CPAH and DADH train them, by the field `optimizer` of the Config (Adam where it has
    none).

    `image` has an optimizer of its own, and so has each of the `critics`, by its name. All other nets belong to the
    optimizer `text`. The rates of `image` and `text` fall as the Config says, in the schedule `early` after so many
    epochs; the critics' stay.
    """
    team, kind = Team(setup, nets), getattr(config, "optimizer", "adam")
    others = [net for name, net in team.nets.items() if name != "image" and name not in critics]
    decay, falling = config.weight_decay, dataclasses.replace(Falling.of(config), every=every)
    team.add("image", optimizer(kind, team.nets["image"], lr=config.lr_image, weight_decay=decay), falling)
    team.add("text", optimizer(kind, *others, lr=config.lr_text, weight_decay=decay), falling)
    for name in critics:
        team.add(name, critic_optimizer(kind, team.nets[name], lr=config.lr_critic))
    return team


def train_critic(team: Team, name: str, real: Tensor, fake: Tensor, *, kind: Kind, weight: float = 1.0) -> Tensor:
    """One step of a critic; gives its loss. The mix of the penalty is drawn for each coordinate."""
    loss, _ = critic_loss(team.nets[name], real, fake, torch.rand_like(real), kind=kind, weight=weight)
    team.step(loss, name)
    return loss.detach()


def critic_optimizer(kind: str, critic: nn.Module, *, lr: float) -> optim.Optimizer:
    """Betas and weight decay as AGAH, CPAH and DADH have them."""
    return optimizer(kind, critic, lr=lr, betas=(0.5, 0.9), weight_decay=1e-4)


def critic_loss(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    mix: Tensor,
    *,
    kind: Kind,
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

"""Dead-part audit: loss terms that move no code, parameters that never change, and what is alive by design."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cmh import audits
from cmh.audits.trace import Term, Trace
from cmh.interfaces import Batches
from cmh.losses import pairwise_nll, similar
from cmh.nets.optimizers import optimizer
from cmh.nets.towers import mlp
from tests.made_up import RUN, Made, Sound, Weights, config, module
from tests.test_training import tiny


class Detached(Made):
    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return (1 - f.detach().abs()).square().mean() * self.proxies.weight.detach().norm()


class Signs(Made):
    """Has a gradient, which is 0."""

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return (self.proxies.weight.detach()[0] - torch.sign(f)).square().mean()


class OwnProxies(Made):
    """The proxies are stepped and move no code, as the hyperbolic part of one published method."""

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.proxies(f.detach()), labels)


class Unstepped(Made):
    def more(self, config: Any) -> None:
        self.unused = {"scale": [nn.Parameter(torch.ones(2))]}


class Forgotten(Made):
    def step(self, loss: Tensor) -> None:
        pass

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        pairs = pairwise_nll(0.5 * f @ g.T, similar(labels, labels)).mean()
        super().step(pairs + 0 * self.proxies(f).sum())
        return super().second(f, g, labels)


class Critic(Made):
    """The extra term deceives a critic, which learns from detached codes: alive by design."""

    def epoch(self, batches: Batches) -> dict[str, float]:
        terms: dict[str, float] = {}
        for batch in batches():
            f, g = (outputs.detach() for outputs in self.pair.both(batch))
            loss = (self.proxies(f)[:, 0] - self.proxies(g)[:, 0]).mean().exp()
            self.optimizers["proxies"].zero_grad()
            loss.backward()
            self.optimizers["proxies"].step()
            terms["critic"] = loss.item()  # after the backward pass, as people do
        return {**super().epoch(batches), **terms}

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.softplus(self.proxies(g)[:, 0]).mean()


class LabelNet(Made):
    """A net of labels acts on the codes through a buffer alone: alive by design."""

    def more(self, config: Any) -> None:
        self.target_net = mlp(3, 0, 8)
        self.optimizers["target"] = optimizer("adam", self.target_net, lr=1e-2)
        self.targets = torch.zeros(len(self.labels), 8)

    def epoch(self, batches: Batches) -> dict[str, float]:
        sums = []
        for batch in batches():
            codes = self.target_net(self.labels[batch.index])
            loss = (codes.abs() - 1).square().mean()
            self.optimizers["target"].zero_grad()
            torch.autograd.backward([loss])
            self.optimizers["target"].step()
            self.targets[batch.index] = codes.detach()
            sums.append(float(loss.detach()))
        return {**super().epoch(batches), "target": sum(sums) / len(sums)}

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return (f - self.targets[: len(f)]).square().mean() + 0 * self.proxies(f).mean()


class Inactive(Made):
    """A hinge that has nothing to say about these items."""

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return torch.relu(f.abs() - 1e6).mean() + 0 * self.proxies(f).mean()


class Monitored(Made):
    """Reports a number that no loss has."""

    def epoch(self, batches: Batches) -> dict[str, float]:
        terms = super().epoch(batches)
        with torch.no_grad():
            return {**terms, "norm": float(self.proxies.weight.norm()), "fixed": 1.0}


class ByHand(Made):
    """Its own descent from autograd.grad, and a loss from a function of its own."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square().mean()

        @staticmethod
        def backward(ctx: Any, upstream: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return upstream * 2 * x / x.numel()

    def step(self, loss: Tensor) -> None:
        nets = (*self.pair.nets.values(), self.proxies)
        parameters = [parameter for net in nets for parameter in net.parameters()]
        with torch.no_grad():
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter -= 0.01 * gradient

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return self.Square.apply(self.proxies(f) - labels)


def dead(method: type) -> list[str]:
    return audits.dead(module(method, Weights), RUN, config(Weights), tiny())


PROXIES = "parameters proxies.weight, proxies.bias never change (in 3 epochs)"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Sound, []),
        (Made, []),
        (
            Detached,
            ["loss term `extra` has no gradient on any parameter: it is a constant to all nets", PROXIES],
        ),
        (Signs, ["loss term `extra` has no gradient on any parameter", PROXIES]),
        (
            OwnProxies,
            [
                "loss term `extra` has no gradient on the image or the text encoder, and what it trains"
                " (proxies.bias, proxies.weight) changes no code"
            ],
        ),
        (Unstepped, [PROXIES, "parameter unused.scale.0 never changes (in 3 epochs)"]),
        (
            Forgotten,
            [
                "loss term `pairs` is reported, but no backward pass goes through it",
                "loss term `extra` is reported, but no backward pass goes through it",
                PROXIES,
            ],
        ),
        (Critic, []),
        (LabelNet, [PROXIES]),
        (Inactive, [PROXIES]),
        (Monitored, []),
        (ByHand, []),
    ],
)
def test_what_is_dead_is_found(method: type, expected: list[str]) -> None:
    assert dead(method) == expected


def test_many_parameters_are_one_finding() -> None:
    class Idle(Made):
        def more(self, config: Any) -> None:
            super().more(config)
            self.idle = {"net": mlp(3, [4, 4], 2)}

    assert dead(Idle) == ["parameters idle.net.0.weight, idle.net.0.bias and 4 more never change (in 3 epochs)"]


def test_a_method_that_fails_says_so_itself() -> None:
    class Failing(Made):
        def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
            raise ZeroDivisionError("mine")

    before = torch.autograd.backward
    with pytest.raises(ZeroDivisionError, match="mine"):
        dead(Failing)
    assert torch.autograd.backward is before


def test_a_scalar_that_is_first_seen_after_the_backward_pass_is_traced_by_its_graph() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return 2 * x.sum()

        @staticmethod
        def backward(ctx: Any, upstream: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * upstream * torch.ones_like(x)

    weight, other = (torch.ones(3, requires_grad=True) for _ in range(2))
    found: dict[str, Term] = {}
    with Trace({"weight": weight, "other": other}) as trace:
        term = Twice.apply(weight)
        Twice.apply(term.expand(2)).backward()
        aside = Twice.apply(other)
        reported = {"term": float(term.detach()), "aside": float(aside.detach() + 1), "unseen": 0.25}
    trace.terms(reported, found)
    assert found == {
        "term": Term(traced=True, trained=True, reached={"weight"}, zero=False),
        "aside": Term(traced=True, trained=False, reached={"other"}, zero=False),
        "unseen": Term(zero=False),
    }

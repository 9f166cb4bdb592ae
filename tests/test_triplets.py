"""Triplets without their b × b × b block, and critics: against explicit loops, at their limits, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmh.losses import cosine_triplets, similar
from cmh.nets.critics import PENALTY, critic_loss, critic_optimizer, gradient_penalty
from cmh.nets.optimizers import descend

SEEDS, SIZE = st.integers(0, 999), st.integers(1, 6)


def loops(codes: np.ndarray, others: np.ndarray, S: np.ndarray, margin: float, weights: np.ndarray) -> float:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return max(0.0, 1 - (float(a @ b / lengths) if lengths else 0.0))

    total = 0.0
    for a in range(len(codes)):
        for p in range(len(others)):
            for n in range(len(others)):
                if S[a, p] and not S[a, n]:
                    gap = distance(codes[a], others[p]) - distance(codes[a], others[n]) + margin
                    total += weights[a, p] * max(0.0, gap)
    return total


def explicit(
    codes: torch.Tensor, others: torch.Tensor, S: torch.Tensor, margin: float, w: torch.Tensor
) -> torch.Tensor:
    """The whole block, for its gradient."""
    d = (1 - torch.cosine_similarity(codes[:, None], others[None], dim=2)).clamp_min(0)
    gaps = (d[:, :, None] - d[:, None, :] + margin).clamp_min(0)
    return (gaps * (w * S)[:, :, None] * (1 - S)[:, None, :]).sum()


@settings(max_examples=60, deadline=None)
@given(b=SIZE, m=SIZE, bits=st.integers(1, 4), seed=SEEDS, margin=st.floats(0, 2), share=st.floats(0, 1))
def test_triplets_equal_loops(b: int, m: int, bits: int, seed: int, margin: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    codes, others, weights = rng.standard_normal((b, bits)), rng.standard_normal((m, bits)), rng.random((b, m))
    S = (rng.random((b, m)) < share).astype(float)
    tensors = [torch.from_numpy(array) for array in (codes, others, S)]
    found = float(cosine_triplets(*tensors, margin=margin, weights=torch.from_numpy(weights)))
    assert found == pytest.approx(loops(codes, others, S, margin, weights), rel=1e-9, abs=1e-9)
    assert float(cosine_triplets(*tensors, margin=margin)) == pytest.approx(
        loops(codes, others, S, margin, np.ones_like(S)), rel=1e-9, abs=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(b=st.integers(1, 20), seed=SEEDS, margin=st.floats(0, 2))
def test_triplets_have_the_gradient_of_the_block(b: int, seed: int, margin: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    codes, others = (torch.randn(b, 5, generator=draw).double().requires_grad_() for _ in range(2))
    S, weights = torch.rand(b, b, generator=draw).lt(0.3).double(), torch.rand(b, b, generator=draw).double()
    found = torch.autograd.grad(cosine_triplets(codes, others, S, margin=margin, weights=weights), (codes, others))
    expected = torch.autograd.grad(explicit(codes, others, S, margin, weights), (codes, others))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def test_triplets_pass_gradcheck() -> None:
    draw = torch.Generator().manual_seed(3)
    codes, others = (torch.randn(6, 3, generator=draw).double().requires_grad_() for _ in range(2))
    S = torch.rand(6, 6, generator=draw).lt(0.4).double()
    assert 0 < float(S.sum()) < 36
    assert torch.autograd.gradcheck(lambda c, o: cosine_triplets(c, o, S, margin=0.7), (codes, others))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, 1e4])
@pytest.mark.parametrize("labels", ["none similar", "all similar", "some"])
def test_triplets_are_finite_at_their_limits(labels: str, value: float, bits: int, dtype: torch.dtype) -> None:
    codes = torch.full((4, bits), value, dtype=dtype, requires_grad=True)
    others = torch.full((4, bits), -value, dtype=dtype, requires_grad=True)
    L = {"none similar": torch.zeros(4, 2), "all similar": torch.ones(4, 2), "some": torch.eye(2).repeat(2, 1)}[labels]
    loss = cosine_triplets(codes, others, similar(L, L).to(dtype), margin=0.3)
    loss.backward()
    if labels != "some":
        assert float(loss.detach()) == 0
    else:  # all distances are equal, so each of the 4·2·2 triplets costs the margin
        assert float(loss.detach()) == pytest.approx(16 * 0.3, rel=1e-6)
    for it in (codes, others):
        assert it.grad is not None
        assert bool(torch.isfinite(it.grad).all())


def test_triplets_do_not_see_the_scale_of_codes() -> None:
    draw = torch.Generator().manual_seed(0)
    codes, others = torch.randn(9, 4, generator=draw), torch.randn(9, 4, generator=draw)
    S = torch.rand(9, 9, generator=draw).lt(0.3).float()
    plain, scaled = (cosine_triplets(scale * codes, others, S, margin=0.3) for scale in (1, 7))
    assert float(plain) == pytest.approx(float(scaled), rel=1e-5)


def critic(n_in: int, *, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(n_in, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def test_gradient_penalty_equals_finite_differences() -> None:
    torch.manual_seed(1)
    net, (real, fake), mix = critic(3), torch.randn(2, 4, 3).double(), torch.rand(4, 3).double()
    expected = 0.0
    for i in range(4):
        x, slope = mix[i] * real[i] + (1 - mix[i]) * fake[i], torch.zeros(3).double()
        for k in range(3):
            step = torch.zeros(3).double()
            step[k] = 1e-6
            slope[k] = ((net(x + step) - net(x - step)) / 2e-6).detach()
        expected += (float(slope.norm()) - 1) ** 2 / 4
    assert float(gradient_penalty(net, real, fake, mix).detach()) == pytest.approx(expected, rel=1e-6)


def test_a_linear_critic_of_length_1_pays_no_penalty() -> None:
    weight = torch.tensor([0.6, 0.8]).double()
    found = gradient_penalty(
        lambda x: x @ weight, torch.ones(5, 2).double(), torch.zeros(5, 2).double(), torch.rand(5, 1)
    )
    assert float(found) == pytest.approx(0, abs=1e-12)
    twice = gradient_penalty(lambda x: 3 * x @ weight, torch.ones(5, 2), torch.zeros(5, 2), torch.rand(5, 1).double())
    assert float(twice) == pytest.approx(4)


@pytest.mark.parametrize("kind", ["wasserstein", "logistic"])
def test_critic_loss_equals_loops(kind: str) -> None:
    torch.manual_seed(2)
    net, (real, fake), mix = critic(3), torch.randn(2, 4, 3).double(), torch.rand(4, 3).double()
    loss, terms = critic_loss(net, real, fake, mix, kind=kind, weight=0.7)  # type: ignore[arg-type]
    of_real, of_fake = (net(x).detach().flatten().tolist() for x in (real, fake))
    if kind == "logistic":
        of_real = [np.log(1 / (1 + np.exp(-x))) for x in of_real]
        of_fake = [-np.log(1 - 1 / (1 + np.exp(-x))) for x in of_fake]
    assert float(terms["real"]) == pytest.approx(-np.mean(of_real))
    assert float(terms["fake"]) == pytest.approx(np.mean(of_fake))
    assert float(terms["penalty"]) == pytest.approx(PENALTY * float(gradient_penalty(net, real, fake, mix).detach()))
    assert float(loss.detach()) == pytest.approx(0.7 * float(terms["real"] + terms["fake"]) + float(terms["penalty"]))
    assert not any(term.requires_grad for term in terms.values())


@pytest.mark.parametrize("kind", ["wasserstein", "logistic"])
def test_a_critic_step_is_the_critics_alone(kind: str) -> None:
    features = torch.randn(8, 3).double().requires_grad_()
    net = critic(3)
    before = [parameter.clone() for parameter in net.parameters()]
    stepper = critic_optimizer("adam", net, lr=1e-2)
    loss, _ = critic_loss(net, features, features.flip(0), torch.rand(8, 3), kind=kind)  # type: ignore[arg-type]
    descend(loss, stepper)
    assert features.grad is None
    assert any(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["wasserstein", "logistic"])
def test_a_critic_learns_to_tell(kind: str) -> None:
    draw = torch.Generator().manual_seed(0)
    real, fake = torch.randn(64, 3, generator=draw).double() + 2, torch.randn(64, 3, generator=draw).double() - 2
    net = critic(3)
    stepper = critic_optimizer("adam", net, lr=1e-2)
    for _ in range(60):
        mix = torch.rand(64, 3, generator=draw)
        loss, terms = critic_loss(net, real, fake, mix, kind=kind)  # type: ignore[arg-type]
        descend(loss, stepper)
    assert float((net(real).mean() - net(fake).mean()).detach()) > 1
    assert float(terms["penalty"]) < PENALTY / 2


@pytest.mark.parametrize("size", [0.0, 1e4])
def test_critics_stay_finite(size: float) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        for parameter in net.parameters():  # a dead critic has no slope at all
            parameter.fill_(-size)
    loss, _ = critic_loss(net, torch.ones(2, 3), torch.ones(2, 3), torch.rand(2, 3), kind="logistic")
    loss.backward()
    assert bool(torch.isfinite(loss))
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())

"""Loss terms against explicit loops, at their limits, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh.losses import mean_nll, pairwise_nll, sign, similar, sum_nll
from cmh.methods.dcmh import step_loss
from cmh.nets.optimizers import descend

SEEDS, SIZE = st.integers(0, 999), st.integers(1, 5)


def softplus(theta: float) -> float:
    return max(theta, 0) + math.log1p(math.exp(-abs(theta)))


@settings(max_examples=30, deadline=None)
@given(n=SIZE, m=SIZE, n_labels=st.integers(1, 4), seed=SEEDS)
def test_similar_equals_loops(n: int, m: int, n_labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = ((rng.random((size, n_labels)) < 0.4).astype(np.float32) for size in (n, m))
    expected = [[float(any(a == b == 1 for a, b in zip(x, y, strict=True))) for y in theirs] for x in ours]
    S = similar(torch.from_numpy(ours), torch.from_numpy(theirs))
    assert S.tolist() == expected
    assert S.dtype == torch.float32


@settings(max_examples=30, deadline=None)
@given(n=SIZE, m=SIZE, seed=SEEDS, scale=st.floats(0, 1e3))
def test_pairwise_nll_equals_loops(n: int, m: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    theta, S = scale * rng.standard_normal((n, m)), (rng.random((n, m)) < 0.5).astype(float)
    found = pairwise_nll(torch.from_numpy(theta), torch.from_numpy(S))
    for i in range(n):
        for j in range(m):
            expected = softplus(theta[i, j]) - S[i, j] * theta[i, j]
            # torch's softplus is x itself from 20 on
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-9, abs=3e-9)


@settings(max_examples=40, deadline=None)
@given(
    n=SIZE,
    b=SIZE,
    bits=st.integers(1, 4),
    seed=SEEDS,
    scale=st.floats(0, 100),
    gamma=st.sampled_from([0.0, 0.3, 1.0]),
    eta=st.sampled_from([0.0, 0.7, 1.0]),
)
def test_step_loss_equals_loops(n: int, b: int, bits: int, seed: int, scale: float, gamma: float, eta: float) -> None:
    rng = np.random.default_rng(seed)
    codes, others, rest = (scale * rng.standard_normal(shape) for shape in ((b, bits), (n, bits), (bits,)))
    B, S = np.where(rng.random((b, bits)) < 0.5, -1.0, 1.0), (rng.random((b, n)) < 0.5).astype(float)
    nll = quantisation = balance = 0.0
    for i in range(b):
        for j in range(n):
            theta = 0.5 * sum(codes[i, k] * others[j, k] for k in range(bits))
            nll += softplus(theta) - S[i, j] * theta
        quantisation += sum((B[i, k] - codes[i, k]) ** 2 for k in range(bits))
    for k in range(bits):
        balance += (rest[k] + sum(codes[i, k] for i in range(b))) ** 2
    loss, terms = step_loss(*map(torch.from_numpy, (codes, others, B, S, rest)), gamma=gamma, eta=eta)
    close = {"rel": 1e-9, "abs": 1e-7}
    assert float(terms["nll"]) == pytest.approx(nll, **close)
    assert float(terms["quantisation"]) == pytest.approx(quantisation, **close)
    assert float(terms["balance"]) == pytest.approx(balance, **close)
    assert float(loss) == pytest.approx((nll + gamma * quantisation + eta * balance) / (b * n), **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e4, -1e4])
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["none similar", "all similar"])
def test_limits_are_finite(share: float, value: float, bits: int, dtype: torch.dtype) -> None:
    codes = torch.full((3, bits), value, dtype=dtype, requires_grad=True)
    others, S = torch.full((4, bits), abs(value), dtype=dtype), torch.full((3, 4), share, dtype=dtype)
    loss, terms = step_loss(codes, others, sign(codes.detach()), S, torch.zeros(bits, dtype=dtype), gamma=1, eta=1)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    assert codes.grad is not None
    assert bool(torch.isfinite(codes.grad).all())


def test_huge_theta_has_the_limits_of_the_formula() -> None:
    theta, S = torch.tensor([1e30, -1e30, 1e30, -1e30]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    theta.requires_grad_()
    found = pairwise_nll(theta, S)
    assert found.tolist() == pytest.approx([0, 0, 1e30, 1e30])
    found.sum().backward()
    assert theta.grad is not None
    assert theta.grad.tolist() == [0, 0, 1, -1]


def test_agreeing_pairs_cost_less() -> None:
    S = torch.tensor([1.0, 1.0, 0.0, 0.0])
    agree, agree_more, differ, differ_more = pairwise_nll(torch.tensor([1.0, 2.0, 1.0, 2.0]), S).tolist()
    assert agree_more < agree
    assert differ_more > differ
    assert pairwise_nll(torch.zeros(1), torch.ones(1)).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("bits", [1, 3])
def test_gradients(bits: int) -> None:
    draw = torch.Generator().manual_seed(1)
    codes, others, rest = (
        torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((3, bits), (5, bits), (bits,))
    )
    S, B = torch.randint(0, 2, (3, 5), generator=draw).double(), sign(codes)
    theta = torch.randn(3, 5, generator=draw, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: pairwise_nll(t, S), theta)
    assert torch.autograd.gradcheck(
        lambda f: step_loss(f, others, B, S, rest, gamma=0.7, eta=0.3)[0], codes.requires_grad_()
    )


def test_the_terms_carry_no_gradient() -> None:
    codes = torch.ones(2, 2, requires_grad=True)
    loss, terms = step_loss(codes, torch.ones(3, 2), torch.ones(2, 2), torch.ones(2, 3), torch.zeros(2), gamma=1, eta=1)
    assert loss.requires_grad
    assert not any(term.requires_grad for term in terms.values())


def test_sign_of_zero_is_plus_one() -> None:
    signs = sign(torch.tensor([-2.0, -0.0, 0.0, 3.0], dtype=torch.float64))
    assert signs.tolist() == [-1, 1, 1, 1]
    assert signs.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.5, 40.0])
@pytest.mark.parametrize("shape", [(1, 3), (33, 3), (2, 40, 3)])
def test_sums_and_means_of_nll_equal_torchs_softplus(dtype: torch.dtype, scale: float, shape: tuple[int, ...]) -> None:
    """Value and gradient, also where e^θ overflows, for several sets of codes, and with S between 0 and 1."""
    draw = torch.Generator().manual_seed(len(shape))
    codes = torch.randn(shape, generator=draw, dtype=dtype).requires_grad_()
    others = torch.randn(50, 3, generator=draw, dtype=dtype)
    S = 0.999 * (torch.rand(shape[-2], 50, generator=draw, dtype=dtype) < 0.3)
    theta = scale * codes @ others.T
    explicit = torch.nn.functional.softplus(theta) - S * theta
    tolerance = {"rel": 1e-10} if dtype == torch.float64 else {"rel": 1e-5}
    for found, expected in ((sum_nll, explicit.sum()), (mean_nll, explicit.mean())):
        value = found(codes, others, S.to(dtype), scale)
        assert value.dtype == dtype
        assert value.item() == pytest.approx(expected.item(), **tolerance)
        (gradient,) = torch.autograd.grad(3 * value, codes)
        (wanted,) = torch.autograd.grad(3 * expected, codes, retain_graph=True)
        assert torch.allclose(
            gradient, wanted, rtol=tolerance["rel"], atol=tolerance["rel"] * float(wanted.abs().max())
        )


def test_a_step_computes_no_gradient_of_other_nets() -> None:
    """And is the same step as with all gradients."""
    ours, other = torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
    before = ours.weight.detach().clone()
    x = torch.ones(4, 3)
    (expected,) = torch.autograd.grad(other(ours(x)).sum(), ours.weight)
    descend(other(ours(x)).sum(), torch.optim.SGD(ours.parameters(), lr=0.5))
    assert torch.allclose(ours.weight, before - 0.5 * expected)
    assert other.weight.grad is None

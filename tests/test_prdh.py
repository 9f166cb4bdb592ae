"""PRDH's loss against the golden file and against loops, at its limits, and what its terms are for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmh.losses import mean_nll, pairwise_nll, sign, similar
from cmh.methods.prdh import covariance_penalty, step_terms, total
from tests import golden
from tests.test_losses import softplus

CASES = golden.cases("PRDH")
STEPS = [case for case in CASES if case.endswith("_step_correct_parts")]
REFERENCE = [case for case in CASES if "_reference_" in case]
LEFT_OUT: dict[str, str] = {}  # case → reason; none is: the two reference cases are tested as arithmetic
INDEX = torch.from_numpy(golden.batch())
SEEDS, SIZE = st.integers(0, 999), st.integers(1, 5)


def step(case: str) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of an image or text step as the recipe describes it, and the leaf they were computed from."""
    buffers = {"image": golden.tensor("F_raw"), "text": golden.tensor("G_raw")}
    name, other = ("image", "text") if case.startswith("image_") else ("text", "image")
    codes = golden.tensor("f_raw" if name == "image" else "g_raw").requires_grad_()
    B = sign(buffers["image"] + buffers["text"])[INDEX]
    rest = buffers[name].sum(0) - buffers[name][INDEX].sum(0)
    buffers[name][INDEX] = codes.detach()
    labels = golden.tensor("L")
    S = similar(labels[INDEX], labels)
    return step_terms(codes, buffers[name], buffers[other], B, S, rest), codes


def gradient(loss: Tensor, codes: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, codes, retain_graph=True)
    return found


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted([*STEPS, *REFERENCE, *LEFT_OUT]) == sorted(CASES)
    assert (len(STEPS), len(REFERENCE)) == (2, 2)


@pytest.mark.parametrize("case", STEPS)
def test_step(case: str) -> None:
    expected = CASES[case]
    terms, codes = step(case)
    hyper = expected["hyper"]
    assert all(term.dtype == torch.float64 for term in terms.values())
    ours = {
        "inter_loss": terms["inter"],
        "intra_loss": terms["intra"],
        "balance (part of regularization)": terms["balance"],
    }
    found = {name: float(term.detach()) for name, term in ours.items()}
    assert found == pytest.approx(expected["terms"], rel=1e-8)
    # The case is the sum of the terms that the port computes rightly: J4 and the quantisation are not among them.
    zero = torch.zeros((), dtype=torch.float64)
    loss = total({**terms, "quantisation": zero}, decorrelation=0, gamma=hyper["gamma"])
    assert float(loss.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert len(expected["grads"]) == 1
    about = next(iter(expected["grads"].values()))
    golden.assert_gradient(gradient(loss, codes), about)
    for name, norm in about["norm_by_term"].items():
        assert float(gradient(ours[name], codes).norm()) == pytest.approx(norm, rel=1e-7)


@pytest.mark.parametrize("case", REFERENCE)
def test_reference_terms(case: str) -> None:
    """A check of arithmetic, not of authority: these two terms are in nobody's code."""
    expected = CASES[case]
    terms, codes = step(case)
    ours = {"decorrelation": terms["decorrelation"], "quantization ||B[ind]-h||^2/(N*b)": terms["quantisation"]}
    found = {name: float(term.detach()) for name, term in ours.items()}
    assert found == pytest.approx(expected["terms"], rel=1e-8)
    assert sum(found.values()) == pytest.approx(expected["total"], rel=1e-8)
    assert len(expected["grads"]) == 1
    golden.assert_gradient(
        gradient(terms["decorrelation"] + terms["quantisation"], codes), next(iter(expected["grads"].values()))
    )


def test_total_weighs_each_term() -> None:
    names = ("inter", "intra", "decorrelation", "quantisation", "balance")
    terms = dict(zip(names, torch.eye(5).double(), strict=True))
    assert total(terms, decorrelation=0.3, gamma=0.7).tolist() == pytest.approx([1, 1, 0.3, 0.7, 0.7])


@settings(max_examples=40, deadline=None)
@given(n=SIZE, b=SIZE, bits=st.integers(1, 4), seed=SEEDS, scale=st.floats(0, 30))
def test_terms_equal_loops(n: int, b: int, bits: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    codes, own, others, rest = (
        scale * rng.standard_normal(shape) for shape in ((b, bits), (n, bits), (n, bits), (bits,))
    )
    B, S = np.where(rng.random((b, bits)) < 0.5, -1.0, 1.0), (rng.random((b, n)) < 0.5).astype(float)
    expected = {"inter": 0.0, "intra": 0.0, "decorrelation": 0.0, "quantisation": 0.0, "balance": 0.0}
    for i in range(b):
        for j in range(n):
            for name, stored in (("inter", others), ("intra", own)):
                theta = 0.5 * sum(codes[i, k] * stored[j, k] for k in range(bits))
                expected[name] += (softplus(theta) - S[i, j] * theta) / (b * n)
        expected["quantisation"] += sum((B[i, k] - codes[i, k]) ** 2 for k in range(bits)) / (b * n)
    for k in range(bits):
        expected["balance"] += (rest[k] + sum(codes[i, k] for i in range(b))) ** 2 / (b * n)
        for m in range(bits):
            mean_k, mean_m = (sum(codes[i, q] for i in range(b)) / b for q in (k, m))
            covariance = sum((codes[i, k] - mean_k) * (codes[i, m] - mean_m) for i in range(b)) / b
            expected["decorrelation"] += 0.5 * covariance**2 if k != m else 0.0
    found = step_terms(*map(torch.from_numpy, (codes, own, others, B, S, rest)))
    assert {name: float(term) for name, term in found.items()} == pytest.approx(expected, rel=1e-9, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e4, -1e4])
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["none similar", "all similar"])
def test_limits_are_finite(share: float, value: float, bits: int, dtype: torch.dtype) -> None:
    codes = torch.full((3, bits), value, dtype=dtype, requires_grad=True)
    buffers, S = torch.full((4, bits), abs(value), dtype=dtype), torch.full((3, 4), share, dtype=dtype)
    terms = step_terms(codes, -buffers, buffers, sign(codes.detach()), S, torch.zeros(bits, dtype=dtype))
    loss = total(terms, decorrelation=1, gamma=1)
    loss.backward()
    assert loss.dtype == dtype
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    assert codes.grad is not None
    assert bool(torch.isfinite(codes.grad).all())


def test_one_item_has_no_covariance() -> None:
    assert float(covariance_penalty(torch.randn(1, 8))) == 0


def test_the_covariance_penalty_is_for_bits_that_repeat_each_other() -> None:
    first, second = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, -1, 1, -1])
    assert float(covariance_penalty(torch.stack([first, second], 1))) == 0
    assert float(covariance_penalty(torch.stack([first, first], 1))) == pytest.approx(1)  # ½ (1² + 1²)
    assert float(covariance_penalty(torch.stack([first, -first], 1))) == pytest.approx(1)
    shifted = torch.stack([first + 5, 3 * first - 7], 1)
    assert float(covariance_penalty(shifted)) == pytest.approx(9)  # the mean does not count, the scale does
    assert float(covariance_penalty(10 * first[:, None])) == 0  # one bit has nobody to repeat


def test_buffers_are_constants_of_a_step() -> None:
    codes, own, others = (torch.randn(3, 4, requires_grad=True) for _ in range(3))
    terms = step_terms(codes, own, others, torch.ones(3, 4), torch.ones(3, 3), torch.zeros(4))
    total(terms, decorrelation=1, gamma=1).backward()
    assert codes.grad is not None
    assert own.grad is None
    assert others.grad is None


@settings(max_examples=30, deadline=None)
@given(n=SIZE, b=SIZE, bits=st.integers(1, 4), seed=SEEDS, scale=st.floats(0.1, 8))
def test_mean_nll_is_the_mean_and_its_gradient(n: int, b: int, bits: int, seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    codes, others = (torch.randn(rows, bits, generator=draw, dtype=torch.float64) for rows in (b, n))
    S = torch.randint(0, 2, (b, n), generator=draw).double()
    codes.requires_grad_()
    plain = pairwise_nll(scale * codes @ others.T, S).mean()
    assert float(mean_nll(codes, others, S, scale).detach()) == pytest.approx(float(plain.detach()), rel=1e-12)
    ours, torchs = gradient(3 * mean_nll(codes, others, S, scale), codes), gradient(3 * plain, codes)
    assert torch.allclose(ours, torchs, rtol=1e-9, atol=1e-6)  # torch's softplus is a line above 20: e^-20 is missing


def test_gradients() -> None:
    draw = torch.Generator().manual_seed(1)
    codes, own, others, rest = (
        torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((4, 3), (5, 3), (5, 3), (3,))
    )
    S, B = torch.randint(0, 2, (4, 5), generator=draw).double(), sign(codes)
    codes.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: mean_nll(f, others, S, 0.7), codes)
    assert torch.autograd.gradcheck(lambda f: tuple(step_terms(f, own, others, B, S, rest).values()), codes)


def test_a_likelihood_of_nothing_is_log_2() -> None:
    assert float(mean_nll(torch.zeros(2, 3), torch.ones(4, 3), torch.ones(2, 4), 0.5)) == pytest.approx(math.log(2))

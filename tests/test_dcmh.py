"""DCMH's loss against the authors' code, and against explicit loops over pairs.

The golden file holds what the authors' code computes on inputs that its recipe regenerates;
`$CMH_GOLDEN` may name another.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh.losses import pairwise_nll, sign, similar
from cmh.methods.dcmh import step_loss

GOLDEN = json.loads(Path(os.environ.get("CMH_GOLDEN") or Path(__file__).parent / "data" / "golden.json").read_text())
SIZES = GOLDEN["sizes"]
CASES = {case["id"]: case for case in GOLDEN["methods"]["DCMH"]["cases"]}
STEPS = [case for case in CASES if "_step_" in case]
WHOLE = [case for case in CASES if case.startswith("whole_set_objective")]
MATLAB = [case for case in CASES if case.startswith("matlab_analytic_gradient")]


def draw(stream: int, shape: tuple[int, ...], kind: str = "standard_normal") -> torch.Tensor:
    return torch.from_numpy(getattr(np.random.default_rng([SIZES["SEED"], stream]), kind)(shape))


def inputs() -> dict[str, torch.Tensor]:
    n, b, k, c = SIZES["N"], SIZES["b"], SIZES["K"], SIZES["C"]
    u = draw(0, (n, c), "random")
    labels = (u < 0.25).double()
    for row in range(n):
        if not labels[row].any():
            labels[row, u[row].argmin()] = 1
    index = torch.from_numpy(np.random.default_rng([SIZES["SEED"], 1]).permutation(n)[:b])
    names = {"F": (2, (n, k)), "G": (3, (n, k)), "f": (5, (b, k)), "g": (6, (b, k))}
    return {name: draw(*spec) for name, spec in names.items()} | {"labels": labels, "index": index}


def step(name: str, gamma: float, eta: float) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """One image or text step as the recipe describes it: (loss, terms, gradient)."""
    x = inputs()
    own, other, codes = (x["F"], x["G"], x["f"]) if name == "image" else (x["G"], x["F"], x["g"])
    codes = codes.clone().requires_grad_()
    B = sign(x["F"] + x["G"])[x["index"]]
    rest = own.sum(0) - own[x["index"]].sum(0)
    S = similar(x["labels"][x["index"]], x["labels"])
    loss, terms = step_loss(codes, other, B, S, rest, gamma=gamma, eta=eta)
    loss.backward()
    assert codes.grad is not None
    return loss.detach(), terms, codes.grad


def agrees(gradient: torch.Tensor, expected: dict[str, Any]) -> None:
    assert float(gradient.norm()) == pytest.approx(expected["norm"], rel=1e-7)
    assert gradient.flatten()[:3].tolist() == pytest.approx(expected["first3"], rel=1e-7)


def test_every_case_of_the_file_is_covered() -> None:
    assert sorted([*STEPS, *WHOLE, *MATLAB]) == sorted(CASES)
    assert len(CASES) == 8


@pytest.mark.parametrize("case", STEPS)
def test_step_equals_the_authors(case: str) -> None:
    expected = CASES[case]
    name = "image" if "image" in case else "text"
    loss, terms, gradient = step(name, expected["hyper"]["gamma"], expected["hyper"]["eta"])
    assert float(loss) == pytest.approx(expected["total"], rel=1e-8)
    ours = {"logloss": "nll", "quantization": "quantisation", "balance": "balance"}
    for theirs, value in expected["terms"].items():
        assert float(terms[ours[theirs]]) == pytest.approx(value, rel=1e-8)
    agrees(gradient, next(iter(expected["grads"].values())))


@pytest.mark.parametrize("case", MATLAB)
def test_gradient_equals_the_authors_matlab_code(case: str) -> None:
    expected = CASES[case]
    name, key = ("image", "f_raw") if "_f_" in case else ("text", "g_raw")
    _, _, gradient = step(name, 1.0, 1.0)
    agrees(gradient * SIZES["b"] * SIZES["N"], expected["grads"][key])


@pytest.mark.parametrize("case", WHOLE)
def test_objective_equals_the_authors(case: str) -> None:
    """Both steps over all items at once; the likelihood stands in both, so it is counted once."""
    x, expected = inputs(), CASES[case]
    F, G = x["F"].clone(), x["G"].clone()
    F[x["index"]], G[x["index"]] = x["f"], x["g"]
    B, S, zero = sign(F + G), similar(x["labels"], x["labels"]), torch.zeros(SIZES["K"]).double()
    total, gradients = -float(pairwise_nll(0.5 * F @ G.T, S).sum()), []
    for codes, others in ((F, G), (G, F)):
        codes = codes.clone().requires_grad_()
        loss, _ = step_loss(codes, others, B, S, zero, **expected["hyper"])
        (loss * S.numel()).backward()
        total += float(loss.detach()) * S.numel()
        gradients.append(codes.grad)
    assert total == pytest.approx(expected["total"], rel=1e-8)
    for gradient, name in zip(gradients, ("F (N,K)", "G (N,K)"), strict=True):
        agrees(gradient, expected["grads"][name])


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 5), b=st.integers(1, 4), bits=st.integers(1, 4), seed=st.integers(0, 99), scale=st.floats(0, 100)
)
def test_step_loss_equals_loops(n: int, b: int, bits: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    codes, others, rest = (scale * rng.standard_normal(s) for s in ((b, bits), (n, bits), (bits,)))
    B, S = np.where(rng.random((b, bits)) < 0.5, -1.0, 1.0), (rng.random((b, n)) < 0.5).astype(float)
    total = 0.0
    for i in range(b):
        for j in range(n):
            theta = 0.5 * sum(codes[i, k] * others[j, k] for k in range(bits))
            total += max(theta, 0) + math.log1p(math.exp(-abs(theta))) - S[i, j] * theta
        total += 0.3 * sum((B[i, k] - codes[i, k]) ** 2 for k in range(bits))
    total += 0.7 * sum((rest[k] + sum(codes[i, k] for i in range(b))) ** 2 for k in range(bits))
    loss, _ = step_loss(*map(torch.from_numpy, (codes, others, B, S, rest)), gamma=0.3, eta=0.7)
    assert float(loss) == pytest.approx(total / (b * n), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_limits_are_finite(value: float, share: float) -> None:
    codes = torch.full((3, 2), value, requires_grad=True)
    loss, _ = step_loss(
        codes, -codes.detach(), sign(codes.detach()), torch.full((3, 3), share), torch.zeros(2), gamma=1, eta=1
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert codes.grad is not None
    assert torch.isfinite(codes.grad).all()


def test_sign_of_zero_is_plus_one() -> None:
    assert sign(torch.tensor([-2.0, 0.0, 3.0])).tolist() == [-1, 1, 1]

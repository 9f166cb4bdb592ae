"""DScPH: the authors' values, explicit triplets, its margins over an epoch, and its rotation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmh import methods, training
from cmh.losses import cosines, semi_hard, similar, strangers
from cmh.methods import dscph
from cmh.nets.rotation import reflected
from tests import golden
from tests.golden import CLIP
from tests.test_training import tiny

CASES = CLIP.cases("DScPH")
PARTS = {"proxy": "proxy", "triplet": "triplets", "negative pairs": "apart", "bit variance": "variance"}


def given_bounds(margin: float, beta: float) -> dscph.Bounds:
    return torch.tensor(margin, dtype=torch.float64), torch.tensor(beta, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_the_authors_values(case: str) -> None:
    expected, hyper = CASES[case], CASES[case]["hyper"]
    labels = [CLIP.tensor("L")[torch.from_numpy(CLIP.batch(number))] for number in (1, 2)]
    f, g, proxies = (CLIP.tensor(name).requires_grad_() for name in ("f", "g", "P"))
    mirrors = (torch.eye(16, dtype=torch.float64) if "identity" in case else CLIP.tensor("house")).requires_grad_()
    assert (hyper["sp"], hyper["sn"], hyper["mu"], hyper["b"]) == (dscph.STEEP, dscph.STEEP, 1, 2)
    own, start = float(case.startswith("own")), given_bounds(hyper["margin_init"], hyper["beta_init"])
    config = dscph.Config(tau=hyper["tau"], psi=hyper["psi"], triplets=own, variance=1)
    later = case.endswith("later_batch")
    codes, of = (CLIP.tensor("f2"), labels[1]) if later else (f, labels[0])
    mined = dscph.bounds(codes, similar(of, of), start)
    used = (mined, mined) if later else (start, mined)
    total, terms = dscph.step_loss(f, g, labels[0], (proxies, mirrors), used, config)
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    named = {f"{theirs} {m}": float(terms[f"{ours}_{m}"]) for theirs, ours in PARTS.items() for m in ("image", "text")
             if f"{ours}_{m}" in terms}  # fmt: skip
    assert named == pytest.approx(expected["terms"], rel=1e-8, abs=1e-12)
    for modality, bounds in zip(("image", "text"), used, strict=True) if own else ():
        assert list(map(float, bounds)) == pytest.approx(expected["extra"][f"margin, beta used for {modality}"])
    total.backward()  # type: ignore[no-untyped-call]
    inputs = {"f": f, "g": g, "P": proxies, "house": mirrors}
    for name, gradient in expected["grads"].items():
        found = inputs[name.split(" ")[0]].grad
        if gradient["norm"]:  # at the identity it is 0 but for the last digit
            golden.assert_gradient(found, gradient)
        assert found is not None
        assert found.flatten()[:3].tolist() == pytest.approx(gradient["first3"], rel=1e-7, abs=1e-10)
    assert len(expected["grads"]) == len(CASES) == 4


def drawn(b: int, bits: int, classes: int, seed: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    f, g = np.tanh(rng.standard_normal((b, bits))), np.tanh(rng.standard_normal((b, bits)))
    labels = (rng.random((b, classes)) < 0.4).astype(float)
    labels[np.arange(b), rng.integers(0, classes, b)] = 1
    return f, g, rng.standard_normal((classes, bits)), labels


def cosine(x: Any, y: Any) -> float:
    return float(sum(x * y) / math.sqrt(sum(x * x)) / math.sqrt(sum(y * y)))


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def loops(h: Any, proxies: Any, labels: Any, margin: float, beta: float, config: dscph.Config) -> dict[str, Any]:
    """The terms of one modality, and the bounds that its triplets give."""
    b, alike = len(h), labels @ labels.T > 0
    tp, p, n = 2.0, 0.0, 0.0
    for i, c in itertools.product(range(b), range(len(proxies))):
        near = cosine(h[i], proxies[c])
        if labels[i, c]:
            tp, p = tp + 2 * max(near, 0), p + (1 - near) * math.exp(1.3 * (1 - near))
        elif near > config.tau:
            n += (near - config.psi) * math.exp(1.3 * (near - 1))
    triplets, gaps, pairs = [], [], set()
    for a, q, o in itertools.product(range(b), repeat=3):
        if a != q and alike[a, q] and not alike[a, o]:
            gap = cosine(h[a], h[q]) - cosine(h[a], h[o])
            gaps.append(gap)
            pairs.add((min(a, o), max(a, o)))
            if 0 < gap < margin:
                triplets.append(margin - gap)
    near_pairs = [max(0.0, float(h[i] @ h[j]) - beta) for i, j in pairs if cosine(h[i], h[j]) >= beta]
    found = max(0, mean(gaps)) / 2, 1 - (1 - mean([cosine(h[i], h[j]) for i, j in pairs])) / 2
    terms = {"proxy": 1 - tp / (tp + p + n), "triplets": mean(triplets), "apart": mean(near_pairs)}
    return {"terms": terms, "bounds": found if gaps else (margin, beta), "pairs": pairs}


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(1, 6),
    bits=st.integers(2, 5),
    classes=st.integers(1, 4),
    seed=st.integers(0, 999),
    margin=st.sampled_from([0.0, 0.25, 1.5]),
    beta=st.sampled_from([-0.3, 0.0, 0.4]),
)
def test_it_equals_loops(b: int, bits: int, classes: int, seed: int, margin: float, beta: float) -> None:
    f, g, proxies, labels = drawn(b, bits, classes, seed)
    config, start = dscph.Config(tau=0.1, psi=0.2, triplets=0.7), given_bounds(margin, beta)
    tensors = [torch.from_numpy(one) for one in (f, g, labels, proxies)]
    total, terms = dscph.step_loss(tensors[0], tensors[1], tensors[2], (tensors[3], None), (start, start), config)
    S, expected = similar(tensors[2], tensors[2]), 0.0
    for name, h in (("image", f), ("text", g)):
        slow = loops(h, proxies, labels, margin, beta, config)
        fast = {part: float(terms[f"{part}_{name}"]) for part in slow["terms"]}
        assert fast == pytest.approx(slow["terms"], rel=1e-8, abs=1e-12)
        expected += sum(value * (1 if part == "proxy" else 0.7) for part, value in slow["terms"].items())
        assert {(i, j) for i, j in strangers(S).nonzero().tolist()} == slow["pairs"]
        bounds = dscph.bounds(torch.from_numpy(h), S, start)
        assert list(map(float, bounds)) == pytest.approx(list(slow["bounds"]), rel=1e-8, abs=1e-12)
    assert float(total) == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_the_gradient_of_the_triplets_is_that_of_the_sum() -> None:
    f, _, _, labels = drawn(7, 4, 3, 1)
    codes, S = torch.from_numpy(f).requires_grad_(), similar(*2 * [torch.from_numpy(labels)])
    margin = torch.tensor(0.6, dtype=torch.float64)
    (fast,) = torch.autograd.grad(semi_hard(cosines(codes, codes), S, margin), codes)
    s, parts = cosines(codes, codes), []
    for a, p, n in itertools.product(range(7), repeat=3):
        if a != p and S[a, p] and not S[a, n] and 0 < s[a, p] - s[a, n] < margin:
            parts.append(s[a, n] - s[a, p] + margin)
    (slow,) = torch.autograd.grad(torch.stack(parts).mean(), codes)
    assert len(parts) > 10
    assert torch.allclose(fast, slow, atol=1e-12)


def test_the_rotation_is_a_product_of_reflections() -> None:
    draw = torch.Generator().manual_seed(3)
    mirrors, rows = (torch.randn(n, 5, generator=draw, dtype=torch.float64) for n in (5, 7))
    product = torch.eye(5, dtype=torch.float64)
    for column in mirrors.T:
        unit = column / column.norm()
        product = product @ (torch.eye(5, dtype=torch.float64) - 2 * torch.outer(unit, unit))
    assert torch.allclose(reflected(rows, mirrors), rows @ product.T)
    assert torch.allclose(reflected(rows, torch.eye(5, dtype=torch.float64)), -rows)


def fit(**values: Any) -> training.Fitted:
    module = methods.get("dscph")
    common = {"bits": 8, "epochs": 2, "threads": 1, "batch_size": 32, "hidden_image": 8, "hidden_text": 8}
    return training.fit(module, *training.parse(module, {**common, **values}), tiny())


def test_margins_come_from_the_first_images_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, step_loss = [], dscph.step_loss

    def spy(*args: Any) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append([tuple(map(float, bounds)) for bounds in args[4]])
        return step_loss(*args)

    monkeypatch.setattr(dscph, "step_loss", spy)
    fit(triplets=1, margin=0.3, beta=0.1)
    assert len(seen) == 8
    for epoch in (seen[:4], seen[4:]):
        assert epoch[0][0] == pytest.approx((0.3, 0.1))
        assert epoch[0][1] == epoch[1][0] == epoch[3][1] != epoch[0][0]
    assert seen[0][1] != seen[4][1]


def test_the_rotation_is_there_only_with_its_term() -> None:
    with_it, without = fit(triplets=1, variance=1, lr_rotation=0.01), fit()
    assert set(with_it.curve[0].terms) - set(without.curve[0].terms) == {
        f"{part}_{of}" for part in ("triplets", "apart", "variance") for of in ("image", "text")
    }
    mirrors = with_it.method.learnt[1]  # type: ignore[attr-defined]
    assert not torch.equal(mirrors, torch.eye(8))
    assert without.method.learnt[1] is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [0.0, 1e-20, 1.0, -1.0])
@pytest.mark.parametrize("labels", [torch.ones(3, 1), torch.eye(3)], ids=["one label for all", "a label each"])
def test_limits_are_finite(value: float, labels: Tensor) -> None:
    f, g = (torch.full((3, 4), size, requires_grad=True) for size in (value, abs(value)))
    learnt = torch.ones(labels.shape[1], 4, requires_grad=True), torch.eye(4)
    start = torch.tensor(0.25), torch.tensor(0.0)
    used = start, dscph.bounds(f, similar(labels, labels), start)
    loss, _ = dscph.step_loss(f, g, labels, learnt, used, dscph.Config(triplets=1, variance=1))
    loss.backward()  # type: ignore[no-untyped-call]
    for codes in (f, g):
        assert codes.grad is not None
        assert bool(torch.isfinite(codes.grad).all())
    assert bool(torch.isfinite(loss))

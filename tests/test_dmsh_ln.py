"""DMsH-LN: the authors' values, explicit loops, and what its label net would give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmh.losses import similar
from cmh.methods import dmsh_ln
from tests import golden
from tests.golden import CLIP

CASES = CLIP.cases("DMsH-LN")
NAMES = {"ii": "image", "tt": "text", "it": "image_text"}


@pytest.mark.parametrize("case", CASES)
def test_the_authors_values(case: str) -> None:
    expected, hyper = CASES[case], CASES[case]["hyper"]
    f, g = (CLIP.tensor(name).requires_grad_() for name in ("f", "g"))
    labels = CLIP.tensor("L")[torch.from_numpy(CLIP.batch())]
    h = CLIP.tensor("h")
    S = (h @ h.T > 0).double() if case.startswith("toolbox") else similar(labels, labels)
    assert 1 - hyper["epsilon"] == dmsh_ln.SAME
    scales = {"scale_pos": hyper["scale_pos"], "scale_neg": hyper["scale_neg"]}
    config = dmsh_ln.Config(similarity="rows", threshold=hyper["thresh"], margin=hyper["margin"], **scales)
    total, terms = dmsh_ln.step_loss(f, g, S, config)
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert {theirs: float(terms[ours]) for theirs, ours in NAMES.items()} == pytest.approx(expected["terms"], rel=1e-8)
    total.backward()  # type: ignore[no-untyped-call]
    for value, gradient in zip((f, g), expected["grads"].values(), strict=True):
        golden.assert_gradient(value.grad, gradient)
    assert len(CLIP.file["methods"]["DMsH-LN"]["cases"]) == len(CASES) == 2


def loops(s: Any, S: Any, config: dmsh_ln.Config) -> float:
    losses = []
    for row, of in zip(s, S, strict=True):
        pairs = list(zip(map(float, row), of, strict=True))
        alike, others = [x for x, y in pairs if y and x < 1 - 1e-5], [x for x, y in pairs if not y]
        hard = [x for x in others if alike and x + config.margin > min(alike)]
        weak = [x for x in alike if others and x - config.margin < max(others)]
        if hard and weak:
            near = math.log1p(sum(math.exp(-config.scale_pos * (x - config.threshold)) for x in weak))
            far = math.log1p(sum(math.exp(config.scale_neg * (x - config.threshold)) for x in hard))
            losses.append(near / config.scale_pos + far / config.scale_neg)
    return sum(losses) / len(s)


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(1, 6),
    classes=st.integers(1, 4),
    seed=st.integers(0, 999),
    similarity=st.sampled_from(["cosine", "rows"]),
    margin=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_it_equals_loops(b: int, classes: int, seed: int, similarity: str, margin: float) -> None:
    rng = np.random.default_rng(seed)
    f, g = np.tanh(rng.standard_normal((2, b, 3)))
    labels = (rng.random((b, classes)) < 0.5).astype(float)
    S = (labels @ labels.T > 0).astype(float)
    config = dmsh_ln.Config(similarity=similarity, margin=margin, threshold=0.3, scale_pos=3, scale_neg=7)
    expected = {}
    for name, one, other in (("image", f, f), ("text", g, g), ("image_text", f, g)):
        s = one @ other.T
        across = np.linalg.norm(s if similarity == "rows" else one, axis=1)[:, None]
        s = s / across if similarity == "rows" else s / across / np.linalg.norm(other, axis=1)
        expected[name] = loops(s, S, config)
    total, terms = dmsh_ln.step_loss(*map(torch.from_numpy, (f, g, S)), config)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-8, abs=1e-12)


def test_nothing_is_to_learn_where_all_pairs_are_similar() -> None:
    """What the toolbox's label net makes of labels (difference 2)."""
    f, g = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    total, _ = dmsh_ln.step_loss(f, g, torch.ones(5, 5), dmsh_ln.Config())
    assert float(total.detach()) == 0
    assert not any(bool(slope.any()) for slope in torch.autograd.grad(total, (f, g)))


@pytest.mark.parametrize("similarity", ["cosine", "rows"])
@pytest.mark.parametrize("value", [0.0, 1e-20, 1.0, -1.0])
@pytest.mark.parametrize("S", [torch.ones(3, 3), torch.eye(3), torch.zeros(3, 3)], ids=["all", "own", "none"])
def test_limits_are_finite(similarity: str, value: float, S: torch.Tensor) -> None:
    f, g = (torch.full((3, 4), size, requires_grad=True) for size in (value, abs(value)))
    config = dmsh_ln.Config(similarity=similarity, scale_neg=1000, scale_pos=1000)
    loss, terms = dmsh_ln.step_loss(f, g, S, config)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(bool(torch.isfinite(part)) for part in (loss, *terms.values()))
    assert all(bool(torch.isfinite(codes.grad).all()) for codes in (f, g) if codes.grad is not None)

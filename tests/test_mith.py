"""MITH: the authors' values, loops, what its nets make of tokens, and vectors as items of one part."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmh.losses import clipped_nll, info_nce, similar
from cmh.methods import mith
from cmh.nets.tokens import Block, Concepts, Gathered, gather, heads, outputs, places
from tests import golden
from tests.golden import MAIN

CASES = MAIN.cases("MITH")
NAMES = {"hyper_tokens_intra": "intra", "hyper_distill": "mu", "hyper_info_nce": "delta", "hyper_cls_inter": "beta"}
NAMES |= {"hyper_quan": "gamma", "hyper_alpha": "alpha", "hyper_lambda": "lambda_"}
WEIGHED = {"tokens_intra_likelihood": "intra", "cls_inter_likelihood": "inter", "quantization": "rounding"}


@pytest.mark.parametrize("case", CASES)
def test_the_authors_values(case: str) -> None:
    expected, rows, labels = CASES[case], torch.from_numpy(MAIN.batch()), MAIN.tensor("L")
    config = mith.Config(**{ours: expected["hyper"][theirs] for theirs, ours in NAMES.items()})
    x = {name: MAIN.tensor(name).requires_grad_() for name in ("f", "g", "tI", "tT", "rI", "rT", "uI", "uT")}
    buffers = dict(
        zip(("c_image", "c_text", "t_image", "t_text"), map(MAIN.tensor, ("F", "G", "TI", "TT")), strict=True)
    )
    for buffer, now in zip(buffers.values(), ("f", "g", "tI", "tT"), strict=True):
        buffer[rows] = x[now].detach()
    both = {m: (x[c], x[f"t{k}"], x[f"r{k}"], x[f"u{k}"].transpose(0, 1)) for m, c, k in
            (("image", "f", "I"), ("text", "g", "T"))}  # fmt: skip
    total, terms = mith.step_loss(both, buffers, similar(labels[rows], labels), config)
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    weights = {"intra": config.intra, "inter": config.beta, "rounding": config.gamma}
    named = {theirs: weights[ours] * float(terms[f"{ours}_image"] + terms[f"{ours}_text"])
             for theirs, ours in WEIGHED.items()}  # fmt: skip
    named["infoNCE"] = config.delta * float(terms["contrast"] + config.alpha * terms["concepts"])
    named["distillation"] = config.mu * float(terms["distance_image"] + terms["distance_text"])
    assert named == pytest.approx(expected["terms"], rel=1e-8)
    total.backward()  # type: ignore[no-untyped-call]
    for name, gradient in expected["grads"].items():
        golden.assert_gradient(x[name.split(" ")[0]].grad, gradient)
    assert (len(expected["grads"]), len(CASES)) == (8, 3)


def test_the_likelihood_of_long_codes_is_clipped() -> None:
    draw = torch.Generator().manual_seed(0)
    codes, others = (torch.rand(n, 100, generator=draw, dtype=torch.float64) + 0.3 for n in (3, 5))
    codes[0] *= -1
    S = torch.ones(3, 5, dtype=torch.float64)
    S[1] = 0
    expected = []
    for i in range(3):
        for j in range(5):
            theta = 0.5 * min(64.0, max(-64.0, float(codes[i] @ others[j])))
            expected.append(math.log1p(math.exp(theta)) - float(S[i, j]) * theta)
    assert float(clipped_nll(codes, others, S)) == pytest.approx(sum(expected) / 15, rel=1e-10)
    assert max(abs(float(v)) for v in (codes @ others.T).flatten()) > 64


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), m=st.integers(1, 4), seed=st.integers(0, 99))
def test_info_nce_equals_loops(n: int, m: int, seed: int) -> None:
    one, other = np.random.default_rng(seed).standard_normal((2, n, m, 3))
    parts = []
    for i in range(n):
        for j in range(m):
            for a, b in ((one[i], other[i]), (other[i], one[i])):
                scores = [float(a[j] @ row) / 0.5 for row in b]
                parts.append(math.log(sum(map(math.exp, scores))) - scores[j])
    found = info_nce(torch.from_numpy(one), torch.from_numpy(other), temperature=0.5)
    assert float(found) == pytest.approx(sum(parts) / len(parts), rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(1, 3), L=st.integers(1, 4), bits=st.integers(1, 5), most=st.integers(1, 5), seed=st.integers(0, 99)
)
def test_gathering_equals_loops(b: int, L: int, bits: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, concepts = rng.standard_normal((b, L, 3)), np.tanh(rng.standard_normal((b, L, bits)))
    concepts[rng.random((b, L)) < 0.2] = 0  # no part
    most = min(most, bits)
    found = gather(torch.from_numpy(x), torch.from_numpy(concepts), most).numpy()
    for i in range(b):
        for k in range(bits):
            speak = [
                j for j in range(L) if concepts[i, j, k] > 0 and concepts[i, j, k] >= sorted(concepts[i, j])[-most]
            ]
            weights = [math.exp(concepts[i, j, k]) for j in speak]
            mean = sum((w * x[i, j] for w, j in zip(weights, speak, strict=True)), np.zeros(3)) / (sum(weights) or 1)
            assert found[i, k] == pytest.approx(mean, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("width", [1, 5, 8])
def test_places_are_sines_and_cosines(width: int) -> None:
    found = places(6, width)
    for n in range(6):
        for d in range(width):
            angle = n / 10000 ** ((d - d % 2) / width)
            wave = math.cos(angle) if d % 2 else math.sin(angle)
            assert float(found[n, d]) == pytest.approx(wave / width**0.5, abs=1e-5)


def test_heads_divide_the_width() -> None:
    assert [heads(width) for width in (5, 64, 130, 192, 200, 512)] == [1, 1, 2, 3, 2, 8]


def nets(width: int = 8, bits: int = 6) -> tuple[nn.Module, Concepts, Gathered]:
    torch.manual_seed(0)
    made = nn.Linear(4, width), Concepts(width, bits, 1), Gathered(width, bits, 2, 3)
    for net in made:
        net.eval()
    return made


def test_zeros_fill_up_and_a_vector_is_its_own_only_part() -> None:
    made, x = nets(), torch.randn(5, 4, 4)
    alone = outputs(*made, x)
    longer = outputs(*made, torch.cat([x, torch.zeros(5, 2, 4)], 1))
    shuffled = outputs(*made, x[:, [0, 3, 1, 2]])
    for one, filled, turned in zip(alone, longer, shuffled, strict=True):
        assert torch.allclose(one, filled, atol=1e-6)
        assert torch.allclose(one, turned, atol=1e-6)  # parts have no order: the backbone has told them apart
    vector = outputs(*made, x[:, 0])
    for one, other in zip(vector, outputs(*made, x[:, [0, 0]]), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert [tuple(one.shape) for one in alone] == [(5, 6), (5, 6), (5, 8), (5, 6, 8)]
    assert torch.allclose(alone[3].norm(dim=2), torch.ones(5, 6))
    without = outputs(*made, torch.cat([x[:, :1], torch.zeros(5, 2, 4)], 1))
    assert all(bool(torch.isfinite(one).all()) for one in without)


def test_gathering_sends_no_gradient_into_concepts() -> None:
    net, concepts, gathered = nets()
    _, t, _, _ = outputs(net, concepts, gathered, torch.randn(5, 4, 4))
    t.sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in concepts.parameters())
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_block_is_that_of_clip() -> None:
    torch.manual_seed(0)
    block, x = Block(128), torch.randn(2, 5, 128)
    same = nn.TransformerEncoderLayer(128, 2, 512, 0.0, lambda h: h * torch.sigmoid(1.702 * h), batch_first=True,
                                      norm_first=True)  # fmt: skip
    state = block.state_dict()
    names = {
        "norm": "norm1",
        "attention": "self_attn",
        "layers.0": "norm2",
        "layers.1": "linear1",
        "layers.3": "linear2",
    }
    renamed = {}
    for key, value in state.items():
        old = next(name for name in names if key.startswith(name + "."))
        renamed[names[old] + key[len(old) :]] = value
    same.load_state_dict(renamed)
    assert torch.allclose(block(x), same(x), atol=1e-5)

"""TwDH: the authors' values, centres and votes, the way from long codes to short ones, and its head."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cmh import methods, training
from cmh.methods import twdh
from cmh.nets.centres import centres, shortening, votes
from cmh.nets.two_way import two_way
from tests import golden
from tests.golden import CLIP
from tests.test_training import tiny

CASES = CLIP.cases("TwDH")


def bits(codes: Tensor) -> list[str]:
    return ["".join(str(int(bit > 0)) for bit in row) for row in codes]


@pytest.mark.parametrize("case", CASES)
def test_the_authors_values(case: str) -> None:
    expected, labels = CASES[case], CLIP.tensor("L")[torch.from_numpy(CLIP.batch())]
    image, text = (CLIP.tensor(name).requires_grad_() for name in ("zLI", "zLT"))
    long, short = (votes(labels, CLIP.tensor(of), CLIP.tensor(ties)) for of, ties in (("CL", "tieL"), ("CM", "tieS")))
    assert bits(long) == expected["extra"]["long target bits"]
    assert bits(short) == expected["extra"]["short target bits"]
    assert bits(twdh.shortened(image, CLIP.tensor("trans"))) == expected["extra"]["short code image bits"]
    hyper = expected["hyper"]
    config = twdh.Config(alpha=hyper["quan_alpha"], short=hyper["low_rate"])
    total, terms = twdh.step_loss(image, text, two_way(long), two_way(short), CLIP.tensor("trans"), config)
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    for ours, theirs in (("likelihood", "long BCE"), ("rounding", "long quantisation")):
        for of in ("image", "text"):
            assert float(terms[f"{ours}_{of}"]) == pytest.approx(expected["terms"][f"{theirs} {of}"], rel=1e-8)
    if config.short:
        both = float(terms["short_image"] + terms["short_text"]) / 2
        whole = sum(value for name, value in expected["terms"].items() if name.startswith("short"))
        assert both == pytest.approx(whole, rel=1e-8)
    total.backward()  # type: ignore[no-untyped-call]
    for name, gradient in expected["grads"].items():
        golden.assert_gradient({"zLI": image, "zLT": text}[name.split(" ")[0]].grad, gradient)
    assert len(expected["grads"]) == len(CASES) == 2


def setup_of(classes: int, seed: int = 0) -> Any:
    return SimpleNamespace(known_labels=torch.zeros(1, classes), seed=seed, device=torch.device("cpu"))


@pytest.mark.parametrize(("n", "classes"), [(16, 30), (16, 5), (64, 32), (512, 81)])
def test_centres_are_far_from_each_other(n: int, classes: int) -> None:
    """Half of the bits of any two, or all of them; as many +1 as −1 in each; others for another seed."""
    found = centres(setup_of(classes), n, "x")
    products = found @ found.T
    assert products.diagonal().tolist() == [n] * classes
    assert set((products - n * torch.eye(classes)).unique().tolist()) <= {0.0, float(-n)}
    assert not found.sum(1).any()
    assert not torch.equal(found, centres(setup_of(classes, 1), n, "x"))
    assert torch.equal(found, centres(setup_of(classes), n, "x"))


@pytest.mark.parametrize(("n", "classes"), [(16, 31), (24, 4), (70, 300), (1, 3)])
def test_centres_without_a_hadamard_matrix_are_balanced(n: int, classes: int) -> None:
    found = centres(setup_of(classes), n, "x")
    assert found.shape == (classes, n)
    assert ((found > 0).sum(1) == (n + 1) // 2).all()
    assert (found.abs() == 1).all()


@settings(max_examples=30, deadline=None)
@given(b=st.integers(1, 5), n=st.integers(1, 6), classes=st.integers(1, 5), seed=st.integers(0, 999))
def test_votes_equal_loops(b: int, n: int, classes: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    labels = (torch.rand(b, classes, generator=draw) < 0.5).float()
    of, ties = (2.0 * torch.randint(2, shape, generator=draw) - 1 for shape in ((classes, n), (n,)))
    found = votes(labels, of, ties)
    for i, k in itertools.product(range(b), range(n)):
        count = sum(int(of[c, k]) for c in range(classes) if labels[i, c])
        assert float(found[i, k]) == (float(ties[k]) if count == 0 else 1 if count > 0 else -1)


def test_the_matrix_takes_long_codes_to_short_ones() -> None:
    """All of items of one class and of two, and from what a net is sure of as from what it is half sure of."""
    setup = setup_of(6)
    pairs = torch.tensor([[float(c in pair) for c in range(6)] for pair in itertools.combinations(range(6), 2)])
    labels = torch.cat([torch.eye(6), pairs]).repeat(20, 1)  # RIDGE is what ten items weigh
    ties = [2.0 * torch.arange(n).remainder(2) - 1 for n in (64, 16)]
    long, short = (votes(labels, centres(setup, n, str(n)), row) for n, row in zip((64, 16), ties, strict=True))
    T = shortening(long, short, steep=4.0)
    assert T.shape == (128, 32)
    for share in (1.0, 0.2):
        assert bits(twdh.shortened(two_way(share * long), T)) == bits(short)
    logits = (two_way(long) @ T).reshape(len(long), 16, 2)
    assert torch.allclose(logits[..., 1] - logits[..., 0], 4 * short, atol=1.0)
    assert torch.allclose(logits.sum(2), torch.zeros(()), atol=1e-4)


def test_the_codes_head_is_attention_of_a_token_to_itself() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 8, batch_first=True).eval()
    head = twdh.head(16, 0, twdh.Config(long_bits=4, head="attention"), nn.LayerNorm(16))
    value, out = head[0], head[1]
    assert isinstance(value, nn.Linear)
    assert isinstance(out, nn.Linear)
    value.weight.data, value.bias.data = attention.in_proj_weight[32:].detach(), attention.in_proj_bias[32:].detach()
    out.load_state_dict(attention.out_proj.state_dict())
    x = torch.randn(3, 16)
    assert torch.allclose(head[:2](x), attention(x[:, None], x[:, None], x[:, None])[0][:, 0], atol=1e-6)
    assert head(x).shape == (3, 4)
    logits = head[:5](x)
    assert bool((logits >= 0).all())
    assert torch.equal(head[5](torch.zeros(1, 8)), torch.zeros(1, 4))


def fit(**values: Any) -> training.Fitted:
    module = methods.get("twdh")
    common = {"bits": 8, "epochs": 3, "threads": 1, "batch_size": 30, "long_bits": 32}
    common |= {"hidden_image": 8, "hidden_text": 8}
    return training.fit(module, *training.parse(module, {**common, **values}), tiny())


def test_rows_for_ties_are_drawn_once_or_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(labels: Tensor, of: Tensor, ties: Tensor) -> Tensor:
        seen.append(tuple(ties.tolist()))
        return votes(labels, of, ties)

    monkeypatch.setattr(twdh, "votes", spy)
    fit()
    assert len(set(seen)) == 2  # of long and of short codes
    seen.clear()
    first = fit(fresh_ties=True)
    assert len(set(seen[2:][::2])) == 12
    assert [epoch.terms for epoch in fit(fresh_ties=True).curve] == [epoch.terms for epoch in first.curve]


def test_the_terms_of_short_codes_are_an_option() -> None:
    assert {name for name in fit(short=0.5).curve[0].terms if name not in fit().curve[0].terms} == {
        "short_image",
        "short_text",
    }


def test_the_published_head_trains() -> None:
    fitted = fit(head="attention", fresh_ties=True, lr_image=0.01, lr_text=0.01)
    assert fitted.curve[-1].terms["likelihood_image"] < fitted.curve[0].terms["likelihood_image"]


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_limits_are_finite(value: float) -> None:
    """Outputs of 0, and probabilities of 0 and 1; float32."""
    outputs = torch.full((3, 8), value, requires_grad=True)
    target, T = two_way(torch.ones(3, 8)), torch.ones(16, 4)
    p = two_way(outputs)
    loss, _ = twdh.step_loss(p, p, target, two_way(torch.ones(3, 2)), T, twdh.Config(short=1))
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(loss))
    assert outputs.grad is not None
    assert bool(torch.isfinite(outputs.grad).all())

"""DIMCH, DDWSH, DDBH, GCDH, NRCH and DSAH: the authors' values, explicit loops, and what their nets and states are."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmh import methods, training
from cmh.losses import cosines, gains, label_codes, sign, similar, triplet_counts
from cmh.methods import ddbh, ddwsh, dimch, dsah, gcdh, nrch
from cmh.nets import instances as sets
from cmh.nets.buffers import LabelCodes
from cmh.nets.distribution import lower_of_two
from cmh.nets.graph_convolution import ClassGraph, class_adjacency
from cmh.nets.instances import Instances
from cmh.training.batches import Batch, Items
from tests import golden
from tests.golden import CLIP
from tests.test_clip_era import cosine, drawn, mean
from tests.test_training import tiny

Loss = tuple[Tensor, dict[str, Tensor]]
COUNTS = {"DIMCH": 4, "DDWSH": 2, "DDBH": 3, "GCDH": 3, "DSAH": 2}
UPDATE = "update_B (first epoch: C = B, D = 0)"
CASES = [(method, case) for method in COUNTS for case in CLIP.cases(method) if case != UPDATE]
KINDS = {"ii": "image", "tt": "text", "it": "image_text"}
NAMES: dict[str, dict[str, str]] = {
    "DIMCH": {
        **{f"{theirs} triplet i2t": f"{ours}_image" for theirs, ours in (("token", "tokens"), ("hash", "outputs"))},
        **{f"{theirs} triplet t2i": f"{ours}_text" for theirs, ours in (("token", "tokens"), ("hash", "outputs"))},
        **{name: name for name in ("mmd", "diversity")},
        **{f"quantisation {name}": f"quantisation_{name}" for name in ("image", "text")},
    },
    "DDWSH": KINDS,
    "DDBH": {
        **{"intra image": "image", "intra text": "text", "inter": "image_text"},
        **{f"quantisation {name}": f"quantisation_{name}" for name in ("image", "text")},
    },
    "GCDH": {
        **{"triplet image (i2t + i2i)": "triplets_image", "triplet text (t2i + t2t)": "triplets_text"},
        **{f"quantisation {name}": f"quantisation_{name}" for name in ("image", "text")},
        "class": "labels",
    },
    "DSAH": {
        **{"loss1": "text", "loss2": "image_text", "loss3": "image", "loss4": "pairs", "loss7": "symmetry"},
        **{"loss5": "decoded_image", "loss6": "decoded_text", "loss31": "own_image", "loss32": "own_text"},
    },
}


def rows(number: int = 1) -> Tensor:
    return torch.from_numpy(CLIP.batch(number))


def inputs(*names: str) -> list[Tensor]:
    return [CLIP.tensor(name).requires_grad_() for name in names]


def computed_dimch(case: str, hyper: dict[str, Any]) -> tuple[Loss, list[Tensor]]:
    given_ = [CLIP.tensor(name)[:6].clone().requires_grad_() for name in ("setI", "setT", "f", "g")]
    x, y, f, g = given_
    if case.startswith("clustered"):
        x, y = 1 + x / 3, 1 + y / 3
    assert (hyper["setDim"], hyper["denominator"]) == (x.shape[1], 2)
    kept = {key: value for key, value in hyper.items() if key not in ("setDim", "denominator")}
    config = dimch.Config(**kept, diversity="batch")
    return dimch.step_loss(x, y, f, g, CLIP.tensor("L")[rows()[:6]], config), given_


def computed_ddwsh(case: str, hyper: dict[str, Any]) -> tuple[Loss, list[Tensor]]:
    f, g, dbeta = inputs("f", "g", "dbeta")
    labels, drawn_ = CLIP.tensor("L")[rows()], CLIP.tensor("pick2")
    S = similar(labels, labels)
    used = ((S.sum(1) > 1) & (S == 0).any(1)).nonzero()[:, 0]
    draws = torch.zeros_like(drawn_)
    draws[:, used] = drawn_[:, : len(used)]  # the recipe numbers the anchors that have a triplet
    sampler = "outputs" if "intended" in case else "distances"
    config = ddwsh.Config(margin=hyper["margin"], beta=hyper["beta"], sampler=sampler)
    return ddwsh.step_loss(f, g, hyper["beta"] + dbeta, labels, draws, config), [f, g, dbeta]


def computed_ddbh(case: str, hyper: dict[str, Any]) -> tuple[Loss, list[Tensor]]:
    second = case == "second_batch"
    f, g = inputs(*(("f2", "g2") if second else ("f", "g")))
    labels = CLIP.tensor("L")[rows(2 if second else 1)]
    config = ddbh.Config(quantisation=hyper["quantisation weight"], y_p=hyper["y_p"], percent=hyper["percent"])
    return ddbh.step_loss(f, g, similar(labels, labels), hyper["bit"], config), [f, g]


def computed_gcdh(case: str, hyper: dict[str, Any]) -> tuple[Loss, list[Tensor]]:
    f, g, logits = inputs("f", "g", "logitI")
    B = sign(CLIP.tensor("F") + CLIP.tensor("G"))[rows()]
    config = gcdh.Config(alpha=hyper["alpha"], margin=hyper["margin"])
    return gcdh.step_loss(f, g, B, logits, CLIP.tensor("L")[rows()], config), [f, g, logits]


def computed_dsah(case: str, hyper: dict[str, Any]) -> tuple[Loss, list[Tensor]]:
    f, g, image, text = inputs("f", "g", "decI", "decT")
    config = dsah.Config(alpha=hyper["ALPHA"], K=hyper["K"], eta=hyper["ETA"])
    features = [CLIP.tensor(name)[rows()] for name in ("XI", "XT")]
    return dsah.step_loss(f, g, *features, config, (image, text)), [f, g, image, text]


COMPUTED: dict[str, Callable[[str, dict[str, Any]], tuple[Loss, list[Tensor]]]] = {
    "DIMCH": computed_dimch,
    "DDWSH": computed_ddwsh,
    "DDBH": computed_ddbh,
    "GCDH": computed_gcdh,
    "DSAH": computed_dsah,
}


def test_every_case_is_covered() -> None:
    for method, count in COUNTS.items():
        assert len(CLIP.file["methods"][method]["cases"]) == len(CLIP.cases(method)) == count


@pytest.mark.parametrize(("method", "case"), CASES, ids=lambda value: str(value).split(" ")[0])
def test_the_authors_values(method: str, case: str) -> None:
    expected = CLIP.cases(method)[case]
    (total, terms), given_ = COMPUTED[method](case, expected["hyper"])
    assert total.dtype == torch.float64
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    assert set(expected["terms"]) == set(NAMES[method])
    named = {theirs: float(terms[ours]) for theirs, ours in NAMES[method].items()}
    assert named == pytest.approx(expected["terms"], rel=1e-8)
    total.backward()  # type: ignore[no-untyped-call]
    for value, gradient in zip(given_, expected["grads"].values(), strict=True):
        golden.assert_gradient(value.grad, gradient)


def test_the_authors_update_of_gcdh() -> None:
    expected = CLIP.cases("GCDH")[UPDATE]
    hyper, (F, G, f, g, labels) = expected["hyper"], (CLIP.tensor(name) for name in ("F", "G", "f", "g", "L"))
    B = sign(F)
    F[rows()], G[rows()] = f, g
    codes = LabelCodes.__new__(LabelCodes)
    codes.B, codes.C, codes.D, codes.outputs = B.clone(), B.clone(), torch.zeros_like(B), F + G
    golden_R = expected["extra"]["R first3"]
    assert label_codes(labels, B, ridge=1).flatten()[:3].tolist() == pytest.approx(golden_R, rel=1e-8)
    codes.update(labels, gamma=hyper["gamma"], mu=hyper["mu"])
    assert float(codes.B.sum()) == expected["total"]
    assert int((codes.B != B).sum()) == expected["terms"]["bits changed"]
    text = ["".join("1" if bit > 0 else "0" for bit in row) for row in codes.B[:6].tolist()]
    assert text == expected["extra"]["B first 6 rows"]
    assert float(codes.C.norm()) == pytest.approx(expected["terms"]["norm of C after"], rel=1e-8)
    assert torch.allclose(codes.C.T @ codes.C, torch.eye(B.shape[1], dtype=B.dtype), atol=1e-12)
    assert torch.allclose(codes.D, hyper["gamma"] * (codes.B - codes.C))
    nearest = torch.trace(codes.C.T @ codes.B)  # no other orthonormal C is nearer to B
    turned, _ = torch.linalg.qr(codes.C + 0.1 * torch.randn(B.shape, generator=torch.Generator().manual_seed(0)))
    assert float(torch.trace(turned.T @ codes.B)) < float(nearest)


sizes: dict[str, Any] = {
    "b": st.integers(1, 5),
    "bits": st.integers(2, 5),
    "classes": st.integers(1, 5),
    "seed": st.integers(0, 999),
}


def checked(found: Loss, expected: dict[str, float], weights: dict[str, float]) -> None:
    total, terms = found
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-8, abs=1e-9)
    whole = sum(weights.get(name, 1) * value for name, value in expected.items())
    assert float(total) == pytest.approx(whole, rel=1e-8, abs=1e-9)


def tensors(*arrays: Any) -> list[Tensor]:
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def dcg_gains(labels: Any) -> Any:
    shared = labels @ labels.T
    gain = 2.0**shared - 1
    best = [sum(value / math.log2(rank + 2) for rank, value in enumerate(sorted(row, reverse=True))) for row in gain]
    return gain / np.array(best)[:, None]


def loops_of_triplets(far: Any, labels: Any, margin: float) -> tuple[float, int]:
    """Their weighted sum, and how many there are."""
    S, weights, found = labels @ labels.T > 0, dcg_gains(labels), []
    for a, p, n in itertools.product(range(len(far)), repeat=3):
        if S[a, p] and not S[a, n] and far[a][p] - far[a][n] + margin > 0:
            found.append(weights[a, p] * (far[a][p] - far[a][n] + margin))
    return sum(found), len(found)


@settings(max_examples=20, deadline=None)
@given(**sizes, s=st.integers(1, 3), mode=st.sampled_from(["smooth_chamfer", "chamfer"]), batch=st.booleans())
def test_dimch_equals_loops(b: int, bits: int, classes: int, seed: int, s: int, mode: str, batch: bool) -> None:
    f, g, _, labels = drawn(b, bits, classes, seed)
    x, y = np.random.default_rng(seed + 1).standard_normal((2, b, s, bits))
    config = dimch.Config(mode=mode, diversity="batch" if batch else "item", unif_alpha=0.7, temperature=5)

    def alike(one: Any, other: Any) -> float:
        table = [[cosine(k, m) for m in other] for k in one]
        ways = (table, list(zip(*table, strict=True)))
        if mode == "chamfer":
            return sum(mean([max(row) for row in way]) for way in ways) / 2
        return sum(mean([math.log(sum(math.exp(5 * c) for c in row)) / 5 for row in way]) for way in ways) / 2

    D = [[max(0.0, 1 - alike(x[i], y[j])) for j in range(b)] for i in range(b)]
    E = [[max(0.0, 1 - cosine(f[i], g[j])) for j in range(b)] for i in range(b)]
    expected: dict[str, float] = {}
    for name, far in (("tokens", D), ("outputs", E)):
        for way, one in (("image", far), ("text", list(zip(*far, strict=True)))):
            total, count = loops_of_triplets(one, labels, 0.3)
            expected[f"{name}_{way}"] = total / max(count, 1)
    units = [(one / np.linalg.norm(one, axis=2, keepdims=True)).reshape(b * s, bits) for one in (x, y)]

    def kernel(one: Any, other: Any) -> float:
        return mean([math.exp(-0.5 * math.dist(i, j)) for i in one for j in other])

    expected["mmd"] = kernel(units[0], units[0]) - 2 * kernel(*units) + kernel(units[1], units[1])
    expected["diversity"] = 0.0
    for unit in units:
        for i, j in itertools.combinations(range(b * s), 2):
            if s > 1 and (batch or i // s == j // s):
                near = math.exp(-20 * math.dist(unit[i], unit[j]) ** 2) / (s * (s - 1) / 2)
                expected["diversity"] += near / (1 if batch else b)
    for name, codes in (("image", f), ("text", g)):
        expected[f"quantisation_{name}"] = float(((np.abs(codes) - 1) ** 2).mean())
    weights = {name: 25.0 for name in expected if name.startswith(("tokens", "outputs"))}
    weights |= {"diversity": 0.7, "quantisation_image": 0.5, "quantisation_text": 0.5}
    checked(dimch.step_loss(*tensors(x, y, f, g, labels), config), expected, weights)


def test_instances_of_tokens_and_of_one_vector() -> None:
    torch.manual_seed(0)
    of_tokens = Instances(torch.Size([5, 12]), 3, 99, 4, dropout=0.0)
    tokens = torch.randn(2, 5, 12)
    mixed = torch.relu(of_tokens.first(tokens))
    weight, bias = of_tokens.first.weight, of_tokens.first.bias
    padded = torch.nn.functional.pad(tokens[1], (1, 1))
    by_hand = sum((weight[2, t] * padded[t, 7:10]).sum() for t in range(5)) + bias[2]  # type: ignore[index]
    assert torch.allclose(mixed[1, 2, 7], torch.relu(by_hand), atol=1e-6)
    assert of_tokens(tokens).shape == (2, 3, 4)
    of_one = Instances(torch.Size([12]), 3, 6, 4, dropout=0.0)
    outputs, vector = of_one(tokens[:, 0]), of_one.first(tokens[:, 0])
    assert torch.allclose(outputs[:, 1], of_one.hash(torch.relu(vector[:, 6:12])), atol=1e-6)


def test_instances_at_one_place_have_a_gradient() -> None:
    """Where distances are 0."""
    x = torch.ones(2, 3, 4, requires_grad=True)
    near = sets.cosines(x, x)
    loss = sets.distances(near, own=True).sum() + sets.crowding(near, 20, within="item")
    loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


@settings(max_examples=20, deadline=None)
@given(b=st.integers(1, 5), m=st.integers(1, 5), seed=st.integers(0, 999), margin=st.sampled_from([0.0, 0.4]))
def test_counted_triplets_equal_loops(b: int, m: int, seed: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    far, S, w = rng.random((b, m)), (rng.random((b, m)) < 0.5).astype(float), rng.random((b, m))
    within, reached, count = np.zeros((b, m)), np.zeros((b, m)), 0
    for a, p, n in itertools.product(range(b), range(m), range(m)):
        if S[a, p] and not S[a, n] and far[a, p] - far[a, n] + margin > 0:
            within[a, p] += w[a, p]
            reached[a, n] += w[a, p]
            count += 1
    found = triplet_counts(*tensors(far, S), margin=margin, weights=torch.from_numpy(w))
    assert np.allclose(found[0], within)
    assert np.allclose(found[1], reached)
    assert int(found[2]) == count


@settings(max_examples=30, deadline=None)
@given(**sizes, sampler=st.sampled_from(["outputs", "distances"]))
def test_ddwsh_equals_loops(b: int, bits: int, classes: int, seed: int, sampler: str) -> None:
    f, g, _, labels = drawn(b, bits, classes, seed)
    rng = np.random.default_rng(seed + 1)
    boundaries, draws = 0.5 + rng.random(classes), rng.random((3, b, 2))
    units = [codes / np.linalg.norm(codes, axis=1, keepdims=True) for codes in (f, g)]
    S, expected = labels @ labels.T > 0, {}
    for which, (name, one, other) in enumerate((("image", 0, 0), ("text", 1, 1), ("image_text", 0, 1))):
        d = np.array([[max(math.dist(i, j), 1e-8) for j in units[other]] for i in units[one]])
        rows_ = units[one] if sampler == "outputs" else d
        total, active = 0.0, 0
        for a in range(b):
            similar_ones = [j for j in range(b) if S[a, j] and j != a]
            others = [j for j in range(b) if not S[a, j]]
            if not similar_ones or not others:
                continue
            p = similar_ones[int(draws[which, a, 0] * len(similar_ones))]
            n = rows_.shape[1]
            weights = []
            for j in others:
                far = max(math.dist(rows_[a], rows_[j]), 0.5)
                weights.append(far ** (2 - n) * max(1 - far**2 / 4, 1e-8) ** (-(n - 3) / 2))
            sums, share = np.cumsum(weights), draws[which, a, 1] * sum(weights)
            negative = others[int((sums <= share).sum())]
            beta = mean([boundaries[c] for c in range(classes) if labels[a, c]])
            halves = max(0.0, d[a, p] - beta + 0.2), max(0.0, beta - d[a, negative] + 0.2)
            total, active = total + sum(halves), active + (max(halves) > 0)
        expected[name] = total / max(active, 1)
    config = ddwsh.Config(sampler=sampler)
    checked(ddwsh.step_loss(*tensors(f, g, boundaries, labels, draws), config), expected, {})


def test_draws_invert_a_distribution_and_never_pass_its_end() -> None:
    weights = torch.tensor([[0.0, 1, 0, 3, 0]]).expand(5, 5)
    shares = torch.tensor([0.0, 0.2, 0.25, 0.9, 1.0])
    assert ddwsh.inverted(weights, shares).tolist() == [1, 1, 3, 3, 3]


def test_negatives_are_as_frequent_as_their_distances_are_rare() -> None:
    draw = torch.Generator().manual_seed(0)
    rows_ = torch.nn.functional.normalize(torch.randn(6, 8, generator=draw, dtype=torch.float64))
    S = torch.eye(6, dtype=torch.float64)
    S[0, 1] = 1
    found = torch.stack(
        [ddwsh.triplets(rows_, S, torch.rand(6, 2, generator=draw, dtype=torch.float64))[2][0] for _ in range(900)]
    )
    d = (rows_ - rows_[0]).norm(dim=1).clamp_min(0.5)
    q = d ** (8 - 2) * (1 - d.square() / 4) ** ((8 - 3) / 2)
    expected = (1 / q)[2:] / (1 / q)[2:].sum()
    counted = found.bincount(minlength=6).double() / 900
    assert counted[:2].sum() == 0
    assert torch.allclose(counted[2:], expected, atol=0.06)


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_boundaries_of_ddwsh_learn_where_they_have_a_rate(rate: float) -> None:
    module = methods.get("ddwsh")
    values = {"bits": 8, "epochs": 2, "threads": 1, "hidden_image": 16, "hidden_text": 16, "lr_beta": rate}
    method: Any = training.fit(module, *training.parse(module, values), tiny()).method
    assert bool((method.boundaries != 1.2).any()) == bool(rate)
    assert ("boundaries" in method.state()["optimizers"]) == bool(rate)
    assert method.state()["nets"]["boundaries"].table is method.boundaries


@settings(max_examples=30, deadline=None)
@given(**sizes, y=st.sampled_from([0.3, 0.5]), percent=st.sampled_from([0.0, 0.5, 0.9]))
def test_ddbh_equals_loops(b: int, bits: int, classes: int, seed: int, y: float, percent: float) -> None:
    f, g, _, labels = drawn(b, bits, classes, seed)
    S, U, expected = labels @ labels.T > 0, bits / 4, {}
    offset = math.log((1 - y) / y)
    gentle, steep = math.log(y / (99 * (1 - y))) / (bits / 6), -math.log(99 * y / (1 - y)) / (bits / 12)
    for name, a, o in (("image", f, f), ("text", g, g), ("image_text", f, g)):
        losses = []
        for i in range(b):
            s = [float(a[i] @ other) for other in o]
            alike, others = sorted(s[j] for j in range(b) if S[i, j]), sorted(s[j] for j in range(b) if not S[i, j])
            if not alike or not others:
                continue
            m, m_others = (min(max(mean(some), 0.0), U) for some in (alike, others))
            top = mean(others[int(len(others) * percent) :])
            low = mean(alike[::-1][int(len(alike) * percent) :])
            x, z = m - (U - m) / U * abs(m - top), m_others - m_others / U * abs(m_others - low)
            near = [math.log1p(math.exp((gentle if t > x else steep) * (t - x) + offset)) for t in alike if t != x]
            far = [math.log1p(math.exp(-(gentle if t < z else steep) * (t - z) - offset)) for t in others if t != z]
            losses.append(mean(near) + mean(far))
        expected[name] = mean(losses)
    for name, codes in (("image", f), ("text", g)):
        error = ((np.abs(codes) - 1) ** 2).sum(1)
        expected[f"quantisation_{name}"] = float((S @ error).sum()) / (b * bits)
    config = ddbh.Config(quantisation=0.3, y_p=y, percent=percent)
    weights = {"quantisation_image": 0.3, "quantisation_text": 0.3}
    checked(ddbh.step_loss(*tensors(f, g, S.astype(float)), bits, config), expected, weights)


def test_the_boundaries_of_ddbh_are_constants() -> None:
    draw = torch.Generator().manual_seed(0)
    s = torch.randn(3, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    S = torch.eye(3, dtype=torch.float64)
    (slope,) = torch.autograd.grad(ddbh.boundary_loss(s, S, 4, ddbh.Config()), s)
    x, z = ddbh.boundaries(s.detach(), S, upper=1, percent=0.9)
    assert bool((slope.diagonal() < 0).all())  # similar pairs only rise, others only fall
    assert bool((slope[S == 0] > 0).all())
    assert x.shape == z.shape == (3, 1)


@settings(max_examples=20, deadline=None)
@given(**sizes)
def test_gcdh_equals_loops(b: int, bits: int, classes: int, seed: int) -> None:
    f, g, _, labels = drawn(b, bits, classes, seed)
    rng, expected = np.random.default_rng(seed + 1), {}
    B, logits = np.sign(rng.standard_normal((b, bits))), rng.standard_normal((b, classes))
    for name, one in (("image", f), ("text", g)):
        sums = []
        for other in (f, g):
            far = [[max(0.0, 1 - cosine(i, j)) for j in other] for i in one]
            sums.append(loops_of_triplets(far, labels, 0.4)[0])
        expected |= {f"triplets_{name}": sum(sums), f"quantisation_{name}": float(((B - one) ** 2).sum())}
    expected["labels"] = float((np.logaddexp(0, logits) - labels * logits).mean())
    weights = {"triplets_image": 10.0, "triplets_text": 10.0}
    checked(gcdh.step_loss(*tensors(f, g, B, logits, labels), gcdh.Config()), expected, weights)
    assert np.allclose(gains(torch.from_numpy(labels)), dcg_gains(labels))


def test_the_graph_of_classes() -> None:
    labels = torch.tensor([[1.0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])  # P(1|0) = 1/3, P(0|1) = 1; none of class 2
    edges = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    A = 0.25 * edges / (edges.sum(0) + 1e-6) + np.eye(3)
    D = np.diag(A.sum(1) ** -0.5)
    assert np.allclose(class_adjacency(labels, 0.5), (A @ D).T @ D)
    graph = ClassGraph(torch.eye(3), labels, 4, 5, threshold=0.5)
    hidden = class_adjacency(labels, 0.5) @ graph.first.weight.T
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    assert torch.allclose(graph(), class_adjacency(labels, 0.5) @ hidden @ graph.second.weight.T, atol=1e-6)


def test_gcdh_with_balanced_codes_goes_on_and_uses_frozen_features() -> None:
    """The paper's point at a small size."""
    module = methods.get("gcdh")
    values = {"bits": 8, "epochs": 3, "threads": 1, "hidden_image": 0, "hidden_text": 16, "hidden_graph": 8}
    method: Any = training.fit(module, *training.parse(module, {**values, "gamma": 0.01}), tiny()).method
    codes = method.codes
    assert torch.allclose(codes.C.T @ codes.C, torch.eye(8), atol=1e-4)
    assert float(codes.D.abs().max()) > 0
    assert set(codes.B.unique().tolist()) == {-1.0, 1.0}
    image = torch.from_numpy(tiny().train.image)
    assert torch.equal(method.team.nets["image"](image), image)


@settings(max_examples=20, deadline=None)
@given(b=st.integers(1, 5), bits=st.integers(2, 5), seed=st.integers(0, 999), eta=st.sampled_from([0.0, 0.5]))
def test_dsah_equals_loops(b: int, bits: int, seed: int, eta: float) -> None:
    f, g, _, _ = drawn(b, bits, 1, seed)
    rng = np.random.default_rng(seed + 1)
    image, text = rng.standard_normal((b, 4)), rng.random((b, 3))
    config = dsah.Config(alpha=0.7, K=1.2, eta=eta)
    S_I, S_T = (np.array([[2 * cosine(i, j) - 1 for j in of] for i in of]) for of in (image, text))
    kinds = {"image": (f, f), "text": (g, g), "image_text": (f, g)}
    C = {name: np.array([[cosine(i, j) for j in o] for i in a]) for name, (a, o) in kinds.items()}
    expected = {name: float(((c - 1.2 * (0.7 * S_I + 0.3 * S_T)) ** 2).mean()) for name, c in C.items()}
    between = C["image_text"]
    expected["pairs"] = mean([(between[i, i] - 1.2) ** 2 for i in range(b)])
    expected["symmetry"] = mean([(between[i, j] - between[j, i]) ** 2 for i in range(b) for j in range(b)])
    expected["own_image"] = float(((C["image"] - 1.2 * S_I) ** 2).mean())
    expected["own_text"] = float(((C["text"] - 1.2 * S_T) ** 2).mean())
    weights = {"symmetry": 2.0, "own_image": eta, "own_text": eta}
    checked(dsah.step_loss(*tensors(f, g, image, text), config), expected, weights)


@pytest.mark.parametrize("decode", ["none", "signs", "codes"])
def test_decoders_of_dsah_change_codes_only_where_codes_are_decoded(decode: str) -> None:
    module = methods.get("dsah")
    values = {"bits": 8, "epochs": 4, "threads": 1, "hidden_image": 16, "hidden_text": 16, "batch_size": 999, "K": 0.5}
    curves = []
    for chosen in ("none", decode):
        fitted = training.fit(module, *training.parse(module, {**values, "decode": chosen}), tiny())
        curves.append([epoch.terms["image_text"] for epoch in fitted.curve])
    assert (curves[0] == curves[1]) == (decode != "codes")
    method: Any = fitted.method
    assert ("from_image" in method.state()["nets"]) == (decode != "none")


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Loss]] = {
    "dimch": lambda f, g, labels: dimch.step_loss(f[:, None], g[:, None], f, g, labels, dimch.Config()),
    "dimch of two": lambda f, g, labels: dimch.step_loss(
        f.reshape(3, 2, 2), g.reshape(3, 2, 2), f, g, labels, dimch.Config(diversity="batch")
    ),
    "ddwsh": lambda f, g, labels: ddwsh.step_loss(
        f, g, torch.ones(labels.shape[1]), labels, torch.ones(3, 3, 2), ddwsh.Config()
    ),
    "ddbh": lambda f, g, labels: ddbh.step_loss(f, g, similar(labels, labels), 4, ddbh.Config()),
    "gcdh": lambda f, g, labels: gcdh.step_loss(
        f, g, torch.ones(3, 4), torch.zeros_like(labels), labels, gcdh.Config()
    ),
    "dsah": lambda f, g, labels: dsah.step_loss(f, g, labels, labels, dsah.Config()),
    "nrch": lambda f, g, labels: nrch.step_loss(
        f, g, torch.ones(labels.shape[1], 4), labels, torch.zeros(3), nrch.Config(tau=0.02)
    ),
}


@pytest.mark.parametrize("shared", [True, False], ids=["one label for all", "a label each"])
@pytest.mark.parametrize("value", [0.0, 1e-20, 1.0, -1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_limits_are_finite(name: str, value: float, shared: bool) -> None:
    """Equal outputs, bits all dropped, no triplet; float32."""
    f, g = (torch.full((3, 4), size, requires_grad=True) for size in (value, abs(value)))
    loss, parts = LOSSES[name](f, g, torch.ones(3, 1) if shared else torch.eye(3))
    assert all(bool(torch.isfinite(part)) and not part.requires_grad for part in (loss.detach(), *parts.values()))
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    assert all(bool(torch.isfinite(codes.grad).all()) for codes in (f, g) if codes.grad is not None)


@pytest.mark.parametrize("sums", ["image", "both"])
@pytest.mark.parametrize("case", CLIP.cases("NRCH"))
def test_the_authors_values_of_nrch(case: str, sums: str) -> None:
    """As released, and the ranking that its authors' lines mean."""
    expected = CLIP.cases("NRCH")[case]
    u, v = (torch.nn.functional.normalize(CLIP.tensor(name)).requires_grad_() for name in ("f", "g"))
    W, labels = CLIP.tensor("P").requires_grad_(), CLIP.tensor("L")[rows()]
    hyper = expected["hyper"]
    assert hyper["shift"] == 1
    config = nrch.Config(lamb=hyper["lambda"], margin=hyper["margin"], tau=hyper["tau"], sums=sums)
    total, terms = nrch.step_loss(u, v, W, labels, torch.ones(len(u), dtype=u.dtype), config)
    named = {name: float(terms[name.replace("class centres", "centres")]) for name in expected["terms"]}
    if sums == "both":
        meant = expected["extra"]["ranking with cost_im in the second half (what was meant, rows)"]
        assert named["ranking"] == pytest.approx(meant, rel=1e-8)
        return
    assert named == pytest.approx(expected["terms"], rel=1e-8)
    assert float(total.detach()) == pytest.approx(expected["total"], rel=1e-8)
    total.backward()  # type: ignore[no-untyped-call]
    for value, gradient in zip((u, v, W), expected["grads"].values(), strict=True):
        golden.assert_gradient(value.grad, gradient)
    assert len(CLIP.file["methods"]["NRCH"]["cases"]) == len(CLIP.cases("NRCH")) == 2


@settings(max_examples=20, deadline=None)
@given(**sizes, sums=st.sampled_from(["image", "both"]))
def test_nrch_equals_loops_over_the_trusted(b: int, bits: int, classes: int, seed: int, sums: str) -> None:
    f, g, W, labels = drawn(b, bits, classes, seed)
    trusted = np.random.default_rng(seed + 1).random(b) < 0.6
    u, v = (codes / np.linalg.norm(codes, axis=1, keepdims=True) for codes in (f, g))
    U, V, kept = np.tanh(u), np.tanh(v), np.flatnonzero(trusted)
    s, expected = U @ V.T, dict.fromkeys(("ranking", "quantisation", "centres"), 0.0)
    for i in kept:
        expected["ranking"] += (2 * 0.2 - 2 * s[i, i]) / len(kept)
        for second in (False, True):
            powers = []
            for j in kept:
                pair = s[j, j] if second and sums == "both" else s[i, i]
                c = s[i, j] - (1 if s[i, j] < pair - 0.2 else 0)
                c = max(0.0, c) if i == j else c
                powers.append(math.exp((0 if i != j and any(labels[i] * labels[j]) else c) / 0.5))
            expected["ranking"] += 0.5 * math.log(sum(powers)) / len(kept)
        for codes in (U, V):
            expected["quantisation"] += mean([(abs(x) - bits**-0.5) ** 2 for x in codes[i]]) / len(kept)
        for codes in (u, v):
            expected["centres"] += mean(list((2 * labels[i] - 1 - codes[i] @ np.tanh(W).T) ** 2)) / len(kept)
    config = nrch.Config(lamb=0.7, tau=0.5, sums=sums)
    found = nrch.step_loss(*tensors(u, v, W, labels, trusted.astype(float)), config)
    checked(found, expected, {"ranking": 0.7, "quantisation": 0.3})


def test_two_gaussians_are_told_apart() -> None:
    draw = torch.Generator().manual_seed(0)
    low = 0.5 * torch.randn(300, generator=draw) + 1
    high = torch.randn(100, generator=draw) + 9
    share = lower_of_two(torch.cat([high, low]))
    assert bool((share[:100] < 0.05).all())
    assert bool((share[100:] > 0.95).all())
    assert torch.allclose(lower_of_two(3 * torch.cat([high, low]) - 5), share, atol=1e-6)
    assert bool(torch.isfinite(lower_of_two(torch.ones(5))).all())


def test_nrch_trusts_the_items_whose_labels_fit() -> None:
    """Once the warm-up is over, wrong labels are trusted less often than right ones; and no pass is made before."""
    module, data = methods.get("nrch"), tiny()
    rng = np.random.default_rng(0)
    wrong = rng.random(len(data.train.labels)) < 0.25
    labels = data.train.labels.copy()
    labels[wrong] = 1 - labels[wrong]
    noisy = dataclasses.replace(data, train=dataclasses.replace(data.train, labels=labels))
    values = {"bits": 16, "threads": 1, "hidden_image": 32, "hidden_text": 32, "batch_size": 32, "lr_centres": 0.05}

    def trusted(**more: int) -> Tensor:
        fitted = training.fit(module, *training.parse(module, {**values, **more}), noisy)
        of: Tensor = fitted.method.trusted.bool()  # type: ignore[attr-defined]
        return of

    assert bool(trusted(epochs=2, warmup=2).all())
    late = trusted(epochs=8, warmup=7)
    assert float(late[~wrong].float().mean()) > float(late[wrong].float().mean()) + 0.2


def test_dimch_on_token_arrays() -> None:
    """Both modalities, from patches and words of the same width."""
    draw = torch.Generator().manual_seed(0)
    image, text = (torch.randn(24, n, 10, generator=draw) for n in (5, 7))
    labels = torch.eye(3).repeat(8, 1)
    for tokens in (image, text):
        tokens += 2 * (labels @ torch.randn(3, 10, generator=draw))[:, None]  # classes differ
    setup = training.Setup(
        bits=4,
        epochs=40,
        seed=1,
        device=torch.device("cpu"),
        n_train=24,
        image_dim=10,
        text_dim=10,
        labels=labels,
        image=image,
        text=text,
        image_net=lambda head: head,
    )
    method = dimch.Method(dimch.Config(instances=3, dropout=0, lr_image=3e-3, lr_text=3e-3), setup)
    items = Items(image, text, setup.device)
    for _ in range(40):
        method.epoch(lambda: iter([Batch(torch.arange(24), items)]))
    between = cosines(method.encode_image(image).detach(), method.encode_text(text).detach())
    same = labels @ labels.T > 0
    assert float(between[same].mean()) > float(between[~same].mean()) + 0.3
    assert method.encode_image(image).shape == method.encode_text(text).shape == (24, 4)

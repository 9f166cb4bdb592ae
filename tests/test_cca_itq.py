"""CCA-ITQ against slow second implementations, its constraints, its limits and what it is for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmh import methods, training
from cmh.datasets import Arrays, SearchData
from cmh.losses import sign
from cmh.methods.cca_itq import Config, Method, directions, quantise
from cmh.training.batches import Batch, Items
from tests.test_training import tiny

Array = NDArray[Any]


def fit(data: SearchData | None = None, **more: Any) -> training.Fitted:
    module = methods.get("cca_itq")
    run, config = training.parse(module, {"bits": 8, "threads": 1, **more})
    return training.fit(module, run, config, data or tiny())


def codes(fitted: training.Fitted, items: Arrays) -> tuple[Array, Array]:
    method = fitted.method
    outputs = method.encode_image(torch.from_numpy(items.image)), method.encode_text(torch.from_numpy(items.text))
    image, text = (sign(output).numpy() for output in outputs)
    return image, text


def inverse_root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    root: Array = vectors @ np.diag(values**-0.5) @ vectors.T
    return root


def covariances(x: Array, y: Array) -> list[Array]:
    """Sums over items, one outer product at a time."""
    mx, my, n = x.mean(0), y.mean(0), len(x)
    xx, yy, xy = np.zeros((len(mx), len(mx))), np.zeros((len(my), len(my))), np.zeros((len(mx), len(my)))
    for a, b in zip(x, y, strict=True):
        xx += np.outer(a - mx, a - mx) / n
        yy += np.outer(b - my, b - my) / n
        xy += np.outer(a - mx, b - my) / n
    return [xx, yy, xy]


@pytest.mark.parametrize(("d_x", "d_y", "n"), [(3, 5, 2), (5, 3, 3), (4, 4, 1)])
def test_directions_are_those_of_the_formula(d_x: int, d_y: int, n: int) -> None:
    """C_xx^−½ C_xy C_yy^−½ = U diag(r) Vᵀ with symmetric roots, up to the sign of each pair."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, d_x))
    y = x @ rng.standard_normal((d_x, d_y)) + rng.standard_normal((40, d_y))
    xx, yy, xy = covariances(x, y)
    found = directions(*map(torch.from_numpy, (xx, yy, xy)), 0.3, 2.0, n=n)
    W_x, W_y, r = (tensor.numpy() for tensor in found)
    ridged_x = xx + 0.3 * np.trace(xx) / d_x * np.eye(d_x)
    ridged_y = yy + 2.0 * np.trace(yy) / d_y * np.eye(d_y)
    U, expected, Vt = np.linalg.svd(inverse_root(ridged_x) @ xy @ inverse_root(ridged_y))
    np.testing.assert_allclose(r, expected[:n], rtol=1e-9)
    for k in range(n):
        ours, theirs = W_x[:, k], inverse_root(ridged_x) @ U[:, k] * expected[k]
        flip = np.sign(ours @ theirs)
        np.testing.assert_allclose(ours, flip * theirs, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(W_y[:, k], flip * inverse_root(ridged_y) @ Vt[k] * expected[k], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(W_x.T @ ridged_x @ W_x, np.diag(r**2), atol=1e-9)
    np.testing.assert_allclose(W_x.T @ xy @ W_y, np.diag(r**3), atol=1e-9)


def slow_itq(Z: Array, R: Array, rounds: int) -> tuple[Array, float]:
    """The loop of the paper, B stored, on Z padded with zero columns up to a square R."""
    for _ in range(rounds):
        B = np.where(Z @ R >= 0, 1.0, -1.0)
        U, _, Vt = np.linalg.svd(B.T @ Z)
        R = Vt.T @ U.T
    out = Z @ R
    error = sum((np.where(value >= 0, 1, -1) - value) ** 2 for row in out for value in row)
    return R, error / out.size


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(25, 40), n=st.integers(1, 4), rounds=st.integers(0, 4), seed=st.integers(0, 999))
def test_quantise_is_the_papers_loop(rows: int, n: int, rounds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    Z, R = rng.standard_normal((rows, n)), np.linalg.qr(rng.standard_normal((n, n)))[0]
    expected, error = slow_itq(Z, R, rounds)
    found, ours = quantise(torch.from_numpy(Z), torch.from_numpy(R), rounds)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)
    assert float(ours) == pytest.approx(error, rel=1e-8)


def test_a_round_never_makes_it_worse_and_r_stays_orthonormal(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    Z = torch.randn(200, 5, generator=draw, dtype=torch.float64)
    for bits in (5, 9):  # square and wide
        R = torch.nn.init.orthogonal_(torch.empty(5, bits, dtype=torch.float64), generator=draw)
        errors = [float(quantise(Z, R, rounds)[1]) for rounds in range(12)]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < errors[0] - 1e-3
        rotation, _ = quantise(Z, R, 12)
        assert torch.allclose(rotation @ rotation.T, torch.eye(5, dtype=torch.float64))
        monkeypatch.setattr("cmh.methods.cca_itq.ROWS", 7)
        assert torch.allclose(quantise(Z, R, 12)[0], rotation)
        monkeypatch.undo()


def test_a_wide_rotation_is_a_square_one_on_zero_columns() -> None:
    """More bits than directions: a round of either gives the same outputs."""
    rng = np.random.default_rng(3)
    Z, square = rng.standard_normal((50, 3)), np.linalg.qr(rng.standard_normal((6, 6)))[0]
    padded = np.hstack([Z, np.zeros((50, 3))])
    R, error = slow_itq(padded, square, 3)
    ours, found = quantise(torch.from_numpy(Z), torch.from_numpy(square[:3].copy()), 3)
    np.testing.assert_allclose(Z @ ours.numpy(), padded @ R, atol=1e-8)
    assert float(found) == pytest.approx(error)


def test_moments_are_the_covariances_whatever_the_batches() -> None:
    data = tiny()
    for size in (1, 7, 120):
        method, batches = built(data, size)
        means, found = method._moments(batches())
        x, y = data.train.image.astype(float), data.train.text.astype(float)
        for ours, expected in zip((*means, *found), (x.mean(0), y.mean(0), *covariances(x, y)), strict=True):
            np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


def built(data: SearchData, size: int, bits: int = 8) -> tuple[Method, Any]:
    image, text = torch.from_numpy(data.train.image), torch.from_numpy(data.train.text)
    device = torch.device("cpu")
    setup = training.Setup(
        bits, 1, 0, device, len(image), image.shape[1], text.shape[1], None, image, text, lambda head: head
    )

    def batches() -> Iterator[training.Batch]:
        for index in torch.arange(len(image)).split(size):
            yield Batch(index, Items(image, text, device))

    return Method(Config(), setup), batches


def test_neither_shift_nor_scale_of_a_modality_matters() -> None:
    data = tiny()
    train = data.train
    moved = Arrays(4 * train.image + 3, train.text / 8 - 1, train.labels)
    before = codes(fit(data), train)
    after = codes(fit(dataclasses.replace(data, train=moved)), moved)
    for ours, theirs in zip(before, after, strict=True):
        assert (ours == theirs).mean() > 0.999


def views(d_image: int, d_text: int) -> SearchData:
    """Texts that are a linear map of the images: no noise, and no fewer directions than the smaller side has."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((120, d_image)).astype(np.float32)
    basis = np.linalg.qr(rng.standard_normal((max(d_image, d_text), max(d_image, d_text))))[0]
    text = (image @ basis[:d_image, :d_text]).astype(np.float32)
    arrays = Arrays(image, text, tiny().train.labels)
    return dataclasses.replace(tiny(), train=arrays, validation_query=arrays, validation_database=arrays)


def test_one_rotation_serves_both() -> None:
    """Where one modality is a rotation of the other, an item's two codes are the same."""
    data = views(12, 12)
    image, text = codes(fit(data, lambda_image=1e-4, lambda_text=1e-4), data.train)
    assert (image == text).mean() > 0.99
    assert abs(float(image.mean())) < 0.2


@pytest.mark.parametrize("bits", [1, 12, 13, 40])
def test_it_retrieves_without_labels(bits: int) -> None:
    fitted = fit(bits=bits)
    assert fitted.best.val_map > training.chance(tiny()) + (0.1 if bits == 1 else 0.3)
    assert len(fitted.curve) == 1


@pytest.mark.parametrize(("d_image", "d_text"), [(20, 12), (12, 20)])
def test_bits_beyond_the_smaller_side_are_not_idle(d_image: int, d_text: int) -> None:
    """Only 12 directions exist, but all 40 columns split the items, each in its own way."""
    data = views(d_image, d_text)
    for found in codes(fit(data, bits=40), data.train):
        assert len({tuple(column * column[0]) for column in found.T}) == 40
        assert (np.abs(found.mean(0)) < 0.5).all()


@pytest.mark.parametrize("constant", ["image", "text", "both"])
@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_features_are_survived(constant: str, value: float) -> None:
    data = tiny()
    image = np.full_like(data.train.image, value) if constant != "text" else data.train.image
    text = np.full_like(data.train.text, value) if constant != "image" else data.train.text
    fitted = fit(dataclasses.replace(data, train=Arrays(image, text, data.train.labels)), bits=20)
    assert np.isfinite(list(fitted.curve[0].terms.values())).all()


def test_one_item_is_survived() -> None:
    data = tiny()
    one = Arrays(*(array[:1] for array in (data.train.image, data.train.text, data.train.labels)))
    assert np.isfinite(fit(dataclasses.replace(data, train=one)).best.val_map)

"""Losses that the authors' code computes, and the inputs it was given, drawn anew from the file's recipe.

`$CMH_GOLDEN` may name another file than the committed one. Every array has its own stream, seeded with
(SEED, k), so an input does not depend on which others are drawn.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

PATH = Path(os.environ.get("CMH_GOLDEN") or Path(__file__).parent / "data" / "golden.json")
FILE: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
SIZES: dict[str, int] = FILE["sizes"]
INPUTS = [name for name in FILE["inputs"] if name != "ind|ind2"]
Array = NDArray[Any]


def _bernoulli(u: Array, share: float) -> Array:
    ones = (u < share).astype(float)
    empty = np.flatnonzero(~ones.any(1))
    ones[empty, u[empty].argmin(1)] = 1
    return ones


def _softmax_pairs(x: Array) -> Array:
    powers = np.exp(x)
    pairs: Array = powers / powers.sum(-1, keepdims=True)
    return pairs.reshape(len(x), -1)


def _column_0(x: Array) -> Array:
    return np.column_stack([batch(), x[:, 1:]])


TRANSFORMS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sign": np.sign,
    "sign / sqrt(K)": lambda x: np.sign(x) / np.sqrt(SIZES["K"]),
    "l2 last axis": lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)),
    "softmax last axis, reshape (b,2K)": _softmax_pairs,
    "column 0 := ind": _column_0,
    "0.25 + x/16": lambda x: 0.25 + x / 16,
    "bernoulli .25": lambda x: _bernoulli(x, 0.25),
    "bernoulli .3": lambda x: _bernoulli(x, 0.3),
    "0.2 x": lambda x: 0.2 * x,
    "0.3 x": lambda x: 0.3 * x,
    "0.5 x": lambda x: 0.5 * x,
}


def _stream(k: int) -> np.random.Generator:
    return np.random.default_rng([SIZES["SEED"], k])


def batch(number: int = 1) -> Array:
    """Rows of the first or the second batch: `ind`, `ind2`."""
    order, b = _stream(1).permutation(SIZES["N"]), SIZES["b"]
    return order[(number - 1) * b : number * b]


@functools.cache
def _array(name: str) -> Array:
    about = FILE["inputs"][name]
    rng, shape = _stream(about["k"]), tuple(about["shape"])
    drawn = rng.integers(0, SIZES["N"], shape) if name == "nid" else getattr(rng, about["draw"])(shape)
    return TRANSFORMS[about["transform"]](drawn)


def array(name: str) -> Array:
    """An input by the name that the recipe gives it; a copy."""
    return _array(name).copy()


def tensor(name: str) -> torch.Tensor:
    """The same as a float64 tensor."""
    return torch.from_numpy(array(name))


def cases(method: str) -> dict[str, dict[str, Any]]:
    """Cases of a method by their id."""
    return {case["id"]: case for case in FILE["methods"][method]["cases"]}


def assert_gradient(gradient: torch.Tensor | None, expected: dict[str, Any]) -> None:
    """Frobenius norm and the first three entries."""
    assert gradient is not None
    assert float(gradient.norm()) == pytest.approx(expected["norm"], rel=1e-7)
    assert gradient.flatten()[:3].tolist() == pytest.approx(expected["first3"], rel=1e-7)

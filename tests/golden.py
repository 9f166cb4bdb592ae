"""Losses that the authors' code computes, and the inputs it was given, drawn anew from the file's recipe.

`$CMH_GOLDEN` and, for the methods of the CLIP era, `$CMH_GOLDEN_CLIP` may name other files than the committed ones. An
input does not depend on which others are drawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

HERE = Path(__file__).parent / "data"
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


TRANSFORMS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sign": np.sign,
    "l2 last axis": lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)),
    "softmax last axis, reshape (b,2K)": _softmax_pairs,
    "0.25 + x/16": lambda x: 0.25 + x / 16,
    "bernoulli .25": lambda x: _bernoulli(x, 0.25),
    "bernoulli .3": lambda x: _bernoulli(x, 0.3),
    "0.2 x": lambda x: 0.2 * x,
    "0.3 x": lambda x: 0.3 * x,
    "0.5 x": lambda x: 0.5 * x,
}


class Golden:
    """A golden file. Every array has its own stream, seeded with (SEED, k)."""

    def __init__(self, path: Path) -> None:
        self.file: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.sizes: dict[str, int] = self.file["sizes"]
        self.inputs = [name for name in self.file["inputs"] if name != "ind|ind2"]
        self._drawn: dict[str, Array] = {}

    def batch(self, number: int = 1) -> Array:
        """Rows of the first or the second batch: `ind`, `ind2`."""
        order, b = self._stream(1).permutation(self.sizes["N"]), self.sizes["b"]
        return order[(number - 1) * b : number * b]

    def array(self, name: str) -> Array:
        """An input by the name that the recipe gives it; a copy."""
        if name not in self._drawn:
            self._drawn[name] = self._draw(name)
        return self._drawn[name].copy()

    def tensor(self, name: str) -> torch.Tensor:
        """The same as a float64 tensor."""
        return torch.from_numpy(self.array(name))

    def cases(self, method: str) -> dict[str, dict[str, Any]]:
        """Cases of a method by their id."""
        return {case["id"]: case for case in self.file["methods"][method]["cases"]}

    def _stream(self, k: int) -> np.random.Generator:
        return np.random.default_rng([self.sizes["SEED"], k])

    def _draw(self, name: str) -> Array:
        about = self.file["inputs"][name]
        rng, shape, transform = self._stream(about["k"]), tuple(about["shape"]), about["transform"]
        drawn = rng.integers(0, self.sizes["N"], shape) if name == "nid" else getattr(rng, about["draw"])(shape)
        if transform == "column 0 := ind":
            return np.column_stack([self.batch(), drawn[:, 1:]])
        if transform == "sign / sqrt(K)":
            return np.sign(drawn) / np.sqrt(self.sizes["K"])
        return TRANSFORMS[transform](drawn)


MAIN = Golden(Path(os.environ.get("CMH_GOLDEN") or HERE / "golden.json"))
CLIP = Golden(Path(os.environ.get("CMH_GOLDEN_CLIP") or HERE / "golden_clip.json"))
FILE, SIZES, INPUTS = MAIN.file, MAIN.sizes, MAIN.inputs
batch, array, tensor, cases = MAIN.batch, MAIN.array, MAIN.tensor, MAIN.cases


def assert_gradient(gradient: torch.Tensor | None, expected: dict[str, Any]) -> None:
    """Frobenius norm and the first three entries."""
    assert gradient is not None
    assert float(gradient.norm()) == pytest.approx(expected["norm"], rel=1e-7)
    assert gradient.flatten()[:3].tolist() == pytest.approx(expected["first3"], rel=1e-7)

"""Leak audit: what it must find in methods made for it, and that it leaves sound ones alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmh import audits
from cmh.audits.part import Trial
from cmh.interfaces import State
from cmh.training import Setup
from tests.made_up import CPU, RUN, Sound, config, module
from tests.test_training import tiny


def leaks(method: type) -> list[str]:
    trial = Trial(module(method), RUN, config(), tiny(), n=100)
    trial.epoch(1)
    return audits.leak(trial.method, trial.items, CPU)


class Standardised(Sound):
    def encode_image(self, features: Tensor) -> Tensor:
        return super().encode_image(features - features.mean(0))


class Scored(Sound):
    """Z-scores over the batch: of one item alone they are NaN, for want of a deviation."""

    def encode_image(self, features: Tensor) -> Tensor:
        outputs = super().encode_image(features)
        return (outputs - outputs.mean(0)) / (outputs.std(0) + 1e-6)


class Attentive(Sound):
    def encode_text(self, features: Tensor) -> Tensor:
        attention = torch.softmax(features @ features.T, 1)
        return super().encode_text(features + 3 * attention @ features.roll(1, 1))


class Remembering(Sound):
    last = torch.zeros(1)

    def encode_image(self, features: Tensor) -> Tensor:
        Remembering.last = super().encode_image(features)
        return Remembering.last

    def encode_text(self, features: Tensor) -> Tensor:
        return super().encode_text(features) + 5 * Remembering.last.mean(0)


class Drifting(Sound):
    calls = 0

    def encode_text(self, features: Tensor) -> Tensor:
        Drifting.calls += 1
        return super().encode_text(features) + 0.5 * Drifting.calls - 10


class Averaging(Sound):
    """A mean over all images that were ever encoded, which the state holds."""

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        self.mean = torch.zeros(setup.bits)

    def encode_image(self, features: Tensor) -> Tensor:
        outputs = super().encode_image(features)
        codes = outputs - 8 * self.mean
        if len(outputs) > 1:
            self.mean = 0.5 * self.mean + 0.5 * outputs.mean(0)
        return codes

    def state(self) -> State:
        return {**super().state(), "mean": self.mean}


class Counting(Sound):
    """No code changes, but what is kept does."""

    n_encoded, kept = 0, [0.5]

    def encode_text(self, features: Tensor) -> Tensor:
        self.n_encoded += len(features)
        return super().encode_text(features)

    def state(self) -> State:
        return {**super().state(), "n_encoded": torch.tensor(self.n_encoded), "kept": torch.tensor(self.kept)}


class Training(Sound):
    """Its batch normalisation was left in training mode."""

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        self.norm = nn.BatchNorm1d(setup.bits)

    def encode_image(self, features: Tensor) -> Tensor:
        return self.norm(super().encode_image(features))


class Scaled(Sound):
    """Outputs hang on the batch, codes do not."""

    def encode_image(self, features: Tensor) -> Tensor:
        outputs = super().encode_image(features)
        return outputs / outputs.norm()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Sound, []),
        (Scaled, []),
        (Standardised, ["image codes depend on batch mates: {} of bits changed"]),
        (Attentive, ["text codes depend on batch mates: {} of bits changed"]),
        (Remembering, ["text codes depend on the images encoded before: {} of bits changed"]),
        (Drifting, ["text codes change from one call to the next: {} of bits changed"]),
        (Counting, ["encoding changes what the method keeps: n_encoded"]),
    ],
)
def test_what_leaks_is_found(method: type, expected: list[str]) -> None:
    found = leaks(method)
    assert len(found) == len(expected), found
    for line, pattern in zip(found, expected, strict=True):
        start, _, end = pattern.partition("{}")
        assert line.startswith(start)
        assert line.endswith(end)
        if end:
            share = line.removeprefix(start).removesuffix(end)
            assert share == "less than 1 %" or 1 <= int(share.removesuffix(" %")) <= 100


def test_what_was_encoded_before_is_found_in_codes_and_in_the_state() -> None:
    codes, state = leaks(Averaging)
    assert codes.startswith("image codes depend on ")
    assert codes.endswith(" of bits changed")
    assert state == "encoding changes what the method keeps: mean"


def test_an_item_that_cannot_be_encoded_alone_is_a_finding() -> None:
    (line,) = leaks(Training)
    assert line.startswith("image codes need batch mates: one item alone cannot be encoded (Expected more than 1 value")


@pytest.mark.filterwarnings("ignore:std")
def test_what_is_nan_alone_depends_on_batch_mates() -> None:
    assert leaks(Scored) == ["image codes depend on batch mates: 100 % of bits changed"]


@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_few_items_are_enough(n: int) -> None:
    items = tiny().train.rows(slice(n))
    for method in (Sound, Standardised):
        trial = Trial(module(method), RUN, config(), tiny(), n=100)
        trial.epoch(1)
        found = [line.partition(":")[0] for line in audits.leak(trial.method, items, CPU)]
        assert found == ["image codes depend on batch mates"] * (method is Standardised and n == 40)


def test_pixels_go_to_the_image_encoder() -> None:
    items = tiny().train
    pixels = np.random.default_rng(0).integers(0, 256, (len(items.labels), 3, 4, 4)).astype(np.uint8)
    seen: set[tuple[torch.dtype, int]] = set()

    class OfPixels:
        def encode_image(self, inputs: Tensor) -> Tensor:
            seen.add((inputs.dtype, inputs.dim()))
            return inputs.flatten(1).float() - inputs.float().mean()

        def encode_text(self, inputs: Tensor) -> Tensor:
            return inputs

        def state(self) -> State:
            return {}

    found = audits.leak(OfPixels(), dataclasses.replace(items, pixels=pixels), CPU, from_pixels=True)
    assert seen == {(torch.uint8, 4)}
    assert found
    assert found[0].startswith("image codes depend on batch mates: ")

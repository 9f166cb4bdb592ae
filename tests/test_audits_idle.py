"""Hyperparameters without effect, one by one and by the space file."""

from __future__ import annotations

import dataclasses

import pytest
from torch import Tensor, nn

from cmh import audits, methods
from cmh.errors import ConfigError
from cmh.study import preflight
from cmh.study.space import Range, Space
from tests.made_up import RUN, Made, Weights, config, module
from tests.test_training import tiny


class Weighted(Made):
    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        kind = f**3 if self.config.kind == "cubed" else f
        weight = self.config.cubic if self.config.kind == "cubed" else 1
        own = self.config.proxies * nn.functional.mse_loss(self.proxies(f.detach()), labels)
        return weight * kind.square().mean() + own


def test_hyperparameters_without_effect_are_found() -> None:
    ends = {
        "idle": (0.5, 2.0),
        "proxies": (0.1, 10.0),  # moves its own parameters only
        "cubic": (0.0, 1.0),
        "quantisation": (0.0, 1.0),  # of the template's loss, which Made does not have
        "kind": ("plain", "cubed"),
        "lr_image": (1e-4, 1e-3),
        "batch_size": (32, 64),
    }
    tries = (module(Weighted, Weights), RUN, config(Weights), tiny())
    assert audits.idle_hyperparameters(*tries, ends) == [
        f"hyperparameter `{name}` has no effect: {values} give the same codes (in 3 epochs)"
        for name, values in [
            ("idle", "0.5 and 2.0"),
            ("proxies", "0.1 and 10.0"),
            ("cubic", "0.0 and 1.0"),
            ("quantisation", "0.0 and 1.0"),
        ]
    ]
    some = {"idle": ends["idle"], "cubic": ends["cubic"]}
    given = {name: {"kind": "cubed"} for name in some}
    assert audits.idle_hyperparameters(*tries, some, given=given) == [
        "hyperparameter `idle` has no effect: 0.5 and 2.0 give the same codes (in 3 epochs, kind = cubed)"
    ]
    with pytest.raises(ConfigError, match="idle"):
        audits.idle_hyperparameters(*tries, {"idle": (-1, 1)})


def test_a_value_that_makes_training_impossible_has_an_effect() -> None:
    class Fragile(Made):
        def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
            if self.config.idle > 5:
                raise ValueError("too much")
            return super().second(f, g, labels)

    tries = (module(Fragile, Weights), RUN, config(Weights), tiny())
    assert audits.idle_hyperparameters(*tries, {"idle": (1.0, 6.0)}) == []


def test_schedules_show_within_the_audit() -> None:
    dcmh = methods.get("dcmh")
    point = {"hidden_image": 16, "hidden_text": 16}
    tries = (dcmh, RUN, dcmh.Config(**point), tiny())
    ends = {"lr_end": (0.01, 0.5), "lr_decay": (0.5, 0.9), "momentum": (0.0, 0.9)}
    found = audits.idle_hyperparameters(*tries, ends)
    assert [line.split("`")[1] for line in found] == ["lr_decay", "momentum"]
    given = {"lr_decay": {"schedule": "exponential"}, "momentum": {"optimizer": "sgd"}}
    assert audits.idle_hyperparameters(*tries, ends, given=given) == []


def test_a_space_is_tried_at_its_ends_under_its_conditions() -> None:
    ranges = (
        Range("optimizer", "choice", choices=("adam", "sgd")),
        Range("momentum", "float", 0, 0.9),
        Range("hidden_image", "int", 8, 16),
        Range("lr_decay", "float", 0.5, 0.9, when=(("schedule", "exponential"),)),
        Range("schedule", "choice", choices=("exponential",)),
    )
    space = Space("dcmh", ranges, (), "tpe", None, 30, 24)
    fixed = {"hidden_image": 16, "hidden_text": 16}
    assert preflight.idle(space, RUN, tiny(), fixed) == [
        "hyperparameter `momentum` has no effect: 0 and 0.9 give the same codes (in 3 epochs)"
    ]
    sound = dataclasses.replace(space, ranges=(ranges[0], dataclasses.replace(ranges[1], when=(("optimizer", "sgd"),))))
    assert preflight.idle(sound, RUN, tiny(), fixed) == []
    chain = (*ranges[:1], Range("lr_end", "float", 0.1, 0.9, when=(("schedule", "log"),)))
    nested = (*chain, Range("schedule", "choice", choices=("log", "linear"), when=(("optimizer", "sgd"),)))
    assert preflight.idle(dataclasses.replace(space, ranges=nested), RUN, tiny(), fixed) == []

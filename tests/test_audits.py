"""Both audits: what they must find in methods made for it, and that they leave sound ones alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmh import audits, datasets, methods, training
from cmh.audits.part import Trial, few, trainable
from cmh.audits.parts import _Seen
from cmh.config import param
from cmh.datasets import Arrays
from cmh.errors import ConfigError, DatasetError
from cmh.losses import pairwise_nll, similar
from cmh.methods import _template
from cmh.nets.optimizers import optimizer
from cmh.nets.towers import mlp
from cmh.study import preflight
from cmh.study.space import Range, Space
from cmh.training import Batch, Run, Setup
from tests.test_methods import NAMES, small
from tests.test_training import tiny

DEEP = [name for name in NAMES if methods.get(name).KIND != "shallow"]
CPU = torch.device("cpu")
RUN = Run(bits=8, threads=1)


def module(method: type, config: type = _template.Config) -> Any:
    return SimpleNamespace(__name__="made_up", KIND="supervised", LABELS=True, Config=config, Method=method)


def config(cls: type = _template.Config, **values: Any) -> Any:
    return cls(**{"hidden_image": 16, "hidden_text": 16, **values})


def leaks(method: type) -> list[str]:
    trial = Trial(module(method), RUN, config(), tiny(), n=100)
    trial.epoch(1)
    return audits.leak(trial.method, trial.items, CPU)


class Sound(_template.Method):
    """The template's method."""


class Standardised(Sound):
    def encode_image(self, features: Tensor) -> Tensor:
        return super().encode_image(features - features.mean(0))


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

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "mean": self.mean}


class Counting(Sound):
    """No code changes, but what is kept does."""

    n_encoded, kept = 0, [0.5]

    def encode_text(self, features: Tensor) -> Tensor:
        self.n_encoded += len(features)
        return super().encode_text(features)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "n_encoded": self.n_encoded, "kept": self.kept}


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

        def state_dict(self) -> dict[str, Any]:
            return {}

    found = audits.leak(OfPixels(), dataclasses.replace(items, pixels=pixels), CPU, from_pixels=True)
    assert seen == {(torch.uint8, 4)}
    assert found
    assert found[0].startswith("image codes depend on batch mates: ")


@dataclasses.dataclass(frozen=True)
class Weights(_template.Config):
    """With a weight that is multiplied by nothing, and one that is used by one kind alone."""

    idle: float = param(1.0, "nothing", low=0, high=10)
    kind: str = param("plain", "which", choices=["plain", "cubed"])
    cubic: float = param(1.0, "weight (cubed)", low=0, high=10)
    proxies: float = param(1.0, "weight of the proxies", low=0, high=10)


class Made(_template.Method):
    """The template with one more term, which `second` gives, and one step a batch."""

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        self.proxies = nn.Linear(setup.bits, 3)
        self.more(config)

    def more(self, config: Any) -> None:
        self.optimizers["proxies"] = optimizer("adam", self.proxies, lr=1e-2)

    def epoch(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        sums: dict[str, Tensor] = {}
        for n_steps, batch in enumerate(batches(), start=1):  # noqa: B007
            labels = self.labels[batch.index]
            f, g = self.nets["image"](batch.image), self.nets["text"](batch.text)
            pairs = pairwise_nll(0.5 * f @ g.T, similar(labels, labels)).mean()
            extra = self.second(f, g, labels)
            self.step(pairs + 0.5 * extra)
            for term, value in {"pairs": pairs, "extra": extra}.items():
                sums[term] = sums.get(term, torch.zeros(())) + value.detach()
        return {term: float(value) / n_steps for term, value in sums.items()}

    def step(self, loss: Tensor) -> None:
        for it in self.optimizers.values():
            it.zero_grad()
        loss.backward()
        for it in self.optimizers.values():
            it.step()

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.proxies(f), labels)


class Detached(Made):
    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return (1 - f.detach().abs()).square().mean() * self.proxies.weight.detach().norm()


class Signs(Made):
    """Has a gradient, which is 0."""

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return (self.proxies.weight.detach()[0] - torch.sign(f)).square().mean()


class OwnProxies(Made):
    """The proxies are stepped and move no code, as the hyperbolic part of one published method."""

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.proxies(f.detach()), labels)


class Unstepped(Made):
    def more(self, config: Any) -> None:
        self.unused = {"scale": [nn.Parameter(torch.ones(2))]}


class Forgotten(Made):
    def step(self, loss: Tensor) -> None:
        pass

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        pairs = pairwise_nll(0.5 * f @ g.T, similar(labels, labels)).mean()
        super().step(pairs + 0 * self.proxies(f).sum())
        return super().second(f, g, labels)


class Critic(Made):
    """The extra term deceives a critic, which learns from detached codes: alive by design."""

    def epoch(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        terms: dict[str, float] = {}
        for batch in batches():
            f, g = self.nets["image"](batch.image).detach(), self.nets["text"](batch.text).detach()
            loss = (self.proxies(f)[:, 0] - self.proxies(g)[:, 0]).mean().exp()
            self.optimizers["proxies"].zero_grad()
            loss.backward()
            self.optimizers["proxies"].step()
            terms["critic"] = loss.item()  # after the backward pass, as people do
        return {**super().epoch(batches), **terms}

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.softplus(self.proxies(g)[:, 0]).mean()


class LabelNet(Made):
    """A net of labels acts on the codes through a buffer alone: alive by design."""

    def more(self, config: Any) -> None:
        self.target_net = mlp(3, 0, 8)
        self.optimizers["target"] = optimizer("adam", self.target_net, lr=1e-2)
        self.targets = torch.zeros(len(self.labels), 8)

    def epoch(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        sums = []
        for batch in batches():
            codes = self.target_net(self.labels[batch.index])
            loss = (codes.abs() - 1).square().mean()
            self.optimizers["target"].zero_grad()
            torch.autograd.backward([loss])
            self.optimizers["target"].step()
            self.targets[batch.index] = codes.detach()
            sums.append(float(loss.detach()))
        return {**super().epoch(batches), "target": sum(sums) / len(sums)}

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return (f - self.targets[: len(f)]).square().mean() + 0 * self.proxies(f).mean()


class Inactive(Made):
    """A hinge that has nothing to say about these items."""

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return torch.relu(f.abs() - 1e6).mean() + 0 * self.proxies(f).mean()


class Monitored(Made):
    """Reports a number that no loss has."""

    def epoch(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        terms = super().epoch(batches)
        with torch.no_grad():
            return {**terms, "norm": float(self.proxies.weight.norm()), "fixed": 1.0}


class ByHand(Made):
    """Its own descent from autograd.grad, and a loss from a function of its own."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square().mean()

        @staticmethod
        def backward(ctx: Any, upstream: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return upstream * 2 * x / x.numel()

    def step(self, loss: Tensor) -> None:
        parameters = [it for net in (*self.nets.values(), self.proxies) for it in net.parameters()]
        with torch.no_grad():
            for it, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                it -= 0.01 * gradient

    def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
        return self.Square.apply(self.proxies(f) - labels)


def dead(method: type) -> list[str]:
    return audits.dead(module(method, Weights), RUN, config(Weights), tiny())


PROXIES = "parameters proxies.weight, proxies.bias never change (in 3 epochs)"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Sound, []),
        (Made, []),
        (
            Detached,
            ["loss term `extra` has no gradient on any parameter: it is a constant to all nets", PROXIES],
        ),
        (Signs, ["loss term `extra` has no gradient on any parameter", PROXIES]),
        (
            OwnProxies,
            [
                "loss term `extra` has no gradient on the image or the text encoder, and what it trains"
                " (proxies.bias, proxies.weight) changes no code"
            ],
        ),
        (Unstepped, [PROXIES, "parameter unused.scale.0 never changes (in 3 epochs)"]),
        (
            Forgotten,
            [
                "loss term `pairs` is reported, but no backward pass goes through it",
                "loss term `extra` is reported, but no backward pass goes through it",
                PROXIES,
            ],
        ),
        (Critic, []),
        (LabelNet, [PROXIES]),
        (Inactive, [PROXIES]),
        (Monitored, []),
        (ByHand, []),
    ],
)
def test_what_is_dead_is_found(method: type, expected: list[str]) -> None:
    assert dead(method) == expected


def test_many_parameters_are_one_finding() -> None:
    class Idle(Made):
        def more(self, config: Any) -> None:
            super().more(config)
            self.idle = {"net": mlp(3, [4, 4], 2)}

    assert dead(Idle) == ["parameters idle.net.0.weight, idle.net.0.bias and 4 more never change (in 3 epochs)"]


def test_a_method_that_fails_says_so_itself() -> None:
    class Failing(Made):
        def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
            raise ZeroDivisionError("mine")

    before = torch.autograd.backward
    with pytest.raises(ZeroDivisionError, match="mine"):
        dead(Failing)
    assert torch.autograd.backward is before


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


def point(name: str) -> Any:
    """Wide enough that a critic's few units are not all off."""
    return training.split(methods.get(name), {**small(name, 64), "bits": 8, "threads": 1})


@pytest.mark.parametrize("name", NAMES)
def test_shipped_methods_pass_both_audits(name: str) -> None:
    run, config = point(name)
    assert audits.dead(methods.get(name), run, config, tiny()) == []
    trial = Trial(methods.get(name), run, config, tiny(), n=100)
    trial.epoch(1)
    assert audits.leak(trial.method, trial.items, CPU) == []


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_traced_and_the_trace_changes_nothing(name: str) -> None:
    """Every term of the 14 deep methods is traced; closed forms have nothing to trace."""
    run, config = point(name)
    seen = _Seen(methods.get(name), run, config, tiny())
    assert [term.traced for term in seen.terms.values()] == [name in DEEP] * len(seen.terms)
    assert name not in DEEP or len(seen.terms) >= 3
    trial = seen._trial()
    terms = {}
    for number in range(1, trial.epochs + 1):
        terms = trial.epoch(number)
    assert terms.keys() == seen.terms.keys()
    assert all(map(torch.equal, seen._outputs, trial.outputs()))


@pytest.mark.parametrize(("features", "dim", "side"), [("conv4", 512, 64), ("efficientnet-lite0", 1280, 64)])
def test_a_network_that_is_trained_along_is_audited_from_pixels(features: str, dim: int, side: int) -> None:
    data, rng = tiny(40), np.random.default_rng(0)
    image, pixels = rng.standard_normal((40, dim)), rng.integers(0, 256, (40, 3, side, side))
    train = dataclasses.replace(data.train, image=image.astype(np.float32), pixels=pixels.astype(np.uint8))
    data, dcmh = dataclasses.replace(data, train=train), methods.get("dcmh")
    values = {"hidden_image": 16, "hidden_text": 16, "features": features, "finetune": True, "bits": 8, "threads": 1}
    run, config = training.split(dcmh, values)
    assert audits.dead(dcmh, run, config, data) == []
    (finding,) = audits.dead(dcmh, dataclasses.replace(run, lr_backbone=0.0), config, data)
    assert finding.startswith("parameters nets.image.backbone.network.")
    assert finding.endswith(" more never change (in 3 epochs)")
    ends = {"gamma": (0.1, 10.0), "lr_decay": (0.5, 0.9)}
    assert [line.split("`")[1] for line in audits.idle_hyperparameters(dcmh, run, config, data, ends)] == ["lr_decay"]
    trial = Trial(dcmh, run, config, data, n=30)
    trial.epoch(1)
    assert audits.leak(trial.method, trial.items, CPU, from_pixels=True) == []


def test_the_test_split_is_locked_during_the_audit() -> None:
    dataset = datasets.load("clipart")

    class Peeking(Made):
        def second(self, f: Tensor, g: Tensor, labels: Tensor) -> Tensor:
            dataset.test()
            return super().second(f, g, labels)

    with pytest.raises(DatasetError, match="locked"):
        dead(Peeking)
    with pytest.raises(DatasetError, match="locked"):
        audits.idle_hyperparameters(module(Peeking, Weights), RUN, config(Weights), tiny(), {"idle": (0.0, 1.0)})


def test_few_items_hold_every_label() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((400, 5), np.uint8)
    labels[:, 0] = 1
    for column in range(1, 5):
        labels[rng.choice(np.arange(200, 400), 3, replace=False), column] = 1
    image, text = np.arange(400, dtype=np.float32)[:, None], np.zeros((400, 2), np.float32)
    part = few(Arrays(image, text, labels, labels), 40)
    assert part.image.shape == (40, 1)
    assert part.labels.sum(0).min() == 3
    rows = part.image[:, 0].astype(int)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert np.array_equal(part.labels, labels[rows])
    assert np.array_equal(part.pixels, labels[rows])
    assert len(few(Arrays(image[:7], text[:7], labels[:7]), 40).labels) == 7


def test_every_trainable_tensor_has_one_name() -> None:
    shared = nn.Linear(2, 2)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    inner = SimpleNamespace(weight=nn.Parameter(torch.ones(1)), again=shared)
    method = SimpleNamespace(nets={"a": shared, "b": frozen}, inner=inner, plain=torch.ones(3, requires_grad=True))
    inner.back = method
    assert sorted(trainable(method)) == ["inner.weight", "nets.a.bias", "nets.a.weight", "plain"]

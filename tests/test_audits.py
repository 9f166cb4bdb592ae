"""Both audits on the methods of the folder, on faults of published code, and from pixels."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmh import audits, datasets, methods, training
from cmh.audits.part import Trial, few, trainable
from cmh.audits.parts import _Training
from cmh.datasets import Arrays
from cmh.errors import DatasetError
from tests.made_up import CPU, RUN, Made, Weights, config, module, point
from tests.test_methods import NAMES
from tests.test_training import tiny

DEEP = [name for name in NAMES if methods.get(name).KIND != "shallow"]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_methods_pass_both_audits(name: str) -> None:
    run, config = point(name)
    assert audits.dead(methods.get(name), run, config, tiny()) == []
    trial = Trial(methods.get(name), run, config, tiny(), n=100)
    trial.epoch(1)
    assert audits.leak(trial.method, trial.items, CPU) == []


@pytest.mark.parametrize("name", NAMES)
def test_terms_are_traced_and_the_trace_changes_nothing(name: str) -> None:
    """Every term of the deep methods is traced; closed forms have nothing to trace."""
    run, config = point(name)
    seen = _Training(methods.get(name), run, config, tiny())
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
    run, config = training.parse(dcmh, values)
    assert audits.dead(dcmh, run, config, data) == []
    (finding,) = audits.dead(dcmh, dataclasses.replace(run, lr_backbone=0.0), config, data)
    assert finding.startswith("parameters pair.team.nets.image.backbone.network.")
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
        audits.dead(module(Peeking, Weights), RUN, config(Weights), tiny())
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


def test_faults_of_published_code_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a numbered difference in the method's file; here it is put back."""
    agah, gch, cpah, prdh = (methods.get(name) for name in ("agah", "gch", "cpah", "prdh"))

    def batch_norm(self: Any, outputs: Tensor) -> Tensor:
        return outputs / outputs.detach().norm()

    monkeypatch.setattr(agah.Method, "_scaled", batch_norm)  # AGAH, difference 2
    run, config = point("agah")
    trial = Trial(agah, run, config, tiny(), n=100)
    trial.epoch(1)
    found = audits.leak(trial.method, trial.items, CPU)
    assert [line.partition(":")[0] for line in found] == [
        f"{name} codes depend on batch mates" for name in ("image", "text")
    ]

    def retrieve(self: Any, features: Tensor) -> Tensor:
        return self.team.nets["image"].train()(features)[0]

    monkeypatch.setattr(gch.Method, "encode_image", retrieve)  # GCH, difference 3
    run, config = point("gch")
    trial = Trial(gch, run, config, tiny(), n=100)
    trial.epoch(1)
    assert audits.leak(trial.method, trial.items, CPU)[0].startswith("image codes need batch mates: ")

    class Apart(nn.Module):
        """C has its weights, but the first three features are taken for its logits."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.out_of_use = nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3]

    made = cpah.mlp
    monkeypatch.setattr(cpah, "mlp", lambda width, hidden, n: Apart(width) if n == 3 else made(width, hidden, n))
    run, config = point("cpah")  # CPAH, difference 2
    assert audits.dead(cpah, run, config, tiny()) == [
        "parameters team.nets.consistency.out_of_use.weight, team.nets.consistency.out_of_use.bias never change"
        " (in 3 epochs)"
    ]

    terms_of = prdh.step_terms

    def stored(codes: Tensor, own: Tensor, others: Tensor, B: Tensor, *rest: Tensor) -> dict[str, Tensor]:
        return {**terms_of(codes, own, others, B, *rest), "quantisation": (B - codes.detach()).square().mean()}

    monkeypatch.setattr(prdh, "step_terms", stored)  # PRDH, difference 4
    run, config = point("prdh")
    assert audits.dead(prdh, run, config, tiny()) == [
        f"loss term `{name}_quantisation` has no gradient on any parameter: it is a constant to all nets"
        for name in ("image", "text")
    ]

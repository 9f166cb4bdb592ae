"""What methods of two nets have: passes, schedules, the outputs of all items, and a state that goes on exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from cmh.interfaces import Batch, Setup
from cmh.losses import sign
from cmh.nets import state as states
from cmh.nets.buffers import Buffers
from cmh.nets.optimizers import Falling
from cmh.nets.pair import Pair
from cmh.training.batches import Batch as Step
from cmh.training.batches import Items

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Rates:
    """A Config with what a Pair asks for; other fields are optional."""

    lr_image: float = 0.1
    lr_text: float = 0.2


@dataclasses.dataclass(frozen=True)
class Whole(Rates):
    """With all that a Pair looks for."""

    optimizer: str = "sgd"
    momentum: float = 0.5
    weight_decay: float = 0.25
    schedule: str = "step"
    lr_decay: float = 0.5
    decay_every: int = 2


def setup() -> Setup:
    draw = torch.Generator().manual_seed(0)
    image, text = torch.randn(7, 3, generator=draw), torch.randn(7, 2, generator=draw)
    return Setup(2, 4, 1, CPU, 7, 3, 2, None, image, text, lambda head: head)


def pair(config: Rates, **more: Falling) -> Pair:
    torch.manual_seed(0)
    return Pair(setup(), config, nn.Linear(3, 2), nn.Linear(2, 2), **more)


def batches() -> Iterator[Batch]:
    items = Items(setup().image, setup().text, CPU)
    return (Step(index, items) for index in torch.arange(7).split(3))


def squares(batch: Batch, image: Tensor, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    terms = {"image": image.square().mean(), "text": text.square().mean()}
    return terms["image"] + 2 * terms["text"], terms


def test_an_epoch_of_one_pass_is_a_step_of_both_nets_a_batch() -> None:
    ours, theirs = pair(Rates()), pair(Rates())
    rows = []
    for batch in batches():
        loss, terms = squares(batch, theirs.nets["image"](batch.image), theirs.nets["text"](batch.text))
        theirs.step(loss)
        rows.append([float(loss.detach()), *(float(term.detach()) for term in terms.values())])
    found = ours.one_pass(batches, squares)
    assert list(found) == ["loss", "image", "text"]
    assert list(found.values()) == pytest.approx(torch.tensor(rows).mean(0).tolist())
    assert torch.equal(ours.encode_image(setup().image), theirs.encode_image(setup().image))
    assert torch.equal(ours.encode_text(setup().text), theirs.encode_text(setup().text))
    assert (ours.n_epochs, theirs.n_epochs) == (1, 0)


def test_one_net_can_be_trained_alone() -> None:
    both = pair(Rates())
    before = both.encode_image(setup().image).detach(), both.encode_text(setup().text).detach()
    for index, outputs in both.outputs_of("text", batches()):
        assert outputs.shape == (len(index), 2)
        both.step(outputs.square().mean(), "text")
    assert torch.equal(both.encode_image(setup().image), before[0])
    assert not torch.equal(both.encode_text(setup().text), before[1])


def test_optimizers_and_schedules_are_those_of_the_config() -> None:
    plain, whole = pair(Rates()), pair(Whole())
    assert isinstance(plain.optimizers["image"], torch.optim.Adam)
    assert {name: stepper.param_groups[0]["lr"] for name, stepper in plain.optimizers.items()} == {
        "image": 0.1,
        "text": 0.2,
    }
    assert isinstance(whole.optimizers["text"], torch.optim.SGD)
    assert [whole.optimizers["text"].param_groups[0][name] for name in ("momentum", "weight_decay")] == [0.5, 0.25]
    falling = pair(Rates(), falling=Falling("linear", end=0.25))
    rates: dict[str, list[float]] = {"plain": [], "whole": [], "falling": []}
    for _ in range(4):
        for name, each in (("plain", plain), ("whole", whole), ("falling", falling)):
            rates[name].append(each.optimizers["image"].param_groups[0]["lr"])
            each.one_pass(batches, squares)
    assert rates["plain"] == [0.1] * 4
    assert rates["whole"] == [0.1, 0.1, 0.05, 0.05]
    assert rates["falling"] == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_a_pair_goes_on_exactly_from_its_state() -> None:
    whole, stopped, resumed = pair(Whole()), pair(Whole()), pair(Whole())
    for _ in range(2):
        whole.one_pass(batches, squares)
        stopped.one_pass(batches, squares)
    states.load(resumed.state(), states.save(stopped.state()))
    assert resumed.n_epochs == 2
    assert resumed.one_pass(batches, squares) == whole.one_pass(batches, squares)
    assert torch.equal(resumed.encode_image(setup().image), whole.encode_image(setup().image))


def test_a_state_that_is_none_is_told() -> None:
    with pytest.raises(TypeError, match="a saved state is a dictionary, not a list"):
        states.load(pair(Rates()).state(), [])
    with pytest.raises(KeyError, match="optimizers"):
        states.load(pair(Rates()).state(), {"nets": states.save(pair(Rates()).state())["nets"]})


def test_buffers_hold_the_newest_outputs_and_the_sum_of_the_others() -> None:
    both, buffers = pair(Rates()), Buffers(setup())
    start = {name: outputs.clone() for name, outputs in buffers.outputs.items()}
    assert torch.equal(buffers.B, sign(start["image"] + start["text"]))
    seen: list[str] = []

    def one_pass(trained: str, other: str, items: Iterator[Batch]) -> dict[str, float]:
        assert {trained, other} == {"image", "text"}
        seen.append(trained)
        newest = start[trained].clone()
        for index, outputs, rest in buffers.store(trained, both.outputs_of(trained, items)):
            newest[index] = outputs.detach()
            assert torch.equal(buffers.outputs[trained], newest)
            others = [row for row in range(7) if row not in index.tolist()]
            assert torch.allclose(rest, newest[others].sum(0), atol=1e-6)
            assert outputs.requires_grad
        return {"loss": float(len(seen))}

    assert buffers.alternate(one_pass, batches) == {"image_loss": 1.0, "text_loss": 2.0}
    assert seen == ["image", "text"]
    image, text = both.encode_image(setup().image), both.encode_text(setup().text)
    assert torch.equal(buffers.B, sign(image + text))
    assert states.save(buffers.state()).keys() == {"image", "text", "B"}

"""What methods of many nets share: who is trained by which optimizer, adversaries, first draws, linear maps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn, optim

from cmh.config import Param, params
from cmh.interfaces import Setup
from cmh.losses import weighted
from cmh.nets import encoders
from cmh.nets.critics import adversaries, train_critic
from cmh.nets.draws import normals
from cmh.nets.linear import LinearMaps, ridged
from cmh.nets.optimizers import Falling, schedule_param
from cmh.nets.team import Team


def setup(seed: int = 3) -> Setup:
    return Setup(
        bits=4,
        epochs=4,
        seed=seed,
        device=torch.device("cpu"),
        n_train=6,
        image_dim=3,
        text_dim=2,
        labels=None,
        image=torch.zeros(6, 3),
        text=torch.zeros(6, 2),
        image_net=lambda head: head,
    )


@dataclasses.dataclass(frozen=True)
class Config:
    lr_image: float = 0.1
    lr_text: float = 0.2
    lr_critic: float = 0.3
    weight_decay: float = 0.01
    schedule: str = "early"
    lr_decay: float = 0.5


def owned(stepper: optim.Optimizer) -> set[int]:
    return {id(parameter) for group in stepper.param_groups for parameter in group["params"]}


def of(*nets: nn.Module) -> set[int]:
    return {id(parameter) for net in nets for parameter in net.parameters()}


def rates(team: Team) -> dict[str, float]:
    return {name: stepper.param_groups[0]["lr"] for name, stepper in team.optimizers.items()}


def test_a_step_moves_the_named_nets_alone_and_rates_fall_where_asked() -> None:
    team = Team(setup(), {"one": nn.Linear(3, 3), "two": nn.Linear(3, 3)})
    team.add("one", optim.SGD(team.nets["one"].parameters(), lr=1.0))
    team.add("two", optim.SGD(team.nets["two"].parameters(), lr=1.0), Falling("exponential", decay=0.5))
    before = {name: next(net.parameters()).clone() for name, net in team.nets.items()}
    x = torch.ones(5, 3)
    team.step(team.nets["two"](team.nets["one"](x)).sum(), "two")
    assert torch.equal(next(team.nets["one"].parameters()), before["one"])
    assert not torch.equal(next(team.nets["two"].parameters()), before["two"])
    team.end_epoch()
    assert rates(team) == {"one": 1.0, "two": 0.5}
    assert set(team.state()) == {"nets", "optimizers", "schedules"}


def test_codes_are_those_of_the_chain_in_evaluation_mode() -> None:
    team = Team(setup(), {"first": nn.Dropout(0.5), "second": nn.Linear(3, 2)})
    team.train()
    x = torch.ones(5, 3)
    assert torch.equal(team.encode(x, "first", "second"), team.nets["second"](x))
    assert not team.nets["first"].training
    team.train()
    assert team.nets["first"].training


@pytest.mark.parametrize("n_epochs", [0, 1, 2, 3])
def test_adversaries_have_their_own_optimizers_and_steady_rates(n_epochs: int) -> None:
    nets = {name: nn.Linear(2, 2) for name in ("image", "text", "head", "critic", "other_critic")}
    team = adversaries(setup(), Config(), nets, ("critic", "other_critic"), every=2)
    assert {name: owned(stepper) for name, stepper in team.optimizers.items()} == {
        "image": of(nets["image"]),
        "text": of(nets["text"], nets["head"]),
        "critic": of(nets["critic"]),
        "other_critic": of(nets["other_critic"]),
    }
    for _ in range(n_epochs):
        for stepper in team.optimizers.values():
            stepper.step()
        team.end_epoch()
    share = (1, 0.5, 0.5, 0.25)[n_epochs]  # after the first epoch, and then every two
    expected = {"image": 0.1 * share, "text": 0.2 * share, "critic": 0.3, "other_critic": 0.3}
    assert rates(team) == pytest.approx(expected)


def test_a_critic_is_trained_alone() -> None:
    nets = {"image": nn.Linear(2, 3), "text": nn.Linear(2, 3), "critic": nn.Linear(3, 1)}
    team = adversaries(setup(), Config(), nets, ("critic",), every=1)
    before = {name: net.weight.clone() for name, net in nets.items()}
    loss = train_critic(
        team, "critic", nets["image"](torch.ones(4, 2)), nets["text"](torch.ones(4, 2)), kind="logistic"
    )
    assert not loss.requires_grad
    assert {name for name, net in nets.items() if not torch.equal(net.weight, before[name])} == {"critic"}


def test_first_draws_hang_on_the_seed_and_the_stream_alone() -> None:
    first, second = normals(setup(), "buffers", (6, 4), (2, 3))
    torch.manual_seed(99)
    again, _ = normals(setup(), "buffers", (6, 4), (2, 3))
    assert (first.shape, second.shape) == ((6, 4), (2, 3))
    assert torch.equal(first, again)
    for other in (normals(setup(), "maps", (6, 4)), normals(setup(seed=4), "buffers", (6, 4))):
        assert not torch.equal(first, other[0])


def test_a_weighted_total_and_its_plain_terms() -> None:
    terms = {"a": torch.tensor(2.0, requires_grad=True), "b": torch.tensor(3.0, requires_grad=True)}
    total, plain = weighted(terms, {"b": 0.5})
    assert float(total.detach()) == 3.5
    assert {name: float(term) for name, term in plain.items()} == {"a": 2, "b": 3}
    assert [float(share) for share in torch.autograd.grad(total, list(terms.values()))] == [1, 0.5]


def test_a_schedule_field_is_the_papers_or_linear() -> None:
    @dataclasses.dataclass(frozen=True)
    class Fields:
        schedule: str = schedule_param("step", "fall")

    field: Param = params(Fields)["schedule"]
    assert (field.default, field.paper, field.choices) == ("linear", "step", ("linear", "step"))
    assert field.help == "how learning rates fall"


def test_linear_maps_take_the_mean_off() -> None:
    maps = LinearMaps(setup(), 1)
    assert maps.encode("image", torch.ones(2, 3)).tolist() == [[0], [0]]
    maps.solve("text", torch.tensor([1.0, 2.0]).double(), torch.tensor([[10.0], [1.0]]).double())
    assert maps.encode("text", torch.tensor([[2.0, 5.0]])).tolist() == [[13]]


def test_a_ridge_is_relative_to_the_mean_variance() -> None:
    found = ridged(torch.tensor([[1.0, 0.5], [0.5, 3.0]]), 0.1)
    assert torch.allclose(found, torch.tensor([[1.2, 0.5], [0.5, 3.2]]))
    assert torch.linalg.matrix_rank(ridged(torch.zeros(2, 2, dtype=torch.float64), 1.0), atol=0.0, rtol=0.0) == 2


@pytest.mark.parametrize("from_codes", [True, False])
def test_an_encoder_predicts_labels_from_what_it_is_told(from_codes: bool) -> None:
    net = encoders.Encoder(encoders.leaky_layers([3, 0, 5]), 5, 4, 2, labels_from_codes=from_codes)
    x = torch.randn(6, 3)
    codes, features, predicted = encoders.outputs(net, x, training=False)
    assert (codes.shape, features.shape, predicted.shape) == ((6, 4), (6, 5), (6, 2))
    assert torch.equal(predicted, torch.sigmoid(net.label(codes if from_codes else features)))
    assert torch.equal(encoders.codes(net, x), codes)
    constant = encoders.constant_features(net, x)
    assert torch.equal(constant, features)
    assert not constant.requires_grad

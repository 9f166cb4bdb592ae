"""An epoch of every deep method on a GPU that is made believe: all lies where it should, and no step waits.

Under torch's FakeTensorMode tensors have a device, but no numbers: what asks for one (`.item()`, `float()`, an `if`, a
boolean mask) fails, as does what mixes devices. The backward pass alone needs a real device; `gpu.py` has that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cmh import methods, training
from cmh.losses import Means
from cmh.metrics import _torch
from cmh.nets import bags, transfer
from cmh.training.batches import Augmentation, Batch, Items, Passes
from tests.test_methods import small

GPU = torch.device("cuda:0")
DEEP = [name for name in methods.names() if methods.get(name).KIND != "shallow"]
pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="needs a build of torch for CUDA")


class Copies(TorchDispatchMode):
    """Notes copies from main memory to the GPU that are not from pinned memory: each waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        target = named.get("device")
        blocks = operation is torch.ops.aten._to_copy.default and not named.get("non_blocking", False)
        if blocks and arguments[0].device.type == "cpu" and target is not None and target.type == "cuda":
            self.waiting.append(f"{tuple(arguments[0].shape)} {arguments[0].dtype}")
        return operation(*arguments, **named)


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Copies]:
    """Stands in for what a GPU that is not there cannot do: move modules, go backward, report."""

    def to(self: nn.Module, device: torch.device) -> nn.Module:
        for module in self.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
            module._buffers.update({name: value.to(device) for name, value in module._buffers.items()})
        return self

    def descend(loss: Tensor, *steppers: torch.optim.Optimizer, clip: float | None = None) -> None:
        trained = [one for stepper in steppers for group in stepper.param_groups for one in group["params"]]
        assert trained
        assert {loss.device, *(one.device for one in trained)} == {GPU}

    def gradient(outputs: Tensor, inputs: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (torch.zeros_like(inputs),)

    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr("cmh.nets.team.descend", descend)
    monkeypatch.setattr(torch.autograd, "grad", gradient)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Means, "values", lambda self: {})  # once a pass, it waits
    copies = Copies()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield copies


def built(name: str) -> tuple[Any, Items]:
    module = methods.get(name)
    run, config = training.parse(module, {**small(name), "batch_size": 32, "bits": 8, "epochs": 2, "threads": 1})
    image, text, labels = (torch.ones(96, width, device=GPU) for width in (40, 30, 5))
    setup = training.Setup(
        bits=run.bits,
        epochs=run.epochs,
        seed=run.seed,
        device=GPU,
        n_train=96,
        image_dim=40,
        text_dim=30,
        labels=labels if module.LABELS else None,
        image=image,
        text=text,
        image_net=lambda head: head,
    )
    return module.Method(config, setup), Items(image, text, GPU, None, Augmentation(erase=0.2))


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler")  # nothing steps here
@pytest.mark.parametrize("name", DEEP)
def test_no_step_waits_for_the_gpu(name: str, believed: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = dict.fromkeys(("mode", "scale_left", "scale_right", "low", "high"), torch.ones((), device=GPU))
    monkeypatch.setattr("cmh.methods.jdsh.distribution", lambda *_: shape)  # before the first epoch, it may wait
    method, items = built(name)
    with believed:
        method.epoch(Passes(items, 32, 0, 1))
    assert believed.waiting == []


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler")
def test_what_waits_is_found(believed: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    method, items = built("dcmh")
    with pytest.raises(DataDependentOutputException):
        float(torch.ones(3, device=GPU).sum())
    with pytest.raises(DynamicOutputShapeException):
        torch.ones(3, device=GPU)[torch.ones(3, device=GPU) > 0]
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device=GPU) + torch.ones(3)
    monkeypatch.setattr(transfer, "on_gpu", lambda device: False)
    with believed:
        Batch(torch.arange(32), items)
        torch.tensor([1, 2], device=GPU)
        method.epoch(Passes(items, 32, 0, 1))
    assert believed.waiting.count("(32,) torch.int64") == 1  # as every batch did before
    assert believed.waiting.count("(96,) torch.int64") == 2  # of each pass
    assert believed.waiting.count("(2,) torch.int64") == 1


def test_counting_waits_at_its_end_only(believed: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    class EndError(Exception):
        pass

    def end(self: Tensor) -> Tensor:
        assert self.shape == (70, 65)
        raise EndError

    sides = [torch.ones(rows, width, device=GPU, dtype=torch.int8) for width in (64, 20) for rows in (70, 3000)]
    monkeypatch.setattr(Tensor, "cpu", end)
    with pytest.raises(EndError), believed:
        _torch.histograms(*sides, device=GPU, pairs=70 * 100)
    assert believed.waiting == []


def test_texts_of_few_words_come_to_a_gpu_dense(believed: Copies) -> None:
    sparse = bags.tensor(csr_array(np.eye(6, 4, dtype=np.float32)))
    assert isinstance(transfer.to_device(sparse, torch.device("cpu")), bags.Bags)
    with believed:
        there = transfer.to_device(sparse, GPU)
    assert not isinstance(there, bags.Bags)
    assert (there.device, there.shape) == (GPU, (6, 4))
    assert believed.waiting == []

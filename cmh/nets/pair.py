"""What most methods have: an image net and a text net, each with its optimizer and its falling learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from cmh.interfaces import Batch, Batches, Setup
from cmh.losses import Means
from cmh.nets.optimizers import Falling, Rates, optimizer
from cmh.nets.team import Team

BatchLoss = Callable[[Batch, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]  # see `Pair.one_pass`


class Pair:
    """Both nets, trained together or in turn. `image` and `text` are what stands on the features.

    The optimizer is the one that the fields `optimizer`, `momentum` and `weight_decay` of the Config say (Adam where
    it has none), with `lr_image` and `lr_text`; they fall as its `schedule` says, or as `falling`.
    """

    def __init__(
        self, setup: Setup, config: Rates, image: nn.Module, text: nn.Module, *, falling: Falling | None = None
    ) -> None:
        self.team = Team(setup, {"image": setup.image_net(image), "text": setup.text_net(text)})
        kind = getattr(config, "optimizer", "adam")
        how = {name: getattr(config, name) for name in ("momentum", "weight_decay") if hasattr(config, name)}
        for name, lr in (("image", config.lr_image), ("text", config.lr_text)):
            stepper = optimizer(kind, self.team.nets[name], lr=lr, **how)
            self.team.add(name, stepper, falling or Falling.of(config))
        self.nets, self.optimizers = self.team.nets, self.team.optimizers
        self.step, self.end_epoch, self.state = self.team.step, self.team.end_epoch, self.team.state

    @property
    def n_epochs(self) -> int:
        """How many epochs have ended."""
        return self.team.schedules["image"].last_epoch

    def one_pass(self, batches: Batches, loss: BatchLoss) -> dict[str, float]:
        """An epoch of one pass with one step of both nets a batch. Returns the means of the loss and its terms.

        `loss(batch, image, text)` is given what both nets say of the batch, `(b, bits)` each, and gives its loss and
        the terms of it that are worth reporting.
        """
        means = Means()
        for batch, image, text in self.outputs(batches()):
            total, terms = loss(batch, image, text)
            self.step(total)
            means.add({"loss": total, **terms})
        self.end_epoch()
        return means.values()

    def outputs(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """Each batch of a pass with what both nets give for it in training mode, `(b, bits)`."""
        for batch in batches:
            yield batch, *self.both(batch)

    def outputs_of(self, name: str, batches: Iterator[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch's `index` `(b,)` with what one net gives for it in training mode, `(b, bits)`."""
        for batch in batches:
            yield batch.index, self.nets[name].train()(batch.image if name == "image" else batch.text)

    def both(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What both nets give for a batch in training mode, `(b, bits)`."""
        return self.nets["image"].train()(batch.image), self.nets["text"].train()(batch.text)

    def encode_image(self, features: Tensor) -> Tensor:
        """Real-valued outputs `(n, bits)` of the image net in evaluation mode; their signs are the codes."""
        return self.team.encode(features, "image")

    def encode_text(self, features: Tensor) -> Tensor:
        """The same of the text net."""
        return self.team.encode(features, "text")

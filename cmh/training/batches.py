"""Training items in batches: their order, what is gathered for them, and their random changes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cmh.interfaces import Captions
from cmh.nets import augment
from cmh.nets.transfer import to_device
from cmh.seeding import derive


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of training items; what they are for an item depends on (seed, epoch, pass, batch) alone."""

    seed: int = 0
    rotate: float = 0.0
    hflip: float = 0.0
    vflip: float = 0.0
    erase: float = 0.0

    def pictures(self, pixels: Tensor, *names: int) -> Tensor:
        """Pictures `(b, 3, side, side)`, some of them turned or mirrored."""
        draw = self._draw("image", *names)
        return augment.turn_and_flip(pixels, draw, rotate=self.rotate, hflip=self.hflip, vflip=self.vflip)

    def texts(self, text: Tensor, *names: int) -> Tensor:
        """Texts `(b, text_dim)`, each without a share of its dimensions."""
        return augment.erase(text, self._draw("text", *names), share=self.erase) if self.erase else text

    def _draw(self, what: str, *names: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self.seed, "augment", what, *names))


@dataclasses.dataclass(frozen=True)
class Items:
    """All training items: features `(n, image_dim)`, texts `(n, text_dim)` and, for training backbones, pixels
    `(n, 3, side, side)` and tokens `(n, context_length)` on the CPU; where batches go, and how they are changed. Where
    items have several `captions`, `text` has a row a caption."""

    image: Tensor
    text: Tensor
    device: torch.device
    pixels: Tensor | None = None
    augmentation: Augmentation = Augmentation()
    tokens: Tensor | None = None
    captions: Captions | None = None


class Batch:
    """Training items as `cmh.interfaces.Batch` has them, gathered when first asked for. `names` are those of the
    stream of their random changes: epoch, pass, number of the batch. `index`: `rows`, on the device already; `captions`
    `(n,)`: the row of the texts that is an item's in this epoch, where it has several."""

    def __init__(
        self, rows: Tensor, items: Items, *names: int, index: Tensor | None = None, captions: Tensor | None = None
    ) -> None:
        self._rows, self._items, self._names, self._captions = rows, items, names, captions
        self.index = to_device(rows, items.device) if index is None else index

    @functools.cached_property
    def image(self) -> Tensor:
        """What the image net takes, on the device: `features`, or pixels where the backbone is trained along."""
        items = self._items
        if items.pixels is None:
            return self.features
        return items.augmentation.pictures(to_device(items.pixels[self._rows], items.device), *self._names)

    @functools.cached_property
    def features(self) -> Tensor:
        """Frozen image features `(b, image_dim)` on the device."""
        return self._items.image[self.index].to(self._items.device, torch.float32)

    @functools.cached_property
    def text(self) -> Tensor:
        """What the text net takes, on the device: `text_features`, or tokens where a text tower is trained along."""
        items = self._items
        return self.text_features if items.tokens is None else to_device(items.tokens[self._rows], items.device)

    @functools.cached_property
    def text_features(self) -> Tensor:
        """Text features `(b, text_dim)` on the device."""
        rows = self.index if self._captions is None else self._captions[self.index]
        text = self._items.text[rows].to(self._items.device, torch.float32)
        return self._items.augmentation.texts(text, *self._names)


class Passes:
    """The passes of one epoch: each call is one, every item once, in an order of (seed, epoch, pass); the last batch
    may be short. Of items with several captions all passes of an epoch have the same one, drawn by (seed, epoch).
    `n_seen` counts the items that were given, which is how much of the data the epoch has seen; before each batch `at`
    is told which share of its pass is over."""

    def __init__(
        self, items: Items, batch_size: int, seed: int, epoch: int, at: Callable[[float], object] = lambda share: None
    ) -> None:
        self._items, self._batch_size, self._seed, self._epoch, self._at = items, batch_size, seed, epoch, at
        self._n_passes = self.n_seen = 0
        self._captions: Tensor | None = None
        if items.captions is not None:
            self._captions = to_device(drawn(torch.from_numpy(items.captions.starts), seed, epoch), items.device)

    def __call__(self) -> Iterator[Batch]:
        self._n_passes += 1
        return self._pass(self._n_passes)

    def _pass(self, count: int) -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(derive(self._seed, "batches", self._epoch, count))
        order = torch.randperm(len(self._items.image), generator=draw)
        # Moved once a pass, so that no batch waits for a GPU.
        there = to_device(order, self._items.device)
        both = zip(*(torch.split(rows, self._batch_size) for rows in (order, there)), strict=True)
        for number, (rows, index) in enumerate(both):
            self._at(number * self._batch_size / len(order))
            self.n_seen += len(rows)
            yield Batch(rows, self._items, self._epoch, count, number, index=index, captions=self._captions)


def drawn(starts: Tensor, seed: int, epoch: int) -> Tensor:
    """A caption for each item `(n,)`, each of the item's own equally likely: its row, from `starts[i]` to
    `starts[i + 1]`. `starts` is `(n + 1,)`."""
    draw, lengths = torch.Generator().manual_seed(derive(seed, "captions", epoch)), starts.diff()
    place = (torch.rand(len(lengths), generator=draw, dtype=torch.float64) * lengths).long()
    return starts[:-1] + place.minimum(lengths - 1)

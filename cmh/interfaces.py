"""Read this first: what a method, its module and a dataset promise each other. The trainer knows nothing else of them.

    dataset files → features (cached) → SearchData → Method.epoch(batches) → encode → codes → metrics

A method is one file of `cmh/methods`, which mypy holds to `MethodModule`, and its class to `Method`. It has no base
class: what methods share they have as parts (`cmh.nets.pair.Pair` is an image and a text net with their optimizers).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

if TYPE_CHECKING:  # `--help` of a command that lists methods needs none of them
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from scipy.sparse import csr_array
    from torch import Tensor, nn

Floats: TypeAlias = "NDArray[np.float32]"


class Config(Protocol):
    """A method's hyperparameters: a frozen dataclass whose fields are `cmh.config.param`s."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]


class Batch(Protocol):
    """Training items: `index` `(b,)` into the training set, and what belongs to them, on the device.

    `image` and `text` are what the image and the text net take: `features` and `text_features`, or pixels and tokens
    where backbones are trained along. `features` `(b, image_dim)` and `text_features` `(b, text_dim)` are always the
    frozen ones; where texts have few words the latter is a `cmh.nets.bags.Bags`, a tensor like any other that only
    stores what is not 0.
    """

    @property
    def index(self) -> Tensor: ...
    @property
    def image(self) -> Tensor: ...
    @property
    def features(self) -> Tensor: ...
    @property
    def text(self) -> Tensor: ...
    @property
    def text_features(self) -> Tensor: ...


Batches = Callable[[], Iterator[Batch]]  # each call is one pass: every training item once, in seeded order


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a method is built from, beside its Config.

    `image_net(head)` is the image net on top of which `head` (features `(n, image_dim)` in) stands: the head itself on
    frozen features, a backbone with the head on it where the backbone is trained along; `text_net(head)` is the same of
    texts. `image` and `text` are the frozen features of all training items, `(n_train, image_dim)` and
    `(n_train, text_dim)`; they may be a memory map or stored by words (`Bags`), so take rows and move those.
    """

    bits: int
    epochs: int
    seed: int
    device: torch.device
    n_train: int
    image_dim: int
    text_dim: int
    labels: Tensor | None  # (n_train, c) float 0/1; None where the method's module does not ask for them
    image: Tensor
    text: Tensor
    image_net: Callable[[nn.Module], nn.Module]
    text_net: Callable[[nn.Module], nn.Module] = lambda head: head

    @property
    def known_labels(self) -> Tensor:
        """The labels, for a method whose module says `LABELS = True`."""
        assert self.labels is not None
        return self.labels


class Saveable(Protocol):
    """A net, an optimizer, a schedule: what saves itself and goes on from that, as torch has it."""

    def state_dict(self) -> dict[str, object]: ...
    def load_state_dict(self, state_dict: dict[str, object], /) -> object: ...


State = Mapping[str, "Tensor | Saveable | State"]


class Method(Protocol):
    """What the trainer drives."""

    def epoch(self, batches: Batches, /) -> dict[str, float]:
        """Train one epoch as the paper counts it, calling `batches()` once a pass; loss terms by name."""

    def encode_image(self, features: Tensor, /) -> Tensor:
        """Real-valued outputs `(n, bits)` in evaluation mode, each from its row alone; their signs are the codes."""

    def encode_text(self, features: Tensor, /) -> Tensor:
        """The same of texts."""

    def state(self) -> State:
        """Everything that the next epoch depends on, as the live parts: the trainer saves and restores them."""


_Config: TypeAlias = Config
_Method: TypeAlias = Method


class MethodModule(Protocol):
    """A file of `cmh/methods`. `EPOCHS` may say how many epochs a closed form can use, and `TOKENS = True` that the
    method takes features `(n, 1 + L, d)` of an item and its parts; others are given the first of them.
    """

    __name__: str
    __file__: str | None
    TITLE: str
    YEAR: int
    KIND: str  # supervised | unsupervised | shallow
    LABELS: bool  # False: `setup.labels` is None
    SOURCE: str  # DOI or arXiv number

    @property
    def Config(self) -> type[_Config]: ...  # noqa: N802  # as the file has it
    @property
    def Method(self) -> Callable[..., _Method]: ...  # noqa: N802
    @property
    def trainable(self) -> Callable[[dict[str, object]], None]: ...


@dataclasses.dataclass(frozen=True)
class Captions:
    """The texts of items that have several each, read only: `text` `(m, d_text)` has a row a caption, and those of item
    i stand from `starts[i]` to `starts[i + 1]`, at least one; `starts` is `(n + 1,)`."""

    text: Floats | csr_array
    starts: NDArray[np.int64]

    def rows(self, some: slice | NDArray[np.int64]) -> Captions:
        """Those of a part of the items, of a slice without a copy."""
        import numpy as np

        n = len(self.starts) - 1
        if isinstance(some, slice) and some.step in (None, 1):
            first, last, _ = some.indices(n)
            starts = self.starts[first : max(first, last) + 1]
            return Captions(self.text[starts[0] : starts[-1]], starts - starts[0])
        index = np.arange(n)[some]
        lengths = np.diff(self.starts)[index]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        chosen = np.arange(starts[-1]) + np.repeat(self.starts[index] - starts[:-1], lengths)
        return Captions(self.text[chosen], starts)


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Items of one role, read only.

    `image` `(n, d_image)`, `text` `(n, d_text)`, `labels` `(n, c)` 0/1, and where they were asked for `pixels`
    `(n, 3, side, side)` uint8 and `tokens` `(n, context_length)` int32, the numbers that a text tower reads. Features
    are float32, or float16 where they were given so: take rows and convert those. Where they are of the parts of an
    item, too, they are `(n, 1 + L, d)`: the whole's first, zeros where there is none. Texts of few words are a sparse
    matrix; `cmh.nets.bags.tensor` makes what a net takes of either. Where captions are drawn, `captions` has them, and
    `text` is the mean of each item's.
    """

    image: Floats
    text: Floats | csr_array
    labels: NDArray[np.uint8]
    pixels: NDArray[np.uint8] | None = None
    tokens: NDArray[np.int32] | None = None
    captions: Captions | None = None

    @property
    def read(self) -> Floats | csr_array | NDArray[np.int32]:
        """What the text net takes of one text an item: `text`, or tokens where they are there."""
        return self.text if self.tokens is None else self.tokens

    def rows(self, some: slice | NDArray[np.int64]) -> Arrays:
        """A part of the items, of a slice without a copy."""
        pixels = None if self.pixels is None else self.pixels[some]
        tokens = None if self.tokens is None else self.tokens[some]
        captions = None if self.captions is None else self.captions.rows(some)
        return Arrays(self.image[some], self.text[some], self.labels[some], pixels, tokens, captions)

    def labelled(self) -> Arrays:
        """The items that have a label: all of them, without a copy, in most datasets."""
        some = self.labels.max(axis=1).nonzero()[0]
        return self if len(some) == len(self.labels) else self.rows(some)


@dataclasses.dataclass(frozen=True)
class SearchData:
    """What a trial is given. The test queries are in another file: nothing here leads to them."""

    name: str
    sha256: str
    split_sha256: str
    features: str
    label_names: tuple[str, ...]
    train: Arrays  # some may have no label; a supervised method is not given those
    validation_query: Arrays
    validation_database: Arrays  # every item with a label that is neither query nor validation
    arrays_sha256: str = ""


@dataclasses.dataclass(frozen=True)
class TestData:
    """The test queries, and the database: every item with a label that is not a query. Asking for it opens the test
    split.

    `groups` `(n_query,)`: queries that are near-duplicates of each other share a number.
    """

    query: Arrays
    database: Arrays
    groups: NDArray[np.int64]


class Dataset(Protocol):
    """A dataset whose arrays can be had; `cmh.datasets.load` gives one."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def split_sha256(self) -> str: ...
    @property
    def arrays_sha256(self) -> str: ...
    @property
    def features(self) -> str: ...
    @property
    def label_names(self) -> tuple[str, ...]: ...
    @property
    def sizes(self) -> Mapping[str, int]: ...  # query, validation, train, other
    @property
    def folder(self) -> Path: ...
    @property
    def pixel_folder(self) -> Path | None: ...
    @property
    def provenance(self) -> dict[str, str]: ...

    def search(self) -> SearchData:
        """Training and validation items."""

    def test(self) -> TestData:
        """Test queries and database; each call is an opening of the test split, and noted."""

    def noted_test(self) -> TestData:
        """The same, for a confirmation, which has noted the opening itself (`cmh.ledger.open_test`)."""

    def in_folder(self, folder: Path) -> Dataset:
        """The same dataset, whose arrays lie in another folder: on a node with a cache of its own."""

"""A trained model that gives codes to pictures and texts that it has never seen."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cmh import codes, files
from cmh.errors import DatasetError, EncoderError, NotFiniteError
from cmh.features import backbones
from cmh.features.text import Network
from cmh.features.wording import BAGS, EMBEDDINGS, Reading, TextRule
from cmh.losses import sign
from cmh.nets import captions, clip
from cmh.nets.bags import Bags
from cmh.nets.transfer import as_net_input
from cmh.training.device import usable
from cmh.use import pictures as seen
from cmh.use import weights
from cmh.use.description import Description, placed
from cmh.use.pictures import Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array
    from torch import nn

log = logging.getLogger(__name__)

ROWS = 1024  # encoded at once; changes no code
MANY_ROWS = 64  # the same of pixels and tokens, and where an item is many vectors


class Encoder:
    """Codes of one trained model: ±1 `(n, bits)` int8, or packed as `cmh.codes` says, `(n, ceil(bits / 8))` uint8.

    `cmh.load` makes one. `description` says of what it is, `bits` and `seed` are of the run, and `digest` names the
    codes: those of two encoders may be compared only where it is the same.
    """

    def __init__(
        self, description: Description, state: Mapping[str, object], folder: Path, *, device: str = "auto"
    ) -> None:
        """`state` holds the weights, `folder` is where the description's paths start.

        Raises EncoderError where the model cannot be built again as it was, ConfigError where the device
        cannot be used.
        """
        _check_preparation(description, folder)
        self.description, self.folder, self._device = description, folder, usable(device)
        self._method = weights.rebuilt(description, state, folder, self._device)
        self.bits, self.seed, self.digest = description.identity.bits, description.identity.seed, description.digest()

    def __repr__(self) -> str:
        made = self.description.identity
        return f"Encoder({made.method}, {made.dataset}, {made.features}, {self.bits} bits, seed {self.seed})"

    def encode_images(
        self, pictures: Iterable[Picture] | NDArray[np.generic], *, packed: bool = False
    ) -> NDArray[np.int8] | NDArray[np.uint8]:
        """Codes of pictures: paths, pictures of Pillow, or uint8 arrays `(h, w, 3)`.

        A model of given features takes those, `(n, image_dim)`. Raises DatasetError that names all pictures that are
        none, EncoderError where features are of another shape or not finite.
        """
        if not self.description.network:
            outputs = self.hash_images(_matrix(pictures, self.description.image_dim, "images"))
        elif self.description.finetuned:
            some = list(_several(pictures))
            blocks = list(self._from_pixels(seen.all_encoded(some), some))
            outputs = np.concatenate(blocks) if blocks else np.zeros((0, self.bits), np.int8)
        else:
            outputs = self.hash_images(self.image_features(pictures))
        return codes.pack(outputs) if packed else outputs

    def encode_texts(
        self, texts: Sequence[str] | NDArray[np.generic], *, packed: bool = False
    ) -> NDArray[np.int8] | NDArray[np.uint8]:
        """Codes of texts; a model of given text vectors takes those, `(n, text_dim)`.

        A text without any word that the model knows has no code: EncoderError names each, with why (`read_text` says
        it of one text).
        """
        rule = self.description.text
        if rule.kind == "matrix":
            outputs = self.hash_texts(_matrix(texts, self.description.text_dim, "texts"))
        else:
            some = [*_texts(texts)]
            if problems := self.bad_texts(some):
                named = {repr(some[place]): why for place, why in problems.items()}
                lines = [f"{text}: {why}" for text, why in itertools.islice(named.items(), 5)]
                more = [f"and {len(named) - 5:,} more"] * (len(named) > 5)
                raise EncoderError(*lines, *more, heading="texts without a word that this model knows")
            outputs = self.hash_texts(self.text_vectors(some))
        return codes.pack(outputs) if packed else outputs

    def read_text(self, text: str) -> Reading:
        """Which words of a text are used, and why the others are not. Raises EncoderError where it is no text."""
        if not isinstance(text, str):
            raise EncoderError(f"text is a {type(text).__name__}, but must be one text")
        return self.description.text.read(text)

    def bad_texts(self, texts: Sequence[str]) -> dict[int, str]:
        """Which texts have no code, by place, and why."""
        found = {}
        for place, text in enumerate(texts):
            reading = self.read_text(text)
            if not reading.used and self.description.text.kind in BAGS:
                found[place] = str(reading)
            elif not text.strip():
                found[place] = "empty"
        return found

    def image_features(self, pictures: Iterable[Picture] | NDArray[np.generic]) -> NDArray[np.float32]:
        """Features of pictures `(n, image_dim)`, to the bit as those that the model was trained on (on a CPU).

        Raises DatasetError that names all pictures that are none.
        """
        raw = seen.all_encoded(_several(pictures))
        about = self.description
        where = placed(about.weights, self.folder)
        try:
            blocks = list(backbones.extract(about.network, raw, weights=where, network=self._network))
        except DatasetError as error:
            raise _named(error, raw, pictures) from error
        features = np.concatenate(blocks) if blocks else np.zeros((0, about.image_dim), np.float32)
        if not np.isfinite(features).all():
            raise EncoderError("the features of a picture are not finite")
        return features

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.generic] | csr_array:
        """Vectors of texts `(n, text_dim)`, as those that the model was trained on: sparse where texts are few words,
        and tokens `(n, context_length)` where a text tower was trained along.

        Raises DatasetError where an extra is missing or the dataset's texts were given as vectors.
        """
        from scipy.sparse import csr_array

        if self.description.context_length:
            return clip.tokens(texts, self.description.context_length).numpy()
        network = self._text_network if self._rule.kind in EMBEDDINGS else None
        rows = self._rule.vectors(list(texts), network)
        vectors = np.asarray(rows[:], np.float32)
        return csr_array(vectors) if self.description.sparse else vectors

    def hash_images(self, features: NDArray[np.generic]) -> NDArray[np.int8]:
        """Codes ±1 `(n, bits)` of image features `(n, image_dim)`. Raises NotFiniteError."""
        return self._codes("image", torch.from_numpy(np.ascontiguousarray(features)))

    def hash_texts(
        self, vectors: NDArray[np.generic] | csr_array, starts: captions.Starts | None = None
    ) -> NDArray[np.int8]:
        """Codes ±1 `(n, bits)` of what `text_vectors` gives; with `starts` `(n + 1,)` those of item i are from
        `starts[i]` to `starts[i + 1]`, and the mean of their outputs counts. Raises NotFiniteError."""
        if isinstance(vectors, np.ndarray):
            return self._codes("text", torch.from_numpy(np.ascontiguousarray(vectors)), starts)
        return self._codes("text", Bags.of(vectors), starts)

    @functools.cached_property
    def _network(self) -> nn.Module:
        _say_versions(self.description)
        return backbones.ready(self.description.network, placed(self.description.weights, self.folder))

    @property
    def _rule(self) -> TextRule:
        rule = self.description.text
        return dataclasses.replace(rule, weights=placed(rule.weights, self.folder))

    @functools.cached_property
    def _text_network(self) -> Network:
        return self._rule.network()

    def _from_pixels(self, raw: list[bytes], pictures: list[Picture]) -> Iterator[NDArray[np.int8]]:
        """Codes of encoded pictures by a network that was trained along, in blocks."""
        try:
            for pixels in backbones.decoded(raw, backbones.about(self.description.network)):
                yield self._codes("image", torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
        except DatasetError as error:
            raise _named(error, raw, pictures) from error

    def _codes(self, modality: str, inputs: Tensor, starts: captions.Starts | None = None) -> NDArray[np.int8]:
        encode = self._method.encode_image if modality == "image" else self._method.encode_text
        found = [torch.zeros(0, self.bits, dtype=torch.int8)]
        at_once = MANY_ROWS if inputs.ndim > 2 or not inputs.is_floating_point() else ROWS
        with torch.inference_mode():
            for rows, of_items in captions.blocks(len(inputs), at_once, starts):
                outputs = captions.means(encode(as_net_input(inputs[rows].to(self._device))), of_items)
                if not bool(torch.isfinite(outputs).all()):
                    raise NotFiniteError(f"the {modality} codes hold NaN or infinite values")
                found.append(sign(outputs).to(torch.int8).cpu())
        return torch.cat(found).numpy()


def _check_preparation(about: Description, folder: Path) -> None:
    """Raises EncoderError where pictures would become other features than those of the training."""
    if not about.network:
        return
    if about.preparation != backbones.VERSION:
        raise EncoderError(
            f"pictures were prepared by version {about.preparation} when this model was trained, but this cmh has"
            f" version {backbones.VERSION}: its features are others; train it again with python -m cmh.reproduce"
        )
    if about.finetuned:  # its weights are among those of the run
        return
    where = placed(about.weights, folder)
    if about.weights and not Path(where).is_file():
        raise EncoderError(f"weights {where} of {about.network}: no such file; the model was trained on its features")
    wanted = about.provenance.get("weights_sha256")
    if about.weights and wanted and files.sha256(Path(where)) != wanted:
        raise EncoderError(f"weights {where} of {about.network}: are not those that the features were made with")


def _say_versions(about: Description) -> None:
    """Say where what turns pictures into features is of another version than in training."""
    for package, version in backbones.versions().items():
        if about.provenance.get(package, version) != version:
            log.info(
                "features were made with %s %s, and this is %s: they may differ in the last digits",
                *(package, about.provenance[package], version),
            )


def _several(pictures: object) -> Iterable[Picture]:
    """Raises EncoderError where it is one picture and not several."""
    one = isinstance(pictures, (str, Path, bytes)) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4)
    if one or not isinstance(pictures, Iterable):
        raise EncoderError(f"pictures is a {type(pictures).__name__}, but must be a list of them: [picture]")
    return pictures


def _texts(texts: object) -> Sequence[str]:
    """Raises EncoderError where it is no list of texts."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise EncoderError(f"texts is a {type(texts).__name__}, but must be a list of them: [text]")
    some = list(texts)
    wrong = [(place, text) for place, text in enumerate(some) if not isinstance(text, str)]
    if wrong:
        place, text = wrong[0]
        raise EncoderError(f"{len(wrong):,} of the texts are none; text {place + 1} is a {type(text).__name__}")
    return some


def _matrix(given: object, dim: int, what: str) -> NDArray[np.float32]:
    """Features that are given in place of what they are of. Raises EncoderError."""
    rule = f"this model was trained on given features, so {what} must be an array (n, {dim}) of finite numbers"
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "biuf" or given.ndim != 2 or given.shape[1] != dim:
        found = f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
        raise EncoderError(f"{rule}; it is {found}")
    values = given.astype(np.float32)
    if not np.isfinite(values).all():
        raise EncoderError(f"{rule}; row {int(np.argwhere(~np.isfinite(values))[0][0])} is not finite")
    return values


def _named(error: DatasetError, raw: list[bytes], pictures: object) -> DatasetError:
    """The error of a network or decoder, with the names of the pictures that are none."""
    names = list(pictures) if isinstance(pictures, Sequence) else raw
    found = {seen.name_of(names[place], place): reason for place, reason in seen.bad(raw).items()}
    lines = seen.grouped(found, "picture")
    return DatasetError(*lines, heading="pictures that cannot be encoded") if lines else error

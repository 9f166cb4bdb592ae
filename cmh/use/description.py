"""`encoder.json` in the folder of a run: all that its weights need to encode something new, without the dataset."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from cmh import cache, files, methods, typed_json
from cmh.config import Value
from cmh.errors import DatasetError, EncoderError
from cmh.features import backbones
from cmh.features.wording import KINDS, NOTE, TextRule
from cmh.identity import Identity
from cmh.interfaces import Dataset

Built = TypeVar("Built")

NAME = "encoder.json"
VERSION = 1
_LOWEST = {
    "version": 1,
    "preparation": 0,
    "image_dim": 1,
    "text_dim": 1,
    "n_labels": 0,
    "bits": 1,
    "epochs": 0,
    "chosen_epoch": 1,
}


@dataclasses.dataclass(frozen=True)
class Description:
    """What is known of a trained model beside its weights. Paths are as a file in the same folder names them."""

    version: int
    identity: Identity  # of the run
    method: str  # its name, or the file of one's own
    network: str  # that made the image features; empty: they were given
    weights: str  # a file of weights for it; empty: its own
    provenance: dict[str, str]  # with what the features were made
    preparation: int  # version of what turns pictures into features
    lr_backbone: float  # a trained-along network is built with both
    amp: bool
    image_dim: int
    text_dim: int
    sparse: bool  # whether texts come to the nets as few words
    n_labels: int
    text: TextRule
    validation: float  # MAP at the chosen epoch
    chosen_epoch: int  # the one with the best validation MAP, 1-based
    probe: dict[str, str]  # `cmh.use.probe`; empty where the run was not confirmed

    @property
    def finetuned(self) -> bool:
        """Whether the network was trained along: then images are encoded from pixels."""
        return self.identity.settings.get("finetune") is True

    @property
    def context_length(self) -> int:
        """Tokens of a text where a text tower was trained along, else 0."""
        length = self.identity.settings.get("context_length", 0)
        return length if self.finetuned and isinstance(length, int) else 0

    def digest(self) -> str:
        """12 hex digits that name the codes of this model: a run, and one of its epochs."""
        return hashlib.sha256(f"{self.identity.digest()} {self.chosen_epoch}".encode()).hexdigest()[:12]


def describe(
    folder: Path,
    dataset: Dataset,
    identity: Identity,
    *,
    validation: float,
    chosen_epoch: int,
    probe: Mapping[str, str] | None = None,
) -> Description:
    """The description of the run in `folder`, which has its `config.json`, from the dataset that it was trained on.

    Raises EncoderError where the run's settings, or how the dataset's texts became vectors, cannot be read.
    """
    path = folder / "config.json"
    try:
        run: dict[str, Value] = json.loads(path.read_text(encoding="utf-8"))
        network, weights = str(run["features"]), str(run["weights"])
        share, amp = float(run["lr_backbone"]), bool(run["amp"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"{path}: cannot be read ({error}), so that nobody knows what the run was of") from error
    data = dataset.search()
    facts = cache.document(dataset.folder, NOTE)
    if facts is None:
        raise EncoderError(f"{dataset.folder}: does not say how texts became vectors; delete it, to be made anew")
    rule = _built(TextRule, facts, str(dataset.folder / f"{NOTE}.json"))
    given = "given" in dataset.provenance
    return Description(
        version=VERSION,
        identity=identity,
        method=_named(methods.spec(identity.method), folder),
        network="" if given else network,
        weights="" if given else _named(weights, folder),
        provenance=dataset.provenance,
        preparation=backbones.VERSION,
        lr_backbone=share,
        amp=amp,
        image_dim=data.train.image.shape[-1],
        text_dim=data.train.text.shape[-1],
        sparse=not isinstance(data.train.text, np.ndarray),
        n_labels=data.train.labels.shape[1],
        text=dataclasses.replace(rule, weights=_named(rule.weights, folder)),
        validation=validation,
        chosen_epoch=chosen_epoch,
        probe=dict(probe or {}),
    )


def _named(path: str, folder: Path) -> str:
    return files.portable(Path(path), folder) if "/" in path else path


def placed(name: str, folder: Path) -> str:
    """A path of a description in `folder`, as it is from here; what has no / in it is a name."""
    return files.placed(name, folder) if "/" in name or name.endswith(".py") else name


def to_json(description: Description) -> str:
    """As the file holds it."""
    return json.dumps(dataclasses.asdict(description), indent=1, ensure_ascii=False, sort_keys=True)


def write(folder: Path, description: Description) -> None:
    """Write `encoder.json`, whole or not at all."""
    files.write_atomic(folder / NAME, to_json(description))


def of_json(raw: bytes, where: str) -> Description:
    """What `to_json` wrote; `where` names it in messages. Raises EncoderError with the first rule that is broken."""
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"{where}: is no JSON ({error})") from error
    version = values.get("version") if isinstance(values, dict) else None
    if type(version) is int and version > VERSION:
        raise EncoderError(f"{where}: is of version {version}, but this cmh reads {VERSION}: a newer cmh wrote it")
    description = _built(Description, values, where)
    rule = description.text
    if rule.kind not in KINDS:
        raise EncoderError(f"{where}: text kind is {rule.kind!r}, but must be one of {', '.join(KINDS)}")
    if description.network:
        try:
            backbones.check(description.network)
        except DatasetError as error:
            raise EncoderError(f"{where}: {error.problems[0]}") from error
    if rule.words and (len(rule.words) != description.text_dim or len(rule.idf) not in (0, description.text_dim)):
        raise EncoderError(f"{where}: has {len(rule.words)} words, but text_dim is {description.text_dim}")
    return description


def _built(cls: type[Built], values: object, where: str) -> Built:
    try:
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
        return typed_json.build(cls, values, _LOWEST)
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"{where}: {error}") from error

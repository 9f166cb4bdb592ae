"""A bundle: what was run, what came out and its model as one file, `FILE.zip`, which others read without trusting it.

bundle.json         `Manifest`: what is run, and the size and SHA-256 of every other member
split.npz           query, validation, train, other: rows of the dataset
seed-N/run.json     `Expected`: identity, versions, curve and metrics of a run
seed-N/per-query.npz          the AP of each test query; not of a trial
seed-N/encoder.json, weights.npz      the model (`cmh.use.description`, `cmh.use.tensors`), where it was kept
method.py           the text of a method of one's own, to be read: nothing here runs it

Members are stored as they are, have no other names, and lie in one order without dates: the same runs, the same bytes.
Whoever reads one unpacks nothing onto a disk, unpickles nothing, imports nothing of it, follows no path in it, and
reads no member whose size is not what archive and manifest agree on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cmh import files, methods, npz, typed_json
from cmh.config import Value
from cmh.datasets.split import Split
from cmh.errors import BundleError
from cmh.identity import Identity
from cmh.records import Cost, PerQuery
from cmh.use import archive, description, tensors
from cmh.use.archive import some
from cmh.use.description import Description

Built = TypeVar("Built")

VERSION = 1
MANIFEST, SPLIT, METHOD = "bundle.json", "split.npz", "method.py"
SIDES = ("query", "validation", "train", "other")
MOST_DIM = 1_000_000  # of features, texts and labels: a model is built with them before its weights are there
_SEED = re.compile(r"seed-(0|[1-9][0-9]{0,18})/(run\.json|encoder\.json|weights\.npz|per-query\.npz)")
_LOWEST = {
    **{"version": 1, "trial": -1, "bits": 1, "epochs": 0, "threads": 1, "chosen_epoch": 1, "tolerance": 0},
    **{"trials": 0, "passes": 0, "seconds": 0, "device_seconds": 0},
}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is run, as an experiment file has it, and what else the bundle holds."""

    version: int
    method: str
    trial: int  # of a search, which is validated only; -1: none
    selection: str
    label: str
    run: dict[str, Value]  # run settings; dataset and weights without a path
    config: dict[str, Value]
    search: Cost
    seeds: list[int]
    tolerance: float  # of each MAP, where another machine or version computes it
    sizes: dict[str, int]  # of the other members, in bytes
    sha256: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Expected:
    """A run and what it gave."""

    identity: Identity
    versions: dict[str, str]
    validation: dict[str, float]  # map, map_i2t, map_t2i at the chosen epoch
    chosen_epoch: int
    test: dict[str, float]  # the same, and more; empty of a trial
    curve: list[dict[str, float | None]]  # what was reported of each epoch; None: not finite


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle whose list of members is sound; each member is checked when it is read. All raise BundleError."""

    path: Path
    manifest: Manifest

    @property
    def models(self) -> list[int]:
        """The seeds whose models are there."""
        return [seed for seed in self.manifest.seeds if _of(seed, "weights.npz") in self.manifest.sizes]

    def member(self, name: str) -> bytes:
        """The bytes of a member, which are those that the manifest names."""
        if name not in self.manifest.sizes:
            raise BundleError(f"{self.path}: holds no {name}")
        raw = archive.stored(self.path, name, self.manifest.sizes[name])
        if hashlib.sha256(raw).hexdigest() != self.manifest.sha256[name]:
            raise BundleError(f"{self.path}: {name} is not what the manifest says (its SHA-256 differs)")
        return raw

    def check(self) -> None:
        """Read everything that is there: members that are not what the manifest says, models that are none."""
        for name in self.manifest.sizes:
            self.member(name)
        for seed in self.models:
            self.description(seed)

    def expected(self, seed: int) -> Expected:
        """The run of a seed."""
        name = _of(seed, "run.json")
        found = _built(Expected, self.member(name), f"{self.path}: {name}")
        if found.identity.seed != seed or found.identity.method != self.manifest.method:
            raise BundleError(f"{self.path}: {name}: is of {found.identity.method}, seed {found.identity.seed}")
        return found

    def description(self, seed: int) -> Description:
        """The model of a seed. It names no path: its method by its name, files of weights by theirs."""
        name = _of(seed, description.NAME)
        found = description.of_json(self.member(name), f"{self.path}: {name}")
        problems = []
        if found.identity != self.expected(seed).identity:
            problems.append("is of another run than the bundle")
        if found.method != found.identity.method:
            problems.append(f"method is {found.method!r}, but must be {found.identity.method!r}")
        for what, value in (("weights", found.weights), ("text weights", found.text.weights)):
            if value and not _plain_name(value):
                problems.append(f"{what} is {value!r}, but must be the name of a file, without a path")
        for what in ("image_dim", "text_dim", "n_labels"):
            if getattr(found, what) > MOST_DIM:
                problems.append(f"{what} is {getattr(found, what):,}, but must be at most {MOST_DIM:,}")
        if not 1 <= found.identity.bits <= 4096:
            problems.append(f"bits is {found.identity.bits}, but must be from 1 to 4096")
        if problems:
            raise BundleError(*problems, heading=f"{self.path}: {name}")
        return found

    def state(self, seed: int) -> Mapping[str, object]:
        """The weights of a seed's model."""
        return tensors.of_bytes(self.member(_of(seed, "weights.npz")), f"{self.path}: seed {seed}")

    def ap(self, seed: int) -> PerQuery | None:
        """The AP of each test query; None of a trial."""
        name = _of(seed, "per-query.npz")
        if name not in self.manifest.sizes:
            return None
        arrays = self._arrays(name, ("i2t", "t2i", "groups"), "fi")
        return PerQuery(arrays[0].astype(np.float64), arrays[1].astype(np.float64), arrays[2].astype(np.int64))

    def split(self) -> Split:
        """The rows of each side."""
        return Split(*(rows.astype(np.int64) for rows in self._arrays(SPLIT, SIDES, "i")))

    def _arrays(self, name: str, wanted: tuple[str, ...], kinds: str) -> list[NDArray[np.generic]]:
        try:
            arrays = npz.of_bytes(self.member(name))
        except ValueError as error:
            raise BundleError(f"{self.path}: {name}: cannot be read ({error})") from error
        fine = arrays.keys() == set(wanted) and all(
            one.ndim == 1 and one.dtype.kind in kinds and one.dtype.itemsize == 8 for one in arrays.values()
        )
        if not fine:
            raise BundleError(f"{self.path}: {name}: must hold the rows {', '.join(wanted)}, and nothing else")
        return [arrays[one] for one in wanted]


def named(target: str | Path) -> bool:
    """Whether a target is a bundle, by its name: a file that ends in .zip."""
    return Path(target).suffix.lower() == ".zip" and not Path(target).is_dir()


def read(path: Path) -> Bundle:
    """A bundle, its list of members and its manifest checked. Raises BundleError that lists every problem."""
    there = archive.sizes(path, lambda name: name in (MANIFEST, SPLIT, METHOD) or bool(_SEED.fullmatch(name)))
    heading = f"{path} is no sound bundle"
    if MANIFEST not in there:
        raise BundleError(f"without {MANIFEST}: it is no bundle, or a truncated one", heading=heading)
    manifest = _built(Manifest, archive.stored(path, MANIFEST, there[MANIFEST]), f"{path}: {MANIFEST}")
    del there[MANIFEST]
    problems = _unlike(manifest, there)
    if not manifest.method.isidentifier():
        problems.append(f"method is {manifest.method[:40]!r}, but must be the name of one")
    if problems:
        raise BundleError(*problems, heading=heading)
    return Bundle(path, manifest)


def check_method(held: Bundle) -> None:
    """Raises BundleError where the method is one's own, and nobody has said where its file is."""
    name = held.manifest.method
    if name in methods.names():
        return
    text = "its text is not in the bundle"
    if METHOD in held.manifest.sizes:
        text = f"its text is in the bundle (unzip -p {files.quoted(held.path)} {METHOD} > {name}.py)"
    raise BundleError(
        f"{held.path}: is of the method {name}, one of somebody's own; {text}, which"
        f" is never run by itself: read it, then say --method {name}.py"
    )


def write(path: Path, manifest: Manifest, members: Mapping[str, bytes]) -> None:
    """Write a bundle, whole or not at all; `manifest` gets its sizes and sums here. Raises BundleError, OSError."""
    sums = {name: hashlib.sha256(raw).hexdigest() for name, raw in members.items()}
    full = dataclasses.replace(manifest, sizes={name: len(raw) for name, raw in members.items()}, sha256=sums)
    archive.write(path, {MANIFEST: to_json(full), **{name: members[name] for name in sorted(members)}})


def to_json(value: Manifest | Expected) -> bytes:
    """As a member holds it."""
    return json.dumps(dataclasses.asdict(value), indent=1, sort_keys=True, allow_nan=False).encode()


def _of(seed: int, name: str) -> str:
    return f"seed-{seed}/{name}"


def _plain_name(text: str) -> bool:
    return re.fullmatch(r"[^/\\\0:]+", text) is not None and text not in (".", "..")


def _unlike(manifest: Manifest, there: Mapping[str, int]) -> list[str]:
    """Where the members are not those that the manifest names."""
    lines = []
    if not manifest.seeds or len(set(manifest.seeds)) < len(manifest.seeds):
        lines.append("seeds must name one seed or more, each once")
    needed = {SPLIT, *(_of(seed, "run.json") for seed in manifest.seeds), *manifest.sizes}
    for seed in manifest.seeds:  # one without the other encodes nothing
        pair = {_of(seed, one) for one in ("weights.npz", description.NAME)}
        needed |= pair if pair & there.keys() else set()
    if missing := sorted(needed - there.keys()):
        lines.append(f"members that are missing: {some(missing)}")
    if extra := sorted(there.keys() - manifest.sizes.keys()):
        lines.append(f"members that {MANIFEST} does not name: {some(extra)}")
    other = [name for name, size in manifest.sizes.items() if name in there and size != there[name]]
    if other:
        lines.append(f"members of another size than {MANIFEST} says: {some(sorted(other))}")
    foreign = [name for name in there if "/" in name and int(name[5 : name.index("/")]) not in manifest.seeds]
    if foreign:
        lines.append(f"members of seeds that {MANIFEST} does not name: {some(sorted(foreign))}")
    if unsummed := sorted(manifest.sizes.keys() ^ manifest.sha256.keys()):
        lines.append(f"sizes and sha256 do not name the same members: {some(unsummed)}")
    return lines


def _built(cls: type[Built], raw: bytes, where: str) -> Built:
    try:
        values = json.loads(raw)
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
        version = values.get("version")
        if type(version) is int and version > VERSION:
            raise ValueError(f"is of version {version}, but this cmh reads {VERSION}: a newer cmh wrote it")
        return typed_json.build(cls, values, _LOWEST)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: {error}") from error

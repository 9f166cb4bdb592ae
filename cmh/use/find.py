"""From the name of a study, a run or a trial to its model: which of its seeds is used, and where its weights are."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from cmh import config, datasets, files, methods
from cmh.datasets import CachedDataset, Source
from cmh.errors import EncoderError
from cmh.identity import Identity
from cmh.training import checkpoint
from cmh.training.checkpoint import Checkpoint
from cmh.use import bundle, description
from cmh.use.description import Description
from cmh.use.encoder import Encoder

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Model:
    """What is known of a model, and the folder of its run, or the bundle, that holds its weights."""

    about: Description
    place: Path

    def checkpoint(self) -> Checkpoint:
        """Weights and curve of the run in a folder. Raises CheckpointError."""
        return checkpoint.from_bytes(_weights(self.place).read_bytes(), self.about.identity)

    def state(self) -> Mapping[str, object]:
        """The weights. Raises CheckpointError, BundleError."""
        if bundle.named(self.place):
            return bundle.read(self.place).state(self.about.identity.seed)
        return self.checkpoint().best


def load(
    target: str | Path, *, seed: int | None = None, device: str = "auto", method: str | Path | None = None
) -> Encoder:
    """The model of a study's winner, of a run of `cmh.reproduce`, of a trial (`STUDY:NUMBER`) or of a bundle (`.zip`).

    Of several seeds it is the one with the best validation MAP, unless `seed` says which; the log says which it is.
    device: auto (a GPU where there is one), cpu, cuda or cuda:N. method: the file of a method of one's own, which is
    never taken out of a bundle.

    Raises EncoderError where there is no such model, BundleError where a bundle is not sound, ConfigError where a file
    of the study cannot be read or the device cannot be used, and DatasetError where a run of an earlier cmh is known by
    its dataset alone, and that has changed.
    """
    found = models(str(target), method)
    if seed is not None and seed not in found:
        raise EncoderError(f"{target}: has no model of seed {seed}; it has {', '.join(map(str, sorted(found)))}")
    chosen = seed if seed is not None else max(sorted(found), key=lambda one: found[one].about.validation)
    about = found[chosen].about
    several = f", {'asked for' if seed is not None else 'the best'} of seeds {', '.join(map(str, sorted(found)))}"
    log.info("%s: seed %d, validation MAP %.4f%s", target, chosen, about.validation, several * (len(found) > 1))
    return Encoder(about, found[chosen].state(), found[chosen].place, device=device)


def models(target: str, method: str | Path | None = None) -> dict[int, Model]:
    """The models of a target by seed; `method` is where the file of one's own is. Raises the same as `load`."""
    found = _in_bundle(Path(target), method) if bundle.named(target) else _in_folders(target)
    if method is None:
        return found
    file = Path(method).resolve()
    theirs = next(iter(found.values())).about.identity.method
    if file.suffix != ".py" or file.stem != theirs:
        raise EncoderError(f"--method {method}: must be the file {theirs}.py, as {target} is of {theirs}")
    return {seed: Model(dataclasses.replace(one.about, method=str(file)), one.place) for seed, one in found.items()}


def _in_folders(target: str) -> dict[int, Model]:
    found = {}
    for folder in _folders(target):
        about = _described(folder)
        found[about.identity.seed] = Model(about, folder)
    return found


def _in_bundle(path: Path, method: str | Path | None) -> dict[int, Model]:
    """The models of a bundle, whose files of weights, where they need any, lie beside it."""
    held = bundle.read(path)
    if not held.models:
        raise EncoderError(f"{path}: holds no weights, so that it cannot encode; python -m cmh.reproduce checks it")
    if method is None:
        bundle.check_method(held)
    found, beside = dict[int, Model](), path.resolve().parent
    for seed in held.models:
        about = held.description(seed)
        weights, text = (str(beside / name) if name else "" for name in (about.weights, about.text.weights))
        about = dataclasses.replace(about, weights=weights, text=dataclasses.replace(about.text, weights=text))
        found[seed] = Model(about, path)
    return found


def _weights(folder: Path) -> Path:
    """The file of a run's weights."""
    return folder / checkpoint.NAME


def _folders(target: str) -> list[Path]:
    """The folders of all runs of the target that have weights. Raises EncoderError."""
    path, _, number = target.rpartition(":")
    if path and number.isdigit() and Path(path).is_dir():
        return [_trial(Path(path), number)]
    folder = Path(target)
    if not folder.is_dir():
        raise EncoderError(f"{target}: is no folder of a study or run, and no STUDY:TRIAL")
    if (folder / "config.json").is_file():
        found, what = [folder], "the run"
    elif (folder / "run.yml").is_file():
        found, what = sorted(folder.glob("seed-*")), "none of its runs"
    elif (folder / "best.yml").is_file():
        document = config.load_yaml(folder / "best.yml")
        search = document.get("search") if isinstance(document, dict) else None
        trial = search.get("trial") if isinstance(search, dict) else None
        if type(trial) is not int:
            raise EncoderError(f"{folder / 'best.yml'}: does not say which trial is the winner")
        found, what = sorted(folder.glob(f"confirm/{trial}-*")), f"no confirmation of trial {trial}"
    elif (folder / "study.yml").is_file():
        raise EncoderError(
            f"{folder}: has no winner yet: its search has not ended; the command that began it goes on, and"
            f" {files.short(folder)}:NUMBER takes a trial"
        )
    else:
        raise EncoderError(f"{folder}: is no folder of a study or run: it has no best.yml, run.yml or config.json")
    usable = [one for one in found if _weights(one).is_file() and (one / "config.json").is_file()]
    if not usable:
        raise EncoderError(
            f"{folder}: {what} has weights ({checkpoint.NAME}) here; python -m cmh.reproduce {files.quoted(folder)}"
            " trains it again, into a folder that can be loaded"
        )
    return usable


def _trial(folder: Path, number: str) -> Path:
    """The folder of a trial, or of the one that it is a copy of."""
    table = folder / "trials.csv"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True) if table.is_file() else []
    rows = {row.get("number"): row for row in csv.DictReader(lines)}
    row = rows.get(number)
    if not (folder / "study.yml").is_file():
        raise EncoderError(f"{folder}: has no trial {number}: it is no folder of a study (no study.yml)")
    place = folder / "trials" / ((row or {}).get("copied_from") or number)
    if not _weights(place).is_file():
        why = f"it has {len(rows)} trials" if row is None else f"its {checkpoint.NAME} is not there"
        raise EncoderError(
            f"{folder}: trial {number} cannot be loaded: {why};"
            f" python -m cmh.reproduce {files.quoted(folder)}:{number} trains one again"
        )
    return place


def _described(folder: Path) -> Description:
    """What is known of a run: as it was written down, else from its dataset, if that is as it was."""
    path = folder / description.NAME
    if path.is_file():
        return description.of_json(path.read_bytes(), str(path))
    identity = _identity(folder)
    log.info("%s: has no %s, so that its dataset is asked", files.short(folder), description.NAME)
    methods.get(str(_places(folder)["method"]))  # a method of one's own is known by its name from then on
    dataset, _ = dataset_of(folder, identity)
    saved = checkpoint.from_bytes(_weights(folder).read_bytes(), identity)
    last = saved.curve[-1]
    return description.describe(
        folder,
        dataset,
        identity,
        validation=float(str(last["val_map_best"])),
        chosen_epoch=int(str(last["best_epoch"])),
    )


def _identity(folder: Path) -> Identity:
    path = folder / "config.json"
    try:
        return Identity(**json.loads(path.read_text(encoding="utf-8"))["identity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"{path}: cannot be read ({error}), so that nobody knows what the run was of") from error


def dataset_of(folder: Path, identity: Identity) -> tuple[CachedDataset, Source]:
    """The dataset that the run in `folder` was trained on, and what its reader sees.

    Raises EncoderError where it is no longer as it was, DatasetError where it cannot be read.
    """
    where = _places(folder)
    name, features, weights = (str(where[key]) for key in ("dataset", "features", "weights"))
    skip_bad, order = bool(where["skip_bad"]), str(where["split"])
    captions = str(where.get("captions") or datasets.GIVEN)
    source = datasets.read(name, skip_bad=skip_bad, order=order, captions=captions)
    if (source.sha256, source.split.sha256()) != (identity.dataset_sha256, identity.split_sha256):
        raise EncoderError(f"{folder}: its dataset {name} is no longer as it was in training")
    pixels = identity.settings.get("finetune") is True
    length = identity.settings.get("context_length", 0)
    given = source.image is not None
    dataset = datasets.load(
        name,
        features=datasets.DEFAULT_FEATURES if given else features,
        weights="" if given else weights,
        pixels=pixels,
        context_length=length if isinstance(length, int) else 0,
        skip_bad=skip_bad,
        order=order,
        captions=captions,
        source=source,
    )
    return dataset, source


def _places(folder: Path) -> dict[str, object]:
    """Where the method, the dataset and the image network's weights of a run are, and how its dataset was read: from
    `config.json`, and from the file of the study or run above, which knows the paths. Of a bundle: from its manifest.

    Raises EncoderError where a bundle is of a dataset of one's own, of which it names no place.
    """
    if bundle.named(folder):
        held = bundle.read(folder).manifest
        if held.run.get("dataset") not in datasets.NAMES:
            raise EncoderError(
                f"{folder}: is of a dataset of one's own ({held.run.get('dataset')}), which no bundle holds; search in"
                " codes of pictures (--in FILE), as cmh.encode makes them"
            )
        weights = str(held.run.get("weights", ""))
        return {**held.run, "weights": str(folder.resolve().parent / Path(weights).name) if weights else ""}
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    keys = ("method", "dataset", "split", "captions", "skip_bad", "features", "weights")
    values = {key: written.get(key, "") for key in keys}
    for above in folder.resolve().parents[:2]:
        for file, method in (("study.yml", "method_file"), ("run.yml", "method")):
            document = config.load_yaml(above / file) if (above / file).is_file() else None
            for key, called in (("method", method), ("dataset", "dataset"), ("weights", "weights")):
                there = document.get(called) if isinstance(document, dict) else None
                if isinstance(there, str) and ("/" in there or there.endswith(".py")):
                    values[key] = files.placed(there, above)
    return values

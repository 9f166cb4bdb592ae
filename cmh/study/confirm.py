"""The confirmed test: a configuration trained with fresh seeds, its epoch chosen on validation, the test split opened.

`tune` and `reproduce` both end here, so that their records mean the same.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmh import __version__, audits, codes, files, methods, records, training
from cmh.config import Value
from cmh.identity import ROW, Identity
from cmh.interfaces import Dataset, SearchData, TestData
from cmh.records import PROTOCOL, SCHEMA, Cost, PerQuery, Record
from cmh.use import description, probe

CODES = "codes.npz"  # in the folder of a run, until its record is written beside it


@dataclasses.dataclass(frozen=True)
class Confirmed:
    """One trained run and what it scored; plain values, so that it travels between processes."""

    identity: Identity
    training: Cost
    resumed: int  # epochs that an earlier start had trained
    chosen_epoch: int
    validation: dict[str, float]
    test: dict[str, float]
    ap: PerQuery
    audits: dict[str, list[str]]
    provenance: dict[str, str]
    folder: str  # of the run, with its codes
    probe: dict[str, str] = dataclasses.field(default_factory=dict)  # `cmh.use.probe`


def identify(method: str, values: Mapping[str, Value], dataset: Dataset) -> Identity:
    """What a run of a flat mapping of hyperparameters and run settings is, before it is trained.

    Raises ConfigError where a value or the device cannot be used.
    """
    module = methods.get(method)
    return training.identify(module, *training.parse(module, values), dataset)


def run(
    method: str,
    values: Mapping[str, Value],
    report: Callable[[training.Epoch], None] | None = None,
    dataset: Dataset | None = None,
    search: Callable[[], SearchData] | None = None,
    test: Callable[[], TestData] | None = None,
) -> Confirmed:
    """Train `method` with a flat mapping of hyperparameters and run settings, then audit it and test its best
    validation epoch.

    The caller notes the opening first (`ledger.open_test`). With `folder` among the values, a run that was killed goes
    on, and the codes lie there afterwards. Whoever has the `dataset` may give it; `search` and `test` bring its arrays
    where that is not done by itself (on a machine that does not have them).

    Raises ConfigError where a value or the device cannot be used, DatasetError where the arrays cannot be had,
    NotFiniteError where a loss term or a code is not finite.
    """
    module = methods.get(method)
    settings, config = training.parse(module, values)
    dataset = dataset if dataset is not None else training.load(settings)
    data = (search or dataset.search)()
    fitted = training.fit(
        module,
        settings,
        config,
        data,
        report=None if report is None else lambda epoch, _: report(epoch),
        folder=Path(settings.folder) if settings.folder else None,
    )
    dead = audits.dead(module, settings, config, data)  # trains: no test query may be in this process's memory yet
    opened = (test or dataset.noted_test)()
    tested, best = training.test(fitted, opened), fitted.best
    about = {
        "image_dim": data.train.image.shape[-1],
        "side": 0 if data.train.pixels is None or not fitted.finetuned else data.train.pixels.shape[-1],
        "text_dim": data.train.text.shape[-1],
        "context_length": 0 if data.train.tokens is None else data.train.tokens.shape[1],
    }
    sparse = not isinstance(data.train.text, np.ndarray)
    probed = probe.of(fitted.method, fitted.device, sparse=sparse, **about)
    # Last: a method with findings is no longer what it was.
    leak = audits.leak(fitted.method, opened.query, fitted.device, from_pixels=fitted.finetuned)
    if settings.folder:
        codes.write(Path(settings.folder) / CODES, _packed(tested.codes, opened))
    return Confirmed(
        identity=fitted.identity,
        training=Cost(1, fitted.curve[-1].epoch, fitted.curve[-1].passes, fitted.seconds, fitted.device_seconds),
        resumed=fitted.resumed,
        chosen_epoch=best.epoch,
        validation={"map": best.val_map, "map_i2t": best.val_map_i2t, "map_t2i": best.val_map_t2i},
        test=tested.metrics,
        ap=PerQuery(tested.i2t, tested.t2i, opened.groups),
        audits={"leak": leak, "dead": dead},
        provenance=dataset.provenance,
        folder=settings.folder,
        probe=probed,
    )


def write_record(
    folder: Path,
    found: Confirmed,
    *,
    selection: str,
    search: Cost,
    opened: tuple[int, int],
    label: str = "",
    prior: str = "",
    dataset: Dataset | None = None,
) -> Record:
    """Append the record of a run to `folder`, with the AP of its queries and its codes. With the `dataset` that it was
    trained on, what its weights need to encode something new is written beside them (`cmh.use.description`).

    `opened`: how often the test split was opened, by this study or run and by all; `prior`: what the search was given
    beside the paper's point. Raises RecordError, and writes
    nothing, where no board could read the record.
    """
    digest = found.identity.digest()
    kept = Path(found.folder) / CODES if found.folder else None
    record = Record(
        schema=SCHEMA,
        study=folder.resolve().name,
        identity=found.identity,
        protocol=PROTOCOL,
        selection=selection,
        label=label,
        prior=prior,
        search=search,
        training=found.training,
        chosen_epoch=found.chosen_epoch,
        validation=found.validation,
        test=found.test,
        tie_rule="expected",
        test_opened=opened[0],
        split_opened=opened[1],
        audits=found.audits,
        versions=versions(),
        provenance=found.provenance,
        commit=commit(),
        host=platform.node(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        per_query=f"per-query-{digest}.npz",
        codes=f"codes-{digest}.npz" if kept is not None and kept.is_file() else "",
    )
    if record.codes and kept is not None:
        with files.new_file(folder / record.codes) as temporary:
            shutil.move(kept, temporary)
    if dataset is not None and found.folder:
        place, map_ = Path(found.folder), found.validation["map"]
        about = description.describe(
            place, dataset, found.identity, validation=map_, chosen_epoch=found.chosen_epoch, probe=found.probe
        )
        description.write(place, about)
    records.append(folder, record, found.ap)
    return record


def with_search(folder: Path, record: Record, search: Cost) -> Record:
    """The record with what the search has cost by now, written anew where that is more: the same winner of a study
    that went on has had a larger budget.

    Raises RecordError where the per-query file beside it cannot be read.
    """
    if search.trials <= record.search.trials:
        return record
    newer = dataclasses.replace(record, search=search)
    records.append(folder, newer, records.per_query(folder, record))
    return newer


def audit_lines(record: Record) -> list[str]:
    """What the audits found, for people."""
    return [f"{name} audit: {line}" for name, lines in record.audits.items() for line in lines]


def of_identity(found: list[Record], wanted: Identity) -> dict[int, Record]:
    """By seed, the newest record of each run that is `wanted` but for its seed and device."""
    same = wanted.without(*ROW, "device")
    return {record.identity.seed: record for record in found if record.identity.without(*ROW, "device") == same}


def codes_by_epoch(method: str, values: Mapping[str, Value], dataset: Dataset) -> codes.Codes:
    """Test codes after every epoch `(epochs, n, bits)`, as releases look at them that report their best test epoch.

    Nothing here chooses anything. The caller notes the opening first. Raises the same as `run`.
    """
    module = methods.get(method)
    settings, config = training.parse(module, values)
    test, seen = dataset.noted_test(), list[dict[str, NDArray[np.int8]]]()
    fitted = training.fit(
        module,
        settings,
        config,
        dataset.search(),
        after_epoch=lambda method, device: seen.append(training.score(method, test, device, settings.finetune).codes),
    )
    stacked = {name: np.stack([epoch[name] for epoch in seen]) for name in seen[0]}
    return _packed(stacked, test, chosen_epoch=fitted.best.epoch)


def _packed(signs: Mapping[str, NDArray[np.int8]], test: TestData, chosen_epoch: int | None = None) -> codes.Codes:
    """±1 codes by what they are of, as a file of codes has them."""
    return codes.Codes(
        **{name: codes.pack(array) for name, array in signs.items()},
        bits=next(iter(signs.values())).shape[-1],
        query_labels=test.query.labels,
        database_labels=test.database.labels,
        query_groups=test.groups,
        chosen_epoch=chosen_epoch,
    )


def versions() -> dict[str, str]:
    """Of everything that a number may depend on."""
    packages = ("torch", "torchvision", "pillow", "numpy", "numba", "ray", "optuna")
    own = {"cmh": __version__, "python": platform.python_version(), "processor": _processor()}
    return own | {name: importlib.metadata.version(name) for name in packages}


def _processor() -> str:
    """The CPU's model: with another one the same library may take another way to add up."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def commit() -> str:
    """The checkout's commit, with `+` where files were changed; empty for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""

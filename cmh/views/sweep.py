"""A sensitivity curve as CSV and as a picture, in the folder of its study."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmh import files, records
from cmh.board.statistics import Estimate, estimate
from cmh.config import Value
from cmh.study import folder
from cmh.study.outcome import Outcome

log = logging.getLogger(__name__)

NAME = "sweep"  # of the files, with their endings
ENDS = ("", "_std", "_ci95_low", "_ci95_high")
MEASURES = ("val_map", "val_map_i2t", "val_map_t2i", "test_map", "test_map_i2t", "test_map_t2i")
COLUMNS = (
    *("method", "dataset", "bits", "key", "value", "n_seeds", "failed"),
    *(f"{name}{end}" for name in MEASURES for end in ENDS),
)


class Point:
    """A value of the curve: what its seeds gave, by measure."""

    def __init__(self, value: Value) -> None:
        self.value, self.failed = value, 0
        self.found: dict[str, list[float]] = {name: [] for name in MEASURES}

    def estimate(self, name: str) -> Estimate | None:
        """Mean, standard deviation and 95 % interval over the seeds; None where there is none."""
        return estimate(self.found[name]) if self.found[name] else None


def read(outcome: Outcome) -> tuple[str, list[Point]]:
    """The hyperparameter, and its points in order of their values (choices: as they were asked for)."""
    changes = outcome.study.notes[folder.POINTS]
    assert isinstance(changes, Mapping)
    key = next(name for name in next(iter(changes.values())) if name != "seed")
    points = {value: Point(value) for value in dict.fromkeys(change[key] for change in changes.values())}
    for row in outcome.rows:
        point = points[changes[row.origin][key]]
        if not row.completed:
            point.failed += 1
            continue
        for name, value in zip(MEASURES[:3], (row.val_map_best, row.val_map_i2t, row.val_map_t2i), strict=True):
            point.found[name] += [] if value is None else [value]
    by_label = {f"{key}={value}": point for value, point in points.items()}
    newest = {(one.label, one.identity.seed): one for one in records.read(outcome.study.folder)[0]}
    for record in newest.values():
        point = by_label[record.label]
        for name in MEASURES[3:]:
            point.found[name].append(record.test[name.removeprefix("test_")])
    found = list(points.values())
    if not any(isinstance(point.value, (bool, str)) for point in found):
        found.sort(key=lambda point: float(point.value))
    return key, found


def write(outcome: Outcome, *, log_axis: bool) -> list[Path]:
    """Write the curve's files; their paths. Without matplotlib there is no picture, and a line says so."""
    key, points = read(outcome)
    study, buffer = outcome.study, io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in points:
        about = [study.space.method, study.dataset.name, study.bits, key, point.value]
        cells: list[object] = [len(point.found["val_map"]), point.failed]
        for name in MEASURES:
            one = point.estimate(name)
            cells += [None] * 4 if one is None else [one.mean, one.std, one.low, one.high]
        writer.writerow(["" if cell is None else cell for cell in [*about, *cells]])
    paths = [study.folder / f"{NAME}.csv"]
    files.write_atomic(paths[0], buffer.getvalue())
    if importlib.util.find_spec("matplotlib") is None:
        log.warning("no picture: it needs matplotlib, of the extra [report]: pip install 'cmh[report]'")
        return paths
    return [*paths, *_draw(outcome, key, points, log_axis)]


def _draw(outcome: Outcome, key: str, points: Sequence[Point], log_axis: bool) -> list[Path]:
    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    from cmh.board.figures import ONE, STYLE

    study, paths = outcome.study, list[Path]()
    named = any(isinstance(point.value, (bool, str)) for point in points)
    places = list(range(len(points))) if named else [float(point.value) for point in points]
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(ONE, 2.6))
        axes = figure.subplots()
        for name, label in zip(MEASURES, ("validation", "image → text", "text → image", "test"), strict=False):
            shown = [(at, one) for at, point in zip(places, points, strict=True) if (one := point.estimate(name))]
            if not shown:
                continue
            halves = [0.0 if one.high is None else one.high - one.mean for _, one in shown]
            means = [one.mean for _, one in shown]
            if name in ("val_map", "test_map"):
                axes.errorbar([at for at, _ in shown], means, halves, label=label)
            else:
                axes.plot([at for at, _ in shown], means, label=label, linewidth=0.8)
        base = study.base[key]
        if named:
            axes.set_xticks(places, [str(point.value) for point in points])
        elif log_axis:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")  # by default they are formulas
            axes.xaxis.set_minor_formatter(NullFormatter())
        if not named and places[0] <= float(base) <= places[-1]:
            axes.axvline(float(base), color="0.6", linestyle=":", linewidth=0.8)
        low, high = axes.get_ylim()  # intervals of few seeds may go beyond what a MAP can be
        axes.set(
            ylim=(max(low, 0.0), min(high, 1.0)),
            xlabel=key,
            ylabel="MAP",
            title=f"{study.space.method}, {study.dataset.name}, {study.bits} bits",
        )
        figure.legend(loc="outside lower center", ncols=2)
        for kind, more in (("pdf", {"CreationDate": None}), ("png", {})):
            path = study.folder / f"{NAME}.{kind}"
            with files.new_file(path) as temporary:
                figure.savefig(temporary, format=kind, metadata=more)
            paths.append(path)
    return paths


def table(outcome: Outcome, paths: Sequence[Path]) -> str:
    """The curve as text."""
    key, points = read(outcome)
    study, tested = outcome.study, any(point.found["test_map"] for point in points)
    lines = [
        "",
        f"{study.space.method} on {study.dataset.name}, {study.bits} bits: {key}, with all else as it is;"
        f" {study.space.epochs} epochs; mean over seeds ± half of its 95 % interval",
        f"{key:>14}  {'seeds':>5}  {'validation MAP':<18}{'i→t':>7}{'t→i':>8}{'   test MAP' * tested}",
    ]
    for point in points:
        value = f"{point.value:.4g}" if isinstance(point.value, float) else str(point.value)
        cells = [point.estimate(name) for name in MEASURES[:4]]
        means = ["-" if one is None else f"{one.mean:.4f}" for one in cells]
        halves = ["" if one is None or one.high is None else f" ± {one.high - one.mean:.4f}" for one in cells]
        line = f"{value:>14}  {len(point.found['val_map']):>5}  {means[0] + halves[0]:<18}{means[1]:>7}{means[2]:>8}"
        line += f"   {means[3]}{halves[3]}" if tested else ""
        lines.append(line + (f"  {point.failed} failed" if point.failed else ""))
    return "\n".join([*lines, "", *(f"wrote {files.short(path)}" for path in paths), ""])

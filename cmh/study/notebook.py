"""A study as a notebook has it: Optuna's own study, to be read, that shows itself and gives tables and figures."""

from __future__ import annotations

import html
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optuna import Study
from optuna.trial import FrozenTrial

from cmh.study import database, figures, folder
from cmh.study.trial_row import TrialRow

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

log = logging.getLogger(__name__)


class Trials(list[FrozenTrial]):
    """Optuna's list of trials, as it always was; called, it gives them as a table."""

    def __call__(self) -> DataFrame:
        """A row for each trial that was started, by number: state, origin, epochs, val_map_best, best_epoch, rung,
        seconds, failure, and each hyperparameter that was searched."""
        figures.need_extra()
        from pandas import DataFrame

        names = ("number", "state", "origin", "epochs", "val_map_best", "best_epoch", "rung", "seconds", "failure")
        rows = [{**{name: getattr(row, name) for name in names}, **row.config} for row in figures.started(self)]
        return DataFrame(rows, columns=None if rows else list(names)).set_index("number")


class OpenedStudy(Study):
    """What `cmh.study.open` gives. All of `optuna.Study` works (writing raises: the storage is opened to be read).

    `trials` is Optuna's list and, called, a table; tables and plots need the extra [report].
    """

    folder: Path

    @property
    def trials(self) -> Trials:
        """Optuna's list of trials; `trials()` is a table of them."""
        return Trials(self.get_trials())

    def curves(self) -> DataFrame:
        """A row for each trial and epoch: val_map as the storage has it, and what else the trial's `curve.csv` says of
        that epoch (both directions, loss terms, seconds). Damaged files are left out, with a warning."""
        figures.need_extra()
        from pandas import DataFrame, concat, read_csv

        tables = []
        for row in filter(lambda row: row.curve, self._rows()):
            known = DataFrame({"trial": row.number, "epoch": list(row.curve), "val_map": list(row.curve.values())})
            path = self.folder / "trials" / str(row.number if row.copied_from is None else row.copied_from)
            try:
                written = read_csv(path / "curve.csv", dtype=float, on_bad_lines="skip").drop(columns="val_map")
                known = known.merge(written.drop_duplicates("epoch", keep="last"), on="epoch", how="left")
            except FileNotFoundError:
                pass
            except (OSError, ValueError, KeyError) as error:  # pandas' own errors of parsing are ValueErrors
                log.warning("%s: cannot be read (%s); of its trial only the MAP is there", path / "curve.csv", error)
            tables.append(known)
        return concat(tables, ignore_index=True) if tables else DataFrame(columns=["trial", "epoch", "val_map"])

    def plot_budget(self) -> Figure:
        """The best validation MAP so far against the epochs trained."""
        figures.need_extra()
        return figures.budget(self._rows())

    def plot_curves(self) -> Figure:
        """Every trial's validation MAP by epoch."""
        figures.need_extra()
        return figures.curves(self._rows())

    def plot_slices(self, *, complete: bool = False) -> Figure | None:
        """Validation MAP against each hyperparameter: of all trials at the first rung, or of `complete` ones at their
        best; None where there is no such trial."""
        figures.need_extra()
        return figures.slices(self.get_trials(deepcopy=False), None if complete else self._rung())

    def plot_importance(self) -> Figure | None:
        """Importance of hyperparameters for the value of all trials at the first rung; None below 20 trials."""
        figures.need_extra()
        return figures.importance(self.get_trials(deepcopy=False), self._rung())

    def _rows(self) -> list[TrialRow]:
        return figures.started(self.get_trials(deepcopy=False))

    def _rung(self) -> int | None:
        return figures.first_rung(folder.read_study(self.folder).identity)

    def _repr_html_(self) -> str:
        """Name, how many trials are in which state, and the best ones, for a notebook; needs nothing beyond Optuna."""
        rows = self._rows()
        states = [row.state for row in rows]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "none was started"
        done = [row for row in rows if row.val_map_best is not None]
        best = sorted(done, key=lambda row: (not row.completed, -(row.val_map_best or 0.0), row.number))[:5]
        names = list(dict.fromkeys(name for row in best for name in row.config))
        head = ["trial", "state", "MAP", "epochs", *names]
        table = _line("th", head)
        for row in best:
            values = [row.config.get(name, "") for name in names]
            table += _line("td", [row.number, row.state, row.val_map_best, row.epochs, *values])
        title = f"{html.escape(self.study_name)}</b>: {len(rows)} trials ({counts}); the best of them"
        return f"<div><p><b>{title}</p><table>{table}</table></div>"


def opened(place: Path) -> OpenedStudy:
    """The study in a folder. Raises ConfigError where that holds none, StudyError where its storage cannot be read."""
    found = database.open_study(*folder.storage_of(place))
    found.__class__ = OpenedStudy  # Optuna makes and reads it; what is added needs its public parts alone
    assert isinstance(found, OpenedStudy)
    found.folder = place
    return found


def _line(kind: str, cells: Sequence[object]) -> str:
    shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in cells)
    return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in shown) + "</tr>"

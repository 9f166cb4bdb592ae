"""Studies: a search space, an Optuna storage that is the only truth, Ray workers, and the confirmed test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmh.study.notebook import OpenedStudy


def open(folder: str | Path) -> OpenedStudy:
    """The study of a folder as an `optuna.Study`, to be read (writing raises), that a notebook shows as a table.

    `.trials()` and `.curves()` are pandas frames, `.plot_budget()`, `.plot_curves()`, `.plot_slices()` and
    `.plot_importance()` the report's figures (extra [report]).

    Raises ConfigError where the folder holds no study, StudyError where its storage cannot be read.
    """
    from cmh.study import notebook  # late: other modules of this package need no Optuna

    return notebook.opened(Path(folder))

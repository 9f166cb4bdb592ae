"""Studies: a search space, an Optuna storage that is the only truth, Ray workers, and the confirmed test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmh.study.database import Study


def open(folder: str | Path) -> Study:
    """The study of a folder as an `optuna.Study`, to be read: trials, curves, importances, plots; writing raises.

    Raises ConfigError where the folder holds no study, StudyError where its storage cannot be read.
    """
    from cmh.study import storage
    from cmh.study.folder import storage_of

    return storage.open_study(*storage_of(Path(folder)))

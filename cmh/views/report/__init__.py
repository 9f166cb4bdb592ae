"""`report.html` of a study: one file that holds all it shows, asks no network for anything, and reads without a script.

`write` makes it of `views.story`: `trials` is the search's part, `retrieval` and `sheets` that of the stored codes.
plotly.js is in the page compressed, and unpacked by the browser.
"""

from __future__ import annotations

import logging
from pathlib import Path

from cmh import files
from cmh.errors import CmhError, StudyError

log = logging.getLogger(__name__)

NAME = "report.html"


def write(place: Path, target: Path | None = None) -> Path:
    """Write the report of the study in a folder, by default to `report.html` in it; where it is.

    What cannot be shown is named in the page. Raises ConfigError where the folder holds nothing of a study, StudyError
    where the extra [report] is not installed or the page cannot be written.
    """
    from cmh.study import figures  # late, as all that needs Optuna: `--help` of the command looks in here
    from cmh.views.report import page
    from cmh.views.story import read_study

    figures.need_extra()
    text = page.html(read_study(place))
    target = target or place / NAME
    try:
        files.write_atomic(target, text)
    except OSError as error:
        cure = "--out FILE writes it elsewhere"
        raise StudyError(f"{target}: the report cannot be written ({error.strerror}); {cure}") from error
    return target


def write_softly(place: Path) -> None:
    """The same after a search, which ends as it would have without: a report that cannot be made is one line."""
    try:
        log.info("report                %s", files.short(write(place)))
    except CmhError as error:
        log.warning("no report: %s", str(error).replace("\n", " "))
    except Exception as error:  # a drawing that fails must not fail a search that has succeeded
        log.warning("no report: %s: %s (`python -m cmh.studies report` tells more)", type(error).__name__, error)

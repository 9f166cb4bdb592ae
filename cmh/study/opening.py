"""The storage of a study, opened for a search."""

from __future__ import annotations

from collections.abc import Mapping

from cmh.study import aside, folder
from cmh.study.controls import keep
from cmh.study.database import readable_errors
from cmh.study.outcome import Scores
from cmh.study.request import StudyRequest
from cmh.study.storage import Store


def opened(study: StudyRequest, controls: Mapping[str, Scores]) -> Store:
    """The storage of a study whose folder is ours; the `controls` are kept there.

    Raises StudyError where it cannot be used.
    """
    with readable_errors(study.url):
        about, begun = folder.read_study(study.folder), any(study.folder.glob("trials/*"))
        store = Store(study.url, about.name, study.space, study.base, study.seed, about.id, begun=begun)
        for key, number in (("asked", study.limit), (aside.FINALISTS, study.finalists)):
            if store.kept().get(key) != number:
                store.study.set_user_attr(key, number)  # for whoever lists or reads the study
        keep(store, controls)
    folder.note_storage(study.folder, study.url)
    folder.note(study.folder, "keep", study.keep)
    if folder.POINTS in study.notes:  # more than there were, maybe
        folder.note(study.folder, folder.POINTS, study.notes[folder.POINTS])
    return store

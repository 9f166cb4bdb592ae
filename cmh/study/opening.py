"""The folder of a study, taken for a search, and its storage, opened."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator, Mapping

from cmh import files, ledger
from cmh.study import address, aside, confirm, folder, preflight
from cmh.study.controls import keep
from cmh.study.database import readable_errors
from cmh.study.outcome import Scores
from cmh.study.request import StudyRequest
from cmh.study.storage import Store

log = logging.getLogger(__name__)


@contextlib.contextmanager
def begun(study: StudyRequest) -> Iterator[None]:
    """Within the block the study's folder is ours, and holds this study: a new one, or the one that was there.

    Raises StudyError where the folder cannot be used, is in use, or holds a study of another request.
    """
    with folder.locked_folder(study.folder):
        own = address.file_of(study.url) == study.folder.resolve() / "study.db"
        number = uuid.uuid4().hex
        about = folder.identity(study.space, study.identity(study.base), study.fixed)
        if folder.POINTS in study.notes:  # it may be given more of them
            del about["start_from"]
        notes = {
            "id": number,
            # In a storage of many studies one that no other has: those of a job array differ in their seed alone.
            "name": study.folder.name if own else f"{study.folder.name}-{number[:8]}",
            **study.places(),
            "versions": confirm.versions(),
            "storage": address.kept(study.url, study.folder),
            **study.notes,
        }
        where = files.short(study.folder)
        if folder.write_or_check(study.folder, about, notes):
            log.info("%s: going on with the study that is there", where)
        else:
            for line in preflight.warnings(study):
                log.warning("%s", line)
        split = study.dataset.name, study.dataset.split_sha256
        if past := ledger.openings(study.folder / ledger.OWN, split):
            log.info(
                "%s: its test split has been opened %d× already, last on %s; a further opening is counted, and its"
                " records say so",
                where,
                len(past),
                past[-1].get("date", "an unknown day")[:10],
            )
        yield


def opened(study: StudyRequest, controls: Mapping[str, Scores]) -> Store:
    """The storage of a study whose folder is ours; the `controls` are kept there.

    Raises StudyError where it cannot be used.
    """
    with readable_errors(study.url):
        about, begun = folder.read_study(study.folder), any(study.folder.glob("trials/*"))
        store = Store(study.url, about.name, study.space, study.base, study.seed, about.id, begun=begun)
        for key, number in (("asked", study.limit), (aside.FINALISTS, study.space.finalists)):
            if store.kept().get(key) != number:
                store.study.set_user_attr(key, number)  # for whoever lists or reads the study
        keep(store, controls)
    folder.note_storage(study.folder, study.url)
    folder.note(study.folder, "keep", study.keep)
    if folder.POINTS in study.notes:  # more than there were, maybe
        folder.note(study.folder, folder.POINTS, study.notes[folder.POINTS])
    return store

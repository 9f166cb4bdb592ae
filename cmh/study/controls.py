"""What a study's numbers are held against: chance, and shallow methods on the same data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cmh import methods, training
from cmh.config import INPUTS
from cmh.study.outcome import Scores
from cmh.study.request import StudyRequest


def of_studies(studies: Iterable[StudyRequest]) -> list[Mapping[str, Scores]]:
    """The controls of each study, by name; they are trained once for all studies that share them.

    This also compiles the metric for all that follows.
    """
    known: dict[tuple[int, bool], Mapping[str, Scores]] = {}
    found = []
    for study in studies:
        depends_on = study.bits, methods.get(study.space.method).KIND == "unsupervised"
        if depends_on not in known:
            known[depends_on] = _of_study(study, sees_labels=not depends_on[1])
        found.append(known[depends_on])
    return found


def _of_study(study: StudyRequest, *, sees_labels: bool) -> dict[str, Scores]:
    """The control of methods that see no labels is CCA-ITQ; ridge stands above it as what labels are worth."""
    data = study.dataset.search()
    floor = training.chance(data)
    values: dict[str, Scores] = {"chance": (floor, floor, floor)}
    for name in ("ridge",) if sees_labels else ("ridge", "cca_itq"):
        module = methods.get(name)
        settings = {key: value for key, value in study.run.items() if key not in INPUTS or key == "scale"}
        best = training.fit(module, *training.parse(module, settings), data).best
        values[f"{name} (control)"] = best.val_map_i2t, best.val_map_t2i, best.val_map
    return values

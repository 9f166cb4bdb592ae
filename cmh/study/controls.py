"""What a study's numbers are held against: chance, and shallow methods on the same data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cmh import methods
from cmh.config import INPUTS

if TYPE_CHECKING:
    from cmh.study.outcome import Scores
    from cmh.study.request import StudyRequest
    from cmh.study.storage import Store

KEPT = "controls"  # the storage's name for them


def of_studies(studies: Iterable[StudyRequest]) -> list[Mapping[str, Scores]]:
    """The controls of each study, by name; they are trained once for all studies that share them.

    This also compiles the metric for all that follows.
    """
    known: dict[tuple[str, int, bool], Mapping[str, Scores]] = {}
    found = []
    for study in studies:
        unlabelled = methods.get(study.space.method).KIND == "unsupervised"
        depends_on = study.dataset.arrays_sha256, study.bits, unlabelled
        if depends_on not in known:
            known[depends_on] = _of_study(study, sees_labels=not unlabelled)
        found.append(known[depends_on])
    return found


def keep(store: Store, values: Mapping[str, Scores]) -> None:
    """Keep a study's controls with it, for whoever looks at it later."""
    store.study.set_user_attr(KEPT, {name: list(scores) for name, scores in values.items()})


def kept(attributes: Mapping[str, object]) -> dict[str, Scores]:
    """The controls among what a storage keeps of a study; none where an older cmh, or a damaged one, has none."""
    found = attributes.get(KEPT)
    rows = found.items() if isinstance(found, dict) else ()
    return {str(name): (scores[0], scores[1], scores[2]) for name, scores in rows if len(scores) == 3}


def _of_study(study: StudyRequest, *, sees_labels: bool) -> dict[str, Scores]:
    """The control of methods that see no labels is CCA-ITQ; ridge stands above it as what labels are worth."""
    from cmh import training  # late, as in `aside`

    data = study.dataset.search()
    floor = training.chance(data)
    values: dict[str, Scores] = {"chance": (floor, floor, floor)}
    for name in ("ridge",) if sees_labels else ("ridge", "cca_itq"):
        module = methods.get(name)
        settings = {key: value for key, value in study.run.items() if key not in INPUTS or key == "scale"}
        # On the CPU: this process holds no GPU while its workers need it, and the numbers are those of every machine.
        best = training.fit(module, *training.parse(module, {**settings, "device": "cpu"}), data).best
        values[f"{name} (control)"] = best.val_map_i2t, best.val_map_t2i, best.val_map
    return values

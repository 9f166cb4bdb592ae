"""What a search starts from, and how many trials it has, where that is not its space's file alone to say."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from cmh import files
from cmh.config import Value
from cmh.errors import ConfigError
from cmh.study import finals, folder
from cmh.study.space import Space

log = logging.getLogger(__name__)

DEFAULTS = "defaults"  # of --warm-start, in place of a study: the library's default, as a point to start from


def with_options(
    space: Space,
    default: Mapping[str, Value],
    problems: list[str],
    trials: int | None,
    finalists: int | None,
    warm_start: Sequence[str],
) -> Space:
    """The space with what the command line says in place of its file."""
    space = dataclasses.replace(
        space,
        trials=trials or space.trials,
        finalists=space.finalists if finalists is None else finalists,
    )
    least = finals.runs(space.finalists) + max(space.finalists, 1)
    if space.trials < least:
        problems.append(
            f"{space.method}: {space.finalists} finalists take {finals.runs(space.finalists)} of the {space.trials}"
            f" trials and need {space.finalists} to be chosen from: give it --trials {least} or more, or fewer"
            " --finalists"
        )
    if DEFAULTS in warm_start and not space.starts_from("default"):
        try:
            return space.with_default(default)
        except ValueError as error:
            problems.append(f"--warm-start {DEFAULTS}: {error}; widen the range in the space of {space.method}")
    return space


def as_begun(space: Space, place: Path, default: Mapping[str, Value]) -> Space:
    """A study that began with the library's default among its start points, as all did before, goes on with it."""
    if not (place / "study.yml").is_file() or not folder.read_study(place).starts_from_default:
        return space
    with contextlib.suppress(ValueError):  # other ranges: that is another request, and is refused as one
        if not space.starts_from("default"):
            space = space.with_default(default)
            log.info(
                "%s: goes on as it began, with the library's default among its start points (a prior; a study elsewhere"
                " would search from scratch)",
                files.short(place),
            )
    return space


def warm_study(asked: Sequence[str]) -> Path | None:
    """The study that `--warm-start` names; None where it names none. Raises ConfigError where it names several."""
    named = [text for text in asked if text != DEFAULTS]
    if len(named) > 1:
        raise ConfigError(f"--warm-start {' '.join(named)}: takes one study, and the word {DEFAULTS} beside it")
    return Path(named[0]) if named else None


def warm(space: Space, place: Path, source: Path, base: Mapping[str, Value]) -> tuple[Space, dict[str, object]]:
    """The space with the best points of another study among its starts, and what `study.yml` is to say of them."""
    points = folder.warm_start(place, source, space, base)
    named = tuple((f"warm {number}", tuple(point.items())) for number, point in enumerate(points, start=1))
    notes: dict[str, object] = {"warm_start": {"study": files.portable(source, place), "points": points}}
    return dataclasses.replace(space, start_from=space.start_from + named), notes

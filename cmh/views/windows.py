"""Runs as windows of a visdom server (0.2.4), each in an environment of its own, and the study in one more.

A window is always sent whole, with all its lines by name: so no epoch can stand in it twice, whatever was resumed, and
a server that was started anew has all that this process knows.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cmh.views.event_files import TAGS
from cmh.views.runs import Beside, Confirmation, Curve
from cmh.views.story import Trial

if TYPE_CHECKING:
    from visdom import Visdom

MAPS = {"val_map_i2t": "i→t", "val_map_t2i": "t→i", "val_map": "mean"}
GROUPS = {"image_": "image loss", "text_": "text loss", "lr_": "learning rate", "": "loss"}  # by how a term begins

Lines = Mapping[str, Mapping[int, float]]  # by name: y by x


class Windows:
    """A sink for the runs of a study, or of a command, called `name`. All methods raise OSError where the server does
    not answer, or with anything else than a window."""

    def __init__(self, host: str, port: int, name: str) -> None:
        self.study = f"cmh_{_plain(name)}"
        self._server = host, port
        self._client: Visdom | None = None
        self.environments: dict[str, None] = {}
        self._trials: dict[int, Trial] = {}
        self._sent: dict[str, int] = {}
        self._changed = False

    def trial(self, trial: Trial) -> None:
        """A trial as far as it has come."""
        self._changed |= self._trials.get(trial.number) != trial
        self._trials[trial.number] = trial
        self._run(f"trial-{trial.number}", trial.curve)

    def confirmation(self, run: Confirmation) -> None:
        """A confirmation as far as it has come, or another run that is no trial."""
        self._run(run.name, run.curve)

    def beside(self, run: Beside) -> None:
        """A control, or one of the best trials with a further seed, as far as it has come."""
        self._run(run.name, run.curve)

    def flush(self, *, last: bool) -> None:
        """All that is new was given: draw the study; at the end the server is to keep it."""
        if self._changed:
            self._changed = False
            best, so_far = -math.inf, dict[int, float]()
            for number, trial in sorted(self._trials.items()):
                best = max([best, *(row["val_map"] for row in trial.curve.values())])
                so_far[number] = best
            ends = {number: trial.best_val_map or math.nan for number, trial in self._trials.items()}
            self._draw(self.study, "MAP by trial", "trial", {"best so far": so_far, "trial": ends})
            curves = {f"trial {number}": _column(one.curve, "val_map") for number, one in self._trials.items()}
            self._draw(
                self.study, "MAP of all trials", "epoch", {name: curve for name, curve in curves.items() if curve}
            )
        if last and self.environments:
            self._connected().save(list(self.environments))

    def _run(self, name: str, curve: Curve) -> None:
        if not curve or self._sent.get(name) == len(curve):
            return
        self._sent[name] = len(curve)
        groups: dict[str, dict[str, Mapping[int, float]]] = {}
        for key in dict.fromkeys(key for row in curve.values() for key in row):
            if key in TAGS or key == "val_map_best":
                continue
            begin = next(begin for begin in GROUPS if key.startswith(begin))
            groups.setdefault(GROUPS[begin], {})[key.removeprefix(begin)] = _column(curve, key)
        groups["MAP"] = {shown: found for key, shown in MAPS.items() if (found := _column(curve, key))}
        for title, lines in groups.items():
            self._draw(f"{self.study}_{_plain(name)}", title, "epoch", lines)

    def _draw(self, environment: str, title: str, axis: str, lines: Lines) -> None:
        steps = sorted({step for line in lines.values() for step in line})
        values = np.array([[line.get(step, math.nan) for line in lines.values()] for step in steps], float)
        if not values.size:
            return
        values[~np.isfinite(values)] = math.nan  # its page cannot read any other number
        options = {"title": title, "xlabel": axis, "legend": list(lines), "markers": len(steps) < 3, "showlegend": True}
        answer = self._connected().line(
            X=np.tile(np.array(steps, float)[:, None], (1, len(lines))),
            Y=values,
            win=title,
            env=environment,
            opts=options,
        )
        if not answer:  # False without a connection, an empty text for its own errors
            raise ConnectionError("the server refused a window")
        self.environments[environment] = None

    def _connected(self) -> Visdom:
        if self._client is None:
            from visdom import Visdom

            logging.getLogger("visdom").setLevel(logging.CRITICAL)  # it warns of what is meant so
            host, port = self._server
            self._client = Visdom(
                f"http://{host}", port=port, env=self.study, use_incoming_socket=False, raise_exceptions=True
            )
        return self._client


def _column(curve: Curve, key: str) -> dict[int, float]:
    return {epoch: row[key] for epoch, row in curve.items() if key in row}


def _plain(name: str) -> str:
    """A name of an environment: visdom makes one of a/b and a_b, and its page shows signs as they are."""
    return re.sub(r"[^\w.-]", "-", name)

"""The search's part of a report: closing table, trials, hyperparameters, optimism of the winner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from cmh import identity, records
from cmh.config import Value
from cmh.errors import CmhError
from cmh.records import Record
from cmh.study import aside
from cmh.study.figures import plain
from cmh.study.trial_row import TrialRow
from cmh.views import closing
from cmh.views.report.parts import Table
from cmh.views.story import Story, Trial

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WORDS = {
    "validation": "what the search saw: MAP of the validation queries, the mean of image → text and text → image, ties"
    " as expected over all their orders, over the whole validation database",
    "test": "the winner, trained again with fresh seeds, on queries that no search and no training had seen; ± is half"
    " of the 95 % interval over seeds and queries",
    "chance": "items in random order",
    "ridge (control)": "a linear map with labels, without any deep network: a deep method that does not beat it has not"
    " earned its network",
    "cca_itq (control)": "a linear map without labels, the control of methods that see none",
    "paper setting": "the published configuration, in the same number of epochs",
    "library default": "the library's own configuration, trained beside the search as a control that the search does"
    " not know (an older study, or one with --warm-start defaults, starts from it); it was set by hand on the"
    " validation split of the built-in clip art",
    "tuned": "the trial with the highest validation MAP of those that were trained to the end; where the best ones got"
    " further seeds, the one that these name",
}


def winners_records(story: Story) -> list[Record]:
    """The latest records of one configuration, one a seed: those of the winner as it stands."""
    plain_ones = [one.record for one in story.confirmations if one.record is not None and not one.record.label]
    latest = max(plain_ones, key=records.moment, default=None)
    if latest is None:
        return []
    by_seed = {
        record.identity.seed: record
        for record in sorted(plain_ones, key=records.moment)
        if record.identity.digest(*identity.ROW) == latest.identity.digest(*identity.ROW)
    }
    return [by_seed[seed] for seed in sorted(by_seed)]


def closing_table(story: Story, found: Sequence[Record], problems: list[str]) -> Table:
    """The table that closes a search, as the terminal shows it."""
    head = ["", *(f"{split} {way}" for split in ("validation", "test") for way in ("i→t", "t→i", "mean"))]
    rows = [[name, *map(number, scores), "", "", ""] for name, scores in story.controls.items()]
    if (best := story.best) is not None:
        test = [f"{mean(record.test[key] for record in found):.4f}" for key in ("map_i2t", "map_t2i", "map") if found]
        half = None
        if found:
            try:
                half = closing.half_interval(story.folder, list(found))
            except CmhError as error:
                problems += error.problems
        if half is not None:
            test[-1] += f" ± {half:.4f}"
        scores = (best.best_i2t, best.best_t2i, best.best_val_map)
        rows.append([f"tuned (trial {best.number})", *map(number, scores), *(test or [""] * 3)])
    opened = f"{len(found)} seeds; test split opened {found[-1].test_opened}× by this study" if found else ""
    return Table(head, rows, opened)


def bars(story: Story, found: Sequence[Record]) -> Figure | None:
    """Controls, paper setting, library default and the winner side by side, both directions each."""
    from plotly import graph_objects as go

    scores = {name: values[:2] for name, values in story.controls.items()}
    if (best := story.best) is not None:
        scores[f"tuned (trial {best.number})"] = (best.best_i2t, best.best_t2i)
    if found:
        i2t, t2i = (mean(record.test[key] for record in found) for key in ("map_i2t", "map_t2i"))
        scores["tuned, test"] = i2t, t2i
    if not scores:
        return None
    figure = go.Figure()
    for way, (name, colour) in enumerate((("image → text", "#0072B2"), ("text → image", "#D55E00"))):
        values = [pair[way] for pair in scores.values()]
        figure.add_bar(
            name=name, x=list(scores), y=values, marker={"color": colour}, hovertemplate="%{x}: %{y:.4f}<extra></extra>"
        )
    figure.update_layout(barmode="group")
    return plain(figure, "", "MAP")


def hyperparameters(story: Story, found: Sequence[Record]) -> Table:
    """What paper, default and winner differ in, beside the range that was searched; then what they share."""
    columns: dict[str, Mapping[str, Value]] = {}
    for trial in story.trials:
        if (name := closing.KNOWN_GOOD.get(trial.origin)) and name not in columns:
            columns[name] = trial.settings
    for one in story.besides:
        if one.name == f"control-{aside.CONTROL}" and one.settings and one.state != "running":
            columns["library default"] = one.settings
    if story.best is not None:
        columns[f"tuned (trial {story.best.number})"] = story.best.settings
    elif found:
        columns["tuned"] = found[0].identity.config
    searched = searched_in(story)
    known = dict.fromkeys(name for values in columns.values() for name in values)
    names = sorted(known, key=lambda name: name not in searched)
    rows = [
        [name, str(searched.get(name, "not searched")), *(value(values.get(name)) for values in columns.values())]
        for name in names
    ]
    return Table(["hyperparameter", "searched in", *columns], rows)


def optimism(story: Story, found: Sequence[Record]) -> Table | None:
    """The winner where it was chosen, with fresh seeds, and on the test split."""
    if not found or story.best is None:
        return None
    best = story.best.best_val_map
    rows = [["at selection, the search's seed", number(best), ""]]
    named = [one for one in aside.kept(story.kept).values() if one.trial == story.best.number]
    rows += [[f"seed {one.seed}, which named it", number(one.val_map), ""] for one in named]
    rows += [
        [f"seed {record.identity.seed}", number(record.validation["map"]), number(record.test["map"])]
        for record in found
    ]
    means = [mean(getattr(record, part)["map"] for record in found) for part in ("validation", "test")]
    rows.append(["mean of fresh seeds", *map(number, means)])
    if best is not None:
        rows.append(["fresh seeds less selection", *(f"{value - best:+.4f}" for value in means)])
    return Table(["winner", "validation MAP", "test MAP"], rows)


def every_trial(story: Story) -> Table:
    """One row a trial."""
    names = list(searched_in(story)) or sorted({name for trial in story.trials for name in trial.settings})
    head = ["trial", "state", "origin", "MAP", "best epoch", "epochs", "seconds", *names]
    rows = []
    for trial in story.trials:
        state = f"pruned at {trial.rung}" if trial.state == "pruned" else trial.state
        state += f": {trial.error}" if trial.error else ""
        cells = [str(trial.number), state, trial.origin, number(trial.best_val_map), value(trial.best_epoch)]
        seconds = "" if trial.seconds is None else f"{trial.seconds:.0f}"
        rows.append(
            [*cells, str(max(trial.curve, default=0)), seconds, *(value(trial.settings.get(name)) for name in names)]
        )
    return Table(head, rows)


def as_rows(story: Story) -> list[TrialRow]:
    """The trials as the figures take them, with the searched hyperparameters alone."""
    searched = searched_in(story)
    return [_as_row(trial, searched) for trial in story.trials]


def _as_row(trial: Trial, searched: Mapping[str, object]) -> TrialRow:
    return TrialRow(
        number=trial.number,
        state=trial.state,
        origin=trial.origin,
        epochs=max(trial.curve, default=0),
        copied_from=trial.copied_from,
        val_map_best=trial.best_val_map,
        best_epoch=trial.best_epoch,
        val_map_i2t=trial.best_i2t,
        val_map_t2i=trial.best_t2i,
        rung=trial.rung,
        seconds=trial.seconds,
        passes=trial.passes,
        device_seconds=None,
        device=trial.device,
        failure=trial.failure,
        error=trial.error,
        config={name: setting for name, setting in trial.settings.items() if not searched or name in searched},
        curve={epoch: row["val_map"] for epoch, row in trial.curve.items()},
    )


def searched_in(story: Story) -> Mapping[str, object]:
    """The searched hyperparameters with their ranges in words."""
    params = story.identity.get("params")
    return {str(name): text for name, text in params.items()} if isinstance(params, dict) else {}


def number(found: float | None) -> str:
    """A MAP, or nothing."""
    return "" if found is None else "NaN" if math.isnan(found) else f"{found:.4f}"


def value(found: object) -> str:
    """A hyperparameter's value, short; nothing where there is none."""
    return "" if found is None else f"{found:.4g}" if isinstance(found, float) else str(found)

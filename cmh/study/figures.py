"""Figures of a study, most of them Optuna's own plots; the report and a notebook show the same ones.

Most of Optuna's plots show complete trials alone, which early stopping leaves few of, and its importance is that of the
best tenth of these: of up to ten complete trials, of the single best one. So slices and importance are drawn of the
value that every trial had at the first rung, which all of them reached, and each figure says which trials it shows.
"""

from __future__ import annotations

import html
import importlib.util
import math
import re
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from cmh.errors import StudyError
from cmh.study import weights
from cmh.study.samplers import OUTSIDE
from cmh.study.trial_row import TrialRow, from_stored

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Trials = Sequence[FrozenTrial]  # as Optuna has them
BaseDistribution = optuna.distributions.BaseDistribution
CategoricalDistribution = optuna.distributions.CategoricalDistribution
FloatDistribution = optuna.distributions.FloatDistribution
IntDistribution = optuna.distributions.IntDistribution

EXTRA = ("plotly", "pandas", "jinja2")  # what the extra [report] brings
MAP = "validation MAP"
FEWEST = 20  # trials below which no importance is shown
# PED-ANOVA compares the best share of trials with all. Optuna's own .1 are two of twenty: of 60 made-up studies of 20
# trials, whose value hung on one of four parameters, it put that one first in 33, .3 did so in 55.
BEST_SHARE = 0.3
COLOURS = {  # after Okabe and Ito: told apart by all eyes, on light and dark
    **{"complete": "#0072B2", "best": "#D55E00", "pruned": "#999999", "failed": "#CC79A7"},
    **{"diverged": "#CC79A7", "interrupted": "#56B4E9"},
}


def need_extra() -> None:
    """Raises StudyError that names the extra where one of its packages is not installed."""
    if lacking := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise StudyError(f"the extra [report] is not installed ({', '.join(lacking)}): pip install 'cmh[report]'")


def curves(rows: Sequence[TrialRow]) -> Figure:
    """Validation MAP of every trial by epoch; pruned ones grey, failed ones marked, the best one thick."""
    from optuna.visualization import plot_intermediate_values

    best = weights.winner(rows)
    shown = sorted((row for row in rows if row.curve), key=lambda row: row is best)  # drawn last, above the others
    made = [optuna.trial.create_trial(state=TrialState.PRUNED, intermediate_values={**row.curve}) for row in shown]
    figure = plain(plot_intermediate_values(_in_memory(made)), "epoch", MAP)
    for row, trace in zip(shown, figure.data, strict=True):
        what = "best" if row is best else row.state
        ended_badly = row.state in ("failed", "diverged", "interrupted")
        trace.update(
            name=f"trial {row.number}",
            mode="lines+markers" if ended_badly or len(row.curve) == 1 else "lines",
            line={"color": COLOURS[what], "width": 3 if row is best else 1, "dash": "dot" if ended_badly else "solid"},
            marker={"symbol": ["circle"] * (len(row.curve) - 1) + ["x" if ended_badly else "circle"], "size": 7}
            | {"maxdisplayed": 0},
            opacity=0.6 if what == "pruned" else 1,
            hovertemplate=f"%{{y:.4f}} at epoch %{{x}}<br>{_about(row)}<extra></extra>",
            showlegend=False,
        )
    return figure


def budget(rows: Sequence[TrialRow]) -> Figure:
    """The best validation MAP so far against the epochs that were trained for it, and each trial where it ended; trials
    that ran at once stand one after the other, by number."""
    from plotly import graph_objects as go

    spent, best, at, line = 0, -math.inf, list[int](), list[float]()
    points: dict[str, list[tuple[int, float, str]]] = {}
    for row in rows:
        spent += row.spent
        if row.val_map_best is not None and math.isfinite(row.val_map_best):
            best = max(best, row.val_map_best)
            points.setdefault(row.state, []).append((spent, row.val_map_best, _about(row)))
        if math.isfinite(best):
            at.append(spent)
            line.append(best)
    figure = go.Figure(
        go.Scatter(
            x=at,
            y=line,
            mode="lines",
            name="best so far",
            line={"shape": "hv", "color": COLOURS["best"], "width": 3},
            hovertemplate="best so far %{y:.4f} after %{x} epochs<extra></extra>",
        )
    )
    for state, some in points.items():
        x, y, about = zip(*some, strict=True)
        marker = {"color": COLOURS[state], "symbol": "x" if state in ("failed", "diverged") else "circle", "size": 8}
        hover = "%{y:.4f} after %{x} epochs<br>%{text}<extra></extra>"
        figure.add_scatter(x=x, y=y, text=about, mode="markers", name=state, marker=marker, hovertemplate=hover)
    return plain(figure, "epochs trained, all trials together", MAP)


def slices(trials: Trials, rung: int | None = None) -> Figure | None:
    """Optuna's slice plot: the validation MAP of all trials at the first `rung`; of complete trials at their best epoch
    where no rung is given. None where there is no such trial."""
    from optuna.visualization import plot_slice

    made = _with_values(trials, valued(trials, rung))
    if not any(trial.params for trial in made.get_trials(deepcopy=False)):
        return None
    figure = plain(plot_slice(made), None, None)
    figure.for_each_xaxis(lambda axis: axis.update(nticks=3))  # more would not fit below a column
    figure.update_layout(coloraxis_colorbar_title="trial", yaxis_title_text=MAP)  # of one column there are no subplots
    return figure


def importance(trials: Trials, rung: int | None) -> Figure | None:
    """Optuna's bars of `importances`; None where there are none."""
    from optuna.visualization import plot_param_importances

    if (made := _weighed(trials, rung)) is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ExperimentalWarning, and what a parameter of one value makes
        figure = plot_param_importances(made, evaluator=_evaluator())
    return plain(figure, f"importance ({n_valued(trials, rung)} trials)", "")


def importances(trials: Trials, rung: int | None) -> dict[str, float]:
    """How much each hyperparameter decides whether a trial is among the best `BEST_SHARE` of all, by their value at the
    first `rung` (complete trials by their best where there are no rungs), as shares of 1, the largest first; nothing
    below `FEWEST` trials or where all values are equal."""
    if (made := _weighed(trials, rung)) is None:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(optuna.importance.get_param_importances(made, evaluator=_evaluator()))


def _evaluator() -> optuna.importance.PedAnovaImportanceEvaluator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)


def _weighed(trials: Trials, rung: int | None) -> optuna.Study | None:
    """The trials that are compared, with the hyperparameters that can be weighed; None where there is nothing to."""
    compared = valued(trials, rung)
    if len(compared) < FEWEST or len({value for _, value in compared}) < 2:
        return None
    # What most trials are without, or all have alike, would be weighed by a few of them, or by nothing.
    names = {name for row, _ in compared for name in row.config}
    having = {name: [row.config[name] for row, _ in compared if name in row.config] for name in names}
    weighed = {name for name in names if len(having[name]) >= FEWEST and len(set(having[name])) > 1}
    made = _with_values(trials, compared, weighed)
    return made if any(trial.params for trial in made.get_trials(deepcopy=False)) else None


def n_valued(trials: Trials, rung: int | None) -> int:
    """How many trials `slices` and `importance` of that rung show."""
    return len(valued(trials, rung))


def first_rung(identity: Mapping[str, object]) -> int | None:
    """The epoch at which trials of a study of this identity (`study.yml`) are first compared; None: they never are."""
    found = re.match(r"asha, (\d+),", str(identity.get("schedule", "")))
    return int(found[1]) if found else None


def started(trials: Trials) -> list[TrialRow]:
    """The rows of the trials that were started; their `config` holds what was searched alone."""
    return [
        from_stored(trial.number, trial.state.name, trial.intermediate_values, trial.user_attrs, dict(trial.params))
        for trial in trials
        if trial.state != TrialState.WAITING
    ]


def valued(trials: Trials, rung: int | None) -> list[tuple[TrialRow, float]]:
    """Trials with the value by which they are compared; left out are copies of others, those trained anew as others,
    and start points outside of the ranges."""
    found = []
    for row in started([trial for trial in trials if OUTSIDE not in trial.user_attrs]):
        until: float = math.inf
        reached = row.completed
        if rung is not None:  # where not every epoch is validated, the first one from the rung on decides
            until = min((epoch for epoch in row.curve if epoch >= rung), default=0)
            reached = until > 0
        values = [value for epoch, value in row.curve.items() if epoch <= until and math.isfinite(value)]
        if reached and values and row.copied_from is None and row.failure != "moved":
            found.append((row, max(values)))
    return found


def _with_values(
    trials: Trials, compared: Sequence[tuple[TrialRow, float]], names: Container[str] | None = None
) -> optuna.Study:
    """A study of complete trials with these values, under their numbers: a failed one stands for each that has none.
    With `names`, of these hyperparameters alone."""
    values = {row.number: value for row, value in compared}
    made = [optuna.trial.create_trial(state=TrialState.FAIL) for _ in trials]
    for trial in trials:
        if trial.number in values:
            params = {name: param for name, param in trial.params.items() if names is None or name in names}
            ranges = {name: trial.distributions[name] for name in params}
            made[trial.number] = optuna.trial.create_trial(
                value=values[trial.number], params=params, distributions=ranges
            )
    return _in_memory(made)


def _in_memory(trials: Trials) -> optuna.Study:
    """A study of these trials, to be drawn."""
    loud = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # that a study was made is no news
    made = optuna.create_study(direction="maximize")
    optuna.logging.set_verbosity(loud)
    made.add_trials(trials)
    return made


def _about(row: TrialRow) -> str:
    """Number, state and configuration of a trial, for the box beside the pointer."""
    state = f"pruned at {row.rung}" if row.state == "pruned" else f"failed: {row.error}" if row.failure else row.state
    short = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in row.config.items()}
    settings = [f"{name} = {value}" for name, value in short.items()]
    origin = [] if row.origin == "search" else [row.origin]
    return "<br>".join(html.escape(line[:80]) for line in (f"trial {row.number}, {state}", *origin, *settings))


def plain(figure: Figure, x: str | None, y: str | None) -> Figure:
    """The figure without title and theme, so that a page can colour it; axes named where names are given."""
    figure.update_layout(title=None, template=None, width=None, margin={"l": 60, "r": 20, "t": 20, "b": 50})
    if x is not None:
        figure.update_xaxes(title_text=x)
    if y is not None:
        figure.update_yaxes(title_text=y)
    return figure

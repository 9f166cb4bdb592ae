"""The page itself: what stands where, from the story of a study to HTML."""

from __future__ import annotations

import base64
import functools
import gzip
from collections.abc import Sequence
from pathlib import Path

import jinja2

from cmh import __version__, files, scores, style
from cmh.codes import Codes
from cmh.errors import collected
from cmh.protocols import Direction
from cmh.records import Record
from cmh.study import figures
from cmh.views import verdict, worth
from cmh.views.report import retrieval, sheets, trials
from cmh.views.report.parts import Chart, Table, chart
from cmh.views.story import Story
from cmh.views.worth import Worth

FOLDER = Path(__file__).parent

Ranked = tuple[Codes, tuple[Direction, Direction]]  # codes of a run, and both directions of search in them


def html(story: Story) -> str:
    """The report of a study."""
    problems = list(story.problems)
    found = trials.winners_records(story)
    if found and story.best is not None and found[-1].identity.config != dict(story.best.settings):
        problems.append("the confirmed runs are of an earlier winner: the search has found a better trial since")
    codes = _codes(story, found, problems)
    closing = trials.closing_table(story, found, problems)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    known = worth.read(story)
    search_charts, about_importance = _search(known)
    test_charts, tables = _retrieval(codes)
    return environment.get_template("page.html").render(
        story=story,
        closing=closing,
        words={name: text for name, text in trials.WORDS.items() if _occurs(name, closing)},
        bars=chart(
            "bars",
            "Validation and test MAP",
            trials.bars(story, found),
            "Validation MAP side by side; the last pair is the test's.",
        ),
        search=search_charts,
        about_importance=about_importance,
        findings=verdict.findings(known),
        worth=[table for table in (worth.slices_table(known), worth.expected_table(known)) if table is not None],
        limits=getattr(worth.importance_table(known), "caption", ""),
        silent=worth.silent(known),
        hyperparameters=trials.hyperparameters(story, found),
        optimism=trials.optimism(story, found),
        retrieval=test_charts,
        tables=tables,
        n_seeds=len(codes),
        sheets=_sheets(story, found, codes, problems),
        every=trials.every_trial(story),
        facts=_facts(story, found),
        problems=problems,
        reproduce=f"python -m cmh.reproduce {files.quoted(story.folder)}",
        style=style.sheet(FOLDER / "page.css"),
        script=(FOLDER / "page.js").read_text(encoding="utf-8"),
        plotly=_plotly(),
        version=__version__,
    )


@functools.cache
def _plotly() -> str:
    """plotly.js as base64 of gzip, which the page unpacks."""
    from plotly.offline import get_plotlyjs  # late: the module can be imported without the extra

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _occurs(word: str, table: Table) -> bool:
    return word in " ".join([*table.head, *(row[0] for row in table.rows)])


def _search(known: Worth) -> tuple[list[Chart], str]:
    """Charts of the trials, and what is said about importance."""
    rows, stored, rung = known.rows, known.story.stored, known.rung
    states = [row.state for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    made = [
        chart(
            "budget",
            "Best so far against budget",
            figures.budget(rows) if rows else None,
            f"Every trial where it ended ({counts}). Trials that ran at once stand one after the other, by number.",
        ),
        chart(
            "curves",
            "Every trial's curve",
            figures.curves(rows) if any(row.curve for row in rows) else None,
            f"Validation MAP by epoch ({sum(bool(row.curve) for row in rows)} of {len(rows)} trials"
            " reported any): the best one thick, complete ones blue, pruned ones grey; failed, diverged and interrupted"
            " ones dotted, ending in a cross. Point at one for its configuration.",
            440,
        ),
    ]
    compared, complete = len(known.compared), figures.n_valued(stored, None)
    at = "at their best epoch" if rung is None else f"at the first rung, epoch {rung}"
    which = f"{compared} of {len(rows)} trials, by their validation MAP {at}"
    if rung is not None:
        made.append(
            chart(
                "slices", "Slices at the first rung", figures.slices(stored, rung), f"Optuna's slice plot of {which}."
            )
        )
    alone = "those trained to the end alone" if rung is not None else "pruned and failed ones are not here"
    caption = f"Optuna's slice plot of {complete} of {len(rows)} trials, by their best validation MAP; {alone}."
    made.append(chart("slices-complete", "Slices of complete trials", figures.slices(stored), caption))
    weights = chart(
        "importance",
        "Importance of hyperparameters",
        figures.importance(stored, rung),
        f"How much each hyperparameter decides whether a trial is among the best {figures.BEST_SHARE:.0%} (PED-ANOVA):"
        f" {which}. Fewer than {figures.FEWEST} trials would name one by chance.",
        300,
    )
    made.append(weights)
    about = "" if weights is not None else f"No importance is shown: it needs {figures.FEWEST} trials that differ, and"
    about += f" {compared} can be compared." if about else ""
    return [one for one in made if one is not None], about


def _codes(story: Story, found: Sequence[Record], problems: list[str]) -> list[Ranked]:
    """The stored codes of the confirmed runs, as far as they are there, ranked once for all that is shown of them."""
    kept = [record for record in found if record.codes]
    if len(kept) < len(found):
        problems.append(f"the codes of {len(found) - len(kept)} of {len(found)} confirmed runs were not kept")
    read = [collected(functools.partial(scores.ranked_of, story.folder, record), problems) for record in kept]
    return [one for one in read if one is not None]


def _retrieval(found: Sequence[Ranked]) -> tuple[list[Chart], list[Table]]:
    if not found:
        return [], []
    codes, sides = [one for one, _ in found], [both for _, both in found]
    made = [
        chart(
            "recall",
            "Precision and recall",
            retrieval.recall_figure(sides),
            "By rank, ties as expected; means over queries and seeds.",
        ),
        chart("cuts", "Precision at N", retrieval.cut_figure(sides), "Among the first N items, ties as expected."),
        chart(
            "radius",
            "Precision within a Hamming radius",
            retrieval.radius_figure(sides),
            "A query that finds nothing counts 0.",
        ),
        chart(
            "distances",
            "Hamming distances",
            retrieval.distance_figure(sides),
            "How far relevant items and others are from their queries. The less the two overlap, the better.",
        ),
    ]
    return [one for one in made if one is not None], [retrieval.numbers(sides), retrieval.use_of_bits(codes)]


def _sheets(
    story: Story, found: Sequence[Record], codes: Sequence[Ranked], problems: list[str]
) -> tuple[int, Sequence[sheets.Sheet]]:
    """The seed whose codes are shown, and the sheets."""
    kept = [record for record in found if record.codes]
    if not codes or len(kept) != len(codes):
        return 0, []
    looked = collected(lambda: sheets.look(story.folder, kept[0], codes[0][0]), problems)
    made = collected(lambda: sheets.sheets(looked, *codes[0]), problems) if looked is not None else None
    return kept[0].identity.seed, made or []


def _facts(story: Story, found: Sequence[Record]) -> list[tuple[str, str]]:
    """Environment and identity."""
    facts = [("study", story.name), ("method", story.method), ("dataset", story.dataset), ("bits", str(story.bits))]
    left = ("method", "dataset", "bits", "params", "config")
    facts += [(key, _shown(value)) for key, value in story.identity.items() if key not in left]
    versions = story.document.get("versions")
    facts += [
        (f"version of {key}", str(value)) for key, value in (versions if isinstance(versions, dict) else {}).items()
    ]
    facts.append(("seconds of the search", f"{story.seconds:.0f}"))
    if found:
        last = found[-1]
        spent = last.search
        facts += [
            ("spent on the search", f"{spent.trials} trials, {spent.epochs} epochs, {spent.passes:.0f} passes"),
            ("device", last.identity.device),
            ("host", last.host),
            ("commit of cmh", last.commit or "unknown"),
            ("tested", last.date),
            ("test split opened", f"{last.test_opened}× by this study, {last.split_opened}× by all"),
        ]
        facts += [(f"{name} audit", "; ".join(lines) or "nothing found") for name, lines in last.audits.items()]
    return facts


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

"""`python -m cmh.datasets list | show NAME|DIR | check NAME|DIR | prepare NAME|DIR | convert FILE|DIR NEW`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from cmh import commands, datasets

EPILOG = """\
examples:
  python -m cmh.datasets show coco2017                    what it is, where to get it, what is missing here
  python -m cmh.datasets check holiday                    every problem of your own dataset, and its figures
  python -m cmh.datasets check holiday --contact-sheet sheet.png
  python -m cmh.datasets convert FLICKR/ flickr            a dataset of index.mat, caption.mat and label.mat
  python -m cmh.tune --method dcmh --space dcmh --dataset holiday

A dataset of your own is a folder with dataset.yml, in which may stand:
"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    commands.any_terminal()
    from cmh.datasets.own import options

    told = f"dataset.yml of a dataset of your own:\n{options.described()}\n"
    parser = argparse.ArgumentParser(
        prog="python -m cmh.datasets",
        description="List, show, check or prepare datasets: built-in ones by name, your own by their folder.",
        epilog=EPILOG + options.described(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="built-in datasets, and whether they are here")
    for action, text in (
        ("show", "what it is, where to get it, and what is missing here"),
        ("check", "look at everything, name every problem, and give figures"),
        ("prepare", "compute its features now"),
    ):
        add = actions.add_parser(
            action, help=text, epilog=told, formatter_class=argparse.RawDescriptionHelpFormatter
        ).add_argument
        add("name", metavar="NAME|DIR")
        if action != "show":
            add("--skip-bad", action="store_true", help="go on without bad items, and say how many")
            add(
                "--split",
                default="torchcmh",
                choices=datasets.ORDERS,
                help="split of a benchmark: torchcmh (its seed; default), file (the order of the files, DCMH release),"
                " or a release's of the CLIP era, with its items (`show`)",
            )
            add(
                "--captions",
                default=datasets.GIVEN,
                choices=(datasets.GIVEN, *datasets.CAPTIONS),
                help="of items with several: all as one text, first, or draw (one in each epoch of training); given"
                " (default): as dataset.yml says, else all",
            )
    _add_convert(actions.add_parser("convert", help="make a dataset of the .mat files that papers pass on"))
    add = actions.choices["check"].add_argument
    add("--contact-sheet", type=Path, metavar="FILE", help="write a PNG of 48 of its pictures")
    add = actions.choices["prepare"].add_argument
    help = "image network (default: %(default)s), or NETWORK-squash, NETWORK-bf16 (README); --backbone is the same"
    add("--features", "--backbone", default=datasets.DEFAULT_FEATURES, metavar="NETWORK", help=help)
    add("--weights", default="", metavar="FILE", help="weights for it (default: its own)")
    return commands.guarded(lambda: _run(parser.parse_args(argv)))


def _add_convert(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "source",
        type=Path,
        metavar="FILE|DIR",
        help="index, caption, label (.mat), or I_tr, T_tr, L_tr, I_te … (.mat, .npz)",
    )
    add("folder", type=Path, metavar="NEW", help="the folder to write")
    add("--name", default="", help="of the dataset (default: the new folder's)")
    add("--images", type=Path, metavar="DIR", help="where the pictures lie (default: beside the files)")
    number = commands.whole(1)
    add("--query", type=number, default=0, metavar="N", help="test queries to draw (default: a tenth, at most 2,000)")
    add("--validation", type=number, default=0, metavar="N", help="validation queries to draw (default: the same)")


def _run(arguments: argparse.Namespace) -> int:
    action = arguments.action
    if action == "list":
        return _list()
    if action == "show":
        return _show(arguments.name)
    if action == "check":
        return _check(arguments)
    if action == "convert":
        from cmh.datasets import convert

        about = {key: getattr(arguments, key) for key in ("name", "images", "query", "validation")}
        _say(convert.convert(arguments.source, arguments.folder, **about))
        _say(f"python -m cmh.datasets check {shlex.quote(str(arguments.folder))} looks at it")
        return 0
    from cmh.datasets.facts import FACTS

    source = datasets.read(arguments.name, **_reading(arguments), progress=_terminal())
    _say(*_counts(source))
    _say(*(f"note: {note}" for note in source.notes if arguments.name in FACTS))
    dataset = datasets.load(
        arguments.name,
        features=arguments.features,
        weights=arguments.weights,
        source=source,
        **_reading(arguments),
    )
    _say(f"arrays: {dataset.folder}")
    return 0


def _list() -> int:
    from cmh.datasets import benchmarks
    from cmh.datasets.facts import FACTS

    for name in datasets.names():
        facts = FACTS.get(name)
        if facts is None:
            _say(f"{name:<13} built in    3,586 clip arts with titles, tags and 32 labels")
            continue
        here = "absent" if benchmarks.missing(facts) else "present"
        _say(f"{name:<13} {here:<11} {facts.title}: {facts.items:,} items, {facts.labels} labels")
    return 0


def _show(name: str) -> int:
    from cmh.datasets import benchmarks, clipart
    from cmh.datasets.facts import FACTS

    if name in FACTS:
        facts = FACTS[name]
        _say(benchmarks.about(facts))
        absent = benchmarks.missing(facts)
        _say("", "missing now:" if absent else "nothing is missing; `check` looks at everything", *absent)
    elif name in datasets.NAMES:
        _say((clipart.__doc__ or "").strip(), "", *_counts(datasets.read(name)))
    else:
        source = datasets.read(name, skip_bad=True, progress=_terminal())
        _say(f"{source.name}: {name}", *_counts(source))
        if source.skipped:
            _say(f"with --skip-bad; {len(source.skipped):,} problems: python -m cmh.datasets check {shlex.quote(name)}")
        name = source.name
    _show_prepared(name)
    return 0


def _show_prepared(name: str) -> None:
    """What was left out of arrays that were prepared with `--skip-bad`."""
    from cmh import cache

    for path in sorted((cache.root() / "prepared" / name).glob("*/skipped.json")):
        note = json.loads(path.read_text())
        _say(f"prepared without {note['items']:,} of {note['of']:,} items: {path}")


def _check(arguments: argparse.Namespace) -> int:
    from cmh.datasets import check, own
    from cmh.datasets.problems import Problems
    from cmh.features import extras

    problems = Problems(skip_bad=arguments.skip_bad)
    if datasets.is_folder(arguments.name):
        source = own.inspect(Path(arguments.name), problems, captions=arguments.captions, progress=_terminal())
    else:
        source = datasets.read(arguments.name, **_reading(arguments), progress=_terminal())
    if source is not None:
        for line in extras.missing(source.text_kind):
            problems.add("extra", line)
        _say(f"{source.name}: {arguments.name}", *check.report(source))
        if arguments.contact_sheet is not None:
            check.contact_sheet(source, arguments.contact_sheet)
            _say(f"contact sheet: {arguments.contact_sheet}")
    sys.stdout.flush()
    problems.stop(arguments.name, skip_bad=arguments.skip_bad, with_notes=source is None)
    left_out = list(problems.lines()) if problems else list(source.skipped if source is not None else ())
    _say(*(f"left out: {line}" for line in left_out))
    _say("no problems" if not left_out else f"{source.n_skipped if source else 0:,} bad items left out")
    return 0


def _reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """How a dataset is read, as `datasets.read` and `datasets.load` take it."""
    return {"skip_bad": arguments.skip_bad, "order": arguments.split, "captions": arguments.captions}


def _counts(source: datasets.Source) -> list[str]:
    from cmh.datasets import check

    return list(check.counts(source))


def _terminal() -> bool:
    return sys.stderr.isatty()


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())

"""`python -m cmh.datasets list | show NAME | prepare NAME`."""

from __future__ import annotations

import argparse
import importlib
import sys

from cmh import commands, datasets


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m cmh.datasets", description="List, show or prepare datasets.")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="built-in datasets")
    for action, text in (("show", "what it is, and what is missing here"), ("prepare", "compute its features now")):
        actions.add_parser(action, help=text).add_argument("name", metavar="NAME")
    arguments = parser.parse_args(argv)
    return commands.guarded(lambda: _run(arguments.action, getattr(arguments, "name", "")))


def _run(action: str, name: str) -> int:
    if action == "list":
        sys.stdout.write("\n".join(datasets.names()) + "\n")
        return 0
    if name in datasets.names():
        sys.stdout.write(f"{(importlib.import_module(f'cmh.datasets.{name}').__doc__ or '').strip()}\n\n")
    source = datasets.read(name)
    split = source.split
    sys.stdout.write(
        f"items {len(source.labels):,}, labels {len(source.label_names)} ({source.labels.sum(1).mean():.2f} an item)\n"
        f"query {len(split.query):,}, validation {len(split.validation):,}, train {len(split.train):,},"
        f" further database items {len(split.other):,}\nsplit {split.sha256()[:12]}\n"
    )
    if action == "prepare":
        sys.stdout.write(f"arrays: {datasets.load(name).folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

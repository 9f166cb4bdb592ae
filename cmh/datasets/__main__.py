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
    add = actions.choices["prepare"].add_argument
    add("--backbone", default="efficientnet-lite0", metavar="NETWORK", help="image network (default: %(default)s)")
    add("--weights", default="", metavar="FILE", help="weights for it (default: its own)")
    return commands.guarded(lambda: _run(parser.parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    action, name = arguments.action, getattr(arguments, "name", "")
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
        dataset = datasets.load(name, features=arguments.backbone, weights=arguments.weights)
        sys.stdout.write(f"arrays: {dataset.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

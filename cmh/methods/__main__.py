"""`python -m cmh.methods [NAME]`: the methods, or one with its hyperparameters, ranges and source."""

from __future__ import annotations

import argparse
import sys

from cmh import commands, config, methods


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m cmh.methods", description="List the methods, or describe one.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the method to describe")
    arguments = parser.parse_args(argv)
    return commands.guarded(lambda: _show(arguments.name))


def _show(name: str | None) -> int:
    if name is None:
        for each in methods.names():
            module = methods.get(each)
            sys.stdout.write(f"{each:<10} {module.YEAR}  {module.KIND:<12} {module.TITLE} ({module.SOURCE})\n")
        return 0
    module = methods.get(name)
    sys.stdout.write(f"{(module.__doc__ or '').strip()}\n\nhyperparameters:\n")
    for item in config.params(module.Config).values():
        paper = "" if item.paper == item.default else f", paper {_plain(item.paper)}"
        sys.stdout.write(f"  {item.name} = {_plain(item.default)}{paper} ({item.rule()})\n      {item.help}\n")
    return 0


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())

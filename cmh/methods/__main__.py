"""`python -m cmh.methods [NAME | new NAME]`: the methods, one with its hyperparameters, or a new one of your own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cmh import commands, config, files, methods
from cmh.errors import ConfigError
from cmh.methods._refused import REFUSED

KINDS = {
    "supervised": "supervised deep methods",
    "unsupervised": "unsupervised deep methods, which are given no labels",
    "shallow": "shallow controls",
}  # a method's KIND, in the order of the listing

EPILOG = """\
examples:
  python -m cmh.methods                 all methods, by kind and year: name, year, title, source
  python -m cmh.methods dcmh            what it minimises, how it differs from the paper, its hyperparameters
  python -m cmh.methods path/to/mine.py the same of a method of your own
  python -m cmh.methods ucmfh           why a method of the field is not here
  python -m cmh.methods new mine        write mine.py, which already trains, its space mine.yml, its experiment
                                        mine_clipart.yml and its test test_mine.py into this folder
"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    commands.any_terminal()
    parser = argparse.ArgumentParser(
        prog="python -m cmh.methods",
        description="List the methods, describe one, or write a new one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the method to describe, or `new`")
    parser.add_argument("new_name", nargs="?", metavar="NEW", help="after `new`: the name of your method")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="after `new`: where (default: here)")
    arguments = parser.parse_args(argv)
    return commands.guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.name == "new":
        return _new(arguments.new_name, arguments.out)
    if arguments.new_name is not None:
        raise ConfigError(f"{arguments.new_name!r} is one name too many; for a method of your own: new NAME")
    return _list() if arguments.name is None else _show(arguments.name)


def _list() -> int:
    modules = {name: methods.get(name) for name in methods.names()}
    width = max(map(len, modules))
    for kind, what in KINDS.items():
        some = {name: module for name, module in modules.items() if kind == module.KIND}
        sys.stdout.write(f"{what} ({len(some)})\n")
        for name, module in sorted(some.items(), key=lambda item: (item[1].YEAR, item[0])):
            sys.stdout.write(f"  {name:<{width}}  {module.YEAR}  {module.TITLE} ({module.SOURCE})\n")
    refused = ", ".join(sorted(REFUSED))
    sys.stdout.write(f"not here, for reasons that `python -m cmh.methods NAME` gives: {refused}\n")
    return 0


def _show(name: str) -> int:
    module = methods.get(name)
    sys.stdout.write(f"{(module.__doc__ or '').strip()}\n\nhyperparameters:\n")
    for item in config.params(module.Config).values():
        paper = "" if item.paper == item.default else f", paper {_plain(item.paper)}"
        sys.stdout.write(f"  {item.name} = {_plain(item.default)}{paper} ({item.rule()})\n      {item.help}\n")
    return 0


def _new(name: str | None, folder: Path) -> int:
    from cmh.methods import _new

    if name is None:
        raise ConfigError("new: a name for the method is missing, such as `new mine`")
    written = _new.write(name, folder)
    paths, typed = [files.short(path) for path in written], [files.quoted(path) for path in written]
    sys.stdout.write(
        "\n".join(
            [
                f"{paths[0]:<24} the method: it already trains; write your paper into it",
                f"{paths[1]:<24} its search space: python -m cmh.tune --method {typed[0]}",
                f"{paths[2]:<24} its experiment:   python -m cmh.reproduce {typed[2]}",
                f"{paths[3]:<24} its test:         python -m pytest {typed[3]}",
            ]
        )
        + "\n"
    )
    return 0


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())

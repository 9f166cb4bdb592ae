"""`python -m cmh.studies`: what became of studies, and what to do with them; one module for each subcommand."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from pathlib import Path

from cmh import commands

DEFAULT = "list"  # where no subcommand is named
COMMANDS: dict[str, str] = {  # each module has add_arguments(parser) and run(arguments) -> exit code
    DEFAULT: "cmh.views.listing",
    "show": "cmh.views.show",
    "clean": "cmh.views.cleaning",
    "report": "cmh.views.report.command",
    "tensorboard": "cmh.views.tensorboard",
    "visdom": "cmh.views.visdom",
}


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    commands.any_terminal()
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0
    if words and words[0] not in COMMANDS and not words[0].startswith("-") and not Path(words[0]).exists():
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"commands: {', '.join(COMMANDS)}"
        sys.stderr.write(f"error: {words[0]}: is neither a command of cmh.studies nor a folder; {hint}\n")
        return 2
    name, rest = (words[0], words[1:]) if words and words[0] in COMMANDS else (DEFAULT, words)
    module = importlib.import_module(COMMANDS[name])
    parser = argparse.ArgumentParser(
        prog=f"python -m cmh.studies {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    arguments = parser.parse_args(rest)
    return commands.guarded(lambda: int(module.run(arguments)))


def _usage() -> str:
    about = {name: str(importlib.import_module(path).__doc__) for name, path in COMMANDS.items()}
    lines = "\n".join(f"  {name:<12} {text.partition(chr(10))[0]}" for name, text in about.items())
    return (
        f"usage: python -m cmh.studies [COMMAND] …\n\n{lines}\n\nWithout COMMAND: {DEFAULT}."
        " `python -m cmh.studies COMMAND --help` teaches each.\n"
    )


if __name__ == "__main__":
    sys.exit(main())

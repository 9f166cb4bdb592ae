"""`cmh COMMAND …`: the same as `python -m cmh.COMMAND …`."""

from __future__ import annotations

import importlib
import sys

from cmh import __version__, commands

COMMANDS = {
    "tune": ("cmh.tune", "search hyperparameters on validation, confirm the winner, test it once"),
    "reproduce": ("cmh.reproduce", "run a winner, a trial or an experiment file again"),
    "studies": ("cmh.studies", "list studies; report, TensorBoard or visdom of one; free disk space"),
    "leaderboard": ("cmh.leaderboard", "print the board; as CSV, Markdown, LaTeX, page, figures"),
    "evaluate": ("cmh.evaluate", "score one set of codes as every paper's code would"),
    "search": ("cmh.search", "pictures for a text, texts for a picture, by a trained model"),
    "encode": ("cmh.encode", "your own pictures and texts to codes"),
    "export": ("cmh.export", "codes as a search engine's own file or table, checked by asking it"),
    "methods": ("cmh.methods.__main__", "list the methods, or one with its hyperparameters"),
    "datasets": ("cmh.datasets.__main__", "list, show or prepare datasets"),
}


def main(argv: list[str] | None = None) -> int:
    """The console script."""
    commands.any_terminal()
    arguments = sys.argv[1:] if argv is None else argv
    lines = "\n".join(f"  {name:<12} {text}" for name, (_, text) in COMMANDS.items())
    usage = f"usage: cmh COMMAND …\n\n{lines}\n\n`cmh COMMAND --help` teaches each; `cmh --version` names this one.\n"
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage)
        return 0
    if arguments[0] in ("-V", "--version"):
        sys.stdout.write(f"cmh {__version__}\n")
        return 0
    if arguments[0] not in COMMANDS:
        sys.stderr.write(f"error: {arguments[0]!r} is no command\n{usage}")
        return 2
    result: int = importlib.import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])
    return result


if __name__ == "__main__":
    sys.exit(main())

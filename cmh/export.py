"""`python -m cmh.export`: codes as a search engine's own file or table, checked by asking that engine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmh import __version__, commands, encoded, engines, scan
from cmh.encoded import Encoded
from cmh.engines import ENGINES, Engine, forms
from cmh.errors import ExportError

QUERIES = 10
ITEMS = 50  # that each query asks for
_RULE = "+1 is 1 and -1 is 0; an output of exactly 0 counts as +1"

_DESCRIPTION = """\
Hand codes over to a search engine: its own file or table is written, then the engine is asked ten queries and its
answers are compared with an exact scan. Where they differ in anything but the order of ties, nothing is left behind.
"""

_EPILOG = """\
examples:
  python -m cmh.export codes.npz --to faiss --out new/        new/images.faiss, new/texts.faiss, new/codes.json
  python -m cmh.export codes.npz --to sqlite-vec --out new/   new/codes.db, with the tables images and texts
  python -m cmh.export codes.npz --to pgvector --out postgresql://user@host/base   the tables cmh_images, cmh_texts
  python -m cmh.export codes.npz --to mat --out new/          new/codes.mat: q_img, q_txt, r_img, r_txt, +1 and -1

CODES.npz is what `python -m cmh.encode` writes, or the codes of a confirmed run. codes.json (in PostgreSQL the tables'
comments) says how bits are ordered and filled up, how the engine is asked, and the hash of the codes: queries must be
packed in that way, too. All of these search exactly; docs/engines.md says what each does with ties, radii and limits.
"""


def check(to: str, out: str | Path) -> None:
    """What can be known before there are codes. Raises ExportError where the engine is unknown or not installed, or
    there can be no such place."""
    if to not in ENGINES:
        raise ExportError(f"--to {to} is no engine that cmh writes for; there are {', '.join(ENGINES)}")
    engine = ENGINES[to]
    if missing := engine.missing():
        extra = f"the extra [{engine.extra}] of cmh brings it: pip install 'cmh[{engine.extra}]'"
        raise ExportError(f"--to {to} needs {', '.join(missing)}, which is not installed; {extra}")
    engines.check_place(engine, str(out))


def export(codes_npz: str | Path, to: str, out: str | Path) -> dict[str, Any]:
    """Write a file's codes for an engine, and check them by asking it.

    Parameters
    ----------
    codes_npz: a file of `cmh.encoded`. to: a name of `cmh.engines.ENGINES`. out: a folder that does not exist yet; for
    pgvector the address of the server.

    Returns what is written beside the codes, too: engine, bits, order of bits, padding, hashes, how to ask.

    Raises ExportError where the engine is not installed, cannot be written, or answers otherwise than `cmh.scan`;
    nothing is left behind then. RecordError where the file is no file of codes.
    """
    check(to, out)
    engine = ENGINES[to]
    found = encoded.read(Path(codes_npz))
    about = {
        **{"engine": to, "engine_version": "", "cmh": __version__, "bits": found.bits},
        **{"form": engine.form, "padding": engine.padding, "sign": _RULE, "encoder": found.encoder},
        "sets": {
            name: {
                "items": len(packed),
                "sha256_packed": found.sha256(name),
                "ask": engine.search.format(set=name, bits=found.bits),
            }
            for name, packed in found.sets.items()
        },
    }
    with engines.place(engine, str(out)) as there:
        engine.write(there, found)
        about["engine_version"] = engine.version(there)
        engines.describe(engine, there, about)
        problems = [line for name in found.sets for line in _differences(to, engine, there, found, name)]
        if problems:
            raise ExportError(*problems, heading=f"{to} {about['engine_version']} answers otherwise; nothing was kept")
        about["verified"] = {"queries_a_set": QUERIES, "nearest": ITEMS}
        engines.describe(engine, there, about)
    return about


def _queries(found: Encoded, name: str) -> NDArray[np.uint8]:
    """Ten codes of the file, evenly taken: half of them the set's own, half of the others."""
    packed = found.sets[name]
    others = [codes for other, codes in found.sets.items() if other != name] or [packed]
    both = (packed, np.concatenate(others))
    return np.concatenate([codes[np.linspace(0, len(codes) - 1, QUERIES // 2).astype(int)] for codes in both])


def _differences(to: str, engine: Engine, there: engines.Place, found: Encoded, name: str) -> list[str]:
    """Where the engine's answers about a set are not those of the scan, in at most one line."""
    packed, queries = found.sets[name], _queries(found, name)
    k = min(ITEMS, len(packed))
    form = forms.FORMS[engines.described(engine, there, name)["form"]]  # as whoever reads what stands beside it
    answers = zip(*engine.ask(there, name, form(forms.flags(queries, found.bits)), found.bits, k), strict=True)
    wanted, _ = scan.nearest(queries, packed, found.bits, k)
    wrong = []
    for number, (query, ours, (distances, items)) in enumerate(zip(queries, wanted, answers, strict=True)):
        if len(items) != k or len(set(items)) != k or min(items) < 0 or max(items) >= len(packed):
            wrong.append(f"query {number} gives {len(set(items))} different items {items[:3]} …, not {k}")
            continue
        really = np.bitwise_count(packed[items] ^ query).sum(axis=1, dtype=np.int64)
        for theirs, what in ((np.asarray(distances), "says"), (really, "gives items at")):
            if not np.array_equal(theirs, ours):
                at = int(np.flatnonzero(theirs != ours)[0])
                wrong.append(
                    f"query {number}, place {at + 1}: {to} {what} distance {theirs[at]:g}, the scan {ours[at]}"
                )
                break
    if not wrong:
        return []
    return [f"{name}: {len(wrong)} of {len(queries)} queries, such as {'; '.join(wrong[:2])}"]


def main(argv: list[str] | None = None) -> int:
    """Write, check, and say so; the exit code."""
    commands.any_terminal()
    arguments = _parser().parse_args(argv)
    return commands.guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    sys.stdout.write(summary(export(arguments.codes, arguments.to, arguments.out)))
    return 0


def summary(about: dict[str, Any]) -> str:
    """What `export` gave, in lines."""
    lines = [
        f"{name}: {one['items']} codes of {about['bits']} bits; ask: {one['ask']}\n"
        for name, one in about["sets"].items()
    ]
    lines.append(
        f"{about['engine']} {about['engine_version']} answered {QUERIES} queries of each as an exact scan does\n"
    )
    return "".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmh.export",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("codes", type=Path, metavar="CODES.npz", help="a file of codes")
    parser.add_argument("--to", required=True, choices=list(ENGINES), help="the engine")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER|URL", help="a new folder; for pgvector postgresql://user@host/base"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""`python -m cmh.encode`: pictures and texts to codes by a trained model, into one file."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cmh import commands
from cmh.engines import ENGINES

if TYPE_CHECKING:
    from cmh.use.streaming import Bar

EPILOG = """\
examples:
  python -m cmh.encode studies/dcmh-clipart-32 --images photos --out photos.npz
  python -m cmh.encode studies/dcmh-clipart-32 --images list.txt --texts captions.txt --out both.npz --skip-bad
  python -m cmh.encode studies/dcmh-clipart-32 --images photos --out photos.npz --to faiss    … and photos-faiss/
  python -m cmh.search studies/dcmh-clipart-32 "red bicycle" --in photos.npz --sheet found.html

The file holds, as numpy.savez writes them: images (n, ceil(bits/8)) and texts (m, ceil(bits/8)), uint8, bit j of a code
being the (j % 8)-th from below of byte j // 8 (set: +1); bits; image_paths and text_lines, what each code is of; and
encoder, the hash of the model: only codes of the same one may be compared.

--to hands the codes over to a search engine, too, as `python -m cmh.export` does, and keeps its files only if the
engine then answers as an exact scan.

The same command goes on after a kill. Pictures that are none and texts without a word that the model knows are listed,
grouped by reason; --skip-bad leaves them out of the file. Of a study the winner is taken, of several seeds the one with
the best validation MAP; STUDY:7 is trial 7. In Python: cmh.load("studies/dcmh-clipart-32").encode_images([…]).
"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    commands.any_terminal()
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.images is None and arguments.texts is None:
        parser.error("nothing to encode: give --images DIR|LIST, --texts FILE, or both")
    if arguments.at is not None and arguments.to is None:
        parser.error("--at is where the engine's codes go: it needs --to ENGINE")
    if arguments.to is not None and arguments.at is None and ENGINES[arguments.to].tables:
        parser.error(f"--to {arguments.to} needs --at postgresql://user@host/base, the address of the server")
    return commands.guarded(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmh.encode",
        description="Turn pictures and texts into codes by a trained model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("target", metavar="STUDY", help="the folder of a study or run, STUDY:TRIAL, or a bundle")
    add("--images", type=Path, metavar="DIR|LIST", help="a folder of pictures, or a text file with a path a line")
    add("--texts", type=Path, metavar="FILE", help="a text file in UTF-8, a text a line")
    add("--out", type=Path, required=True, metavar="FILE", help="the file of codes (.npz)")
    add("--to", choices=list(ENGINES), help="a search engine that gets the codes, too")
    add(
        "--at",
        metavar="FOLDER|URL",
        help="where --to puts them: a new folder (default: FILE's name and the engine's); for pgvector an address",
    )
    add("--skip-bad", action="store_true", help="leave out what cannot be encoded, and say what it was")
    add("--seed", type=commands.whole(0), metavar="N", help="the model of this seed (default: best on validation)")
    add("--method", metavar="FILE", help="a bundle's method of one's own, as you trust it")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from cmh import export
    from cmh.use import load, streaming  # PyTorch comes in here

    at = arguments.at or str(arguments.out.with_suffix("")) + f"-{arguments.to}"
    if arguments.to is not None:  # before hours of encoding
        export.check(arguments.to, at)
    wanted = streaming.Wanted(
        images=[] if arguments.images is None else streaming.pictures_in(arguments.images),
        texts=[] if arguments.texts is None else streaming.texts_in(arguments.texts),
    )
    encoder = load(arguments.target, seed=arguments.seed, device=arguments.device, method=arguments.method)
    written = streaming.write(encoder, wanted, arguments.out, skip_bad=arguments.skip_bad, bar=_bar)
    for line in written.left_out:
        sys.stdout.write(f"left out: {line}\n")
    counts = f"{written.n_images:,} pictures and {written.n_texts:,} texts as codes of {encoder.bits} bits"
    sys.stdout.write(f"{counts}: {arguments.out}\n")
    if arguments.to is not None:
        sys.stdout.write(export.summary(export.export(arguments.out, arguments.to, at)))
    return 0


@contextlib.contextmanager
def _bar(n: int, done: int) -> Iterator[Bar]:
    from tqdm import tqdm

    with tqdm(total=n, initial=done, unit="", desc="encoding", disable=not sys.stderr.isatty(), leave=False) as bar:
        yield bar


if __name__ == "__main__":
    sys.exit(main())

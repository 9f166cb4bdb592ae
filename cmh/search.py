"""`python -m cmh.search`: pictures for a text, texts for a picture, pictures like a picture; or a page that asks so."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cmh import commands, signals

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cmh.use import Encoder
    from cmh.use.collection import Items
    from cmh.use.sheet import Answer

MOST_PORT = 65_535

EPILOG = """\
examples:
  python -m cmh.search studies/dcmh-clipart-32 "red bicycle"                  pictures for a text, as a table
  python -m cmh.search studies/dcmh-clipart-32 flower pizza guitar --sheet found.html   … to look at, a row a text
  python -m cmh.search studies/dcmh-clipart-32 --image photo.jpg              pictures like this one
  python -m cmh.search studies/dcmh-clipart-32 --image photo.jpg --find texts            texts for it
  python -m cmh.search studies/dcmh-clipart-32 flower --in photos.npz         in pictures of your own (cmh.encode)
  python -m cmh.search studies/dcmh-clipart-32 --serve                        a page: type a text, drop a picture

Without --in the dataset that the model was trained on is searched: its database, that is all items with a label but the
test queries. Every code is compared (Hamming distance, in bits); those at one distance stand in their own order. What
is said of a text are the words that the model knows: others, and words left out of training (`text: label_words`,
stop words), say nothing, and a text without any is refused. --sheet writes a PNG or a page of HTML that holds its
pictures. --serve (extra [serve]) listens for browsers of this machine until Ctrl-C; --host lets others in, and is what
they must call it. Of a study the winner is taken, of several seeds the one with the best validation MAP; STUDY:7 is
trial 7.
"""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    commands.any_terminal()
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)  # TEXT may stand behind options, too
    asked = bool(arguments.texts or arguments.image)
    if not arguments.serve and not asked:
        parser.error(
            'nothing to search for: give a TEXT ("red bicycle"), --image FILE, or --serve for a page to ask in'
        )
    if arguments.serve and (asked or arguments.sheet is not None):
        parser.error("--serve takes no TEXT, --image or --sheet: ask in the page")
    if not arguments.serve and (arguments.host is not None or arguments.port is not None):
        parser.error("--host and --port are of --serve")
    return commands.guarded(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cmh.search",
        description="Search pictures by a text or a picture, or texts, with the codes of a trained model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("target", metavar="STUDY", help="the folder of a study or run, STUDY:TRIAL, or a bundle")
    add("texts", metavar="TEXT", nargs="*", help="what to search for; several are several queries")
    add("--image", type=Path, nargs="+", default=[], metavar="FILE", help="pictures to search with")
    add("--in", dest="source", type=Path, metavar="FILE", help="what to search: codes that cmh.encode wrote")
    add("--find", choices=("pictures", "texts"), default="pictures", help="what to find (default: pictures)")
    add("--top", type=commands.whole(1), default=20, metavar="N", help="how many (default: 20)")
    add("--sheet", type=Path, metavar="FILE", help="a contact sheet to look at, .png or .html")
    add("--serve", action="store_true", help="open a page to search in, with a text or a picture")
    add("--host", metavar="NAME", help="the name or address to listen at (default: 127.0.0.1, this machine alone)")
    add("--port", type=_port, metavar="N", help="the port to listen at (default: 0, any that is free)")
    add("--seed", type=commands.whole(0), metavar="N", help="the model of this seed (default: best on validation)")
    add("--method", metavar="FILE", help="a bundle's method of one's own, as you trust it")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser


def _port(text: str) -> int:
    if (port := commands.whole(0)(text)) > MOST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} must be at most {MOST_PORT}")
    return port


def _run(arguments: argparse.Namespace) -> int:
    from cmh.use import collection, load, sheet  # PyTorch comes in here

    if arguments.serve:
        return _serve(arguments)
    if arguments.sheet is not None:
        sheet.check(arguments.sheet)
    encoder = load(arguments.target, seed=arguments.seed, device=arguments.device, method=arguments.method)
    queries, coded = _queries(encoder, arguments.texts, arguments.image)
    place = arguments.source
    items = collection.of_dataset(encoder) if place is None else collection.of_file(place, encoder)
    answers = _answers(queries, coded, encoder.bits, items.get(arguments.find), arguments)
    for answer in answers:
        _show(answer)
    if arguments.sheet is not None:
        sheet.write(arguments.sheet, answers, f"{arguments.target}: {', '.join(name for name, _ in queries)}")
        sys.stdout.write(f"sheet: {arguments.sheet}\n")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    """Answer browsers until an interrupt, which is how this ends well."""
    from cmh.use import answers, collection, load, serve

    serve.check()
    host = "127.0.0.1" if arguments.host is None else arguments.host
    with serve.listening(host, arguments.port or 0) as at, signals.Interrupts(commands.end_interrupted):
        encoder = load(arguments.target, seed=arguments.seed, device=arguments.device, method=arguments.method)
        place = arguments.source
        items = collection.of_dataset(encoder) if place is None else collection.of_file(place, encoder)
        server = serve.server(answers.Answers(encoder, items, arguments.target, arguments.top), host)
        whom = "whoever reaches this machine can search, and sees the pictures; " if serve.open_to_others(at) else ""
        sys.stdout.write(f"{serve.address(host, at)}\n{whom}Ctrl-C ends it\n")
        sys.stdout.flush()
        try:
            server.run(sockets=[at])
        except KeyboardInterrupt:
            sys.stdout.write("\nended\n")
    return 0


def _queries(encoder: Encoder, texts: list[str], images: list[Path]) -> tuple[list[tuple[str, str]], NDArray[np.uint8]]:
    """(what is searched for, what is to be said of it) of each query, and packed codes `(n, ceil(bits / 8))`."""
    import numpy as np

    blocks, named = [np.zeros((0, -(-encoder.bits // 8)), np.uint8)], list[tuple[str, str]]()
    if texts:
        blocks.append(encoder.encode_texts(texts, packed=True).astype(np.uint8))
        for text in texts:
            reading = encoder.read_text(text)
            named.append((text, str(reading) if reading.left_out else ""))
    if images:
        blocks.append(encoder.encode_images(images, packed=True).astype(np.uint8))
        named += [(str(path), "") for path in images]
    return named, np.concatenate(blocks)


def _answers(
    queries: list[tuple[str, str]],
    coded: NDArray[np.uint8],
    bits: int,
    items: Items | None,
    arguments: argparse.Namespace,
) -> list[Answer]:
    """What was found for each query. Raises EncoderError where there is nothing of the kind to find."""
    from cmh import scan
    from cmh.errors import EncoderError
    from cmh.use.sheet import Answer, Found

    if items is None or not len(items.codes):
        raise EncoderError(f"--find {arguments.find}: {arguments.source or 'the dataset'} holds no {arguments.find}")
    distances, places = scan.nearest(coded, items.codes, bits, arguments.top)
    wanted = places.ravel().tolist() if arguments.sheet is not None else []
    pictures = items.pictures.some(wanted) if items.pictures is not None else {}
    return [
        Answer(
            query,
            note,
            [
                Found(int(distance), items.line(place), items.label(place), pictures.get(place))
                for distance, place in zip(row_distances, row_places.tolist(), strict=True)
            ],
        )
        for (query, note), row_distances, row_places in zip(queries, distances, places, strict=True)
    ]


def _show(answer: Answer) -> None:
    from cmh.board.render import printable

    write = sys.stdout.write
    write(printable(f"{answer.query}{f' ({answer.note})' if answer.note else ''}") + "\n")
    write("rank  distance  what\n")
    for rank, found in enumerate(answer.found, start=1):
        write(f"{rank:>4}  {found.distance:>8}  {printable(found.line)}\n")
    write("\n")


if __name__ == "__main__":
    sys.exit(main())

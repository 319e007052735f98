"""One item: the phrases of a caption, the regions of a picture."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import print_json
from tasks.errors import PedAlignError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.annotate.shard import AnnotateParams

_BATCH = 2048
"""Captions parsed at a time, and held in memory."""

_ZONE = 32
"""Batches after which spaCy forgets their words."""

Parser = Annotated[
    str | None,
    typer.Option(help="embedded, a spaCy package, or a folder of a pipeline", show_default=False),
]


def phrases(
    caption: Annotated[
        str | None, typer.Argument(help="A caption; - for standard input, one a line")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="A file with a caption a line; - for standard input", show_default=False),
    ] = None,
    parser: Parser = None,
) -> None:
    """Print the phrases that a person could point at, as JSON: one list a caption.

    A phrase has its text and place (start, end, in code points), its head noun, its group, its
    colours and what else is said of it. A blank line gives an empty list, so that line n of the
    output belongs to line n of the file.
    """
    from tasks.phrases import EMBEDDED, load_parser, parse

    if (caption is None) == (file is None):
        raise PedAlignError(
            "both or none of a caption and --file",
            "one of them is read",
            'pedalign phrases "a man in a red shirt", or pedalign phrases --file captions.txt',
        )
    source = Path("-") if caption == "-" else file
    captions = iter([_text(caption or "")]) if source is None else _lines(source)
    nlp = load_parser(parser or EMBEDDED)
    typed = source == Path("-") and sys.stdin.isatty()
    batches = _batches(captions, 1 if typed else _BATCH)
    more = True
    while more:
        more = False
        with nlp.memory_zone():  # spaCy would keep every word that it has ever seen.
            for batch in islice(batches, _ZONE):
                print_json(*([phrase.record() for phrase in found] for found in parse(nlp, batch)))
                more = True


def annotate(
    image: Annotated[Path, typer.Argument(help="An image file")],
    caption: Annotated[str, typer.Argument(help="Its caption")],
    draw: Annotated[
        Path | None,
        typer.Option(help="Draw the boxes into this file: .png, .jpg, ...", show_default=False),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Print the whole annotated row: places, heads, groups, and refused boxes with "
            "reasons",
        ),
    ] = False,
    proposer: Annotated[
        str | None,
        typer.Option(
            help="embedded, or a detector (Grounding DINO, OWLv2) by name or folder",
            show_default=False,
        ),
    ] = None,
    parser: Parser = None,
    params: Annotated[
        Path | None,
        typer.Option(
            help="A params.yaml whose section `annotate` is used, as the stage does; without it "
            "the embedded parser and proposer",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print one image's region-phrase pairs as JSON, in the layout of the released SDA."""
    from tasks.annotate.single import annotate_row, path_in_a_set
    from tasks.overlays import draw_regions
    from tasks.sda import to_sda

    if draw is not None:
        _check_drawing(draw)
    row, picture = annotate_row(image, _text(caption), _section(params, proposer, parser))
    name = path_in_a_set(image)
    print_json({"image": name, **row} if full else to_sda(row, name, 0))
    if draw is not None:
        try:
            draw_regions(picture, row, refused=full).save(draw)
        except (OSError, ValueError) as error:
            raise _undrawable(draw, str(error)) from error


def _section(params: Path | None, proposer: str | None, parser: str | None) -> AnnotateParams:
    from dataclasses import replace

    from tasks.annotate.shard import AnnotateParams
    from tasks.annotate.single import DEFAULT
    from tasks.params import read_section

    section = read_section(AnnotateParams, "annotate", params) if params else DEFAULT
    return replace(
        section,
        proposer=section.proposer if proposer is None else proposer,
        parser=section.parser if parser is None else parser,
    )


# ------------------------------------------------------------------ what is read


def _text(caption: str) -> str:
    """A caption of the command line, which may be bytes that are no text."""
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise PedAlignError(
            f"caption {caption!r:.80}: character {error.start} is not UTF-8",
            "captions are UTF-8 text",
            "convert it, for example with iconv -t utf-8",
        ) from error
    return caption


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, without their ends, as they are asked for."""
    name = "standard input" if path == Path("-") else str(path)
    try:
        source = sys.stdin.buffer if path == Path("-") else path.open("rb")
        # Bytes: a line ends where `wc -l` says so, not at every character that Unicode calls one.
        for number, line in enumerate(source, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            try:
                yield text.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                raise PedAlignError(
                    f"{name}: line {number} is not UTF-8 (byte {error.start}: {error.reason})",
                    "captions are UTF-8 text, one a line",
                    "convert the file, for example with iconv -f latin1 -t utf-8",
                ) from error
    except OSError as error:
        raise PedAlignError(
            f"{name}: {error.strerror or error}",
            "captions are UTF-8 text, one a line",
            "name another file",
        ) from error


def _batches(captions: Iterator[str], size: int) -> Iterator[list[str]]:
    """Cut into lists, with a bar where somebody watches and the output goes elsewhere."""
    from tqdm import tqdm

    hidden = True if sys.stdout.isatty() else None
    with tqdm(desc="phrases", unit="caption", disable=hidden) as bar:
        while batch := list(islice(captions, size)):
            yield batch
            bar.update(len(batch))


# ------------------------------------------------------------------ what is drawn


def _check_drawing(path: Path) -> None:
    """Refuse a file that cannot be drawn into before anything is computed."""
    from PIL import Image

    known = Image.registered_extensions()
    if known.get(path.suffix.lower()) not in Image.SAVE:
        raise _undrawable(path, f"pictures are not called {path.suffix or 'without a suffix'}")
    if not path.parent.is_dir():
        raise _undrawable(path, f"there is no folder {path.parent}")


def _undrawable(path: Path, why: str) -> PedAlignError:
    return PedAlignError(
        f"--draw {path}: {why}",
        "the suffix says the format, and the folder is there",
        "name a file such as regions.png, regions.jpg or regions.webp",
    )

"""The command ``pedalign``: the pipeline's pieces, one item at a time, without a Prefect run.

``dvc repro`` rebuilds; this is for everything around it: search a gallery with a sentence, hand
pairs to other trainers, look at one caption's phrases or one image's regions, and prepare a raw
dataset for DVC.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from tasks.errors import PedAlignError

app = typer.Typer(
    help="Domain-aligned pretraining for text-based person retrieval.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console()

MODEL = Path("data/checkpoints/finetune/target")
GALLERY = Path("data/ingested/target")
INDEX = Path(".cache/index")


@app.command()
def index(
    images: Annotated[
        Path, typer.Argument(help="A folder of images, or of this project's shards")
    ] = GALLERY,
    model: Annotated[Path, typer.Option(help="A retrieval checkpoint")] = MODEL,
    out: Annotated[Path, typer.Option(help="Where the index goes")] = INDEX,
) -> None:
    """Embed a gallery, so that it can be searched. Goes on where it was interrupted."""
    from tasks.encoder import MraEncoder
    from tasks.gallery import build_index
    from tasks.runtime import runtime

    built = build_index(MraEncoder.load(model), images, out, batch=runtime().batch_size)
    console.print(
        f"{built.rows} images can be found; {built.rejected} could not be read; "
        f"{built.computed} parts embedded, {built.reused} reused. Index: {out}"
    )


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="A sentence that describes the person")],
    k: Annotated[int, typer.Option("-k", help="How many answers", min=1)] = 10,
    index_folder: Annotated[Path, typer.Option("--index", help="What `index` wrote")] = INDEX,
    model: Annotated[Path, typer.Option(help="The checkpoint that built the index")] = MODEL,
    # Off: on the small default model the fusion encoder ranks worse than the cosine alone.
    rerank: Annotated[bool, typer.Option(help="Let the fusion encoder judge the best")] = False,
    sheet: Annotated[Path, typer.Option(help="Where the picture goes")] = Path("search.png"),
) -> None:
    """Find the images that a sentence describes best: a table, and a contact sheet."""
    from tasks.encoder import MraEncoder
    from tasks.search import SearchIndex, hits_sheet
    from tasks.search import search as find

    opened = SearchIndex.open(index_folder)
    hits = find(opened, MraEncoder.load(model), text, k=k, rerank=rerank)
    table = Table(title=text)
    for column in ("rank", "score", "match", "image"):
        table.add_column(column, justify="left" if column == "image" else "right")
    for hit in hits.to_pylist():
        match = "" if hit["match"] is None else f"{hit['match']:+.2f}"
        table.add_row(str(hit["rank"]), f"{hit['score']:.3f}", match, hit["path"])
    console.print(table)
    hits_sheet(opened, text, hits).save(sheet)
    console.print(f"Picture: {sheet}")


@app.command()
def export(
    to: Annotated[str, typer.Option(help="cuhk, folder, webdataset or sda")],
    out: Annotated[Path, typer.Option(help="A new folder")],
    data: Annotated[Path, typer.Option(help="The folder of the stages' outputs")] = Path("data"),
) -> None:
    """Hand the restyled, screened, re-captioned, annotated pairs to another trainer."""
    from tasks.export import Layout, Tables
    from tasks.export import export as hand_on

    if to not in get_args(Layout):
        raise PedAlignError(
            f"--to {to}", f"the layouts are {', '.join(get_args(Layout))}", "choose one of them"
        )
    tables = Tables(
        images=data / "restyled",
        screened=data / "screened",
        captioned=data / "captioned",
        annotated=data / "annotated",
    )
    done = hand_on(tables, to=cast("Layout", to), out=out)
    console.print(f"{done.pairs} pairs with {done.captions} captions in {out}")
    for reason, count in sorted(done.left_out.items()):
        console.print(f"  left out, {reason}: {count}")


@app.command()
def phrases(
    caption: Annotated[str | None, typer.Argument(help="A caption")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with a caption a line")] = None,
) -> None:
    """Print the phrases that a person could point at, as JSON: one list a caption."""
    from tasks.annotate import phrases_of

    if (caption is None) == (file is None):
        raise PedAlignError(
            "both or none of a caption and --file",
            "one of them is read",
            'pedalign phrases "a man in a red shirt"',
        )
    captions = [caption] if caption is not None else _lines(cast("Path", file))
    for found in phrases_of(captions):
        typer.echo(json.dumps(found, ensure_ascii=False))


@app.command()
def annotate(
    image: Annotated[Path, typer.Argument(help="An image file")],
    caption: Annotated[str, typer.Argument(help="Its caption")],
    draw: Annotated[Path | None, typer.Option(help="Draw the boxes into this file")] = None,
) -> None:
    """Print one image's region-phrase pairs as JSON, in the layout of the released SDA."""
    from tasks.annotate import annotate_one

    entry, picture = annotate_one(image, caption)
    typer.echo(json.dumps(entry, ensure_ascii=False))
    if draw is not None:
        picture.save(draw)


@app.command()
def fingerprint(
    folder: Annotated[Path, typer.Argument(help="A raw dataset, data/raw/NAME")],
) -> None:
    """Write the file that tells DVC when a raw dataset changes, without watching every image."""
    from tasks.ingest import fingerprint as write_fingerprint

    write_fingerprint(folder)
    console.print(f"{folder / 'fingerprint.json'} written")


@app.command("shared-images")
def shared_images_command(
    datasets: Annotated[list[Path], typer.Argument(help="Ingested datasets, two or more")],
) -> None:
    """List images that datasets share, by perceptual hash: a leak between benchmarks."""
    from tasks.ingest import shared_images

    if len(datasets) < 2:
        raise PedAlignError(
            f"{len(datasets)} dataset", "two or more are compared", "name another folder"
        )
    found = shared_images(datasets)
    typer.echo(found.to_csv(index=False), nl=False)
    console.print(f"{len(found)} shared images")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PedAlignError(
            f"{path}: {error}", "captions are UTF-8 text, one a line", "name another file"
        ) from error


def main() -> None:
    """Run the command; a mistake that the user can mend is a paragraph, not a traceback."""
    try:
        app()
    except PedAlignError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

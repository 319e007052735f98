"""A gallery: embed its images once, then search them with sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.cli.console import console
from tasks.params import PARAMS_FILE, read_yaml

CHECKPOINTS = Path("data/checkpoints")
GALLERY = Path("data/ingested/target")
INDEX = Path(".cache/index")


def default_model(params_file: Path = PARAMS_FILE) -> Path:
    """The last model of the profile's road: fine-tuned, or where nothing is, pretrained."""
    tuned = read_yaml(params_file).get("finetune", {}).get("datasets", {})
    return CHECKPOINTS / "finetune" / next(iter(tuned)) if tuned else CHECKPOINTS / "pretrain"


def index(
    images: Annotated[
        Path, typer.Argument(help="A folder of images, or of this project's shards")
    ] = GALLERY,
    model: Annotated[
        Path | None,
        typer.Option(
            help="A retrieval checkpoint [default: the fine-tuned, or else pretrained one]"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the index goes")] = INDEX,
) -> None:
    """Embed a gallery, so that it can be searched. Goes on where it was interrupted."""
    from tasks.encoder import RetrievalEncoder
    from tasks.gallery import build_index
    from tasks.runtime import runtime

    built = build_index(
        RetrievalEncoder.load(model or default_model()), images, out, batch=runtime().batch_size
    )
    console.print(
        f"{built.rows} images can be found; {built.rejected} could not be read; "
        f"{built.computed} parts embedded, {built.reused} reused. Index: {out}"
    )


def search(
    text: Annotated[str, typer.Argument(help="A sentence that describes the person")],
    k: Annotated[int, typer.Option("-k", help="How many answers", min=1)] = 10,
    index_folder: Annotated[Path, typer.Option("--index", help="What `index` wrote")] = INDEX,
    model: Annotated[
        Path | None,
        typer.Option(help="The checkpoint that built the index [default: that of `index`]"),
    ] = None,
    # Off: on the small default model the fusion encoder ranks worse than the cosine alone, and a
    # dual encoder has none.
    rerank: Annotated[
        bool, typer.Option(help="Let the fusion encoder judge the best; a dual encoder has none")
    ] = False,
    sheet: Annotated[Path, typer.Option(help="Where the picture goes")] = Path("search.png"),
) -> None:
    """Find the images that a sentence describes best: a table, and a contact sheet."""
    from tasks.encoder import RetrievalEncoder
    from tasks.search import SearchIndex, hits_sheet
    from tasks.search import search as find

    opened = SearchIndex.open(index_folder)
    hits = find(opened, RetrievalEncoder.load(model or default_model()), text, k=k, rerank=rerank)
    # A table as wide as its columns would break the sentence into a narrow title.
    console.print(f"[bold]{escape(text)}[/bold]")
    table = Table()
    for column in ("rank", "score", "match", "image"):
        table.add_column(column, justify="left" if column == "image" else "right")
    for hit in hits.to_pylist():
        match = "" if hit["match"] is None else f"{hit['match']:+.2f}"
        table.add_row(str(hit["rank"]), f"{hit['score']:.3f}", match, hit["path"])
    console.print(table)
    hits_sheet(opened, text, hits).save(sheet)
    console.print(f"Picture: {sheet}")

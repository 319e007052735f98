"""The command ``pedalign``: the pipeline's pieces, one item at a time, without a Prefect run.

``dvc repro`` rebuilds; this is for everything around it: search a gallery with a sentence, hand
pairs to other trainers, look at one caption's phrases or one image's regions, exchange checkpoints
with the released code and compare with its numbers, prepare a raw dataset for DVC, and free the
store.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from tasks.errors import PedAlignError

if TYPE_CHECKING:
    from tasks.collecting import Leftover

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
    from tasks.annotate.single import phrases_of

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
    from tasks.annotate.single import annotate_one

    entry, picture = annotate_one(image, caption)
    typer.echo(json.dumps(entry, ensure_ascii=False))
    if draw is not None:
        picture.save(draw)


@app.command()
def parity(
    folder: Annotated[
        Path, typer.Argument(help="Reference numbers of the released code, or a folder of such")
    ],
) -> None:
    """Compare this project with the released code's numbers, a line a quantity.

    Exits with 1 if a quantity is above its tolerance, or is unknown here.
    """
    from tasks.parity import failed, report
    from tasks.parity import parity as compare

    found = compare(folder)
    typer.echo(report(found))
    if any(failed(rows) for rows in found.values()):
        raise typer.Exit(1)


@app.command("import-released")
def import_released_command(
    file: Annotated[Path, typer.Argument(help="A checkpoint of MRA or APTM, FILE.pth")],
    out: Annotated[Path, typer.Argument(help="A new checkpoint folder")],
    text: Annotated[
        Path | None,
        typer.Option(
            help="The text model's folder, for its tokenizer, or its vocab.txt; search, training "
            "and evaluation need one"
        ),
    ] = None,
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Image size; position tables are resized to another one"),
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Largest attention window in tokens, to change it", min=1)
    ] = None,
    text_heads: Annotated[
        int | None, typer.Option(help="Attention heads of the text encoder", min=1)
    ] = None,
    pixels: Annotated[
        str,
        typer.Option(
            help="How the weights expect pixels normalised: clip (MRA), or mals, cuhk, icfg, rstp "
            "(APTM trained there)"
        ),
    ] = "clip",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Name every tensor, not only how many")
    ] = False,
) -> None:
    """Make a checkpoint of this project of one of the released code. Runs no code in the file."""
    from tasks.released import import_released

    done = import_released(
        file, out, text,
        image_size=image_size, window=window, text_heads=text_heads, pixels=pixels,
    )  # fmt: skip
    kinds = {
        "mapped": [f"{there} -> {', '.join(here)}" for there, here in done.mapped.items()],
        "resized position tables": done.resized,
        "adapted to this project's pixels": done.changed,
        "buffers that follow from sizes": done.derived,
        "second names of shared tensors": done.tied,
        "left: no place in this model": done.left,
        "new: not in the file": done.new,
    }
    if verbose:
        for kind, names in kinds.items():
            typer.echo("".join(f"{kind}: {name}\n" for name in names), nl=False)
    table = Table(title=f"{file.name} -> {out}")
    table.add_column("tensors")
    table.add_column("count", justify="right")
    for kind, names in kinds.items():
        table.add_row(kind, f"{len(names):,}")
    console.print(table)
    config = done.config
    console.print(
        f"Image size {config.image_size[0]} x {config.image_size[1]}, windows "
        f"{'/'.join(map(str, config.windows))}, {config.text_layers} text and "
        f"{config.fusion_layers} fusion layers, {config.head} head of {config.embed_dim}, "
        "reading released."
    )
    if done.left and not verbose:
        console.print(f"Left: {', '.join(done.left[:5])}{' ...' if len(done.left) > 5 else ''}")


@app.command("export-released")
def export_released_command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder of this project")],
    out: Annotated[Path, typer.Argument(help="A new file, OUT.pth")],
) -> None:
    """Write a checkpoint under the names of the released code, for use there."""
    from tasks.released import export_released

    state = export_released(checkpoint, out)
    console.print(f"{len(state)} tensors under the released names in {out}")


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


@app.command()
def gc(
    branches: Annotated[
        bool, typer.Option("--branches", help="Keep what the heads of all branches need, too")
    ] = False,
    all_commits: Annotated[
        bool, typer.Option("--all-commits", help="Keep what any commit needs")
    ] = False,
    keep_days: Annotated[
        float, typer.Option(help="Keep finished work younger than this", min=0)
    ] = 1,
    keep_running_days: Annotated[
        float, typer.Option(help="Keep the checkpoints of unfinished trainings so long", min=0)
    ] = 14,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Free the shared store (`store` in runtime.yaml) as well: also what only other "
            "people's projects need",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
) -> None:
    """Free what no kept state of the project needs from .cache, the store of finished work.

    Kept: shards and trainings that the workspace needs or a tagged commit, by the manifests and
    checkpoints below data; commits are read from DVC's cache or remote. Where neither holds a
    commit's outputs, its needs are unknown and keep nothing: `gc` names such outputs, and `dvc
    fetch --all-tags` brings them. Experiments of `dvc exp` count once they are applied or have a
    branch. Freed work is lost time, never a lost result: the next `dvc repro` computes it again.

    A file in the store, its published copy and DVC's are one file with several names where the
    disk allows that, so most of what a kept commit needs costs nothing. DVC's own cache is not
    touched: `dvc gc --workspace --all-tags` frees that, and then more comes free here.

    Runs while no stage does; stages that start meanwhile wait.
    """
    from tasks.collecting import Needs, collect, freed, leftovers, revisions
    from tasks.disk import size_text
    from tasks.locks import nobody_writes
    from tasks.runtime import cache_root, project_root, runtime
    from tasks.shards import location

    project, places = project_root(), [cache_root()]
    if shared and not runtime().store:
        raise PedAlignError(
            "--shared, and runtime.yaml names no `store`",
            "it frees the shared store behind .cache",
            "leave the option out, or name the store",
        )
    if shared:
        places.append(location(runtime().store))
    with nobody_writes(cache_root()):
        names = revisions(project, branches=branches, all_commits=all_commits)
        needs = Needs.of_workspace(project) | Needs.of_revisions(project, [None, *names])
        items = [
            item
            for place in places
            for item in leftovers(
                place, needs, keep_days=keep_days, keep_running_days=keep_running_days
            )
        ]
        for unread in needs.unread:
            console.print(f"[yellow]Unknown, and nothing kept for it:[/yellow] {unread}")
        if not items:
            console.print("Nothing to free.")
            return
        console.print(_leftover_table(items))
        console.print(
            f"{size_text(freed(items))} come free; files that a published folder or DVC's cache "
            "holds as well stay on the disk until they go there."
        )
        if dry_run or not (yes or typer.confirm("Remove it?")):
            return
        collect(items)
    console.print(f"{len(items)} removed")


def _leftover_table(items: Sequence[Leftover]) -> Table:
    """Count what goes, by kind: the name of a table's schema, or what else it is."""
    from tasks.disk import size_text

    sizes: dict[str, list[int]] = {}
    for item in items:
        sizes.setdefault(item.kind, []).append(item.size)
    table = Table(title="What nothing needs")
    for column in ("what", "count", "size"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for kind, found in sorted(sizes.items()):
        table.add_row(kind, f"{len(found):,}", size_text(sum(found)))
    table.add_section()
    table.add_row("together", f"{len(items):,}", size_text(sum(map(sum, sizes.values()))))
    return table


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

"""Checkpoints of the released code and this project's: compare, bring in, hand out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows.cli.console import console


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


def import_released(
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
    from tasks.released import import_released as bring_in

    done = bring_in(
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


def export_released(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder of this project")],
    out: Annotated[Path, typer.Argument(help="A new file, OUT.pth")],
) -> None:
    """Write a checkpoint under the names of the released code, for use there."""
    from tasks.released import export_released as hand_out

    state = hand_out(checkpoint, out)
    console.print(f"{len(state)} tensors under the released names in {out}")

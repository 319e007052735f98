"""Whole sets: hand pairs to other trainers, prepare a raw dataset for DVC, compare datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from flows.cli.console import console
from tasks.errors import PedAlignError

if TYPE_CHECKING:
    from tasks.export import Exported, Layout


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
    _say(done, out)


def export_sda(
    out: Annotated[Path, typer.Argument(help="A new folder")],
    data: Annotated[
        Path, typer.Option(help="The folder of the stages' outputs, or an ingested SDA set")
    ] = Path("data"),
    entries_per_file: Annotated[
        int, typer.Option(help="Entries of a JSON file; sda_0.json is the first", min=1)
    ] = 100_000,
) -> None:
    """Write the annotated pairs as SDA was released: JSON lists with the pictures beside them.

    Pictures without regions stay, with empty lists. Rejected rows are left out and counted. Needs
    restyled/ and annotated/; `ingest` reads the folder back (format sda).
    """
    from tasks.export import Tables
    from tasks.export import export as hand_on

    tables = Tables.annotated_in(data)
    _say(hand_on(tables, to="sda", out=out, entries_per_file=entries_per_file), out)


def _say(done: Exported, out: Path) -> None:
    """Tell what was handed on and what was not."""
    console.print(f"{done.pairs} pairs with {done.captions} captions in {out}")
    for name, count in done.counts.items():
        if not count:
            continue
        console.print(f"  {name.replace('_', ' ')}: {count}")
    for reason, count in sorted(done.left_out.items()):
        console.print(f"  left out, {reason}: {count}")


def fingerprint(
    folder: Annotated[Path, typer.Argument(help="A raw dataset, data/raw/NAME")],
) -> None:
    """Write the file that tells DVC when a raw dataset changes, without watching every image."""
    from tasks.ingest import fingerprint as write_fingerprint

    write_fingerprint(folder)
    console.print(f"{folder / 'fingerprint.json'} written")


def shared_images(
    datasets: Annotated[list[Path], typer.Argument(help="Ingested datasets, two or more")],
) -> None:
    """List images that datasets share, by perceptual hash: a leak between benchmarks."""
    from tasks.ingest import shared_images as find_shared

    if len(datasets) < 2:
        raise PedAlignError(
            f"{len(datasets)} dataset", "two or more are compared", "name another folder"
        )
    found = find_shared(datasets)
    typer.echo(found.to_csv(index=False), nl=False)
    console.print(f"{len(found)} shared images")

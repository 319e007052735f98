"""The command ``pedalign``: the pipeline's pieces, one item at a time, without a Prefect run.

``dvc repro`` rebuilds; this is for everything around it: search a gallery with a sentence, hand
pairs to other trainers, look at one caption's phrases or one image's regions, exchange checkpoints
with the released code and compare with its numbers, prepare a raw dataset for DVC, and free the
store.

A module is a kind of thing that is acted on, and a function in it a command. Each imports what it
needs when it runs, so that ``pedalign --help`` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from flows.cli import ablation, checkpoints, freeing, gallery, sets, single
from tasks.errors import PedAlignError

app = typer.Typer(
    help="Domain-aligned pretraining for text-based person retrieval.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",  # Lines of a paragraph are joined.
)

app.command()(gallery.index)
app.command()(gallery.search)
app.command()(single.phrases)
app.command()(single.annotate)
app.command()(sets.export)
app.command("export-sda")(sets.export_sda)
app.command()(sets.fingerprint)
app.command("shared-images")(sets.shared_images)
app.command()(checkpoints.parity)
app.command("import-released")(checkpoints.import_released)
app.command("export-released")(checkpoints.export_released)
app.command()(ablation.ablate)
app.command()(freeing.gc)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake that the user can mend is a paragraph, not a traceback.

    Args:
        arguments: The command's name and what follows; the process's own where None.
    """
    try:
        app(arguments)
    except PedAlignError as error:
        sys.exit(str(error))

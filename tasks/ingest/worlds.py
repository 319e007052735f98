"""The built-in world as a raw dataset: drawn into data/raw/NAME, then read like any other.

``drawn.json`` says from what the folder was drawn and what then lay in it, so an unchanged world
is not drawn twice, a drawing that was interrupted or that has lost a file since is drawn again,
and nobody's own folder is ever overwritten.

Captions that `world.captions` leaves out are in no file of the raw folder: a folder that was drawn
with more of them is another drawing, so it is emptied and drawn again. The truth beside names the
attributes of everybody nevertheless; only evaluation, reports, benchmarks and tests open it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from tasks.errors import PedAlignError
from tasks.ingest.raw import listing
from tasks.params import NonNegative, Positive, params
from tasks.provenance import code_digest, library_versions
from tasks.shards import atomic_write
from tasks.world.dataset import write_source, write_target, write_unlabelled

if TYPE_CHECKING:
    from pathlib import Path

MARKER = "drawn.json"

WorldFormat = Literal["world-source", "world-target", "world-unlabelled"]
SplitName = Literal["train", "val", "test"]


@params
class WorldParams:
    """How much of the built-in world is drawn."""

    people: Positive
    """Identities. In the source, every image is of another person."""
    images_per_person: Positive
    """Images of each, over the cameras; 1 in the source. Of somebody unlabelled in one video."""
    seed: NonNegative
    """Decides who lives there and what the images look like."""
    captions: tuple[SplitName, ...]
    """Splits whose images have captions: any in the target, ``[train]`` in the source, ``[]`` in
    the unlabelled world. The others' are written nowhere, so that no stage can read them."""

    def __post_init__(self) -> None:
        """Check that no split is named twice."""
        if len(set(self.captions)) < len(self.captions):
            raise ValueError("`captions` names each split once")


def draw_world(form: WorldFormat, root: Path, world: WorldParams) -> None:
    """Draw a world's dataset, unless the very same is there.

    Args:
        form: ``world-source`` (layout of MALS), ``world-target`` (layout of CUHK-PEDES) or
            ``world-unlabelled`` (a folder of pictures).
        root: Folder of the raw dataset.
        world: Its size and seed.

    Raises:
        PedAlignError: The folder holds something that was not drawn.
    """
    recipe = {
        "format": form,
        "world": asdict(world) | {"captions": list(world.captions)},  # as JSON gives it back
        "code": code_digest("tasks.world.dataset"),
        "libraries": library_versions("numpy", "pillow"),
    }
    marker = root / MARKER
    begun = marker.exists()
    if begun and _read(marker) == recipe | {"files": listing(root, MARKER)}:
        return
    if not begun and root.exists() and any(root.iterdir()):
        raise PedAlignError(
            f"{root}: not empty, and without {MARKER}",
            "the built-in world is drawn into a folder of its own",
            "move the folder away, or give the dataset another `root`",
        )
    root.mkdir(parents=True, exist_ok=True)
    # From the first moment on the folder is known as a drawing, and as one that is not finished.
    marker.write_bytes(b"{}")
    for child in root.iterdir():  # its content goes, it stays: it may be a link
        if child != marker:
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    if form == "world-source":
        write_source(root, world.people, world.seed)
    elif form == "world-target":
        write_target(
            root, world.people, world.images_per_person, world.seed, captions=world.captions
        )
    else:
        write_unlabelled(root, world.people, world.images_per_person, world.seed)
    told = recipe | {"files": listing(root, MARKER)}
    atomic_write(marker, (json.dumps(told, indent=1, sort_keys=True) + "\n").encode())


def _read(marker: Path) -> object:
    try:
        return json.loads(marker.read_bytes())
    except ValueError:  # killed while the first mark was made
        return None

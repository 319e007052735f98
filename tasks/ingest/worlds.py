"""The built-in world as a raw dataset: drawn into data/raw/NAME, then read like any other.

``drawn.json`` is written last and says from what the folder was drawn, so an unchanged world is
not drawn twice and nobody's own folder is ever overwritten.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from tasks.errors import PedAlignError
from tasks.params import NonNegative, Positive, params
from tasks.provenance import code_digest, library_versions
from tasks.shards import atomic_write
from tasks.world.dataset import write_source, write_target

if TYPE_CHECKING:
    from pathlib import Path

MARKER = "drawn.json"

WorldFormat = Literal["world-source", "world-target"]


@params
class WorldParams:
    """How much of the built-in world is drawn."""

    people: Positive
    """Identities. In the source, every image is of another person."""
    images_per_person: Positive
    """Images of each, over the cameras; 1 in the source."""
    seed: NonNegative
    """Decides who lives there and what the images look like."""


def draw_world(form: WorldFormat, root: Path, world: WorldParams) -> None:
    """Draw a world's dataset, unless the very same is there.

    Args:
        form: ``world-source`` (layout of MALS) or ``world-target`` (layout of CUHK-PEDES).
        root: Folder of the raw dataset.
        world: Its size and seed.

    Raises:
        PedAlignError: The folder holds something that was not drawn.
    """
    recipe = {
        "format": form,
        "world": asdict(world),
        "code": code_digest("tasks.world.dataset"),
        "libraries": library_versions("numpy", "pillow"),
    }
    marker = root / MARKER
    if marker.exists():
        if json.loads(marker.read_bytes()) == recipe:
            return
    elif root.exists() and any(root.iterdir()):
        raise PedAlignError(
            f"{root}: not empty, and without {MARKER}",
            "the built-in world is drawn into a folder of its own",
            "move the folder away, or give the dataset another `root`",
        )
    if root.exists():
        # Into the folder itself, which may be a link: its content goes, it stays.
        marker.unlink(missing_ok=True)
        for child in root.iterdir():
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    root.mkdir(parents=True, exist_ok=True)
    # A drawing that is interrupted must be recognised as one, hence a marker from the start.
    atomic_write(marker, b"{}")
    if form == "world-source":
        write_source(root, world.people, world.seed)
    else:
        write_target(root, world.people, world.images_per_person, world.seed)
    atomic_write(marker, (json.dumps(recipe, indent=1, sort_keys=True) + "\n").encode())

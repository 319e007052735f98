"""The built-in world as a raw dataset: drawn into data/raw/NAME, then read like any other.

``drawn.json`` says from what the folder was drawn and what then lay in it, so an unchanged world
is not drawn twice, a drawing that was interrupted or that has lost a file since is drawn again,
and nobody's own folder is ever overwritten.

Captions of splits that `world.captions` does not name are in no file of the raw folder: a folder
that was drawn with more of them is another drawing, so it is emptied and drawn again. The truth
beside names the attributes of everybody nevertheless; only evaluation, reports, benchmarks and
tests open it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import PlainValidator

from tasks.errors import PedAlignError
from tasks.ingest.plan import SPLITS
from tasks.ingest.raw import listing
from tasks.params import NonNegative, params
from tasks.provenance import code_digest, library_versions
from tasks.shards import atomic_write
from tasks.world.dataset import write_source, write_target, write_unlabelled
from tasks.world.second.dataset import write_second

if TYPE_CHECKING:
    from pathlib import Path

MARKER = "drawn.json"

WorldFormat = Literal["world-source", "world-target", "world-second", "world-unlabelled"]
BySplit = dict[str, int]
"""A number of each split."""

_MOST = 100_000
_DRAWERS: dict[str, str] = {"world-second": "tasks.world.second.dataset"}
"""Format -> the module that draws it, where it is not `tasks.world.dataset`."""


def _numbers(value: object, example: str, least: int, most: int, *, every: bool) -> BySplit:
    """Check a mapping of splits to numbers; ``every``: all splits are named."""
    fits = (
        isinstance(value, dict)
        and value.keys() <= set(SPLITS)
        and (len(value) == len(SPLITS) or not every)
        and all(type(number) is int and least <= number <= most for number in value.values())
    )
    if not fits:
        raise ValueError(f"must be such as {example}; each number from {least} to {most:,}")
    # `fits` says that it is one.
    return value  # type: ignore[return-value]


def _people(value: object) -> int | BySplit:
    if type(value) is int and 0 < value <= _MOST:
        return value
    told = _numbers(value, "280, or {train: 200, val: 24, test: 1000}", 0, _MOST, every=True)
    if not (told["train"] and told["test"]):
        raise ValueError("somebody is in train and somebody in test; only val may be 0")
    return told


def _images(value: object) -> int | BySplit:
    if type(value) is int and 0 < value <= _MOST:
        return value
    return _numbers(value, "4, or {train: 4, val: 4, test: 2}", 1, _MOST, every=True)


def _captions(value: object) -> BySplit:
    # Somebody of whom little is seen is not described in many ways.
    return _numbers(value, "{train: 2, test: 1}", 1, 5, every=False)


@params
class WorldParams:
    """How much of the built-in world is drawn."""

    people: Annotated[int | BySplit, PlainValidator(_people)]
    """Identities. In the source, every image is of another person. In a target a number, of whom
    0.72, 0.08 and 0.20 are in train, val and test, or the number of each split."""
    images_per_person: Annotated[int | BySplit, PlainValidator(_images)]
    """Images of each, over the cameras; 1 in the source. Of somebody unlabelled in one video. In a
    target a number, or one of each split."""
    seed: NonNegative
    """Decides who lives there and what the images look like."""
    captions: Annotated[BySplit, PlainValidator(_captions)]
    """Captions of an image, by split: any in a target, ``{train: 1}`` in the source, ``{}`` in the
    unlabelled world. Those of a split that is not named are written nowhere, so that no stage can
    read them."""


def draw_world(form: WorldFormat, root: Path, world: WorldParams) -> None:
    """Draw a world's dataset, unless the very same is there.

    Args:
        form: ``world-source`` (layout of MALS), ``world-target`` and ``world-second`` (layout of
            CUHK-PEDES) or ``world-unlabelled`` (a folder of pictures).
        root: Folder of the raw dataset.
        world: Its size and seed.

    Raises:
        PedAlignError: The folder holds something that was not drawn.
    """
    recipe = {
        "format": form,
        "world": asdict(world),
        "code": code_digest(_DRAWERS.get(form, "tasks.world.dataset")),
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
    people, images = world.people, world.images_per_person
    if form in ("world-target", "world-second"):
        write = write_target if form == "world-target" else write_second
        write(root, people, images, world.seed, captions=world.captions)
    elif form == "world-source":
        write_source(root, _single(people), world.seed)
    else:
        write_unlabelled(root, _single(people), _single(images), world.seed)
    told = recipe | {"files": listing(root, MARKER)}
    atomic_write(marker, (json.dumps(told, indent=1, sort_keys=True) + "\n").encode())


def _single(number: int | BySplit) -> int:
    """Take a number where there are no splits, as `IngestDatasetParams` has checked."""
    if not isinstance(number, int):
        raise TypeError(number)
    return number


def _read(marker: Path) -> object:
    try:
        return json.loads(marker.read_bytes())
    except ValueError:  # killed while the first mark was made
        return None

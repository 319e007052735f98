"""The target's train split as diffusion training takes it: pictures as latents, captions as states.

One pass over the shards (`prepare_pairs`) finds what can be trained on, measures each picture's
light and colour (`LOOK`), and with ``adapt.cache`` keeps latents and text states, which every epoch
would compute again: `CachedPairs` reads them from two memory-mapped float16 files by the row
(CUHK-PEDES at 384x256: 0.8 GB of latents, 8 GB of text states). Without it, `StreamedPairs` reads
the pictures from their shards when they are asked for and encodes every batch anew: for sets whose
states would fill the disk. Both give the same training, the cache's rounding aside.

A distinct caption is kept once, however many pictures share it; the first one is the empty prompt.

Shape legend: N pictures, P pairs of a picture and one of its captions, T distinct captions, V
versions of a picture (2 with its mirror image), B batch, C h w latents, L tokens, D text width.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tqdm import tqdm

from tasks.errors import PedAlignError
from tasks.images import ImageError, decode, to_array_batch
from tasks.pictures import Pictures
from tasks.schemas import OK
from tasks.target import TRAIN, told_tables

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray
    from torch import Tensor

    from models.dad.base import Base

log = logging.getLogger(__name__)

LOOK = "look.safetensors"
"""Beside a trained adapter: for each train picture ``statistics`` (N, 2, C), mean and deviation
over positions of its latent channels, for ``restyle.match``; and ``pixels`` (N, 2, 3), the same of
its red, green and blue, 0 to 255, for ``restyle.mode: colours``."""

_CHUNK = 64
_TEXTS = 256
_COLUMNS = ["split", "status", "image", "captions", "width", "height"]

Read = tuple[Any, Any]
"""What `Pairs.read` gives to `Pairs.encode`: of the pictures, and of the captions."""


@dataclass(frozen=True)
class Pairs(ABC):
    """The train split as the objective takes it.

    Attributes:
        pairs: Number of the picture and of the caption, int32 (P, 2).
        captions: The distinct captions.
        images: Number of pictures, N.
        shape: Of a picture's latents, (C, h, w).
        skipped: Rows that were not used.
        look: Path of the file `LOOK`.
    """

    pairs: NDArray[np.int32]
    captions: list[str]
    images: int
    shape: tuple[int, int, int]
    skipped: int
    look: Path

    @abstractmethod
    def read(self, rows_B2: NDArray[np.int32], mirrored_B: NDArray[np.bool_]) -> Read:
        """Fetch pictures and captions by their numbers; needs no device, any thread may do it."""

    @abstractmethod
    def encode(self, read: Read, device: torch.device) -> tuple[Tensor, Tensor]:
        """Give what was read as the objective takes it.

        Returns:
            Means and deviations of the latents' posterior (B, 2, C, h, w) and text states
            (B, L, D), float32, on the device.
        """


@dataclass(frozen=True)
class CachedPairs(Pairs):
    """Computed once.

    Attributes:
        latents: Means and deviations of the latents' posterior, float16 (N, V, 2, C, h, w).
        words: States of the distinct captions, float16 (T, L, D).
    """

    latents: NDArray[np.float16]
    words: NDArray[np.float16]

    def read(self, rows_B2: NDArray[np.int32], mirrored_B: NDArray[np.bool_]) -> Read:
        """Read both files."""
        return self.latents[rows_B2[:, 0], mirrored_B.astype(np.int64)], self.words[rows_B2[:, 1]]

    def encode(self, read: Read, device: torch.device) -> tuple[Tensor, Tensor]:
        """Go to float32 and to the device."""
        latents, words = (torch.from_numpy(part).float().to(device) for part in read)
        return latents, words


@dataclass(frozen=True)
class StreamedPairs(Pairs):
    """Read from the shards and encoded each time.

    Attributes:
        pictures: The pictures, in their shards.
        base: Encodes.
        size: Height and width of the pictures, in pixels.
    """

    pictures: Pictures
    base: Base
    size: tuple[int, int]

    def read(self, rows_B2: NDArray[np.int32], mirrored_B: NDArray[np.bool_]) -> Read:
        """Decode and resize pictures, as `tasks.images.to_array_batch` does."""
        height, width = self.size
        pixels = np.empty((len(rows_B2), height, width, 3), np.uint8)
        for at, picture in enumerate(self.pictures.read(rows_B2[:, 0].astype(np.int64))):
            image = Image.fromarray(picture)
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BICUBIC)
            pixels[at] = np.asarray(image)
        pixels[mirrored_B] = pixels[mirrored_B][:, :, ::-1]
        return pixels, [self.captions[at] for at in rows_B2[:, 1]]

    def encode(self, read: Read, device: torch.device) -> tuple[Tensor, Tensor]:
        """Encode; a caption that stands in the batch twice, once."""
        pixels, captions = read
        distinct = list(dict.fromkeys(captions))
        words = self.base.encode_prompts(distinct)[[distinct.index(text) for text in captions]]
        return _encode(self.base, pixels).to(device), words.to(device)


def prepare_pairs(
    target: Path,
    base: Base,
    size: tuple[int, int],
    folder: Path,
    *,
    captions: Path | None = None,
    cache: bool = True,
    mirror: bool = False,
) -> Pairs:
    """Go through the train split once, or open what an earlier call of the same run has left.

    Args:
        target: Folder of shards of ``images``; rows of other splits and rejected rows are skipped.
        base: The frozen base.
        size: Height and width of the pictures, in pixels.
        folder: Of this run alone: it is trusted to hold the same data if it is complete.
        captions: Side table of captions, where those of the shards do not count.
        cache: Whether to keep latents and text states, or to encode every batch anew.
        mirror: Whether pictures are asked for mirrored, too.

    Raises:
        PedAlignError: No row can be trained on.
    """
    if not (folder / "pairs.json").exists():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        tables = told_tables(target, captions, _COLUMNS)
        _pass_over(tables, base, size, partial, cache, 2 if mirror and cache else 1)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    note = json.loads((folder / "pairs.json").read_bytes())
    count, *shape = note["latents"]
    common: dict[str, Any] = {
        "pairs": np.load(folder / "pairs.npy"),
        "captions": note["captions"],
        "images": count,
        "shape": tuple(shape[-3:]),
        "skipped": note["skipped"],
        "look": folder / LOOK,
    }
    if cache:
        return CachedPairs(
            latents=np.memmap(folder / "latents.f16", np.float16, "r", shape=(count, *shape)),
            words=np.load(folder / "words.npy", mmap_mode="r"),
            **common,
        )
    places = np.load(folder / "places.npy")
    pictures = Pictures(target, places[:, :2], places[:, 2], places[:, 3], cache_bytes=0)
    return StreamedPairs(pictures=pictures, base=base, size=size, **common)


# ------------------------------------------------------------------ the pass over the split


class _Passing:
    """What the pass gathers, picture by picture."""

    def __init__(self) -> None:
        self.captions: dict[str, int] = {"": 0}
        self.pairs: list[tuple[int, int]] = []
        self.places: list[tuple[int, int, int, int]] = []
        self.statistics: list[Tensor] = []
        self.pixels: list[Tensor] = []

    def add(self, shard: int, rows: list[tuple[int, dict[str, Any]]]) -> None:
        for number, row in rows:
            self.pairs += [
                (len(self.places), self.captions.setdefault(caption, len(self.captions)))
                for caption in row["captions"] or [""]
            ]
            self.places.append((shard, number, row["height"], row["width"]))

    def measure(self, latents: Tensor, pixels: NDArray[np.uint8]) -> None:
        means = latents[:, 0].float()
        self.statistics.append(torch.stack([means.mean((2, 3)), means.std((2, 3))], dim=1).cpu())
        levels = pixels.astype(np.float64)
        both = np.stack([levels.mean((1, 2)), levels.std((1, 2))], axis=1)
        self.pixels.append(torch.from_numpy(both).float())


def _pass_over(
    tables: Iterable[pa.Table],
    base: Base,
    size: tuple[int, int],
    folder: Path,
    cache: bool,
    versions: int,
) -> None:
    found, total = _Passing(), 0
    shape: list[int] = []
    with (folder / "latents.f16").open("wb") as sink, tqdm(desc="latents", unit="img") as bar:
        for shard, table in enumerate(tables):
            for first in range(0, table.num_rows, _CHUNK):
                rows, pixels = _usable(table.slice(first, _CHUNK), first, size)
                if not rows:
                    continue
                seen = [pixels, pixels[:, :, ::-1]][:versions]
                kept = torch.stack([_encode(base, each) for each in seen], dim=1).half()
                shape = list(kept.shape[1:])
                if cache:
                    sink.write(kept.cpu().numpy().tobytes())
                found.add(shard, rows)
                found.measure(kept[:, 0], pixels)
                bar.update(len(rows))
            total += table.num_rows
    if not found.pairs:
        raise PedAlignError(
            f"none of the target's {total} rows can be trained on",
            'adapt reads rows of split "train" with status "ok"',
            "check ingest's report: the split's size and the reasons of rejected rows",
        )
    captions = list(found.captions)
    if cache:
        _keep_words(base, captions, folder / "words.npy")
    else:
        (folder / "latents.f16").unlink()
        np.save(folder / "places.npy", np.asarray(found.places, np.int64))
    np.save(folder / "pairs.npy", np.asarray(found.pairs, np.int32))
    look = {"statistics": torch.cat(found.statistics), "pixels": torch.cat(found.pixels)}
    save_file(look, folder / LOOK)
    count = len(found.places)
    note = {"latents": [count, *shape], "captions": captions, "skipped": total - count}
    (folder / "pairs.json").write_text(json.dumps(note))


def _encode(base: Base, pixels_BHW3: NDArray[np.uint8]) -> Tensor:
    """Mean and deviation of the latents' posterior, float32 (B, 2, C, h, w)."""
    image = torch.from_numpy(np.ascontiguousarray(pixels_BHW3)).permute(0, 3, 1, 2)
    return torch.stack(base.encode_pixels(image.float() / 127.5 - 1), dim=1)


def _keep_words(base: Base, captions: list[str], path: Path) -> None:
    words: NDArray[np.float16] | None = None
    for start in tqdm(range(0, len(captions), _TEXTS), desc="prompts"):
        states = base.encode_prompts(captions[start : start + _TEXTS])
        if words is None:
            words = np.lib.format.open_memmap(
                path, "w+", np.float16, (len(captions), *states.shape[1:])
            )
        words[start : start + len(states)] = states.to(torch.float16).cpu().numpy()


def _usable(
    table: pa.Table, first: int, size: tuple[int, int]
) -> tuple[list[tuple[int, dict[str, Any]]], NDArray[np.uint8]]:
    """Choose the train rows that can be decoded, each with its number in the shard."""
    chosen = [
        (first + at, row)
        for at, row in enumerate(table.to_pylist())
        if row["split"] == TRAIN and row["status"] == OK and row["image"]
    ]
    try:
        return chosen, to_array_batch([row["image"] for _, row in chosen], size)
    except ImageError:
        good = []
        for number, row in chosen:
            try:
                decode(row["image"])
            except ImageError as error:
                log.warning(
                    "a row with status ok cannot be decoded and is not trained on: %s", error
                )
            else:
                good.append((number, row))
        return good, to_array_batch([row["image"] for _, row in good], size)

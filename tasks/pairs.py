"""The target's train split as diffusion training takes it: encoded once, memory-mapped.

Every epoch would compute the same latents and text states, so they are written to two files of
the training's run folder (float16: 1.2 GB of latents for CUHK-PEDES at 384x256) and read from
there by the row. A distinct caption is encoded once, however many pictures share it.

Shape legend: N pictures, P pairs of a picture and one of its captions, T distinct captions,
C h w latents, L tokens, D text width.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from tasks.errors import PedAlignError
from tasks.images import ImageError, decode, to_array_batch
from tasks.schemas import OK

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from models.dad.base import Base

log = logging.getLogger(__name__)

LOOK = "look.safetensors"
"""Beside a trained ControlNet: what `look_statistics` gives, for `restyle.match`."""

_CHUNK = 64


@dataclass(frozen=True)
class Pairs:
    """The train split as the objective takes it, memory-mapped.

    Attributes:
        latents: Means and deviations of the latents' posterior, float16 (N, 2, C, h, w).
        words: States of the distinct captions, float16 (T, L, D); the first is the empty prompt.
        pairs: Rows of both, int32 (P, 2).
        captions: The distinct captions, in step with ``words``.
        skipped: Rows that were not used.
    """

    latents: NDArray[np.float16]
    words: NDArray[np.float16]
    pairs: NDArray[np.int32]
    captions: list[str]
    skipped: int


def cache_pairs(
    tables: Iterable[pa.Table], base: Base, size: tuple[int, int], folder: Path
) -> Pairs:
    """Encode the train split once, or open what an earlier call of the same run has encoded.

    Args:
        tables: Shards of ``images``; rows of other splits and rejected rows are skipped.
        base: The frozen base.
        size: Height and width of the pictures, in pixels.
        folder: Of this run alone: it is trusted to hold the same data if it is complete.

    Raises:
        PedAlignError: No row can be trained on.
    """
    if not (folder / "cache.json").exists():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _encode_pairs(tables, base, size, partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    note = json.loads((folder / "cache.json").read_bytes())
    return Pairs(
        latents=np.memmap(folder / "latents.f16", np.float16, "r", shape=tuple(note["latents"])),
        words=np.load(folder / "words.npy", mmap_mode="r"),
        pairs=np.load(folder / "pairs.npy"),
        captions=note["captions"],
        skipped=note["skipped"],
    )


def look_statistics(data: Pairs) -> torch.Tensor:
    """Mean and deviation over positions of each picture's latent channels, float32 (N, 2, C)."""
    parts = []
    for start in range(0, len(data.latents), 1024):
        means = torch.from_numpy(data.latents[start : start + 1024, 0].astype(np.float32))
        parts.append(torch.stack([means.mean((2, 3)), means.std((2, 3))], dim=1))
    return torch.cat(parts)


def _encode_pairs(
    tables: Iterable[pa.Table], base: Base, size: tuple[int, int], folder: Path
) -> None:
    distinct: dict[str, int] = {"": 0}
    pairs: list[tuple[int, int]] = []
    count = rows = 0
    shape: tuple[int, ...] = ()
    with (folder / "latents.f16").open("wb") as sink, tqdm(desc="latents", unit="img") as bar:
        for table in tables:
            rows += table.num_rows
            for batch in table.select(["split", "status", "image", "captions"]).to_batches(_CHUNK):
                chosen = [
                    row for row in batch.to_pylist()
                    if row["split"] == "train" and row["status"] == OK and row["image"]
                ]  # fmt: skip
                pixels, chosen = _read(chosen, size)
                if not chosen:
                    continue
                image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
                latents = torch.stack(base.encode_pixels(image), dim=1)
                shape = tuple(latents.shape[1:])
                sink.write(latents.to(torch.float16).cpu().numpy().tobytes())
                for row in chosen:
                    pairs += [
                        (count, distinct.setdefault(caption, len(distinct)))
                        for caption in row["captions"] or [""]
                    ]
                    count += 1
                bar.update(len(chosen))
    if not pairs:
        raise PedAlignError(
            f"none of the target's {rows} rows can be trained on",
            'adapt reads rows of split "train" with status "ok"',
            "check ingest's report: the split's size and the reasons of rejected rows",
        )
    captions = list(distinct)
    words: NDArray[np.float16] | None = None
    for start in tqdm(range(0, len(captions), 256), desc="prompts"):
        states = base.encode_prompts(captions[start : start + 256])
        if words is None:
            words = np.lib.format.open_memmap(
                folder / "words.npy", "w+", np.float16, (len(captions), *states.shape[1:])
            )
        words[start : start + len(states)] = states.to(torch.float16).cpu().numpy()
    np.save(folder / "pairs.npy", np.asarray(pairs, np.int32))
    note = {"latents": [count, *shape], "captions": captions, "skipped": rows - count}
    (folder / "cache.json").write_text(json.dumps(note))


def _read(
    rows: list[dict[str, Any]], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Decode rows; those that cannot be are left out with a warning."""
    try:
        return to_array_batch([row["image"] for row in rows], size), rows
    except ImageError:
        good = []
        for row in rows:
            try:
                decode(row["image"])
            except ImageError as error:
                log.warning(
                    "a row with status ok cannot be decoded and is not trained on: %s", error
                )
            else:
                good.append(row)
        return to_array_batch([row["image"] for row in good], size), good

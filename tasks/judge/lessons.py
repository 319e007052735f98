"""What a judge is taught: the target's train pictures, and what their captions say they show.

Pictures are decoded once into a memory-mapped file (a hub model's features in their place), so a
training of any size runs in flat memory; labels come from `tasks.judge.naming`.

What is unusual: silence is no label. Of an attribute that its captions do not name, a picture
teaches nothing, and a value that too few pictures name is not taught at all (`left_out` says why).

Shape legend: N pictures, A attributes, D width of a feature, B batch.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from models.features import AttributeNet, HubFeatures, Pool
from models.judge import TRAINED, Judge, JudgeConfig, new_extractor
from models.loading import ALONE
from tasks.errors import PedAlignError
from tasks.images import ImageError, decode, to_array_batch
from tasks.judge.naming import most_common, named_attributes, read_vocabulary
from tasks.schemas import OK
from tasks.target import TRAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from torch import Tensor

    from tasks.judge.naming import Named
    from tasks.judge.train import JudgeParams

log = logging.getLogger(__name__)

_CHUNK = 64
_LEAST_PICTURES = 8
"""Fewest train pictures; below, nothing can be learned or measured."""


@dataclass(frozen=True)
class Lessons:
    """The train split on disk."""

    inputs: NDArray[np.generic]
    """uint8 pictures (N, H, W, 3), or float32 features (N, D) of a hub model; memory-mapped."""
    labels: NDArray[np.int64]
    """(N, A): index of the named value, -1 where there is none."""
    config: JudgeConfig
    skipped: int
    counts: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, str]


# ------------------------------------------------------------------ data


def prepare_lessons(
    tables: Iterable[pa.Table], section: JudgeParams, folder: Path, device: torch.device | str
) -> Lessons:
    """Decode (or encode) the train split once; labels from its captions."""
    note_file = folder / "note.json"
    if not note_file.exists():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        note = _write_inputs(tables, section, partial, device)
        (partial / note_file.name).write_text(json.dumps(note), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    note = json.loads(note_file.read_bytes())
    named: list[Named] = note["named"]
    attributes, left_out = _choose(named, section.least)
    if not attributes:
        raise PedAlignError(
            f"judge: {len(named)} train pictures whose captions name no attribute with two values "
            f"of at least {section.least} pictures each",
            "a judge learns from what captions name: colours and kinds of clothes, bags, hair",
            "lower gap.judge.least, add captions, or add their wordings to tasks/judge/kinds.json",
        )
    inputs = np.memmap(folder / "inputs", note["dtype"], "r", shape=tuple(note["shape"]))
    index = {name: {v: k for k, v in enumerate(values)} for name, values in attributes.items()}
    labels = np.array(
        [[index[name].get(own.get(name, ""), -1) for name in attributes] for own in named], np.int64
    )
    config = JudgeConfig(
        features=section.features,
        size=section.size,
        attributes={name: tuple(values) for name, values in attributes.items()},
        pools=_pools(attributes),
        channels=section.channels,
        width=section.width if section.features == TRAINED else int(note["shape"][1]),
    )
    return Lessons(inputs, labels, config, note["skipped"], attributes, left_out)


def _write_inputs(
    tables: Iterable[pa.Table], section: JudgeParams, folder: Path, device: torch.device | str
) -> dict[str, object]:
    """Write the inputs row by row, so that memory stays flat; return their note."""
    encoder = _hub_encoder(section, device) if section.features != TRAINED else None
    named: list[Named] = []
    rows = train = 0
    shape: tuple[int, ...] = ()
    with (folder / "inputs").open("wb") as sink, tqdm(desc="judge: pictures", unit="img") as bar:
        for table in tables:
            rows += table.num_rows
            for batch in table.select(["split", "status", "image", "captions"]).to_batches(_CHUNK):
                chosen = [
                    row for row in batch.to_pylist()
                    if row["split"] == TRAIN and row["status"] == OK and row["image"]
                ]  # fmt: skip
                train += len(chosen)
                told = named_attributes([row["captions"] or [] for row in chosen], section.parser)
                pairs = [
                    (row["image"], own) for row, own in zip(chosen, told, strict=True)
                    if own and _readable(row["image"])
                ]  # fmt: skip
                if not pairs:
                    continue
                pixels = to_array_batch([image for image, _ in pairs], section.size)
                values = pixels if encoder is None else encoder.encode_images(pixels)
                shape = values.shape[1:]
                sink.write(np.ascontiguousarray(values).tobytes())
                named += [own for _, own in pairs]
                bar.update(len(pairs))
    if len(named) < _LEAST_PICTURES:
        raise PedAlignError(
            f"judge: {len(named)} of the target's {rows} rows can be learned from; {train} are "
            "train pictures, the others of those broken or without a caption that names anything",
            f'at least {_LEAST_PICTURES} pictures of split "train" with captions',
            "check ingest's report; give the target captions, or let the stage describe do so; or "
            "leave the stage gap out",
        )
    return {
        "dtype": "uint8" if encoder is None else "float32",
        "shape": [len(named), *shape],
        "named": named,
        "skipped": rows - len(named),
    }


def _readable(data: bytes) -> bool:
    try:
        decode(data)
    except ImageError as error:
        log.warning("a row with status ok cannot be decoded and is not trained on: %s", error)
        return False
    return True


def _hub_encoder(section: JudgeParams, device: torch.device | str) -> Judge:
    config = JudgeConfig(section.features, section.size, {}, (), section.channels, section.width)
    with ALONE:  # the arms load models meanwhile
        return Judge(config, open_extractor(config), device=device)


def open_extractor(config: JudgeConfig) -> AttributeNet | HubFeatures:
    """The network that gives the features.

    Raises:
        PedAlignError: The hub model cannot be loaded, or sizes do not fit the network.
    """
    try:
        return new_extractor(config)
    except (OSError, ValueError) as error:
        raise PedAlignError(
            f"gap.judge: {' '.join(str(error).split())[:400]}",
            f"features are {TRAINED!r} or a vision model of transformers; sizes fit the network",
            "see the docstrings of tasks.judge.train.JudgeParams",
        ) from error


def _choose(named: Sequence[Named], least: int) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """The attributes and values that can be learned, with counts; and why the others cannot."""
    attributes: dict[str, dict[str, int]] = {}
    left_out: dict[str, str] = {}
    for name, values in most_common(named).items():
        kept = {value: count for value, count in values if count >= least}
        for value, count in values:
            if count < least:
                left_out[f"{name}: {value}"] = f"{count} train pictures, fewer than {least}"
        if len(kept) < 2:
            left_out[name] = f"{len(kept)} values with at least {least} train pictures; it takes 2"
            continue
        attributes[name] = dict(sorted(kept.items()))
    return attributes, left_out


def _pools(attributes: Mapping[str, object]) -> tuple[Pool, ...]:
    """One pool an attribute, first looking where the thing is."""
    return tuple(
        Pool(name, thing.place, (name,))
        for thing in read_vocabulary().all_things()
        for name in (*([thing.colour] if thing.colour else []), *thing.kinds)
        if name in attributes
    )


def augment(images_B3HW: Tensor, section: JudgeParams, draw: torch.Generator) -> Tensor:
    """Flip half the pictures, shift them, change their colours a little, blank a box of some.

    Args:
        images_B3HW: Levels 0..255.
        section: How far and how often.
        draw: Everything random comes from it.
    """
    batch, _, height, width = images_B3HW.shape
    flipped = torch.rand(batch, generator=draw) < 0.5
    images = torch.where(flipped[:, None, None, None], images_B3HW.flip(3), images_B3HW)
    up, side = round(section.shift * height), round(section.shift * width)
    if up or side:
        wide = F.pad(images, (side, side, up, up), mode="replicate")
        top = torch.randint(0, 2 * up + 1, (batch,), generator=draw)
        left = torch.randint(0, 2 * side + 1, (batch,), generator=draw)
        images = wide.unfold(2, height, 1).unfold(3, width, 1)[torch.arange(batch), :, top, left]
    if section.jitter:
        gain = 1 + section.jitter * (2 * torch.rand(batch, 3, 1, 1, generator=draw) - 1)
        # Brightness by as much of a typical deviation, doubled.
        offset = 2 * section.jitter * (2 * torch.rand(batch, 1, 1, 1, generator=draw) - 1)
        images = (images - 127.5) * gain + 64 * offset + 127.5
    if section.erasing:
        erased = torch.rand(batch, generator=draw) < section.erasing
        # Boxes of a twelfth to a third of either side.
        sides = 1 / 12 + torch.rand(batch, 2, generator=draw) / 4
        starts = torch.rand(batch, 2, generator=draw) * (1 - sides)
        ys, xs = (torch.arange(n) / n for n in (height, width))
        inside_y = (ys >= starts[:, :1]) & (ys < starts[:, :1] + sides[:, :1])
        inside_x = (xs >= starts[:, 1:]) & (xs < starts[:, 1:] + sides[:, 1:])
        box = erased[:, None, None] & inside_y[:, :, None] & inside_x[:, None, :]
        images = images.masked_fill(box[:, None], 127.5)
    return images

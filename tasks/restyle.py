"""Render source pictures in the target's look, or make new ones from the target's captions.

`restyle_table` turns a shard of ``images`` into a shard of ``restyled``:

- ``restyle``: each picture through DaD image to image with its first caption as the prompt; the
  content stays, the look changes. One row ``<uid>.r0`` a picture.
- ``generate``: the paper's way (PAPERS.md 1.2): every caption of the train split and its EDA
  versions, text to image. Rows ``<uid>.g00``, ``<uid>.g01``, and so on. The other splits' captions
  are what is evaluated on: their rows pass through as rejected ones.
- ``none``: the source at the same size and compression, for comparison. Rows ``<uid>.r0``.

What is unusual: batches are cut inside a shard and the last one is padded, so that a resumed
shard repeats the same bits; a picture's noise comes from its own uid; each distinct prompt of a
shard is encoded once; decoding the next batch and encoding the last one as JPEG happen on threads
while the denoiser runs. A bad row passes through as a rejected one.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from tqdm import tqdm

from models.dad.base import folder_revision
from models.dad.controlnet import load_controlnet
from models.dad.restyler import Restyler, SamplerName, Sampling
from tasks.diffusion import DiffusionParams, base_revision, open_base
from tasks.eda import LexiconName, expand_prompts, lexicon
from tasks.errors import PedAlignError
from tasks.images import ImageError, encode_jpeg, to_array_batch
from tasks.pairs import LOOK
from tasks.params import Fraction, NonNegative, Positive, params
from tasks.schemas import OK, REJECTED, RESTYLED, conform
from tasks.shards import item_seed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

TRAIN = "train"
"""The split whose captions become prompts."""
NO_BASE = "none"
"""``base_revision`` of rows that no diffusion model has touched."""


@params
class RestyleParams:
    """Section ``restyle``: what is made, and how it is sampled."""

    mode: Literal["restyle", "generate", "none"]
    """``restyle``: source pictures through image to image. ``generate``: new pictures from the
    target's captions, the paper's way. ``none``: the source itself, for comparison."""
    strength: Fraction
    """Mode restyle: share of the diffusion path that is run. More changes the look more and keeps
    less of the content; 0 is the autoencoder's round trip."""
    match: Fraction
    """Mode restyle: how far the mean and deviation of each latent channel go to those of a target
    picture, drawn by the row's seed, before the noise is added. Not in the paper, which has no
    image to image. Noise hides details before it hides light and colour cast: without this,
    strength changes the look only where it has lost the content. 0 is plain image to image."""
    steps: Positive
    """Denoising steps of the full path; restyle runs ``strength`` times as many. ControlNet's own
    demonstrations take 20."""
    guidance: Annotated[float, Field(ge=1)]
    """Classifier-free guidance scale; 1 turns it off and halves the work."""
    scheduler: SamplerName
    """Sampler: dpm and unipc need the fewest steps; ControlNet's demonstrations use ddim."""
    negative_prompt: str
    """What the picture is guided away from."""
    control_scale: Annotated[float, Field(ge=0)]
    """Weight of the DaD ControlNet; 0 is the base without DaD."""
    variants: Annotated[int, Field(ge=1, le=100)]
    """Mode generate: prompts a caption, the caption itself included; the paper's are 20."""
    alpha: Fraction
    """Mode generate: share of a caption's words that EDA touches; the paper's is 0.5."""
    synonyms: LexiconName
    """Mode generate: where EDA finds synonyms."""
    quality: Annotated[int, Field(ge=1, le=95)]
    """Quality of the JPEG that is kept."""
    seed: NonNegative
    """Seed of the noise and of EDA, with each row's uid."""

    @property
    def sampling(self) -> Sampling:
        """The part that the sampler needs."""
        return Sampling(
            steps=self.steps,
            strength=1.0 if self.mode == "generate" else self.strength,
            match=0.0 if self.mode == "generate" else self.match,
            guidance=self.guidance,
            scheduler=self.scheduler,
            negative_prompt=self.negative_prompt,
            control_scale=self.control_scale,
        )


def open_restyler(
    diffusion: DiffusionParams,
    section: RestyleParams,
    dad: Path | None,
    device: torch.device | str,
) -> Restyler | None:
    """Load base and ControlNet once a worker; nothing in mode ``none``.

    Args:
        diffusion: The base.
        section: How to sample.
        dad: Folder of the trained ControlNet; None for the base alone.
        device: Where to.

    Raises:
        PedAlignError: Something cannot be loaded or does not fit.
    """
    if section.mode == "none":
        return None
    base = open_base(diffusion, device)
    try:
        return Restyler(
            base,
            None if dad is None else load_controlnet(dad, base),
            diffusion.size,
            section.sampling,
            look_N2C=None if dad is None else load_file(dad / LOOK)["statistics"],
            base_revision=base_revision(diffusion),
            dad_digest=None if dad is None else folder_revision(dad),
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise PedAlignError(
            f"restyle: {' '.join(str(error).split())[:400]}",
            "the ControlNet is the one that adapt trained on diffusion.base, and the sampler's "
            "settings run at least one step",
            "run adapt for this base, or mend the section restyle",
        ) from error


@dataclass(frozen=True)
class _Item:
    """One row to be made."""

    uid: str
    parent: int  # row of the input table
    prompt: str
    operation: str | None
    captions: list[str]


# ------------------------------------------------------------------ what is to be made


def plan_rows(
    rows: Sequence[dict[str, Any]], section: RestyleParams
) -> tuple[list[_Item], list[_Item]]:
    """List the rows to be made and those that pass through as rejected.

    Args:
        rows: Columns uid, split, status, image and captions of the input, in uid order.
        section: The mode and, for ``generate``, EDA.

    Returns:
        The items to make and the rejected ones, whose ``operation`` holds nothing and whose
        reason is `_reason` of their parent.
    """
    wanted, refused = [], []
    for index, row in enumerate(rows):
        captions = [caption for caption in row["captions"] if caption.strip()]
        if section.mode == "generate":
            if row["status"] == OK and row["split"] == TRAIN and captions:
                wanted += _expand(row["uid"], index, captions, section)
            else:
                refused.append(_Item(f"{row['uid']}.g00", index, "", None, list(row["captions"])))
            continue
        prompt = captions[0] if captions else ""
        item = _Item(f"{row['uid']}.r0", index, prompt, None, list(row["captions"]))
        (wanted if row["status"] == OK and row["image"] else refused).append(item)
    return wanted, refused


def _expand(uid: str, index: int, captions: list[str], section: RestyleParams) -> list[_Item]:
    synonyms = lexicon(section.synonyms)
    prompts = [
        variant
        for at, caption in enumerate(captions)
        for variant in expand_prompts(
            caption, f"{uid}/{at}", section.seed, synonyms=synonyms, alpha=section.alpha,
            variants=section.variants,
        )
    ]  # fmt: skip
    digits = max(2, len(str(len(prompts) - 1)))
    return [
        _Item(f"{uid}.g{at:0{digits}d}", index, variant.text, variant.operation, [variant.text])
        for at, variant in enumerate(prompts)
    ]


def _reason(row: dict[str, Any], section: RestyleParams) -> str:
    if row["status"] != OK:
        return str(row["error"])
    if section.mode == "generate" and row["split"] != TRAIN:
        return f"other-split: captions of {row['split']} are no prompts"
    if not row["image"]:
        return "empty: a row with status ok holds no picture"
    return "no-caption: there is nothing to make a prompt of"


# ------------------------------------------------------------------ making it


def restyle_table(
    table: pa.Table,
    restyler: Restyler | None,
    section: RestyleParams,
    size: tuple[int, int],
    *,
    batch: int = 64,
    show: bool = False,
) -> pa.Table:
    """Turn a shard of ``images`` into a shard of ``restyled``.

    Args:
        table: Rows in uid order.
        restyler: From `open_restyler`; None in mode ``none``.
        section: What to make.
        size: Height and width of the pictures, in pixels.
        batch: Pictures a pass; changes a result by floating-point noise only.
        show: Whether to show a progress bar.

    Returns:
        A conforming ``restyled`` table, every input row the parent of at least one of its rows.

    Raises:
        PedAlignError: The mode needs a restyler and there is none.
    """
    if restyler is None and section.mode != "none":
        raise PedAlignError(
            f"restyle.mode is {section.mode} and no model is loaded",
            "modes restyle and generate need a base",
            "pass the restyler that open_restyler gives",
        )
    rows = table.select(["uid", "split", "status", "error", "image", "captions"]).to_pylist()
    wanted, refused = plan_rows(rows, section)
    words = _Words(restyler, [item.prompt for item in wanted])
    pictures: dict[str, bytes] = {}
    errors = {item.uid: _reason(rows[item.parent], section) for item in refused}
    pending: list[tuple[list[_Item], Future[list[bytes]]]] = []
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        source = _read_ahead(reader, wanted, rows, section, size, batch)
        for items, pixels, faults in tqdm(
            source, desc="restyle", total=-(-len(wanted) // batch), disable=not show
        ):
            errors.update(faults)
            if items:
                made = _make(restyler, words, items, pixels, section, batch)
                pending.append((items, writer.submit(_encode, made, section.quality)))
        for items, future in pending:
            pictures.update(zip((item.uid for item in items), future.result(), strict=True))
    return _assemble(table, [*wanted, *refused], pictures, errors, restyler, section, size)


def _read_ahead(
    reader: ThreadPoolExecutor,
    wanted: list[_Item],
    rows: Sequence[dict[str, Any]],
    section: RestyleParams,
    size: tuple[int, int],
    batch: int,
) -> Iterator[tuple[list[_Item], NDArray[np.uint8] | None, dict[str, str]]]:
    """Yield batches with their pixels; the next one is decoded while one is being used."""
    groups = [wanted[start : start + batch] for start in range(0, len(wanted), batch)]

    def read(group: list[_Item]) -> tuple[list[_Item], NDArray[np.uint8] | None, dict[str, str]]:
        if section.mode == "generate":
            return group, None, {}
        return _decode(group, rows, size)

    futures = [reader.submit(read, group) for group in groups[:2]]
    for at in range(len(groups)):
        yield futures[at].result()
        futures[at] = Future()  # drops the pixels
        if at + 2 < len(groups):
            futures.append(reader.submit(read, groups[at + 2]))


def _decode(
    group: list[_Item], rows: Sequence[dict[str, Any]], size: tuple[int, int]
) -> tuple[list[_Item], NDArray[np.uint8], dict[str, str]]:
    datas = [rows[item.parent]["image"] for item in group]
    try:
        return group, to_array_batch(datas, size), {}
    except ImageError:
        good, pixels, faults = [], [], {}
        for item, data in zip(group, datas, strict=True):
            try:
                pixels.append(to_array_batch([data], size))
                good.append(item)
            except ImageError as error:
                faults[item.uid] = str(error)
        empty = np.empty((0, *size, 3), np.uint8)
        return good, np.concatenate([empty, *pixels]), faults


def _make(
    restyler: Restyler | None,
    words: _Words,
    items: list[_Item],
    pixels: NDArray[np.uint8] | None,
    section: RestyleParams,
    batch: int,
) -> NDArray[np.uint8]:
    if restyler is None:
        assert pixels is not None  # only mode none has no restyler, and it has pixels
        return pixels
    # The last batch repeats its last picture, so that every pass has the same shape.
    fill = [*range(len(items)), *([len(items) - 1] * (batch - len(items)))]
    states = words.take([items[at].prompt for at in fill])
    seeds = [_seed(items[at], section) for at in fill]
    if pixels is None:
        made = restyler.generate(states, seeds)
    else:
        made = restyler.restyle(pixels[fill], states, seeds)
    return made[: len(items)]


def _seed(item: _Item, section: RestyleParams) -> int:
    return item_seed(item.uid, section.seed, "noise")


def _encode(pictures: NDArray[np.uint8], quality: int) -> list[bytes]:
    return [encode_jpeg(picture, quality) for picture in pictures]


class _Words:
    """States of a shard's distinct prompts, each encoded once, in order of appearance."""

    def __init__(self, restyler: Restyler | None, prompts: list[str]) -> None:
        self._at = {prompt: at for at, prompt in enumerate(dict.fromkeys(prompts))}
        self._states = torch.empty(0)
        if restyler is not None:
            self._states = restyler.base.encode_prompts(list(self._at)).cpu()

    def take(self, prompts: list[str]) -> torch.Tensor:
        """Return the states (B, L, D) of some prompts."""
        return self._states[[self._at[prompt] for prompt in prompts]]


def _assemble(
    table: pa.Table,
    items: list[_Item],
    pictures: dict[str, bytes],
    errors: dict[str, str],
    restyler: Restyler | None,
    section: RestyleParams,
    size: tuple[int, int],
) -> pa.Table:
    items = sorted(items, key=lambda item: item.uid)
    parents = table.drop_columns(["image"]).take(
        pa.array([item.parent for item in items], pa.int64())
    )
    count, sampling = len(items), section.sampling
    generated = section.mode == "generate"
    base_id, dad_id = NO_BASE, None
    if sampled := restyler is not None:
        base_id, dad_id = restyler.base_revision, restyler.dad_digest
    made = pa.chunked_array([[item.uid not in errors for item in items]], pa.bool_())

    def repeat(value: object) -> list[object]:
        return list(itertools.repeat(value, count))

    columns: dict[str, Any] = {name: parents[name] for name in parents.column_names}
    # A picture made from words shows nobody in particular.
    if generated:
        columns |= {"person_id": repeat(None), "camera": repeat(None), "labels": repeat(None)}
    columns |= {
        "uid": [item.uid for item in items],
        "parent_uid": parents["uid"],
        "image": [pictures.get(item.uid) for item in items],
        **{
            side: [
                length if ok else was
                for ok, was in zip(made, parents[side].to_pylist(), strict=True)
            ]
            for side, length in zip(("height", "width"), size, strict=True)
        },
        "captions": [item.captions for item in items],
        "status": [REJECTED if item.uid in errors else OK for item in items],
        "error": [errors.get(item.uid) for item in items],
        "prompt": [item.prompt for item in items],
        "eda_op": [item.operation for item in items],
        "seed": [_seed(item, section) for item in items],
        "strength": repeat(sampling.strength if sampled else 0.0),
        "steps": repeat(sampling.steps if sampled else 0),
        "guidance": repeat(sampling.guidance if sampled else 1.0),
        "base_revision": repeat(base_id),
        "dad_digest": repeat(dad_id),
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if isinstance(columns[field.name], list)
        else columns[field.name].combine_chunks().cast(field.type)
        for field in RESTYLED
    ]
    return conform(pa.table(arrays, schema=RESTYLED), "restyled")

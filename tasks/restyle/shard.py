"""Render source pictures in the target's look, or make new ones from the target's captions.

`restyle_table` turns a shard of ``images`` into a shard of ``restyled``:

- ``restyle``: each picture through DaD image to image with its first caption as the prompt; the
  content stays, the look changes. One row ``<uid>.r0`` a picture.
- ``generate``: the paper's way (sec. 3.2): every caption of the train split and its EDA
  versions, text to image. Rows ``<uid>.g00``, ``<uid>.g01``, and so on. The other splits' captions
  are what is evaluated on: their rows pass through as rejected ones.
- ``colours``: the source with the colour statistics of target pictures, without any diffusion.
  Rows ``<uid>.r0``, as of the next.
- ``none``: the source at the same size and compression, for comparison.

`tasks.restyle.prompts` says which rows there are, `tasks.restyle.renderer` makes the pictures,
`tasks.restyle.lineage` writes the rows. What is unusual: every batch is of one shard and of one
size, filled up where pictures run out, so a second attempt at a shard gives the bits of the first;
a picture's noise comes from its own uid; each distinct prompt of a shard is encoded once. The
denoiser waits for nobody: pictures are decoded two batches ahead, a batch is queued while the one
before is computed, and what comes back is encoded as JPEG on another thread. A bad row passes
through as a rejected one.
"""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field
from tqdm import tqdm

from models.dad.sampling import NoiseName, SamplerName, Sampling
from tasks.eda import LexiconName
from tasks.images import ImageError, encode_jpeg, to_array_batch
from tasks.params import Fraction, NonNegative, Positive, params
from tasks.restyle.lineage import restyled_table
from tasks.restyle.prompts import READ, Item, plan_rows
from tasks.restyle.renderer import noise_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from models.dad.restyler import Pending
    from tasks.restyle.renderer import Arm, Ready

_AHEAD = 2
"""Batches that may be decoded, and batches that may be queued, before they are asked for."""


@params
class RestyleParams:
    """Section ``restyle``: what is made, and how it is sampled."""

    mode: Literal["restyle", "generate", "colours", "none"]
    """``restyle``: source pictures through image to image. ``generate``: new pictures from the
    target's captions, the paper's way. ``colours``: no diffusion, each picture's RGB channels get
    the mean and deviation of a target picture's, drawn by the row's seed, as far as ``match``
    says; the plain way that DaD has to beat. ``none``: the source itself, for comparison."""
    strength: Fraction
    """Mode restyle: share of the diffusion path that is run. More changes the look more and keeps
    less of the content; 0 is the autoencoder's round trip."""
    match: Fraction
    """Mode restyle: how far the mean and deviation of each latent channel go to those of a target
    picture, drawn by the row's seed, before the noise is added. Not in the paper, which has no
    image to image. Noise hides details before it hides light and colour cast: without this,
    strength changes the look only where it has lost the content. 0 is plain image to image. Mode
    colours: how far each channel goes."""
    steps: Positive
    """Denoising steps of the full path; restyle runs ``strength`` times as many. ControlNet's own
    demonstrations take 20."""
    guidance: Annotated[float, Field(ge=1)]
    """Classifier-free guidance scale; 1 turns it off and halves the work."""
    scheduler: SamplerName
    """Sampler: dpm and unipc need the fewest steps; ControlNet's demonstrations use ddim; lcm is
    for a base that was distilled to few steps."""
    negative_prompt: str
    """What the picture is guided away from."""
    noise: NoiseName
    """Mode restyle: ``random`` draws the start's noise, the usual image to image. ``inverted``
    computes it from the picture by the base alone and comes back through DaD (Su et al., 2023):
    what base and target have in common stays, so more content is kept at the same look, for twice
    the steps. It needs scheduler ddim."""
    detail: Fraction
    """Mode restyle: how much of what the autoencoder loses of the source is put back, in the
    contrast of the picture that was made. For pictures that keep their outlines: with inverted
    noise, or little strength; else the source shows through as a ghost. Ours."""
    control_scale: Annotated[float, Field(ge=0)]
    """Weight of DaD, ControlNet or LoRA; 0 is the base without DaD, and nothing of it runs."""
    reuse: Positive
    """The UNet's deep features are computed at every ``reuse``-th step and taken over between
    (DeepCache). 1 computes all and changes nothing; 2 or 3 save most where steps are many."""
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
            noise="random" if self.mode == "generate" else self.noise,
            detail=0.0 if self.mode == "generate" else self.detail,
            negative_prompt=self.negative_prompt,
            control_scale=self.control_scale,
            reuse=self.reuse,
        )


def restyle_table(table: pa.Table, arm: Arm, *, batch: int = 64, show: bool = False) -> pa.Table:
    """Turn a shard of ``images`` into a shard of ``restyled``.

    Args:
        table: Rows in uid order.
        arm: From `tasks.restyle.renderer.Renderer.arm`.
        batch: Pictures a pass; changes a result by floating-point noise only.
        show: Whether to show a progress bar.

    Returns:
        A conforming ``restyled`` table, every input row the parent of at least one of its rows.
    """
    section = arm.section
    rows = table.select(list(READ)).to_pylist()
    items = plan_rows(rows, section)
    errors = {item.uid: item.refusal for item in items if item.refusal is not None}
    wanted = [item for item in items if item.refusal is None]
    words = arm.words([item.prompt for item in wanted])
    pictures: dict[str, bytes] = {}
    coming: deque[Future[dict[str, bytes]]] = deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        source = _read_ahead(reader, wanted, rows, arm, batch)
        for group in tqdm(source, desc="restyle", total=-(-len(wanted) // batch), disable=not show):
            errors.update(group.faults or {})
            if not group.items:
                continue
            prompts = [item.prompt for item in group.items]
            seeds = [noise_seed(item.uid, section) for item in group.items]
            begun = arm.begin(group.pixels, words, prompts, seeds, batch)
            coming.append(writer.submit(_encode, begun, group.items, section.quality))
            if len(coming) > _AHEAD:
                pictures.update(coming.popleft().result())
        for future in coming:
            pictures.update(future.result())
    return restyled_table(table, items, pictures, errors, arm)


@dataclass(frozen=True)
class _Group:
    """One batch as it is read."""

    items: Sequence[Item]
    pixels: NDArray[np.uint8] | None = None
    """In step with the items; None where the mode needs no source."""
    faults: dict[str, str] | None = None


def _read_ahead(
    reader: ThreadPoolExecutor,
    wanted: list[Item],
    rows: Sequence[dict[str, Any]],
    arm: Arm,
    batch: int,
) -> Iterator[_Group]:
    """Yield batches with their pixels; the next ones are decoded while one is being used."""

    def read(start: int) -> _Group:
        group = wanted[start : start + batch]
        if arm.section.mode == "generate":
            return _Group(group)
        return _decode(group, rows, arm.size)

    starts = iter(range(0, len(wanted), batch))
    coming = deque(reader.submit(read, start) for start in itertools.islice(starts, _AHEAD))
    while coming:
        group = coming.popleft().result()
        coming.extend(reader.submit(read, start) for start in itertools.islice(starts, 1))
        yield group


def _decode(group: list[Item], rows: Sequence[dict[str, Any]], size: tuple[int, int]) -> _Group:
    datas = [rows[item.parent]["image"] for item in group]
    try:
        return _Group(group, to_array_batch(datas, size))
    except ImageError:
        good, pixels, faults = [], [], {}
        for item, data in zip(group, datas, strict=True):
            try:
                pixels.append(to_array_batch([data], size))
                good.append(item)
            except ImageError as error:
                faults[item.uid] = str(error)
        empty = np.empty((0, *size, 3), np.uint8)
        return _Group(good, np.concatenate([empty, *pixels]), faults)


def _encode(begun: Pending | Ready, items: Sequence[Item], quality: int) -> dict[str, bytes]:
    """Wait for a batch and encode it; what its pads made is left."""
    made = begun.wait()[: len(items)]
    return {
        item.uid: encode_jpeg(picture, quality) for item, picture in zip(items, made, strict=True)
    }

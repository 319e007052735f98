"""What makes pictures in every mode of `restyle`: networks loaded once, any number of arms.

`open_renderer` loads base, adapter and the target's statistics once; `Renderer.arm` gives what one
section of parameters makes of pictures, at next to no cost, so an experiment renders the same
source in many ways with one set of networks. `Arm.render` takes arrays and gives arrays;
`tasks.restyle.shard` goes from shards to shards with `Arm.begin`, batch by batch.

    renderer = open_renderer(diffusion, dad, device)
    for section in sections:
        seeds = [row_seed(uid, section) for uid in uids]
        pictures_NHW3 = renderer.arm(section).render(pixels_NHW3, prompts, seeds)

What is unusual: a picture's bits depend on which prompts were encoded in one pass, so `Words`
encodes a list of prompts in parts that follow from the list alone, whatever was asked before.

Shape legend: N pictures, B batch, H W pixels, L tokens, D text width.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.dad.adapters import ControlNetAdapter, load_adapter
from models.dad.base import folder_revision
from models.dad.look import match_colours
from models.dad.restyler import Pending, Restyler, Sampling
from tasks.diffusion import base_revision, open_base
from tasks.errors import PedAlignError
from tasks.pairs import LOOK
from tasks.shards import item_seed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from models.dad.adapters import Adapter
    from models.dad.base import Base
    from tasks.diffusion import DiffusionParams
    from tasks.restyle.shard import RestyleParams

NO_BASE = "none"
"""``base_revision`` of rows that no diffusion model has touched."""
PROMPTS = 64
"""Prompts encoded in one pass."""


def row_seed(uid: str, section: RestyleParams) -> int:
    """Seed of the row that restyle makes of a source row: of ``<uid>.r0``."""
    return noise_seed(f"{uid}.r0", section)


def noise_seed(uid: str, section: RestyleParams) -> int:
    """Seed of a made row's noise and of its target picture, from its own uid."""
    return item_seed(uid, section.seed, "noise")


def needs_model(section: RestyleParams) -> bool:
    """Whether a mode runs the diffusion model."""
    return section.mode in {"restyle", "generate"}


class Words:
    """States of a list's distinct prompts, encoded when they are needed, each once.

    Args:
        base: Whose text encoder.
        prompts: All that will be asked for, in order; repeated ones count.
        keep: Whether states stay after their last use; else memory stays flat.
    """

    def __init__(self, base: Base, prompts: Sequence[str], *, keep: bool = False) -> None:
        self._base = base
        self._texts = list(dict.fromkeys(prompts))
        self._at = {prompt: at for at, prompt in enumerate(self._texts)}
        self._left = None if keep else Counter(prompts)
        self._states: dict[str, torch.Tensor] = {}

    def take(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return the states (B, L, D) of the next prompts."""
        for prompt in prompts:
            if prompt not in self._states:
                first = self._at[prompt] // PROMPTS * PROMPTS
                part = self._texts[first : first + PROMPTS]
                states = self._base.encode_prompts(part)
                self._states.update(zip(part, states, strict=True))
        taken = torch.stack([self._states[prompt] for prompt in prompts])
        if self._left is not None:
            self._left.subtract(prompts)
            for prompt in set(prompts):
                if self._left[prompt] <= 0:
                    del self._states[prompt]
        return taken


@dataclass(frozen=True)
class Ready:
    """Pictures that took no waiting."""

    pictures_BHW3: NDArray[np.uint8]

    def wait(self) -> NDArray[np.uint8]:
        """Return them."""
        return self.pictures_BHW3


class Renderer:
    """Networks and statistics of one base and one adapter, for any number of arms.

    Args:
        size: Height and width of the pictures, in pixels.
        base: The base; None where no mode needs one.
        adapter: DaD, for the base; None for the base alone.
        look: Tensors of look.safetensors: ``statistics`` and ``pixels``; empty without DaD.
        base_id: What identifies the base.
        dad_id: What identifies the adapter's folder.
        compiled: Whether networks go through torch.compile.
    """

    def __init__(
        self,
        size: tuple[int, int],
        base: Base | None,
        adapter: Adapter | None = None,
        look: dict[str, torch.Tensor] | None = None,
        *,
        base_id: str = NO_BASE,
        dad_id: str | None = None,
        compiled: bool = False,
    ) -> None:
        self.size, self.base, self.look = size, base, look or {}
        self.base_id, self.dad_id = base_id, dad_id
        self._adapter, self._compiled = adapter, compiled
        self._restylers: dict[tuple[float, bool], Restyler] = {}
        self._words: tuple[tuple[str, ...], Words] | None = None
        self.turn = threading.RLock() if base is None or base.device.type != "cpu" else None
        """Threads that share a GPU queue their batches one after the other."""
        self._reading = threading.Lock()

    def arm(self, section: RestyleParams) -> Arm:
        """Return what a section makes of pictures.

        Raises:
            PedAlignError: The section's settings and what was loaded do not go together.
        """
        restyler = None
        if needs_model(section):
            if self.base is None:
                raise PedAlignError(
                    f"restyle.mode is {section.mode} and no model is loaded",
                    "modes restyle and generate need a base",
                    "open the renderer with model=True",
                )
            try:
                restyler = self._restyler(section.sampling)
            except (OSError, ValueError) as error:
                raise _unusable(error) from error
        elif section.mode == "colours" and section.match == 0:
            raise PedAlignError(
                "restyle.mode is colours and restyle.match 0",
                "match is the share of the way to the target picture's colours; 0 changes nothing",
                "set restyle.match to 1.0, or the mode to none",
            )
        elif section.mode == "colours" and "pixels" not in self.look:
            raise PedAlignError(
                "restyle.mode is colours and there are no target statistics",
                f"they are `pixels` of {LOOK}, which adapt writes beside what it trains",
                "run adapt, and let inputs.dad name its folder",
            )
        return Arm(self, section, restyler)

    def _restyler(self, sampling: Sampling) -> Restyler:
        assert self.base is not None
        # A LoRA's weight is inside the UNet; a ControlNet's is a matter of the sampling.
        merged = not isinstance(self._adapter, ControlNetAdapter)
        weight = sampling.control_scale if merged else 1.0
        plain = self.base if merged and weight and sampling.noise == "inverted" else None
        key = weight, plain is not None
        with self._reading:
            if key not in self._restylers:
                base, controlnet = self.base, None
                if self._adapter is not None:
                    base, controlnet = self._adapter.applied(base, weight)
                self._restylers[key] = Restyler(
                    base,
                    controlnet,
                    self.size,
                    sampling,
                    look_N2C=self.look.get("statistics"),
                    plain=plain,
                    compiled=self._compiled,
                )
            return self._restylers[key].with_sampling(sampling)

    def words(self, prompts: Sequence[str]) -> Words:
        """States of a list of prompts, kept until another list is asked for."""
        assert self.base is not None
        key = tuple(prompts)
        if self._words is None or self._words[0] != key:
            self._words = key, Words(self.base, prompts, keep=True)
        return self._words[1]


@dataclass(frozen=True)
class Arm:
    """What one section of parameters makes of pictures.

    Attributes:
        renderer: Networks and statistics, shared with other arms.
        section: The parameters.
        restyler: Of modes restyle and generate.
    """

    renderer: Renderer
    section: RestyleParams
    restyler: Restyler | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures, in pixels."""
        return self.renderer.size

    def words(self, prompts: Sequence[str]) -> Words | None:
        """What `begin` needs for these prompts, to be asked in order; memory stays flat."""
        if self.restyler is None:
            return None
        return Words(self.restyler.base, prompts)

    def begin(
        self,
        pixels_BHW3: NDArray[np.uint8] | None,
        words: Words | None,
        prompts: Sequence[str],
        seeds: Sequence[int],
        batch: int,
    ) -> Pending | Ready:
        """Start one batch; a GPU works on after the return.

        Args:
            pixels_BHW3: The source pictures; not used in mode ``generate``.
            words: From `words`.
            prompts: One a picture.
            seeds: One a picture.
            batch: Pictures of a full pass; a smaller batch is padded with its last picture, so
                that all passes have one shape. The pads come back too.
        """
        if self.restyler is None:
            assert pixels_BHW3 is not None  # modes none and colours read the source
            if self.section.mode == "none":
                return Ready(pixels_BHW3)
            look = self.renderer.look["pixels"].numpy()
            return Ready(match_colours(pixels_BHW3, look, seeds, self.section.match))
        assert words is not None
        fill = [*range(len(seeds)), *([len(seeds) - 1] * (batch - len(seeds)))]
        source = None
        if self.section.mode == "restyle":
            assert pixels_BHW3 is not None
            source = pixels_BHW3[fill] if len(fill) > len(seeds) else pixels_BHW3
        with self.renderer.turn or contextlib.nullcontext():
            states = words.take(prompts)
            return self.restyler.begin(source, states[fill], [seeds[at] for at in fill])

    def render(
        self,
        pixels_NHW3: NDArray[np.uint8] | None,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        batch: int = 64,
    ) -> NDArray[np.uint8]:
        """Make pictures of arrays; see the module.

        Args:
            pixels_NHW3: Source pictures of the renderer's size; None in mode ``generate``.
            prompts: One a picture; not used by modes none and colours.
            seeds: One a picture, from `row_seed`.
            batch: Pictures a pass; changes a result by floating-point noise only.

        Returns:
            Pictures (N, H, W, 3).
        """
        words = None if self.restyler is None else self.renderer.words(prompts)
        made: list[NDArray[np.uint8]] = []
        ahead: list[tuple[int, Pending | Ready]] = []
        for start in range(0, len(seeds), batch):
            rows = slice(start, start + batch)
            source = None if pixels_NHW3 is None else pixels_NHW3[rows]
            begun = self.begin(source, words, prompts[rows], seeds[rows], batch)
            ahead.append((len(seeds[rows]), begun))
            if len(ahead) > 2:
                count, first = ahead.pop(0)
                made.append(first.wait()[:count])
        made += [each.wait()[:count] for count, each in ahead]
        return np.concatenate([np.empty((0, *self.size, 3), np.uint8), *made])

    def lineage(self) -> dict[str, object]:
        """How a picture of this arm is made: columns of ``restyled``, equal in all of its rows."""
        section, sampled = self.section, self.restyler is not None
        matched = section.mode == "colours"
        if self.restyler is not None:
            sampling = self.restyler.sampling
            adapted = self.renderer.dad_id if sampling.control_scale or sampling.match else None
        else:
            sampling = Sampling(steps=0, strength=0.0)
            adapted = self.renderer.dad_id if matched else None
        weighed = sampled and self.renderer.dad_id is not None
        return {
            "mode": section.mode,
            "strength": sampling.strength,
            "match": section.match if matched else sampling.match,
            "steps": sampling.steps,
            "guidance": sampling.guidance,
            "scheduler": sampling.scheduler if sampled else None,
            "noise": sampling.noise if sampled else None,
            "detail": sampling.detail,
            "negative_prompt": sampling.negative_prompt if sampled and sampling.guided else None,
            "control_scale": sampling.control_scale if weighed else 0.0,
            "reuse": sampling.reuse,
            "base_revision": self.renderer.base_id if sampled else NO_BASE,
            "dad_digest": adapted,
        }


def open_renderer(
    diffusion: DiffusionParams,
    dad: Path | None,
    device: torch.device | str,
    *,
    model: bool = True,
    compiled: bool = False,
) -> Renderer:
    """Load what pictures are made with, once.

    Args:
        diffusion: The base and the size.
        dad: Folder that adapt left; None for the base alone.
        device: Where to.
        model: Whether to load base and adapter: modes none and colours need none.
        compiled: Whether networks go through torch.compile.

    Raises:
        PedAlignError: Something cannot be loaded or does not fit.
    """
    try:
        look = {} if dad is None or not (dad / LOOK).exists() else load_file(dad / LOOK)
        dad_id = None if dad is None else folder_revision(dad)
        if not model:
            return Renderer(diffusion.size, None, None, look, dad_id=dad_id)
        base = open_base(diffusion, device)
        adapter = None if dad is None else load_adapter(dad, base)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(error) from error
    return Renderer(
        diffusion.size,
        base,
        adapter,
        look,
        base_id=base_revision(diffusion),
        dad_id=dad_id,
        compiled=compiled,
    )


def _unusable(error: Exception) -> PedAlignError:
    return PedAlignError(
        f"restyle: {' '.join(str(error).split())[:400]}",
        "the adapter is the one that adapt trained on diffusion.base, and the sampler's settings "
        "run at least one step",
        "run adapt for this base, or mend the section restyle",
    )

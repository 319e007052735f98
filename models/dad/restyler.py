"""Pictures in the target's look, in batches: image to image and text to image through DaD.

`Restyler.restyle` is image to image (the source picture is noised up to ``strength`` and denoised
through DaD, sec. 3.1 for the network; image to image is this project's way of keeping the
content), `Restyler.generate` is the paper's text to image. The results are those of diffusers'
ControlNet pipelines with one generator a picture (tests hold them against each other, every
sampler); what is left out is in `models.dad.denoiser`.

What is unusual: nothing in the loop waits for a GPU. `Restyler.begin` returns while the GPU still
works, and `Pending.wait` gives the pictures, so the next batch is queued before this one is done,
and whoever wants the pixels waits on another thread. The noise of a picture comes from its own
seed and is drawn on the CPU, so neither order nor batch nor device changes it; batch size changes
a result by floating-point noise only. Several threads may use one Restyler.

One step is this project's own, and off unless ``match`` says so: noise hides details long before
it hides light and colour cast, so image to image keeps the source's light at any strength that
keeps its content. ``match`` moves the statistics of the start to those of a target picture
(`models.dad.look`) before the noise is added; DaD then makes a plausible picture of it.

The autoencoder smears what is thin; ``detail`` puts that back (`models.dad.look.put_back`).
With ``noise: inverted`` no noise is drawn at all: it is computed from the picture, and the adapter
changes the look on the way back (`models.dad.inversion`).

    restyler = Restyler(base, controlnet, (384, 256), Sampling(steps=20, strength=0.5))
    pictures_BHW3 = restyler.restyle(pixels_BHW3, base.encode_prompts(prompts), seeds)
    other = restyler.with_sampling(Sampling(steps=20, strength=0.7))  # the same networks

Shape legend: B batch, H W pixels, h w latent positions, C latent channels, L tokens, D text width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.dad.denoiser import Denoiser
from models.dad.inversion import Bridge
from models.dad.look import match_look, put_back
from models.dad.sampling import Path, Sampling, draw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diffusers import ControlNetModel
    from numpy.typing import NDArray
    from torch import Tensor

    from models.dad.base import Base

__all__ = ["Pending", "Restyler", "Sampling"]


@dataclass(frozen=True)
class Pending:
    """Pictures on their way: on a GPU they may still be computed."""

    pictures_BHW3: Tensor
    done: torch.cuda.Event | None

    def wait(self) -> NDArray[np.uint8]:
        """Return the pictures once they are there; other threads go on meanwhile."""
        if self.done is not None:
            self.done.synchronize()
        return self.pictures_BHW3.numpy()


class Restyler:
    """A base and its DaD ControlNet, ready to make pictures in batches.

    Args:
        base: The frozen base; copied, so that it may go on being used, or trained with.
        controlnet: The trained DaD ControlNet; None for the base alone.
        size: Height and width of the pictures, in pixels.
        sampling: How to sample.
        look_N2C: Means and deviations of the target pictures' latents, for ``match``.
        plain: The base that inverted noise is computed with, where ``base`` holds an adapter
            itself (LoRA); None where it does not.
        compiled: Whether the networks go through torch.compile: minutes before the first batch.

    Raises:
        ValueError: The size does not fit the base, the sampler is unknown, ``strength`` is above
            0 and yet runs no step, ``match`` has nothing to go to, or inverted noise has too many
            steps for its strength.
    """

    def __init__(
        self,
        base: Base,
        controlnet: ControlNetModel | None,
        size: tuple[int, int],
        sampling: Sampling,
        *,
        look_N2C: Tensor | None = None,
        plain: Base | None = None,
        compiled: bool = False,
    ) -> None:
        if any(side % base.scale for side in size):
            raise ValueError(
                f"size {size}; both sides must be multiples of {base.scale}, the pixels a latent "
                f"position of {base.name}; round them"
            )
        self.base, self.size, self._look_N2C = base, size, look_N2C
        self._use(sampling)
        self._denoiser = Denoiser(base, controlnet, size, compiled=compiled)
        self._upwards = (
            self._denoiser if plain is None else Denoiser(plain, None, size, compiled=compiled)
        )

    def with_sampling(self, sampling: Sampling) -> Restyler:
        """Return one that samples otherwise with the same networks; costs next to nothing.

        Raises:
            ValueError: As the constructor, of the sampling.
        """
        made = copy.copy(self)
        made._use(sampling)
        return made

    def _use(self, sampling: Sampling) -> None:
        if sampling.strength > 0 and sampling.executed == 0:
            raise ValueError(
                f"strength {sampling.strength} of {sampling.steps} steps runs no step at all; "
                f"strength is 0, or at least {1 / sampling.steps:.3g} here; raise steps or strength"
            )
        if sampling.match > 0 and self._look_N2C is None:
            raise ValueError(
                f"match is {sampling.match} and no target statistics are given; they come with the "
                "adapter that adapt trains; set match to 0 or pass that adapter"
            )
        self.sampling = sampling
        self._whole = Path(self.base, sampling, sampling.steps)
        self._last = Path(self.base, sampling, sampling.executed) if sampling.executed else None
        self._bridge = None
        if sampling.noise == "inverted" and sampling.executed:
            self._bridge = Bridge(self.base, sampling.strength, sampling.executed)
        self._negative_1LD = (
            self.base.encode_prompts([sampling.negative_prompt]) if sampling.guided else None
        )

    def restyle(
        self,
        pixels_BHW3: NDArray[np.uint8],
        words_BLD: Tensor,
        seeds: Sequence[int],
    ) -> NDArray[np.uint8]:
        """Render source pictures in the target's look.

        Args:
            pixels_BHW3: The source pictures.
            words_BLD: Their prompts' states, from `Base.encode_prompts`.
            seeds: One a picture.

        Returns:
            Pictures (B, H, W, 3).
        """
        return self.begin(pixels_BHW3, words_BLD, seeds).wait()

    def generate(self, words_BLD: Tensor, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Make pictures from prompts alone (the paper's way).

        Args:
            words_BLD: The prompts' states, from `Base.encode_prompts`.
            seeds: One a picture.

        Returns:
            Pictures (B, H, W, 3).
        """
        return self.begin(None, words_BLD, seeds).wait()

    @torch.no_grad()
    def begin(
        self,
        pixels_BHW3: NDArray[np.uint8] | None,
        words_BLD: Tensor,
        seeds: Sequence[int],
    ) -> Pending:
        """Start `restyle`, or without pixels `generate`; a GPU works on after the return."""
        device = self.base.device
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        path = self._whole if pixels_BHW3 is None else self._last
        if pixels_BHW3 is None:
            noise = draw(self._denoiser.latent_shape, generators, device)
            latents = noise * self._whole.spread
        else:
            source = self._sent(pixels_BHW3)
            latents, plain = self._start(source, seeds, generators)
        if pixels_BHW3 is not None and self._bridge is not None:
            # A ControlNet of weight 0 does not run, which leaves the base alone.
            up = self._upwards.begin(words_BLD, None, control_scale=0.0)
            latents = self._bridge.walk(latents, up, self._predict(words_BLD))
        elif path is not None:
            latents = self._denoise(latents, path, words_BLD, generators)
        made = self._denoiser.decode(latents)
        if pixels_BHW3 is not None and self.sampling.detail > 0:
            made = put_back(made, self._denoiser.decode(plain), source, self.sampling.detail)
        return _on_its_way(made)

    def _sent(self, pixels_BHW3: NDArray[np.uint8]) -> Tensor:
        image = torch.from_numpy(np.ascontiguousarray(pixels_BHW3))
        if self.base.device.type == "cuda":
            image = image.pin_memory()
        return image.to(self.base.device, non_blocking=True)

    def _start(
        self,
        source_BHW3: Tensor,
        seeds: Sequence[int],
        generators: Sequence[torch.Generator],
    ) -> tuple[Tensor, Tensor]:
        """Encode and, unless its noise is computed, noise the source, in diffusers' order."""
        network, device = self._denoiser, self.base.device
        image = source_BHW3.permute(0, 3, 1, 2).float() / 255
        mean, deviation = network.encode(image * 2 - 1)
        plain = mean * network.factor
        drawn = self._last is not None and self._bridge is None
        if drawn:
            mean = mean + deviation * draw(network.latent_shape, generators, device)
        latents = mean * network.factor
        if self.sampling.match > 0 and self._look_N2C is not None:
            latents = match_look(latents, self._look_N2C, seeds, self.sampling.match)
        if self._last is None or not drawn:
            return latents, plain
        noise = draw(network.latent_shape, generators, device)
        return self._last.start(latents, noise), plain

    def _denoise(
        self,
        latents_BChw: Tensor,
        path: Path,
        words_BLD: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        predict = self._predict(words_BLD)
        sampler = path.sampler()
        options = path.step_options(sampler, generators)
        for time, device_time in zip(path.times, path.device_times, strict=True):
            scaled = sampler.scale_model_input(latents_BChw, time)
            seen = predict(scaled, device_time)
            latents_BChw = sampler.step(seen, time, latents_BChw, return_dict=False, **options)[0]
        return latents_BChw

    def _predict(self, words_BLD: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return self._denoiser.begin(
            words_BLD,
            self._negative_1LD,
            guidance=self.sampling.guidance,
            control_scale=self.sampling.control_scale,
            reuse=self.sampling.reuse,
        )


def _on_its_way(pictures_BHW3: Tensor) -> Pending:
    if pictures_BHW3.device.type != "cuda":
        return Pending(pictures_BHW3.cpu(), None)
    kept = torch.empty(pictures_BHW3.shape, dtype=torch.uint8, pin_memory=True)
    kept.copy_(pictures_BHW3, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(pictures_BHW3.device))
    return Pending(kept, done)

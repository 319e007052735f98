"""Section ``diffusion`` of params.yaml: the base model that adapt and restyle share.

One section for both, because a ControlNet only fits the base, the size and the revision that it
was trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from models.dad.base import Base, Precision, load_base, revision
from tasks.arithmetic import Auto
from tasks.errors import PedAlignError
from tasks.params import Positive, params

if TYPE_CHECKING:
    import torch


@params
class DiffusionParams:
    """The text-to-image model and the size of its pictures."""

    base: str
    """A folder in diffusers' layout or a hub name, ``@revision`` after it where one is wanted.
    The paper: ``runwayml/stable-diffusion-v1-5``, on the hub now under stable-diffusion-v1-5/."""
    size: tuple[Positive, Positive]
    """Height and width of the pictures in pixels; the paper's are 384 by 256."""
    precision: Annotated[Precision, Auto]
    """Arithmetic of the networks; weights, latents and the sampler's sums are float32. ``auto``
    takes bf16 where the machine is faster in it (`tasks.arithmetic`)."""


def open_base(diffusion: DiffusionParams, device: torch.device | str) -> Base:
    """Load the base.

    Raises:
        PedAlignError: It cannot be loaded, its parts do not fit, or the size does not fit it.
    """
    try:
        base = load_base(diffusion.base, device, diffusion.precision)
    except (OSError, ValueError) as error:
        raise _unusable(diffusion, error) from error
    height, width = diffusion.size
    if height % base.scale or width % base.scale:
        raise PedAlignError(
            f"diffusion.size is {height}x{width}",
            f"both sides are multiples of {base.scale}, the pixels a latent position of "
            f"{diffusion.base}",
            "round them",
        )
    return base


def base_revision(diffusion: DiffusionParams) -> str:
    """Identify the base's weights: a digest of the folder's files, or the hub commit.

    Raises:
        PedAlignError: The model is not to be found.
    """
    try:
        return revision(diffusion.base)
    except ValueError as error:
        raise _unusable(diffusion, error) from error


def _unusable(diffusion: DiffusionParams, error: Exception) -> PedAlignError:
    return PedAlignError(
        f"diffusion.base is {diffusion.base!r}: {' '.join(str(error).split())[:400]}",
        "it is a folder in diffusers' layout (vae, unet, text_encoder, tokenizer, scheduler, "
        "weights as safetensors) or the name of such a model on the hub",
        "correct the path or name; without a network, download the model first and give its folder",
    )

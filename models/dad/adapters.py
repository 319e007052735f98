"""A trained DaD adapter, whichever of its two forms: a ControlNet or a LoRA.

Who makes pictures asks for one thing: which base to run, and with which ControlNet beside it.

    adapter = load_adapter(Path("data/checkpoints/dad"), base)
    base, controlnet = adapter.applied(base, 1.0)  # LoRA: another base, and None
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from models.dad.controlnet import load_controlnet
from models.dad.lora import WEIGHTS, adapted_unet, load_lora

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import ControlNetModel
    from torch import Tensor

    from models.dad.base import Base


class Adapter(Protocol):
    """A look, learned on a frozen base."""

    def applied(self, base: Base, scale: float) -> tuple[Base, ControlNetModel | None]:
        """Return what is to be run.

        Args:
            base: The base that the adapter was trained on; it is not changed.
            scale: Weight of the adapter; 0 is the base alone.

        Returns:
            The base to run, and the ControlNet to run beside it, whose outputs the caller
            multiplies by ``scale``; None where there is none to run.
        """
        ...


@dataclass(frozen=True)
class ControlNetAdapter:
    """The paper's form: a network beside the base."""

    controlnet: ControlNetModel

    def applied(self, base: Base, scale: float) -> tuple[Base, ControlNetModel | None]:
        """Return the base as it is, with the ControlNet unless its weight is 0."""
        return base, self.controlnet if scale else None


@dataclass(frozen=True)
class LoraAdapter:
    """The light form: changes of the base's own weights."""

    changes: dict[str, Tensor]
    """What is added to each weight of the UNet, by its name."""

    def applied(self, base: Base, scale: float) -> tuple[Base, ControlNetModel | None]:
        """Return a base whose UNet has the changes in its weights, and no ControlNet."""
        if not scale:
            return base, None
        return dataclasses.replace(base, unet=adapted_unet(base, self.changes, scale)), None


def load_adapter(folder: Path, base: Base) -> Adapter:
    """Load what `adapt` left, told apart by its files, and check that it belongs to the base.

    Args:
        folder: A ControlNet in diffusers' layout, or a LoRA as diffusers' pipelines save it.
        base: The base that it was trained on.

    Raises:
        ValueError: It is of another base.
        OSError: The folder holds neither.
    """
    if (folder / WEIGHTS).exists():
        return LoraAdapter(load_lora(folder, base))
    return ControlNetAdapter(load_controlnet(folder, base))

"""DaD's light form: low-rank updates of the attention of the base's UNet (LoRA), through peft.

The paper trains a ControlNet (sec. 3.1); this is the alternative of ``adapt.method: lora``. To
each query, key, value and output projection W of the UNet's attention a product of two thin
matrices is added, W + scale * alpha / rank * B A, and only A and B are trained: a few megabytes
where a ControlNet of Stable Diffusion has 1.4 GB. B starts at zero, so an untrained one changes
nothing.

What is unusual: nothing of peft runs when pictures are made. `adapted_unet` adds the product into
a copy of the UNet's weights once, so LoRA costs no time there, and the base stays as it was.

Saved as diffusers saves it (``pytorch_lora_weights.safetensors``, rank and alpha in its header):
``pipeline.load_lora_weights(folder)`` of any Stable Diffusion pipeline takes it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from models.dad.objective import DaDObjective

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import ControlNetModel, UNet2DConditionModel
    from torch import Tensor

    from models.dad.base import Base

WEIGHTS = "pytorch_lora_weights.safetensors"
"""Diffusers' name of a LoRA's file; a folder that holds it holds a LoRA."""
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections that are adapted: all four of every attention, to text and to itself."""
_NAME = "dad"
_PREFIX = "unet."


def new_lora(base: Base, rank: int, alpha: float, seed: int = 0) -> UNet2DConditionModel:
    """Copy the base's UNet with untrained low-rank updates; nothing else of it is trainable.

    Args:
        base: Whose UNet is adapted; it stays as it is.
        rank: Columns of B and rows of A.
        alpha: The product is multiplied by ``alpha / rank``.
        seed: Of A, normal with variance ``1 / rank**2`` (peft's ``gaussian``).
    """
    from peft import LoraConfig  # takes a second, and a ControlNet does not need it

    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(TARGETS), init_lora_weights="gaussian"
    )
    unet = copy.deepcopy(base.unet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.to("cpu").add_adapter(config, adapter_name=_NAME)
    return unet.to(base.device)


def save_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the low-rank updates as diffusers does; the same updates give the same bytes."""
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(unet, adapter_name=_NAME)
    config = unet.peft_config[_NAME]
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers={name: value.float().cpu() for name, value in sorted(tensors.items())},
        unet_lora_adapter_metadata={
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "target_modules": sorted(TARGETS),
        },
    )
    _order_header(folder / WEIGHTS)


def _order_header(file: Path) -> None:
    """Put the notes in a safetensors header in order: the library writes them in a random one."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def load_lora(folder: Path, base: Base) -> dict[str, Tensor]:
    """Read a LoRA and multiply its factors out: what is added to each weight of the base's UNet.

    Args:
        folder: Holds ``pytorch_lora_weights.safetensors``, with or without rank and alpha in its
            header (without: alpha equals the rank).
        base: The base that it was trained on.

    Raises:
        ValueError: A factor is missing, has no place in the base's UNet, or does not fit there.
    """
    file = folder / WEIGHTS
    with safe_open(file, framework="pt") as opened:
        note = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    tensors = {name.removeprefix(_PREFIX): value for name, value in load_file(file).items()}
    weights = base.unet.state_dict()
    changes = {}
    for name in sorted(tensors):
        module, _, factor = name.partition(".lora_")
        if factor not in {"A.weight", "B.weight"} or f"{module}.weight" not in weights:
            raise ValueError(
                f"{file}: tensor {name} belongs nowhere in the UNet of {base.name}; a DaD LoRA "
                "changes attention projections of the base it was trained on; run adapt for this "
                "base"
            )
        down, up = (tensors.get(f"{module}.lora_{which}.weight") for which in "AB")
        if down is None or up is None:
            raise ValueError(
                f"{file}: {module} has one factor of two; a complete file has lora_A and lora_B "
                "for each; run adapt again"
            )
        wanted = tuple(weights[f"{module}.weight"].shape)
        if (up.shape[0], down.shape[1]) != wanted or down.shape[0] != up.shape[1]:
            raise ValueError(
                f"{file}: {module} has factors {tuple(up.shape)} and {tuple(down.shape)} and the "
                f"weight in {base.name} is {wanted}; a LoRA only fits the base it was trained on; "
                "run adapt for this base"
            )
        rank = down.shape[0]
        alpha = note.get("unet.lora_alpha", rank)
        changes[f"{module}.weight"] = (up.float() @ down.float()) * (alpha / rank)
    if not changes:
        raise ValueError(f"{file}: holds no tensors; run adapt again")
    return changes


def adapted_unet(base: Base, changes: dict[str, Tensor], scale: float) -> UNet2DConditionModel:
    """Copy the base's UNet with what `load_lora` gave, times ``scale``, added to its weights."""
    unet = copy.deepcopy(base.unet)
    with torch.no_grad():
        for name, change in changes.items():
            weight = unet.get_parameter(name)
            weight.add_(change.to(weight), alpha=scale)
    return unet


class LoraObjective(DaDObjective):
    """A LoRA in training: a UNet from `new_lora` in the base's place; see `DaDObjective`."""

    def __init__(
        self,
        base: Base,
        unet: UNet2DConditionModel,
        size: tuple[int, int],
        *,
        recompute: bool = False,
    ) -> None:
        # The UNet that was copied may go: an SD base then stands in memory once.
        super().__init__(dataclasses.replace(base, unet=unet), unet, size, recompute=recompute)
        self.unet = unet

    def predict(self, noisy_BChw: Tensor, words_BLD: Tensor, steps_B: Tensor) -> Tensor:
        """Run the UNet with its low-rank updates."""
        seen: Tensor = self.unet(noisy_BChw, steps_B, words_BLD, return_dict=False)[0]
        return seen

    def running(self) -> tuple[Base, ControlNetModel | None]:
        """Return the base with the UNet as it is now, and no ControlNet."""
        return self._base, None

    def save(self, folder: Path) -> None:
        """Write the low-rank updates as diffusers does."""
        save_lora(self.unet, folder)

"""``precision: auto``: the arithmetic that the machine is faster in, told when a section is read.

Matrix units multiply bfloat16: a GPU's, or AMX of a processor. Without them bfloat16 is the slower
one (twice the time of float32 on a processor that has AVX-512 alone), whatever instructions for it
there are. What a section holds, and keys and records with it, is the arithmetic itself.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator

from tasks.runtime import runtime


def fastest() -> Literal["fp32", "bf16"]:
    """What this machine multiplies matrices in fastest, on the device that runtime.yaml names."""
    name = runtime().device
    if name.startswith("cuda") or (name == "auto" and torch.cuda.is_available()):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if name in {"cpu", "auto"}:
        # torch has no public name for it.
        return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"
    return "fp32"


def _told(value: object) -> object:
    return fastest() if value == "auto" else value


Auto = BeforeValidator(_told)
"""Lets a section say ``auto`` for ``fp32`` or ``bf16``."""
Precision = Annotated[Literal["fp32", "bf16"], Auto]

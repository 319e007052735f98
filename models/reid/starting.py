"""Starting a person encoder: from a checkpoint's image encoder, or from plain weights.

A checkpoint is an MRA's or a dual encoder's folder; its heads and texts are left. Plain weights are
whatever `models.dual.starting` reads: a Swin, ViT, DeiT or CLIP in transformers' layout, or Swin's
original file. Position tables are resized to the image size and window that are wanted.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch

from models.checkpoint_files import model_type
from models.dual import DualEncoder
from models.dual.continuing import mra_towers
from models.dual.starting import image_statistics, vision_sizes
from models.dual.towers import SwinVision
from models.mra import MRA
from models.reid.config import ReidConfig
from models.reid.model import PersonEncoder

Kind = Literal["mra", "dual", "plain"]


def start_kind(start: str | Path) -> Kind:
    """What a start is: a checkpoint of the kind ``mra`` or ``dual``, or ``plain`` weights."""
    try:
        kind = model_type(start)
    except (ValueError, OSError):
        return "plain"
    return "dual" if kind == "dual" else "mra"


def start_person_encoder(
    start: str | Path,
    *,
    image_size: tuple[int, int],
    window_size: int | None = None,
    vision_dropout: float = 0.0,
    drop_path: float = 0.0,
) -> PersonEncoder:
    """A person encoder whose image encoder is another model's; the neck is new.

    Args:
        start: Folder of a checkpoint, or plain weights: a folder, a name on the hub, Swin's file.
        image_size: Height and width of the input, in pixels.
        window_size: Swin's largest attention window; None keeps the start's.
        vision_dropout: Dropout in the image encoder.
        drop_path: Stochastic depth of its last layer.

    Raises:
        ValueError: Nothing of that kind there, or sizes that do not go together.
    """
    rates: dict[str, Any] = {"vision_dropout": vision_dropout, "drop_path": drop_path}
    kind = start_kind(start)
    with torch.random.fork_rng(devices=[]):  # the throw-away models draw random weights
        if kind == "mra":
            rates_and_window = rates | ({} if window_size is None else {"window_size": window_size})
            mra = MRA.from_pretrained(start, image_size=image_size, **rates_and_window)
            towers, source = mra_towers(mra.config), mra.vision_encoder.state_dict()
        elif kind == "dual":
            dual = DualEncoder.from_pretrained(start, image_size=image_size, **rates)
            towers, source = dual.config, dual.vision_encoder.state_dict()
            if window_size not in (None, getattr(towers.vision, "window_size", None)):
                raise ValueError(
                    f"{start}: a dual encoder, and window_size is {window_size}; it keeps the "
                    "window it was trained with; set window_size to null"
                )
        else:
            sizes = vision_sizes(start)
            if window_size is not None and isinstance(sizes, SwinVision):
                sizes = dataclasses.replace(sizes, window_size=window_size)
            elif window_size is not None:
                raise ValueError(
                    f"{start}: a {sizes.kind}, and window_size is {window_size}; only a Swin has "
                    "windows; set window_size to null"
                )
            mean, std = image_statistics(start)
            plain = ReidConfig(
                vision=sizes, image_size=image_size, image_mean=mean, image_std=std, **rates
            )
            empty = DualEncoder.from_config(plain.towers)
            empty.load_starting_weights(start, None)
            towers, source = empty.config, empty.vision_encoder.state_dict()
        config = ReidConfig(
            vision=towers.vision,
            image_size=image_size,
            image_mean=towers.image_mean,
            image_std=towers.image_std,
            **rates,
        )
        model = PersonEncoder(config)
    model.vision_encoder.load_state_dict(source)
    return model

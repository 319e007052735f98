"""An MRA as a folder: config.json (sizes and reading) and model.safetensors.

The reading is part of a checkpoint: weights trained under one are not used under another unless
asked for. A checkpoint loads at another image size or window; Swin's position tables are resized.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from models import checkpoint_files
from models.checkpoint_files import check_names, check_shapes, read_weights, with_tied
from models.mra.config import READINGS, MRAConfig, Reading
from models.mra.position_tables import resize_table

if TYPE_CHECKING:
    from models.mra.model import MRA

MODEL_TYPE = "mra"
TABLE = "relative_position_bias_table"


def save(model: MRA, folder: Path) -> None:
    """Write a model into a folder."""
    checkpoint_files.write(folder, MODEL_TYPE, model.config.to_dict(), model.state_dict())


def load(
    folder: Path, *, reading: Reading | None, any_reading: bool, changes: Mapping[str, Any]
) -> MRA:
    """Read a model from a folder (see `MRA.from_pretrained`).

    Raises:
        ValueError: No such model there, another reading, or tensors of another shape.
    """
    from models.mra.model import MRA

    if {"image_size", "window_size"} & set(changes):
        # Windows that were read off imported weights fit the size that those were saved at.
        changes = {"stage_windows": None, **changes}
    config = dataclasses.replace(read_config(folder), **changes)
    if reading is not None and reading != config.reading:
        if not any_reading:
            raise ValueError(
                f"{folder}: trained under the reading {reading_name(config.reading)}, wanted under "
                f"{reading_name(reading)}: weights mean something else under another reading; "
                "take the checkpoint's own, or pass any_reading=True to use it nevertheless"
            )
        config = dataclasses.replace(config, reading=reading)
    model = MRA(config)
    load_state(model, read_weights(folder), str(folder))
    return model


def read_config(folder: Path) -> MRAConfig:
    """Read a checkpoint's config.json.

    Raises:
        ValueError: The file is missing, or is not the config of an MRA.
    """
    return MRAConfig.from_dict(checkpoint_files.read_config(folder, MODEL_TYPE))


def load_state(model: MRA, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Fill a model with weights, resizing position tables; every tensor has to find its place.

    Args:
        model: The model, changed in place.
        state: Weights under this project's names; the tied copies may be left out.
        source: Where they are from, for messages.

    Returns:
        Names of the resized tables.

    Raises:
        ValueError: Tensors missing, left over or of another shape.
    """
    own = model.state_dict()
    complete = with_tied(state)
    check_names(complete, own, source)
    fitted, resized = fit_tables(complete, own)
    check_shapes(fitted, own, source)
    model.load_state_dict(fitted)
    return resized


def fit_tables(
    state: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Resize the position tables of `state` to the windows of `like`.

    Returns:
        The state with its tables resized, and their names.
    """
    fitted, resized = dict(state), []
    for name, tensor in state.items():
        if name.endswith(TABLE) and name in like and len(tensor) != len(like[name]):
            fitted[name] = resize_table(tensor, (round(len(like[name]) ** 0.5) + 1) // 2)
            resized.append(name)
    return fitted, resized


def reading_name(reading: Reading) -> str:
    """The name of a reading, or its fields where it has none."""
    for name, known in READINGS.items():
        if reading == known:
            return name
    return str(dataclasses.asdict(reading))

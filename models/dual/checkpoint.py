"""A dual encoder as a folder: config.json with `model_type` "dual", and model.safetensors.

It loads at another image size: a ViT's positions and Swin's tables are resized.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from models import checkpoint_files
from models.checkpoint_files import check_names, check_shapes, read_weights
from models.dual.config import DualConfig, same_parts
from models.dual.vision import resize_positions
from models.mra.checkpoint import fit_tables

if TYPE_CHECKING:
    from models.dual.model import DualEncoder

MODEL_TYPE = "dual"
POSITIONS = "vision_encoder.positions_1PD"
GRANULARITY = "granularity."


def save(model: DualEncoder, folder: Path) -> None:
    """Write a model into a folder."""
    checkpoint_files.write(folder, MODEL_TYPE, model.config.to_dict(), model.state_dict())


def load(folder: Path, changes: Mapping[str, Any]) -> DualEncoder:
    """Read a model from a folder (see `DualEncoder.from_pretrained`).

    Raises:
        ValueError: No such model there, or tensors of another shape.
    """
    from models.dual.model import DualEncoder

    stored = read_config(folder)
    config = stored.changed(changes)
    model = DualEncoder(config)
    state = read_weights(folder)
    own = model.state_dict()
    if not same_parts(config.granularity, stored.granularity):
        # Parts of other sizes are other parts: what was there goes, what is wanted starts afresh.
        state = {name: t for name, t in state.items() if not name.startswith(GRANULARITY)}
        state |= {name: t for name, t in own.items() if name.startswith(GRANULARITY)}
    check_names(state, own, str(folder))
    fitted, _resized = fit_positions(state, stored, config, own)
    check_shapes(fitted, own, str(folder))
    model.load_state_dict(fitted)
    return model


def read_config(folder: Path) -> DualConfig:
    """Read a checkpoint's config.json.

    Raises:
        ValueError: The file is missing, or is not the config of a dual encoder.
    """
    data = checkpoint_files.read_config(folder, MODEL_TYPE)
    try:
        return DualConfig.from_dict(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / checkpoint_files.CONFIG_FILE}: {error}") from error


def fit_positions(
    state: Mapping[str, Tensor],
    stored: DualConfig,
    wanted: DualConfig,
    own: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], list[str]]:
    """Resize what depends on the image size: a ViT's positions, Swin's tables.

    Args:
        state: Weights under this project's names, as many as there are.
        stored: Sizes that they are of.
        wanted: Sizes wanted.
        own: Weights of these sizes.

    Returns:
        The state, and the names of what was resized.
    """
    fitted, resized = fit_tables(state, own)
    if POSITIONS in state and stored.grid != wanted.grid:
        fitted[POSITIONS] = resize_positions(
            state[POSITIONS], stored.prefix, stored.grid, wanted.grid
        )
        resized.append(POSITIONS)
    return fitted, resized

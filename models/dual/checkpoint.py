"""A dual encoder as a folder: config.json with `model_type` "dual", and model.safetensors.

It loads at another image size: a ViT's positions and Swin's tables are resized.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.dual.config import DualConfig, same_parts
from models.dual.vision import resize_positions
from models.mra.checkpoint import CONFIG_FILE, TIED, WEIGHTS_FILE, fit_tables

if TYPE_CHECKING:
    from models.dual.model import DualEncoder

MODEL_TYPE = "dual"
POSITIONS = "vision_encoder.positions_1PD"
GRANULARITY = "granularity."


def save(model: DualEncoder, folder: Path) -> None:
    """Write a model into a folder; the weights first, so a config means a complete checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().contiguous().cpu()
        for name, tensor in model.state_dict().items()
        if name not in TIED
    }
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {"model_type": MODEL_TYPE, **model.config.to_dict()}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path, changes: Mapping[str, Any]) -> DualEncoder:
    """Read a model from a folder (see `DualEncoder.from_pretrained`).

    Raises:
        ValueError: No such model there, or tensors of another shape.
    """
    from models.dual.model import DualEncoder

    stored = read_config(folder)
    config = stored.changed(changes)
    model = DualEncoder(config)
    state = read_state(folder)
    own = model.state_dict()
    if not same_parts(config.granularity, stored.granularity):
        # Parts of other sizes are other parts: what was there goes, what is wanted starts afresh.
        state = {name: t for name, t in state.items() if not name.startswith(GRANULARITY)}
        state |= {name: t for name, t in own.items() if name.startswith(GRANULARITY)}
    missing, unknown = sorted(own.keys() - state), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"{folder}: tensors missing {some(missing)}, unknown {some(unknown)}: "
            "the weights are of another architecture than the config says"
        )
    fitted, _resized = fit_positions(state, stored, config, own)
    check_shapes(fitted, own, str(folder))
    model.load_state_dict(fitted)
    return model


def model_type(folder: str | Path) -> str:
    """Of which road a checkpoint is, by its config.json: "mra" or "dual".

    Raises:
        ValueError: The file is missing or damaged, or of neither.
    """
    path = Path(folder) / CONFIG_FILE
    kind = _read(path).get("model_type")
    if kind not in ("mra", MODEL_TYPE):
        raise ValueError(
            f"{path}: its model_type is {kind!r}; a checkpoint's is mra or {MODEL_TYPE}: give a "
            "folder that `save_pretrained` of one of these wrote"
        )
    return str(kind)


def read_config(folder: Path) -> DualConfig:
    """Read a checkpoint's config.json.

    Raises:
        ValueError: The file is missing, or is not the config of a dual encoder.
    """
    path = folder / CONFIG_FILE
    data = _read(path)
    if (kind := data.pop("model_type", None)) != MODEL_TYPE:
        raise ValueError(
            f"{path}: its model_type is {kind!r}, not {MODEL_TYPE!r}; give a folder that "
            "`save_pretrained` wrote (a folder of transformers goes to load_starting_weights)"
        )
    try:
        return DualConfig.from_dict(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_state(folder: Path) -> dict[str, Tensor]:
    """A checkpoint's weights, tied ones under both names.

    Raises:
        ValueError: The file is missing or damaged.
    """
    try:
        state: dict[str, Tensor] = load_file(folder / WEIGHTS_FILE)
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: {error}; a checkpoint has its weights as safetensors"
        ) from error
    return {**state, **{tied: state[name] for tied, name in TIED.items() if name in state}}


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


def check_shapes(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Compare the shapes of weights with those of a model.

    Raises:
        ValueError: They differ.
    """
    wrong = [
        f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if tensor.shape != own[name].shape
    ]
    if wrong:
        raise ValueError(
            f"{source}: tensors of another shape: {some(wrong)}: only the image size and Swin's "
            "window may differ from the checkpoint's"
        )


def some(names: list[str], most: int = 5) -> str:
    """The first few of a list, and how many there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{names[:most]}{rest}"


def _read(path: Path) -> dict[str, Any]:
    """A config.json.

    Raises:
        ValueError: It is missing or no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; give a folder that `save_pretrained` wrote"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}; it should be JSON") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a {type(data).__name__}; it should be a JSON object")
    return data

"""An MRA as a folder: config.json (sizes and reading) and model.safetensors.

The reading is part of a checkpoint: weights trained under one are not used under another unless
asked for. A checkpoint loads at another image size or window; Swin's position tables are resized.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.mra.config import READINGS, MRAConfig, Reading
from models.mra.position_tables import resize_table

if TYPE_CHECKING:
    from models.mra.model import MRA

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MODEL_TYPE = "mra"
TABLE = "relative_position_bias_table"

# The MLM decoder shares the word table and its own bias: one copy of each is kept.
TIED = {
    "text_encoder.cls.predictions.decoder.weight": (
        "text_encoder.bert.embeddings.word_embeddings.weight"
    ),
    "text_encoder.cls.predictions.decoder.bias": "text_encoder.cls.predictions.bias",
}


def save(model: MRA, folder: Path) -> None:
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
    try:
        state = load_file(folder / WEIGHTS_FILE)
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: {error}; a checkpoint has its weights as safetensors"
        ) from error
    model = MRA(config)
    load_state(model, state, str(folder))
    return model


def read_config(folder: Path) -> MRAConfig:
    """Read a checkpoint's config.json.

    Raises:
        ValueError: The file is missing, or is not the config of an MRA.
    """
    path = folder / CONFIG_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; give a folder that `save_pretrained` wrote"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: {error}; it should be JSON") from error
    if not isinstance(data, dict) or data.pop("model_type", None) != MODEL_TYPE:
        raise ValueError(
            f"{path}: its model_type is not {MODEL_TYPE!r}; give a folder that `save_pretrained` "
            "wrote (a Swin or BERT folder goes to load_starting_weights)"
        )
    return MRAConfig.from_dict(data)


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
    complete = {**state, **{tied: state[name] for tied, name in TIED.items() if name in state}}
    missing, unknown = sorted(own.keys() - complete), sorted(complete.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"{source}: tensors missing {_some(missing)}, unknown {_some(unknown)}: "
            "the weights are of another architecture than the config says"
        )
    fitted, resized = fit_tables(complete, own)
    wrong = [
        f"{name} {tuple(fitted[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if fitted[name].shape != own[name].shape
    ]
    if wrong:
        raise ValueError(
            f"{source}: tensors of another shape: {_some(wrong)}: "
            "only the image size and the window may differ from the checkpoint's"
        )
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


def _some(names: list[str], most: int = 5) -> str:
    """The first few of a list, and how many there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{names[:most]}{rest}"

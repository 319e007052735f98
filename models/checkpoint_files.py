"""The files of a retrieval checkpoint, of whichever kind: config.json and model.safetensors.

config.json        `model_type`, "mra" or "dual", and what that kind's config class writes
model.safetensors  weights; of a tied pair one copy

What is unusual: config.json is written last, so that a folder which has one is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.loading import some

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
KINDS = ("mra", "dual")
"""What `model_type` may say: MRA's road, or that of a dual encoder."""

# The MLM decoder shares the word table and its own bias: one copy of each is kept.
TIED = {
    "text_encoder.cls.predictions.decoder.weight": (
        "text_encoder.bert.embeddings.word_embeddings.weight"
    ),
    "text_encoder.cls.predictions.decoder.bias": "text_encoder.cls.predictions.bias",
}


def write(
    folder: Path, kind: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write a model into a folder, which is made.

    Args:
        folder: Where to.
        kind: One of `KINDS`.
        config: Plain data.
        weights: The model's state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        name: tensor.detach().contiguous().cpu()
        for name, tensor in weights.items()
        if name not in TIED
    }
    save_file(kept, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps({"model_type": kind, **config}, indent=2) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def model_type(folder: str | Path) -> str:
    """Of which kind a checkpoint is, by its config.json: one of `KINDS`.

    Raises:
        ValueError: The file is missing or damaged, or of none.
    """
    path = Path(folder) / CONFIG_FILE
    kind = _read(path).get("model_type")
    if kind not in KINDS:
        raise ValueError(
            f"{path}: its model_type is {kind!r}; a checkpoint's is {' or '.join(KINDS)}: give a "
            "folder that `save_pretrained` of one of these wrote"
        )
    return str(kind)


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """A checkpoint's config.json, without its `model_type`.

    Raises:
        ValueError: The file is missing, damaged, or of another kind.
    """
    path = folder / CONFIG_FILE
    data = _read(path)
    if (found := data.pop("model_type", None)) != kind:
        raise ValueError(
            f"{path}: its model_type is {found!r}, not {kind!r}; give a folder that "
            "`save_pretrained` wrote (a folder of transformers goes to load_starting_weights)"
        )
    return data


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A checkpoint's weights, tied ones under both names.

    Raises:
        ValueError: The file is missing or damaged.
    """
    try:
        return with_tied(load_file(folder / WEIGHTS_FILE))
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: {error}; a checkpoint has its weights as safetensors"
        ) from error


def with_tied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, and those that are tied to one of them."""
    return {**weights, **{tied: weights[name] for tied, name in TIED.items() if name in weights}}


def check_names(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Compare the names of weights with those of a model.

    Args:
        weights: From a file.
        own: The model's state.
        source: Where the weights are from, for messages.

    Raises:
        ValueError: Some are missing or unknown.
    """
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unknown:
        raise ValueError(
            f"{source}: tensors missing [{some(map(repr, missing))}], unknown "
            f"[{some(map(repr, unknown))}]: the weights are of another architecture than the "
            "config says"
        )


def check_shapes(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Compare the shapes of weights, any part of a model's, with the model's.

    Raises:
        ValueError: They differ.
    """
    wrong = [
        f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}"
        for name, tensor in weights.items()
        if tensor.shape != own[name].shape
    ]
    if wrong:
        raise ValueError(
            f"{source}: tensors of another shape: {some(wrong)}: only the image size and Swin's "
            "window may differ from the checkpoint's"
        )


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

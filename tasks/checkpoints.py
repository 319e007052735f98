"""A checkpoint on disk: the model, its tokenizer, how it was trained and its curve.

config.json, model.safetensors    `load_model`: config.json's model_type says of which kind
tokenizer.json, vocab.txt, ...    `tasks.tokens.load_tokenizer`; a person encoder reads no text
training.json                     what was trained on what, and how it ended
curve.csv                         a row a step
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from models.checkpoint_files import model_type
from models.dual import DualEncoder
from models.mra import MRA
from models.retrieval import RetrievalModel
from models.team import number
from tasks.curves import write_curve
from tasks.errors import PedAlignError

TRAINING_FILE = "training.json"
CURVE_FILE = "curve.csv"

Model = TypeVar("Model", MRA, DualEncoder)


class Saved(Protocol):
    """A model that writes itself into a folder."""

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        ...


def save_checkpoint(
    folder: Path,
    model: Saved,
    tokenizer: PreTrainedTokenizerBase | None,
    record: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]],
) -> Path:
    """Write a finished training so that the folder is either absent or whole.

    Args:
        folder: Where to; replaced.
        model: The trained model.
        tokenizer: The one it was trained with; None where there was no text.
        record: What training.json holds; no time, host or path.
        rows: The curve.

    Returns:
        The folder.
    """
    if number() > 0:  # of processes that train together the first one writes
        return folder
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save_pretrained(partial)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(partial))
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (partial / TRAINING_FILE).write_text(text, encoding="utf-8")
    if rows:
        write_curve(partial / CURVE_FILE, rows)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return folder


def checkpoint_kind(folder: Path) -> str:
    """Of which kind a checkpoint's model is: ``mra`` or ``dual``.

    Raises:
        PedAlignError: There is no checkpoint, or one of no known kind.
    """
    try:
        return model_type(folder)
    except (ValueError, OSError) as error:
        raise _unloadable(folder, error) from error


def load_model(folder: Path, **changes: Any) -> RetrievalModel:
    """Load a checkpoint's model, of whichever kind it is.

    Args:
        folder: What `save_checkpoint` wrote.
        changes: Fields of the model's config to change, the image size for instance.

    Raises:
        PedAlignError: There is none, or it does not fit.
    """
    if checkpoint_kind(folder) == "dual":
        return load_dual(folder, **changes)
    return load_mra(folder, **changes)


def load_mra(folder: Path, **changes: Any) -> MRA:
    """Load a checkpoint's model, which has to be an MRA. See `load_model`."""
    return _load(MRA, folder, changes)


def load_dual(folder: Path, **changes: Any) -> DualEncoder:
    """Load a checkpoint's model, which has to be a dual encoder. See `load_model`."""
    return _load(DualEncoder, folder, changes)


def _load(kind: type[Model], folder: Path, changes: Mapping[str, Any]) -> Model:
    try:
        return kind.from_pretrained(folder, **changes)
    except (ValueError, OSError) as error:
        raise _unloadable(folder, error) from error


def _unloadable(folder: Path, error: Exception) -> PedAlignError:
    return PedAlignError(
        f"{folder}: no retrieval model could be loaded ({error})",
        "a checkpoint has config.json, model.safetensors and a tokenizer",
        "name a folder such as data/checkpoints/pretrain, or run the stage that writes it",
    )


def summary(rows: Sequence[Mapping[str, float]], last: int = 50) -> dict[str, float]:
    """Mean of every loss over the last steps."""
    tail = rows[-last:]
    names = [name for name in (rows[0] if rows else {}) if name not in {"step", "epoch", "lr"}]
    return {name: round(sum(row[name] for row in tail) / len(tail), 5) for name in names}

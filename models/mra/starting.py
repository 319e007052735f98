"""Starting an MRA from a plain Swin folder and a plain BERT folder (transformers' layout).

The paper starts from ImageNet's Swin-B and bert-base-uncased. BERT's upper layers become the
fusion encoder; their cross-attention is in no such folder and stays as it was initialised.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, SwinConfig

from models.mra.checkpoint import fit_tables
from models.mra.vision import VisionEncoder

if TYPE_CHECKING:
    from models.mra.model import MRA

logger = logging.getLogger(__name__)

Report = dict[str, list[str]]

# Names of transformers' Swin on disk to those in memory. The library does this for its own classes
# only; names that are already new pass unchanged.
_SWIN_NAMES = {
    r"attention\.self\.query": "attention.q_proj",
    r"attention\.self\.key": "attention.k_proj",
    r"attention\.self\.value": "attention.v_proj",
    r"attention\.self\.relative_position_bias_table": (
        "attention.relative_position_bias.relative_position_bias_table"
    ),
    r"attention\.output\.dense": "attention.o_proj",
    r"intermediate\.dense": "mlp.fc1",
    r"output\.dense": "mlp.fc2",
}

# What has to agree between a folder and the model, by the names of the transformers configs.
_SWIN_SIZES = ("patch_size", "embed_dim", "depths", "num_heads")
_BERT_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


def load_starting_weights(
    model: MRA, vision_folder: str | Path | None, text_folder: str | Path | None
) -> Report:
    """Fill the encoders from plain folders (see `MRA.load_starting_weights`).

    Raises:
        ValueError: A folder whose sizes do not fit this model.
    """
    report: Report = {"loaded": [], "resized": [], "new": []}
    filled: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):  # the throw-away models draw random weights
        if vision_folder is not None:
            filled |= _read_vision(model, Path(vision_folder), report)
        if text_folder is not None:
            filled |= _read_text(model, Path(text_folder))
    own = model.state_dict()
    model.load_state_dict({**own, **filled})
    parameters = dict(model.named_parameters())
    report["loaded"] = sorted(name for name in parameters if name in filled)
    report["new"] = sorted(name for name in parameters if name not in filled)
    logger.info(
        "Starting weights: %d parameters loaded (%d position tables resized), %d new",
        len(report["loaded"]),
        len(report["resized"]),
        len(report["new"]),
    )
    return report


def _read_vision(model: MRA, folder: Path, report: Report) -> dict[str, Tensor]:
    """Swin's weights, position tables resized to the model's windows."""
    config = SwinConfig.from_pretrained(folder)
    _check_sizes(config, model.vision_encoder.config, _SWIN_SIZES, folder)
    if not hasattr(config, "stage_windows"):
        # A stock folder has one size of table in all stages, whatever their grids.
        config.stage_windows = [config.window_size] * len(config.depths)
    swin, info = VisionEncoder.from_pretrained(
        folder,
        config=config,
        key_mapping=_SWIN_NAMES,
        dtype=torch.float32,
        output_loading_info=True,
    )
    _check_found(info, folder)
    fitted, resized = fit_tables(swin.state_dict(), model.vision_encoder.state_dict())
    report["resized"] = sorted(f"vision_encoder.{name}" for name in resized)
    return {f"vision_encoder.{name}": tensor for name, tensor in fitted.items()}


def _read_text(model: MRA, folder: Path) -> dict[str, Tensor]:
    """BERT's weights; a folder without an MLM head leaves the model's own."""
    config = BertConfig.from_pretrained(folder)
    _check_sizes(config, model.text_encoder.config, _BERT_SIZES, folder)
    bert, info = BertForMaskedLM.from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True
    )
    missing = set(info["missing_keys"])
    _check_found(
        {"missing_keys": [name for name in missing if not name.startswith("cls.")]}, folder
    )
    headless = any(name.startswith("cls.predictions.transform") for name in missing)
    return {
        f"text_encoder.{name}": tensor
        for name, tensor in bert.state_dict().items()
        if not (headless and name.startswith("cls.") and not name.endswith("decoder.weight"))
    }


def _check_sizes(found: Any, wanted: Any, names: tuple[str, ...], folder: Path) -> None:
    """Compare the sizes of two transformers configs.

    Raises:
        ValueError: They differ.
    """
    wrong = {
        name: (_plain(getattr(found, name)), _plain(getattr(wanted, name)))
        for name in names
        if _plain(getattr(found, name)) != _plain(getattr(wanted, name))
    }
    if wrong:
        raise ValueError(
            f"{folder}: (found, wanted) {wrong}: starting weights fit a model of their own sizes "
            "only (image size and window excepted); change the model's parameters or the folder"
        )


def _check_found(info: Any, folder: Path) -> None:
    """Check that a folder held every tensor that it should.

    Raises:
        ValueError: Tensors are missing.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder}: without {len(missing)} tensors, e.g. {missing[:3]}: it should hold a "
            "complete encoder in transformers' layout"
        )


def _plain(value: Any) -> Any:
    """Lists and tuples alike."""
    return tuple(value) if isinstance(value, list | tuple) else value

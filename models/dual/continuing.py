"""From one road's checkpoint on the other: encoders carry over, the rest starts afresh.

A dual encoder of a Swin and a BERT and an MRA of the same sizes have the same encoders under the
same names. An MRA's fusion layers are the BERT's upper ones with cross-attention between: from a
dual encoder they are filled as from a plain BERT, and the cross-attention starts afresh; to a dual
encoder they go without it. Heads carry over from dual to dual alone.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from models.checkpoint_files import check_shapes, model_type, read_weights
from models.dual.checkpoint import fit_positions, read_config
from models.dual.config import DualConfig, same_parts
from models.dual.towers import BertText, SwinVision
from models.mra.checkpoint import read_config as read_mra_config

if TYPE_CHECKING:
    from models.dual.model import DualEncoder
    from models.mra.config import MRAConfig
    from models.mra.model import MRA

logger = logging.getLogger(__name__)

Report = dict[str, list[str]]
"""Parameter names under "loaded", "resized" and "new"."""

ENCODERS = ("vision_encoder.", "text_encoder.")
HEADS = ("vision_proj.", "text_proj.")
CROSS = ".crossattention."
"""In the names of what only a fusion layer has."""


def start_dual(model: DualEncoder, folder: Path) -> Report:
    """Start a dual encoder from a checkpoint of either road.

    Args:
        model: Changed in place.
        folder: Of the checkpoint. Of a dual encoder projections and parts are taken too, where
            theirs and this model's are of the same sizes.

    Raises:
        ValueError: No checkpoint, or other encoders.
    """
    stored, kind = _towers(folder)
    wanted = model.config
    taken: tuple[str, ...] = ENCODERS
    if kind == "dual" and (stored.embed_dim, stored.pooling) == (wanted.embed_dim, wanted.pooling):
        taken += HEADS
        taken += ("granularity.",) if same_parts(stored.granularity, wanted.granularity) else ()
    return _start(model, folder, stored, wanted, taken)


def start_mra(model: MRA, folder: Path) -> Report:
    """Start an MRA's encoders from a checkpoint of either road.

    Args:
        model: Changed in place.
        folder: Of the checkpoint.

    Raises:
        ValueError: No checkpoint, or other encoders.
    """
    stored, kind = _towers(folder)
    if (stored.vision.kind, stored.text.kind) != ("swin", "bert"):
        raise ValueError(
            f"{folder}: a dual encoder of a {stored.vision.kind} and a {stored.text.kind}; MRA is "
            "made of a Swin and a BERT: pretrain a dual encoder of these, or stay on its road"
        )
    afresh = CROSS if kind == "dual" else None
    return _start(model, folder, stored, mra_towers(model.config), ENCODERS, afresh)


def mra_towers(config: MRAConfig) -> DualConfig:
    """An MRA's encoders as those of a dual encoder: its fusion layers are a BERT's upper ones."""
    return DualConfig(
        vision=SwinVision(
            patch_size=config.patch_size,
            dim=config.vision_dim,
            depths=config.depths,
            heads=config.vision_heads,
            window_size=config.window_size,
        ),
        text=BertText(
            vocab_size=config.vocab_size,
            dim=config.text_dim,
            layers=config.text_layers + config.fusion_layers,
            heads=config.text_heads,
            inner_dim=config.text_inner_dim,
            max_positions=config.max_positions,
        ),
        image_size=config.image_size,
        embed_dim=config.embed_dim,
        max_tokens=config.max_tokens,
    )


def check_sizes(found: Any, wanted: Any, source: str | Path) -> None:
    """Compare the sizes of two towers, but for Swin's window.

    Raises:
        ValueError: They differ.
    """
    ours, theirs = dataclasses.asdict(wanted), dataclasses.asdict(found)
    wrong = {
        name: (theirs.get(name), ours.get(name))
        for name in sorted(ours.keys() | theirs.keys())
        if name != "window_size" and theirs.get(name) != ours.get(name)
    }
    if wrong:
        raise ValueError(
            f"{source}: (found, wanted) {wrong}: starting weights fit a model of their own sizes "
            "only (image size and window excepted); change the model's parameters or the source"
        )


def fill(model: nn.Module, filled: Mapping[str, Tensor], resized: list[str], source: str) -> Report:
    """Put weights into a model and say which.

    Raises:
        ValueError: A tensor of another shape.
    """
    own = model.state_dict()
    check_shapes(filled, own, source)
    model.load_state_dict({**own, **filled})
    parameters = dict(model.named_parameters())
    report = {
        "loaded": sorted(name for name in parameters if name in filled),
        "resized": sorted(resized),
        "new": sorted(name for name in parameters if name not in filled),
    }
    afresh = Counter(name.split(".")[0] for name in report["new"])
    logger.info(
        "%s: %d parameters loaded (%d positions resized), new ones: %s",
        source,
        len(report["loaded"]),
        len(report["resized"]),
        ", ".join(f"{count} of {part}" for part, count in sorted(afresh.items())) or "none",
    )
    return report


def _towers(folder: Path) -> tuple[DualConfig, str]:
    """A checkpoint's encoders, and of which road it is."""
    kind = model_type(folder)
    if kind == "dual":
        return read_config(folder), kind
    return mra_towers(read_mra_config(folder)), kind


def _start(
    model: nn.Module,
    folder: Path,
    stored: DualConfig,
    wanted: DualConfig,
    taken: tuple[str, ...],
    afresh: str | None = None,
) -> Report:
    """Fill a model with parts of a checkpoint.

    Args:
        model: Changed in place.
        folder: Of the checkpoint.
        stored: Its encoders.
        wanted: This model's.
        taken: How the names of the parts begin.
        afresh: In the names of what the checkpoint has not.

    Raises:
        ValueError: The encoders differ, or something of them is missing.
    """
    check_sizes(stored.vision, wanted.vision, folder)
    check_sizes(stored.text, wanted.text, folder)
    own = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(taken) and (afresh is None or afresh not in name)
    }
    state = {name: tensor for name, tensor in read_weights(folder).items() if name in own}
    if lacking := sorted(own.keys() - state):
        raise ValueError(
            f"{folder}: without {len(lacking)} tensors, e.g. {lacking[:3]}: its encoders are built "
            "otherwise than this model's (layers that fuse?), or it is damaged; change the model's "
            "parameters or the checkpoint"
        )
    fitted, resized = fit_positions(state, stored, wanted, own)
    return fill(model, fitted, resized, str(folder))

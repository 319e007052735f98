"""Detectors with weights, by hub name or folder: whichever class the folder's config names.

    proposer = load_detector("IDEA-Research/grounding-dino-base", device="cuda", precision="bf16",
                             box_threshold=0.35, text_threshold=0.35, batch_size=16)
    proposals = proposer.propose(images, queries)
    if isinstance(proposer, CaptionGrounder):  # Grounding DINO; OWLv2 knows given phrases alone
        grounded = proposer.ground(images, captions)

`can_ground` says the same before anything is loaded, from config.json alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.loading import model_type
from models.regions.grounding_dino import GroundingDino
from models.regions.owlv2 import Owl

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from models.regions.batches import Precision
    from models.regions.proposals import RegionProposer

GROUNDING_DINO = "grounding-dino"
TYPES = (GROUNDING_DINO, "owlv2", "owlvit")
"""The model types of config.json that can be loaded."""


def load_detector(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    box_threshold: float = 0.35,
    text_threshold: float = 0.35,
    batch_size: int = 8,
) -> RegionProposer:
    """Load a detector; its class is that of the model type in config.json.

    Args:
        name: Hub name or folder; safetensors only.
        revision: Hub commit.
        device: Where to run.
        precision: Arithmetic; weights are float32 in any case.
        box_threshold: A box must exceed this.
        text_threshold: Grounding DINO alone: a phrase owns a box only if a token exceeds this.
        batch_size: Pictures a forward pass.

    Raises:
        ValueError: No such type is known here, or the name holds no whole model of it with its
            processor.
    """
    kind = _type(name, revision)
    options: dict[str, Any] = {
        "revision": revision,
        "device": device,
        "precision": precision,
        "box_threshold": box_threshold,
        "batch_size": batch_size,
    }
    if kind == GROUNDING_DINO:
        return GroundingDino.from_pretrained(name, text_threshold=text_threshold, **options)
    return Owl.from_pretrained(name, kind=kind, **options)


def can_ground(name: str | Path, *, revision: str | None = None) -> bool:
    """Whether the detector of that name finds phrases itself (`CaptionGrounder`).

    Raises:
        ValueError: There is no config.json, or it names no known type.
    """
    return _type(name, revision) == GROUNDING_DINO


def _type(name: str | Path, revision: str | None) -> str:
    remedy = (
        "name IDEA-Research/grounding-dino-base, google/owlv2-base-patch16-ensemble or embedded"
    )
    kind = model_type(name, what="detector", remedy=remedy, revision=revision)
    if kind not in TYPES:
        raise ValueError(
            f"{str(name)!r} is a {kind!r}; rule: a detector that finds phrases is one of "
            f"{', '.join(TYPES)}; remedy: {remedy}"
        )
    return kind

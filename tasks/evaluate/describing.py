"""Put together how an evaluation was done: from checkpoint, dataset and section, as plain data.

`tasks.evaluate.protocol` says what it is for and tells it in words.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from models.mra.config import READINGS
from tasks.shards import read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.retrieval import RetrievalModel
    from tasks.evaluate.run import EvaluateParams


def describe(
    model: RetrievalModel,
    section: EvaluateParams,
    checkpoint: Path,
    images: Path,
    *,
    split: str,
    cleaning: str,
    metrics: Mapping[str, Any],
) -> dict[str, Any]:
    """Put together how an evaluation was done.

    Args:
        model: What was evaluated.
        section: How it ranked.
        checkpoint: The model's folder; its training.json says which epoch it is.
        images: The dataset's shards.
        split: Which part of it was asked.
        cleaning: Clean-up of its captions.
        metrics: What came out; of it the precision and the processes that were imitated.

    Returns:
        Plain values, for ``protocol.json``.
    """
    fuses = section.top_k > 0 and model.fuses
    gallery = int(metrics["gallery"])
    return {
        **_dataset(images, split),
        "cleaning": cleaning,
        "checkpoint": checkpoint.as_posix(),
        **_epoch(checkpoint),
        "reading": _reading(model),
        "image_size": [int(side) for side in model.config.image_size],
        "flip": section.flip,
        "reranked": min(section.top_k, gallery) if fuses else 0,
        "similarity_weight": section.similarity_weight if fuses else None,
        "processes": metrics.get("processes") if fuses else None,
        "precision": metrics.get("precision", {}).get("used"),
    }


def _dataset(images: Path, split: str) -> dict[str, Any]:
    """What is asked, and whether it is what was published."""
    meta = read_manifest(images).meta
    form = str(meta.get("format", ""))
    told = (meta.get("report") or {}).get("comparison") or {}
    return {
        "dataset": images.name,
        "format": form,
        "drawn": bool(meta.get("drawn")) or form.startswith("world-"),
        "split": split,
        "official": bool(told["exact"]) if "exact" in told else None,
        "variant": told.get("variant"),
        "differences": list(told.get("differences", [])),
    }


def _epoch(checkpoint: Path) -> dict[str, Any]:
    """Which epoch's weights these are, and who chose it."""
    path = checkpoint / "training.json"
    body = json.loads(path.read_bytes()) if path.exists() else {}
    params, on = body.get("params") or {}, body.get("chosen_on")
    judges = (body.get("selection") or {}).get("judges") or {}
    stage = body.get("stage")
    epochs = (params.get("training") or {}).get("epochs")
    return {
        "stage": stage,
        "trained_on": params.get("images"),
        # Pretraining keeps its last epoch and asks nobody.
        "chosen_on": "last" if stage == "pretrain" else on,
        "chosen_by_people": (judges.get(on) or {}).get("people"),
        "kept_epoch": epochs if stage == "pretrain" else body.get("kept_epoch"),
        "epochs": epochs,
    }


def _reading(model: RetrievalModel) -> str | None:
    """Name of the checkpoint's reading, with what it changes; None for a model without one."""
    own = getattr(model.config, "reading", None)
    if own is None:
        return None
    changes = {
        name: [key for key, value in vars(own).items() if value != getattr(named, key)]
        for name, named in READINGS.items()
    }
    name = min(changes, key=lambda each: len(changes[each]))
    changed = [f"{key}: {getattr(own, key)}" for key in changes[name]]
    return ", ".join([name, *changed]).lower()

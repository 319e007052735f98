"""The JSON files that stages leave, read for the report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tasks.errors import PedAlignError

if TYPE_CHECKING:
    from pathlib import Path

MEASURES = ("R@1", "R@5", "R@10", "mAP", "mINP")
"""What an evaluation is told by, in the order of every table."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a mapping.

    Raises:
        PedAlignError: It is no JSON.
    """
    try:
        body = json.loads(path.read_bytes())
    except ValueError as error:
        raise PedAlignError(
            f"{path}: not JSON ({error})",
            "the file is written by this program",
            "delete the folder it lies in and run dvc repro",
        ) from error
    return body if isinstance(body, dict) else {"value": body}


def settings(folder: Path) -> dict[str, Any]:
    """A training run's settings: the model's config.json and, over it, training.json."""
    found: dict[str, Any] = {}
    for name in ("config.json", "training.json"):
        if (folder / name).exists():
            found |= read_json(folder / name)
    return found

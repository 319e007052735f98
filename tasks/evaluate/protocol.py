"""How a run's figures came about: the protocol of one evaluation, as data and in words.

A rank-1 says little without it: published ones are of the epoch that the test split itself chose,
some are re-ranked and some not. `tasks.evaluate.describing` puts together what the checkpoint's
training.json, the dataset's manifest and the evaluation's own section say; ``protocol.json`` holds
it beside the figures, and `words` is how terminal, Prefect and report tell it. What a checkpoint
does not say is null in the file and "not on record" in words.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tasks.errors import PedAlignError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROTOCOL = "protocol.json"
_UNKNOWN = "not on record"
_CHOICES = {
    "val": "validation",
    "held-out": "held-out train people",
    "test": "the test split itself",
}


def read_protocol(folder: Path) -> dict[str, Any] | None:
    """Read an evaluation's protocol; None where an older version left none.

    Raises:
        PedAlignError: The file is damaged.
    """
    path = folder / PROTOCOL
    if not path.exists():
        return None
    try:
        body: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise PedAlignError(
            f"{path}: not JSON ({error})",
            "the file is written by the stage evaluate",
            "run dvc repro evaluate",
        ) from error
    return body


def epoch_words(protocol: Mapping[str, Any]) -> str:
    """Which epoch it is and who chose it: "2 of 4, by validation (22 people)"."""
    kept, epochs, on = (protocol.get(k) for k in ("kept_epoch", "epochs", "chosen_on"))
    place = f"{kept} of {epochs}" if kept and epochs else "epoch not on record"
    if on == "last":
        return f"{place}, the last; nothing was chosen"
    if on is None:
        return f"{place}; who chose it is not on record" if kept else _UNKNOWN
    people = protocol.get("chosen_by_people")
    return f"{place}, by {_CHOICES.get(on, on)}" + (f" ({people:,} people)" if people else "")


def ranking_words(protocol: Mapping[str, Any]) -> str:
    """How the gallery was ranked."""
    if not protocol.get("reranked"):
        return "cosine of features"
    return f"cosine, then fusion encoder on the first {protocol['reranked']:,}"


def official_words(protocol: Mapping[str, Any]) -> str:
    """Whether what was asked is the published split."""
    if protocol.get("drawn"):
        return "drawn by this program, no benchmark"
    if protocol.get("official") is None:
        return "no published split is known"
    variant = protocol.get("variant") or "the published split"
    if protocol["official"]:
        return f"exactly {variant}"
    differences = "; ".join(protocol.get("differences", [])[:3])
    return f"not exactly {variant}: {differences}"


def words(protocol: Mapping[str, Any]) -> dict[str, str]:
    """The protocol by its headings, in the order in which it is told."""
    height, width = protocol.get("image_size") or (0, 0)
    said = {
        "dataset": f"{protocol.get('dataset')}, {protocol.get('split')} split",
        "official": official_words(protocol),
        "cleaning": str(protocol.get("cleaning")),
        "epoch": epoch_words(protocol),
        "ranked by": ranking_words(protocol),
        "flips": "picture and mirror image" if protocol.get("flip") else "no",
        "reading": protocol.get("reading") or "none: a dual encoder",
        "pictures": f"{height} x {width}",
        "precision": str(protocol.get("precision") or _UNKNOWN),
    }
    if protocol.get("reranked"):
        processes = protocol.get("processes") or 1
        said["mixed"] = f"cosine weighs {protocol.get('similarity_weight'):g}, as on {processes} "
        said["mixed"] += "process" if processes == 1 else "processes"
    return said

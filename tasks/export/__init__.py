"""Hand the pairs to other trainers: one self-contained set out of the pipeline's tables.

    export(Tables(images=..., screened=..., captioned=..., annotated=...), to="cuhk", out=folder)

Four layouts:

- ``cuhk``: ``reid_raw.json`` and ``imgs/``, what CUHK-PEDES loaders read;
- ``folder``: ``images/`` and ``captions.jsonl``, a line a picture with its provenance;
- ``webdataset``: tar shards of picture, text and JSON, reproducible to the byte;
- ``sda``: ``sda_0.json`` and so on with phrases, boxes and confidences, and ``imgs/``, as SDA was
  released and MRA's loaders read it.

What is unusual: only what survived is handed on, and a note beside the set counts what was left out
by reason, so that the set can be reported honestly. Memory holds one shard. The folder appears when
it is complete: a killed export leaves a hidden ``.NAME.partial``, which the next one clears away.

`reading` joins the tables, `layouts` writes.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from tqdm import tqdm

from tasks.errors import PedAlignError
from tasks.export.layouts import ENTRIES_PER_FILE, WRITERS, Writer
from tasks.export.reading import Pair, Tables, pairs
from tasks.shards import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ENTRIES_PER_FILE", "Exported", "Layout", "Pair", "Tables", "export", "pairs"]

log = logging.getLogger(__name__)

Layout = Literal["cuhk", "folder", "webdataset", "sda"]


@dataclass(frozen=True)
class Exported:
    """What was handed on."""

    pairs: int
    captions: int
    left_out: dict[str, int]
    """Rows left out, by reason."""
    counts: dict[str, int] = field(default_factory=dict)
    """What the layout has to say besides."""


def export(
    tables: Tables, *, to: Layout, out: Path, entries_per_file: int = ENTRIES_PER_FILE
) -> Exported:
    """Write the surviving pairs in another trainer's layout.

    Args:
        tables: What to hand on.
        to: The layout.
        out: A new folder; it appears when everything is written.
        entries_per_file: Where a next JSON list begins; ``sda`` only.

    Returns:
        What was written; the same is in ``export.json`` there, for ``sda`` in ``export.yaml``.

    Raises:
        PedAlignError: ``out`` exists, the layout is unknown, ``sda`` lacks annotations, no pair
            survived, or the tables do not belong together.
    """
    _check(tables, to, out)
    temporary = out.with_name(f".{out.name}.partial")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    left_out: Counter[str] = Counter()
    written = captions = 0
    try:
        options = {"entries_per_file": entries_per_file} if to == "sda" else {}
        writer: Writer = WRITERS[to](temporary, **options)
        try:
            found = pairs(tables, left_out)
            for pair in tqdm(found, desc=f"export {to}", unit="pair", disable=None):
                writer.add(pair)
                written += 1
                captions += 1 if to == "sda" else len(pair.captions)
        finally:
            writer.close()
        if not written:
            raise PedAlignError(
                f"no pair of {tables.images} is left (left out: {dict(left_out)})",
                "an export holds at least one pair",
                "see data/reports/report for what was refused and why",
            )
        result = Exported(written, captions, dict(sorted(left_out.items())), writer.counts())
        inputs = {k: read_manifest(v).digest for k, v in vars(tables).items() if v is not None}
        note = {"layout": to, **asdict(result), "inputs": inputs}
        # JSON is YAML, too.
        (temporary / writer.note).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    log.info("exported %d pairs to %s (%s)", written, out.name, to)
    return result


def _check(tables: Tables, to: str, out: Path) -> None:
    if to not in get_args(Layout):
        raise PedAlignError(
            f"layout {to!r}", f"the layouts are {', '.join(get_args(Layout))}", "choose one of them"
        )
    if out.exists():
        raise PedAlignError(
            f"{out}: exists already", "an export makes a new folder", "remove it or name another"
        )
    if to == "sda" and tables.annotated is None:
        raise PedAlignError(
            "layout 'sda' without annotations",
            "SDA entries hold phrases and boxes",
            "give the annotated table, or choose another layout",
        )

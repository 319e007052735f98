"""What may be handed on: the pipeline's tables joined row by row, and why the other rows are not.

Memory holds one shard of pictures and the side rows of its range of uids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.errors import PedAlignError
from tasks.schemas import OK
from tasks.shards import MANIFEST, Manifest, read_manifest, read_shard

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

_PROVENANCE = (
    "uid", "parent_uid", "dataset", "split", "person_id", "camera", "source_path", "prompt",
    "eda_op", "seed", "mode", "strength", "match", "steps", "guidance", "scheduler",
    "noise", "detail",
    "negative_prompt", "control_scale", "reuse", "base_revision", "dad_digest",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables that belong together; side tables may be left out."""

    images: Path
    """An ingested or restyled set."""
    screened: Path | None = None
    """Drops what screening refused."""
    captioned: Path | None = None
    """Replaces the captions."""
    annotated: Path | None = None
    """Adds phrases and regions; needed for ``sda``."""

    @classmethod
    def annotated_in(cls, data: Path) -> Tables:
        """Find the annotated pairs of a folder: the stages' outputs, or an ingested SDA set.

        Screening and captions are taken along where they are there: an annotated row knows what
        they refused, and they know it in more detail.

        Raises:
            PedAlignError: There are none.
        """
        outputs = {name: data / name for name in ("screened", "captioned", "annotated")}
        there = {name: path for name, path in outputs.items() if (path / MANIFEST).exists()}
        images = data / "restyled" if (data / "restyled" / MANIFEST).exists() else data
        if "annotated" not in there or not (images / MANIFEST).exists():
            raise PedAlignError(
                f"{data}: no annotated pictures",
                "it holds restyled/ and annotated/, as the stages write them, or is an ingested "
                "SDA set",
                "run dvc repro annotate, or name another folder with --data",
            )
        if images == data:
            return cls(images=data, annotated=there["annotated"])
        return cls(images=images, **there)


@dataclass(frozen=True)
class Pair:
    """A picture with its captions and where it comes from."""

    uid: str
    image: bytes
    captions: list[str]
    row: dict[str, Any]
    """The image's columns, without the picture."""
    annotation: dict[str, Any] | None
    """The annotated row."""

    @property
    def suffix(self) -> str:
        """File name ending, from the bytes and not from any name."""
        return "png" if self.image.startswith(b"\x89PNG") else "jpg"

    @property
    def name(self) -> str:
        """Path inside the picture folder; 256 folders keep a million files bearable."""
        return f"{self.uid[:2]}/{self.uid}.{self.suffix}"

    @property
    def identity(self) -> str:
        """The person, or the picture itself where nobody knows who it is."""
        return str(self.row["person_id"] or self.uid)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the picture comes from and how it was made, as far as recorded."""
        return {k: self.row[k] for k in _PROVENANCE if self.row.get(k) is not None}


def pairs(tables: Tables, left_out: Counter[str]) -> Iterator[Pair]:
    """Read what may be handed on, in uid order, a shard in memory at a time.

    Args:
        tables: The folders.
        left_out: Counts the other rows by reason; filled while reading.

    Raises:
        PedAlignError: A side table lacks a picture's row: the folders come from different runs.
    """
    images = read_manifest(tables.images)
    wanted = {
        "screened": (tables.screened, ["keep", "reason", "status", "error"]),
        "captioned": (tables.captioned, ["captions", "status", "error"]),
        "annotated": (tables.annotated, ["caption", "phrases", "regions", "status", "error"]),
    }
    sides = {
        name: (folder, read_manifest(folder), columns)
        for name, (folder, columns) in wanted.items()
        if folder is not None
    }
    for record in images.shards:
        table = read_shard(tables.images, record)
        beside = {
            name: _range(folder, manifest, columns, record.first_uid, record.last_uid)
            for name, (folder, manifest, columns) in sides.items()
        }
        for row in _rows(table):
            entries = {name: found.get(row["uid"]) for name, found in beside.items()}
            missing = [name for name, entry in entries.items() if entry is None]
            if missing:
                raise PedAlignError(
                    f"{row['uid']} of {tables.images} is missing in {', '.join(missing)}",
                    "side tables hold a row for every picture",
                    "run dvc repro: the folders come from different runs",
                )
            refusal = _refusal(row, entries)
            captions = (entries.get("captioned") or row)["captions"] or []
            captions = [text for text in captions if text.strip()]
            if refusal is None and not captions:
                refusal = "no-caption"
            if refusal is not None:
                left_out[refusal] += 1
                continue
            yield Pair(row["uid"], row.pop("image"), captions, row, entries.get("annotated"))


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries, a few at a time: a shard of pictures twice in memory is too much."""
    for batch in table.to_batches(max_chunksize=64):
        yield from batch.to_pylist()


def _range(
    folder: Path, manifest: Manifest, columns: list[str], first: str, last: str
) -> dict[str, dict[str, Any]]:
    """Side rows between two uids, by uid, from whatever shards they are in."""
    found: dict[str, dict[str, Any]] = {}
    for record in manifest.shards:
        if record.last_uid >= first and record.first_uid <= last:
            table = read_shard(folder, record, ["uid", *columns])
            found |= {row["uid"]: row for row in table.to_pylist()}
    return found


def _refusal(row: dict[str, Any], entries: dict[str, dict[str, Any] | None]) -> str | None:
    """Why a row is left out: the first stage's reason; None for one that stays."""
    if row["status"] != OK or row["image"] is None:
        return str(row["error"] or "no-image").split(":", 1)[0]
    screened = entries.get("screened")
    if screened is not None and not screened["keep"]:
        return str(screened["reason"] or screened["error"]).split("+", 1)[0].split(":", 1)[0]
    for entry in entries.values():
        if entry is not None and entry["status"] != OK:
            return str(entry["error"]).split(":", 1)[0]
    return None

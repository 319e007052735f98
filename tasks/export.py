"""Hand the pairs to other trainers: one self-contained set out of the pipeline's tables.

    export(Tables(images=..., screened=..., captioned=..., annotated=...), to="cuhk", out=folder)

Four layouts:

- ``cuhk``: ``reid_raw.json`` and ``imgs/``, what CUHK-PEDES loaders read;
- ``folder``: ``images/`` and ``captions.jsonl``, a line a picture with its provenance;
- ``webdataset``: tar shards of picture, text and JSON, reproducible to the byte;
- ``sda``: ``sda.json`` with phrases, boxes and confidences, and ``imgs/``, as MRA's loaders read.

What is unusual: only what survived is handed on, and ``export.json`` counts what was left out by
reason, so that the set can be reported honestly. Memory holds one shard. The folder appears when
it is complete.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, get_args

import pyarrow as pa

from tasks.errors import PedAlignError
from tasks.schemas import OK
from tasks.shards import Manifest, read_manifest, read_shard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

Layout = Literal["cuhk", "folder", "webdataset", "sda"]
TAR_BYTES = 256 << 20
"""Size at which a tar shard is closed."""
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


@dataclass(frozen=True)
class Exported:
    """What was handed on."""

    pairs: int
    captions: int
    left_out: dict[str, int]
    """Rows left out, by reason."""


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


class Writer(Protocol):
    """A layout: takes pairs one by one, then closes its files."""

    def add(self, pair: Pair) -> None:
        """Write one pair."""
        ...

    def close(self) -> None:
        """Finish the files."""
        ...


# ------------------------------------------------------------------ reading


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


# ------------------------------------------------------------------ layouts


class _JsonList:
    """A JSON list written as it grows, so that a million entries need no memory."""

    def __init__(self, path: Path) -> None:
        self.file: IO[str] = path.open("w", encoding="utf-8")
        self.file.write("[")
        self.count = 0

    def append(self, entry: object) -> None:
        self.file.write((",\n" if self.count else "\n") + json.dumps(entry, ensure_ascii=False))
        self.count += 1

    def close(self) -> None:
        self.file.write("\n]\n")
        self.file.close()


class _Pictures:
    """Pictures as files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def add(self, pair: Pair) -> None:
        path = self.folder / pair.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pair.image)


class CuhkWriter:
    """The official layout of CUHK-PEDES; identities are numbered from 1 in order of appearance."""

    def __init__(self, out: Path) -> None:
        """Open the files."""
        self.pictures, self.entries = _Pictures(out / "imgs"), _JsonList(out / "reid_raw.json")
        self.out, self.ids = out, dict[str, int]()

    def add(self, pair: Pair) -> None:
        """Write one picture and its entry."""
        self.pictures.add(pair)
        self.entries.append(
            {
                "split": pair.row["split"],
                "captions": pair.captions,
                "file_path": pair.name,
                "processed_tokens": [re.findall(r"\w+", text.lower()) for text in pair.captions],
                "id": self.ids.setdefault(pair.identity, len(self.ids) + 1),
            }
        )

    def close(self) -> None:
        """Finish the list, and say which number is whom."""
        self.entries.close()
        text = json.dumps({n: name for name, n in self.ids.items()}, indent=0, ensure_ascii=False)
        (self.out / "identities.json").write_text(text + "\n", encoding="utf-8")


class FolderWriter:
    """Plain files with a line of JSON each."""

    def __init__(self, out: Path) -> None:
        """Open the files."""
        self.pictures = _Pictures(out / "images")
        self.captions = (out / "captions.jsonl").open("w", encoding="utf-8")

    def add(self, pair: Pair) -> None:
        """Write one picture and its line."""
        self.pictures.add(pair)
        line = {"file_name": f"images/{pair.name}", "captions": pair.captions, **pair.provenance}
        if pair.annotation is not None:
            line |= {k: pair.annotation[k] for k in ("caption", "phrases", "regions")}
        self.captions.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Finish the file."""
        self.captions.close()


class WebDatasetWriter:
    """Tar shards that the webdataset library streams; the optional extra of that name."""

    def __init__(self, out: Path) -> None:
        """Open the first shard.

        Raises:
            PedAlignError: The library is not installed.
        """
        try:
            import webdataset
        except ImportError:
            raise PedAlignError(
                "the webdataset library is not installed",
                "that layout is written by it",
                "pip install 'pedalign[webdataset]', or choose the layout folder",
            ) from None
        # Everything that tar would note about when and by whom is fixed.
        self.sink = webdataset.ShardWriter(
            str(out / "pairs-%06d.tar"), maxcount=100_000, maxsize=TAR_BYTES, verbose=0, mtime=0,
            user="pedalign", group="pedalign",
        )  # fmt: skip

    def add(self, pair: Pair) -> None:
        """Write one sample; the library splits names at the first dot, so the key has none."""
        record = {"captions": pair.captions, **pair.provenance}
        if pair.annotation is not None:
            record |= {k: pair.annotation[k] for k in ("caption", "phrases", "regions")}
        self.sink.write(
            {
                "__key__": pair.uid.replace(".", "-"),
                pair.suffix: pair.image,
                "txt": "\n".join(" ".join(text.split()) for text in pair.captions),
                "json": json.dumps(record, ensure_ascii=False, sort_keys=True).encode(),
            }
        )

    def close(self) -> None:
        """Finish the last shard."""
        self.sink.close()


class SdaWriter:
    """SDA's annotation list, one entry a picture with a number of its own."""

    def __init__(self, out: Path) -> None:
        """Open the files."""
        self.pictures, self.entries = _Pictures(out / "imgs"), _JsonList(out / "sda.json")

    def add(self, pair: Pair) -> None:
        """Write one picture and its entry."""
        from tasks.sda import to_sda

        self.pictures.add(pair)
        self.entries.append(to_sda(pair.annotation or {}, pair.name, self.entries.count))

    def close(self) -> None:
        """Finish the list."""
        self.entries.close()


_WRITERS: dict[str, type[Any]] = {
    "cuhk": CuhkWriter,
    "folder": FolderWriter,
    "webdataset": WebDatasetWriter,
    "sda": SdaWriter,
}


def export(tables: Tables, *, to: Layout, out: Path) -> Exported:
    """Write the surviving pairs in another trainer's layout.

    Args:
        tables: What to hand on.
        to: The layout.
        out: A new folder; it appears when everything is written.

    Returns:
        What was written; the same is in ``export.json`` there.

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
        writer: Writer = _WRITERS[to](temporary)
        try:
            for pair in pairs(tables, left_out):
                writer.add(pair)
                written += 1
                captions += len(pair.captions)
        finally:
            writer.close()
        if not written:
            raise PedAlignError(
                f"no pair of {tables.images} is left (left out: {dict(left_out)})",
                "an export holds at least one pair",
                "see data/reports/report for what was refused and why",
            )
        result = Exported(written, captions, dict(sorted(left_out.items())))
        inputs = {k: read_manifest(v).digest for k, v in vars(tables).items() if v is not None}
        note = {"layout": to, **asdict(result), "inputs": inputs}
        (temporary / "export.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
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

"""The layouts that pairs are written in, each a writer behind one Protocol.

A writer takes pairs one by one and keeps none of them, so the size of a set costs no memory
(`CuhkWriter` remembers the number of each identity).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import IO, TYPE_CHECKING, Any, Protocol

from tasks.errors import PedAlignError

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.export.reading import Pair

TAR_BYTES = 256 << 20
"""Size at which a tar shard is closed."""

ENTRIES_PER_FILE = 100_000
"""Entries of one SDA file. The release has 14 files of about 87,000."""


class Writer(Protocol):
    """A layout: takes pairs one by one, then closes its files."""

    note: str
    """Name of the file that says what was handed on."""

    def add(self, pair: Pair) -> None:
        """Write one pair."""
        ...

    def close(self) -> None:
        """Finish the files."""
        ...

    def counts(self) -> dict[str, int]:
        """What else there is to say about what was written."""
        ...


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
        self.folder, self.made = folder, set[str]()
        folder.mkdir(parents=True)

    def add(self, pair: Pair) -> None:
        path = self.folder / pair.name
        if path.parent.name not in self.made:
            path.parent.mkdir()
            self.made.add(path.parent.name)
        path.write_bytes(pair.image)


class CuhkWriter:
    """The official layout of CUHK-PEDES; identities are numbered from 1 in order of appearance."""

    note = "export.json"

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

    def counts(self) -> dict[str, int]:
        """How many people there are."""
        return {"identities": len(self.ids)}


class FolderWriter:
    """Plain files with a line of JSON each."""

    note = "export.json"

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

    def counts(self) -> dict[str, int]:
        """Nothing."""
        return {}


class WebDatasetWriter:
    """Tar shards that the webdataset library streams; the optional extra of that name."""

    note = "export.json"

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

    def counts(self) -> dict[str, int]:
        """Nothing."""
        return {}


class SdaWriter:
    """SDA's annotation lists: an entry a picture, numbered through all files.

    Paths start at the folder itself. A box that is thinner than a pixel of its picture is left
    out and counted: the released loader stops at such a box.
    """

    # No .json: whoever trains on the folder may well take every such file of it for a list.
    note = "export.yaml"

    def __init__(self, out: Path, entries_per_file: int = ENTRIES_PER_FILE) -> None:
        """Open the first file."""
        self.out, self.limit = out, entries_per_file
        self.pictures = _Pictures(out / "imgs")
        self.files: list[_JsonList] = []
        self.seen: Counter[str] = Counter()
        self._next_file()

    def _next_file(self) -> None:
        self.files.append(_JsonList(self.out / f"sda_{len(self.files)}.json"))

    def add(self, pair: Pair) -> None:
        """Write one picture and its entry."""
        # Imported here: this loads spaCy, for this layout alone.
        from tasks.ingest.captions import clean_caption
        from tasks.sda import thick_enough, to_sda_counted

        if self.files[-1].count == self.limit:
            self.files[-1].close()
            self._next_file()
        annotation = pair.annotation or {"caption": pair.captions[0], "phrases": [], "regions": []}
        size = pair.row["width"], pair.row["height"]
        regions = [r for r in annotation["regions"] or [] if thick_enough(r["box"], *size)]
        thin = len(annotation["regions"] or []) - len(regions)
        annotation = annotation | {"regions": regions}
        self.pictures.add(pair)
        number = sum(self.seen[key] for key in ("with_regions", "without_regions"))
        entry, unclear = to_sda_counted(annotation, f"imgs/{pair.name}", number)
        self.files[-1].append(entry)
        self.seen["with_regions" if regions else "without_regions"] += 1
        self.seen["regions"] += len(regions)
        self.seen["thinner_than_a_pixel"] += thin
        self.seen["place_unclear"] += unclear
        self.seen["unclean"] += clean_caption(entry["caption"]) != entry["caption"]

    def close(self) -> None:
        """Finish the last list."""
        self.files[-1].close()

    def counts(self) -> dict[str, int]:
        """Files, rows and regions, and what the layout does not carry."""
        return {
            "files": len(self.files),
            "rows_without_regions": self.seen["without_regions"],
            "regions": self.seen["regions"],
            "regions_thinner_than_a_pixel": self.seen["thinner_than_a_pixel"],
            "regions_whose_place_in_the_caption_is_unclear": self.seen["place_unclear"],
            "captions_that_ingest_would_clean": self.seen["unclean"],
        }


WRITERS: dict[str, type[Any]] = {
    "cuhk": CuhkWriter,
    "folder": FolderWriter,
    "webdataset": WebDatasetWriter,
    "sda": SdaWriter,
}
"""Layout -> what writes it."""

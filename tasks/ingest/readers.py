"""The official layouts of the field, each an iterator of raw entries behind one Protocol.

A reader translates names and nothing more: what it yields is unchecked (`tasks.ingest.plan`
checks it), so a new layout is a dozen lines under ``@register``. Layouts and their quirks are
those of the releases:

- CUHK-PEDES and ICFG-PEDES share keys; ICFG writes splits in capitals, and its folders named
  train and test are MSMT17's, not the split; identities start at 1 in CUHK, at 0 elsewhere;
- RSTPReid says ``img_path``; its camera is in the file name;
- the fine-tuning files of APTM and MRA hold one entry a caption for train and one an image for
  val and test, and the split is in the file's name only;
- MALS and SDA are many files of one kind and know no identities.
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from tasks.errors import PedAlignError
from tasks.ingest.entries import Refused, read_entries
from tasks.ingest.raw import FINGERPRINT
from tasks.inputs import optional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Files of a plain folder that are taken for images; their content decides what they are."""

NO_SPLIT = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dataset lies."""

    root: Path
    """Its folder."""
    annotation: str
    """Annotation file, a folder of them, or `tasks.inputs.NOTHING`."""
    files: str
    """Which files of an annotation folder, as a pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One raw, unchecked entry: an image and what is said about it."""

    where: str
    """File name and number, for messages."""
    path: object = None
    """Path of the image, below the images folder."""
    captions: object = None
    """A caption or a list of them; None where the layout has none."""
    split: object = None
    person: object = None
    camera: str | None = None
    labels: object = None
    regions: Mapping[str, Any] | None = None
    """A whole entry of SDA."""
    fault: str | None = None
    """``slug: detail`` of an entry that is not even a mapping with the layout's keys."""


class Reader(Protocol):
    """Yields the entries of a dataset in any order, holding as few as the layout allows."""

    def __call__(self, place: Place) -> Iterator[Entry]:
        """Read the dataset.

        Raises:
            PedAlignError: The annotation file as a whole cannot be read.
        """
        ...


READERS: dict[str, Reader] = {}


def register(name: str) -> Callable[[Reader], Reader]:
    """Make a reader known under the name of its format."""

    def add(reader: Reader) -> Reader:
        READERS[name] = reader
        return reader

    return add


def annotation_files(place: Place) -> list[Path]:
    """List a dataset's annotation files, sorted by name; a fingerprint is none of them.

    Raises:
        PedAlignError: There is none.
    """
    path = Path(place.annotation)
    found = [path] if path.is_file() else []
    if path.is_dir():
        found = sorted(
            f
            for f in path.iterdir()
            if fnmatch.fnmatchcase(f.name, place.files) and f.name != FINGERPRINT
        )
    if not found:
        raise PedAlignError(
            f"{path}: no annotation file" + (f" called {place.files}" if path.is_dir() else ""),
            "`annotation` is a file, or a folder whose files match the pattern `files`",
            "put the dataset's annotation there, or correct the path in params.yaml",
        )
    return found


def _mappings(file: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, Any, str | None]]:
    """Yield (where, entry, fault): a fault if the entry is no mapping with the needed keys."""
    for number, entry in enumerate(read_entries(file)):
        where = f"{file.name}#{number}"
        if isinstance(entry, Refused):
            yield where, {}, entry.fault
            continue
        if not isinstance(entry, dict):
            yield where, {}, f"not-a-mapping: {entry!r:.80}"
            continue
        missing = [key for key in needed if key not in entry]
        yield where, entry, f"missing-key: {', '.join(missing)}" if missing else None


def _first_folder(path: object) -> str | None:
    parts = PurePosixPath(path).parts if isinstance(path, str) else ()
    return parts[0] if len(parts) > 1 else None


@register("cuhk-pedes")
def read_cuhk(place: Place) -> Iterator[Entry]:
    """Read ``reid_raw.json``; the camera is the sub-collection that an image comes from."""
    for file in annotation_files(place):
        for where, entry, fault in _mappings(file, ("file_path", "captions", "split", "id")):
            path = entry.get("file_path")
            yield Entry(
                where=where,
                path=path,
                captions=entry.get("captions"),
                split=entry.get("split"),
                person=entry.get("id"),
                camera=_first_folder(path),
                fault=fault,
            )


_MSMT17 = re.compile(r"^\d+_\d+_(\d{2})_")


@register("icfg-pedes")
def read_icfg(place: Place) -> Iterator[Entry]:
    """Read ``ICFG-PEDES.json``; the camera is the third number of MSMT17's file names."""
    for entry in read_cuhk(place):
        name = PurePosixPath(entry.path).name if isinstance(entry.path, str) else ""
        camera = _MSMT17.match(name)
        yield Entry(
            where=entry.where,
            path=entry.path,
            captions=entry.captions,
            split=entry.split.lower() if isinstance(entry.split, str) else entry.split,
            person=entry.person,
            camera=f"c{int(camera[1])}" if camera else None,
            fault=entry.fault,
        )


_RSTP = re.compile(r"_(c\d+)_")


@register("rstpreid")
def read_rstp(place: Place) -> Iterator[Entry]:
    """Read ``data_captions.json``."""
    for file in annotation_files(place):
        for where, entry, fault in _mappings(file, ("img_path", "captions", "split", "id")):
            path = entry.get("img_path")
            camera = _RSTP.search(path) if isinstance(path, str) else None
            yield Entry(
                where=where,
                path=path,
                captions=entry.get("captions"),
                split=entry.get("split"),
                person=entry.get("id"),
                camera=camera[1] if camera else None,
                fault=fault,
            )


_IN_NAME = re.compile(r"(?:^|[_-])(train|val|test)\.json$")


@register("finetune")
def read_finetune(place: Place) -> Iterator[Entry]:
    """Read the fine-tuning files of APTM and MRA, such as ``cuhk_train.json`` and its siblings.

    Entries of one image and one person in a file are merged, so a file's images are held in
    memory (68,126 captions in the largest).

    Raises:
        PedAlignError: A file's name does not say its split, or names an image for two people.
    """
    for file in annotation_files(place):
        split = _IN_NAME.search(file.name)
        if not split:
            raise PedAlignError(
                f"{file}: the name does not end in _train, _val or _test",
                "the split of a fine-tuning file stands in its name only",
                "rename it, or leave it out with the pattern `files`",
            )
        images: dict[str, tuple[str, object, list[object]]] = {}
        for where, entry, fault in _mappings(file, ("image", "caption", "image_id")):
            path, person = entry.get("image"), entry.get("image_id")
            if fault or not isinstance(path, str):
                yield Entry(where=where, path=path, split=split[1], fault=fault)
                continue
            _, owner, captions = images.setdefault(path, (where, person, []))
            if owner != person:
                raise PedAlignError(
                    f"{file}: {path} shows {owner!r} and, at {where}, {person!r}",
                    "an image shows one person",
                    "correct the entry's image_id",
                )
            said = entry["caption"]
            captions += said if isinstance(said, list) else [said]
        for path, (where, person, captions) in images.items():
            yield Entry(where=where, path=path, captions=captions, split=split[1], person=person)


@register("mals")
def read_mals(place: Place) -> Iterator[Entry]:
    """Read MALS: one caption and 27 attribute labels an image, everything for training."""
    for file in annotation_files(place):
        for where, entry, fault in _mappings(file, ("image", "caption", "label")):
            yield Entry(
                where=where,
                path=entry.get("image"),
                captions=entry.get("caption"),
                split="train",
                labels=entry.get("label"),
                fault=fault,
            )


@register("sda")
def read_sda(place: Place) -> Iterator[Entry]:
    """Read SDA: one caption an image with phrases, boxes and confidences."""
    for file in annotation_files(place):
        needed = ("image", "caption", "boxes", "logits", "phrases")
        for where, entry, fault in _mappings(file, needed):
            yield Entry(
                where=where,
                path=entry.get("image"),
                captions=entry.get("caption"),
                split="train",
                regions=None if fault else {key: entry[key] for key in needed},
                fault=fault,
            )


@register("luperson-t")
def read_luperson(place: Place) -> Iterator[Entry]:
    """Read LUPerson-T's list of paths and captions; everything is for training.

    The split that its authors draw at random keeps 99.8 % for train and serves no result. 957,606
    images have 1,277,991 texts, so entries of one image are merged. Files are read twice: the
    first time for hashes of the paths alone, so that only images with several entries are held.
    """
    needed = ("file_path", "captions")
    seen: set[int] = set()
    several: set[int] = set()
    for file in annotation_files(place):
        for _, entry, _ in _mappings(file, needed):
            at = hash(str(entry.get("file_path")))
            (several if at in seen else seen).add(at)
    merged: dict[str, Entry] = {}
    for file in annotation_files(place):
        for where, entry, fault in _mappings(file, needed):
            path, captions = entry.get("file_path"), entry.get("captions")
            one = Entry(where=where, path=path, captions=captions, split="train", fault=fault)
            if fault or not isinstance(path, str) or hash(path) not in several:
                yield one
            else:
                merged[path] = _merge(merged[path], one) if path in merged else one
    yield from merged.values()


_PATH_KEYS = ("image", "file_path", "img_path", "path", "file_name")
_CAPTION_KEYS = ("captions", "caption", "text")
_PERSON_KEYS = ("person", "person_id", "id")


@register("folder")
def read_folder(place: Place) -> Iterator[Entry]:
    """Read a plain folder of images, with a CSV, JSON or JSON-lines file of captions or without.

    Columns: ``image`` (or file_path, img_path, path, file_name), ``caption`` or ``captions``,
    and, where known, ``split``, ``person`` (or person_id, id) and ``camera``. Lines about the same
    image are merged. Without a file, every image below the folder is an entry without captions,
    and a first folder named train, val or test is its split.
    """
    file = optional(place.annotation)
    if file is None:
        yield from _bare_folder(place)
        return
    merged: dict[str, Entry] = {}
    for found in annotation_files(place):
        for where, row, fault in _mappings(found, ()):
            path = _any_of(row, _PATH_KEYS)
            fault = fault or ("missing-key: image" if path is None else None)
            entry = Entry(
                where=where,
                path=path,
                captions=_any_of(row, _CAPTION_KEYS),
                split=row.get("split"),
                person=_any_of(row, _PERSON_KEYS),
                camera=str(row["camera"]) if row.get("camera") is not None else None,
                fault=fault,
            )
            if fault or not isinstance(path, str):
                yield entry
            else:
                merged[path] = _merge(merged[path], entry) if path in merged else entry
    yield from merged.values()


def _bare_folder(place: Place) -> Iterator[Entry]:
    # Imported here: `raw` reads files, which no other reader needs.
    from tasks.ingest.raw import RawFolder

    others: Counter[str] = Counter()
    for number, path in enumerate(RawFolder(place.root).walk()):
        if PurePosixPath(path).suffix.lower() in SUFFIXES:
            yield _bare(f"file {number}", path)
        else:
            others[PurePosixPath(path).suffix.lower()] += 1
    if others:
        log.info("%s: no pictures by their names, left out: %s", place.root, dict(others))


def _bare(where: str, path: str) -> Entry:
    """Make an entry of a picture that is only there."""
    first = _first_folder(path)
    split = first if first in {"train", "val", "test"} else NO_SPLIT
    return Entry(where=where, path=path, captions=(), split=split)


@register("lmdb")
def read_lmdb(place: Place) -> Iterator[Entry]:
    """Read an LMDB of pictures, which is the place's root, as if it were a plain folder.

    Without an annotation file every key is an entry; with one, its paths are keys, and its columns
    are those of `read_folder`.

    Raises:
        PedAlignError: The database is missing or damaged.
    """
    # Imported here: no other reader needs it.
    from tasks.ingest.lmdb_pictures import open_lmdb

    if optional(place.annotation) is not None:
        yield from read_folder(place)
        return
    with open_lmdb(place.root) as pictures:
        for number, name in enumerate(pictures.names()):
            yield _bare(f"key {number}", name)


def _any_of(row: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _merge(first: Entry, again: Entry) -> Entry:
    told = {"split": (first.split, again.split), "person": (first.person, again.person)}
    for name, (before, now) in told.items():
        if before != now:
            raise PedAlignError(
                f"{again.where}: {name} of {first.path} is {now!r}, at {first.where} {before!r}",
                "lines about one image agree",
                "correct one of them",
            )
    captions = [
        caption
        for said in (first.captions, again.captions)
        for caption in (said if isinstance(said, list) else [said])
        if caption is not None
    ]
    return Entry(
        where=first.where,
        path=first.path,
        captions=captions,
        split=first.split,
        person=first.person,
        camera=first.camera,
    )

"""``python -m tasks.ingest.photos FOLDER``: captions for photos that only have region labels.

Street-photo sets such as Clothing Co-Parsing label regions (a blouse here, a skirt there) and say
nothing in words. This converter reads ``regions.json`` beside the images, a list of ``{"image",
"width", "height", "regions": [{"label", "box", "area", "median_rgb"}]}`` with boxes (cx, cy, w, h)
in [0, 1], and writes into the same folder

- ``captions.jsonl``: two differently worded captions an image out of labels and colour names, and
  a split, half train and half test by a hash of the name (`tasks.ingest.readers.read_folder`);
- ``truth.parquet``: the labelled boxes with their colour names, by ``source_path``, to judge
  proposed regions against. Only evaluation, reports, benchmarks and tests may open it.

Unusual: the captions are composed, so they are only as good as the labels. They make the real-photo
path run; retrieval scores on them are no benchmark.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.colour import PALETTE, lab
from tasks.errors import PedAlignError
from tasks.ingest.entries import read_entries
from tasks.ingest.raw import PathError, safe_path
from tasks.shards import atomic_write, item_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

REGIONS_JSON = "regions.json"
CAPTIONS = "captions.jsonl"
TRUTH = "truth.parquet"

_NOT_CLOTHING = frozenset({"person", "skin", "hair", "accessories", "face", "background", "null"})
_WORN_IN_PAIRS = frozenset({
    "pants", "jeans", "leggings", "shorts", "tights", "stockings", "socks", "shoes", "boots",
    "pumps", "heels", "flats", "wedges", "loafers", "sneakers", "sandals", "clogs", "glasses",
    "sunglasses", "gloves",
})  # fmt: skip
_CARRIED = frozenset({"bag", "purse", "wallet"})
_NAMED = 4  # Garments in a caption, the largest; more would read like a list.

_TRUTH_SCHEMA = pa.schema(
    [
        pa.field("source_path", pa.string(), False, {"meaning": "path inside the dataset"}),
        pa.field(
            "regions",
            pa.list_(
                pa.struct(
                    [
                        pa.field("label", pa.string(), metadata={"meaning": "what it is"}),
                        pa.field(
                            "box",
                            pa.list_(pa.float32(), 4),
                            metadata={"meaning": "cx, cy, w, h", "unit": "share of the picture"},
                        ),
                        pa.field(
                            "area",
                            pa.float32(),
                            metadata={"meaning": "covered by the label", "unit": "share"},
                        ),
                        pa.field("colour", pa.string(), metadata={"meaning": "nearest name"}),
                    ]
                )
            ),
            metadata={"meaning": "labelled regions, in the order of the annotation"},
        ),
    ]
)


def colour_name(rgb: Sequence[int]) -> str:
    """Name the colour of the palette that is nearest in CIELAB (Euclidean, CIE76).

    Args:
        rgb: Three values, 0 to 255 (sRGB).
    """
    anchors = [(name, anchor) for name, several in PALETTE.items() for anchor in several]
    points = lab(np.array([rgb, *(anchor for _, anchor in anchors)], np.uint8))
    distances = np.linalg.norm(points[1:] - points[0], axis=1)
    return anchors[int(distances.argmin())][0]


def compose(regions: Sequence[dict[str, Any]], seed: int) -> list[str]:
    """Write two captions that name the same things in other words.

    Args:
        regions: With ``label``, ``area`` and ``colour`` (None where no colour is known).
        seed: Chooses among wordings.

    Returns:
        Two sentences that differ.
    """
    largest = sorted(regions, key=lambda region: (-region["area"], region["label"]))
    things = [region for region in largest if region["label"] not in _NOT_CLOTHING]
    worn = [r for r in things if r["label"] not in _CARRIED][:_NAMED]
    carried = [r for r in things if r["label"] in _CARRIED][:1]
    hair = next((r["colour"] for r in largest if r["label"] == "hair"), None)
    wearing = _listed([_named(r) for r in worn])
    holding = _listed([_named(r) for r in carried])

    first = ["A person", "A pedestrian", "Someone"][seed % 3]
    first += f" with {hair} hair" if hair else ""
    first += f" wearing {wearing}" if wearing else ""
    first += f" and carrying {holding}" if holding and wearing else ""
    first += f" carrying {holding}" if holding and not wearing else ""

    backwards = _listed([_named(r) for r in reversed(worn)])
    verb = ["is dressed in", "has on", "wears"][seed // 3 % 3]
    second = f"The person in the picture {verb} {backwards}" if backwards else "This is a person"
    second += f", holding {holding}" if holding else ""
    second += f", and the hair is {hair}" if hair else ""
    return [f"{first}.", f"{second}."]


def _named(region: dict[str, Any]) -> str:
    words = f"{region['colour']} {region['label']}" if region["colour"] else region["label"]
    if region["label"] in _WORN_IN_PAIRS:
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def convert(root: Path) -> int:
    """Write ``captions.jsonl`` and ``truth.parquet`` beside a ``regions.json``.

    Args:
        root: The photos' folder.

    Returns:
        The number of images.

    Raises:
        PedAlignError: An entry is not of the layout above.
    """
    entries = [
        _checked(entry, number) for number, entry in enumerate(read_entries(root / REGIONS_JSON))
    ]
    # Exactly half, and the same half whatever the order of the file.
    ranked = sorted(range(len(entries)), key=lambda n: item_seed(entries[n]["image"], 0, "split"))
    test = set(ranked[: len(entries) // 2])
    lines, truth = [], []
    for number, entry in enumerate(entries):
        regions = [
            {
                "label": region["label"],
                "box": region["box"],
                "area": region["area"],
                "colour": colour_name(region["median_rgb"]) if "median_rgb" in region else None,
            }
            for region in entry["regions"]
        ]
        image = entry["image"]
        line = {
            "image": image,
            "captions": compose(regions, item_seed(image, 0, "caption")),
            "split": "test" if number in test else "train",
            # One photo a person: the photo's own name is the identity.
            "person": Path(image).stem,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
        truth.append({"source_path": image, "regions": regions})
    table = pa.Table.from_pylist(truth, schema=_TRUTH_SCHEMA)
    pq.write_table(table, root / TRUTH, compression="zstd")
    atomic_write(root / CAPTIONS, ("\n".join(lines) + "\n").encode())
    return len(entries)


def _checked(entry: Any, number: int) -> dict[str, Any]:
    try:
        image = safe_path(entry["image"])
        for region in entry["regions"]:
            cx, cy, w, h = region["box"]
            sound = all(0 <= value <= 1 for value in (cx, cy, w, h, region["area"]))
            if not sound or not isinstance(region["label"], str) or not region["label"]:
                raise ValueError(f"region {region!r:.80}")
            if any(not 0 <= value <= 255 for value in region.get("median_rgb", [])):
                raise ValueError(f"colour {region['median_rgb']!r:.80}")
    except (KeyError, TypeError, ValueError, PathError) as error:
        raise PedAlignError(
            f"{REGIONS_JSON}, entry {number}: {type(error).__name__}: {error}",
            "an entry has image and regions, a region label, box (cx, cy, w, h), area in [0, 1], "
            "and perhaps median_rgb",
            "mend the entry",
        ) from error
    return {"image": image, "regions": entry["regions"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="the folder with regions.json")
    folder = parser.parse_args().folder
    try:
        count = convert(folder)
    except PedAlignError as error:
        parser.exit(1, f"{error}\n")
    parser.exit(0, f"{folder / CAPTIONS}: {count} images\n")

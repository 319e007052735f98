"""Writes the built-in world to disk in the layouts of real data sets.

- `write_source`: the layout of MALS: images, and a JSON list of {image, caption, image_id, label};
- `write_target`: the official layout of CUHK-PEDES: `imgs/<camera>/<name>.jpg` and
  `reid_raw.json`, a list of {split, captions, file_path, processed_tokens, id};
- `write_unlabelled`: a folder of pictures and nothing said about them, as LUPerson is cut from
  web videos: `train/<video>/<number>.jpg`.

So ingestion reads the world as it reads the real thing. Beside each lies `truth.parquet`, keyed by
`source_path`: attributes, boxes, keypoints. Only evaluation, reports, benchmarks and tests may
open it; no stage that trains or annotates does.

Every image is a function of the seed and its own number, so any part can be drawn alone.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from tasks.errors import PedAlignError
from tasks.world.attributes import Person, mals_labels, sample_resident
from tasks.world.captions import compose, describe
from tasks.world.looks import SOURCE, TARGET_CAMERAS, random_look, render
from tasks.world.people import residents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from tasks.world.drawing import Drawing
    from tasks.world.looks import Look
    from tasks.world.people import Resident

log = logging.getLogger(__name__)

SOURCE_JSON: Final = "mals_attrs.json"
TARGET_JSON: Final = "reid_raw.json"
TRUTH: Final = "truth.parquet"
BOX_PARTS: Final = ("person", "head", "hair", "hat", "upper", "lower", "footwear", "bag")
TWO_EACH: Final[Mapping[str, int]] = MappingProxyType({"train": 2, "val": 2, "test": 2})
"""Captions of an image, by split, as CUHK-PEDES has them."""
PEOPLE_A_VIDEO: Final = 4
"""People of an unlabelled video, LUPerson's mean: 200,000 people in 46,260 scenes."""

_QUALITY: Final = 90
# First word of the seed sequence of each kind of draw, so that none shares a stream; 2 is that of
# `tasks.world.people`.
_SOURCE_STREAM, _IMAGE_STREAM, _SPLIT_STREAM = 1, 3, 4
_VIDEO_STREAM, _PASSER_STREAM, _FRAME_STREAM = 5, 6, 7

_BOX = pa.list_(pa.float32(), 4)


def _truth_schema() -> pa.Schema:
    def field(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> pa.Field:
        return pa.field(name, kind, metadata={"meaning": meaning, "unit": unit})

    attributes = tuple(f for f in Person.__dataclass_fields__ if f not in ("skin", "build"))
    return pa.schema(
        [
            field("source_path", pa.string(), "path of the image inside the data set"),
            field("person", pa.int32(), "identity; in the source every image has its own"),
            field("look", pa.string(), "look or camera"),
            field("view", pa.string(), "side of the person that is seen"),
            field("action", pa.string(), "walking or standing"),
            *(field(name, pa.string(), f"attribute {name} of the person") for name in attributes),
            *(
                field(f"box_{part}", _BOX, f"visible {part}: cx, cy, w, h", "share of the image")
                for part in BOX_PARTS
            ),
            field(
                "keypoints", pa.list_(pa.float32(), 51), "17 COCO points: x, y, visible", "share"
            ),
        ]
    )


TRUTH_SCHEMA: Final = _truth_schema()


def _truth(path: str, identity: int, look: str, person: Person, drawing: Drawing) -> dict[str, Any]:
    return {
        "source_path": path,
        "person": identity,
        "look": look,
        "view": drawing.view,
        "action": drawing.action,
        **person.labels(),
        **{f"box_{part}": drawing.boxes.get(part) for part in BOX_PARTS},
        "keypoints": drawing.keypoints.reshape(-1).tolist(),
    }


def _save(drawing: Drawing, path: Path) -> None:
    Image.fromarray(drawing.pixels).save(path, "JPEG", quality=_QUALITY)


def _save_truth(root: Path, truth: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(truth, schema=TRUTH_SCHEMA)
    pq.write_table(table, root / TRUTH, compression="zstd")


def _finish(
    root: Path, name: str, entries: list[dict[str, Any]], truth: list[dict[str, Any]]
) -> None:
    """Write truth and annotations; the annotations come last: present means complete."""
    _save_truth(root, truth)
    text = json.dumps(entries, indent=None, separators=(", ", ": "), ensure_ascii=False)
    (root / name).write_text(text + "\n", encoding="utf-8")


def source_item(index: int, seed: int) -> tuple[Person, Drawing, str, list[int]]:
    """Draw image `index` of the source: a new person, one caption, 27 labels."""
    rng = np.random.default_rng([_SOURCE_STREAM, seed, index])
    person = sample_resident(rng, target=False)
    drawing = render(person, SOURCE, rng)
    caption = compose(person, "source", rng, drawing)
    return person, drawing, caption.text, mals_labels(person, caption.mentioned)


def write_source(root: Path, images: int, seed: int) -> None:
    """Write the source data set in the layout of MALS.

    Args:
        root: Folder to write into; made if missing.
        images: How many images, each of a new person.
        seed: Everything follows from it.

    Raises:
        PedAlignError: `images` is not positive.
    """
    if images < 1:
        raise PedAlignError(
            f"world source of {images} images", "at least one image", "raise `images`"
        )
    entries: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for index in tqdm(range(images), desc="draw source", unit="image"):
        person, drawing, caption, labels = source_item(index, seed)
        folder = f"gene_crop/w_{index // 1000}"
        path = f"{folder}/{index % 1000}.jpg"
        if index % 1000 == 0:
            (root / folder).mkdir(parents=True, exist_ok=True)
        _save(drawing, root / path)
        entries.append(
            {
                "image": path,
                "caption": caption,
                "image_id": f"w_{index // 1000}_{index % 1000}",
                "label": labels,
            }
        )
        truth.append(_truth(path, index, SOURCE.name, person, drawing))
    _finish(root, SOURCE_JSON, entries, truth)
    log.info("world source: %d images", images)


Item = tuple["Drawing", str, list[str]]
"""An image of a target: the drawing, its camera's name, its captions."""


def target_item(resident: Resident, shot: int, seed: int, captions: int = 2) -> Item:
    """Draw one image of a person of the target.

    Args:
        resident: Who.
        shot: Number of the image; the cameras change from shot to shot.
        seed: Everything follows from it.
        captions: How many are said. Neither the drawing nor the first ones depend on it.

    Returns:
        The drawing, the camera's name and captions that differ.
    """
    rng = np.random.default_rng([_IMAGE_STREAM, seed, resident.number, shot])
    camera = TARGET_CAMERAS[(resident.number * 7 + shot) % len(TARGET_CAMERAS)]
    drawing = render(resident.person, camera, rng)
    said = all_different(captions, lambda: describe(resident.person, "target", rng, drawing))
    return drawing, camera.name, said


def all_different(number: int, say: Callable[[], str]) -> list[str]:
    """Ask for captions until ``number`` of them differ."""
    said: list[str] = []
    while len(said) < number:
        other = say()
        said += [other] if other not in said else []
    return said


def write_target(
    root: Path,
    people: int | Mapping[str, int],
    images_per_person: int | Mapping[str, int],
    seed: int,
    captions: Mapping[str, int] = TWO_EACH,
) -> None:
    """Write the target data set in the official layout of CUHK-PEDES.

    Args:
        root: Folder to write into; made if missing.
        people: How many identities, in all or in each split; see `people.residents`.
        images_per_person: Images of each, over the cameras; in all splits or in each.
        seed: Everything follows from it.
        captions: Captions of an image, by split. Those of a split that is not named stand nowhere
            in the folder: their entries have empty lists. Pictures and the captions that are
            written do not depend on it.

    Raises:
        PedAlignError: Too few people for three splits, or no images.
    """
    images = check_sizes(people, images_per_person)
    write_entries(
        root,
        [camera.name for camera in TARGET_CAMERAS],
        residents(people, seed),
        images,
        captions,
        partial(target_item, seed=seed),
    )


def check_sizes(
    people: int | Mapping[str, int], images_per_person: int | Mapping[str, int]
) -> Mapping[str, int]:
    """Check that a target has somebody and something to show, and give every split its images.

    Raises:
        PedAlignError: Too few people for three splits, or no images.
    """
    images = (
        dict.fromkeys(TWO_EACH, images_per_person)
        if isinstance(images_per_person, int)
        else images_per_person
    )
    few = people < 10 if isinstance(people, int) else min(people["train"], people["test"]) < 1
    if few or min(images.values()) < 1:
        raise PedAlignError(
            f"world target of {people} people with {images_per_person} images each",
            "at least 10 people (three splits) and one image each",
            "raise `people` or `images_per_person`",
        )
    return images


def write_entries(
    root: Path,
    cameras: Iterable[str],
    people: Sequence[Resident],
    images_per_person: Mapping[str, int],
    captions: Mapping[str, int],
    item: Callable[..., Item],
) -> None:
    """Draw people in the official layout of CUHK-PEDES.

    Args:
        root: Folder to write into; made if missing.
        cameras: Names of the folders.
        people: Who.
        images_per_person: Images of each, by split.
        captions: Captions of an image, by split; none where a split is not named.
        item: Draws an image of a `resident`, its `shot` and number of `captions`.
    """
    for camera in cameras:
        (root / "imgs" / camera).mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for resident in tqdm(people, desc="draw target", unit="person"):
        for shot in range(images_per_person[resident.split]):
            drawing, camera, told = item(resident, shot, captions=captions.get(resident.split, 0))
            path = f"{camera}/{resident.number:05d}_{shot}.jpg"
            _save(drawing, root / "imgs" / path)
            entries.append(
                {
                    "split": resident.split,
                    "captions": told,
                    "file_path": path,
                    "processed_tokens": [re.findall(r"[a-z0-9]+", c.lower()) for c in told],
                    "id": resident.number,
                }
            )
            truth.append(_truth(f"imgs/{path}", resident.number, camera, resident.person, drawing))
    _finish(root, TARGET_JSON, entries, truth)
    log.info("world target: %d people, %d images", len(people), len(entries))


def video_look(video: int, seed: int) -> Look:
    """Draw the look of a video: a camera and a place of its own, none like the target's."""
    look = random_look(np.random.default_rng([_VIDEO_STREAM, seed, video]))
    return dataclasses.replace(look, name=f"video_{video:05d}")


def unlabelled_item(passer: int, shot: int, seed: int) -> tuple[Person, Look, Drawing]:
    """Draw one picture of somebody nobody knows.

    Args:
        passer: Who, from 0; `PEOPLE_A_VIDEO` of them share a video. None belongs to the target
            (`belongs_to_target`), and none is drawn from the numbers that the source's people are.
        shot: Number of the person's picture.
        seed: Everything follows from it.

    Returns:
        The person, the video's look and the drawing.
    """
    person = sample_resident(np.random.default_rng([_PASSER_STREAM, seed, passer]), target=False)
    look = video_look(passer // PEOPLE_A_VIDEO, seed)
    return (
        person,
        look,
        render(person, look, np.random.default_rng([_FRAME_STREAM, seed, passer, shot])),
    )


def write_unlabelled(root: Path, people: int, images_per_person: int, seed: int) -> None:
    """Write pictures of unknown people as a plain folder, `train/<video>/<number>.jpg`.

    Nothing but the truth beside says who is who: a video's pictures are numbered in a shuffled
    order, and there is no annotation file.

    Args:
        root: Folder to write into; made if missing.
        people: How many people pass by.
        images_per_person: Pictures of each, all in one video.
        seed: Everything follows from it.

    Raises:
        PedAlignError: No people or no images.
    """
    if people < 1 or images_per_person < 1:
        raise PedAlignError(
            f"unlabelled world of {people} people with {images_per_person} images each",
            "at least one person and one image",
            "raise `people` or `images_per_person`",
        )
    truth: list[dict[str, Any]] = []
    videos = range(0, people, PEOPLE_A_VIDEO)
    for video, first in enumerate(tqdm(videos, desc="draw unlabelled", unit="video")):
        passers = range(first, min(first + PEOPLE_A_VIDEO, people))
        shown = [(passer, shot) for passer in passers for shot in range(images_per_person)]
        numbers = np.random.default_rng([_SPLIT_STREAM, seed, video]).permutation(len(shown))
        folder = f"train/{video_look(video, seed).name}"
        (root / folder).mkdir(parents=True, exist_ok=True)
        for (passer, shot), number in zip(shown, numbers.tolist(), strict=True):
            person, look, drawing = unlabelled_item(passer, shot, seed)
            path = f"{folder}/{number:06d}.jpg"
            _save(drawing, root / path)
            truth.append(_truth(path, passer, look.name, person, drawing))
    _save_truth(root, truth)
    log.info("world unlabelled: %d people, %d images", people, len(truth))

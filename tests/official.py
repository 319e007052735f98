"""Miniatures of the three benchmarks as their authors give them out, for tests.

Layouts, key names, numbering and habits are those of the real datasets, and so is
what trips readers up: CUHK-PEDES has pictures with three captions and people with one picture, the
folder names of ICFG-PEDES are not its splits, RSTPReid numbers people from 0. Only the people are
the drawn ones of `tasks.world`, and there are a few dozen of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.ingest import fingerprint
from tasks.world.captions import describe
from tasks.world.looks import TARGET_CAMERAS, render
from tasks.world.people import residents

CUHK_SOURCES = ("cam_a", "cam_b", "CUHK01", "CUHK03", "Market", "test_query", "train_query")
CUHK = {"train": 8, "val": 3, "test": 4}
"""People; two pictures each but the last of a split, who has one."""
ICFG = {"train": 10, "test": 4}
"""People; two pictures each. There is no validation split."""
RSTP = {"train": 4, "val": 2, "test": 2}
"""People; five pictures each, of five cameras."""


def write_benchmarks(raw: Path) -> None:
    """Write all three below ``raw``, each with the file that `pedalign fingerprint` writes."""
    write_cuhk(raw / "cuhk-pedes")
    write_icfg(raw / "icfg-pedes")
    write_rstp(raw / "rstpreid")
    for folder in sorted(raw.iterdir()):
        fingerprint(folder)


def write_cuhk(root: Path) -> None:
    """CUHK-PEDES: ``imgs/SOURCE/NAME`` and ``reid_raw.json``; people from 1, train first."""
    drawer, entries = _Drawer(root / "imgs", seed=1, people=sum(CUHK.values())), []
    for number, split, last in _people(CUHK):
        for shot in range(1 if last else 2):
            source = CUHK_SOURCES[(number + shot) % len(CUHK_SOURCES)]
            path = f"{source}/p{number + 1:05d}_s{number * 9 + shot:05d}.jpg"
            # Nine of the real pictures have more than two captions.
            captions = drawer.draw(number, shot, path, captions=3 if number == shot == 0 else 2)
            entries.append(
                {
                    "split": split,
                    "captions": captions,
                    "file_path": path,
                    "processed_tokens": [_tokens(text) for text in captions],
                    "id": number + 1,
                }
            )
    _write(root / "reid_raw.json", entries)


def write_icfg(root: Path) -> None:
    """ICFG-PEDES: MSMT17's names below ``imgs/train`` and ``imgs/test``, whatever the split."""
    drawer, entries = _Drawer(root / "imgs", seed=2, people=sum(ICFG.values())), []
    for number, split, _ in _people(ICFG):
        for shot in range(2):
            folder = "test" if number % 3 == 0 else "train"
            name = f"{number:04d}_{shot:03d}_{shot + 1:02d}_0303morning_{number:04d}_{shot}.jpg"
            path = f"{folder}/{number:04d}/{name}"
            (caption,) = drawer.draw(number, shot, path, captions=1)
            entries.append(
                {
                    "split": split,
                    "captions": [caption],
                    "file_path": path,
                    "processed_tokens": [_tokens(caption)],
                    "id": number,
                }
            )
    _write(root / "ICFG-PEDES.json", entries)


def write_rstp(root: Path) -> None:
    """RSTPReid: pictures flat in ``imgs``, five a person, and ``data_captions.json``."""
    drawer, entries = _Drawer(root / "imgs", seed=3, people=sum(RSTP.values())), []
    for number, split, _ in _people(RSTP):
        for shot in range(5):
            path = f"{number:04d}_c{shot * 3 + 1}_{number * 5 + shot:04d}.jpg"
            captions = drawer.draw(number, shot, path, captions=2)
            entries.append({"id": number, "img_path": path, "captions": captions, "split": split})
    _write(root / "data_captions.json", entries)


class _Drawer:
    """Draws the people of one dataset and puts them into words."""

    def __init__(self, images: Path, seed: int, people: int) -> None:
        self.images, self.seed = images, seed
        self.residents = residents(people, seed)

    def draw(self, number: int, shot: int, path: str, captions: int) -> list[str]:
        """Draw one picture of a person and return its captions."""
        rng = np.random.default_rng([self.seed, number, shot])
        person = self.residents[number].person
        drawing = render(person, TARGET_CAMERAS[(number + shot) % len(TARGET_CAMERAS)], rng)
        place = self.images / path
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawing.pixels).save(place, "JPEG", quality=90)
        return [describe(person, "target", rng, drawing) for _ in range(captions)]


def _people(splits: dict[str, int]) -> Sequence[tuple[int, str, bool]]:
    """Number, split and whether it is the split's last, of every person; contiguous by split."""
    found: list[tuple[int, str, bool]] = []
    for split, count in splits.items():
        found += [(len(found) + i, split, i == count - 1) for i in range(count)]
    return found


def _tokens(caption: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", caption.lower())


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(entries), encoding="utf-8")

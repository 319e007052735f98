"""What the figures of every arm are: distances, picture statistics, viewpoint, content.

An arm's pictures are compared with both halves of the target's held-out pictures, in equal
numbers, and the two distances are averaged; the halves against each other are the floor. What
the measures are made of is in `models.gap`, `models.viewpoint` and `tasks.judge.content`.

Shapes: N pictures, D width of a feature.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from models.gap import (
    cmmd,
    fid,
    image_statistics,
    kid,
    kid_left_interval,
    normalised_gap,
    statistic_distance,
    two_sample,
)
from models.viewpoint import body_measures, pose_distance, seen_joints
from tasks.images import to_array_batch
from tasks.judge.content import Content, Kept, content, kept
from tasks.judge.naming import COLOUR, named_attributes

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from models.judge import Judge
    from models.poser import Poser
    from tasks.gap.arms import GapParams

log = logging.getLogger(__name__)

LEAST = 8
"""Fewest pictures of a set; below, every distance is noise."""
TOLD_APART = "told apart (%)"
_BATCH = 64


@dataclass(frozen=True)
class Spread:
    """One statistic of a set of pictures."""

    mean: float
    distance: float
    """Wasserstein-1 to the target's first half, in the target's deviations."""


@dataclass(frozen=True)
class ArmFigures:
    """Everything that is measured of one arm."""

    name: str
    pictures: int = 0
    reason: str | None = None
    """Why there are no figures; None where there are."""
    distances: Mapping[str, float] = field(default_factory=dict)
    """To the target, by measure."""
    left: Mapping[str, float] = field(default_factory=dict)
    """Share of the gap that is left, by measure (`models.gap.normalised_gap`)."""
    interval: tuple[float, float] = (math.nan, math.nan)
    """Of what is left of KID: 95 % of the resamples."""
    light: Mapping[str, Spread] = field(default_factory=dict)
    """Illumination, colour and sharpness."""
    bodies: Mapping[str, Spread] = field(default_factory=dict)
    """Viewpoint; empty where it is not looked at."""
    pose: float = math.nan
    """Distance between the histograms of joints; NaN where it is not looked at."""
    content: Mapping[str, Content] = field(default_factory=dict)
    kept: Mapping[str, Kept] = field(default_factory=dict)

    def content_kept(self, *, colours: bool) -> float:
        """Mean share kept: of plain accuracies without colours, of corrected ones of colours."""
        shares = self._shares(colours=colours).values()
        return float(np.mean(list(shares))) if shares else math.nan

    def least_kept(self) -> tuple[str, float]:
        """The attribute, no colour, of which least is kept; empty and NaN where none counts."""
        shares = self._shares(colours=False)
        return min(shares.items(), key=lambda item: item[1], default=("", math.nan))

    def _shares(self, *, colours: bool) -> dict[str, float]:
        return {
            name: each.corrected if colours else each.accuracy
            for name, each in self.kept.items()
            if each.reason is None and name.endswith(COLOUR) == colours
        }


@dataclass(frozen=True)
class Findings:
    """Figures of all arms beside those of the target."""

    arms: tuple[ArmFigures, ...]
    target: ArmFigures
    """One half of the target against the other: the floor, and the content of true pictures."""
    start: str | None
    """The arm where the gap starts."""
    main: str | None
    """The arm that is what the run makes."""
    features: str
    """What the distances are between."""


@dataclass(frozen=True)
class PictureSet:
    """Some pictures with what their captions say."""

    images: Sequence[bytes]
    captions: Sequence[Sequence[str]]
    people: Sequence[str]
    """Who is on each picture; a row of nobody known is of a person of its own."""

    @classmethod
    def of(cls, table: pa.Table) -> PictureSet:
        """Take the usable rows of a table."""
        rows = table.select(["uid", "person_id", "image", "captions", "status"]).to_pylist()
        rows = [row for row in rows if row["status"] == "ok" and row["image"]]
        return cls(
            [row["image"] for row in rows],
            [row["captions"] for row in rows],
            [row["person_id"] or row["uid"] for row in rows],
        )

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.images)


class Gauge:
    """Measures sets of pictures against the two halves of the target.

    Args:
        halves: The target's held-out pictures, two sets of equal length.
        size: Height and width at which light, sharpness and bodies are compared, pixels.
        section: Section ``gap``.
        judge: Gives features and reads content; without it the picture statistics are the
            features, and content stays out.
        poser: Finds the keypoints; without it the viewpoint stays out.
    """

    def __init__(
        self,
        halves: tuple[PictureSet, PictureSet],
        size: tuple[int, int],
        section: GapParams,
        judge: Judge | None,
        poser: Poser | None,
    ) -> None:
        self.halves, self.size, self.section = halves, size, section
        self.judge, self.poser = judge, poser
        self._light = [self._statistics(half) for half in halves]
        self._features = [
            self._encode(half, light) for half, light in zip(halves, self._light, strict=True)
        ]
        self._joints = [self._bodies(half) for half in halves]
        self._floors: dict[int, dict[str, float]] = {}
        self._starts: dict[int, dict[str, float]] = {}
        self._start: NDArray[np.floating] | None = None
        self._named: dict[tuple[tuple[str, ...], ...], list[dict[str, str]]] = {}

    @property
    def features(self) -> str:
        """What the distances are between."""
        return self.judge.features if self.judge is not None else "picture statistics"

    def target(self) -> ArmFigures:
        """Figures of the target itself: its second half beside its first, content of both."""
        count = len(self.halves[0])
        return ArmFigures(
            "target",
            pictures=2 * count,
            distances=self._floor(count),
            light=_spreads(self._light[1], self._light[0]),
            bodies=self._spread_bodies(self._joints[1]),
            pose=self._pose(self._joints[1]),
            content=self._truth,
            kept=kept(self._truth, self._truth),
        )

    def measure(self, name: str, pictures: PictureSet, *, starts: bool = False) -> ArmFigures:
        """Measure one arm.

        Args:
            name: Its name.
            pictures: What it made.
            starts: Whether the gap starts here; it has to be measured before the others.
        """
        if len(pictures) < LEAST:
            why = f"too few: {len(pictures)} pictures, and a distance takes {LEAST}"
            return ArmFigures(name, len(pictures), why)
        light = self._statistics(pictures)
        features = self._encode(pictures, light)
        if starts:
            self._start = features
        count = min(len(features), len(self.halves[0]))
        distances = self._distances(features[:count])
        before, floor = self._before(count), self._floor(count)
        seen = self._bodies(pictures) if name in self.section.viewpoint else None
        read = self._content(features, pictures)
        return ArmFigures(
            name,
            pictures=len(pictures),
            distances=distances,
            left={k: normalised_gap(before.get(k, math.nan), v, floor[k])
                  for k, v in distances.items()},
            interval=self._interval(features[:count]),
            light=_spreads(light, self._light[0]),
            bodies=self._spread_bodies(seen),
            pose=self._pose(seen),
            content=read,
            kept=kept(read, self._truth) if read else {},
        )  # fmt: skip

    # ------------------------------------------------------------------ distances

    def _before(self, count: int) -> dict[str, float]:
        if self._start is None:
            return {}
        count = min(count, len(self._start))
        if count not in self._starts:
            self._starts[count] = self._distances(self._start[:count])
        return self._starts[count]

    def _floor(self, count: int) -> dict[str, float]:
        if count not in self._floors:
            people = self.halves[1].people[:count], self.halves[0].people[:count]
            first, second = (each[:count] for each in self._features)
            self._floors[count] = self._between(second, first, people)
        return self._floors[count]

    def _distances(self, features_ND: NDArray[np.floating]) -> dict[str, float]:
        """Mean of the distances to the two halves, in equal numbers."""
        count = len(features_ND)
        each_own = [str(n) for n in range(count)]
        found = [
            self._between(features_ND, each[:count], (each_own, half.people[:count]))
            for each, half in zip(self._features, self.halves, strict=True)
        ]
        return {name: (value + found[1][name]) / 2 for name, value in found[0].items()}

    def _between(
        self,
        first_ND: NDArray[np.floating],
        second_ND: NDArray[np.floating],
        people: tuple[Sequence[str], Sequence[str]],
    ) -> dict[str, float]:
        seed = self.section.seed
        found = {
            "KID": kid(first_ND, second_ND, people=people, seed=seed).mean,
            "FID": fid(first_ND, second_ND),
        }
        if self.judge is not None and self.judge.is_clip:
            found["CMMD"] = cmmd(first_ND, second_ND)
        return found | {
            TOLD_APART: 100 * two_sample(first_ND, second_ND, people=people, seed=seed).accuracy
        }

    def _interval(self, features_ND: NDArray[np.floating]) -> tuple[float, float]:
        if self._start is None or not self.section.resamples:
            return math.nan, math.nan
        return kid_left_interval(
            self._start, features_ND, (self._features[0], self._features[1]),
            people=(self.halves[0].people, self.halves[1].people),
            resamples=self.section.resamples, seed=self.section.seed,
        )  # fmt: skip

    def _encode(
        self, pictures: PictureSet, light: Mapping[str, NDArray[np.float64]]
    ) -> NDArray[np.floating]:
        if self.judge is not None:
            judge = self.judge
            return np.concatenate([
                judge.encode_images(to_array_batch(part, judge.size))
                for part in _batches(pictures.images)
            ])  # fmt: skip
        columns = np.stack(list(light.values()), axis=1)
        scale = np.stack(list(self._light[0].values()), axis=1)
        return np.asarray((columns - scale.mean(0)) / (scale.std(0) + 1e-6))

    # ------------------------------------------------------------------ statistics and viewpoint

    def _statistics(self, pictures: PictureSet) -> dict[str, NDArray[np.float64]]:
        # Sharpness depends on the size, so all are compared at one.
        parts = [
            image_statistics(to_array_batch(part, self.size)) for part in _batches(pictures.images)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _bodies(self, pictures: PictureSet) -> NDArray[np.float64] | None:
        if self.poser is None:
            return None
        points, scores = [], []
        for part in _batches(pictures.images):
            pose = self.poser.pose(list(to_array_batch(part, self.size)))
            points.append(pose.points_BK2)
            scores.append(pose.scores_BK)
        aspect = self.size[1] / self.size[0]
        return seen_joints(
            np.concatenate(points), np.concatenate(scores), aspect, self.section.keypoint_score
        )

    def _spread_bodies(self, joints: NDArray[np.float64] | None) -> dict[str, Spread]:
        if joints is None or self._joints[0] is None:
            return {}
        return _spreads(body_measures(joints), body_measures(self._joints[0]))

    def _pose(self, joints: NDArray[np.float64] | None) -> float:
        if joints is None or self._joints[0] is None:
            return math.nan
        return pose_distance(joints, self._joints[0])

    # ------------------------------------------------------------------ content

    @cached_property
    def _truth(self) -> dict[str, Content]:
        both = PictureSet(
            [image for half in self.halves for image in half.images],
            [texts for half in self.halves for texts in half.captions],
            [person for half in self.halves for person in half.people],
        )
        return self._content(np.concatenate(self._features), both)

    def _content(
        self, features_ND: NDArray[np.floating], pictures: PictureSet
    ) -> dict[str, Content]:
        if self.judge is None:
            return {}
        said = tuple(map(tuple, pictures.captions))
        if said not in self._named:  # most arms are asked for the same captions
            self._named[said] = named_attributes(said, self.section.judge.parser)
        named = self._named[said]
        return content(self.judge.read(features_ND), named, self.judge.attributes)


def _spreads(
    values: Mapping[str, NDArray[np.float64]], target: Mapping[str, NDArray[np.float64]]
) -> dict[str, Spread]:
    return {
        name: Spread(
            float(here[np.isfinite(here)].mean()) if np.isfinite(here).any() else math.nan,
            statistic_distance(here, target[name]),
        )
        for name, here in values.items()
    }


def _batches(images: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]

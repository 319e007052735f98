"""Regions on the 100 street photos, beside what layout alone answers.

One phrase for each labelled region, of its colour name and its label ("red bag"). The baseline
never looks at the picture: it answers the median box of the same label on the other 99 photos. Ten
of them are tried, and the best one is the one that counts: boxes measured in the picture, in the
person's box, or about the person with the body's height for a unit; the person as labelled, which
no proposer is told, or as the proposer answers to "the person"; medians of centre and size or of
the four edges.

Whatever of the proposer was fitted on photos is fitted anew for every fold, without its photos.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmarks.regions.measures import RIGHT, Answers, Floats, Groups, interval, iou
from models.regions.body import BodyProposer
from models.regions.proposals import Proposals, Query, RegionProposer
from tasks.annotate.finding import query_of
from tasks.base.regions import fit, fit_frame, measure
from tasks.base.scenes import IMAGES, absent_examples, photo_examples, world_examples
from tasks.images import decode
from tasks.ingest.photos import colour_name
from tasks.phrases import load_parser, parse

NOT_NAMED = frozenset({"person", "skin"})
RARE = 3
"""A label on fewer other photos than this takes the medians of its group."""

_PERSON = Query("the person", "person", "person")
WHOLE = np.array([0.5, 0.5, 1.0, 1.0])

Refit = Callable[[NDArray[np.int64]], RegionProposer]
"""Given the numbers of the photos that may be seen, a proposer."""


@dataclass(frozen=True)
class Photos:
    """The photos, what is asked of each and the labelled boxes."""

    names: Sequence[str]
    pixels: Sequence[NDArray[np.uint8]]
    queries: Sequence[Sequence[Query]]
    labels: Sequence[Sequence[str]]
    truths: Sequence[Floats]
    people: Floats
    """The labelled box of each person (photos, 4)."""

    @classmethod
    def load(cls, root: Path) -> Photos:
        """Read photos and labels; a label that is no phrase ("accessories") is not asked for.

        Args:
            root: With ``regions.json`` and the images that it names.
        """
        nlp = load_parser()
        entries = json.loads((root / "regions.json").read_text(encoding="utf-8"))
        pixels, queries, labels, truths, people = [], [], [], [], []
        for entry in entries:
            named = [r for r in entry["regions"] if r["label"] not in NOT_NAMED]
            texts = [f"{colour_name(r['median_rgb'])} {r['label']}" for r in named]
            pairs = [
                (found[0], region)
                for found, region in zip(parse(nlp, texts), named, strict=True)
                if found
            ]
            pixels.append(np.asarray(decode((root / entry["image"]).read_bytes())))
            queries.append([query_of(phrase) for phrase, _ in pairs])
            labels.append([region["label"] for _, region in pairs])
            truths.append(np.array([region["box"] for _, region in pairs]).reshape(-1, 4))
            people.append(next(r["box"] for r in entry["regions"] if r["label"] == "person"))
        names = [entry["image"] for entry in entries]
        return cls(names, pixels, queries, labels, truths, np.array(people))

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.pixels)

    def answers(self, found: Sequence[Proposals]) -> Answers:
        """Put proposals, one an element, beside the truth."""
        groups = [[query.group for query in each] for each in self.queries]
        return Answers.join(found, self.truths, groups, self.labels)

    def ask(self, proposer: RegionProposer, which: Sequence[int]) -> list[Proposals]:
        """Proposals for some of the photos."""
        return proposer.propose([self.pixels[i] for i in which], [self.queries[i] for i in which])


def fitted_without(root: Path, images: int = IMAGES) -> Refit:
    """The embedded proposer, fitted on the world and on the photos that may be seen.

    Args:
        root: The photos' folder, as for `Photos.load`.
        images: Drawings of the world to fit on.
    """
    drawn, absent, all_photos = world_examples(images), absent_examples(), photo_examples(root)

    def refit(which: NDArray[np.int64]) -> RegionProposer:
        photos = [all_photos[i] for i in which]
        frame = fit_frame(drawn, photos)
        world, seen, nothing = (measure(each, frame) for each in (drawn, photos, absent))
        return BodyProposer(fitted=fit(world, seen, frame, nothing))

    return refit


def cross_validated(photos: Photos, refit: Refit, folds: int = 5) -> Answers:
    """Answer every photo by a proposer that was fitted without it.

    Args:
        photos: All of them; fold k has every ``folds``-th of a fixed shuffle.
        refit: Gives a proposer that has seen only the photos whose numbers it is told.
        folds: Number of parts.
    """
    order = np.random.default_rng(0).permutation(len(photos))
    found = [Proposals.none()] * len(photos)
    for fold in range(folds):
        held_out = np.sort(order[fold::folds])
        proposer = refit(np.setdiff1d(order, held_out))
        for number, proposals in zip(
            held_out, photos.ask(proposer, held_out.tolist()), strict=True
        ):
            found[number] = proposals
    return photos.answers(found)


# ------------------------------------------------------------------ layout alone


def to_frame(box_N4: Floats, frame_N4: Floats) -> Floats:
    """Boxes (N, 4) of the picture in the units of a frame (N, 4), a (cx, cy, w, h) box as well."""
    out: Floats = (box_N4 - _origin(frame_N4)) / np.tile(frame_N4[..., 2:], 2)
    return out


def from_frame(box_N4: Floats, frame_N4: Floats) -> Floats:
    """The inverse of `to_frame`."""
    out: Floats = box_N4 * np.tile(frame_N4[..., 2:], 2) + _origin(frame_N4)
    return out


def _origin(frame_N4: Floats) -> Floats:
    out: Floats = np.concatenate([frame_N4[..., :2], np.zeros_like(frame_N4[..., 2:])], axis=-1)
    return out


def edges(box_N4: Floats) -> Floats:
    """(cx, cy, w, h) boxes as (left, top, right, bottom)."""
    half = box_N4[:, 2:] / 2
    out: Floats = np.concatenate([box_N4[:, :2] - half, box_N4[:, :2] + half], axis=1)
    return out


def from_edges(edge_N4: Floats) -> Floats:
    """The inverse of `edges`."""
    low, high = edge_N4[:, :2], edge_N4[:, 2:]
    out: Floats = np.concatenate([(low + high) / 2, high - low], axis=1)
    return out


def medians(
    value_ND: Floats, label_N: Groups, group_N: Groups, picture_N: NDArray[np.int64]
) -> Floats:
    """For each region the median of each number over its label on all other pictures.

    Args:
        value_ND: Numbers of each region (edges of its box, say).
        label_N: Head noun of each.
        group_N: Group of each: taken where fewer than `RARE` others have the label.
        picture_N: The picture of each.

    Returns:
        Medians (N, D); NaN where no other picture has even the group.
    """
    out = np.full_like(value_ND, np.nan)
    for i in range(len(value_ND)):
        other = picture_N != picture_N[i]
        same = other & (label_N == label_N[i])
        if same.sum() < RARE:
            same = other & (group_N == group_N[i])
        if same.any():
            out[i] = np.median(value_ND[same], axis=0)
    return out


def baselines(photos: Photos, answers: Answers, estimated: Floats) -> dict[str, Floats]:
    """Boxes (N, 4) of the layout-only baselines.

    Args:
        photos: The photos.
        answers: Any answers to their phrases: truth, labels and groups are taken from them.
        estimated: The box that the proposer gives each person (photos, 4).
    """
    of = answers.picture_N
    shape = np.array([image.shape[0] / image.shape[1] for image in photos.pixels])

    def in_heights(person: Floats) -> Floats:
        return np.concatenate([person[:, :2], person[:, 3:] * shape[:, None], person[:, 3:]], 1)

    frames = {
        "picture": WHOLE[None].repeat(len(photos), 0),
        "labelled person's box": photos.people,
        "labelled person, in heights": in_heights(photos.people),
        "estimated person's box": estimated,
        "estimated person, in heights": in_heights(estimated),
    }
    out = {}
    for name, frame in frames.items():
        inside = to_frame(answers.truth_N4, frame[of])
        about = answers.head_N, answers.group_N, of
        out[f"{name}; centre and size"] = from_frame(medians(inside, *about), frame[of])
        by_edge = from_edges(medians(edges(inside), *about))
        out[f"{name}; edges"] = from_frame(by_edge, frame[of])
    return out


def people(photos: Photos, proposer: RegionProposer) -> Floats:
    """The box (photos, 4) that a proposer gives each person; the whole picture without one."""
    found = proposer.propose(photos.pixels, [[_PERSON]] * len(photos))
    return np.stack([p.boxes_N4[p.scores_N.argmax()] if len(p) else WHOLE for p in found])


# ------------------------------------------------------------------ the two beside each other


@dataclass(frozen=True)
class Comparison:
    """Hits of two sides on the same phrases."""

    first: float
    second: float
    gain: float
    low: float
    """Lower end of the 95 % interval of the gain, over photos."""
    high: float
    won: int
    """Phrases that only the first has right."""
    lost: int
    """Phrases that only the second has right."""
    chance: float
    """McNemar's exact test: how often so uneven a split of won and lost comes by chance. It takes
    phrases for independent, which those of one photo are not; the interval does not."""


def compare(
    first_N: NDArray[np.bool_], second_N: NDArray[np.bool_], picture_N: NDArray[np.int64]
) -> Comparison:
    """Compare two sides phrase by phrase."""
    won, lost = int((first_N & ~second_N).sum()), int((second_N & ~first_N).sum())
    difference = first_N.astype(float) - second_N
    low, high = interval(difference, picture_N)
    chance = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return Comparison(
        float(first_N.mean()), float(second_N.mean()), float(difference.mean()),
        low, high, won, lost, chance,
    )  # fmt: skip


def strongest(boxes: dict[str, Floats], answers: Answers) -> tuple[str, Floats]:
    """The baseline with the most hits: chosen on what it is judged on, so it is flattered."""
    name = max(boxes, key=lambda each: float((iou(boxes[each], answers.truth_N4) >= RIGHT).mean()))
    return name, boxes[name]

"""The embedded proposer: in the built-in world, on real photos where they are, and by symmetry."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.colour import PALETTE, corrected, lab, name_probabilities, palette_indices
from models.regions.body import BodyProposer
from models.regions.layout import BODY, PARTS, part_of, place_of, within
from models.regions.proposals import Query
from tasks.phrases import GROUPS, load_parser, parse
from tasks.world.attributes import sample_person
from tasks.world.looks import TARGET_CAMERAS, render

PHOTOS = Path(__file__).parents[4] / "shared" / "data" / "ccp"
PROPOSER = BodyProposer()


def corners(box):
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def iou(one, other):
    a, b = corners(one), corners(other)
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union


def queries(captions):
    found = parse(load_parser(), captions)
    return [[Query(p.text, p.head, p.group, p.colours) for p in of] for of in found]


def boxes_of(proposals, count):
    """The best box of each phrase, or None."""
    found = [None] * count
    for phrase, box in zip(proposals.phrase_N[::-1], proposals.boxes_N4[::-1], strict=True):
        found[phrase] = box
    return found


def spoken(person):
    """Phrases that name a drawn person's parts, and the key of each one's true box."""
    words = {
        "hair": f"{person.hair_length} {person.hair_colour} hair",
        "upper": f"a {person.upper_colour} {person.upper_kind}",
        "footwear": f"{person.shoe_colour} {person.shoe_kind}",
    }
    if person.lower_kind != "dress":
        words["lower"] = f"{person.lower_colour} {person.lower_kind}"
    if person.hat != "none":
        words["hat"] = f"a {person.hat_colour} {person.hat}"
    if person.bag != "none":
        words["bag"] = f"a {person.bag_colour} {person.bag}"
    return list(words), ", ".join(words.values())


def moved(drawing, rng):
    """The drawing with up to 15 % of its size added at each side, and its boxes moved along."""
    height, width = drawing.pixels.shape[:2]
    left, right = (int(rng.uniform(0, 0.15) * width) for _ in range(2))
    top, bottom = (int(rng.uniform(0, 0.08) * height) for _ in range(2))
    pixels = np.pad(drawing.pixels, ((top, bottom), (left, right), (0, 0)), mode="reflect")
    new_height, new_width = pixels.shape[:2]
    boxes = {
        key: (
            (cx * width + left) / new_width, (cy * height + top) / new_height,
            w * width / new_width, h * height / new_height,
        )
        for key, (cx, cy, w, h) in drawing.boxes.items()
    }  # fmt: skip
    return pixels, boxes


@pytest.mark.parametrize("move", [False, True], ids=["as drawn", "moved and scaled"])
def test_regions_on_target_looks(move):
    images, truths, keys, captions = [], [], [], []
    for seed in range(80):
        rng = np.random.default_rng([99, seed])
        person = sample_person(rng)
        drawing = render(person, TARGET_CAMERAS[seed % len(TARGET_CAMERAS)], rng)
        pixels, boxes = moved(drawing, rng) if move else (drawing.pixels, drawing.boxes)
        named, caption = spoken(person)
        images.append(pixels)
        truths.append(boxes)
        keys.append(named)
        captions.append(caption)
    asked = queries(captions)
    found = PROPOSER.propose(images, asked)
    by_part, scores, right = defaultdict(list), [], []
    for truth, named, phrases, proposals in zip(truths, keys, asked, found, strict=True):
        assert len(phrases) == len(named)
        score = dict(zip(proposals.phrase_N.tolist(), proposals.scores_N.tolist(), strict=True))
        for i, (key, box) in enumerate(zip(named, boxes_of(proposals, len(phrases)), strict=True)):
            if key in truth:
                overlap = 0.0 if box is None else iou(box, truth[key])
                by_part[key].append(overlap)
                scores.append(score.get(i, 0.0))
                right.append(overlap >= 0.5)
    every = [value for values in by_part.values() for value in values]
    assert np.mean(every) >= 0.6
    assert np.mean(by_part["upper"]) >= 0.7
    assert min(map(np.mean, by_part.values())) >= 0.35
    # Confidence means something: what it calls likely is right more often, and about as often.
    sure = np.array(scores) >= 0.5
    assert sure.mean() >= 0.5
    assert np.mean(np.array(right)[sure]) > np.mean(np.array(right)[~sure]) + 0.2
    assert abs(np.mean(scores) - np.mean(right)) < 0.12


@pytest.mark.skipif(not PHOTOS.exists(), reason="no photos of Clothing Co-Parsing here")
def test_regions_on_real_photos(record_property):
    images, truths, captions = [], [], []
    names = list(PALETTE)
    for entry in json.loads((PHOTOS / "regions.json").read_text()):
        images.append(np.asarray(Image.open(PHOTOS / entry["image"]).convert("RGB")))
        regions = [r for r in entry["regions"] if "median_rgb" in r and r["label"] != "skin"]
        truths.append([r["box"] for r in regions])
        pixels = np.array([[[r["median_rgb"] for r in regions]]], np.uint8)
        colours = name_probabilities(lab(pixels))[0, 0].argmax(axis=1)
        captions.append(
            ", ".join(f"{names[c]} {r['label']}" for c, r in zip(colours, regions, strict=True))
        )
    asked = queries(captions)
    good = defaultdict(list)
    for truth, phrases, proposals in zip(
        truths, asked, PROPOSER.propose(images, asked), strict=True
    ):
        if len(truth) != len(phrases):
            continue  # "accessories" names nothing
        for box, right, phrase in zip(
            boxes_of(proposals, len(phrases)), truth, phrases, strict=True
        ):
            good[phrase.group].append(box is not None and iou(box, right) >= 0.5)
    share = {group: round(float(np.mean(values)), 3) for group, values in good.items()}
    record_property("share with IoU >= 0.5", share)
    assert np.mean([v for values in good.values() for v in values]) >= 0.44
    assert share["upper"] >= 0.55


def figure(height=192, width=96):
    picture = np.full((height, width, 3), (70, 150, 90), np.uint8)
    for top, bottom, half, colour in (
        (0.05, 0.09, 0.07, (40, 25, 20)), (0.09, 0.17, 0.07, (220, 170, 140)),
        (0.18, 0.50, 0.24, (200, 30, 30)), (0.50, 0.92, 0.18, (20, 20, 25)),
        (0.92, 0.97, 0.22, (245, 245, 245)), (0.25, 0.40, 0.08, (30, 60, 200)),
    ):  # fmt: skip
        rows = slice(round(top * height), round(bottom * height))
        picture[rows, round((0.5 - half) * width) : round((0.5 + half) * width)] = colour
    return picture


SAID = queries(["a man in a red shirt, black pants, white shoes, a blue backpack, the street"])[0]


@pytest.mark.parametrize("size", [(96, 48), (192, 96), (384, 128), (300, 200), (40, 31)])
def test_any_size_of_picture(size):
    (found,) = PROPOSER.propose([figure(*size)], [SAID])
    shirt, pants = boxes_of(found, len(SAID))[1:3]
    assert iou(shirt, (0.5, 0.34, 0.48, 0.32)) >= 0.7
    if size[0] / size[1] > 1.9:  # in a wide picture this figure is no person's shape
        assert iou(pants, (0.5, 0.71, 0.36, 0.42)) >= 0.6
    assert np.all(found.scores_N > 0)
    assert np.all(found.scores_N < 1)
    assert 5 not in found.phrase_N  # a scene has no place on a body


def test_a_mirrored_picture_has_mirrored_boxes():
    picture = figure()
    picture[50:80, 60:70] = (30, 60, 200)
    (here,) = PROPOSER.propose([picture], [SAID])
    (there,) = PROPOSER.propose([np.ascontiguousarray(picture[:, ::-1])], [SAID])
    assert here.phrase_N.tolist() == there.phrase_N.tolist()
    flipped = there.boxes_N4 * [-1, 1, 1, 1] + [1, 0, 0, 0]
    np.testing.assert_allclose(here.boxes_N4, flipped, atol=0.045)


def test_a_picture_does_not_depend_on_its_batch():
    pictures = [figure(), figure(96, 48), figure(300, 200)]
    asked = [SAID, SAID[:2], SAID]
    together = PROPOSER.propose(pictures, asked)
    one_by_one = BodyProposer(batch_size=1).propose(pictures, asked)
    for a, b in zip(together, one_by_one, strict=True):
        assert a.phrase_N.tolist() == b.phrase_N.tolist()
        np.testing.assert_allclose(a.boxes_N4, b.boxes_N4, atol=1e-5)
        np.testing.assert_allclose(a.scores_N, b.scores_N, atol=1e-4)


def test_a_named_colour_that_is_there_raises_the_confidence():
    picture = figure()
    (yes, no) = (
        PROPOSER.propose([picture], [queries([f"a {colour} backpack"])[0]])[0]
        for colour in ("blue", "yellow")
    )
    assert len(yes) == 1
    assert iou(yes.boxes_N4[0], (0.5, 0.325, 0.16, 0.15)) >= 0.6
    assert len(no) == 0 or no.scores_N[0] < yes.scores_N[0] - 0.3


def test_nothing_asked_or_nothing_to_see():
    assert PROPOSER.propose([], []) == []
    (nothing,) = PROPOSER.propose([figure()], [[]])
    assert len(nothing) == 0
    for shade in (0, 128, 255):
        (blank,) = PROPOSER.propose([np.full((96, 48, 3), shade, np.uint8)], [SAID])
        assert np.isfinite(blank.boxes_N4).all()
        assert np.isfinite(blank.scores_N).all()


def test_lab_and_colour_names():
    # Reference values of CIE Lab (D65): white, black, pure red.
    rgb = np.array([[[[255, 255, 255], [0, 0, 0], [255, 0, 0]]]], np.uint8)
    np.testing.assert_allclose(
        lab(rgb)[0, 0], [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]], atol=0.3
    )
    anchors = np.array([[[values[0] for values in PALETTE.values()]]], np.uint8)
    chances = name_probabilities(lab(anchors))
    assert chances[0, 0].argmax(axis=1).tolist() == list(range(len(PALETTE)))
    np.testing.assert_allclose(chances.sum(axis=-1), 1, atol=1e-5)
    assert [list(PALETTE)[i] for i in palette_indices(["dark navy", "grey", "ultra"])] == [
        "gray", "blue",
    ]  # fmt: skip
    dim = lab((figure() * 0.5).astype(np.uint8)[None])
    assert corrected(dim)[..., 0].max() > dim[..., 0].max() + 10


def test_every_group_has_a_part_or_a_place():
    for group in GROUPS:
        part = part_of(group, "thing")
        assert part is None or part in PARTS
        assert within(group, "thing").bottom > within(group, "thing").top
    assert part_of("upper", "left") == "upper"
    assert part_of("upper", "hands") is part_of("upper", "elbows") is None
    assert part_of("head", "cap") == "hat"
    long_skirt = place_of("lower", "skirt", frozenset({"long", "skirt"}))
    assert long_skirt.bottom > place_of("lower", "skirt", frozenset({"skirt"})).bottom
    assert place_of("upper", "jacket", frozenset({"jacket"})).top == BODY["upper"].top

"""The second target: out of reach of the shipped models, and another network than the first."""

import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.errors import PedAlignError
from tasks.world.attributes import belongs_to_target, sample_person
from tasks.world.backgrounds import ABSTRACT, STUDIO
from tasks.world.backgrounds import PLACES as FIRST_PLACES
from tasks.world.dataset import TARGET_JSON, TRUTH, TRUTH_SCHEMA, target_item
from tasks.world.looks import MARGIN, TARGET_CAMERAS, random_look, render
from tasks.world.people import name_of, residents
from tasks.world.second.cameras import CAMERAS, beyond_random, photograph
from tasks.world.second.dataset import second_item, second_residents, write_second
from tasks.world.second.places import PLACES, backdrop, in_front
from tasks.world.second.wording import describe_at_length

SIZES = {"train": 10, "val": 0, "test": 6}


@pytest.fixture(scope="module")
def people():
    return second_residents(SIZES, seed=0)


def test_every_camera_is_outside_the_range_of_random_looks():
    """Half the width of a range outside, whatever is drawn; and of what was drawn none is near."""
    assert min(beyond_random(camera.look) for camera in CAMERAS) > 0.49
    rng = np.random.default_rng(0)
    points = np.stack([random_look(rng).vector() for _ in range(2000)])
    assert ((points >= 0) & (points <= 1)).all(), "the range is what random looks keep to"
    for camera in CAMERAS:
        assert np.linalg.norm(points - camera.look.vector(), axis=1).min() > MARGIN, camera.name


def test_the_two_networks_are_farther_apart_than_the_margin():
    for camera in CAMERAS:
        apart = [np.linalg.norm(camera.look.vector() - c.vector()) for c in TARGET_CAMERAS]
        assert min(apart) > MARGIN, camera.name
        assert beyond_random(camera.look) > max(map(beyond_random, TARGET_CAMERAS)) == 0


def test_places_are_of_the_second_target_alone():
    shown = {place for camera in CAMERAS for place in camera.look.places}
    assert shown == set(PLACES)
    assert not shown & {*STUDIO, *FIRST_PLACES, *ABSTRACT}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("size", [(192, 96), (48, 24)])
def test_every_place_fills_its_image(name, size):
    pixels = backdrop(name, np.random.default_rng(3), size)
    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 1


def test_what_stands_in_front_is_polygons_of_the_picture():
    rng = np.random.default_rng(0)
    for _ in range(30):
        for points, colour in in_front(rng, (192, 96)):
            assert len(points) >= 4
            assert all(0 <= value <= 255 for value in colour)


def pictures(camera, first, count=24):
    for at in range(count):
        rng = np.random.default_rng([11, at])
        person = sample_person(rng)
        yield (render if first else photograph)(person, camera, rng)


def test_pictures_differ_as_those_of_two_networks():
    """Colours are stronger, light and dark farther apart, people smaller or larger."""

    def look(cameras, first):
        found = [d for camera in cameras for d in pictures(camera, first, 10)]
        x = [d.pixels.astype(float) for d in found]
        colour = np.mean([(p.max(2) - p.min(2)).mean() for p in x])
        light = np.std([p.mean() for p in x])
        tall = np.std([d.boxes["person"][3] for d in found])
        return colour, light, tall

    first, second = look(TARGET_CAMERAS, first=True), look(CAMERAS, first=False)
    assert second[0] > 1.5 * first[0]
    assert second[1] > 1.3 * first[1]
    assert second[2] > 1.5 * first[2]


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda c: c.name)
def test_the_truth_fits_the_frame(camera):
    for drawing in pictures(camera, first=False, count=12):
        cx, cy, w, h = drawing.boxes["person"]
        assert -1e-6 <= cx - w / 2 <= cx + w / 2 <= 1 + 1e-6
        assert -1e-6 <= cy - h / 2 <= cy + h / 2 <= 1 + 1e-6
        assert {"head", "upper"} <= drawing.boxes.keys(), "a head and a coat are always seen"
        assert 0.4 < h <= 1
        seen = drawing.keypoints[drawing.keypoints[:, 2] > 0, :2]
        assert ((seen >= 0) & (seen <= 1)).all()
        assert (np.abs(seen - (cx, cy)) <= np.array([w, h]) / 2 + 0.05).all()


def test_people_are_reserved_and_none_is_of_the_first_target(people):
    mine = {name_of(r.person) for r in people}
    assert Counter(r.split for r in people) == {"train": 10, "test": 6}
    assert all(belongs_to_target(r.person) for r in people)
    for first in (280, {"train": 200, "val": 24, "test": 1000}):
        assert not mine & {name_of(r.person) for r in residents(first, seed=0)}


def test_captions_are_long_careful_and_say_only_what_is_seen(people):
    words, first = [], []
    for resident in people:
        for shot in range(6):
            drawing, _, (caption,) = second_item(resident, shot, seed=0)
            words.append(len(caption.split()))
            assert caption[0].isupper()
            assert caption[-1] == "."
            assert "  " not in caption
            if "footwear" not in drawing.boxes:
                assert not {"shoes", "sneakers", "boots"} & set(caption.strip(".").split())
            if resident.person.bag == "none":
                assert "carries" not in caption
        first.append(len(target_item(resident, 0, seed=0)[2][0].split()))
    assert 30 < np.mean(words) < 42, "ICFG-PEDES has 37, CUHK-PEDES 24"
    assert np.mean(words) > 1.25 * np.mean(first)


def test_colours_and_garments_are_named_truly(people):
    """The words of a caption that name a colour are words of a colour that the person wears."""
    from tasks.world.second.wording import COLOUR_WORDS

    # Longest first; rosy pink is no pink of its own.
    names = sorted({w for words in COLOUR_WORDS.values() for w in words}, key=len, reverse=True)
    for resident in people:
        p = resident.person
        drawing, _, _ = second_item(resident, 0, seed=0)
        worn = {p.hair_colour, p.hat_colour, p.upper_colour, p.lower_colour, p.shoe_colour,
                p.bag_colour} - {"none"}  # fmt: skip
        legal = {w for colour in worn for w in COLOUR_WORDS[colour]}
        caption = describe_at_length(p, drawing, np.random.default_rng(1)).lower()
        for name in names:
            if f" {name} " in caption:
                assert name in legal, caption
                caption = caption.replace(f" {name} ", " ")


def test_the_folder_is_in_the_official_layout_and_has_no_val(tmp_path):
    write_second(tmp_path / "a", SIZES, 2, seed=0, captions={"train": 1, "test": 1})
    entries = json.loads((tmp_path / "a" / TARGET_JSON).read_text())
    assert len(entries) == 32
    assert {e["split"] for e in entries} == {"train", "test"}
    assert all(len(e["captions"]) == 1 for e in entries)
    assert {e["file_path"].split("/")[0] for e in entries} <= {c.name for c in CAMERAS}
    table = pq.read_table(tmp_path / "a" / TRUTH)
    assert table.schema.equals(TRUTH_SCHEMA)
    assert table.num_rows == 32
    write_second(tmp_path / "b", SIZES, 2, seed=0, captions={"test": 1})
    for path in (tmp_path / "a").rglob("*.jpg"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    with pytest.raises(PedAlignError, match="at least 10 people"):
        write_second(tmp_path / "c", 3, 2, seed=0)

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.world.attributes import COLOURS, sample_person
from tasks.world.canvas import PARTS
from tasks.world.drawing import draw
from tasks.world.figure import COCO, HEAD_RY, VIEWS


def drawn(seed, **kwargs):
    rng = np.random.default_rng(seed)
    return (person := sample_person(rng)), draw(person, rng, **kwargs)


def many(n, **kwargs):
    return [drawn([17, i], **kwargs) for i in range(n)]


def inside(outer, inner, slack=1e-6):
    (ax, ay, aw, ah), (bx, by, bw, bh) = outer, inner
    return abs(ax - bx) <= (aw - bw) / 2 + slack and abs(ay - by) <= (ah - bh) / 2 + slack


def test_a_drawing_follows_from_its_seed_alone():
    (_, a), (_, b), (_, c) = drawn(5), drawn(5), drawn(6)
    np.testing.assert_array_equal(a.pixels, b.pixels)
    np.testing.assert_array_equal(a.keypoints, b.keypoints)
    assert a.boxes == b.boxes
    assert not np.array_equal(a.pixels, c.pixels)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([(192, 96), (96, 48), (64, 32), (128, 128)]),
    pitch=st.floats(0, 35),
)
def test_boxes_and_keypoints_stay_in_the_image(seed, size, pitch):
    _, d = drawn(seed, size=size, pitch=pitch)
    assert d.pixels.shape == (*size, 3)
    assert d.pixels.dtype == np.uint8
    for cx, cy, w, h in d.boxes.values():
        assert w > 0
        assert h > 0
        assert cx - w / 2 >= -1e-9
        assert cx + w / 2 <= 1 + 1e-9
        assert cy - h / 2 >= -1e-9
        assert cy + h / 2 <= 1 + 1e-9
    assert d.keypoints.shape == (17, 3)
    assert d.keypoints[:, :2].min() >= 0
    assert d.keypoints[:, :2].max() <= 1
    assert set(np.unique(d.keypoints[:, 2])) <= {0.0, 1.0}
    assert d.view in VIEWS


def test_parts_lie_inside_the_person_in_the_order_of_a_body():
    for _, d in many(60):
        boxes = d.boxes
        assert all(inside(boxes["person"], box) for box in boxes.values())
        assert boxes["head"][1] < boxes["upper"][1] < boxes["footwear"][1]
        assert inside(boxes["head"], boxes.get("hair", boxes["head"]))


@pytest.mark.parametrize("bag", ["backpack", "shoulder bag", "handbag"])
def test_a_bag_is_seen_in_every_view(bag):
    seen = set()
    for i in range(120):
        rng = np.random.default_rng([3, i])
        person = dataclasses.replace(
            sample_person(rng), bag=bag, bag_colour="red", upper_kind="jacket"
        )
        d = draw(person, rng)
        seen.add(d.view)
        assert (d.parts == PARTS.index("bag")).sum() > 200, d.view
    assert seen == set(VIEWS)


def test_no_bag_and_no_hat_have_no_box():
    for person, d in many(80):
        assert ("bag" in d.boxes) == (person.bag != "none")
        assert ("hat" in d.boxes) == (person.hat != "none")


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_the_upper_box_shows_the_named_colour(colour):
    """Of all anchors, the named one is nearest to the typical pixel of the garment."""
    rng = np.random.default_rng(11)
    anchors = np.array(list(COLOURS.values()), float)
    for _ in range(6):
        person = dataclasses.replace(
            sample_person(rng), upper_kind="sweater", upper_pattern="plain", upper_colour=colour,
            bag="none", hair_length="short",
        )  # fmt: skip
        d = draw(person, rng)
        cx, cy, w, h = d.boxes["upper"]
        rows = slice(int((cy - h / 2) * 192), int((cy + h / 2) * 192))
        columns = slice(int((cx - w / 2) * 96), int((cx + w / 2) * 96))
        shown = d.parts[rows, columns] == PARTS.index("upper")
        assert shown.mean() > 0.4, "the garment fills its box"
        assert shown.sum() == (d.parts == PARTS.index("upper")).sum(), "and lies in it whole"
        typical = np.median(d.pixels[rows, columns][shown], axis=0)
        nearest = list(COLOURS)[int(((anchors - typical) ** 2).sum(1).argmin())]
        assert nearest == colour


def test_a_dress_is_both_upper_and_lower():
    rng = np.random.default_rng(2)
    person = dataclasses.replace(
        sample_person(rng), upper_kind="dress", lower_kind="dress", upper_colour="red",
        lower_colour="red",
    )  # fmt: skip
    boxes = draw(person, rng).boxes
    assert boxes["upper"] == boxes["lower"]


def test_a_head_is_between_a_sixth_and_a_ninth_of_the_body():
    assert 1 / 8 < 2 * HEAD_RY < 1 / 7
    for person, d in many(60):
        if person.hair_length == "short" and person.hat == "none":
            assert 1 / 9 < d.boxes["head"][3] / d.boxes["person"][3] < 1 / 6


def test_looking_down_enlarges_the_head_and_shortens_the_body():
    rng = np.random.default_rng(4)
    person = dataclasses.replace(sample_person(rng), hat="none", hat_colour="none")
    level = draw(person, np.random.default_rng(8), pitch=0)
    above = draw(person, np.random.default_rng(8), pitch=30)

    def ratio(d):
        return d.boxes["head"][3] / d.boxes["person"][3]

    assert ratio(above) > 1.1 * ratio(level)


def test_keypoints_lie_on_the_body():
    """Shoulders, hips, knees and ankles of a person with nothing before them are on the figure."""
    names = ("left shoulder", "right hip", "left knee", "right ankle")
    for _, d in many(60):
        for name in names:
            x, y, seen = d.keypoints[COCO.index(name)]
            if seen and 0.02 < x < 0.98:
                near = d.parts[
                    int(y * 192) - 2 : int(y * 192) + 3, int(x * 96) - 2 : int(x * 96) + 3
                ]
                assert near.max() > 0, name


def test_the_face_is_visible_from_the_front_only():
    for _, d in many(80):
        nose = d.keypoints[COCO.index("nose"), 2]
        if d.view == "front":
            assert nose == 1
        if d.view == "back":
            assert nose == 0


def test_what_stands_in_front_hides_the_part_and_its_keypoints():
    rng = np.random.default_rng(1)
    person = sample_person(rng)
    wall = [([(0, 96), (96, 96), (96, 192), (0, 192)], (90, 90, 90))]
    d = draw(person, rng, foreground=wall)
    assert "footwear" not in d.boxes
    _, cy, _, h = d.boxes["person"]
    assert cy + h / 2 <= 0.51
    assert not d.keypoints[COCO.index("left ankle"), 2]
    assert not d.keypoints[COCO.index("right knee"), 2]


def test_edges_are_smooth():
    """A black coat on a white ground: the border has in-between levels, not only two."""
    rng = np.random.default_rng(0)
    person = dataclasses.replace(sample_person(rng), upper_kind="coat", upper_colour="black")
    d = draw(person, rng, backdrop=np.full((192, 96, 3), 255, np.uint8))
    row = d.pixels[80].astype(int).mean(axis=1)
    assert ((row > 70) & (row < 240)).any()


def test_a_backdrop_of_another_size_is_an_error():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"\(96, 48, 3\)"):
        draw(sample_person(rng), rng, (96, 48), backdrop=np.zeros((192, 96, 3), np.uint8))

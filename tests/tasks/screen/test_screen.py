"""Every row gets a decision and a reason; the rule for a body worked out by hand."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from models.people import People
from models.poser import KEYPOINTS, Pose, Poser
from tasks.errors import PedAlignError
from tasks.params import check_section
from tasks.schemas import MEASURED, SCREENED
from tasks.screen.bodies import body_faults, pose_from_bytes, pose_to_bytes
from tasks.screen.instruments import Instruments, grey_variance, load_instruments, measure_table
from tasks.screen.reasons import REASONS
from tasks.screen.rules import ScreenParams, judge_table, repeated

VALUES: dict[str, object] = {
    "grey_variance": 100.0,
    "file_bytes_min": 0,
    "file_bytes_max": 0,
    "people": "none",
    "person_score": 0.5,
    "second_person": 0.4,
    "poser": "none",
    "keypoint_score": 0.3,
    "pose_score": 0.5,
    "rival_share": 0.25,
    "body_height": 0.4,
    "torso_share": [0.15, 0.6],
    "order_slack": 0.02,
    "duplicates": "hash",
    "duplicate_bits": 6,
    "embedder": "none",
    "duplicate_cosine": 0.95,
}


def section(**changes: object) -> ScreenParams:
    return check_section(ScreenParams, VALUES | changes, "screen")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def colourful(seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((48, 96), Image.Resampling.BICUBIC))


def shard(*blobs: bytes | None, rejected: Sequence[int] = ()) -> pa.Table:
    states = ["rejected" if i in rejected else "ok" for i in range(len(blobs))]
    return pa.table(
        {
            "uid": [f"{i:016x}" for i in range(len(blobs))],
            "image": pa.array(blobs, pa.binary()),
            "status": states,
            "error": pa.array(
                [None if s == "ok" else "truncated: 3 bytes" for s in states], pa.string()
            ),
        }
    )


STANDING = {"nose": 0.1, "eye": 0.09, "ear": 0.1, "shoulder": 0.22, "elbow": 0.36, "wrist": 0.48}
STANDING |= {"hip": 0.5, "knee": 0.7, "ankle": 0.9}


def body(
    unseen: Sequence[str] = (),
    heights: Mapping[str, float] | None = None,
    score: float = 0.9,
    rival: float = 0.0,
) -> Pose:
    """One standing body; ``unseen`` and ``heights`` name joints without their side."""
    levels = STANDING | dict(heights or {})
    joint = [name.rpartition("_")[2] for name in KEYPOINTS]
    points = np.array([[[0.5, levels[name]] for name in joint]], np.float32)
    scores = np.array([[0.1 if name in unseen else score for name in joint]], np.float32)
    return Pose(points, scores, np.full_like(scores, rival))


class FixedPoser:
    """Says that every picture shows the same body; remembers how many it was asked about."""

    def __init__(self, pose: Pose) -> None:
        self.fixed, self.seen = pose, 0
        self.boxes: Sequence[Sequence[float]] | None = None

    def pose(
        self, images: Sequence[np.ndarray], boxes: Sequence[Sequence[float]] | None = None
    ) -> Pose:
        self.seen += len(images)
        self.boxes = boxes
        fixed = (self.fixed.points_BK2, self.fixed.scores_BK, self.fixed.rivals_BK)
        return Pose(*(values.repeat(len(images), 0) for values in fixed))


class FixedFinder:
    """Finds the given boxes, a list a picture."""

    def __init__(self, *boxes: list[list[float]]) -> None:
        self.answers = boxes

    def find(self, images: Sequence[np.ndarray]) -> list[People]:
        assert len(images) == len(self.answers)
        return [
            People(np.array(boxes, np.float32).reshape(-1, 4), np.ones(len(boxes), np.float32))
            for boxes in self.answers
        ]


class MeanEmbedder:
    """A picture's mean colour, as a unit vector."""

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        means = np.stack([image.mean(axis=(0, 1)) for image in images])
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def screen_table(table: pa.Table, poser: Poser | None, section: ScreenParams) -> pa.Table:
    """Measure and judge, near-duplicates aside."""
    return judge_table(measure_table(table, Instruments(poser=poser)), section)


# ------------------------------------------------------------------ grey


def test_grey_variance_by_hand() -> None:
    pixels = np.zeros((1, 2, 3), np.uint8)
    pixels[0, 0], pixels[0, 1] = (10, 0, 0), (0, 0, 30)
    # R-G: 10, 0 -> 25; G-B: 0, -30 -> 225; B-R: -10, 30 -> 400; their mean
    assert grey_variance(pixels) == pytest.approx(650 / 3)


def test_greyscale_and_tinted_blank_pictures_have_no_variance() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (96, 48, 1), dtype=np.uint8).repeat(3, axis=2)
    tinted = np.full((96, 48, 3), (200, 120, 40), np.uint8)
    assert grey_variance(grey) == 0
    assert grey_variance(tinted) == 0
    assert grey_variance(colourful(0)) > 1000


# ------------------------------------------------------------------ bodies


def test_a_standing_body_has_no_fault() -> None:
    assert body_faults(body(), section()) == [()]


@pytest.mark.parametrize(
    ("unseen", "faults"),
    [
        (("nose", "eye"), ()),  # from behind: an ear is enough
        (("nose", "eye", "ear"), ("no-head",)),
        (("shoulder",), ("no-torso",)),
        (("ankle",), ("no-legs",)),
        (("hip", "knee"), ("no-torso", "no-legs")),
        (("nose", "eye", "ear", "hip", "knee"), ("no-person", "unsure")),  # 8 of 17 joints seen
        (("elbow", "wrist"), ()),  # arms are not asked for
    ],
)
def test_missing_parts(unseen: Sequence[str], faults: tuple[str, ...]) -> None:
    assert body_faults(body(unseen), section()) == [faults]


@pytest.mark.parametrize(
    ("heights", "fine"),
    [
        ({"knee": 0.49}, True),  # one hundredth above the hips: within the slack of two
        ({"knee": 0.47}, False),
        ({"nose": 0.9, "eye": 0.9, "ear": 0.9, "ankle": 0.1}, False),  # upside down
        ({"hip": 0.3}, False),  # a torso of a tenth of the body
        ({"ankle": 0.55, "knee": 0.53, "hip": 0.4}, True),  # body 0.453, torso 0.18: 40 %
        ({"ankle": 0.48, "knee": 0.45, "hip": 0.35}, False),  # body 0.383 of the picture
    ],
)
def test_arrangement(heights: dict[str, float], fine: bool) -> None:
    assert body_faults(body(heights=heights), section()) == [() if fine else ("disorder",)]


def test_thresholds_are_parameters() -> None:
    assert body_faults(body(["hip"]), section(keypoint_score=0.05)) == [()]
    assert body_faults(body(), section(body_height=0.9)) == [("disorder",)]
    assert body_faults(body(), section(torso_share=[0.4, 0.6])) == [("disorder",)]


# ------------------------------------------------------------------ a shard


def test_every_row_gets_a_decision_and_the_first_reason_counts() -> None:
    flat = np.full((96, 48, 3), 128, np.uint8)
    good, grey = png(colourful(1)), png(flat)
    table = shard(good, grey, b"no picture", None, good[:200], good, rejected=[5])
    poser = FixedPoser(body(["ankle"]))
    judged = screen_table(table, poser, section(file_bytes_min=len(grey) + 1))
    assert judged.schema == SCREENED
    assert judged["uid"].to_pylist() == table["uid"].to_pylist()
    assert judged["keep"].to_pylist() == [False] * 6
    assert judged["reason"].to_pylist() == [
        "no-legs",
        "file-small+grey+no-legs",
        "unreadable",
        "unreadable",
        "unreadable",
        "upstream",
    ]
    slugs = [error.split(":")[0] for error in judged["error"].to_pylist()]
    assert slugs == ["no-legs", "file-small", "unreadable", "unreadable", "unreadable", "truncated"]
    assert set(judged["status"].to_pylist()) == {"rejected"}
    assert poser.seen == 2  # nobody looks for bodies in what cannot be read
    assert judged["pose_score"].to_pylist()[2:] == [None] * 4
    assert judged["pose_score"][0].as_py() == pytest.approx((15 * 0.9 + 2 * 0.1) / 17, abs=1e-6)
    assert judged["jpeg_bytes"].to_pylist()[:2] == [len(good), len(grey)]


def test_reasons_stand_in_their_order() -> None:
    table = shard(png(np.full((96, 48, 3), 9, np.uint8)))
    poser = FixedPoser(body(["nose", "eye", "ear", "shoulder", "ankle"]))
    judged = screen_table(table, poser, section(file_bytes_min=10**6))
    found = judged["reason"][0].as_py().split("+")
    assert found == sorted(found, key=list(REASONS).index)
    assert found == ["file-small", "grey", "no-person", "unsure"]


def test_good_pictures_stay_and_the_switches_work() -> None:
    grey = png(np.full((96, 48, 3), 9, np.uint8))
    table = shard(png(colourful(1)), grey)
    judged = screen_table(table, FixedPoser(body()), section())
    assert judged["keep"].to_pylist() == [True, False]
    assert judged["status"].to_pylist() == ["ok", "rejected"]
    assert judged["error"][0].as_py() is None
    off = screen_table(table, None, section(grey_variance=0.0))
    assert off["keep"].to_pylist() == [True, True]
    assert off["pose_score"].to_pylist() == [None, None]
    large = screen_table(table, None, section(file_bytes_max=len(grey)))
    assert large["reason"].to_pylist() == ["file-large", "grey"]


def test_an_empty_shard_and_one_without_a_readable_row() -> None:
    assert screen_table(shard(), FixedPoser(body()), section()).num_rows == 0
    judged = screen_table(shard(b"x", b""), FixedPoser(body()), section())
    assert judged["reason"].to_pylist() == ["unreadable"] * 2


# ------------------------------------------------------------------ duplicates over shards


def test_duplicates_are_decided_over_all_shards_in_any_order() -> None:
    a, b = png(colourful(1)), png(colourful(2))
    grey = png(np.full((96, 48, 3), 9, np.uint8))
    measured = measure_table(shard(grey, a, b, a, grey, b, a), Instruments())
    assert measured.schema == MEASURED
    parts = [measured.slice(0, 3), measured.slice(3, 2), measured.slice(5)]
    repeats = repeated(parts, section())
    uid = measured["uid"].to_pylist()
    # The grey ones are refused already and repeat nothing.
    assert repeats == {uid[3]: uid[1], uid[5]: uid[2], uid[6]: uid[1]}
    assert repeated(parts[::-1], section()) == repeats
    final = pa.concat_tables([judge_table(part, section(), repeats) for part in parts])
    assert final.schema == SCREENED
    assert final["keep"].to_pylist() == [False, True, True, False, False, False, False]
    assert final["duplicate_of"].to_pylist() == [None, None, None, uid[1], None, uid[2], uid[1]]
    assert final["reason"].to_pylist()[3] == "duplicate"
    assert final["error"].to_pylist()[3] == f"duplicate: of {uid[1]}"
    assert final["reason"].to_pylist()[4] == "grey"


def test_duplicates_can_stay() -> None:
    measured = measure_table(shard(png(colourful(1)), png(colourful(1))), Instruments())
    assert repeated([measured], section(duplicates="none")) == {}
    assert len(repeated([measured], section(duplicate_bits=0))) == 1
    assert repeated([], section()) == {}


def test_duplicates_by_embedding(tmp_path: Path) -> None:
    """The mean colours of c and d point almost alike, those of a and b do not."""
    pixels = [np.full((8, 4, 3), colour, np.uint8) for colour in
              ((200, 10, 10), (10, 200, 10), (10, 10, 200), (12, 10, 200))]  # fmt: skip
    rules = section(
        duplicates="embedding", embedder="somewhere", grey_variance=0.0, duplicate_cosine=0.999
    )
    instruments = Instruments(embedder=MeanEmbedder(), hashes=False)
    measured = measure_table(shard(*map(png, pixels), None), instruments)
    assert measured["phash"].null_count == 5
    assert measured["embedding"].null_count == 1
    uid = measured["uid"].to_pylist()
    parts = [measured.slice(0, 3), measured.slice(3)]
    assert repeated(parts, rules, tmp_path) == {uid[3]: uid[2]}
    rules = section(
        duplicates="embedding", embedder="somewhere", grey_variance=0.0, duplicate_cosine=0.05
    )
    assert repeated(parts, rules, tmp_path) == dict.fromkeys(uid[1:4], uid[0])
    assert list(tmp_path.iterdir()) == []
    assert repeated([], rules, tmp_path) == {}


# ------------------------------------------------------------------ people


def test_people_are_counted_and_the_largest_is_judged() -> None:
    large, small, other = [0.4, 0.5, 0.4, 0.9], [0.9, 0.6, 0.2, 0.3], [0.8, 0.5, 0.3, 0.8]
    finder = FixedFinder([], [large], [large, small], [large, other])
    poser = FixedPoser(body())
    good = [png(colourful(seed)) for seed in range(4)]
    measured = measure_table(shard(*good[:2], None, *good[2:]), Instruments(finder, poser))
    assert measured["people"].to_pylist() == [0, 1, None, 2, 2]
    assert measured["person_box"][1].as_py() == pytest.approx(large)
    assert poser.seen == 3  # nobody is posed where nobody is found
    assert poser.boxes is not None
    assert np.allclose(poser.boxes, [large] * 3)
    judged = judge_table(measured, section())
    assert judged["reason"].to_pylist() == [
        "no-person", None, "unreadable", None, "several-people",
    ]  # fmt: skip
    # The second's area over the first's: 0.06 / 0.36 and 0.24 / 0.36.
    error = judged["error"][4].as_py()
    assert error == "several-people: 2, the second has 0.67 of the first's area"
    assert measured["second_area"][3].as_py() == pytest.approx(1 / 6)
    strict = judge_table(measured, section(second_person=0.1))["reason"].to_pylist()
    assert strict[3] == "several-people"
    assert judge_table(measured, section(second_person=0.0))["keep"].to_pylist()[3:] == [True] * 2
    assert judged["pose_score"].to_pylist()[0] is None


def test_a_pose_survives_its_bytes() -> None:
    pose = body(["knee"], rival=0.25)
    again = pose_from_bytes(pose_to_bytes(pose) * 3)
    assert again.points_BK2.shape == (3, 17, 2)
    for name in ("points_BK2", "scores_BK", "rivals_BK"):
        assert np.array_equal(getattr(again, name)[1], getattr(pose, name)[0])


def test_joints_in_two_places_and_joints_hardly_seen() -> None:
    # The rivals' sum over the confidences': 0.2 / 0.9 and 0.24 / 0.9.
    assert body_faults(body(rival=0.2), section()) == [()]
    assert body_faults(body(rival=0.24), section()) == [("ambiguous",)]
    assert body_faults(body(rival=0.9), section(rival_share=1.0)) == [()]
    assert body_faults(body(score=0.45), section()) == [("unsure",)]
    assert body_faults(body(score=0.45), section(pose_score=0.4)) == [()]
    assert body_faults(body(score=0.0), section(keypoint_score=0.0, pose_score=0.0)) == [()]


def test_only_what_looks_at_pictures_decides_about_measuring() -> None:
    """Another threshold computes no shard anew; another model does."""
    same = [{"grey_variance": 5.0}, {"duplicate_bits": 1}, {"torso_share": [0.1, 0.5]},
            {"person_score": 0.9}, {"pose_score": 0.1}]  # fmt: skip
    assert all(section(**change).measuring == section().measuring for change in same)
    other = [{"poser": "a"}, {"people": "b"}, {"duplicates": "none"},
             {"duplicates": "embedding", "embedder": "c"}]  # fmt: skip
    keys = [section(**change).measuring for change in [{}, *other]]
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
    found = section(people="b").measuring
    assert found != section(people="b", person_score=0.9).measuring
    assert section(people="b", poser="a").models == {"people": "b", "poser": "a"}


# ------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("grey_variance", -1.0),
        ("keypoint_score", 1.5),
        ("torso_share", [0.2]),
        ("torso_share", [0.6, 0.2]),
        ("duplicate_bits", 64),
        ("duplicates", "both"),
        ("duplicates", "embedding"),
        ("embedder", "models/tiny/swin"),
        ("rival_share", 1.5),
        ("file_bytes_min", -3),
    ],
)
def test_parameters_out_of_range_are_named(key: str, value: object) -> None:
    with pytest.raises(PedAlignError, match="screen"):
        section(**{key: value})


@pytest.mark.parametrize(
    ("part", "change"),
    [("poser", {}), ("people", {}), ("embedder", {"duplicates": "embedding"})],
)
def test_a_missing_model_is_named(part: str, change: dict[str, object]) -> None:
    asked = section(**change | {part: "models/tiny/nothing-here"})
    with pytest.raises(PedAlignError, match=rf"screen\.{part}"):
        load_instruments(asked, torch.device("cpu"))


def test_nothing_is_loaded_that_nobody_asks_for() -> None:
    assert load_instruments(section(), torch.device("cpu")) == Instruments()
    without = load_instruments(section(duplicates="none"), torch.device("cpu"))
    assert without == Instruments(hashes=False)

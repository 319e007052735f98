"""Every row gets a decision and a reason; the rule for a body worked out by hand."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from models.poser import KEYPOINTS, Pose
from tasks.errors import PedAlignError
from tasks.params import check_section
from tasks.schemas import JUDGED, SCREENED
from tasks.screen import (
    REASONS,
    ScreenParams,
    body_faults,
    grey_variance,
    load_poser,
    mark_repeats,
    repeated,
    screen_table,
)

VALUES: dict[str, object] = {
    "grey_variance": 100.0,
    "file_bytes_min": 0,
    "file_bytes_max": 0,
    "poser": "none",
    "keypoint_score": 0.3,
    "body_height": 0.4,
    "torso_share": [0.15, 0.6],
    "order_slack": 0.02,
    "duplicate_bits": 6,
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


def body(unseen: Sequence[str] = (), heights: Mapping[str, float] | None = None) -> Pose:
    """One standing body; ``unseen`` and ``heights`` name joints without their side."""
    levels = STANDING | dict(heights or {})
    joint = [name.rpartition("_")[2] for name in KEYPOINTS]
    points = np.array([[[0.5, levels[name]] for name in joint]], np.float32)
    scores = np.array([[0.1 if name in unseen else 0.9 for name in joint]], np.float32)
    return Pose(points, scores)


class FixedPoser:
    """Says that every picture shows the same body; remembers how many it was asked about."""

    def __init__(self, pose: Pose) -> None:
        self.fixed, self.seen = pose, 0

    def pose(self, images: Sequence[np.ndarray]) -> Pose:
        self.seen += len(images)
        count = len(images)
        return Pose(self.fixed.points_BK2.repeat(count, 0), self.fixed.scores_BK.repeat(count, 0))


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
        (("nose", "eye", "ear", "hip", "knee"), ("no-person",)),
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
    assert judged.schema == JUDGED
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
    assert found == sorted(found, key=REASONS.index)
    assert found == ["file-small", "grey", "no-person"]


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
    judged = screen_table(shard(grey, a, b, a, grey, b, a), None, section())
    parts = [judged.slice(0, 3), judged.slice(3, 2), judged.slice(5)]
    repeats = repeated(parts, section())
    uid = judged["uid"].to_pylist()
    # The grey ones are refused already and repeat nothing.
    assert repeats == {uid[3]: uid[1], uid[5]: uid[2], uid[6]: uid[1]}
    assert repeated(parts[::-1], section()) == repeats
    final = pa.concat_tables([mark_repeats(part, repeats) for part in parts])
    assert final.schema == SCREENED
    assert final["keep"].to_pylist() == [False, True, True, False, False, False, False]
    assert final["duplicate_of"].to_pylist() == [None, None, None, uid[1], None, uid[2], uid[1]]
    assert final["reason"].to_pylist()[3] == "duplicate"
    assert final["error"].to_pylist()[3] == f"duplicate: of {uid[1]}"
    assert final["reason"].to_pylist()[4] == "grey"


def test_duplicates_can_stay() -> None:
    judged = screen_table(shard(png(colourful(1)), png(colourful(1))), None, section())
    assert repeated([judged], section(duplicate_bits=-1)) == {}
    assert len(repeated([judged], section(duplicate_bits=0))) == 1
    assert repeated([], section()) == {}


# ------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("grey_variance", -1.0),
        ("keypoint_score", 1.5),
        ("torso_share", [0.2]),
        ("torso_share", [0.6, 0.2]),
        ("duplicate_bits", 64),
        ("file_bytes_min", -3),
    ],
)
def test_parameters_out_of_range_are_named(key: str, value: object) -> None:
    with pytest.raises(PedAlignError, match="screen"):
        section(**{key: value})


def test_a_missing_pose_model_is_named() -> None:
    assert load_poser(section(), torch.device("cpu")) is None
    with pytest.raises(PedAlignError, match=r"screen\.poser"):
        load_poser(section(poser="models/tiny/nothing-here"), torch.device("cpu"))

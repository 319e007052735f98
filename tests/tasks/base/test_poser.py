"""Training targets by hand, and what the shipped poser can do on people that it has not seen."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.poser import KEYPOINTS, VitPosePoser, decode_heatmaps
from tasks.base.fitting import HELD_OUT_SEED
from tasks.base.pool import Pool, draw_pool
from tasks.base.poser import (
    CELLS,
    correct_share,
    cover,
    disturb,
    flip,
    heatmap_targets,
)
from tasks.images import encode_jpeg
from tasks.params import check_section
from tasks.screen.instruments import Instruments, measure_table
from tasks.screen.rules import ScreenParams, judge_table

SHIPPED = Path("models/tiny/poser")


def test_targets_peak_where_the_joint_is() -> None:
    points = torch.tensor([[[0.5, 0.25, 1.0]] * 16 + [[0.5, 0.25, 0.0]]])
    maps = heatmap_targets(points)
    assert maps.shape == (1, 17, *CELLS)
    peaks, scores = decode_heatmaps(maps)
    assert torch.allclose(peaks[0, 0], torch.tensor([5.5, 5.75]), atol=0.1)
    assert float(scores[0, 0]) > 0.8
    assert float(maps[0, 16].abs().max()) == 0  # not visible: an empty map


def test_covering_hides_the_joints_below_and_nothing_else() -> None:
    values = torch.rand(300, 3, 96, 48, generator=torch.Generator().manual_seed(0)) * 255
    points = torch.rand(300, 17, 3, generator=torch.Generator().manual_seed(1))
    points[..., 2] = 1
    covered, hidden = cover(values, points, torch.Generator().manual_seed(2))
    changed_BH = (covered != values).any(dim=3).any(dim=1)
    row_BK = (points[..., 1] * 96).long()
    painted_BK = changed_BH.gather(1, row_BK)
    # A joint on the border of a band may fall to either side of a row's middle.
    assert float((painted_BK == (hidden[..., 2] == 0)).float().mean()) > 0.98
    share = float(changed_BH.any(dim=1).float().mean())
    assert 0.2 < share < 0.45
    assert (hidden[..., :2] == points[..., :2]).all()


def test_disturbed_joints_stay_with_their_pixels() -> None:
    """A picture whose joint is its one bright row, wherever the row goes."""
    values = torch.zeros(400, 3, 96, 48)
    points = torch.zeros(400, 17, 3)
    points[..., 2] = 1
    rows = torch.randint(0, 96, (400,), generator=torch.Generator().manual_seed(0))
    values[torch.arange(400), :, rows] = 255
    points[..., 1] = ((rows + 0.5) / 96)[:, None]
    moved, truth = disturb(values, points, torch.Generator().manual_seed(1))
    texture = truth[:, 0, 2] == 0
    assert 10 < int(texture.sum()) < 60
    bright = moved[:, 0, :, 0].argmax(dim=1)
    expected = (truth[:, 0, 1] * 96 - 0.5).round().long()
    assert (bright == expected)[~texture].all()
    assert 20 < int((expected != rows)[~texture].sum()) < 80


def test_mirroring_moves_left_joints_to_right_ones() -> None:
    values = torch.arange(48.0).expand(40, 3, 96, 48).clone()
    points = torch.zeros(40, 17, 3)
    points[:, KEYPOINTS.index("left_wrist"), 0] = 0.2
    points[:, KEYPOINTS.index("right_wrist"), 0] = 0.7
    turned, moved = flip(values, points, torch.Generator().manual_seed(0))
    chosen = turned[:, 0, 0, 0] == 47
    assert 0 < int(chosen.sum()) < 40
    left = moved[:, KEYPOINTS.index("left_wrist"), 0]
    assert torch.allclose(left[chosen], torch.tensor(0.3))
    assert torch.allclose(left[~chosen], torch.tensor(0.2))


@pytest.fixture(scope="module")
def pool() -> Pool:
    return draw_pool(60, 0.0, HELD_OUT_SEED + 1)


@pytest.fixture(scope="module")
def poser() -> VitPosePoser:
    return VitPosePoser.from_pretrained(SHIPPED)


def test_the_shipped_poser_finds_joints_in_looks_it_has_not_seen(
    poser: VitPosePoser, pool: Pool
) -> None:
    measured = correct_share(poser, pool)
    assert measured["pck"] > 0.88
    assert measured["confidence_visible"] > measured["confidence_hidden"] + 0.2


def test_the_shipped_poser_sees_who_lacks_a_head_or_legs(poser: VitPosePoser, pool: Pool) -> None:
    """Whole people stay; the same people with their ends painted over go."""
    section = check_section(
        ScreenParams,
        {
            "grey_variance": 0.0,
            "file_bytes_min": 0,
            "file_bytes_max": 0,
            "people": "none",
            "person_score": 0.5,
            "second_person": 0.4,
            "poser": str(SHIPPED),
            "keypoint_score": 0.3,
            "pose_score": 0.0,
            "rival_share": 1.0,
            "body_height": 0.4,
            "torso_share": [0.15, 0.6],
            "order_slack": 0.04,
            "duplicates": "none",
            "duplicate_bits": 0,
            "embedder": "none",
            "duplicate_cosine": 1.0,
        },
        "screen",
    )

    def painted(rows: slice) -> list[np.ndarray]:
        pictures = pool.pixels.copy()
        pictures[:, rows] = pictures[:, rows, :1]
        return list(pictures)

    def kept(pictures: list[np.ndarray]) -> tuple[float, list[str]]:
        count = len(pictures)
        table = pa.table(
            {
                "uid": [f"{i:016x}" for i in range(count)],
                "image": [encode_jpeg(picture) for picture in pictures],
                "status": ["ok"] * count,
                "error": pa.array([None] * count, pa.string()),
            }
        )
        judged = judge_table(measure_table(table, Instruments(poser=poser)), section)
        return float(np.mean(judged["keep"].to_pylist())), judged["reason"].to_pylist()

    whole, _ = kept(list(pool.pixels))
    headless, why_head = kept(painted(slice(0, 26)))
    legless, why_legs = kept(painted(slice(58, 96)))
    nobody, _ = kept(painted(slice(0, 96)))
    upside_down, _ = kept(list(pool.pixels[:, ::-1]))
    noise = np.random.default_rng(0).integers(0, 256, pool.pixels.shape, dtype=np.uint8)
    static, _ = kept(list(noise))
    assert whole > 0.95
    assert headless < 0.2
    assert legless < 0.1
    assert nobody < 0.05
    assert upside_down < 0.05
    assert static < 0.05
    assert sum("no-head" in (why or "") for why in why_head) > 30
    assert sum("no-legs" in (why or "") for why in why_legs) > 40


def test_the_shipped_weights_say_how_they_were_made() -> None:
    record = json.loads((SHIPPED / "training.json").read_text())
    assert record["looks"] == ["source", "random"]
    assert re.match(r"python -m tasks\.base\.poser ", record["command"])
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 1_500_000

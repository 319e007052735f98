"""The stage's parts: arms of params.yaml, choice of pictures, figures by hand, files."""

import csv
import json
import math
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.gap import fid, kid
from models.poser import KEYPOINTS, Pose
from tasks.errors import PedAlignError
from tasks.gap.arms import (
    GapParams,
    arm_sections,
    changed,
    curve_arms,
    essence,
    main_arm,
    start_arm,
)
from tasks.gap.comparing import EXAMPLES, compare, write_examples
from tasks.gap.measuring import TOLD_APART, Findings
from tasks.gap.picking import pick_prompts, pick_source, pick_target
from tasks.gap.results import write_results
from tasks.images import decode, encode_jpeg
from tasks.params import check_section, read_section
from tasks.provenance import ROOT
from tasks.report.gap import read_gap
from tasks.report.gap import section as page_section
from tasks.restyle.shard import RestyleParams
from tasks.schemas import IMAGES
from tasks.shards import image_uid, write_folder

TINY = ROOT / "profiles" / "tiny.yaml"
RESTYLE = read_section(RestyleParams, "restyle", TINY)
GAP = read_section(GapParams, "gap", TINY)
SIZE = (16, 8)
HELD_OUT = ("val", "test")
ARMS: dict[str, dict[str, Any]] = {
    "source": {"mode": "none"},
    "weak": {"strength": 0.1},
    "made": {},
    "strong": {"strength": 0.7},
    "drawn": {"mode": "generate", "control_scale": 0.0},
}


def gap(**fields: Any) -> GapParams:
    changes = {"arms": ARMS, "pictures": 12, "viewpoint": [], "resamples": 20} | fields
    return check_section(GapParams, asdict(GAP) | changes, "gap")


# ------------------------------------------------------------------ arms


def test_arms_are_the_section_with_changes() -> None:
    restyle = replace(RESTYLE, mode="restyle", strength=0.4)
    arms = arm_sections(gap(), restyle)
    assert arms["strong"] == replace(restyle, strength=0.7)
    assert main_arm(arms, restyle) == "made"
    assert start_arm(arms, "made") == "source"
    assert curve_arms(arms, "made") == [(0.1, "weak"), (0.4, "made"), (0.7, "strong")]
    assert changed(arms["strong"], restyle) == "strength 0.7"
    assert changed(arms["made"], restyle) == "as restyle makes them"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strenght": 0.5}, "unknown key `gap.arms.odd.strenght`"),
        ({"strength": 2.0}, "`gap.arms.odd.strength` is 2.0"),
        ({"mode": "magic"}, "`gap.arms.odd.mode` is 'magic'"),
    ],
)
def test_a_change_that_restyle_does_not_know_names_its_arm(
    change: dict[str, Any], said: str
) -> None:
    with pytest.raises(PedAlignError) as caught:
        arm_sections(gap(arms={"odd": change}), RESTYLE)
    assert said in caught.value.found


@pytest.mark.parametrize(
    "fields",
    [
        {"arms": {}},
        {"arms": {"../climbs": {}}},
        {"viewpoint": ["nobody"]},
        {"pictures": 4},
        {"held_out": ["test", "train"]},
        {"held_out": []},
    ],
)
def test_sections_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(PedAlignError, match="gap"):
        gap(**fields)


def test_generating_runs_start_at_the_base_alone_and_have_no_curve() -> None:
    restyle = replace(RESTYLE, mode="generate", variants=20)
    arms = arm_sections(gap(arms={"made": {}, "base": {"control_scale": 0}}), restyle)
    assert main_arm(arms, restyle) == "made"
    assert start_arm(arms, "made") == "base"
    assert curve_arms(arms, "made") == []
    assert start_arm({"made": arms["made"]}, "made") is None
    # Strength and EDA do not reach a picture that is made of a caption as it stands.
    assert essence(arms["made"]) == essence(replace(arms["made"], strength=0.9, variants=3))
    assert main_arm({"other": replace(restyle, guidance=7.5)}, restyle) is None


# ------------------------------------------------------------------ pictures


def row(path: str, split: str, person: str | None, level: int, caption: str) -> dict[str, Any]:
    rng = np.random.default_rng(level)
    pixels = np.clip(level + rng.normal(0, 20, (*SIZE, 3)), 0, 255).astype(np.uint8)
    return {
        "uid": image_uid("set", path), "dataset": "set", "split": split, "person_id": person,
        "camera": None, "image": encode_jpeg(pixels), "width": SIZE[1], "height": SIZE[0],
        "captions": [caption] if caption else [], "labels": None, "source_path": path,
        "parent_uid": None, "status": "ok", "error": None,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(sorted(rows, key=lambda r: r["uid"]), schema=IMAGES)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 train, 6 val and 9 test people with 1 to 4 pictures; every fifth has no caption."""
    folder = tmp_path_factory.mktemp("target")
    rows = [
        row(f"{split}/{person}-{n}", split, f"{split}{person}", 40 + 5 * person + n,
            "" if (person + n) % 5 == 0 else f"a man in a {'red' if n else 'blue'} shirt")
        for split, people in (("train", 10), ("val", 6), ("test", 9))
        for person in range(people)
        for n in range(1 + person % 4)
    ]  # fmt: skip
    write_folder(folder, [table(rows)], "images", {}, shard_rows=8)
    return folder


def test_halves_of_held_out_people_have_nobody_in_common(target: Path) -> None:
    first, second = pick_target(target, 100, 0, HELD_OUT)
    assert first.num_rows == second.num_rows > 10
    people = [set(half["person_id"].to_pylist()) for half in (first, second)]
    assert not people[0] & people[1]
    splits = Counter(first["split"].to_pylist() + second["split"].to_pylist())
    assert set(splits) == {"val", "test"}
    chosen = pick_target(target, 100, 0, ("val",))
    assert set(chosen[0]["split"].to_pylist() + chosen[1]["split"].to_pylist()) == {"val"}
    few = pick_target(target, 5, 0, HELD_OUT)
    assert [half.num_rows for half in few] == [5, 5]
    assert set(few[0]["uid"].to_pylist()) <= set(first["uid"].to_pylist())


def test_prompts_are_captions_of_train_and_a_smaller_choice_is_part_of_a_larger(
    target: Path,
) -> None:
    many, few = pick_prompts(target, 50, 3), pick_prompts(target, 4, 3)
    assert set(many["split"].to_pylist()) == {"train"}
    assert all(len(texts) == 1 for texts in many["captions"].to_pylist())
    assert few.num_rows == 4
    assert set(few["uid"].to_pylist()) <= set(many["uid"].to_pylist())
    assert few["uid"].to_pylist() == sorted(few["uid"].to_pylist())
    sources = [pick_source(target, n, 3)["uid"].to_pylist() for n in (7, 20)]
    assert set(sources[0]) <= set(sources[1])
    assert [len(each) for each in sources] == [7, 20]


def test_a_target_of_one_split_has_nothing_held_out(tmp_path: Path) -> None:
    rows = [row(f"{n}", "train", None, 90, "a man") for n in range(20)]
    write_folder(tmp_path, [table(rows)], "images", {}, shard_rows=8)
    halves = pick_target(tmp_path, 10, 0, HELD_OUT)
    assert [half.num_rows for half in halves] == [0, 0]
    said = compare({}, {}, halves, SIZE, gap(), start=None, main=None)
    assert isinstance(said, str)
    assert "0 held-out pictures" in said


# ------------------------------------------------------------------ figures


class ByBrightness:
    """Features are mean channels; dark pictures show a man in red, light ones in blue."""

    features, is_clip, size = "means", True, SIZE

    def __init__(self) -> None:
        self.attributes = {"gender": ("man", "woman"), "upper colour": ("blue", "red")}

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(len(pixels), -1, 3).mean(1).astype(np.float32)

    def read(self, features: np.ndarray) -> dict[str, np.ndarray]:
        dark = (features.mean(1) < 100).astype(float)
        sure = np.tile([1.0, 0.0], (len(features), 1))
        return {"gender": sure, "upper colour": np.stack([1 - dark, dark], 1)}


class Upright:
    """Finds the same body everywhere."""

    def pose(self, images: list[np.ndarray]) -> Pose:
        heights = {"shoulder": 0.3, "hip": 0.5, "knee": 0.7, "ankle": 0.9}
        y = [next((v for k, v in heights.items() if n.endswith(k)), 0.1) for n in KEYPOINTS]
        points = np.stack([np.full(len(y), 0.5), y], -1).astype(np.float32)
        return Pose(
            np.repeat(points[None], len(images), 0),
            np.ones((len(images), len(y)), np.float32),
            np.zeros((len(images), len(y)), np.float32),
        )


def crowd(level: int, count: int = 20, *, colours: str = "both") -> pa.Table:
    """Pictures about a level, half of them darker by 40; captions tell the darker ones red."""
    rows = []
    for n in range(count):
        dark = n % 2 == 0
        colour = {"both": "red" if dark else "blue", "wrong": "blue" if dark else "red"}[colours]
        own = level - 20 if dark else level + 20
        rows.append(row(f"{level}-{colours}-{n}", "test", f"p{n}", own, f"a man in {colour} shirt"))
    return table(rows)


HALVES = crowd(100), crowd(101)


def found(**made: pa.Table) -> dict[str, Any]:
    section = gap(viewpoint=["source", "made"])
    findings = compare(
        made, {"drawn": "no caption"}, HALVES, SIZE, section, start="source", main="made",
        judge=ByBrightness(), poser=Upright(),
    )  # fmt: skip
    assert isinstance(findings, Findings)
    return {each.name: each for each in findings.arms} | {"all": findings}


def test_figures_of_arms_that_stay_and_that_arrive() -> None:
    by_name = found(source=crowd(160), made=crowd(102), strong=crowd(130, colours="wrong"))
    assert by_name["source"].left == {"KID": 1, "FID": 1, "CMMD": 1, TOLD_APART: 1}
    assert by_name["source"].interval == (1, 1)
    made, strong = by_name["made"], by_name["strong"]
    assert abs(made.left["FID"]) < 0.05
    assert made.distances[TOLD_APART] < 70 < by_name["source"].distances[TOLD_APART]
    assert 0.1 < strong.left["FID"] < 0.6
    assert strong.interval[0] <= strong.left["KID"] <= strong.interval[1]
    assert by_name["drawn"].reason == "no caption"
    # The judge reads the colour off the level: right in the target and where the arm arrived.
    target = by_name["all"].target
    assert target.content["upper colour"].accuracy > 0.9
    assert made.kept["upper colour"].corrected == pytest.approx(1, abs=0.15)
    assert made.content_kept(colours=True) == made.kept["upper colour"].corrected
    assert strong.content["upper colour"].corrected < 0.1
    # Only one gender is named: nothing can be read into it.
    assert target.content["gender"].reason
    assert math.isnan(made.content_kept(colours=False))
    assert made.least_kept() == ("", pytest.approx(math.nan, nan_ok=True))


def test_viewpoint_is_looked_at_where_asked() -> None:
    by_name = found(source=crowd(160), made=crowd(102), strong=crowd(130))
    assert by_name["made"].bodies["head_to_foot"].mean == pytest.approx(1)
    assert by_name["made"].pose == 0
    assert by_name["strong"].bodies == {}
    assert math.isnan(by_name["strong"].pose)
    assert (
        by_name["made"].light["luminance"].distance < by_name["source"].light["luminance"].distance
    )


def test_fewer_pictures_are_compared_in_equal_numbers_and_too_few_are_a_reason() -> None:
    by_name = found(source=crowd(160), made=crowd(102, 10), strong=crowd(130, 3))
    assert by_name["made"].pictures == 10
    assert abs(by_name["made"].left["FID"]) < 0.2
    assert by_name["strong"].reason == "too few: 3 pictures, and a distance takes 8"


def test_figures_do_not_depend_on_workers_or_other_arms() -> None:
    made = {"source": crowd(160), "made": crowd(102), "strong": crowd(130)}
    alone = compare(made, {}, HALVES, SIZE, gap(), start="source", main="made", workers=3)
    assert isinstance(alone, Findings)
    again = compare(
        {"source": made["source"], "strong": made["strong"]}, {}, HALVES, SIZE, gap(),
        start="source", main=None,
    )  # fmt: skip
    assert isinstance(again, Findings)
    assert alone.arms[-1] == again.arms[-1]
    # Nobody judges: distances of picture statistics, and no content.
    assert alone.features == "picture statistics"
    assert alone.arms[1].content == {}
    assert alone.arms[1].distances["FID"] < alone.arms[0].distances["FID"]


def test_without_a_start_there_are_distances_and_no_shares() -> None:
    figures = compare({"made": crowd(102)}, {}, HALVES, SIZE, gap(), start=None, main="made")
    assert isinstance(figures, Findings)
    assert figures.start is None
    assert math.isfinite(figures.arms[0].distances["KID"])
    assert all(math.isnan(share) for share in figures.arms[0].left.values())


def test_distances_are_means_over_the_halves_and_the_floor_is_between_them() -> None:
    """Written out: features of every picture, and `models.gap` between whole sets."""
    tables = (crowd(130), *HALVES)
    made, first, second = (
        np.stack([np.asarray(decode(i.as_py()), float).mean((0, 1)) for i in table["image"]])
        for table in tables
    )
    by_name = found(source=crowd(160), made=tables[0])
    assert by_name["made"].distances["FID"] == pytest.approx(
        (fid(made, first) + fid(made, second)) / 2, rel=1e-4
    )
    floor = by_name["all"].target
    assert floor.distances["FID"] == pytest.approx(fid(first, second), rel=1e-4)
    assert floor.distances["KID"] == pytest.approx(kid(first, second).mean, rel=1e-4)
    assert floor.kept["upper colour"].accuracy == 1


# ------------------------------------------------------------------ files


def write(folder: Path) -> None:
    made = {"source": crowd(160), "made": crowd(102), "strong": crowd(130), "weak": crowd(150)}
    findings = found(**made)["all"]
    restyle = replace(RESTYLE, mode="restyle", strength=0.4)
    arms = arm_sections(gap(), restyle)
    changes = {name: changed(arm, restyle) for name, arm in arms.items()}
    write_results(folder, findings, arms, changes, curve_arms(arms, "made"))
    write_examples(folder / "details" / EXAMPLES, made, HALVES[0], gap(sheet_pictures=3))


def test_files_say_what_was_found_and_the_same_bytes_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    rows = list(csv.DictReader((tmp_path / "one" / "arms.csv").open()))
    assert [r["arm"] for r in rows] == ["source", "weak", "made", "strong", "drawn", "target"]
    assert rows[0]["KID_left"] == "1"
    assert rows[4]["reason"] == "no caption"
    assert rows[4]["KID"] == ""
    curve = list(csv.DictReader((tmp_path / "one" / "curve.csv").open()))
    assert [r["strength"] for r in curve] == ["0.1", "0.4", "0.7"]
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert metrics["arm"] == "made"
    assert metrics["start"] == "source"
    assert set(metrics["arms"]) == {"weak", "strong"}
    assert metrics["distances"]["FID"]["floor"] < metrics["distances"]["FID"]["before"]
    assert "pose distance" in metrics
    assert "content kept" not in metrics  # nothing countable but colours


def test_the_page_shows_every_arm(tmp_path: Path) -> None:
    write(tmp_path)
    read = read_gap(tmp_path)
    assert read is not None
    assert read.columns == ("source", "made", "weak", "strong")
    shown = page_section(read)
    arms = shown.parts[0]
    assert [r[0] for r in arms.rows] == [*ARMS, "target"]
    assert arms.rows[4][1] == "no caption"
    assert [p.name for p in shown.parts if p.is_picture] == ["curve", "arms"]
    captions = [p.caption for p in shown.parts if not p.is_picture]
    assert len(captions) == 4
    attribute = next(r for r in shown.parts[-1].rows if r[0] == "upper colour")
    assert attribute[1].endswith("of 40")


def test_nothing_to_measure_is_written_with_its_reason(tmp_path: Path) -> None:
    write_results(tmp_path, None, {}, {}, [], "the target has 0 held-out pictures")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "reason": "the target has 0 held-out pictures"
    }
    assert read_gap(tmp_path) is None
    assert page_section(None).parts == []

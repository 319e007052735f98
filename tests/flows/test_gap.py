"""The stage `gap` in miniature: its flow and the store, a small drawn world, the shipped base.

Prefect's hand is replaced by a plain call that counts, so no server starts and a test sees what is
rendered anew.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from flows import gap as stage
from flows.shards import have_shard
from tasks.errors import PedAlignError
from tasks.gap.arms import GapParams
from tasks.images import encode_jpeg
from tasks.params import read_section
from tasks.provenance import ROOT
from tasks.schemas import IMAGES
from tasks.shards import image_uid, read_manifest, write_folder
from tasks.world.batches import sample_batch

SPLITS = ("train", "train", "train", "val", "test")
FILES = {"metrics.json", "arms.csv", "curve.csv", "details"}


def images(name: str, look: str, count: int, *, told: bool = True) -> list[dict[str, Any]]:
    drawn = sample_batch(np.random.default_rng(len(name)), count, look=look, size=(96, 48))
    rows = [
        {"uid": image_uid(name, str(n)), "dataset": name, "split": SPLITS[n % 5],
         "person_id": f"{name}/{n}", "camera": None, "image": encode_jpeg(drawn[0][n]),
         "width": 48, "height": 96, "captions": [drawn[1][n]] if told else [], "labels": None,
         "source_path": str(n), "parent_uid": None, "status": "ok", "error": None}
        for n in range(count)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["uid"])


def put(folder: Path, rows: list[dict[str, Any]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    write_folder(folder, [pa.Table.from_pylist(rows, schema=IMAGES)], "images", {}, shard_rows=16)


class Call:
    """What a submitted arm comes to."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def result(self) -> Any:
        return self.function()


class Project:
    """A project's folder with the micro profile, and what was rendered in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params = YAML(typ="safe").load(ROOT / "profiles" / "micro.yaml")
        self.params["inputs"] |= {"dad": "data/nothing"}
        self.params["restyle"] |= {"match": 0.0, "steps": 2, "strength": 0.5}
        self.params["diffusion"]["base"] = str(ROOT / "models/tiny/diffusion")
        self.params["gap"] |= {"poser": str(ROOT / "models/tiny/poser"), "sheet_pictures": 2}
        self.arms = {"source": {"mode": "none"}, "colours": {"mode": "colours", "match": 1.0},
                     "restyled": {}, "strong": {"strength": 1.0},
                     "generated": {"mode": "generate"}}  # fmt: skip
        self.rendered: list[str] = []

    def submit(self, job: Any, work: Any, store: Any, place: Any) -> Call:
        def have() -> Any:
            if store.find(job.key) is None:
                self.rendered.append(job.name)
            return have_shard(job, work, store, place)

        return Call(have)

    def run(self) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
        """Run the stage; return its metrics and its rows by arm."""
        self.params["gap"]["arms"] = self.arms
        with (self.folder / "params.yaml").open("w") as sink:
            YAML().dump(self.params, sink)
        self.rendered.clear()
        stage.gap.fn()
        out = self.folder / stage.OUT
        assert {path.name for path in out.iterdir()} == FILES
        rows = csv.DictReader((out / "arms.csv").read_text().splitlines())
        return json.loads((out / "metrics.json").read_bytes()), {row["arm"]: row for row in rows}

    def files(self) -> dict[str, bytes]:
        out = self.folder / stage.OUT
        return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    made = Project(tmp_path)
    monkeypatch.setattr(stage, "_arm", made)
    put(tmp_path / "data/ingested/source", images("source", "source", 20))
    put(tmp_path / "data/ingested/target", images("target", "random", 60))
    return made


def test_arms_are_rendered_once_and_an_arm_that_cannot_be_made_is_a_row(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, rows = project.run()
    assert project.rendered == ["source", "colours", "restyled", "strong", "generated"]
    assert list(rows) == [*project.arms, "target"]
    assert metrics["arm"] == "restyled"
    assert metrics["start"] == "source"
    assert metrics["features"] == "trained"
    # Without DaD there are no target statistics: that arm has a reason and no figures.
    assert "no target statistics" in rows["colours"]["reason"]
    assert rows["colours"]["KID"] == ""
    for name in ("restyled", "strong", "generated"):
        assert rows[name]["reason"] == ""
        assert float(rows[name]["FID"]) > 0
    assert rows["source"]["KID_left"] == "1"
    assert [rows[n]["head_to_foot"] != "" for n in ("source", "restyled", "strong")] == [
        True, True, False,
    ]  # fmt: skip
    kept = read_manifest(project.folder / stage.OUT / "details").meta["entries"]
    assert len(kept) == 4 + 2  # arms, and the rows that they are made of

    # Again: nothing is trained or rendered but the arm that failed, and no byte differs.
    before = project.files()
    project.run()
    assert project.rendered == ["colours"]
    assert project.files() == before

    # Another arm renders that arm; what restyle does not read in a mode renders nothing.
    del project.arms["colours"]
    project.arms["weak"] = {"strength": 0.75}
    project.params["restyle"]["variants"] = 3
    caplog.set_level(logging.INFO)
    metrics, rows = project.run()
    assert project.rendered == ["weak"]
    assert "this training is finished already" in caplog.text
    curve = (project.folder / stage.OUT / "curve.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curve] == ["strength", "0.5", "0.75", "1"]


def test_a_target_without_captions_has_distances_of_picture_statistics(project: Project) -> None:
    put(project.folder / "data/ingested/target", images("target", "random", 60, told=False))
    project.params["gap"] |= {"poser": "none"}
    project.arms = {"source": {"mode": "none"}, "restyled": {},
                    "generated": {"mode": "generate"}}  # fmt: skip
    metrics, rows = project.run()
    assert metrics["features"] == "picture statistics"
    assert "content kept" not in metrics
    assert "no caption" in rows["generated"]["reason"]
    assert float(rows["restyled"]["FID"]) > 0
    assert rows["restyled"]["head_to_foot"] == ""
    assert "no caption" in (project.folder / stage.JUDGE / "none.json").read_text()


def test_a_run_that_generates_from_the_target_starts_at_the_base_alone(project: Project) -> None:
    project.params["inputs"]["restyle"] = project.params["inputs"]["adapt"]
    project.params["restyle"]["mode"] = "generate"
    project.params["gap"] |= {"poser": "none", "viewpoint": []}
    project.arms = {"source": {"mode": "none"}, "base": {"control_scale": 0.0}, "generated": {}}
    metrics, rows = project.run()
    assert "inputs.restyle is the target" in rows["source"]["reason"]
    assert (metrics["arm"], metrics["start"]) == ("generated", "base")


def test_a_target_without_held_out_pictures_is_told_and_stops_nothing(project: Project) -> None:
    rows = [row | {"split": "train"} for row in images("target", "random", 20)]
    put(project.folder / "data/ingested/target", rows)
    project.params["gap"] |= {"poser": "none", "viewpoint": []}
    project.arms = {"source": {"mode": "none"}}
    metrics, arms = project.run()
    assert list(metrics) == ["reason"]
    assert arms == {}


def test_what_the_run_itself_makes_has_to_work(project: Project) -> None:
    project.params["restyle"]["match"] = 0.4  # there are no statistics to match
    project.arms = {"restyled": {}}
    project.params["gap"]["viewpoint"] = []
    with pytest.raises(PedAlignError):
        project.run()


def test_another_parser_or_other_features_are_another_judge(tmp_path):
    section = read_section(GapParams, "gap", ROOT / "profiles" / "micro.yaml").judge
    assert stage.judge_revisions(section) == {}  # what is built in counts by its code
    told = []
    for version in ("1", "2"):
        parser = tmp_path / version
        parser.mkdir()
        (parser / "meta.json").write_text(f'{{"version": "{version}"}}')
        told.append(
            stage.judge_revisions(replace(section, parser=str(parser), features=str(parser)))
        )
    assert told[0].keys() == {"features", "parser"}
    assert told[0]["parser"] != told[1]["parser"]
    assert told[0]["features"] != told[1]["features"]

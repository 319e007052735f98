"""A target that nobody described: the stage `describe` in miniature, and who reads what it says.

Prefect's hand is replaced by a plain call that counts, so no server starts and a test sees which
shards are computed. The model that looks is a CLIP of random weights: what it says is nonsense, and
the same nonsense every time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ruamel.yaml import YAML

import flows.shards
from flows import adapt as adapt_stage
from flows import describe as stage
from flows.gap import have_judge
from flows.gap import pick as pick_for_arms
from flows.restyle import pseudo_texts
from flows.shards import have_shard
from tasks.adapt.train import AdaptParams, train_dad
from tasks.diffusion import DiffusionParams, open_base
from tasks.errors import PedAlignError
from tasks.gap.arms import GapParams
from tasks.gap.picking import pick_prompts
from tasks.images import encode_jpeg
from tasks.inputs import Inputs, adapter
from tasks.judge.lessons import prepare_lessons
from tasks.pairs import prepare_pairs
from tasks.params import check_section, read_section
from tasks.provenance import ROOT
from tasks.restyle.prompts import plan_rows
from tasks.restyle.shard import RestyleParams
from tasks.schemas import IMAGES
from tasks.shards import image_uid, iter_tables, read_manifest, write_folder
from tasks.target import check_captions, has_captions, told_shard, told_tables
from tasks.world.batches import sample_batch
from tests.encoders import save_spelling_clip

SPLITS = ("train", "train", "train", "val", "test")
IMAGES_OF, SAID = Path("data/ingested/target"), Path("data/described/target")
SECRET = "a man in a crimson cardigan"
"""What people wrote, where they wrote something."""


class Call:
    """What a submitted shard comes to."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def result(self) -> Any:
        return self.function()


class Killed(BaseException):
    """As abrupt as a signal, as far as the flow can see."""


class Project:
    """A folder with the profile `unlabelled` and 20 pictures of a target in four shards."""

    def __init__(self, folder: Path, clip: Path) -> None:
        self.folder = folder
        self.params = YAML(typ="safe").load(ROOT / "profiles" / "unlabelled.yaml")
        section = self.params["describe"]["datasets"]["target"]
        section["caption"]["clip_attributes"]["model"] = str(clip)
        section["caption"]["clip_attributes"]["attributes"] = str(
            ROOT / "tasks/caption/attributes.yaml"
        )
        self.section = section
        self.computed: list[str] = []
        self.lives = 99
        self.pixels = sample_batch(np.random.default_rng(0), 20, look="random", size=(96, 48))[0]
        self.put()

    def put(self, captions: Mapping[str, str] | None = None) -> None:
        """Write the target's shards; each split with one caption a row, or with none."""
        captions = captions or {"test": "a woman"}
        rows = [
            {"uid": image_uid("t", str(n)), "dataset": "t", "split": SPLITS[n % 5],
             "person_id": f"t/{n}", "camera": None, "image": encode_jpeg(self.pixels[n]),
             "width": 48, "height": 96, "labels": None, "source_path": str(n),
             "captions": [captions[SPLITS[n % 5]]] if SPLITS[n % 5] in captions else [],
             "parent_uid": None, "status": "rejected" if n == 5 else "ok",
             "error": "truncated: x" if n == 5 else None}
            for n in range(20)
        ]  # fmt: skip
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["uid"]), schema=IMAGES)
        write_folder(self.folder / IMAGES_OF, [table], "images", shard_rows=6)

    def submit(self, job: Any, work: Any, store: Any, place: Any) -> Call:
        def have() -> Any:
            if store.find(job.key) is None:
                if len(self.computed) == self.lives:
                    raise Killed
                self.computed.append(job.name)
            return have_shard(job, work, store, place)

        return Call(have)

    def write(self) -> None:
        with (self.folder / "params.yaml").open("w") as sink:
            YAML().dump(self.params, sink)

    def run(self) -> list[dict[str, Any]]:
        """Run the stage; return its rows."""
        self.write()
        self.computed.clear()
        stage.describe.fn("target")
        return [row for table in iter_tables(SAID) for row in table.to_pylist()]

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / SAID).iterdir()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_spelling_clip(folder)
    return folder


@pytest.fixture
def project(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    made = Project(tmp_path, clip)
    monkeypatch.setattr(flows.shards, "_shard", made)
    return made


def test_only_the_splits_that_were_asked_for_are_described(project: Project) -> None:
    rows = project.run()
    shards = read_manifest(SAID).shards
    assert [s.name for s in shards] == [s.name for s in read_manifest(IMAGES_OF).shards]
    images = [row for table in iter_tables(IMAGES_OF) for row in table.to_pylist()]
    assert [row["uid"] for row in rows] == [row["uid"] for row in images]
    for row, image in zip(rows, images, strict=True):
        described = image["split"] == "train" and image["status"] == "ok"
        assert len(row["captions"]) == (2 if described else 0)
        assert row["status"] == ("ok" if described else "rejected")
        if image["status"] != "ok":
            assert row["error"] == image["error"]
        elif not described:
            assert row["error"] == f"other-split: rows of {image['split']} are not described"
    meta = read_manifest(SAID).meta
    assert meta["method"] == "clip_attributes"
    assert set(meta["revisions"]) == {"captioner", "attributes"}


def test_finished_shards_are_kept_and_a_killed_run_goes_on(project: Project) -> None:
    project.run()
    names = [shard.name for shard in read_manifest(IMAGES_OF).shards]
    assert project.computed == names
    before = project.files()
    # Nothing that the method does not read makes a shard anew.
    project.section["caption"]["captioner"]["max_new_tokens"] = 7
    project.run()
    assert project.computed == []
    project.section["caption"]["clip_attributes"]["threshold"] = 0.2
    project.lives = 2
    with pytest.raises(Killed):
        project.run()
    project.lives = 99
    project.run()
    assert project.computed == names[2:]
    assert project.files() != before
    project.section["caption"]["clip_attributes"]["threshold"] = 0.9
    project.run()
    assert project.computed == []
    assert project.files() == before


def outputs(project: Project, folder: Path) -> dict[str, bytes]:
    """Everything that is made of the target's train split before pretraining."""
    project.run()
    gap = read_section(GapParams, "gap")
    judge = dataclasses.replace(gap.judge, features="trained", least=1)
    diffusion = read_section(DiffusionParams, "diffusion")
    base = open_base(dataclasses.replace(diffusion, base=str(ROOT / diffusion.base)), "cpu")
    prepare_pairs(IMAGES_OF, base, diffusion.size, folder / "pairs", captions=SAID)
    lessons = told_tables(IMAGES_OF, SAID)
    prepare_lessons(lessons, judge, folder / "lessons", "cpu")
    prompts = pick_prompts(IMAGES_OF, 8, 0, SAID)
    (folder / "prompts").write_text(json.dumps(prompts.drop(["image"]).to_pylist()))
    made = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return made | project.files()


def test_what_people_wrote_about_train_pictures_is_read_by_nobody(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    assert not has_captions(IMAGES_OF, None)
    without = outputs(project, tmp_path / "without")
    assert any(name.startswith("lessons") for name in without)
    project.put({"test": "a woman", "train": SECRET, "val": SECRET})
    assert has_captions(IMAGES_OF, None)
    with_secret = outputs(project, tmp_path / "with")
    assert with_secret.keys() == without.keys()
    # The store's manifest records nothing of the input, so even that is the same.
    assert [n for n in without if without[n] != with_secret[n]] == []
    assert not any(b"crimson" in content for content in with_secret.values())


def test_a_target_without_a_caption_says_what_to_do(project: Project, tmp_path: Path) -> None:
    project.write()
    section = read_section(AdaptParams, "adapt")
    diffusion = read_section(DiffusionParams, "diffusion")
    diffusion = dataclasses.replace(diffusion, base=str(ROOT / diffusion.base))
    with pytest.raises(PedAlignError, match=r"12 train pictures without one") as raised:
        train_dad(IMAGES_OF, diffusion, section, tmp_path / "run")
    assert "describe.datasets" in raised.value.remedy
    assert "inputs.adapt_captions: data/described/target" in raised.value.remedy
    # With a model that was told to describe other splits it is no better.
    project.section["splits"] = ["test"]
    project.run()
    with pytest.raises(PedAlignError, match="no caption for any of the 12 train") as raised:
        train_dad(IMAGES_OF, diffusion, section, tmp_path / "run", captions=SAID)
    assert "splits has to name train" in raised.value.remedy
    # The judge does without, and says so; arms that generate have nothing to draw.
    gap = read_section(GapParams, "gap")
    assert have_judge(gap.judge, IMAGES_OF, None) is None
    assert "describe" in json.loads(Path("data/checkpoints/judge/none.json").read_text())["reason"]
    assert True not in pick_for_arms(gap, IMAGES_OF, IMAGES_OF, None)


def test_pictures_are_generated_from_pseudo_texts(project: Project) -> None:
    project.put({"test": "a woman", "train": SECRET})
    project.run()
    section = dataclasses.replace(read_section(RestyleParams, "restyle"), mode="generate")
    inputs = project.params["inputs"]
    of_target = check_section(Inputs, inputs | {"restyle": str(IMAGES_OF)}, "inputs")
    assert pseudo_texts(of_target, section) == SAID
    # What is not generated from the target has prompts of its own.
    assert pseudo_texts(check_section(Inputs, inputs, "inputs"), section) is None
    assert pseudo_texts(of_target, dataclasses.replace(section, mode="restyle")) is None
    described = {row["uid"]: row["captions"] for t in iter_tables(SAID) for row in t.to_pylist()}
    items = [
        item
        for shard in read_manifest(IMAGES_OF).shards
        for item in plan_rows(told_shard(IMAGES_OF, SAID, shard.name).to_pylist(), section)
    ]
    assert all("crimson" not in item.prompt for item in items)
    made = [item for item in items if item.refusal is None]
    assert {item.uid.rpartition(".")[0] for item in made} == {u for u, c in described.items() if c}
    assert {str(item.refusal).split(":")[0] for item in items if item.refusal} == {
        "other-split", "truncated",
    }  # fmt: skip


def test_a_side_table_of_other_pictures_is_refused(project: Project) -> None:
    project.run()
    table = pa.concat_tables(list(iter_tables(IMAGES_OF))[1:])
    write_folder(project.folder / IMAGES_OF, [table], "images", shard_rows=20)
    with pytest.raises(PedAlignError, match="side"):
        check_captions(IMAGES_OF, SAID)


def test_adapt_by_no_method_leaves_a_note_that_restyle_refuses(project: Project) -> None:
    project.params["adapt"]["method"] = "none"
    project.write()
    adapt_stage.adapt.fn()
    (note,) = adapt_stage.OUT.iterdir()
    assert json.loads(note.read_bytes())["method"] == "none"
    inputs = project.params["inputs"]
    with pytest.raises(PedAlignError, match=r"adapt\.method") as raised:
        adapter(check_section(Inputs, inputs, "inputs"))
    assert "data/nothing" in raised.value.remedy
    assert adapter(check_section(Inputs, inputs | {"dad": "data/nothing"}, "inputs")) is None
    section = read_section(AdaptParams, "adapt")
    with pytest.raises(PedAlignError, match="is none"):
        train_dad(IMAGES_OF, read_section(DiffusionParams, "diffusion"), section, Path("run"))

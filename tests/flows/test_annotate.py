"""The stage `annotate` in miniature: its flow and the store, drawn people, tiny detectors.

Prefect's hand is replaced by a plain call that counts, so no server starts and a test sees which
shards are computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from ruamel.yaml import YAML

import flows.shards
from flows import annotate as stage
from flows.shards import have_shard
from tasks.augment import Recipe
from tasks.batches import PairDataset, Preparation, read_pairs
from tasks.errors import PedAlignError
from tasks.images import encode_jpeg
from tasks.provenance import ROOT
from tasks.schemas import CAPTIONED, IMAGES
from tasks.shards import image_uid, iter_tables, read_manifest, write_folder
from tasks.tokens import Masking, Words, load_tokenizer
from tasks.world.batches import sample_batch
from tests.detectors import save_grounding_dino, save_owlv2

SAID = ["a man with a red shirt, blue jeans and a bag", "the woman wears a black coat",
        "a man in a black coat carrying a bag", "", "a hat in her left hand"]  # fmt: skip
GOES_ON = [True, True, True, True, False]


class Call:
    """What a submitted shard comes to."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def result(self) -> Any:
        return self.function()


class Killed(BaseException):
    """As abrupt as a signal, as far as the flow can see."""


class Project:
    """A project's folder with a restyled, captioned set of 20 pictures in four shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params = YAML(typ="safe").load(ROOT / "profiles" / "micro.yaml")
        self.computed: list[str] = []
        self.lives = 99
        drawn = sample_batch(np.random.default_rng(0), 20, look="random", size=(96, 48))
        rows: list[dict[str, Any]] = [
            {"uid": image_uid("s", str(n)), "dataset": "s", "split": "train", "person_id": None,
             "camera": None, "image": encode_jpeg(drawn[0][n]), "width": 48, "height": 96,
             "captions": [drawn[1][n]], "labels": None, "source_path": str(n),
             "parent_uid": None, "status": "ok", "error": None}
            for n in range(20)
        ]  # fmt: skip
        captions = [
            {"uid": row["uid"], "captions": [SAID[n % 5]] if SAID[n % 5] else [], "method": "m",
             "status": "ok" if GOES_ON[n % 5] else "rejected",
             "error": None if GOES_ON[n % 5] else "screened: grey"}
            for n, row in enumerate(rows)
        ]  # fmt: skip
        for name, table, schema in (("restyled", rows, IMAGES), ("captioned", captions, CAPTIONED)):
            made = pa.Table.from_pylist(sorted(table, key=lambda row: row["uid"]), schema=schema)
            write_folder(folder / "data" / name, [made],
                         {"restyled": "images"}.get(name, name), shard_rows=6)  # fmt: skip
        self.rows = rows
        self.teach(["a man in a red shirt", "a man and a bag"])

    def teach(self, train: list[str], test: str = "a skirt") -> None:
        """Give the target captions."""
        said = [("train", text) for text in train] + [("test", test)] * 3
        rows: list[dict[str, Any]] = [
            {**row, "uid": image_uid("t", str(n)), "captions": [text], "image": None,
             "split": split}
            for n, (row, (split, text)) in enumerate(zip(self.rows, said, strict=False))
        ]  # fmt: skip
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["uid"]), schema=IMAGES)
        write_folder(self.folder / "data/ingested/target", [table], "images", shard_rows=2)

    def submit(self, job: Any, work: Any, store: Any, place: Any) -> Call:
        def have() -> Any:
            if store.find(job.key) is None:
                if len(self.computed) == self.lives:
                    raise Killed
                self.computed.append(job.name)
            return have_shard(job, work, store, place)

        return Call(have)

    def run(self, **changes: Any) -> list[dict[str, Any]]:
        """Run the stage; return its rows."""
        self.params["annotate"] |= changes
        if self.params["annotate"]["phrases"] == "words":
            self.params["inputs"]["words"] = "data/ingested/target"
        with (self.folder / "params.yaml").open("w") as sink:
            YAML().dump(self.params, sink)
        self.computed.clear()
        stage.annotate.fn()
        return [row for table in iter_tables(stage.OUT) for row in table.to_pylist()]

    def batch(self) -> tuple[list[str], dict[str, Any]]:
        """The phrases that pretraining reads from the annotations, and a batch of it."""
        pairs, pictures = read_pairs(Path("data/restyled"), stage.OUT, split=None, identity="image")
        tokenizer = load_tokenizer(str(ROOT / "models/tiny/bert"))
        recipe = Recipe(size=(96, 48), stride=8, crop=True, padding=2, flip=0.5, erasing=0.0)
        make = Preparation(
            image=recipe, words=Words(tokenizer, 16), masking=Masking(), seed=0, regions=True
        )
        rows = np.flatnonzero(np.diff(pairs.first))
        batch = PairDataset(pairs, pictures, make).__getitems__([(0, int(row)) for row in rows])
        spoken = tokenizer.batch_decode(batch["region_ids"], skip_special_tokens=True)
        return spoken, batch


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    made = Project(tmp_path)
    monkeypatch.setattr(flows.shards, "_shard", made)
    return made


def meta() -> Any:
    return read_manifest(stage.OUT).meta


def check_rows(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 20
    assert sorted({str(row["error"]).split(":")[0] for row in rows}) == [
        "None", "no-caption", "screened",
    ]  # fmt: skip
    for row in rows:
        for phrase in row["phrases"]:
            if phrase["start"] >= 0:
                assert row["caption"][phrase["start"] : phrase["end"]] == phrase["text"]
        assert all(r["phrase"] < len(row["phrases"]) for r in row["regions"] + row["rejected"])
    assert any(row["regions"] for row in rows)


def test_phrases_of_the_parser(project: Project) -> None:
    rows = project.run()
    check_rows(rows)
    assert len(project.computed) == len(read_manifest(stage.OUT).shards) >= 4
    read = {"phrases": "parser", "proposer": "embedded", "flips": False, "box_threshold": 0.35}
    assert meta()["params"].items() >= read.items()
    assert set(meta()["revisions"]) == {"parser"}
    texts = {p["text"] for row in rows for p in row["phrases"]}
    assert {"a red shirt", "blue jeans", "a black coat"} <= texts
    # What this section does not read makes no shard anew; what it reads does.
    before = {path.name: path.read_bytes() for path in stage.OUT.iterdir()}
    project.run(words=7, precision="bf16", text_threshold=0.9)
    assert project.computed == []
    assert {path.name: path.read_bytes() for path in stage.OUT.iterdir()} == before
    flipped = project.run(flips=True)
    assert len(project.computed) == len(read_manifest(stage.OUT).shards)
    check_rows(flipped)
    again = [len(r["regions"]) + len(r["rejected"]) for r in flipped]
    assert sum(again) > sum(len(r["regions"]) + len(r["rejected"]) for r in rows)


def test_words_of_the_targets_train_captions(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = project.run(phrases="words", words=2, flips=True, box_threshold=0.05)
    check_rows(rows)
    # man 2; bag and shirt 1 each: the alphabet.
    assert meta()["words"] == [
        {"word": "man", "group": "person", "count": 2},
        {"word": "bag", "group": "carried", "count": 1},
    ]  # fmt: skip
    assert {p["text"] for row in rows for p in row["phrases"]} <= {"man", "bag"}
    assert {(p["start"], p["end"]) for row in rows for p in row["phrases"]} == {(-1, -1)}
    spoken, batch = project.batch()
    assert set(spoken) <= {"man", "bag"}
    assert len(spoken) == len(batch["image"]) == len(batch["phrase_id"]) > 0
    assert (batch["patch_mask"].sum(1) > 0).all()
    # The same word is the same phrase, whatever the picture.
    assert len(set(batch["phrase_id"].tolist())) == len(set(spoken))
    # They are not counted again unless the target has changed.
    with monkeypatch.context() as patch:
        patch.setattr(stage, "frequent_words", None)
        project.run()
    project.teach(["a man in a red shirt", "a man and a bag"], test="a coat and a coat")
    project.run()
    assert project.computed == []
    project.teach(["a man in a red coat", "a man and a coat"])
    project.run()
    assert len(project.computed) == len(read_manifest(stage.OUT).shards)
    assert [word["word"] for word in meta()["words"]] == ["coat", "man"]


@pytest.mark.parametrize("flips", [False, True])
def test_phrases_of_the_detector(project: Project, flips: bool) -> None:
    folder = project.folder / "dino"
    save_grounding_dino(folder)
    rows = project.run(
        phrases="detector", proposer=str(folder), flips=flips, box_threshold=0.0,
        precision="bf16" if flips else "fp32",
        text_threshold=0.0, batch=4,
    )  # fmt: skip
    check_rows(rows)
    assert set(meta()["revisions"]) == {"parser", "proposer"}
    assert all(p["start"] >= 0 for row in rows for p in row["phrases"])
    spoken, batch = project.batch()
    assert len(spoken) == len(batch["image"]) > 0


def test_what_cannot_be_is_refused_at_the_start(project: Project) -> None:
    with pytest.raises(PedAlignError, match="is 'detector'"):
        project.run(phrases="detector")
    save_owlv2(project.folder / "owl")
    with pytest.raises(PedAlignError, match="owl"):
        project.run(proposer=str(project.folder / "owl"))
    project.params["inputs"] |= {"words": "data/nothing"}
    project.params["annotate"] |= {"phrases": "words", "proposer": "embedded"}
    with (project.folder / "params.yaml").open("w") as sink:
        YAML().dump(project.params, sink)
    with pytest.raises(PedAlignError, match=r"inputs\.words"):
        stage.annotate.fn()
    assert project.computed == []


def test_a_killed_run_goes_on_with_the_missing_shards_alone(project: Project) -> None:
    whole = project.run()
    names = list(project.computed)
    files = {path.name: path.read_bytes() for path in stage.OUT.iterdir()}
    project.lives = 2
    with pytest.raises(Killed):
        project.run(same_box_iou=0.8)
    assert project.computed == names[:2]
    # What was published stays what it was, until the next run is through.
    assert {path.name: path.read_bytes() for path in stage.OUT.iterdir()} == files
    project.lives = 99
    project.run()
    assert project.computed == names[2:]
    assert project.run(same_box_iou=0.9) == whole
    assert {path.name: path.read_bytes() for path in stage.OUT.iterdir()} == files
    assert json.loads(files["manifest.json"])["rows"] == 20

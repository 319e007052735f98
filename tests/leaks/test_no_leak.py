"""Nobody of the test split reaches a training, or the choice of the weights that it keeps.

The target is written again with every test picture, caption and identity replaced, and once more
without the test rows. What is computed on the way to the weights that fine-tuning keeps has to be
the same to the byte. Planted leaks show that the comparison sees one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from tasks.adapt import samples
from tasks.batches import read_pairs
from tasks.images import encode_jpeg
from tasks.provenance import ROOT
from tasks.reid.people import read_people
from tasks.selection import BY_TEST, plan_selection
from tasks.shards import iter_tables
from tests.leaks.road import Change, Files, Road, Row, ingest, put

SECRET = "a martian in a crimson cardigan with a parrot"
STAGES = (
    "pairs", "adapt", "judge", "words", "generate", "restyle", "annotate", "pretrain", "finetune",
    "reid",
)  # fmt: skip


def replaced(row: Row) -> Row:
    """The row with a picture of somebody else, of whom something else is said."""
    noise = np.random.default_rng(int(row["uid"], 16)).integers(0, 256, (80, 40, 3), dtype=np.uint8)
    seen = {"image": encode_jpeg(noise), "height": 80, "width": 40, "captions": [SECRET]}
    return row | seen | {"person_id": f"nowhere/{row['uid']}", "camera": "cam9"}


def as_it_is(row: Row) -> Row:
    """The target as it was ingested."""
    return row


def other_test(row: Row) -> Row:
    """Others are tested."""
    return replaced(row) if row["split"] == "test" else row


def other_pictures(row: Row) -> Row:
    """The same people are tested, on other pictures."""
    kept = {name: row[name] for name in ("person_id", "camera")}
    return replaced(row) | kept if row["split"] == "test" else row


def no_test(row: Row) -> Row | None:
    """Nobody is tested."""
    return None if row["split"] == "test" else row


class Worlds:
    """A source and a target, and what a profile's stages make of any change of the target."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ingest(folder)
        (folder / "target").rename(folder / "plain")

    def road(self, change: Change, profile: str = "micro") -> Road:
        """Write the target anew and open a profile's stages on it."""
        put(self.folder / "plain", self.folder / "target", change)
        return Road(self.folder, profile)

    def rows(self) -> list[Row]:
        """The target's rows as they were ingested."""
        return [row for table in iter_tables(self.folder / "plain") for row in table.to_pylist()]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    with pytest.MonkeyPatch.context() as patch:
        # Two steps a sample instead of twelve: the sheet is no result.
        patch.setattr(samples, "SAMPLING", dataclasses.replace(samples.SAMPLING, steps=2))
        yield Worlds(tmp_path_factory.mktemp("leaks"))


@pytest.fixture(scope="module")
def plain(worlds: Worlds) -> Files:
    """What profile ``micro`` makes of the target as it is."""
    return worlds.road(as_it_is).run()


def differing(one: Files, other: Files) -> list[str]:
    assert one.keys() == other.keys()
    return sorted(name for name in one if one[name] != other[name])


def without_test(value: Any) -> Any:
    """A record without what its keys ``test`` hold."""
    if isinstance(value, list):
        return [without_test(each) for each in value]
    if isinstance(value, dict):
        return {name: without_test(each) for name, each in value.items() if name != "test"}
    return value


def stages_of(names: list[str]) -> set[str]:
    return {name.split("/")[0] for name in names}


# ------------------------------------------------------------------ the proof


@pytest.mark.slow
@pytest.mark.parametrize("change", [other_test, no_test])
def test_nothing_of_the_test_split_reaches_a_training_or_the_choice(
    worlds: Worlds, plain: Files, change: Change
) -> None:
    found = worlds.road(change).run()
    assert differing(plain, found) == []
    assert stages_of(list(plain)) == set(STAGES)
    for content in found.values():
        assert SECRET.encode() not in content
        assert b"nowhere/" not in content


@pytest.mark.slow
def test_the_dual_road_and_the_test_choice_beside_it(worlds: Worlds) -> None:
    """Where a second copy is kept by test's choice, the first knows nothing of it."""
    road = worlds.road(as_it_is, "unipt")
    assert road.finetune.keep_test_choice
    road.run("restyle", "pretrain")
    first, second = (
        worlds.road(change, "unipt").run("finetune") for change in (as_it_is, other_test)
    )
    # The record of the first also says what each epoch had on test.
    told, beside = "finetune/training.json", f"finetune/{BY_TEST}/"
    apart = [name for name in differing(first, second) if not name.startswith(beside)]
    assert apart == [told]
    records = [json.loads(files[told]) for files in (first, second)]
    assert [record["chosen_on"] for record in records] == ["val", "val"]
    assert without_test(records[0]) == without_test(records[1])


# ------------------------------------------------------------------ planted leaks


class Every(str):
    """Equal to any split."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "split"),
    [
        ("pairs", "tasks.pairs.TRAIN"),
        ("judge", "tasks.judge.lessons.TRAIN"),
        ("words", "tasks.annotate.words.TRAIN"),
        ("generate", "tasks.restyle.prompts.TRAIN"),
    ],
)
def test_a_stage_without_its_filter_is_caught(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch, stage: str, split: str
) -> None:
    monkeypatch.setattr(split, Every("train"))
    found = [worlds.road(change).run(stage) for change in (as_it_is, other_test)]
    assert differing(*found)


@pytest.mark.slow
def test_a_training_or_a_choice_by_test_people_is_caught(
    worlds: Worlds, plain: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plain  # whose pretraining fine-tuning starts from
    train = dataclasses.replace(worlds.road(as_it_is).finetune.training, epochs=1)

    def tune(change: Change, **changes: Any) -> Files:
        return worlds.road(change).run_finetune(training=train, **changes)

    chosen = [tune(change, select="test") for change in (as_it_is, other_test)]
    # Of one epoch there is one choice; what it was chosen by is told.
    assert "training.json" in differing(*chosen)
    assert "model.safetensors" not in differing(*chosen)

    def careless(*args: Any, split: str | None, **more: Any) -> Any:
        return read_pairs(*args, split=None, **more)

    monkeypatch.setattr("tasks.finetune.run.read_pairs", careless)
    trained = [tune(change) for change in (as_it_is, other_test)]
    assert "model.safetensors" in differing(*trained)


@pytest.mark.slow
@pytest.mark.parametrize("read", ["train", "val"])
def test_pictures_of_test_people_in_re_identification_are_caught(
    worlds: Worlds, plain: Files, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    def careless(images: Path, split: str, **more: Any) -> Any:
        return read_people(images, "test" if split == read else split, **more)

    monkeypatch.setattr("tasks.reid.run.read_people", careless)
    # Nobody could be chosen by, if each picture were of a person of its own.
    first, second = (worlds.road(change).run("reid") for change in (as_it_is, other_pictures))
    # Trained on them, other weights; chosen by them, the record says so.
    file = "model.safetensors" if read == "train" else "training.json"
    assert f"reid/{file}" in differing(first, second)


@pytest.mark.slow
def test_a_pretraining_on_the_target_leaves_its_test_people_out(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever names the target for ``inputs.restyle`` pretrains on its train split alone."""

    def pretrained(change: Change) -> Files:
        road = worlds.road(change, "unipt")
        assert road.restyle.mode == "none"
        road.source = road.target
        road.run("restyle")
        return road.run("pretrain")

    first, second = pretrained(as_it_is), pretrained(other_test)
    assert differing(first, second) == []
    monkeypatch.setattr("tasks.pretrain.run.TRAIN", None)  # every split
    assert pretrained(other_test) != first


# ------------------------------------------------------------------ identities, and who reads


def test_nobody_stands_in_two_splits(worlds: Worlds) -> None:
    people: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for row in worlds.rows():
        assert row["person_id"]
        people[row["split"]].add(row["person_id"])
    assert all(people.values())
    assert not people["test"] & (people["train"] | people["val"])
    assert not people["train"] & people["val"]
    # Those who train and those who choose, as fine-tuning reads them.
    target = worlds.road(as_it_is).target
    selection = plan_selection(target, "val", 0.0, keep_test_choice=False)
    trains, _ = read_pairs(target, split="train", identity="person", people=selection.trains)
    chooses, _ = selection.read(target, "val")
    assert set(trains.names.to_pylist()) == people["train"]
    assert set(chooses.names.to_pylist()) == people["val"]
    # Of a set without a val split a share of the train people is held out.
    bare = worlds.road(lambda row: row if row["split"] != "val" else None).target
    selection = plan_selection(bare, "val", 0.3, keep_test_choice=False)
    trains, _ = read_pairs(bare, split="train", identity="person", people=selection.trains)
    held, _ = selection.read(bare, "held-out")
    names = [set(pairs.names.to_pylist()) for pairs in (trains, held)]
    assert names[0] | names[1] == people["train"]
    assert not names[0] & names[1]


READERS = {
    # Proved above, stage by stage.
    "adapt": "learns from train rows",
    "gap": "its judge learns from train rows; its figures are of held-out ones, and train nothing",
    "finetune": "trains on train rows, chooses by val rows",
    "restyle": "mode generate: prompts are train captions; pretraining takes train rows",
    "annotate": "phrases words: nouns of train captions",
    "pretrain": "takes train rows",
    # tests/flows/test_describe.py proves it.
    "describe": "says nothing of splits that are not asked for; trainings read train rows",
    # These test.
    "evaluate": "ranks test rows",
    "reid": "trains on train rows, chooses by val rows, ranks test rows",
    "report": "shows what was found",
}
"""Stages that read a dataset's pictures or captions, and why that is no leak."""


def _read_by(stage: dict[str, Any], value: Callable[[str], str]) -> set[str]:
    body = stage.get("do", stage)
    deps = [dep if isinstance(dep, str) else next(iter(dep)) for dep in body["deps"]]
    return {value(dep) for dep in deps}


@pytest.mark.parametrize("profile", sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml")))
def test_no_other_stage_reads_what_is_tested_on(profile: str) -> None:
    yaml = YAML(typ="safe", pure=True)
    stages = yaml.load((ROOT / "dvc.yaml").read_text())["stages"]
    params = yaml.load((ROOT / "profiles" / f"{profile}.yaml").read_text())
    tested = {run["images"] for run in (params["evaluate"]["runs"] or {}).values()}
    tested |= {entry["images"] for entry in (params["reid"]["datasets"] or {}).values()}

    def value(dep: str) -> str:
        if dep.startswith("${inputs."):
            return str(params["inputs"][dep.removeprefix("${inputs.").removesuffix("}")])
        return dep

    for name, stage in stages.items():
        read = _read_by(stage, value)
        # An entry of a stage that runs for several datasets names its own.
        opens = read & (tested | {"data/ingested", "${item.images}"})
        assert not opens or name in READERS, f"{name} reads {opens}: prove that it does not leak"
    assert params["inputs"]["pretrain_images"] not in tested
    for name, section in (params["finetune"]["datasets"] or {}).items():
        by_test = section["select"] == "test"
        assert not by_test or {"test", "published"} & set(name.split("-")), (
            f"finetune.datasets.{name} is chosen on test, and its name does not say so"
        )

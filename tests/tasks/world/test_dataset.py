import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.errors import PedAlignError
from tasks.world.attributes import belongs_to_target
from tasks.world.batches import sample_batch
from tasks.world.dataset import (
    SOURCE_JSON,
    TARGET_JSON,
    TRUTH,
    TRUTH_SCHEMA,
    source_item,
    target_item,
    unlabelled_item,
    video_look,
    write_source,
    write_target,
    write_unlabelled,
)
from tasks.world.looks import MARGIN, TARGET_CAMERAS, distance_to_target
from tasks.world.people import residents


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    root = tmp_path_factory.mktemp("target")
    write_target(root, people=20, images_per_person=4, seed=3)
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source")
    write_source(root, images=30, seed=3)
    return root


def fingerprint(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def test_the_target_is_in_the_official_layout(target):
    entries = json.loads((target / TARGET_JSON).read_text())
    assert len(entries) == 80
    for e in entries:
        assert set(e) == {"split", "captions", "file_path", "processed_tokens", "id"}
        assert e["split"] in ("train", "val", "test")
        assert len(e["captions"]) == 2
        assert e["captions"][0] != e["captions"][1]
        assert len(e["processed_tokens"]) == 2
        assert all(isinstance(w, str) for tokens in e["processed_tokens"] for w in tokens)
        with Image.open(target / "imgs" / e["file_path"]) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (96, 192), "RGB")
    assert {e["id"] for e in entries} == set(range(1, 21)), "identities count from 1"
    cameras = {c.name for c in TARGET_CAMERAS}
    for identity in range(1, 21):
        own = [e["file_path"].split("/")[0] for e in entries if e["id"] == identity]
        assert len(set(own)) == 4, "a person is seen by another camera each time"
        assert set(own) <= cameras


def test_splits_share_no_person_and_train_comes_first(target):
    entries = json.loads((target / TARGET_JSON).read_text())
    ids = {s: {e["id"] for e in entries if e["split"] == s} for s in ("train", "val", "test")}
    assert all(ids.values())
    assert sum(map(len, ids.values())) == 20
    assert max(ids["train"]) < min(ids["val"])
    assert max(ids["val"]) < min(ids["test"])


def test_the_source_is_in_the_layout_of_mals(source):
    entries = json.loads((source / SOURCE_JSON).read_text())
    assert len(entries) == 30
    for e in entries:
        assert set(e) == {"image", "caption", "image_id", "label"}
        assert len(e["label"]) == 27
        assert set(e["label"]) <= {-1, 0, 1}
        assert (source / e["image"]).is_file()
    assert len({e["image_id"] for e in entries}) == 30


@pytest.mark.parametrize("which", ["source", "target"])
def test_the_truth_lies_beside_and_names_every_image(which, request):
    root = request.getfixturevalue(which)
    table = pq.read_table(root / TRUTH)
    assert table.schema.equals(TRUTH_SCHEMA)
    assert all(field.metadata[b"meaning"] for field in table.schema)
    assert all((root / path).is_file() for path in table["source_path"].to_pylist())
    assert len(set(table["source_path"].to_pylist())) == table.num_rows
    for row in table.to_pylist():
        assert row["box_person"] is not None
        assert (row["box_bag"] is None) or row["bag"] != "none"
        assert len(row["keypoints"]) == 51


def test_nothing_of_the_truth_is_in_the_annotations(target):
    text = (target / TARGET_JSON).read_text()
    assert "upper_colour" not in text
    assert "box" not in json.loads(text)[0]


def test_the_same_seed_gives_the_same_bytes(target, source, tmp_path):
    write_target(tmp_path / "t", people=20, images_per_person=4, seed=3)
    write_source(tmp_path / "s", images=30, seed=3)
    assert fingerprint(tmp_path / "t") == fingerprint(target)
    assert fingerprint(tmp_path / "s") == fingerprint(source)


def test_an_image_does_not_depend_on_the_others(source, target, tmp_path):
    """A longer source begins with the shorter one; one item alone is the same as in a run."""
    write_source(tmp_path, images=10, seed=3)
    short, long = fingerprint(tmp_path), fingerprint(source)
    assert all(long[name] == digest for name, digest in short.items() if name.endswith(".jpg"))
    entries = json.loads((target / TARGET_JSON).read_text())
    drawing, camera, captions = target_item(residents(20, seed=3)[6], shot=2, seed=3)
    entry = next(e for e in entries if e["file_path"] == f"{camera}/00007_2.jpg")
    assert entry["captions"] == captions
    with Image.open(target / "imgs" / entry["file_path"]) as image:
        assert np.abs(np.asarray(image).astype(int) - drawing.pixels).mean() < 6  # JPEG only


def test_a_split_has_its_own_numbers_of_people_images_and_captions(target, tmp_path):
    people, images = {"train": 4, "val": 1, "test": 7}, {"train": 3, "val": 1, "test": 2}
    write_target(tmp_path, people, images, seed=3, captions={"train": 2, "test": 1})
    entries = json.loads((tmp_path / TARGET_JSON).read_text())
    for split, captions in (("train", 2), ("val", 0), ("test", 1)):
        mine = [e for e in entries if e["split"] == split]
        assert len(mine) == people[split] * images[split]
        assert len({e["id"] for e in mine}) == people[split]
        assert {len(e["captions"]) for e in mine} == {captions}
    one, two = (target_item(residents(people, 3)[0], 0, 3, captions=n)[2] for n in (1, 2))
    assert one == two[:1], "the first caption does not depend on how many there are"


def test_no_two_people_are_identical_yet_many_are_alike():
    people = residents(280, seed=0)
    assert len({tuple(r.person.labels().values()) for r in people}) == 280
    counts = {s: sum(r.split == s for r in people) for s in ("train", "val", "test")}
    assert counts["train"] >= 195
    assert counts["val"] >= 20
    assert counts["test"] >= 50
    tests = [r.person for r in people if r.split == "test"]
    colours = [(p.upper_colour, p.lower_colour) for p in tests]
    alike = np.mean([colours.count(c) > 1 for c in colours])
    assert 0.4 < alike < 0.95, "colours alone decide some queries and not others"


def test_every_person_of_the_target_is_reserved_and_none_of_the_source():
    assert all(belongs_to_target(r.person) for r in residents(60, seed=5))
    assert not any(belongs_to_target(source_item(i, seed=5)[0]) for i in range(20))


def test_training_batches_never_show_the_target():
    rng = np.random.default_rng(0)
    pixels, captions, people, drawings = sample_batch(rng, 12, "mixed", (96, 48))
    assert pixels.shape == (12, 96, 48, 3)
    assert len(captions) == len(people) == len(drawings) == 12
    assert not any(map(belongs_to_target, people))
    again = sample_batch(np.random.default_rng(0), 12, "mixed", (96, 48))
    np.testing.assert_array_equal(pixels, again[0])
    assert captions == again[1]
    with pytest.raises(ValueError, match="never see the target"):
        sample_batch(rng, 1, "target", (96, 48))


def test_impossible_sizes_are_errors(tmp_path):
    with pytest.raises(PedAlignError, match="0 images"):
        write_source(tmp_path, images=0, seed=0)
    with pytest.raises(PedAlignError, match="3 people"):
        write_target(tmp_path, people=3, images_per_person=4, seed=0)


def test_nobody_unlabelled_is_met_elsewhere():
    """The target's people are reserved by a hash; the source's come from other numbers."""
    shown = [unlabelled_item(passer, 0, seed=0) for passer in range(40)]
    assert not any(belongs_to_target(person) for person, _, _ in shown)
    source = {tuple(source_item(index, seed=0)[0].labels().values()) for index in range(40)}
    assert source.isdisjoint(tuple(person.labels().values()) for person, _, _ in shown)


def test_unlabelled_videos_have_looks_of_their_own_far_from_the_targets():
    looks = [video_look(video, seed=0) for video in range(30)]
    assert len({look.name for look in looks}) == 30
    assert all(distance_to_target(look) >= MARGIN for look in looks)
    assert not {place for look in looks for place in look.places} & {
        place for camera in TARGET_CAMERAS for place in camera.places
    }
    spread = np.std([look.vector() for look in looks], axis=0)
    assert (spread > 0.15).all(), "every number of a look varies from video to video"
    assert unlabelled_item(0, 0, seed=0)[1] == unlabelled_item(3, 1, seed=0)[1] == looks[0]


def test_an_unlabelled_folder_is_pictures_and_the_truth_beside(tmp_path):
    write_unlabelled(tmp_path, people=6, images_per_person=2, seed=3)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert files - {TRUTH} == {
        *(f"train/video_00000/{number:06d}.jpg" for number in range(8)),
        *(f"train/video_00001/{number:06d}.jpg" for number in range(4)),
    }
    assert pq.read_table(tmp_path / TRUTH).schema.equals(TRUTH_SCHEMA)
    once = fingerprint(tmp_path)
    write_unlabelled(tmp_path / "again", people=6, images_per_person=2, seed=3)
    assert fingerprint(tmp_path / "again") == once
    with pytest.raises(PedAlignError, match="0 people"):
        write_unlabelled(tmp_path, people=0, images_per_person=2, seed=3)

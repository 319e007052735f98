"""Stage `caption` with method `clip_attributes`, run by DVC on a handful of pictures.

Nothing is rebuilt: the tables that the stage reads are written here.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.caption.shares import TextCounting
from tasks.caption.vocabulary import REQUIRED, SHIPPED, read_vocabulary
from tasks.images import encode_jpeg
from tasks.schemas import RESTYLED, SCREENED
from tasks.shards import iter_tables, write_folder
from tests.encoders import save_spelling_clip
from tests.projects import ROOT, Project

pytestmark = [pytest.mark.dvc, pytest.mark.slow, pytest.mark.timeout(600)]

CLIP, OWN = "data/weights/clip", "own.yaml"
PICTURES, SHARD, REFUSED = 12, 4, 3
"""Of the pictures, how many a shard has, and which one screening refused."""


def write_tables(project: Project) -> None:
    """Pictures of noise as `restyle` and `screen` would leave them."""
    rng = np.random.default_rng(0)
    uids = [f"{at:016x}.r0" for at in range(PICTURES)]
    images = [
        {"uid": uid, "dataset": "source", "split": "train", "source_path": uid, "status": "ok",
         "captions": ["somebody"], "width": 16, "height": 32,
         "image": encode_jpeg(rng.integers(0, 256, (32, 16, 3), dtype=np.uint8))}
        for uid in uids
    ]  # fmt: skip
    decisions = [
        {"uid": uid, "keep": at != REFUSED, "status": "ok" if at != REFUSED else "rejected",
         "error": None if at != REFUSED else "screened: grey"}
        for at, uid in enumerate(uids)
    ]  # fmt: skip
    for name, schema, rows in (("restyled", RESTYLED, images), ("screened", SCREENED, decisions)):
        # What this stage does not read, but every row has.
        unread = {f.name: "" if f.type == pa.string() else 0 for f in schema if not f.nullable}
        table = pa.Table.from_pylist([unread | row for row in rows], schema)
        write_folder(project.folder / "data" / name, [table], name, shard_rows=SHARD)


@pytest.fixture(scope="module")
def project(prefect_server: int, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Captions by attributes of a random CLIP, with the words in an own file."""
    project = Project(tmp_path_factory.mktemp("pseudo") / "project")
    project.create(prefect_server)
    write_tables(project)
    save_spelling_clip(project.folder / CLIP)
    (project.folder / OWN).write_bytes((ROOT / SHIPPED).read_bytes())
    for key, value in {
        "inputs.captioner": CLIP,
        "inputs.attributes": OWN,
        "caption.method": "clip_attributes",
        "caption.captions": 2,
        "caption.clip_attributes.model": CLIP,
        "caption.clip_attributes.attributes": OWN,
        # Random weights are sure of nothing.
        "caption.clip_attributes.threshold": 0.3,
    }.items():
        project.set(key, value)
    assert project.repro("-s", "caption") == ["caption"]
    return project


def rows(project: Project) -> list[dict[str, Any]]:
    whole = pa.concat_tables(iter_tables(project.folder / "data/captioned"))
    found: list[dict[str, Any]] = whole.to_pylist()
    return found


def test_every_usable_picture_has_captions_and_says_why(project: Project) -> None:
    words = read_vocabulary(project.folder / OWN)
    found = rows(project)
    usable = [row for row in found if row["status"] == "ok"]
    assert len(usable) == PICTURES - 1
    assert [row["captions"] for row in found if row["status"] != "ok"] == [[]]
    for row in usable:
        assert len(row["captions"]) == len(set(row["templates"])) == 2
        seen = {each["attribute"]: each["value"] for each in row["attributes"]}
        assert list(seen)[: len(REQUIRED)] == list(REQUIRED)
        assert all(words.find(name, value) for name, value in seen.items())
        assert all(0 < each["score"] <= 1 for each in row["attributes"])
    counted = TextCounting()
    for table in iter_tables(project.folder / "data/captioned", TextCounting.columns):
        counted.add(table)
    assert counted.figures().pictures == len(usable)


def test_the_words_and_the_weights_are_watched(project: Project) -> None:
    before, shards = rows(project), project.computed("caption")[1]
    # Another method's part of the section is nothing to this one: DVC looks, nothing is computed.
    project.set("caption.captioner.max_new_tokens", 7)
    assert project.repro("-s", "caption") == ["caption"]
    assert project.computed("caption") == (0, shards)
    assert rows(project) == before
    # Of other words every shard is made again; the pictures show what they showed.
    for old, new in {
        "[man, male, gentleman, guy, fellow]": "[chap]", "[woman, female, lady]": "[lass]",
        "{man: [boy, kid], woman: [girl, kid]}": "{man: [chap], woman: [lass]}",
        "{man: [boy], woman: [girl]}": "{woman: [lass], man: [chap]}",
    }.items():  # fmt: skip
        project.edit(OWN, old, new)
    assert project.repro("-s", "caption") == ["caption"]
    assert project.computed("caption") == (shards, shards)
    after = rows(project)
    assert [row["attributes"] for row in after] == [row["attributes"] for row in before]
    assert [row["templates"] for row in after] == [row["templates"] for row in before]
    said = [caption for row in after for caption in row["captions"]]
    assert said
    assert all("chap" in caption or "lass" in caption for caption in said)


def test_a_wrong_file_stops_the_stage_and_says_so(project: Project) -> None:
    project.edit(OWN, "      helmet:\n", "      Helmet:\n")
    with pytest.raises(AssertionError, match=r"attributes\.hat\.values\.Helmet"):
        project.repro("-s", "caption")
    project.edit(OWN, "      Helmet:\n", "      helmet:\n")

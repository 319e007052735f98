"""Stage `caption` with method `clip_attributes`, run by DVC on what the micro profile restyled."""

from typing import Any

import pyarrow as pa
import pytest

from tasks.caption.shares import TextCounting
from tasks.caption.vocabulary import REQUIRED, SHIPPED, read_vocabulary
from tasks.shards import iter_tables
from tests.projects import ROOT, Project
from tests.weights import save_spelling_clip

pytestmark = [pytest.mark.dvc, pytest.mark.slow, pytest.mark.timeout(1500)]

CLIP, OWN = "data/weights/clip", "own.yaml"


@pytest.fixture(scope="module")
def project(rebuilt: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy that captions by attributes, with a random CLIP and the words in an own file."""
    project = rebuilt.copy(tmp_path_factory.mktemp("pseudo") / "project")
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
    assert len(usable) > len(found) / 2 > 0
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

"""What captions name, on sentences worked out by hand and on the built-in world's truth."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import PedAlignError
from tasks.judge.naming import most_common, named_attributes, read_vocabulary
from tasks.world.attributes import sample_person
from tasks.world.captions import describe

FROM_WORLD = {"grey": "gray", "blond": "blonde"}


def one(*captions: str) -> dict[str, str]:
    return named_attributes([captions])[0]


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("a man in a scarlet tee", {"gender": "man", "upper colour": "red",
                                    "upper kind": "t-shirt"}),
        ("a white button up shirt", {"upper colour": "white", "upper kind": "shirt"}),
        ("navy denim pants", {"lower colour": "blue", "lower kind": "jeans"}),
        ("a mustard yellow knit cap", {"hat colour": "yellow", "hat kind": "beanie"}),
        ("long dark brown hair", {"hair colour": "brown", "hair length": "long"}),
        ("a red bag on her back", {"bag colour": "red", "bag kind": "backpack"}),
        ("a red bag in her hand", {"bag colour": "red", "bag kind": "handbag"}),
        ("a red bag. her back is turned", {"bag colour": "red"}),
        ("a pair of violet trianers", {"shoe colour": "purple", "shoe kind": "shoes"}),
        ("a person with a hat", {}),
        ("She wears a long-sleeved navy blouse, a knee-length floral skirt and brown sandals.",
         {"upper colour": "blue", "upper kind": "shirt", "lower kind": "skirt",
          "shoe colour": "brown", "shoe kind": "sandals"}),
        ("A boy in a grey suit and black dress shoes has a red rucksack over his shoulder.",
         {"gender": "man", "upper colour": "gray", "upper kind": "suit", "shoe colour": "black",
          "shoe kind": "shoes", "bag colour": "red", "bag kind": "backpack"}),
    ],
)  # fmt: skip
def test_one_name_for_many_wordings(caption, named):
    assert one(caption) == named


def test_silence_and_contradiction_name_nothing():
    assert one() == one("") == one("walking along") == {}
    # Two colours, two coats, two annotators who disagree.
    assert "upper colour" not in one("a black and white shirt")
    assert "upper colour" not in one("a black coat over a white shirt")
    assert "upper kind" not in one("a black coat over a white shirt")
    said = one("a woman in blue jeans", "a man in blue shorts")
    assert said == {"lower colour": "blue"}


def test_parts_of_a_garment_give_it_no_colour():
    assert one("a red shirt with black sleeves")["upper colour"] == "red"
    assert one("a green t-shirt with a white logo on the front")["upper colour"] == "green"


def test_captions_of_one_picture_complete_each_other():
    assert one("a man", "red shoes") == {"gender": "man", "shoe colour": "red",
                                         "shoe kind": "shoes"}  # fmt: skip


@pytest.mark.parametrize("style", ["source", "target"])
def test_every_value_named_is_true_of_the_person(style):
    """The world says of whom it speaks; its words and these wordings were written apart."""
    rng = np.random.default_rng(3)
    people = [sample_person(rng) for _ in range(250)]
    named = named_attributes([[describe(person, style, rng)] for person in people])
    keys = {"bag kind": "bag", "hat kind": "hat"}
    told = wrong = 0
    for person, own in zip(people, named, strict=True):
        labels = person.labels()
        for name, value in own.items():
            truth = labels[keys.get(name, name.replace(" ", "_"))]
            told += 1
            wrong += FROM_WORLD.get(truth, truth) != value
    assert told > 5 * len(people)
    assert wrong <= 0.002 * told  # a slip of the keyboard can hide "sleeved" or "hooded"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.text(max_size=60), max_size=3), max_size=5))
def test_any_text_is_read_and_the_order_of_captions_is_nothing(captions):
    found = named_attributes(captions)
    assert len(found) == len(captions)
    assert named_attributes([list(reversed(own)) for own in captions]) == found


def test_most_common_counts_and_breaks_ties_by_name():
    named = [{"a": "y"}, {"a": "x"}, {"a": "z", "b": "q"}, {"a": "z"}]
    assert most_common(named) == {"a": [("z", 2), ("x", 1), ("y", 1)], "b": [("q", 1)]}


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["things"][0].update(group="knee"),
        lambda body: body["things"][1].update(colour="hue"),
        lambda body: body["things"][0]["kinds"]["gender"]["man"].append("woman"),
        lambda body: body["things"][0].pop("place"),
        lambda body: body.pop("parts"),
    ],
)
def test_a_bad_file_of_wordings_says_what_is_wrong(tmp_path, change):
    from tasks.judge import naming

    body = json.loads(naming._TABLE.read_text(encoding="utf-8"))
    change(body)
    path = tmp_path / "kinds.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(PedAlignError, match=r"kinds\.json"):
        read_vocabulary(path)
    with pytest.raises(PedAlignError, match="No such file"):
        read_vocabulary(tmp_path / "none.json")


def test_an_edited_file_adds_a_wording(tmp_path):
    from tasks.judge import naming

    body = json.loads(naming._TABLE.read_text(encoding="utf-8"))
    upper = next(thing for thing in body["things"] if thing["name"] == "upper")
    upper["kinds"]["upper kind"]["apron"] = ["apron"]
    path = tmp_path / "kinds.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    assert named_attributes([["a white apron"]], vocabulary=read_vocabulary(path)) == [
        {"upper colour": "white", "upper kind": "apron"}
    ]
    assert one("a white apron") == {"upper colour": "white"}

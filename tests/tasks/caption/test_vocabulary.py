"""The file of attributes: multiplied out, with articles, and refused where it cannot be meant."""

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.caption.vocabulary import (
    ATTRIBUTES,
    OPTIONAL,
    REQUIRED,
    SHIPPED,
    Vocabulary,
    read_vocabulary,
    with_article,
)
from tasks.errors import PedAlignError
from tasks.provenance import ROOT

FILE = ROOT / SHIPPED


@pytest.fixture(scope="module")
def shipped() -> Vocabulary:
    return read_vocabulary(FILE)


def test_the_shipped_file_has_all_attributes(shipped: Vocabulary) -> None:
    assert tuple(shipped.values) == ATTRIBUTES == REQUIRED + OPTIONAL
    assert (len(REQUIRED), len(OPTIONAL)) == (6, 8)
    assert sum(shipped.sizes) == len(shipped.prompts) == len(set(shipped.prompts))
    # 11 colours x (4 patterns x 4 + 2 x 2 + 1 x 5 garments); 12x3 + 5x2x2 + 4 + 2.
    assert shipped.sizes[2:4] == (11 * 25, 36 + 20 + 4 + 2)


@pytest.mark.parametrize(
    ("attribute", "name", "prompt"),
    [
        ("upper clothes", "white pure color t-shirt",
         "A photo of a person wearing a white pure color t-shirt."),
        ("upper clothes", "black striped shirt",
         "A photo of a person wearing a black striped shirt."),
        ("upper clothes", "blue plaid wind coat",
         "A photo of a person wearing a blue plaid wind coat."),
        ("upper clothes", "orange pure color sportswear",
         "A photo of a person wearing orange pure color sportswear."),
        ("lower clothes", "white skirt", "A photo of a person wearing a white skirt."),
        ("lower clothes", "khaki shorts", "A photo of a person wearing khaki shorts."),
        ("lower clothes", "black long pants", "A photo of a person wearing black long pants."),
        ("bag", "single-shoulder bag", "A photo of a person carrying a single-shoulder bag."),
        ("bag", "no bag", "A photo of a person who does not carry a bag."),
        ("umbrella", "umbrella", "A photo of a person holding an umbrella."),
        ("glasses", "sunglasses", "A photo of a person wearing sunglasses."),
        ("gender", "man", "A photo of a man."),
        ("age", "elderly", "A photo of an elderly person."),
        ("age", "child", "A photo of a child."),
        ("action", "walking", "A photo of a person walking."),
        ("hair length", "short hair", "A photo of a person with short hair."),
    ],
)  # fmt: skip
def test_the_papers_examples_can_be_asked_for(
    shipped: Vocabulary, attribute: str, name: str, prompt: str
) -> None:
    assert shipped.find(attribute, name).prompt == prompt


def test_a_value_brings_its_phrases_and_statements(shipped: Vocabulary) -> None:
    pants = shipped.find("lower clothes", "grey long pants")
    assert {"grey long pants", "gray trousers", "a pair of grey slacks"} <= set(pants.phrases)
    assert len(pants.phrases) == len(set(pants.phrases)) == 2 * 4 * 2
    assert "trousers are grey" in pants.statements
    assert (pants.colour, pants.pattern, pants.garment) == ("grey", "plain", "long pants")
    shirt = shipped.find("upper clothes", "orange striped shirt")
    assert {"an orange striped shirt", "a striped orange top", "an orange stripe shirt"} <= set(
        shirt.phrases
    )
    assert "shirt is orange and striped" in shirt.statements
    wear = shipped.find("upper clothes", "red pure color sportswear")
    assert "plain red sportswear" in wear.phrases
    assert "sportswear is red" in wear.statements
    hair = shipped.find("hair length", "long hair")
    assert hair.phrases == ("long hair",)
    assert "hair is long" in hair.statements
    dress = shipped.find("upper clothes", "red pure color dress")
    assert dress.instead_of == {"lower clothes"}
    assert shipped.find("bag", "no bag").phrases == ()


@pytest.mark.parametrize(
    "words",
    [
        "an orange coat", "a yellow coat", "an umbrella", "a uniform", "a unisex coat", "an hour",
        "an unusual hat", "an unimportant hat", "a european hat", "a one-piece", "an onion",
        "a used bag", "an old man", "an electric scooter", "an honest man", "a ufo", "a house",
    ],
)  # fmt: skip
def test_articles_go_by_sound(words: str) -> None:
    article, _, rest = words.partition(" ")
    assert with_article(rest) == f"{article} {rest}"


# ------------------------------------------------------------------ wrong files

LOADED: dict[str, Any] = YAML(typ="safe", pure=True).load(FILE.read_text(encoding="utf-8"))


def changed(path: str, value: object) -> dict[str, Any]:
    """The shipped file with a value of another kind somewhere; None removes it."""
    loaded = copy.deepcopy(LOADED)
    *parents, last = path.split("/")
    at: Any = loaded
    for part in parents:
        at = at[int(part) if isinstance(at, list) else part]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return loaded


def read(loaded: dict[str, Any], folder: Path) -> Vocabulary:
    path = folder / "own.yaml"
    with path.open("w", encoding="utf-8") as sink:
        YAML(typ="safe", pure=True).dump(loaded, sink)
    return read_vocabulary(path)


ANY = {"prompt": "A photo of a person with {a}.", "values": {"x": None, "y": None}}
HAT = "attributes/hat/values"
UPPER = "attributes/upper clothes/combine/0"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("attributes/beard", ANY, "has beard"),
        ("attributes/action", None, "has without action"),
        ("attributes/age/values", {"old": {}}, "has 1 values that can be said"),
        ("attributes/age/vales", {}, "unknown key `attributes.age.vales`"),
        ("attributes/age/prompt", None, "missing key `attributes.age.prompt`"),
        ("attributes/age/prompt", "A photo.", "one blank"),
        ("attributes/age/prompt", "A photo of {b}.", "blanks are {phrase} and {a}"),
        ("attributes/age/values/young/say", [], "`attributes.age.values.young.say` has []"),
        ("attributes/age/values/young/say", ["young", "young"], "'young', 2 times"),
        ("attributes/age/values/young/say", ["Young"], "small letters"),
        ("attributes/age/values/young/say", ["young "], "small letters"),
        ("attributes/age/values/young/say", [""], "small letters"),
        ("attributes/age/values/young/say", "young", "say"),
        ("attributes/age/values/young/absent", True, "only an optional attribute can be absent"),
        ("attributes/age/values/young/pronoun", "he", "only a gender has a pronoun"),
        ("attributes/age/values/child/nouns", {"lad": ["lad"]}, "one of man, woman"),
        ("attributes/age/values/child/nouns", {"man": []}, "nouns.man` has []"),
        ("attributes/age/values/teenage/prompt", "A photo of a child.", "2 times"),
        ("attributes/gender/values/man/pronoun", "it", "pronoun"),
        ("attributes/gender/values/man/pronoun", None, "no pronoun"),
        ("attributes/gender/verbs", [["be", "is", "being"]], "only optional attributes have verbs"),
        ("attributes/action/values/walking/nouns", {"man": ["x"]}, "only an age has nouns"),
        ("attributes/action/values/walking/instead_of", ["age"], "without action or lower"),
        ("attributes/action/values/walking/instead_of", ["action"], "of another attribute"),
        ("attributes/hair length/values/long hair/noun", None, "stand together"),
        ("attributes/hat/verbs", None, "no verbs"),
        ("attributes/hat/verbs", [["wear", "wears"]], "attributes.hat.verbs"),
        (HAT, {"no hat": LOADED["attributes"]["hat"]["values"]["no hat"]}, "has 0 values"),
        (f"{HAT}/no hat", None, "no value that is absent"),
        (f"{HAT}/no hat/prompt", None, "absent without a prompt"),
        (f"{HAT}/hat", {"number": "two"}, "attributes.hat.values.hat"),
        ("attributes/hat/combine", [LOADED["attributes"]["upper clothes"]["combine"][0]],
         "only upper and lower clothes"),
        (f"{UPPER}/colours", ["black", "mauve"], "has mauve"),
        (f"{UPPER}/colours", ["black", "black"], "2 times"),
        (f"{UPPER}/colours", [], "attributes.upper clothes.combine.0.colours"),
        (f"{UPPER}/patterns", ["dotted"], "has dotted"),
        (f"{UPPER}/garments/coat", {}, "black pure color coat.', 2 times"),
        (f"{UPPER}/garments", {}, "garments"),
        ("colours/black", [], "colours.black"),
        ("patterns/striped/before", ["striped"], "the blank {colour} once"),
        ("patterns/striped/after", [], "patterns.striped.after"),
        ("patterns/striped/after", ["{colour}  striped"], "small letters"),
        ("more", {}, "unknown key `more`"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_meant_is_refused(
    path: str, value: object, words: str, tmp_path: Path
) -> None:
    with pytest.raises(PedAlignError) as caught:
        read(changed(path, value), tmp_path)
    said = str(caught.value)
    assert words in said
    assert "own.yaml" in said
    assert "rule" in said.lower()


def test_a_value_twice_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    text = FILE.read_text(encoding="utf-8")
    path.write_text(text.replace("      helmet:\n", "      helmet:\n      helmet:\n"))
    with pytest.raises(PedAlignError, match="not readable as YAML"):
        read_vocabulary(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PedAlignError, match="no such file"):
        read_vocabulary(tmp_path / "none.yaml")


def test_an_own_domain_may_leave_out_what_is_optional(tmp_path: Path) -> None:
    own = read(changed("attributes/smoke", None), tmp_path)
    assert "smoke" not in own.values
    assert len(own.values) == 13

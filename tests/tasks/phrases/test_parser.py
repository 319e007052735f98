"""The embedded parser against labelled captions and hand-worked ones."""

import multiprocessing
from collections import Counter
from pathlib import Path

import pytest
import spacy

from benchmarks.phrase_scoring import read_labels, score_styles
from tasks.errors import PedAlignError
from tasks.phrases import GROUPS, KINDS, embedded_parser, load_parser, parse, phrases_of
from tasks.phrases.chunking import colours_of
from tasks.phrases.lexicon import GROUP_OF, TAG_OF, TAGS, correct, unglued
from tasks.phrases.spelling import Spelling, one_slip

DATA = Path(__file__).parents[2] / "data"
STYLES = {"cuhk", "icfg", "rstp", "blip", "unipt"}


def labelled(half):
    """Half of a set; of the set written with fresh eyes nothing but figures is ever shown."""
    if half == "fresh":
        return read_labels(DATA / "phrases_fresh.jsonl")
    return [row for row in read_labels(DATA / "phrases.jsonl") if row.half == half]


@pytest.mark.parametrize("half", ["dev", "kept", "fresh"])
def test_the_labels_are_sound(half):
    rows = labelled(half)
    assert {row.style for row in rows} == STYLES
    assert min(Counter(row.style for row in rows).values()) >= (15 if half == "fresh" else 7)
    for row in rows:  # no figure of a caption in a message: the fresh half is not to be read
        places = [at for phrase in row.phrases for at in (phrase.start, phrase.end)]
        assert places == sorted(places)
        assert {phrase.group for phrase in row.phrases} <= set(GROUPS)
        kinds = {kind for phrase in row.phrases for kind, _ in phrase.attributes or ()}
        assert kinds <= set(KINDS)


@pytest.mark.parametrize(
    ("half", "least", "least_style"),
    [("dev", 0.98, 0.95), ("kept", 0.95, 0.93), ("fresh", 0.90, 0.80)],
)
def test_embedded_parser_reaches_its_f1(nlp, half, least, least_style):
    rows = labelled(half)
    scores = score_styles(rows, parse(nlp, [row.text for row in rows]))
    assert scores.total.f1 >= least
    assert scores.total.group_accuracy >= 0.93
    figures = {style: one.f1 for style, one in scores.styles.items()}
    assert set(figures) == STYLES
    assert min(figures.values()) >= least_style, figures


def test_embedded_parser_says_what_the_labels_say(nlp):
    rows = labelled("dev")
    total = score_styles(rows, parse(nlp, [row.text for row in rows])).total
    assert total.coloured > 200
    assert total.colour_accuracy >= 0.97
    assert total.attribute_f1 >= 0.95


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("She has a pair of white sneakers on.", ["a pair of white sneakers"]),
        ("a black and white striped t-shirt", ["a black and white striped t-shirt"]),
        ("black pants and shoes", ["black pants", "shoes"]),
        ("his grey t - shirt and a white T shirt", ["his grey t - shirt", "a white T shirt"]),
        ("He wears it , he is walking", []),
        ("hair: short; bag: a red backpack", ["a red backpack"]),
        ("He carries no bag and doesn't wear a hat or gloves.", []),
        ("holding a bottle of water", ["a bottle of water"]),
        ("a man in a tall, thin hat", ["a man", "a tall, thin hat"]),
        ("wearing running shoes and running down the street", ["running shoes", "the street"]),
        ("to the left, in her left hand", ["her left hand"]),
        ("A CLOSE UP OF A WOMAN IN BLUE JEANS", ["A WOMAN", "BLUE JEANS"]),
        ("a woman in red jacket,a pair of blue jeans.He runs",
         ["a woman", "red jacket", "a pair of blue jeans"]),
        ("wearing a red jaket and blak  trowsers", ["a red jaket", "blak  trowsers"]),
        ("the front of the shirt", ["the shirt"]),
        ("a man ties his hair; a suit and tie", ["a man", "his hair", "a suit", "tie"]),
        ("the man ambles along; a girl heads for it", ["the man", "a girl"]),
        ("", []),
        ("2 4 8", []),
    ],
)  # fmt: skip
def test_what_is_a_phrase(phrases_in, caption, wanted):
    assert [phrase.text for phrase in phrases_in(caption)] == wanted


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        # No space where one belongs.
        ("a shared bike.his coat is green", ["a shared bike", "his coat"]),
        ("JEANS.HE HAS 2 BAGS", ["JEANS", "2 BAGS"]),
        ("bag:none;upper:black stripe shirt;lower:shorts", ["black stripe shirt", "shorts"]),
        ("a white&blue jacket+jeans", ["a white&blue jacket", "jeans"]),
        ("blackpants and a man(young)", ["blackpants", "a man"]),
        # No mark where one belongs.
        ("man white tshirt blue jeans he has glasses", ["man", "white tshirt", "blue jeans",
                                                        "glasses"]),
        ("white skirt yellow blouse sunglasses long hair", ["white skirt", "yellow blouse",
                                                            "sunglasses", "long hair"]),
        ("the sleeves rolled up skinny jeans", ["the sleeves", "skinny jeans"]),
        # Marks where none belong.
        ("w/ blonde hair", ["blonde hair"]),
        ("an orange “safety” vest", ["an orange “safety” vest"]),
        ("a hat , he", ["a hat"]),
        ("<b>black &amp; white trousers</b>", ["black &amp; white trousers"]),
        ("a navy blazer / white shirt", ["a navy blazer", "white shirt"]),
        ("Top - green sweater ; Shoes - white", ["green sweater"]),
        # The wrong encoding.
        ("The womanâ€™s hair", ["The woman", "hair"]),
        ("a redÂ\xa0coat", ["a redÂ\xa0coat"]),
        # Parts that describe the whole.
        ("a long sleeve navy shirt", ["a long sleeve navy shirt"]),
        ("a v-neck short-sleeved polka dot blouse", ["a v-neck short-sleeved polka dot blouse"]),
        ("shoulder length dark hair", ["shoulder length dark hair"]),
        ("a plaid button up shirt, brown lace up boots", ["a plaid button up shirt",
                                                          "brown lace up boots"]),
        ("a button on the sleeve", ["a button", "the sleeve"]),
    ],
)  # fmt: skip
def test_captions_as_people_write_them(phrases_in, caption, wanted):
    assert [phrase.text for phrase in phrases_in(caption)] == wanted


def test_fields_of_a_phrase():
    found = phrases_of(
        "A man: his shirt is dark blue. He holds a grey-ish bag, white stripes on it"
    )
    assert found[0] == {
        "text": "his shirt", "start": 7, "end": 16, "head": "shirt", "group": "upper",
        "colours": ["dark blue"], "attributes": [],
    }  # fmt: skip
    assert [(p["head"], p["group"]) for p in found[1:]] == [
        ("bag", "carried"),
        ("stripes", "carried"),
    ]
    (pair,) = phrases_of("a pair of navy T-shirts")
    assert (pair["head"], pair["group"], pair["colours"]) == ("t-shirts", "upper", ["navy"])
    assert pair["attributes"] == [{"kind": "count", "value": "pair"}]


def test_heads_and_colours_of_slips(phrases_in):
    (glued,) = phrases_in("blackpants")
    assert (glued.head, glued.group, glued.colours) == ("pants", "lower", ("black",))
    (typed,) = phrases_in("a gery jaket")
    assert (typed.head, typed.group, typed.colours) == ("jacket", "upper", ("gray",))
    walk, lane = phrases_in("a cross walk by the lower body")
    assert (walk.group, lane.group) == ("scene", "lower")


def test_colours_are_named_one_way():
    assert colours_of(["grey", "light", "gray", "blueish", "dark", "scarlet"]) == (
        "gray", "light gray", "blue", "dark red",
    )  # fmt: skip
    assert colours_of(["shirt", "head", "back"]) == ()
    assert colours_of(["navy", "blue", "jeans"]) == ("navy",)
    assert colours_of(["dark", "-", "blue", "jeans"]) == ("dark blue",)


def test_spans_are_code_points(phrases_in):
    caption = "👩🏽‍🦰 wears 🧥 a red coat"
    (phrase,) = [p for p in phrases_in(caption) if p.head == "coat"]
    assert caption[phrase.start : phrase.end] == "a red coat" == phrase.text


def test_a_saved_pipeline_is_loaded_by_spacy_and_gives_the_same(tmp_path, nlp):
    own = embedded_parser({"zorgle": "N"})
    own.to_disk(tmp_path / "parser")
    loaded = spacy.load(tmp_path / "parser")
    assert loaded.pipe_names == ["pedalign_tagger", "pedalign_chunker"]
    captions = [row.text for row in labelled("dev")]
    assert parse(loaded, captions) == parse(own, captions)
    assert [p.text for p in parse(loaded, ["blue zorgle.he sits"])[0]] == ["blue zorgle"]
    assert parse(load_parser(str(tmp_path / "parser")), captions) == parse(own, captions)
    doc = loaded("a man in a red shirt")
    assert [(s.text, s.label_, s.id_) for s in doc.spans["phrases"]] == [
        ("a man", "person", "man"), ("a red shirt", "upper", "shirt"),
    ]  # fmt: skip
    assert [t.pos_ for t in doc] == ["DET", "NOUN", "ADP", "DET", "ADJ", "NOUN"]


def test_words_of_ones_own(tmp_path):
    own = embedded_parser({"glimmery": "A"}, {"zorgle": "carried", "pit helmet": "carried"})
    own.to_disk(tmp_path / "parser")
    for nlp in (own, spacy.load(tmp_path / "parser")):
        (found,) = parse(nlp, ["He wears a glimmery zorgle and a pit helmet, a helmet"])
        assert [(p.text, p.head, p.group) for p in found] == [
            ("a glimmery zorgle", "zorgle", "carried"), ("a pit helmet", "helmet", "carried"),
            ("a helmet", "helmet", "head"),
        ]  # fmt: skip
    with pytest.raises(ValueError, match="a group is one of person, head"):
        embedded_parser(groups={"zorgle": "hands"})


def test_each_distinct_caption_is_parsed_once(monkeypatch, nlp):
    seen = []
    pipe = nlp.pipe
    monkeypatch.setattr(
        nlp, "pipe", lambda batch, **keys: pipe((seen.append(t) or t for t in batch), **keys)
    )
    found = parse(nlp, ["a red hat", "a blue hat", "a red hat"])
    assert seen == ["a red hat", "a blue hat"]
    assert found[0] == found[2] != found[1]


def test_processes_change_nothing(nlp, monkeypatch):
    fork = multiprocessing.get_context("fork")  # to start afresh takes seconds
    monkeypatch.setattr("tasks.phrases.multiprocessing.get_context", lambda kind: fork)
    captions = [row.text for row in labelled("dev")][:12]
    assert parse(nlp, captions, processes=2, batch_size=4) == parse(nlp, captions)
    by_spacy = nlp.pipe(captions, n_process=2, batch_size=4)
    assert [doc._.phrases for doc in by_spacy] == parse(nlp, captions)


def test_unknown_parsers_and_tags_are_explained(tmp_path):
    with pytest.raises(PedAlignError, match="no_such_pipeline"):
        load_parser("no_such_pipeline")
    blank = spacy.blank("en")
    blank.to_disk(tmp_path / "blank")
    with pytest.raises(PedAlignError, match="noun chunks need a trained syntactic parser"):
        load_parser(str(tmp_path / "blank"))
    with pytest.raises(ValueError, match="a tag is one of"):
        embedded_parser({"hat": "noun"})


def test_the_lexicon_is_consistent():
    assert set(TAG_OF.values()) <= set(TAGS)
    assert set(GROUP_OF.values()) <= {*GROUPS, ""}
    assert {w for w, t in TAG_OF.items() if t in "NJ"} <= set(GROUP_OF)


def test_typing_errors_are_mended():
    assert correct("sneekers") == "sneakers"
    assert correct("shrit") == "shirt"
    assert [correct(word) for word in ("blak", "gery", "whit")] == ["black", "grey", "white"]
    assert correct("pine") is None  # a real word: pink with another letter
    assert correct("qwertyuiop") is None
    assert unglued("blackpants") == ("black", "pants")
    assert unglued("zorgle") is None


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("shirt", "shrt", True), ("shrt", "shirt", True), ("shirt", "skirt", True),
        ("shirt", "shrit", True), ("shirt", "shirt", False), ("shirt", "shorts", False),
        ("abcd", "bcda", False), ("ab", "ba", True), ("aab", "ab", True),
    ],
)  # fmt: skip
def test_one_slip(one, other, wanted):
    assert one_slip(one, other) is wanted
    if len(one) >= 3:  # shorter words are not looked up
        assert (Spelling([other]).near(one) == [other]) is wanted

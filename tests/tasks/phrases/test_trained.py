"""Noun chunks of trained pipelines and their repair; one is trained here, in seconds."""

import pytest
import spacy
from spacy.tokens import Doc

from benchmarks.treebank import sentences, train
from tasks.errors import PedAlignError
from tasks.phrases import load_parser, parse
from tasks.phrases.repair import NounChunkRepair


# The parts of speech and heads that a trained pipeline would give; blank English has its rules for
# noun chunks.
def parsed(words, pos, heads, deps):
    vocab = spacy.blank("en").vocab
    doc = Doc(vocab, words, pos=pos.split() if pos else None, heads=heads, deps=deps.split())
    return NounChunkRepair(vocab)(doc)


def texts(doc):
    return [phrase.text for phrase in doc._.phrases]


def test_a_pair_is_one_and_what_is_denied_none():
    doc = parsed(
        ["He", "wears", "a", "pair", "of", "white", "sneakers", "and", "no", "hat"],
        "PRON VERB DET NOUN ADP ADJ NOUN CCONJ DET NOUN",
        [1, 1, 3, 1, 3, 6, 4, 3, 9, 3],
        "nsubj ROOT det dobj prep amod pobj cc det conj",
    )
    assert [c.text for c in doc.noun_chunks] == ["He", "a pair", "white sneakers", "no hat"]
    (shoes,) = doc._.phrases
    assert (shoes.text, shoes.head, shoes.group, shoes.colours) == (
        "a pair of white sneakers", "sneakers", "footwear", ("white",),
    )  # fmt: skip
    assert shoes.attributes == (("count", "pair"),)
    assert doc.text[shoes.start : shoes.end] == shoes.text
    assert [(span.text, span.label_) for span in doc.spans["phrases"]] == [(shoes.text, "footwear")]


def test_modifiers_left_outside_a_chunk_are_taken_in():
    doc = parsed(
        ["wearing", "light", "grey", "hooded", "sweatshirt"],
        "VERB ADJ ADJ VERB NOUN",
        [0, 0, 0, 0, 0],
        "ROOT dep dep dep dobj",
    )
    (phrase,) = doc._.phrases
    assert phrase.text == "light grey hooded sweatshirt"
    assert phrase.colours == ("light gray",)
    assert phrase.attributes == (("detail", "hooded"),)


def test_a_chunk_of_several_things_is_parted():
    text = "holding a vest and black shorts the boy 's hair white tshirt blue jeans"
    words = text.split()
    doc = parsed(
        words,
        "VERB DET NOUN CCONJ ADJ NOUN DET NOUN PART NOUN ADJ NOUN ADJ NOUN",
        # One chunk over all of it: everything left of the last noun hangs on it.
        [13, *[13] * 12, 13],
        "amod " + "amod " * 12 + "ROOT",
    )
    assert [c.text for c in doc.noun_chunks] == [text]
    assert texts(doc) == [
        "a vest", "black shorts", "the boy", "hair", "white tshirt", "blue jeans",
    ]  # fmt: skip


def test_a_thing_in_no_chunk_is_added_and_its_predicate_read():
    doc = parsed(
        ["a", "man", "in", "a", "suit", "and", "tie", ".", "His", "shirt", "is", "striped"],
        "DET NOUN ADP DET NOUN CCONJ VERB PUNCT PRON NOUN AUX ADJ",
        [1, 1, 1, 4, 2, 1, 1, 1, 9, 10, 10, 10],
        "det ROOT prep det pobj cc conj punct poss nsubj ROOT acomp",
    )
    assert [c.text for c in doc.noun_chunks] == ["a man", "a suit", "His shirt"]
    assert texts(doc) == ["a man", "a suit", "tie", "His shirt"]
    assert doc._.phrases[-1].attributes == (("pattern", "striped"),)


def test_parts_of_speech_are_filled_in_where_the_pipeline_has_none():
    doc = parsed(
        ["a", "woman", "wears", "a", "red", "coat"], None, [1, 2, 2, 5, 5, 2],
        "det nsubj ROOT det amod dobj",
    )  # fmt: skip
    assert texts(doc) == ["a woman", "a red coat"]
    assert doc[5].pos_ == "NOUN"


def test_without_dependencies_it_says_what_is_missing():
    nlp = spacy.blank("en")
    with pytest.raises(ValueError, match="put a trained parser before"):
        NounChunkRepair(nlp.vocab)(nlp("a red coat"))
    assert NounChunkRepair(nlp.vocab)(nlp(""))._.phrases == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline trained by spaCy's own updates, saved as a user would."""
    path = tmp_path_factory.mktemp("trained") / "pipeline"
    train(count=300, epochs=4).to_disk(path)
    return path


def test_a_pipeline_trained_here_goes_the_way_of_any_package(folder):
    nlp = load_parser(str(folder))
    assert nlp.pipe_names == ["tok2vec", "tagger", "parser", "pedalign_noun_chunks"]
    held_out = sentences(60, seed=99)
    docs = [spacy.load(folder)(" ".join(tree.words)) for tree in held_out[:1]]
    assert docs[0].has_annotation("DEP")
    assert not docs[0].has_annotation("POS")  # a tagger, and no attribute ruler
    right = total = 0
    for tree in held_out:
        doc = nlp(Doc(nlp.vocab, tree.words))
        right += sum(t.head.i == head for t, head in zip(doc, tree.heads, strict=True))
        total += len(doc)
    assert right / total > 0.8  # it has learnt to parse

    captions = [
        "the woman wears a red shirt , black jeans and a pair of white sneakers .",
        "a tall man in a grey hoodie.he has no bag",
        "",
    ]
    found = parse(nlp, captions)
    assert [p.text for p in found[0]] == [
        "the woman", "a red shirt", "black jeans", "a pair of white sneakers",
    ]  # fmt: skip
    assert [(p.text, p.group) for p in found[1]] == [
        ("a tall man", "person"), ("a grey hoodie", "upper"),
    ]  # fmt: skip
    assert found[2] == []
    assert [parse(nlp, [caption])[0] for caption in captions] == found


def test_it_is_saved_with_its_repair(folder, tmp_path):
    nlp = load_parser(str(folder))
    nlp.to_disk(tmp_path / "whole")
    again = load_parser(str(tmp_path / "whole"))
    assert again.pipe_names == nlp.pipe_names
    captions = ["A lady with a bag,a red hat and gloves.", "two men"]
    assert parse(again, captions) == parse(nlp, captions)


def test_a_tagger_alone_is_refused(folder, tmp_path):
    nlp = spacy.load(folder)
    nlp.remove_pipe("parser")
    nlp.to_disk(tmp_path / "tagger")
    with pytest.raises(PedAlignError, match="noun chunks need a trained syntactic parser"):
        load_parser(str(tmp_path / "tagger"))

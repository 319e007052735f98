"""A small trained pipeline: sentences whose parse is known because they were made with it.

`sentences` writes captions of people with gold heads, labels and tags; `train` fits spaCy's own
tok2vec, tagger and parser to them by ``nlp.update``, in seconds. The pipeline is really trained and
goes through the same code as ``en_core_web_sm``; what it has seen is this grammar and nothing else,
so its figures on other captions say what little training is worth, not what spaCy can do.

    python -m benchmarks.treebank FOLDER     # train one, save it, for `spacy.load`
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import spacy
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed

if TYPE_CHECKING:
    from spacy.language import Language


def _words(text: str) -> list[str]:
    return text.split()


ADJECTIVES = _words(
    """red blue white black grey dark light long short striped plaid young old tall slim
loose tight brown green yellow pink leather casual small large curly beige hooded"""
)
COMPOUNDS = _words("denim sports school cotton down tennis shoulder wool running polo")
PERSONS = _words("man woman boy girl lady person guy student male female pedestrian")
WORN = _words(
    """shirt jacket coat trousers jeans shorts skirt dress shoes sneakers boots hat cap scarf
sweater hoodie pants socks glasses vest blouse sandals gloves t-shirt"""
)
CARRIED = _words("bag backpack phone umbrella handbag suitcase book bottle")
BODY = _words("hand shoulder back head arm neck wrist")
PLACES = _words("street sidewalk road park shop wall car building")
HAIR = _words("hair ponytail bun beard")

TOK2VEC: dict[str, Any] = {
    "@architectures": "spacy.HashEmbedCNN.v2",
    "pretrained_vectors": None,
    "width": 64,
    "depth": 2,
    "embed_size": 1000,
    "window_size": 1,
    "maxout_pieces": 2,
    "subword_features": True,
}
LISTENER = {"@architectures": "spacy.Tok2VecListener.v1", "width": 64}


@dataclass
class Tree:
    """A sentence under construction: parallel lists, one element a word."""

    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    deps: list[str] = field(default_factory=list)

    def add(self, word: str, tag: str, dep: str, head: int | None = None) -> int:
        """Append a word; without a head it is its own, until `hang` says otherwise."""
        at = len(self.words)
        self.words.append(word)
        self.tags.append(tag)
        self.deps.append(dep)
        self.heads.append(at if head is None else head)
        return at

    def hang(self, at: int, head: int, dep: str) -> None:
        """Say what a word hangs on."""
        self.heads[at], self.deps[at] = head, dep


def _noun_phrase(tree: Tree, rng: random.Random, nouns: list[str], bare: float = 0.3) -> int:
    """Append a noun phrase and return its head."""
    left: list[tuple[str, str, str]] = []
    if rng.random() > bare:
        word = rng.choice(["a", "the", "his", "her", "a", "this"])
        left.append((word, "PRP$" if word in {"his", "her"} else "DT",
                     "poss" if word in {"his", "her"} else "det"))  # fmt: skip
    left += [(w, "JJ", "amod") for w in rng.sample(ADJECTIVES, rng.choice([0, 1, 1, 2]))]
    if nouns is WORN and rng.random() < 0.25:
        left.append((rng.choice(COMPOUNDS), "NN", "compound"))
    start = len(tree.words)
    noun = rng.choice(nouns)
    for word, tag, dep in left:
        tree.add(word, tag, dep, start + len(left))
    return tree.add(noun, "NNS" if noun.endswith("s") else "NN", "dep")


def _pair(tree: Tree, rng: random.Random) -> int:
    """Append "a pair of ...", whose head is the pair."""
    det = tree.add("a", "DT", "det")
    pair = tree.add("pair", "NN", "dep")
    tree.hang(det, pair, "det")
    of = tree.add("of", "IN", "prep", pair)
    tree.hang(_noun_phrase(tree, rng, WORN, bare=1.0), of, "pobj")
    return pair


def _things(tree: Tree, rng: random.Random, head: int, dep: str) -> None:
    """Append one to three coordinated things."""
    count = rng.choice([1, 2, 2, 3])
    last = None
    for i in range(count):
        if i and i == count - 1:
            tree.add("and", "CC", "cc", last)
        elif i:
            tree.add(",", ",", "punct", last)
        thing = _pair(tree, rng) if rng.random() < 0.2 else _noun_phrase(tree, rng, WORN)
        tree.hang(thing, head if last is None else last, dep if last is None else "conj")
        last = thing


def _place(tree: Tree, rng: random.Random, head: int, nouns: list[str], words: list[str]) -> None:
    at = tree.add(rng.choice(words), "IN", "prep", head)
    tree.hang(_noun_phrase(tree, rng, nouns, bare=0.0), at, "pobj")


def _sentence(rng: random.Random) -> Tree:
    tree = Tree()
    kind = rng.randrange(4)
    if kind == 0:  # a man in a red shirt and jeans walking on the street
        root = _noun_phrase(tree, rng, PERSONS)
        tree.hang(root, root, "ROOT")
        at = tree.add(rng.choice(["in", "with"]), "IN", "prep", root)
        _things(tree, rng, at, "pobj")
        if rng.random() < 0.6:
            verb = tree.add(rng.choice(["walking", "standing", "riding"]), "VBG", "acl", root)
            _place(tree, rng, verb, PLACES, ["on", "down", "near", "in"])
        return tree
    who = _noun_phrase(tree, rng, PERSONS) if rng.random() < 0.6 else None
    if who is None:
        who = tree.add(rng.choice(["He", "She", "he", "she"]), "PRP", "nsubj")
    if kind == 1:  # his hair is ...
        verb = tree.add("has", "VBZ", "ROOT")
        tree.hang(_noun_phrase(tree, rng, HAIR), verb, "dobj")
    elif kind == 2:  # she is carrying a bag on her shoulder
        helping = tree.add("is", "VBZ", "aux")
        verb = tree.add(rng.choice(["carrying", "holding"]), "VBG", "ROOT")
        tree.hang(helping, verb, "aux")
        tree.hang(_noun_phrase(tree, rng, CARRIED), verb, "dobj")
        if rng.random() < 0.6:
            _place(tree, rng, verb, BODY, ["on", "in", "over"])
    else:  # the woman wears ...
        verb = tree.add(rng.choice(["wears", "has"]), "VBZ", "ROOT")
        _things(tree, rng, verb, "dobj")
    tree.hang(who, verb, "nsubj")
    if rng.random() < 0.7:
        tree.add(".", ".", "punct", verb)
    return tree


def sentences(count: int, seed: int = 0) -> list[Tree]:
    """Sentences with their parse.

    Args:
        count: How many.
        seed: Of the choices.
    """
    rng = random.Random(seed)
    return [_sentence(rng) for _ in range(count)]


def train(count: int = 600, epochs: int = 4, seed: int = 0) -> Language:
    """Train tok2vec, tagger and parser.

    Args:
        count: Sentences.
        epochs: Passes over them.
        seed: Of the sentences, the weights and the order.

    Returns:
        The pipeline.
    """
    fix_random_seed(seed)
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": TOK2VEC})
    nlp.add_pipe("tagger", config={"model": {"@architectures": "spacy.Tagger.v2",
                                             "tok2vec": LISTENER}})  # fmt: skip
    nlp.add_pipe("parser", config={"model": {
        "@architectures": "spacy.TransitionBasedParser.v2", "state_type": "parser",
        "extra_state_tokens": False, "hidden_width": 64, "maxout_pieces": 2, "use_upper": True,
        "nO": None, "tok2vec": LISTENER}})  # fmt: skip
    examples = [
        Example(
            Doc(nlp.vocab, tree.words),
            Doc(nlp.vocab, tree.words, tags=tree.tags, heads=tree.heads, deps=tree.deps),
        )
        for tree in sentences(count, seed)
    ]
    optimizer = nlp.initialize(lambda: examples)
    rng = random.Random(seed)
    for _ in range(epochs):
        rng.shuffle(examples)
        for at in range(0, len(examples), 16):
            nlp.update(examples[at : at + 16], sgd=optimizer, drop=0.1)
    return nlp


def main() -> None:
    """Train a pipeline and save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sentences", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    train(options.sentences, options.epochs).to_disk(options.folder)


if __name__ == "__main__":
    main()

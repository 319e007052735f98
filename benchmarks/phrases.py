"""How well and how fast captions are parsed, for each parser named.

    python -m benchmarks.phrases [PARSER ...] [--labels FILE ...] [--captions 16000]

A parser is ``embedded`` (the default), a spaCy package, a folder of a saved pipeline (one is made
by ``python -m benchmarks.treebank FOLDER``), or ``chunks:`` and one of the last two: its noun
chunks as they are, pronouns left out, to tell what the repair is worth.

Quality: precision, recall and F1 by token overlap (0.8, one to one), F1 by exact span, share of
right groups and colours and F1 of attributes on matched phrases, by half and style. Of the set that
was written with fresh eyes nothing but these figures is printed.

Speed, processor seconds of one core, in turns so that a busy machine slows all alike: distinct
captions of 23 to 37 words in batches, against one call of the pipeline a caption, and against text
in which each caption comes five times; one process against two (wall seconds). Every side gets
captions of its own in every round, for what has been met before is remembered.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import spacy

from benchmarks.phrase_scoring import Score, read_labels, score_styles
from tasks.phrases import EMBEDDED, Phrase, load_parser, parse
from tasks.phrases.chunking import said_of
from tasks.phrases.lexicon import GROUP_OF
from tasks.world.attributes import sample_person
from tasks.world.captions import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from spacy.language import Language

DATA = Path("tests/data")
LABELS = (DATA / "phrases.jsonl", DATA / "phrases_fresh.jsonl")
CHUNKS = "chunks:"
REPEATS = 5
ROUNDS = 7


def find(parser: str, captions: Sequence[str]) -> list[list[Phrase]]:
    """The phrases that a parser named on the command line finds."""
    if not parser.startswith(CHUNKS):
        return parse(load_parser(parser), captions)
    found = []
    for doc in spacy.load(parser.removeprefix(CHUNKS)).pipe(captions):
        phrases = []
        for chunk in doc.noun_chunks:
            if chunk.root.pos_ != "PRON":
                head = chunk.root.lower_
                group = GROUP_OF.get(head) or "accessory"
                words = tuple(token.lower_ for token in chunk)
                said = said_of(words, chunk.root.i - chunk.start, head, group)
                at = (chunk.text, chunk.start_char, chunk.end_char)
                phrases.append(Phrase(*at, head, group, *said))
        found.append(phrases)
    return found


def _line(name: str, score: Score) -> str:
    def shown(value: float | None) -> str:
        return "    -" if value is None else f"{value:5.3f}"

    figures = (
        score.precision,
        score.recall,
        score.f1,
        score.exact_f1,
        score.group_accuracy,
        score.colour_accuracy,
        score.attribute_f1,
    )
    return f"{name:16} {score.labelled:8} " + "  ".join(map(shown, figures))


def quality(parser: str, files: Sequence[Path]) -> None:
    """Print the figures of one parser."""
    print(f"\n{parser}")
    print(f"{'half, style':16} {'labelled':>8} precn  recll  F1     exact  group  colrs  attrs")
    rows = [(f"{path.stem}, {row.half}", row) for path in files for row in read_labels(path)]
    for half in dict.fromkeys(name for name, _ in rows):
        own = [row for name, row in rows if name == half]
        scores = score_styles(own, find(parser, [row.text for row in own]))
        name = half.replace("phrases_fresh, kept", "fresh").replace("phrases, ", "")
        print(_line(name, scores.total))
        for style, score in sorted(scores.styles.items()):
            print(_line(f"  {style}", score))


def distinct_captions(count: int, seed: int = 0) -> list[str]:
    """Captions of 23 to 37 words, all different, made of the world's sentences."""
    rng = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        text = ""
        while len(text.split()) < 23:
            more = (
                describe(sample_person(rng), "source", rng)
                if rng.random() < 0.5
                else describe(sample_person(rng), "target", rng)
            )
            text = f"{text} {more}".strip()
        if len(text.split()) <= 37:
            made[text] = None
    return list(made)


def _in_turns(
    sides: Mapping[str, Callable[[list[str]], object]], captions: list[str]
) -> dict[str, list[float]]:
    """Captions a processor second of each side in each round; one round more warms up."""
    size = len(captions) // (len(sides) * (ROUNDS + 1))
    parts = iter([captions[at : at + size] for at in range(0, len(captions), size)])
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name, side in sides.items():
            part = next(parts)
            start = time.process_time()
            side(part)
            taken = time.process_time() - start
            if number:
                rates[name].append(len(part) / taken)
    return rates


def _one_by_one(nlp: Language, captions: Sequence[str]) -> None:
    for caption in captions:
        _ = nlp(caption)._.phrases


def speed(parser: str, captions: list[str]) -> None:
    """Print captions a second of one parser, and what batches and processes are worth."""
    nlp = load_parser(parser)
    rates = _in_turns(
        {
            "batches": lambda part: parse(nlp, part),
            "one by one": lambda part: _one_by_one(nlp, part),
            "repeated": lambda part: parse(nlp, part[: len(part) // REPEATS] * REPEATS),
        },
        captions,
    )

    def times(name: str, than: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[name], rates[than], strict=True))

    words = statistics.mean(len(caption.split()) for caption in captions)
    print(f"\n{parser}: captions of {words:.1f} words, {ROUNDS} rounds in turns")
    rate = statistics.median(rates["batches"])
    print(f"  batches of distinct captions: {rate:,.0f} captions a second a core")
    print(f"  that is {times('batches', 'one by one'):.2f} times one call a caption")
    print(f"  each caption {REPEATS} times: {times('repeated', 'batches'):.2f} times that")
    walls = {}
    for processes in (1, 2):
        start = time.perf_counter()
        parse(nlp, captions, processes=processes)
        walls[processes] = time.perf_counter() - start
    print(
        f"  {len(captions)} captions: {walls[1]:.1f} s in this process, {walls[2]:.1f} s in two of "
        f"their own, start included: {walls[1] / walls[2]:.2f} times"
    )


def main() -> None:
    """Run the benchmark."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("parsers", nargs="*", default=[EMBEDDED], metavar="PARSER")
    options.add_argument("--labels", nargs="*", type=Path, default=list(LABELS))
    options.add_argument("--captions", type=int, default=16_000)
    given = options.parse_args()
    for parser in given.parsers:
        quality(parser, given.labels)
    if given.captions:
        captions = distinct_captions(given.captions)
        for parser in given.parsers:
            if not parser.startswith(CHUNKS):  # what is ten times slower gets a tenth
                speed(parser, captions if parser == EMBEDDED else captions[: len(captions) // 10])


if __name__ == "__main__":
    main()

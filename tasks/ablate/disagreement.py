"""Rank lists where two arms disagree: a query, and both arms' first pictures side by side.

Queries are chosen by rule and not by eye: those that one arm answers right with the most seeds more
than the other, as many in favour of either, of a person at most one in favour of each, ties by
lot. The lists shown are those of one seed, the first that both arms have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tasks.ablate.records import Answers
from tasks.lettering import INK, MUTED, font, leading, wrap
from tasks.lookup import fetch_any
from tasks.report.illustrate import picture
from tasks.report.sheets import GAP, LINE, MARGIN, PAPER, RIGHT, WRONG, cell_for, fit
from tasks.shards import item_seed

SHOWN = 5
"""Pictures of each list."""
HEIGHT, LABEL, HEADER, TYPE = 200, 400, 44, 20
"""Of a picture; of the column of sentences; of the first line; of letters: pixels."""


def chosen(better: Answers, plain: Answers, count: int, seed: int = 0) -> list[int]:
    """Queries on which two arms disagree most, half of them in favour of each.

    Returns:
        Places of the queries, those in favour of the first arm first; fewer than ``count`` where
        the two hardly differ.
    """
    shares = (np.stack([(each.rank_SQ == 1).mean(0) for each in (better, plain)])).round(6)
    gain = shares[0] - shares[1]
    first = _first(better, plain)
    # The lists shown are to disagree too, not only the seeds' mean.
    hits = [each.rank_SQ[each.seeds.index(first)] == 1 for each in (better, plain)]
    out: list[int] = []
    for sign, differs in ((1, hits[0] & ~hits[1]), (-1, hits[1] & ~hits[0])):
        places = [int(at) for at in np.flatnonzero(differs) if sign * gain[at] > 0]
        places.sort(
            key=lambda at: (
                -sign * gain[at],
                item_seed(f"{better.uids[at]} {better.captions[at]}", seed, "disagreement"),
            )
        )
        # At most one query of a person: the first in this order.
        once = {better.people[at]: at for at in reversed(places)}
        out += [at for at in places if once[better.people[at]] == at][: count // 2]
    return out


def sheet(
    better: tuple[str, Answers],
    plain: tuple[str, Answers],
    galleries: Sequence[Path],
    queries: Sequence[int],
) -> Image.Image | None:
    """Draw both arms' lists of some queries side by side, a row a query.

    Args:
        better: An arm's name and its answers.
        plain: Another's.
        galleries: Shards that hold the pictures.
        queries: Their places.

    Returns:
        The sheet; None where there is no query.
    """
    if not queries:
        return None
    arms = (better, plain)
    seed = _first(better[1], plain[1])
    lists = [answers.tops[answers.seeds.index(seed)] for _, answers in arms]
    uids = {better[1].uids[at] for at in queries}
    uids |= {uid for tops in lists for at in queries for uid in tops[at][:SHOWN]}
    rows = fetch_any(galleries, uids, ["image", "person_id"])
    images = {uid: picture(row) for uid, row in rows.items()}
    cell = cell_for(images.values(), HEIGHT)
    first = MARGIN + LABEL + cell[0] + 3 * GAP
    block = SHOWN * (cell[0] + GAP) + 2 * GAP
    step = HEIGHT + 3 * GAP + 2
    size = (first + len(arms) * block - 2 * GAP + MARGIN, MARGIN + HEADER + step * len(queries))
    out = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(out)
    pen.text((MARGIN, MARGIN), "query", MUTED, font(TYPE))
    pen.text((MARGIN + LABEL, MARGIN), "its image", MUTED, font(TYPE))
    for n, (name, _) in enumerate(arms):
        pen.text((first + n * block, MARGIN), f"{name}, seed {seed}", INK, font(TYPE, bold=True))
    for r, at in enumerate(queries):
        y = MARGIN + HEADER + r * step
        pen.line([(MARGIN, y - GAP), (size[0] - MARGIN, y - GAP)], LINE, 2)
        caption = wrap(better[1].captions[at], LABEL - 3 * GAP, TYPE, 5)
        said = [_said(name, answers, at, seed) for name, answers in arms]
        for n, line in enumerate(caption):
            pen.text((MARGIN, y + n * leading(TYPE)), line, INK, font(TYPE))
        for n, line in enumerate(said):
            place = y + (len(caption) + n) * leading(TYPE) + GAP
            pen.text((MARGIN, place), line, MUTED, font(TYPE - 3))
        out.paste(fit(images.get(better[1].uids[at]), cell), (MARGIN + LABEL, y))
        for n, tops in enumerate(lists):
            for c, uid in enumerate(tops[at][:SHOWN]):
                x = first + n * block + c * (cell[0] + GAP)
                row = rows.get(uid)
                right = None if row is None else str(row["person_id"]) == better[1].people[at]
                out.paste(fit(images.get(uid), cell), (x, y))
                if right is not None:
                    _frame(pen, (x, y), cell, right)
    return out


def _said(name: str, answers: Answers, at: int, seed: int) -> str:
    rank = answers.rank_SQ[answers.seeds.index(seed), at]
    hits = int((answers.rank_SQ[:, at] == 1).sum())
    return f"{name}: rank {rank:.0f}; {hits} of {len(answers.seeds)} seeds right"


def _frame(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], cell: tuple[int, int], right: bool
) -> None:
    """Frame a picture, and mark it for readers who do not tell green from red."""
    (x, y), border, colour = at, 6 if right else 2, RIGHT if right else WRONG
    box = (x - border, y - border, x + cell[0] + border - 1, y + cell[1] + border - 1)
    pen.rectangle(box, outline=colour, width=border)
    place = (x + cell[0] // 2, y + cell[1] + border)
    pen.text(place, "✓" if right else "✗", colour, font(TYPE - 3), anchor="ma")


def _first(better: Answers, plain: Answers) -> int:
    """The first seed that both have, else the first one's own."""
    common = [seed for seed in better.seeds if seed in plain.seeds]
    if not common:
        raise ValueError(
            f"seeds {better.seeds} and {plain.seeds}; lists are compared at one seed of both; "
            "run a seed that both arms have"
        )
    return common[0]

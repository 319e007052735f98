"""Whether pictures still show what their captions name, as far as a judge can read it.

Per attribute: how often the judge reads the named value, and how often it would if its readings
had nothing to do with the picture (`Content.chance`: the two columns drawn independently, as in
Cohen's kappa), since three black coats out of four are read right by saying "black".

What is unusual: no number stands alone. A judge misreads true target pictures as well, so what is
*kept* is its accuracy on the restyled pictures over that on true held-out target pictures with
captions of their own (`kept`), plain and corrected for chance.

    named = named_attributes(captions)                      # tasks.judge.naming
    there = content(judge.read(judge.encode_images(pixels)), named, judge.attributes)
    share = kept(there, truth)["upper colour"].corrected

Shapes: N pictures, K values of one attribute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

LEAST = 8
"""Fewest named pictures of an attribute; below, its numbers are noise and it is left out."""

READABLE = 0.2
"""Least chance-corrected accuracy on true target pictures ("slight" agreement ends there: Landis
and Koch, 1977); below, a ratio to it says nothing and the attribute is left out."""


@dataclass(frozen=True)
class Content:
    """What the judge reads of one attribute."""

    attribute: str
    count: int
    """Pictures whose captions name a value that the judge knows."""
    accuracy: float
    """Share of them that it reads right; NaN where there are none, as the next three."""
    frequent: float
    """Share of the commonest named value: what saying it always would score."""
    chance: float
    """Expected accuracy of these readings dealt out to the pictures at random."""
    corrected: float
    """Cohen's kappa, (accuracy - chance) / (1 - chance): 1 all right, 0 no better than chance;
    NaN where chance is 1 (one value only)."""
    error: float
    """Standard error of the accuracy, of independent pictures."""
    unknown: int
    """Pictures left out since their captions name a value that the judge has never seen."""
    reason: str | None = None
    """Why the attribute does not count, None where it does."""


@dataclass(frozen=True)
class Kept:
    """How much of an attribute a set of pictures keeps, beside true target pictures."""

    attribute: str
    accuracy: float
    """Ratio of the accuracies; NaN where either is missing or the denominator is 0."""
    corrected: float
    """Ratio of the chance-corrected accuracies; NaN likewise."""
    reason: str | None = None
    """Why the attribute does not count, None where it does."""


def content(
    readings: Mapping[str, NDArray[np.floating]],
    named: Sequence[Mapping[str, str]],
    attributes: Mapping[str, Sequence[str]],
) -> dict[str, Content]:
    """Compare readings with what captions name.

    Args:
        readings: Attribute -> probabilities (N, K), from `models.judge.Judge.read`.
        named: Attribute -> value of each picture, from `tasks.judge.naming.named_attributes`; an
            attribute that a picture does not name is not asked of it.
        attributes: Attribute -> its K values, from `models.judge.Judge.attributes`.

    Returns:
        Every attribute of the judge, in its order.

    Raises:
        ValueError: The rows or the values do not fit together.
    """
    found: dict[str, Content] = {}
    for name, values in attributes.items():
        probabilities = readings[name]
        if probabilities.shape != (len(named), len(values)):
            raise ValueError(
                f"{name}: readings of shape {probabilities.shape} for {len(named)} pictures and "
                f"{len(values)} values; one row a picture, one column a value; read and name the "
                "same pictures, with one judge"
            )
        index = {value: k for k, value in enumerate(values)}
        told = [own.get(name) for own in named]
        rows = [i for i, value in enumerate(told) if value in index]
        unknown = sum(value is not None for value in told) - len(rows)
        truth = np.array([index[str(told[i])] for i in rows], np.int64)
        read = probabilities[rows].argmax(1) if rows else truth
        found[name] = _compare(name, truth, read, len(values), unknown)
    return found


def _compare(
    name: str, truth: NDArray[np.int64], read: NDArray[np.int64], values: int, unknown: int
) -> Content:
    count = len(truth)
    if not count:
        nan = math.nan
        return Content(name, 0, nan, nan, nan, nan, nan, unknown, "named by no caption")
    shares = np.bincount(truth, minlength=values) / count
    accuracy = float((truth == read).mean())
    chance = float(shares @ (np.bincount(read, minlength=values) / count))
    reason = None
    if count < LEAST:
        reason = f"named for {count} pictures, fewer than {LEAST}"
    elif shares.max() == 1:
        reason = f"only one value is named ({count} pictures)"
    return Content(
        attribute=name,
        count=count,
        accuracy=accuracy,
        frequent=float(shares.max()),
        chance=chance,
        corrected=(accuracy - chance) / (1 - chance) if chance < 1 else math.nan,
        error=math.sqrt(accuracy * (1 - accuracy) / count),
        unknown=unknown,
        reason=reason,
    )


def kept(pictures: Mapping[str, Content], truth: Mapping[str, Content]) -> dict[str, Kept]:
    """Content of some pictures over that of true target pictures.

    Args:
        pictures: Of an arm, from `content`.
        truth: Of held-out target pictures with captions of their own, by the same judge.

    Returns:
        Every attribute of ``truth``.
    """
    result = {}
    for name, true in truth.items():
        own = pictures[name]
        reason = own.reason or (f"target: {true.reason}" if true.reason else None)
        if reason is None and not true.corrected >= READABLE:
            reason = f"the judge hardly reads it off true target pictures ({true.corrected:.2f})"
        result[name] = Kept(
            name, _ratio(own.accuracy, true.accuracy), _ratio(own.corrected, true.corrected), reason
        )
    return result


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 and math.isfinite(above) else math.nan

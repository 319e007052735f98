"""Why a box is refused: the slugs of the column ``rejected``, and what each means."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "degenerate": "no number, no area, or outside the picture",
    "full-image": "nearly the whole picture for a part of the person",
    "low-confidence": "below the threshold",
    "duplicate": "the same words on nearly the same box, with a better one",
    "contradiction": "another thing, colour or side on nearly the same box, with a better one",
    "surplus": "more boxes than a phrase may have, with better ones",
}
"""Slug -> meaning, in the order in which the rules are asked."""

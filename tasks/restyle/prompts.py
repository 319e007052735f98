"""What `restyle` is to make of a shard: a list of rows with their prompts, and those it refuses.

Which rows there are follows from the mode (see `tasks.restyle.shard`): one a source picture, or in
mode ``generate`` one a caption of the train split and each of its EDA versions (sec. 3.2:
68,126 captions and 20 prompts of each give 1,362,520). A row that cannot be made is listed with its
reason and goes on as a rejected one; none is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.eda import expand_prompts, lexicon
from tasks.schemas import OK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.restyle.shard import RestyleParams

TRAIN = "train"
"""The split whose captions become prompts."""
READ = ("uid", "split", "status", "error", "image", "captions")
"""Columns that a plan is made from."""


@dataclass(frozen=True)
class Item:
    """One row to be made, or refused."""

    uid: str
    parent: int
    """Row of the input table."""
    prompt: str
    operation: str | None
    """EDA's, in mode ``generate``."""
    captions: list[str]
    refusal: str | None = None
    """Why it is not to be made: a slug, a colon and the detail."""


def plan_rows(rows: Sequence[dict[str, Any]], section: RestyleParams) -> list[Item]:
    """List what is to be made of a shard, in uid order, each row the parent of at least one item.

    Args:
        rows: Columns `READ` of the input, in uid order.
        section: The mode and, for ``generate``, EDA.
    """
    return [item for at, row in enumerate(rows) for item in _of_row(row, at, section)]


def _of_row(row: dict[str, Any], at: int, section: RestyleParams) -> list[Item]:
    uid, refusal = row["uid"], None
    captions = [caption for caption in row["captions"] if caption.strip()]
    if section.mode == "generate":
        if row["status"] != OK:
            refusal = str(row["error"])
        elif row["split"] != TRAIN:
            refusal = f"other-split: captions of {row['split']} are no prompts"
        elif not captions:
            refusal = "no-caption: there is nothing to make a prompt of"
        if refusal is None:
            return _expanded(uid, at, captions, section)
        # What val and test say goes no further than here, not even beside a reason.
        kept = list(row["captions"]) if row["split"] == TRAIN else []
        return [Item(f"{uid}.g00", at, "", None, kept, refusal)]
    if row["status"] != OK:
        refusal = str(row["error"])
    elif not row["image"]:
        refusal = "empty: a row with status ok holds no picture"
    # Without a caption a picture is made over without words.
    prompt = captions[0] if captions else ""
    return [Item(f"{uid}.r0", at, prompt, None, list(row["captions"]), refusal)]


def _expanded(uid: str, at: int, captions: list[str], section: RestyleParams) -> list[Item]:
    synonyms = lexicon(section.synonyms)
    prompts = [
        variant
        for number, caption in enumerate(captions)
        for variant in expand_prompts(
            caption, f"{uid}/{number}", section.seed, synonyms=synonyms, alpha=section.alpha,
            variants=section.variants,
        )
    ]  # fmt: skip
    digits = max(2, len(str(len(prompts) - 1)))
    return [
        Item(f"{uid}.g{number:0{digits}d}", at, variant.text, variant.operation, [variant.text])
        for number, variant in enumerate(prompts)
    ]

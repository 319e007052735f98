"""Captions by a captioner: a model that is asked in one style or another and says what it sees.

A generated picture does not quite show what its prompt says, and twenty prompts made from one
sentence repeat each other. The paper throws the prompts away and describes every kept picture
anew with BLIP-2 (sec. 3.2); here any image-text-to-text model of transformers does.

One instruction gives one kind of sentence, and people do not write one kind: with several
`styles`, each caption of a picture is asked for in another one. docs/captioning.md says what that
is worth and which model to name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from models.captioner import Decoding, HubCaptioner
from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.shards import item_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.captioner import Captioner
    from tasks.caption.parameters import CaptionParams


def load_captioner(model: str, device: torch.device) -> Captioner:
    """Load the captioner of ``caption.captioner.model``.

    bfloat16 on a GPU: half the memory and twice the speed, and BLIP-2's language models overflow
    in float16.

    Raises:
        PedAlignError: There is no such model, or not the whole of it.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        return HubCaptioner.from_pretrained(model, device, dtype)
    except ValueError as error:
        raise PedAlignError(
            f"caption.captioner.model: {error}",
            "an image-text-to-text model of transformers by hub name or folder",
            "set caption.captioner.model to models/tiny/captioner or Salesforce/blip2-opt-2.7b, or "
            "caption.method to keep",
        ) from error


_Said = tuple[str, str, int]
"""A caption, its style and its seed."""


def styles_of(uid: str, section: CaptionParams) -> list[str]:
    """The style of each of a picture's captions.

    The styles in an order of the picture's own, from the start again where there are more captions
    than styles. Over many pictures every style is used equally often at every place.
    """
    names = sorted(
        section.captioner.styles,
        key=lambda name: (item_seed(uid, section.seed, f"style {name}"), name),
    )
    return [names[number % len(names)] for number in range(section.captions)]


def describe(
    table: pa.Table,
    rows: Sequence[int],
    captioner: Captioner,
    section: CaptionParams,
    errors: list[str | None],
) -> dict[str, list[Any]]:
    """Describe the usable pictures of a shard.

    Args:
        table: As of `caption_table`.
        rows: Those to describe.
        captioner: What describes pictures.
        section: The parameters.
        errors: One a row; filled in where a picture cannot be read.

    Returns:
        Columns ``captions``, ``styles`` and ``seeds``, one entry a row of the table.
    """
    said: list[list[_Said]] = [[] for _ in range(table.num_rows)]
    uids = table["uid"].to_pylist()
    styles = {row: styles_of(uids[row], section) for row in rows}
    # Pictures that are asked for in the same way share a batch. By number first: a picture's
    # captions come in their order.
    groups = [
        (number, style, [row for row in rows if styles[row][number] == style])
        for number in range(section.captions)
        for style in sorted(section.captioner.styles)
    ]
    size = section.captioner.batch
    batches = [
        (number, style, asked[start : start + size])
        for number, style, asked in groups
        for start in range(0, len(asked), size)
    ]
    for number, style, batch in tqdm(
        batches, desc="caption", unit="batch", disable=None, leave=False
    ):
        images, readable = pictures(table, batch, errors)
        if not images:
            continue
        seeds = [item_seed(uids[row], section.seed, f"caption {number}") for row in readable]
        spare = size - len(images)
        texts = captioner.caption(
            images + [images[-1]] * spare, seeds + [0] * spare, _decoding(section, style)
        )
        for row, text, seed in zip(readable, texts[: len(readable)], seeds, strict=True):
            # Two draws may agree; the same sentence twice says nothing.
            if text and all(text != other for other, _, _ in said[row]):
                said[row].append((text, style, seed))
    return {
        "captions": [[text for text, _, _ in each] for each in said],
        "styles": [[style for _, style, _ in each] or None for each in said],
        "seeds": [[seed for _, _, seed in each] or None for each in said],
    }


def pictures(
    table: pa.Table, rows: Sequence[int], errors: list[str | None]
) -> tuple[list[np.ndarray], list[int]]:
    """Decode a batch; rows that cannot be read get their reason and are left out."""
    images: list[np.ndarray] = []
    readable: list[int] = []
    for row, blob in zip(rows, table["image"].take(pa.array(rows)).to_pylist(), strict=True):
        try:
            images.append(np.asarray(decode(blob or b"")))
            readable.append(row)
        except ImageError as error:
            errors[row] = str(error)
    return images, readable


def _decoding(section: CaptionParams, style: str) -> Decoding:
    way = section.captioner.styles[style]
    return Decoding(
        prompt=way.prompt,
        max_new_tokens=section.captioner.max_new_tokens,
        beams=way.beams,
        temperature=way.temperature,
        top_p=way.top_p,
        repetition_penalty=section.captioner.repetition_penalty,
    )

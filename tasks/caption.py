"""Stage `caption`: new sentences for the pictures that passed the screening.

A generated picture does not quite show what its prompt says, and twenty prompts made from one
sentence repeat each other. The paper throws the prompts away and describes every kept picture
anew with BLIP-2 (PAPERS.md 1.4); `method: captioner` does that with any image-to-text model of
transformers, `method: prompt` keeps the words that the picture came with.

Unusual: batches are cut inside a shard and the last one is filled up, so a shard that is computed
again after a kill is computed exactly as before; what sampling draws depends on the picture's uid
and the seed alone.

    captioner = load_captioner(params, device)
    captioned = caption_table(restyled_joined_with_screened, captioner, params)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import pyarrow as pa
import torch
from pydantic import AfterValidator, Field, model_validator
from tqdm import tqdm

from models.captioner import Decoding, HubCaptioner
from tasks.errors import PedAlignError
from tasks.images import ImageError, decode
from tasks.params import NonNegative, Positive, params
from tasks.schemas import CAPTIONED, OK, REJECTED, conform
from tasks.shards import item_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.captioner import Captioner

METHODS = ("captioner", "prompt")
"""Ways to a caption. A third, by CLIP and templates (UniPT), is planned and not there yet."""


def _known_method(method: str) -> str:
    if method not in METHODS:
        planned = " is not built yet" if method == "clip_attributes" else " is no method"
        raise ValueError(f"{method!r}{planned}; the methods there are: {', '.join(METHODS)}")
    return method


@params
class CaptionParams:
    """Section ``caption``: where captions come from."""

    method: Annotated[str, AfterValidator(_known_method)]
    """``captioner`` describes every picture anew; ``prompt`` keeps the source's captions, or the
    prompt where there are none. With ``prompt`` nothing below matters."""
    model: str
    """Image-to-text model, a hub name or folder."""
    prompt: str
    """Instruction or first words given to the model; never part of the caption. May be empty."""
    captions: Positive
    """Captions a picture; more than one needs a temperature above 0."""
    max_new_tokens: Positive
    """Longest caption, tokens."""
    beams: Positive
    """Width of the beam search; 1 decodes greedily, or samples."""
    temperature: Annotated[float, Field(ge=0)]
    """0 takes the likeliest token; above, one is drawn: more diverse, less exact."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Share of probability that sampling draws from."""
    repetition_penalty: Annotated[float, Field(ge=1)]
    """Above 1, words that stand already become less likely."""
    batch: Positive
    """Pictures a forward pass. Another size changes floating-point noise, which can tip a close
    decision between two words, hence a parameter."""
    seed: NonNegative
    """Seed of sampling."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.captions > 1 and self.temperature == 0:
            raise ValueError(
                f"captions is {self.captions} and temperature 0: the likeliest sentence is one; "
                "set captions to 1 or temperature above 0"
            )
        if self.beams > 1 and self.temperature > 0:
            raise ValueError(
                f"beams is {self.beams} and temperature {self.temperature}: a beam search draws "
                "nothing; set beams to 1 or temperature to 0"
            )
        return self


def load_captioner(section: CaptionParams, device: torch.device) -> Captioner | None:
    """Load the captioner, or None where the method needs none.

    bfloat16 on a GPU: half the memory and twice the speed, and BLIP-2's language models overflow
    in float16.

    Raises:
        PedAlignError: There is no such model.
    """
    if section.method != "captioner":
        return None
    decoding = Decoding(
        prompt=section.prompt,
        max_new_tokens=section.max_new_tokens,
        beams=section.beams,
        temperature=section.temperature,
        top_p=section.top_p,
        repetition_penalty=section.repetition_penalty,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        return HubCaptioner.from_pretrained(section.model, decoding, device, dtype)
    except ValueError as error:
        raise PedAlignError(
            f"caption.model: {error}",
            "an image-to-text model of transformers by hub name or folder",
            "set caption.model to models/tiny/captioner or Salesforce/blip2-opt-2.7b, or "
            "caption.method to prompt",
        ) from error


def caption_table(table: pa.Table, captioner: Captioner | None, section: CaptionParams) -> pa.Table:
    """Give every usable picture of a shard its captions.

    Args:
        table: Columns ``uid``, ``image``, ``captions``, ``status``, ``error`` and, if there is
            one, ``prompt``; joined with the screening, whose status rules.
        captioner: What describes pictures; None with ``method: prompt``.
        section: The parameters.

    Returns:
        A ``captioned`` table, one row a row: rejected rows stay rejected, and a picture that
        nothing was said about is rejected with a reason.
    """
    if (captioner is None) != (section.method == "prompt"):
        raise PedAlignError(
            f"caption.method is {section.method!r} and there is {captioner!r} to caption with",
            "method captioner needs a model, method prompt uses none",
            "pass load_captioner(section, device)",
        )
    count = table.num_rows
    captions: list[list[str]] = [[] for _ in range(count)]
    errors: list[str | None] = table["error"].to_pylist()
    open_rows = [i for i, state in enumerate(table["status"].to_pylist()) if state == OK]
    if captioner is None:
        _keep_words(table, open_rows, captions)
    else:
        _describe(table, open_rows, captioner, section, captions, errors)
    for row in open_rows:
        if not captions[row] and errors[row] is None:
            errors[row] = f"no-caption: method {section.method} has nothing to say"
    columns = {
        "uid": table["uid"],
        "captions": captions,
        "method": [section.method] * count,
        "status": [OK if error is None else REJECTED for error in errors],
        "error": errors,
    }
    return conform(pa.table(columns, schema=CAPTIONED), "captioned")


def _keep_words(table: pa.Table, rows: list[int], captions: list[list[str]]) -> None:
    """Keep the source's captions, else the prompt."""
    sources = table["captions"].to_pylist()
    has_prompt = "prompt" in table.column_names
    prompts = table["prompt"].to_pylist() if has_prompt else [None] * table.num_rows
    for row in rows:
        words = [text for text in sources[row] or () if text.strip()]
        captions[row] = words or [text for text in (prompts[row],) if text and text.strip()]


def _describe(
    table: pa.Table,
    rows: list[int],
    captioner: Captioner,
    section: CaptionParams,
    captions: list[list[str]],
    errors: list[str | None],
) -> None:
    """Fill in a shard's new captions, and the reason where a picture cannot be read."""
    uids = table["uid"].to_pylist()
    for batch in tqdm(
        list(_batches(rows, section.batch)), desc="caption", unit="batch", disable=None, leave=False
    ):
        blobs = table["image"].take(pa.array(batch)).to_pylist()
        images: list[np.ndarray] = []
        readable: list[int] = []
        for row, blob in zip(batch, blobs, strict=True):
            try:
                images.append(np.asarray(decode(blob or b"")))
                readable.append(row)
            except ImageError as error:
                errors[row] = str(error)
        if not images:
            continue
        images += [images[-1]] * (section.batch - len(images))
        for number in range(section.captions):
            seeds = [item_seed(uids[row], section.seed, f"caption {number}") for row in readable]
            seeds += [0] * (section.batch - len(seeds))
            texts = captioner.caption(images, seeds)[: len(readable)]
            for row, text in zip(readable, texts, strict=True):
                # Two draws may agree; the same sentence twice says nothing.
                if text and text not in captions[row]:
                    captions[row].append(text)


def _batches(rows: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]

"""Stage `caption`: new sentences for the pictures that passed the screening.

A generated picture does not quite show what its prompt says, and twenty prompts made from one
sentence repeat each other. The paper throws the prompts away and describes every kept picture
anew with BLIP-2 (PAPERS.md 1.4); `method: captioner` does that with any image-text-to-text model
of transformers, `method: keep` keeps the words that the picture came with.

One instruction gives one kind of sentence, and people do not write one kind: with several
`styles`, each caption of a picture is asked for in another one. docs/captioning.md says what that
is worth and which model to name.

Unusual: batches are cut inside a shard and the last one of each style is filled up, so a shard
that is computed again after a kill is computed exactly as before; which style a caption has and
what sampling draws depend on the picture's uid and the seed alone.

    captioner = load_captioner(params.model, device) if params.method == "captioner" else None
    captioned = caption_table(restyled_joined_with_screened, captioner, params)
"""

from __future__ import annotations

from collections.abc import Mapping
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
    from collections.abc import Sequence

    from models.captioner import Captioner

METHODS = ("captioner", "keep")
"""Ways to a caption. A third, by CLIP and templates (UniPT), is planned and not there yet."""


def _known_method(method: str) -> str:
    if method not in METHODS:
        planned = " is not built yet" if method == "clip_attributes" else " is no method"
        raise ValueError(f"{method!r}{planned}; the methods there are: {', '.join(METHODS)}")
    return method


@params
class StyleParams:
    """One way of asking for a caption."""

    prompt: str
    """Instruction or first words given to the model; never part of the caption. May be empty."""
    beams: Positive
    """Width of the beam search; 1 decodes greedily, or samples."""
    temperature: Annotated[float, Field(ge=0)]
    """0 takes the likeliest token; above, one is drawn: more diverse, less exact."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Share of probability that sampling draws from."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.beams > 1 and self.temperature > 0:
            raise ValueError(
                f"beams is {self.beams} and temperature {self.temperature}: a beam search draws "
                "nothing; set beams to 1 or temperature to 0"
            )
        return self


@params
class CaptionParams:
    """Section ``caption``: where captions come from."""

    method: Annotated[str, AfterValidator(_known_method)]
    """``captioner`` describes every picture anew; ``keep`` keeps the source's captions, or the
    prompt where there are none. With ``keep`` nothing below matters."""
    model: str
    """Image-text-to-text model, a hub name or folder."""
    styles: Annotated[Mapping[str, StyleParams], Field(min_length=1)]
    """Ways of asking, by name. Each caption of a picture has another style, in an order drawn by
    the picture's uid; with fewer captions than styles, a picture gets some of them."""
    captions: Positive
    """Captions a picture. `annotate`, and so pretraining, takes the first; an export takes all."""
    max_new_tokens: Positive
    """Longest caption, tokens."""
    repetition_penalty: Annotated[float, Field(ge=1)]
    """Above 1, words that stand already become less likely."""
    batch: Positive
    """Pictures a forward pass. Another size changes floating-point noise, which can tip a close
    decision between two words, hence a parameter."""
    seed: NonNegative
    """Seed of sampling and of the choice of styles."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        fixed = [name for name, style in self.styles.items() if style.temperature == 0]
        if self.captions > len(self.styles) and fixed:
            raise ValueError(
                f"captions is {self.captions}, there are {len(self.styles)} styles, and the "
                f"temperature of {', '.join(fixed)} is 0: a second caption in that style would be "
                "the first again; set captions to the number of styles or the temperature above 0"
            )
        return self


def load_captioner(model: str, device: torch.device) -> Captioner:
    """Load the captioner of ``caption.model``.

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
            f"caption.model: {error}",
            "an image-text-to-text model of transformers by hub name or folder",
            "set caption.model to models/tiny/captioner or Salesforce/blip2-opt-2.7b, or "
            "caption.method to keep",
        ) from error


def caption_table(table: pa.Table, captioner: Captioner | None, section: CaptionParams) -> pa.Table:
    """Give every usable picture of a shard its captions.

    Args:
        table: Columns ``uid``, ``image``, ``captions``, ``status``, ``error`` and, if there is
            one, ``prompt``; joined with the screening, whose status rules.
        captioner: What describes pictures; None with ``method: keep``.
        section: The parameters.

    Returns:
        A ``captioned`` table, one row a row: rejected rows stay rejected, and a picture that
        nothing was said about is rejected with a reason.
    """
    if (captioner is None) != (section.method == "keep"):
        raise PedAlignError(
            f"caption.method is {section.method!r} and there is {captioner!r} to caption with",
            "method captioner needs a model, method keep uses none",
            "pass load_captioner(section.model, device), or None with keep",
        )
    count = table.num_rows
    said: list[list[_Said]] = [[] for _ in range(count)]
    errors: list[str | None] = table["error"].to_pylist()
    open_rows = [i for i, state in enumerate(table["status"].to_pylist()) if state == OK]
    if captioner is None:
        kept = _keep_words(table, open_rows)
        captions = [kept.get(row, []) for row in range(count)]
    else:
        _describe(table, open_rows, captioner, section, said, errors)
        captions = [[text for text, _, _ in sentences] for sentences in said]
    for row in open_rows:
        if not captions[row] and errors[row] is None:
            errors[row] = f"no-caption: method {section.method} has nothing to say"
    columns = {
        "uid": table["uid"],
        "captions": captions,
        "method": [section.method] * count,
        "styles": [[style for _, style, _ in each] or None for each in said],
        "seeds": [[seed for _, _, seed in each] or None for each in said],
        "status": [OK if error is None else REJECTED for error in errors],
        "error": errors,
    }
    return conform(pa.table(columns, schema=CAPTIONED), "captioned")


_Said = tuple[str, str, int]
"""A caption, its style and its seed."""


def styles_of(uid: str, section: CaptionParams) -> list[str]:
    """The style of each of a picture's captions.

    The styles in an order of the picture's own, from the start again where there are more captions
    than styles. Over many pictures every style is used equally often at every place.
    """
    names = sorted(
        section.styles, key=lambda name: (item_seed(uid, section.seed, f"style {name}"), name)
    )
    return [names[number % len(names)] for number in range(section.captions)]


def _keep_words(table: pa.Table, rows: Sequence[int]) -> dict[int, list[str]]:
    """Keep the source's captions, else the prompt."""
    sources = table["captions"].to_pylist()
    has_prompt = "prompt" in table.column_names
    prompts = table["prompt"].to_pylist() if has_prompt else [None] * table.num_rows
    kept = {}
    for row in rows:
        words = [text for text in sources[row] or () if text.strip()]
        kept[row] = words or [text for text in (prompts[row],) if text and text.strip()]
    return kept


def _describe(
    table: pa.Table,
    rows: Sequence[int],
    captioner: Captioner,
    section: CaptionParams,
    said: list[list[_Said]],
    errors: list[str | None],
) -> None:
    """Fill in a shard's new captions, and the reason where a picture cannot be read."""
    uids = table["uid"].to_pylist()
    styles = {row: styles_of(uids[row], section) for row in rows}
    # Pictures that are asked for in the same way share a batch. By number first: a picture's
    # captions come in their order.
    groups = [
        (number, style, [row for row in rows if styles[row][number] == style])
        for number in range(section.captions)
        for style in sorted(section.styles)
    ]
    size = section.batch
    batches = [
        (number, style, asked[start : start + size])
        for number, style, asked in groups
        for start in range(0, len(asked), size)
    ]
    for number, style, batch in tqdm(
        batches, desc="caption", unit="batch", disable=None, leave=False
    ):
        images, readable = _pictures(table, batch, errors)
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


def _pictures(
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
    way = section.styles[style]
    return Decoding(
        prompt=way.prompt,
        max_new_tokens=section.max_new_tokens,
        beams=way.beams,
        temperature=way.temperature,
        top_p=way.top_p,
        repetition_penalty=section.repetition_penalty,
    )

"""Stage `caption`: new sentences for the pictures that passed the screening.

Three methods. `captioner` describes every picture anew with a model that speaks (`describing`);
`clip_attributes` asks a model of pictures and texts for 14 attributes and puts them into sentences
(`seeing`, `writing`; UniPT); `keep` keeps the words that the picture came with.

Unusual: no batch spans two shards, and which pictures share one follows from the shard alone, so
what a kill interrupts comes out the same the second time; which style or template a caption has and
what sampling draws depend on the picture's uid and the seed alone.

    speaker = load_captioner(params.captioner.model, device)  # or load_reader, or None with keep
    captioned = caption_table(restyled_joined_with_screened, speaker, params)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tasks.caption.describing import describe
from tasks.caption.seeing import AttributeReader, say_what_is_seen
from tasks.errors import PedAlignError
from tasks.schemas import CAPTIONED, OK, REJECTED, conform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.captioner import Captioner
    from tasks.caption.parameters import CaptionParams


def caption_table(
    table: pa.Table, speaker: Captioner | AttributeReader | None, section: CaptionParams
) -> pa.Table:
    """Give every usable picture of a shard its captions.

    Args:
        table: Columns ``uid``, ``image``, ``captions``, ``status``, ``error`` and, if there is
            one, ``prompt``; joined with the screening, whose status rules.
        speaker: What looks at pictures: from `load_captioner` or `load_reader`; None with ``keep``.
        section: The parameters.

    Returns:
        A ``captioned`` table, one row a row: rejected rows stay rejected, and a picture that
        nothing was said about is rejected with a reason.
    """
    errors: list[str | None] = table["error"].to_pylist()
    rows = [i for i, state in enumerate(table["status"].to_pylist()) if state == OK]
    if speaker is None and section.method == "keep":
        made = _keep_words(table, rows)
    elif isinstance(speaker, AttributeReader) and section.method == "clip_attributes":
        made = say_what_is_seen(table, rows, speaker, section, errors)
    elif (
        speaker is not None
        and not isinstance(speaker, AttributeReader)
        and section.method == "captioner"
    ):
        made = describe(table, rows, speaker, section, errors)
    else:
        raise PedAlignError(
            f"caption.method is {section.method!r} and there is {speaker!r} to caption with",
            "method captioner needs a captioner, clip_attributes a reader of attributes, keep uses "
            "none",
            "pass load_captioner(...), load_reader(...) or None",
        )
    for row in rows:
        if not made["captions"][row] and errors[row] is None:
            errors[row] = f"no-caption: method {section.method} has nothing to say"
    count = table.num_rows
    columns = {
        "uid": table["uid"],
        "method": [section.method] * count,
        **{name: [None] * count for name in ("styles", "seeds", "templates", "attributes")},
        **made,
        "status": [OK if error is None else REJECTED for error in errors],
        "error": errors,
    }
    return conform(pa.table(columns, schema=CAPTIONED), "captioned")


def _keep_words(table: pa.Table, rows: Sequence[int]) -> dict[str, list[Any]]:
    """Keep the source's captions, else the prompt."""
    sources = table["captions"].to_pylist()
    has_prompt = "prompt" in table.column_names
    prompts = table["prompt"].to_pylist() if has_prompt else [None] * table.num_rows
    kept: list[list[str]] = [[] for _ in range(table.num_rows)]
    for row in rows:
        words = [text for text in sources[row] or () if text.strip()]
        kept[row] = words or [text for text in (prompts[row],) if text and text.strip()]
    return {"captions": kept}

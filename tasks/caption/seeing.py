"""Captions by attributes: ask a model of pictures and texts what it sees, and say that.

UniPT's way (its sec. 3) to a caption for a picture that nobody described. Divide: 14 attributes
with their values (`vocabulary`). Conquer: the picture is compared with a prompt for every value
(`models.zeroshot`); a required attribute has the likeliest value, an optional one is kept only
where its likeliest value is likelier than a threshold and is not that there is none. Combine:
templates and synonyms (`writing`).

Unusual: what is remembered of a picture is no text but attributes with probabilities, so that a
row says why its caption says what it says.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from tqdm import tqdm

from models.zeroshot import PromptBank, ZeroShot
from tasks.caption.vocabulary import REQUIRED, Value, Vocabulary, read_vocabulary
from tasks.caption.writing import Writer
from tasks.errors import PedAlignError
from tasks.images import ImageError, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tasks.caption.parameters import AttributesParams, CaptionParams


class Seen(NamedTuple):
    """A value that a picture shows."""

    value: Value
    score: float
    """Its probability among the values of its attribute."""


@dataclass(frozen=True)
class AttributeReader:
    """A loaded model with the prompts of a vocabulary, and the writer of its captions."""

    model: ZeroShot
    bank: PromptBank
    vocabulary: Vocabulary
    writer: Writer
    threshold: float

    def read(self, pixels_BHW3: NDArray[np.uint8]) -> list[list[Seen]]:
        """What each picture shows: a value of every required attribute, and what else is likely.

        Args:
            pixels_BHW3: Pictures at the model's size.
        """
        best_BA, probability_BA = self.model.answer(torch.from_numpy(pixels_BHW3), self.bank)
        return kept(best_BA.numpy(), probability_BA.numpy(), self.vocabulary, self.threshold)


def load_reader(section: AttributesParams, device: torch.device) -> AttributeReader:
    """Load the model of ``caption.clip_attributes`` and look at all prompts.

    bfloat16 on a GPU.

    Raises:
        PedAlignError: There is no such model or file, or one of them is not whole.
    """
    vocabulary = read_vocabulary(Path(section.attributes))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        model = ZeroShot.from_pretrained(section.model, device, dtype)
        bank = model.bank(vocabulary.prompts, vocabulary.sizes)
    except ValueError as error:
        raise PedAlignError(
            f"caption.clip_attributes: {error}",
            "a model of pictures and texts of transformers by hub name or folder, whose texts are "
            "as long as every prompt",
            "set caption.clip_attributes.model to openai/clip-vit-base-patch16, or caption.method "
            "to captioner",
        ) from error
    return AttributeReader(model, bank, vocabulary, Writer(vocabulary), section.threshold)


def kept(
    best_BA: NDArray[np.int64],
    probability_BA: NDArray[np.float32],
    vocabulary: Vocabulary,
    threshold: float,
) -> list[list[Seen]]:
    """Keep what may be said of each picture.

    Args:
        best_BA: Number of the likeliest value of each attribute.
        probability_BA: Its probability.
        vocabulary: Whose attributes and values these are.
        threshold: An optional attribute is kept where the probability is above it.

    Returns:
        The values of each picture with their scores, in the order of the attributes.
    """
    groups = list(vocabulary.values.values())
    required_A = np.array([name in REQUIRED for name in vocabulary.values])
    absent = [np.array([value.absent for value in group]) for group in groups]
    there_BA = np.stack([~each[best_BA[:, at]] for at, each in enumerate(absent)], axis=1)
    keep_BA = required_A | (there_BA & (probability_BA > np.float32(threshold)))
    seen: list[list[Seen]] = [[] for _ in best_BA]
    rows, columns = np.nonzero(keep_BA)
    for row, at, number, score in zip(
        rows.tolist(), columns.tolist(), best_BA[rows, columns].tolist(),
        probability_BA[rows, columns].tolist(), strict=True,
    ):  # fmt: skip
        seen[row].append(Seen(groups[at][number], score))
    return seen


def say_what_is_seen(
    table: pa.Table,
    rows: Sequence[int],
    reader: AttributeReader,
    section: CaptionParams,
    errors: list[str | None],
    workers: int = 2,
) -> dict[str, list[Any]]:
    """Caption the usable pictures of a shard by their attributes.

    Args:
        table: As of `caption_table`.
        rows: Those to caption.
        reader: From `load_reader`.
        section: The parameters.
        errors: One a row; filled in where a picture cannot be read.
        workers: Decoding threads; no result depends on it.

    Returns:
        Columns ``captions``, ``templates`` and ``attributes``, one entry a row of the table.
    """
    uids = table["uid"].to_pylist()
    count = table.num_rows
    captions: list[list[str]] = [[] for _ in range(count)]
    templates: list[list[str] | None] = [None] * count
    attributes: list[list[dict[str, Any]] | None] = [None] * count
    size = section.clip_attributes.batch
    height, width = reader.model.size
    pixels_BHW3 = np.zeros((size, height, width, 3), np.uint8)
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(workers) as pool:
        waiting = [_decoding(pool, table, batch, (height, width)) for batch in batches[:1]]
        for at, batch in enumerate(
            tqdm(batches, desc="caption", unit="batch", disable=None, leave=False)
        ):
            found = waiting.pop()
            # The next pictures are decoded while the model looks at these.
            waiting += [
                _decoding(pool, table, more, (height, width)) for more in batches[at + 1 : at + 2]
            ]
            readable: list[int] = []
            for row, picture in zip(batch, found, strict=True):
                if isinstance(picture, ImageError):
                    errors[row] = str(picture)
                    continue
                pixels_BHW3[len(readable)] = picture
                readable.append(row)
            if not readable:
                continue
            # The last batch is filled up: whatever stands behind it is not looked at again.
            pixels_BHW3[len(readable) :] = 0
            for row, seen in zip(readable, reader.read(pixels_BHW3)[: len(readable)], strict=True):
                said = reader.writer.write(
                    uids[row], (each.value for each in seen), section.captions, section.seed
                )
                captions[row] = [sentence.text for sentence in said]
                templates[row] = [sentence.template for sentence in said]
                attributes[row] = [
                    {"attribute": value.attribute, "value": value.name, "score": score}
                    for value, score in seen
                ]
    return {"captions": captions, "templates": templates, "attributes": attributes}


def _decoding(
    pool: ThreadPoolExecutor, table: pa.Table, rows: Sequence[int], size: tuple[int, int]
) -> Any:
    """Begin to decode some pictures; what is returned gives them in their order."""
    blobs = table["image"].take(pa.array(rows, pa.int64())).to_pylist()
    return pool.map(lambda blob: _stretched(blob, size), blobs)


def _stretched(blob: bytes | None, size: tuple[int, int]) -> NDArray[np.uint8] | ImageError:
    """A picture at a model's size, height first."""
    try:
        return np.asarray(decode(blob or b"").resize(size[::-1], Image.Resampling.BICUBIC))
    except ImageError as error:
        return error

"""From shard folders to training batches: pairs, pixels and collation; `tasks.order` says when.

A *pair* is one example: an image with one caption, and for pretraining its phrases and boxes.
`read_pairs` reads what is small (captions, boxes, identities) into flat arrays; the pictures stay
in their Parquet row groups and are decoded when asked for, or once, where they all fit into
`CACHE_BYTES`.

What is unusual:

- every draw for a pair (region, crop, flip, erasing, EDA, masking) comes from one generator seeded
  by ``item_seed(pair, seed, epoch)``, so order, workers and a resume change nothing;
- a batch is made as a whole: one pass over the texts, one over the pixels.

Shapes: B pairs, L positions, P patches, R regions, N pairs in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tasks.augment import DRAWS, Recipe, augment
from tasks.eda import Lexicon, vary
from tasks.errors import PedAlignError
from tasks.pictures import Pictures
from tasks.schemas import OK
from tasks.shards import item_seed, join_side, read_manifest, read_shard
from tasks.tokens import Masking, Words

Batch = dict[str, Tensor]
Identity = Literal["image", "person"]

WHOLE = np.array([0.5, 0.5, 1.0, 1.0], dtype=np.float32)


@dataclass(frozen=True)
class Pairs:
    """The examples of a folder of shards, in uid order, without their pixels."""

    uids: pa.Array
    """(I,) uid of each image."""
    names: pa.Array
    """(I,) person_id of each image; null where unknown."""
    people: NDArray[np.int64]
    """(I,) identity of each image, numbered as ``person``."""
    image: NDArray[np.int64]
    """(N,) which image."""
    caption: pa.Array
    """(N,) its caption."""
    turn: NDArray[np.int64]
    """(N,) which of the image's captions, from 0."""
    person: NDArray[np.int64]
    """(N,) identity: pairs with the same number are positives of each other."""
    first: NDArray[np.int64]
    """(N + 1,) where a pair's regions begin in the arrays below."""
    box: NDArray[np.float32]
    """(R, 4) cx, cy, w, h in [0, 1]."""
    phrase: NDArray[np.int64]
    """(R,) index into ``phrases``."""
    phrases: pa.Array
    """The distinct phrases."""
    skipped: Mapping[str, int]
    """Rows left out, by reason."""

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.image)

    def name(self, at: int) -> str:
        """Name a pair: its image's uid and which caption."""
        return f"{self.uids[int(self.image[at])].as_py()}#{self.turn[at]}"


def read_pairs(
    images: Path,
    texts: Path | None = None,
    *,
    split: str | None,
    identity: Identity,
    people: Callable[[pa.ChunkedArray], NDArray[np.bool_]] | None = None,
    bare: bool = False,
    cache_bytes: int | None = None,
) -> tuple[Pairs, Pictures]:
    """Read a folder of shards as pairs.

    Args:
        images: Folder with schema ``images`` or ``restyled``.
        texts: Side tables that say what is in the pictures, instead of the shards' own captions:
            of schema ``annotated``, one caption an image with its phrases and regions, or
            ``captioned``, any number. Rows that they refuse are left out.
        split: Only rows of this split; None takes all.
        identity: What makes two pairs positives: being of one ``image`` or of one ``person``.
        people: Says by the column ``person_id`` which rows of the split are wanted; None: all.
        bare: Whether to keep pictures without a caption: in no pair, but in a gallery.
        cache_bytes: See `Pictures`.

    Returns:
        The pairs and their pictures.

    Raises:
        PedAlignError: The folders do not belong together, or nothing is left.
    """
    manifest = read_manifest(images)
    told = read_manifest(texts) if texts else None
    annotated = told is not None and told.schema_name == "annotated"
    sides = {record.name: record for record in told.shards} if told else {}
    columns = ["uid", "split", "person_id", "captions", "width", "height", "status", "error"]
    metas: list[pa.Table] = []
    places: list[NDArray[np.int64]] = []
    skipped: dict[str, int] = {}
    for number, record in enumerate(manifest.shards):
        table = read_shard(images, record, columns, verify=False)
        usable = pc.equal(table["status"], OK)
        if texts is not None:
            if record.name not in sides:
                raise PedAlignError(
                    f"{texts}: no shard {record.name}, which {images} has",
                    "annotations and captions hold the same shards as the images they describe",
                    "run dvc repro: the two folders come from different runs",
                )
            side = read_shard(texts, sides[record.name])
            table = join_side(table, side)
            usable = pc.and_(usable, pc.equal(side["status"], OK))
        captions: Any
        if annotated:
            captions = pc.fill_null(pc.greater(pc.utf8_length(table["caption"]), 0), False)
        else:
            captions = _spoken(table["captions"].combine_chunks())
        wanted = pa.array([True] * len(table)) if split is None else pc.equal(table["split"], split)
        if people is not None:
            wanted = pc.and_(wanted, pa.array(people(table["person_id"])))
        if bare:
            captions = pa.array([True] * len(table))
        for reason, mask in (
            ("not usable", pc.and_(wanted, pc.invert(usable))),
            ("no caption", pc.and_(wanted, pc.and_(usable, pc.invert(captions)))),
        ):
            if count := pc.sum(mask).as_py():
                skipped[reason] = skipped.get(reason, 0) + count
        keep = pc.and_(wanted, pc.and_(usable, captions)).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(keep)
        metas.append(table.take(pa.array(rows)))
        places.append(np.stack([np.full_like(rows, number), rows], axis=1))
    meta = pa.concat_tables(metas).combine_chunks()
    pairs = (_annotated if annotated else _captioned)(meta, identity, skipped)
    if not len(pairs):
        raise PedAlignError(
            f"{images}: no usable pair (split {split or 'any'}; left out: {skipped or 'nothing'})",
            "training needs images with captions",
            "look at the counts in the folder's manifest.json, or correct the split",
        )
    pictures = Pictures(
        images,
        np.concatenate(places),
        meta["height"].to_numpy().astype(np.int64),
        meta["width"].to_numpy().astype(np.int64),
        cache_bytes=cache_bytes,
    )
    return pairs, pictures


def _identities(meta: pa.Table, identity: Identity) -> NDArray[np.int64]:
    """Number the identities of a table's rows, (I,); an unknown person is one of their own."""
    own = np.arange(len(meta), dtype=np.int64)
    if identity == "image":
        return own
    names = pc.rank(meta["person_id"], sort_keys="ascending", tiebreaker="dense")
    known = meta["person_id"].is_valid().to_numpy(zero_copy_only=False)
    numbers = names.to_numpy(zero_copy_only=False).astype(np.int64) - 1
    return np.where(known, numbers, len(numbers) + own)


def _said(captions: pa.Array) -> NDArray[np.bool_]:
    """Which captions say anything."""
    length = pc.utf8_length(pc.utf8_trim_whitespace(captions))
    return pc.fill_null(pc.greater(length, 0), False).to_numpy(zero_copy_only=False)


def _spoken(captions: pa.Array) -> pa.Array:
    """Which rows of a list column have at least one caption that says anything."""
    parents = pc.list_parent_indices(captions).to_numpy(zero_copy_only=False)
    rows = np.zeros(len(captions), dtype=np.bool_)
    rows[parents[_said(pc.list_flatten(captions))]] = True
    return pa.array(rows)


def _captioned(meta: pa.Table, identity: Identity, skipped: Mapping[str, int]) -> Pairs:
    """Make one pair of every caption of every image."""
    column = meta["captions"].combine_chunks()
    image = pc.list_parent_indices(column).to_numpy(zero_copy_only=False).astype(np.int64)
    turn = np.arange(len(image)) - np.searchsorted(image, image, side="left")
    said = _said(pc.list_flatten(column))
    image, turn = image[said], turn[said]
    count = len(image)
    people = _identities(meta, identity)
    return Pairs(
        uids=meta["uid"].combine_chunks(),
        names=meta["person_id"].combine_chunks(),
        image=image,
        caption=pc.list_flatten(column).filter(pa.array(said)),
        turn=turn,
        people=people,
        person=people[image],
        first=np.zeros(count + 1, dtype=np.int64),
        box=np.zeros((0, 4), dtype=np.float32),
        phrase=np.zeros(0, dtype=np.int64),
        phrases=pa.array([], pa.string()),
        skipped=skipped,
    )


def _annotated(meta: pa.Table, identity: Identity, skipped: Mapping[str, int]) -> Pairs:
    """Make one pair of every image: its annotated caption with phrases and boxes."""
    regions, phrases = meta["regions"].combine_chunks(), meta["phrases"].combine_chunks()
    per_image = pc.fill_null(pc.list_value_length(regions), 0).to_numpy(zero_copy_only=False)
    per_text = pc.fill_null(pc.list_value_length(phrases), 0).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(regions)
    parent = np.repeat(np.arange(len(meta)), per_image)
    # A region names its phrase by the place inside its own row's list.
    text_at = np.concatenate([[0], np.cumsum(per_text)])[parent] + flat.field("phrase").to_numpy(
        zero_copy_only=False
    )
    texts = pc.list_flatten(phrases).field("text").take(pa.array(text_at)).dictionary_encode()
    boxes = flat.field("box").flatten().to_numpy(zero_copy_only=False)
    count = len(meta)
    people = _identities(meta, identity)
    return Pairs(
        uids=meta["uid"].combine_chunks(),
        names=meta["person_id"].combine_chunks(),
        image=np.arange(count),
        caption=meta["caption"].combine_chunks(),
        turn=np.zeros(count, dtype=np.int64),
        people=people,
        person=people,
        first=np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64),
        box=boxes.reshape(-1, 4).astype(np.float32),
        phrase=texts.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        phrases=texts.dictionary,
        skipped=skipped,
    )


# ------------------------------------------------------------------ batches


@dataclass(frozen=True)
class Preparation:
    """What a batch holds besides the image, the caption and the identity."""

    image: Recipe
    words: Words
    masking: Masking | None
    """How pieces are masked for language modelling; None masks none."""
    seed: int
    regions: bool = False
    """Whether to draw a region and its phrase."""
    eda_alpha: float | None = None
    """Share of words changed in the caption's EDA twin; None makes none."""
    lexicon: Lexicon | None = None
    """Synonyms for the twin."""
    trim: bool = True
    """Whether to cut texts to the batch's longest: the model must not look at pads then."""


class PairDataset(Dataset[Batch]):
    """Whole batches by key (epoch, pair), each pair's draws from its own seed."""

    def __init__(self, pairs: Pairs, pictures: Pictures, preparation: Preparation) -> None:
        """Bind pairs to their preparation."""
        self.pairs, self.pictures, self.preparation = pairs, pictures, preparation
        # Phrases are numbered after the images and persons, so that the two never meet.
        self.phrase_base = int(pairs.person.max()) + 1

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        """Make a batch of one."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """Make the batch of some keys (epoch, pair).

        Returns:
            image (B, 3, H, W) float32; ids, mask (B, L); person (B,); with masking: masked_ids,
            masked_labels (B, L); with regions: region_ids, region_mask (B, L), phrase_id (B,),
            patch_mask (B, P); with EDA: eda_ids, eda_mask (B, L). All but the image are int64.
        """
        pairs, make = self.pairs, self.preparation
        rows = np.array([row for _, row in keys], dtype=np.int64)
        rngs = [
            np.random.default_rng(item_seed(pairs.name(row), make.seed, str(epoch)))
            for epoch, row in keys
        ]
        draws = np.stack([rng.random(DRAWS) for rng in rngs])
        captions = pairs.caption.take(pa.array(rows)).to_pylist()
        person = pairs.person[rows]

        boxes, phrases, phrase_id = self._regions(rows, draws[:, 0], captions, person)
        pictures = self.pictures.read(pairs.image[rows])
        image, patch_mask = augment(pictures, boxes, draws, make.image)

        ids, mask = make.words.encode(captions)
        batch: dict[str, NDArray[np.int64]] = {"person": person, "ids": ids, "mask": mask}
        if (how := make.masking) is not None:
            masked = [make.words.mask(each, rng, how) for each, rng in zip(ids, rngs, strict=True)]
            batch["masked_ids"], batch["masked_labels"] = map(np.stack, zip(*masked, strict=True))
        if make.regions:
            batch["phrase_id"] = phrase_id
            batch["region_ids"], batch["region_mask"] = make.words.encode(phrases)
        if make.eda_alpha is not None and make.lexicon is not None:
            twins = [
                vary(text, rng, alpha=make.eda_alpha, count=1, synonyms=make.lexicon)[0].text
                for text, rng in zip(captions, rngs, strict=True)
            ]
            batch["eda_ids"], batch["eda_mask"] = make.words.encode(twins)
        if make.trim:
            _trim(batch)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in batch.items()}
        tensors["image"] = image
        if make.regions:
            tensors["patch_mask"] = patch_mask
        return tensors

    def _regions(
        self,
        rows: NDArray[np.int64],
        draw: NDArray[np.float64],
        captions: list[str],
        person: NDArray[np.int64],
    ) -> tuple[NDArray[np.float64], list[str], NDArray[np.int64]]:
        """Draw one region a pair; the whole image and caption where there is none."""
        pairs = self.pairs
        boxes = np.tile(WHOLE.astype(np.float64), (len(rows), 1))
        phrases, phrase_id = list(captions), person.copy()
        if not self.preparation.regions:
            return boxes, phrases, phrase_id
        begin, end = pairs.first[rows], pairs.first[rows + 1]
        picked = begin + np.floor(draw * (end - begin)).astype(np.int64)
        for at in np.flatnonzero(end > begin):
            region = picked[at]
            boxes[at] = pairs.box[region]
            phrases[at] = pairs.phrases[int(pairs.phrase[region])].as_py()
            phrase_id[at] = self.phrase_base + pairs.phrase[region]
        return boxes, phrases, phrase_id


def _trim(batch: dict[str, NDArray[np.int64]]) -> None:
    """Cut each text of a batch to its longest."""
    for mask, names in (
        ("mask", ("ids", "masked_ids", "masked_labels")),
        ("region_mask", ("region_ids",)),
        ("eda_mask", ("eda_ids",)),
    ):
        if mask in batch:
            longest = int(batch[mask].sum(1).max())
            for name in (mask, *names):
                if name in batch:
                    batch[name] = batch[name][:, :longest]

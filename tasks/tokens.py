"""Captions to ids, and the masking of masked language modelling.

BERT's word pieces and CLIP's byte pairs are read; CLIP has no mask token, so that its words are
never masked.

What is unusual: masking works on the ids of one caption with a generator seeded from the caption's
uid, so a caption is masked the same way wherever and in whatever order it is met. Two readings of
the method are offered (docs/deviations.md): the release masks the whole padded sequence, pads and
[SEP] included, always the same number of places; the paper's 25 % is of the caption's own pieces.

Shapes: B captions, L positions.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import (
    BertTokenizerFast,
    CLIPTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from tasks.errors import PedAlignError

IGNORED = -100
"""Label of a position whose piece is not to be predicted."""

Ids = NDArray[np.int64]
Cleaning = Literal["raw", "alphanumeric"]


def clean_caption(caption: str, cleaning: Cleaning, max_words: int) -> str:
    """Clean a caption as the release does.

    Args:
        caption: Any text.
        cleaning: ``raw`` leaves it alone (CUHK-PEDES, SDA); ``alphanumeric`` lowers it and turns
            whatever is no digit or Latin letter into single spaces (ICFG-PEDES, RSTPReid).
        max_words: Words, split at spaces, that stay.
    """
    if cleaning == "alphanumeric":
        caption = re.sub(r"[^0-9a-z]+", " ", caption.lower())
    words = caption.split(" ")
    return caption if len(words) <= max_words else " ".join(words[:max_words])


@dataclass(frozen=True)
class Masking:
    """How pieces are chosen and replaced (release: dataset/retrieval_dataset.py)."""

    share: float = 0.25
    """Share of the positions to predict."""
    most: int = 10
    """Largest number of positions to predict."""
    skipgram: float = 0.2
    """Probability that a visited position takes two or three pieces instead of one."""
    pads: bool = False
    """Whether [SEP] and pads can be chosen and count towards the share, as in the release."""


class Words:
    """A tokenizer with the project's caption clean-up and fixed length."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, length: int, cleaning: Cleaning = "raw"
    ) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: Of BERT or CLIP, from `load_tokenizer`.
            length: Positions L of every caption, start and end included; also the most words.
            cleaning: See `clean_caption`.
        """
        self.tokenizer, self.length, self.cleaning = tokenizer, length, cleaning
        self.masks = tokenizer.mask_token is not None
        """Whether `mask` can be called."""
        ids = tokenizer.get_vocab()  # of a piece that stands twice in vocab.txt, the last
        self.continues = np.zeros(max(ids.values()) + 1, dtype=np.bool_)
        if self.masks:
            self.continues[[at for piece, at in ids.items() if piece.startswith("##")]] = True
        """(V,) whether a piece goes on with the word before it; CLIP's pieces do not tell."""
        self.mask_id = int(tokenizer.mask_token_id) if self.masks else None
        self.pad_id = int(tokenizer.pad_token_id)
        self.sep_id = int(tokenizer.sep_token_id if self.masks else tokenizer.eos_token_id)

    def encode(self, captions: list[str]) -> tuple[Ids, Ids]:
        """Tokenise captions.

        Returns:
            ids (B, L), padded, and mask (B, L), 1 where a piece is.
        """
        cleaned = [clean_caption(each, self.cleaning, self.length) for each in captions]
        out = self.tokenizer(
            cleaned,
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_attention_mask=True,
            return_tensors="np",
        )
        return out["input_ids"].astype(np.int64), out["attention_mask"].astype(np.int64)

    def mask(self, ids: Ids, rng: np.random.Generator, masking: Masking) -> tuple[Ids, Ids]:
        """Mask one caption for language modelling.

        Args:
            ids: (L,) of one caption, padded.
            rng: The item's generator.
            masking: How.

        Returns:
            masked ids (L,) and labels (L,), `IGNORED` where nothing is predicted.

        Raises:
            PedAlignError: The tokenizer has no mask token.
        """
        if self.mask_id is None:
            raise PedAlignError(
                f"masked words for a {type(self.tokenizer).__name__}",
                "masked language modelling puts a mask token in their place, and CLIP has none",
                "set the objective's mlm_weight to 0, or start from a BERT",
            )
        usable = len(ids)
        if not masking.pads:
            usable = int((ids != self.pad_id).sum()) - 1  # without [SEP]
        wanted = min(masking.most, max(1, round(usable * masking.share)))
        chosen = self._choose(ids[:usable], wanted, rng, masking.skipgram)
        masked, labels = ids.copy(), np.full_like(ids, IGNORED)
        labels[chosen] = ids[chosen]
        draws = rng.random(len(chosen))
        masked[chosen[draws < 0.8]] = self.mask_id
        swapped = chosen[(draws >= 0.8) & (draws < 0.9)]
        masked[swapped] = rng.integers(len(self.continues), size=len(swapped))
        return masked, labels

    def _choose(
        self, ids: Ids, wanted: int, rng: np.random.Generator, skipgram: float
    ) -> NDArray[np.int64]:
        """Choose positions by whole words and short runs of words; position 0 never."""
        continues = self.continues[ids]
        chosen: set[int] = set()
        for visited in rng.permutation(np.arange(1, len(ids))):
            if len(chosen) >= wanted:
                break
            start = int(visited)
            if start in chosen:
                continue
            stop = start + (int(rng.integers(2, 4)) if rng.random() < skipgram else 1)
            while start > 0 and continues[start]:
                start -= 1
            while stop < len(ids) and continues[stop]:
                stop += 1
            chosen.update(range(max(start, 1), min(stop, len(ids))))
        places = np.array(sorted(chosen), dtype=np.int64)
        if len(places) > wanted:
            places = np.sort(rng.permutation(places)[:wanted])
        return places


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model's folder (or of a model named on the hub): BERT's or CLIP's.

    Raises:
        PedAlignError: There is none, or it lacks a special token that training needs.
    """
    clip = _is_clip(folder)
    if (
        not clip
        and Path(folder).is_dir()
        and not any((Path(folder) / name).exists() for name in ("tokenizer.json", "vocab.txt"))
    ):
        raise PedAlignError(
            f"{folder}: neither tokenizer.json nor vocab.txt",
            "a text model's folder holds its tokenizer",
            "copy vocab.txt of the model there (CLIP: vocab.json and merges.txt), or name a "
            "folder that has it",
        )
    try:
        kind = CLIPTokenizer if clip else BertTokenizerFast
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise PedAlignError(
            f"{folder}: no tokenizer could be loaded ({str(error).splitlines()[0]})",
            "a local folder in transformers' layout, or a model that the hub or its cache has",
            "correct the path, or download the model once while there is a network",
        ) from error
    needed = ("bos_token", "eos_token", "pad_token") if clip else (
        "mask_token", "pad_token", "sep_token", "cls_token"
    )  # fmt: skip
    for name in needed:
        if getattr(tokenizer, name) is None:
            raise PedAlignError(
                f"{folder}: the tokenizer has no {name}",
                "training needs [MASK], [PAD], [SEP] and [CLS] of a BERT; start, end and padding "
                "of a CLIP",
                "use the tokenizer of a BERT or CLIP model",
            )
    return tokenizer


def _is_clip(folder: Path | str) -> bool:
    """Whether a folder, or a model on the hub, has CLIP's tokenizer."""
    path = Path(folder)
    if not path.is_dir():
        try:
            config, _ = PreTrainedConfig.get_config_dict(str(folder))
        except (OSError, ValueError):
            return False
        return str(config.get("model_type", "")).startswith("clip")
    settings = path / "tokenizer_config.json"
    if settings.exists():
        try:
            named = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
        except (ValueError, AttributeError):
            named = None
        if named is not None:
            return str(named).startswith("CLIP")
    return (path / "vocab.json").exists() and (path / "merges.txt").exists()

"""Stage ``evaluate``: text-to-image retrieval on a dataset's test split, any checkpoint on any.

Every caption of the split is a query, every picture of it a gallery image (also one without a
caption), and a picture of the same person is a match. The gallery is ranked by the cosine of
features (ITC); where the model has a fusion encoder, it may rank the first ``top_k`` again.
Reported are the protocol's mixture of both, and each by itself. Out: ``metrics.json``, ``cmc.csv``,
``queries.parquet`` (a row a query, which the report's rank lists are made of), ``queries.csv`` (the
same for a spreadsheet) and ``protocol.json`` (how the figures came about).
docs/evaluation.md is the protocol in words.

What is unusual: nothing grows with queries times images (`tasks.evaluate.ranking`,
`models.ranking`), and reduced precision is used only after a sample of queries has shown that it
moves no rank (`tasks.evaluate.precision`).

Shapes: Q queries, G gallery images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from models.mra import MRA
from models.ranking import Mixture, rank, rank_by_features
from models.retrieval import RetrievalModel
from tasks.batches import Pairs, read_pairs
from tasks.checkpoints import load_model
from tasks.errors import PedAlignError
from tasks.evaluate.describing import describe
from tasks.evaluate.findings import Evaluation, summed_up
from tasks.evaluate.precision import Precision, Sampled, compare, computing, sample
from tasks.evaluate.ranking import MEMORY, Embedded, Judged, embed, judge
from tasks.params import NonNegative, Positive, params
from tasks.pictures import Pictures
from tasks.tokens import Cleaning, Words, load_tokenizer
from tasks.training import NonNegativeFloat

log = logging.getLogger(__name__)

TOP = 10
MEASURES = ("R1", "R5", "R10", "mAP", "mINP")


@params
class EvaluateParams:
    """Section ``evaluate`` of params.yaml."""

    top_k: NonNegative
    """Images a query that the fusion encoder looks at again; no more than the gallery has. 0 ranks
    by the cosine alone, as a dual encoder always does."""
    flip: bool
    """Whether to average over the picture and its mirror image."""
    similarity_weight: NonNegativeFloat | None
    """Weight of the scaled cosine beside the scaled matching score; 0.002 as released. null where
    ``top_k`` is 0, and only there."""
    processes: Positive | None
    """How many processes of the released evaluation to imitate: their filler rows raise the
    cosine's weight (four very likely gave the published numbers). 1 mixes as written; null does
    as the checkpoint's reading says, and where ``top_k`` is 0."""
    precision: Precision
    """``fp32``, or ``bf16`` for encoding and re-ranking where a sample shows that ranks stay."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        idle = [
            f"{name} is {value}"
            for name, value in (
                ("similarity_weight", self.similarity_weight),
                ("processes", self.processes),
            )
            if value is not None
        ]
        if not self.top_k and idle:
            raise ValueError(
                f"top_k is 0 and {' and '.join(idle)}, which says how the fusion encoder's scores "
                "are mixed in; set both to null, or top_k to 1 or more"
            )
        if self.top_k and self.similarity_weight is None:
            raise ValueError(
                f"top_k is {self.top_k} and similarity_weight is null; it is a number wherever "
                "the fusion encoder's scores are mixed with the cosine (0.002 as released)"
            )
        return self


def check_protocol(model: RetrievalModel, section: EvaluateParams, name: str = "") -> None:
    """See to it that a model can rank as a protocol says, before anything is computed.

    Args:
        model: Any retrieval model.
        section: The protocol.
        name: What to call the model in the message, its folder say.

    Raises:
        PedAlignError: The protocol asks for a fusion encoder, and the model has none.
    """
    if section.top_k and not model.fuses:
        raise PedAlignError(
            f"{name or 'the model'}: a dual encoder, and top_k is {section.top_k}",
            "only a model with a fusion encoder, such as MRA, can look at candidates again; a dual "
            "encoder ranks by the cosine alone",
            "set top_k to 0, and similarity_weight and processes to null",
        )


def evaluate(
    images: Path,
    checkpoint: Path,
    section: EvaluateParams,
    device: torch.device,
    *,
    split: str = "test",
    cleaning: Cleaning = "raw",
    batch: int = 64,
    memory: int = MEMORY,
    progress: Callable[[float, str], None] | None = None,
) -> Evaluation:
    """Evaluate a checkpoint on a dataset.

    Args:
        images: Ingested shards.
        checkpoint: A retrieval checkpoint with its tokenizer.
        section: How.
        device: Where to compute.
        split: Which part of the dataset.
        cleaning: Clean-up of this dataset's captions.
        batch: Pictures or captions a pass; changes results by float noise only.
        memory: Bytes for tokens, keys and scores; what does not fit waits in a temporary file.
        progress: Called with the finished share and what was just done.

    Raises:
        PedAlignError: No pictures with captions in that split, no such checkpoint, or one that
            cannot rank so.
    """
    model: RetrievalModel = load_model(checkpoint)
    check_protocol(model, section, str(checkpoint))
    model = model.to(device).eval()
    words = Words(load_tokenizer(checkpoint), model.config.max_tokens, cleaning)
    pairs, pictures = read_pairs(images, split=split, identity="person", bare=True)
    found = evaluate_model(
        model,
        words,
        pairs,
        pictures,
        section,
        device,
        batch=batch,
        memory=memory,
        progress=progress,
    )
    told = describe(
        model,
        section,
        checkpoint,
        images,
        split=split,
        cleaning=cleaning,
        metrics=found.metrics,
    )
    return replace(found, protocol=told)


@torch.inference_mode()
def evaluate_model(
    model: RetrievalModel,
    words: Words,
    pairs: Pairs,
    pictures: Pictures,
    section: EvaluateParams,
    device: torch.device,
    *,
    batch: int = 64,
    memory: int = MEMORY,
    progress: Callable[[float, str], None] | None = None,
) -> Evaluation:
    """Evaluate a loaded model; see `evaluate`."""
    check_protocol(model, section)
    say = progress or _silent
    stage = _Evaluating(model, words, pairs, pictures, section, device, batch, memory)
    embedded, precision = stage.embed()
    say(0.3, "embedded")
    judged = stage.judge(precision["used"], embedded, memory)
    say(0.9, "re-ranked" if judged else "nothing to re-rank")
    mixture = stage.mix(judged)
    found = rank(
        embedded.text_QE.to(device),
        embedded.image_GE.to(device),
        mixture,
        torch.from_numpy(pairs.person),
        gallery_people(pairs),
        top=min(TOP, len(pictures)),
        memory=memory // 2,
    )
    say(1.0, "ranked")
    notes: dict[str, Any] = {"reranked": False}
    if mixture is not None:
        notes = {
            "processes": mixture.processes,
            "similarity_logits": round(mixture.similarity_logits, 4),
        }
    return summed_up(pairs, found, gallery_people(pairs), notes | {"precision": precision})


@dataclass(frozen=True)
class _Evaluating:
    """What the steps of one evaluation share."""

    model: RetrievalModel
    words: Words
    pairs: Pairs
    pictures: Pictures
    section: EvaluateParams
    device: torch.device
    batch: int
    memory: int

    @property
    def fuser(self) -> MRA | None:
        """The model, if candidates are looked at again; `check_protocol` has let it through."""
        return self.model if self.section.top_k and isinstance(self.model, MRA) else None

    def judge(
        self,
        precision: Precision,
        embedded: Embedded,
        memory: int,
        queries: np.ndarray[Any, Any] | None = None,
    ) -> Judged | None:
        """Let the fusion encoder look at the candidates, if it is asked."""
        if self.fuser is None:
            return None
        with computing(precision, self.device):
            return judge(
                self.fuser,
                embedded,
                self.section.top_k,
                self.device,
                batch=self.batch,
                memory=memory,
                queries=queries,
            )

    def mix(self, judged: Judged | None) -> Mixture | None:
        """Mix what it said with the cosine."""
        model, weight = self.fuser, self.section.similarity_weight
        if judged is None or model is None or weight is None:
            return None
        return Mixture.of(
            judged.candidates,
            judged.logit_VQK,
            similarity_weight=weight,
            # The protocol's, or those of the checkpoint's reading.
            processes=self.section.processes or model.config.reading.score_processes,
        )

    def embed(self) -> tuple[Embedded, dict[str, Any]]:
        """Encode in the precision asked for, or in float32 where that moves ranks."""
        wanted = self.section.precision
        embedded = self._embed(wanted, self.memory)
        if wanted == "fp32":
            return embedded, {"asked": wanted, "used": wanted}
        queries = sample(len(self.pairs))
        full = self._embed("fp32", self.memory // 4, queries)
        difference = compare(
            self._sampled("fp32", full, queries, np.arange(len(queries))),
            self._sampled(wanted, embedded, queries, queries),
        )
        body = {"asked": wanted, "used": wanted, **difference.report()}
        log.info("%s against fp32 on a sample: %s", wanted, body)
        if difference.moved:
            log.warning(
                "%s moves hits of %.1f %% of %d sampled queries (allowed: %.1f %%): evaluated in "
                "fp32 instead",
                wanted,
                100 * difference.hits_changed,
                difference.queries,
                100 * body["limit"],
            )
            del embedded, full
            return self._embed("fp32", self.memory), body | {"used": "fp32"}
        return embedded, body

    def _embed(
        self, precision: Precision, memory: int, queries: np.ndarray[Any, Any] | None = None
    ) -> Embedded:
        with computing(precision, self.device):
            return embed(
                self.model,
                self.words,
                self.pairs,
                self.pictures,
                self.device,
                flip=self.section.flip,
                batch=self.batch,
                tokens=self.fuser is not None,
                memory=memory,
                queries=queries,
            )

    def _sampled(
        self,
        precision: Precision,
        embedded: Embedded,
        queries: np.ndarray[Any, Any],
        stored: np.ndarray[Any, Any],
    ) -> Sampled:
        """Rank the sampled queries, which ``embedded`` holds as numbers ``stored``."""
        memory = self.memory // 4
        judged = self.judge(precision, embedded, memory, stored)
        return Sampled.of(
            embedded.text_QE[torch.from_numpy(stored)],
            embedded,
            judged,
            self.mix(judged),
            torch.from_numpy(self.pairs.person[queries]),
            gallery_people(self.pairs),
            memory=memory,
        )


@torch.inference_mode()
def itc_measures(
    model: RetrievalModel,
    words: Words,
    pairs: Pairs,
    pictures: Pictures,
    device: torch.device,
    *,
    batch: int = 64,
) -> dict[str, float]:
    """R1, R5, R10, mAP and mINP in percent by features alone: quick, for model selection."""
    embedded = embed(model, words, pairs, pictures, device, flip=False, batch=batch, tokens=False)
    found = rank_by_features(
        embedded.text_QE.to(device),
        embedded.image_GE.to(device),
        torch.from_numpy(pairs.person),
        gallery_people(pairs),
        memory=MEMORY // 4,
    )
    means = found.means()
    return {name: means[name] for name in MEASURES}


def gallery_people(pairs: Pairs) -> Tensor:
    """Identity of each picture, (G,)."""
    return torch.from_numpy(pairs.people)


def _silent(_share: float, _what: str) -> None:
    pass


@params
class EvaluationRun:
    """One entry of ``evaluate.runs`` in params.yaml."""

    checkpoint: str
    """The model's folder: a pretraining's for direct transfer, or a fine-tuning's."""
    images: str
    """The dataset's shards; their test split is the gallery and the queries."""
    cleaning: Cleaning
    """Clean-up of its captions: ``raw`` or ``alphanumeric``."""
    protocol: EvaluateParams
    """How to rank."""

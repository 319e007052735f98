"""Reduced precision: what the check measures, and that it is heeded."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.ranking import Mixture, choose_candidates
from tasks.batches import read_pairs
from tasks.checkpoints import load_model
from tasks.evaluate import precision
from tasks.evaluate.precision import SAMPLE, Difference, Sampled, compare, computing, sample
from tasks.evaluate.ranking import Embedded, Judged
from tasks.evaluate.run import EvaluateParams, evaluate_model
from tasks.tokens import Words, load_tokenizer

CPU = torch.device("cpu")
PARAMS = EvaluateParams(top_k=5, flip=True, similarity_weight=0.5, processes=None, precision="bf16")


def side(text, image, logits, *, k=4) -> Sampled:
    candidates = choose_candidates(text, image, k, 1 << 20)
    embedded = Embedded([], image, None, text)
    people = torch.tensor([0, 1]), torch.tensor([0, 1, 1, 0])
    judged = Judged(candidates, [logits])
    mixture = Mixture.of(candidates, [logits], similarity_weight=0.0, processes=1)
    return Sampled.of(text, embedded, judged, mixture, *people, memory=1 << 20)


def test_what_is_compared():
    """Query 0 loses its match at rank 1; query 1 keeps its first, at another score."""
    text, image = torch.eye(2), torch.tensor([[0.9, 0.0], [0.8, 0.1], [0.7, 0.2], [0.6, 0.3]])
    # Candidates of query 0 in order: 0 1 2 3; of query 1: 3 2 1 0.
    full = side(text, image, torch.tensor([[3.0, 2.0, 1.0, 0.0], [1.0, 3.0, 2.0, 0.0]]))
    moved = side(text, image + 0.01, torch.tensor([[2.0, 2.5, 1.0, 0.0], [1.0, 3.2, 2.0, 0.0]]))
    assert compare(full, full) == Difference(2, 0, 0, 0, 0, 0)
    found = compare(full, moved)
    assert (found.hits_changed, found.first_rank_changed, found.top10_changed) == (0.5, 0.5, 0)
    assert found.largest_logit_difference == 1.0
    assert found.largest_cosine_difference == pytest.approx(0.01, abs=1e-6)
    assert found.moved
    assert not compare(full, full).moved
    assert found.report()["limit"] == precision.LIMIT


def test_the_sample_is_always_the_same():
    few, many = sample(7), sample(10_000)
    assert few.tolist() == list(range(7))
    assert len(np.unique(many)) == SAMPLE
    assert many.tolist() == sorted(sample(10_000))


def test_the_context_computes_in_it():
    x = torch.randn(2, 3)
    with computing("bf16", CPU):
        assert (x @ x.T).dtype == torch.bfloat16
    with computing("fp32", CPU):
        assert (x @ x.T).dtype == torch.float32


@pytest.fixture(scope="module")
def scene(shards, start_folder, text_folder):
    torch.manual_seed(4)
    model = load_model(start_folder).eval()
    for name, parameter in model.named_parameters():
        if "itm_head" in name or "proj" in name or "crossattention" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    pairs, pictures = read_pairs(shards, split="test", identity="person", bare=True)
    return model, Words(load_tokenizer(text_folder), model.config.max_tokens), pairs, pictures


def test_ranks_that_move_are_computed_in_full_precision(scene, monkeypatch, caplog):
    monkeypatch.setattr(precision, "LIMIT", -1.0)
    with caplog.at_level(logging.WARNING):
        found = evaluate_model(*scene, PARAMS, CPU)
    full = evaluate_model(*scene, replace(PARAMS, precision="fp32"), CPU)
    told = found.metrics.pop("precision")
    assert (told["asked"], told["used"]) == ("bf16", "fp32")
    assert "evaluated in fp32 instead" in caplog.text
    assert full.metrics.pop("precision") == {"asked": "fp32", "used": "fp32"}
    assert found.metrics == full.metrics
    assert found.queries == full.queries


def test_ranks_that_stay_are_computed_in_reduced_precision(scene, monkeypatch):
    monkeypatch.setattr(precision, "LIMIT", 1.0)
    found = evaluate_model(*scene, PARAMS, CPU)
    told = found.metrics["precision"]
    assert told["used"] == "bf16"
    assert told["queries"] == 24
    assert 0 < told["largest_logit_difference"] < 1
    assert 0 < told["largest_cosine_difference"] < 0.1
    full = evaluate_model(*scene, replace(PARAMS, precision="fp32"), CPU)
    scores = [np.array(each.queries["scores"].to_pylist()) for each in (found, full)]
    # Weights drawn at random are no easy case: scores lie between 0 and 1.5.
    assert 0 < np.abs(scores[0] - scores[1]).mean() < 0.05

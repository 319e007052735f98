"""Ranking by the cosine alone: what a dual encoder can do, and an MRA with top_k: 0."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from models.mra import MRA, MRAConfig
from models.retrieval import RetrievalModel
from tasks.augment import plain
from tasks.batches import read_pairs
from tasks.encoder import RetrievalEncoder
from tasks.errors import PedAlignError
from tasks.evaluate import ranking
from tasks.evaluate import run as module
from tasks.evaluate.findings import QUERIES
from tasks.evaluate.run import EvaluateParams, check_protocol, evaluate_model, itc_measures
from tasks.gallery import build_index
from tasks.params import check_section
from tasks.search import SearchIndex, search
from tasks.tokens import Words, load_tokenizer

CPU = torch.device("cpu")
COSINE = EvaluateParams(
    top_k=0, flip=True, similarity_weight=None, processes=None, precision="fp32"
)
MEASURES = ("R1", "R5", "R10", "mAP", "mINP")
MRA_SIZES = {
    "image_size": (32, 16), "vision_dim": 8, "depths": (1, 1), "vision_heads": (2, 2),
    "window_size": 4, "text_dim": 16, "text_layers": 1, "fusion_layers": 1, "text_heads": 2,
    "text_inner_dim": 32, "max_tokens": 16, "head": "token", "embed_dim": 8,
}  # fmt: skip


class ToyDual(RetrievalModel):
    """Two encoders without a fusion encoder: a picture's four quarters, a text's bag of words."""

    fuses = False

    def __init__(self, vocab_size, wide=0):
        super().__init__()
        self.config = SimpleNamespace(
            image_size=(16, 8), stride=8, embed_dim=6, max_tokens=16, vocab_size=vocab_size,
            text_dim=5,
        )  # fmt: skip
        self.wide = 6 + wide  # as a granularity module makes it
        self.vision = nn.Linear(3, self.wide)
        self.text = nn.Embedding(vocab_size, 5)
        self.text_proj = nn.Linear(5, self.wide)

    @property
    def feature_dim(self):
        return self.wide

    def encode_image(self, image_BCHW):
        cells = nn.functional.adaptive_avg_pool2d(image_BCHW, 2).flatten(2).transpose(1, 2)
        tokens = self.vision(cells)
        return tokens, nn.functional.normalize(tokens.amax(1), dim=-1)

    def encode_text(self, ids_BL, mask_BL):
        tokens = self.text(ids_BL)
        pooled = (tokens * mask_BL[..., None]).sum(1)
        return tokens, nn.functional.normalize(self.text_proj(pooled), dim=-1)

    def save_pretrained(self, folder):
        raise NotImplementedError


@pytest.fixture(scope="module")
def scene(shards, text_folder):
    """Words, queries and gallery of the small dataset."""
    pairs, pictures = read_pairs(shards, split="test", identity="person", bare=True)
    return Words(load_tokenizer(text_folder), 16), pairs, pictures


def make(kind, text_folder):
    torch.manual_seed(5)
    size = len(load_tokenizer(text_folder))
    if kind == "mra":
        return MRA(MRAConfig(**MRA_SIZES, vocab_size=size)).eval()
    return ToyDual(size, wide=3 if kind == "wide" else 0).eval()


@pytest.fixture(params=["dual", "wide", "mra"])
def model(request, text_folder):
    return make(request.param, text_folder)


@torch.inference_mode()
def cosines(model, words, pairs, pictures):
    """Of every query and picture, both as it is and mirrored, one at a time."""
    ids, mask = (torch.from_numpy(v) for v in words.encode(pairs.caption.to_pylist()))
    texts = [model.encode_text(ids[q : q + 1], mask[q : q + 1])[1][0] for q in range(len(ids))]
    out = np.zeros((len(ids), len(pictures)))
    for g in range(len(pictures)):
        image = plain(pictures.read(np.array([g])), model.config.image_size)
        both = [model.encode_image(view)[1][0] for view in (image, image.flip(-1))]
        out[:, g] = [float((both[0] + both[1]) @ text / 2) for text in texts]
    return out


def test_equals_a_plain_ranking(model, scene):
    words, pairs, pictures = scene
    found = evaluate_model(model, words, pairs, pictures, COSINE, CPU, batch=5)
    people = np.asarray(pairs.people)
    first, average, penalty = [], [], []
    for row, person in zip(cosines(model, words, pairs, pictures), pairs.person, strict=True):
        ranks = np.flatnonzero(people[np.argsort(-row, kind="stable")] == person) + 1
        first.append(ranks[0])
        average.append(np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]))
        penalty.append(len(ranks) / ranks[-1])
    wanted = {f"R{k}": 100 * np.mean(np.array(first) <= k) for k in (1, 5, 10)}
    wanted |= {"mAP": 100 * np.mean(average), "mINP": 100 * np.mean(penalty)}
    assert {k: found.metrics[k] for k in MEASURES} == pytest.approx(wanted, abs=1e-3)
    assert found.queries["first_rank"].to_pylist() == first
    curve = [100 * np.mean(np.array(first) <= k) for k in range(1, len(pictures) + 1)]
    assert found.cmc["reranked"] == found.cmc["itc"] == pytest.approx(curve)


def test_says_so_and_has_the_same_files(scene, text_folder, tmp_path):
    words, pairs, pictures = scene
    model = make("dual", text_folder)
    found = evaluate_model(model, words, pairs, pictures, COSINE, CPU)
    found.save(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == found.metrics
    assert metrics["reranked"] is False
    assert {k: metrics[k] for k in MEASURES} == metrics["itc"]
    assert not {"matching", "processes", "similarity_logits"} & metrics.keys()
    assert {"queries", "without_match", "gallery", "chance", "precision"} <= metrics.keys()
    with (tmp_path / "cmc.csv").open() as file:
        assert next(csv.reader(file)) == ["rank", "recall", "recall_itc"]
    rows = pq.read_table(tmp_path / "queries.parquet")
    assert rows.schema.equals(QUERIES)
    assert rows["first_rank"] == rows["itc_first_rank"]
    assert rows["matching_ap"].null_count == rows["matching_first_rank"].null_count == len(rows)
    for row in rows.to_pylist():
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert -1.001 < min(row["scores"]) <= max(row["scores"]) < 1.001  # cosines


def test_an_mra_ranks_as_it_does_before_its_fusion_encoder(scene, text_folder):
    words, pairs, pictures = scene
    model = make("mra", text_folder)
    judging = replace(COSINE, top_k=4, similarity_weight=0.002)
    whole = evaluate_model(model, words, pairs, pictures, judging, CPU)
    alone = evaluate_model(model, words, pairs, pictures, COSINE, CPU)
    assert "reranked" not in whole.metrics
    assert alone.metrics["itc"] == whole.metrics["itc"]
    assert alone.cmc["reranked"] == whole.cmc["itc"]
    assert alone.queries["ap"] == whole.queries["itc_ap"]


def test_keeps_no_tokens(scene, model, monkeypatch):
    monkeypatch.setattr(ranking, "Rows", None)  # a table of tokens cannot be made
    evaluate_model(model, *scene, COSINE, CPU)


@pytest.mark.parametrize("kind", ["dual", "mra"])
def test_reduced_precision_is_checked_by_cosines(scene, text_folder, kind):
    section = replace(COSINE, precision="bf16")
    body = evaluate_model(make(kind, text_folder), *scene, section, CPU).metrics["precision"]
    assert body["asked"] == "bf16"
    assert body["queries"] == 24
    assert body["largest_cosine_difference"] > 0
    assert "largest_logit_difference" not in body


def test_the_quick_score(scene, model):
    found = evaluate_model(model, *scene, replace(COSINE, flip=False), CPU)
    quick = itc_measures(model, *scene, CPU, batch=5)
    assert quick == pytest.approx({name: found.metrics[name] for name in quick}, abs=1e-3)


def test_a_dual_encoder_refuses_candidates_before_it_encodes(
    scene, text_folder, monkeypatch, tmp_path
):
    model = make("dual", text_folder)
    monkeypatch.setattr(model, "encode_text", None)
    monkeypatch.setattr(model, "encode_image", None)
    section = replace(COSINE, top_k=8, similarity_weight=0.002)
    with pytest.raises(PedAlignError, match=r"dual encoder, and top_k is 8(.|\n)*set top_k to 0"):
        evaluate_model(model, *scene, section, CPU)
    # Also before a dataset is looked for.
    monkeypatch.setattr(module, "load_model", lambda _: model)
    with pytest.raises(PedAlignError, match=r"some-model: a dual encoder"):
        module.evaluate(tmp_path / "nowhere", tmp_path / "some-model", section, CPU)
    check_protocol(model, COSINE)
    check_protocol(make("mra", text_folder), section)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"similarity_weight": 0.5}, "top_k is 0 and similarity_weight is 0.5"),
        ({"processes": 4}, "top_k is 0 and processes is 4"),
        ({"top_k": 3}, "top_k is 3 and similarity_weight is null"),
        ({"top_k": -1}, "greater than or equal to 0"),
    ],
)
def test_options_that_would_do_nothing_are_errors(changes, said):
    body = {
        "top_k": 0, "flip": False, "similarity_weight": None, "processes": None,
        "precision": "fp32", **changes,
    }  # fmt: skip
    with pytest.raises(PedAlignError, match=said) as caught:
        check_section(EvaluateParams, body, "evaluate.runs.direct.protocol")
    assert "evaluate.runs.direct.protocol" in str(caught.value)


def test_a_gallery_is_searched_with_a_dual_encoder(shards, scene, text_folder, tmp_path):
    words, pairs, _ = scene
    model = make("dual", text_folder)
    encoder = RetrievalEncoder(model, words, "toy", CPU)
    build_index(encoder, shards, tmp_path / "index", batch=7)
    index = SearchIndex.open(tmp_path / "index")
    text = pairs.caption[0].as_py()
    hits = search(index, encoder, text, k=6)
    scores = index.vectors @ encoder.encode_texts([text])[0]
    order = np.argsort(-scores, kind="stable")[:6]
    np.testing.assert_allclose(hits["score"].to_numpy(), scores[order], atol=1e-6)
    assert hits["match"].null_count == 6
    with pytest.raises(PedAlignError, match="dual encoder"):
        search(index, encoder, text, rerank=True)
    with pytest.raises(PedAlignError, match="fusion encoder"):
        encoder.match(text, np.zeros((1, 16, 8, 3), np.uint8))

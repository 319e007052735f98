"""Evaluation: against brute force, pair by pair, and what the report reads."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.mra import MRA, RELEASED
from tasks.augment import plain
from tasks.batches import read_pairs
from tasks.checkpoints import load_model, save_checkpoint
from tasks.errors import PedAlignError
from tasks.evaluate import run as module
from tasks.evaluate.findings import QUERIES, write_queries
from tasks.evaluate.ranking import embed, rerank
from tasks.evaluate.run import EvaluateParams, evaluate, itc_measures
from tasks.images import encode_jpeg
from tasks.schemas import IMAGES
from tasks.shards import image_uid, write_folder
from tasks.tokens import Words, load_tokenizer

CPU = torch.device("cpu")
PARAMS = EvaluateParams(top_k=5, flip=True, similarity_weight=0.002, processes=1, precision="fp32")


@pytest.fixture(scope="module")
def model(start_folder) -> MRA:
    """The starting model with a matching head that has opinions."""
    model = load_model(start_folder).eval()
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if "itm_head" in name or "proj" in name or "crossattention" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(scope="module")
def scene(shards, text_folder, model):
    pairs, pictures = read_pairs(shards, split="test", identity="person")
    words = Words(load_tokenizer(text_folder), model.config.max_tokens)
    return model, words, pairs, pictures


@torch.inference_mode()
def slowly(scene, flip: bool):
    """Cosines and matching logits of every pair, one at a time, padded to the full length."""
    model, words, pairs, pictures = scene
    ids, mask = (torch.from_numpy(v) for v in words.encode(pairs.caption.to_pylist()))
    cosine = torch.zeros(len(pairs), len(pictures))
    logit = torch.zeros(len(pairs), len(pictures))
    for g in range(len(pictures)):
        image = plain(pictures.read(np.array([g])), model.config.image_size)
        tokens, feature = model.encode_image(image.flip(-1) if flip else image)
        for q in range(len(pairs)):
            text, text_feature = model.encode_text(ids[q : q + 1], mask[q : q + 1])
            cosine[q, g] = (text_feature @ feature.T).item()
            logit[q, g] = model.match(text, mask[q : q + 1], tokens)[0, 1].item()
    return cosine, logit


@pytest.fixture(scope="module")
def truth(scene):
    return slowly(scene, flip=False), slowly(scene, flip=True)


@pytest.mark.parametrize("memory", [1 << 30, 1], ids=["in memory", "as little as possible"])
def test_batched_scores_equal_those_of_one_pair_at_a_time(scene, truth, memory):
    model, words, pairs, pictures = scene
    with torch.inference_mode():
        embedded = embed(model, words, pairs, pictures, CPU, flip=True, batch=7, memory=memory)
        assert [each.in_file for each in embedded.images] == [memory == 1] * 2
        everyone = torch.arange(len(pictures)).expand(len(pairs), -1)
        for image, (_, logit) in zip(embedded.images, truth, strict=True):
            found = rerank(model, embedded.texts, image, everyone, CPU, batch=9, memory=memory)
            assert torch.allclose(found, logit, atol=2e-5)
    cosine = (truth[0][0] + truth[1][0]) / 2
    assert torch.allclose(embedded.text_QE @ embedded.image_GE.T, cosine, atol=1e-5)


def test_the_whole_evaluation_equals_brute_force(shards, model, truth, scene, tmp_path):
    _, words, pairs, pictures = scene
    found = module.evaluate_model(model, words, pairs, pictures, PARAMS, CPU, batch=7)
    cosine = ((truth[0][0] + truth[1][0]) / 2).numpy()
    people = np.zeros(len(pictures), int)
    people[pairs.image] = pairs.person

    def scale(matrix):
        return (matrix - matrix.min()) / (matrix.max() - matrix.min())

    mixed = 0.002 * scale(cosine)
    for _, logit in truth:
        filled = np.empty_like(cosine)
        for q, row in enumerate(cosine):
            best = np.argsort(-row, kind="stable")[:5]
            filled[q] = logit[q].numpy()[best].min()
            filled[q, best] = logit[q].numpy()[best]
        mixed += scale(filled) / 2

    def metrics(scores):
        first, average, penalty = [], [], []
        for row, person in zip(scores, pairs.person, strict=True):
            right = people[np.argsort(-row, kind="stable")] == person
            ranks = np.flatnonzero(right) + 1
            first.append(ranks[0])
            average.append(np.mean([(i + 1) / r for i, r in enumerate(ranks)]))
            penalty.append(len(ranks) / ranks[-1])
        return np.array(first), np.array(average), np.array(penalty)

    for name, scores in (("reranked", mixed), ("itc", cosine)):
        first, average, penalty = metrics(scores)
        told = found.metrics if name == "reranked" else found.metrics["itc"]
        wanted = {f"R{k}": 100 * (first <= k).mean() for k in (1, 5, 10)}
        wanted |= {"mAP": 100 * average.mean(), "mINP": 100 * penalty.mean()}
        assert {k: told[k] for k in wanted} == pytest.approx(wanted, abs=1e-3)
        curve = [100 * (first <= k).mean() for k in range(1, 13)]
        assert found.cmc[name] == pytest.approx(curve)
    first, average, _ = metrics(mixed)
    assert found.queries["first_rank"].to_pylist() == first.tolist()
    assert found.queries["ap"].to_pylist() == pytest.approx(average.tolist(), abs=1e-6)
    assert found.metrics["queries"] == 24
    assert found.metrics["gallery"] == 12
    assert found.metrics["without_match"] == 0


def test_a_row_a_query_that_can_be_followed(scene):
    model, words, pairs, pictures = scene
    rows = module.evaluate_model(model, words, pairs, pictures, PARAMS, CPU).queries.to_pylist()
    uids = set(pairs.uids.to_pylist())
    for row in rows:
        assert row["person_id"].startswith("small/")
        assert row["uid"] in uids
        assert len(row["top10"]) == len(row["correct"]) == len(row["scores"]) == 10
        assert set(row["top10"]) <= uids
        assert row["scores"] == sorted(row["scores"], reverse=True)
        if row["first_rank"] <= 10:
            assert row["correct"].index(True) + 1 == row["first_rank"]
        assert row["matches"] == 2


def test_files_that_the_report_reads(shards, start_folder, tmp_path):
    found = evaluate(shards, start_folder, PARAMS, CPU)
    found.save(tmp_path / "a")
    evaluate(shards, start_folder, PARAMS, CPU).save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics == found.metrics
    assert {"R1", "R5", "R10", "mAP", "mINP", "itc", "chance"} <= set(metrics)
    curve = pa_csv.read_csv(tmp_path / "a" / "cmc.csv")
    assert curve["rank"].to_pylist() == list(range(1, 13))
    assert curve["recall"][0].as_py() == pytest.approx(metrics["R1"], abs=1e-3)
    assert curve["recall"][-1].as_py() == 100
    rows = pq.read_table(tmp_path / "a" / "queries.parquet").to_pylist()
    assert len(rows) == 24
    with (tmp_path / "a" / "queries.csv").open(newline="", encoding="utf-8") as file:
        plain = list(csv.DictReader(file))
    assert [row["caption"] for row in plain] == [row["caption"] for row in rows]
    assert [[row[f"top{n}"] for n in range(1, 11)] for row in plain] == [r["top10"] for r in rows]
    assert [int(row["first_rank"]) for row in plain] == [row["first_rank"] for row in rows]
    assert [float(row["ap"]) for row in plain] == pytest.approx([row["ap"] for row in rows])
    told = json.loads((tmp_path / "a" / "protocol.json").read_text())
    assert (told["dataset"], told["split"], told["drawn"]) == (shards.name, "test", False)
    assert told["reranked"] == min(PARAMS.top_k, 12)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=5))
def test_any_caption_survives_the_csv(tmp_path_factory, captions):
    path = tmp_path_factory.mktemp("csv") / "queries.csv"
    captions = [*captions, 'he said "red, not blue"\r\nand left', "=1+1", ""]
    rows = [
        dict.fromkeys(QUERIES.names)
        | {"uid": f"{n:016x}", "caption": text, "person_id": None, "first_rank": 0, "ap": 0.5}
        | {"inp": 1 / 3, "top10": ["a", "b"]}
        for n, text in enumerate(captions)
    ]
    write_queries(path, pa.Table.from_pylist(rows, QUERIES))
    with path.open(newline="", encoding="utf-8") as file:
        header, *found = list(csv.reader(file))
    assert header[:6] == ["uid", "caption", "person_id", "first_rank", "ap", "inp"]
    assert [row[1] for row in found] == captions
    assert {tuple(row[2:5]) for row in found} == {("", "0", "0.5")}
    # A gallery of two pictures has no third one.
    assert {tuple(row[6:]) for row in found} == {("a", "b", *[""] * 8)}


def test_queries_without_anybody_to_find_are_counted(scene, monkeypatch):
    model, words, pairs, pictures = scene
    strangers = torch.full((len(pictures),), -1)
    strangers[0] = int(pairs.person[pairs.image == 0][0])
    monkeypatch.setattr(module, "gallery_people", lambda *_: strangers)
    found = module.evaluate_model(model, words, pairs, pictures, PARAMS, CPU)
    assert found.metrics["without_match"] == 20
    assert found.metrics["queries"] == 4
    assert all(math.isfinite(found.metrics[k]) for k in ("R1", "mAP", "mINP"))
    nobody = [row for row in found.queries.to_pylist() if row["matches"] == 0]
    assert {row["first_rank"] for row in nobody} == {0}


def test_the_quick_measures_are_those_of_the_features(scene):
    model, words, pairs, pictures = scene
    still = replace(PARAMS, top_k=3, flip=False)
    found = module.evaluate_model(model, words, pairs, pictures, still, CPU)
    quick = itc_measures(model, words, pairs, pictures, CPU, batch=5)
    assert quick == pytest.approx(found.metrics["itc"], abs=1e-3)


def test_a_missing_checkpoint_is_an_error(shards, tmp_path):
    with pytest.raises(PedAlignError, match="no retrieval model"):
        evaluate(shards, tmp_path / "nowhere", PARAMS, CPU)


# ------------------------------------------------------------------ any checkpoint on any dataset


def dataset(folder, people, *, shape=(24, 20), name="other"):
    """Shards of a dataset: one entry a person, which is a list of each picture's captions."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "uid": image_uid(name, f"{person}-{shot}"), "dataset": name, "split": "test",
            "person_id": f"{name}/{person}", "camera": None,
            "image": encode_jpeg(rng.integers(0, 255, (*shape, 3)).astype(np.uint8)),
            "width": shape[1], "height": shape[0], "captions": captions, "labels": None,
            "source_path": f"{person}-{shot}", "parent_uid": None, "status": "ok", "error": None,
        }
        for person, shots in enumerate(people) for shot, captions in enumerate(shots)
    ]  # fmt: skip
    rows.sort(key=lambda row: row["uid"])
    table = pa.Table.from_pylist(rows, schema=IMAGES)
    write_folder(folder, [table], "images", {}, shard_rows=8)
    return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, start_folder, text_folder):
    """A checkpoint of another dataset: another picture size, and the token head of RSTPReid."""
    torch.manual_seed(9)
    config = load_model(start_folder).config
    model = MRA(replace(config, image_size=(48, 24), head="token", embed_dim=4, window_size=3))
    folder = tmp_path_factory.mktemp("elsewhere") / "checkpoint"
    return save_checkpoint(folder, model, load_tokenizer(text_folder), {}, [])


def test_a_checkpoint_brings_its_picture_size_and_head_to_another_dataset(elsewhere, tmp_path):
    """Pictures of other sizes than it was trained on, captions in another dataset's spelling."""
    loud = dataset(tmp_path / "a", [[["A MAN,in-red", "a Coat!"]], [["the blue; shirt"]]])
    tidy = dataset(tmp_path / "b", [[["a man in red", "a coat "]], [["the blue shirt"]]])
    cleaned = evaluate(loud, elsewhere, PARAMS, CPU, cleaning="alphanumeric")
    by_hand = evaluate(tidy, elsewhere, PARAMS, CPU)
    assert cleaned.metrics == by_hand.metrics
    scores = [np.array(each.queries["scores"].to_pylist()) for each in (cleaned, by_hand)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
    raw = evaluate(loud, elsewhere, PARAMS, CPU)
    assert raw.queries["scores"] != by_hand.queries["scores"]

    model = load_model(elsewhere).eval()
    pairs, pictures = read_pairs(loud, split="test", identity="person", bare=True)
    words = Words(load_tokenizer(elsewhere), model.config.max_tokens, "alphanumeric")
    with torch.inference_mode():
        found = embed(model, words, pairs, pictures, CPU, flip=False, batch=8)
        image = plain(pictures.read(np.arange(2)), (48, 24))
        tokens, feature = model.encode_image(image)
    torch.testing.assert_close(found.image_GE, feature)
    assert found.image_GE.shape == (2, 4)
    torch.testing.assert_close(found.images[0].read(0, 2), tokens.flatten(1))


def test_the_same_checkpoint_on_two_datasets(shards, start_folder, tmp_path):
    other = dataset(tmp_path / "c", [[["a man"], ["a coat"]], [["a shirt"]], [["a walk"]]])
    at_home = evaluate(shards, start_folder, PARAMS, CPU)
    abroad = evaluate(other, start_folder, PARAMS, CPU)
    assert at_home.metrics["gallery"] == 12
    assert abroad.metrics["gallery"] == abroad.metrics["queries"] == 4
    assert set(abroad.queries["person_id"].to_pylist()) == {"other/0", "other/1", "other/2"}


def test_one_query_and_one_picture(elsewhere, tmp_path):
    alone = evaluate(dataset(tmp_path / "d", [[["a man"]]]), elsewhere, PARAMS, CPU)
    assert alone.metrics["queries"] == alone.metrics["gallery"] == 1
    assert {alone.metrics[k] for k in ("R1", "R5", "R10", "mAP", "mINP")} == {100.0}
    assert alone.queries["top10"][0].as_py() == [alone.queries["uid"][0].as_py()]
    assert all(math.isfinite(score) for score in alone.queries["scores"][0].as_py())
    assert alone.cmc == {name: [100.0] for name in ("reranked", "itc", "matching")}


def test_a_person_without_captions_is_in_the_gallery_but_asks_nothing(elsewhere, tmp_path):
    people = [[["a man"], []], [[], []], [["a coat", " "]]]
    found = evaluate(dataset(tmp_path / "e", people), elsewhere, PARAMS, CPU)
    assert found.metrics["gallery"] == 5
    assert found.metrics["queries"] == 2
    assert found.queries["matches"].to_pylist().count(2) == 1
    assert len(found.queries["top10"][0].as_py()) == 5


@pytest.mark.parametrize(("asked", "reading", "used"), [(None, 4, 4), (None, 1, 1), (2, 4, 2)])
def test_processes_are_the_protocols_or_those_of_the_reading(scene, asked, reading, used):
    model, words, pairs, pictures = scene
    mine = replace(model.config.reading, score_processes=reading)
    was, model.config = model.config, replace(model.config, reading=mine)
    try:
        section = replace(PARAMS, processes=asked)
        found = module.evaluate_model(model, words, pairs, pictures, section, CPU)
    finally:
        model.config = was
    assert found.metrics["processes"] == used
    # With several processes the cosine is worth logits, with one it breaks ties.
    assert (found.metrics["similarity_logits"] > 1.9 * used) == (used > 1)
    assert RELEASED.score_processes == 4


def test_logits_alone_and_features_alone_are_reported_beside_the_mixture(scene):
    model, words, pairs, pictures = scene
    heavy = replace(PARAMS, similarity_weight=1e6, top_k=12)
    none = replace(PARAMS, similarity_weight=0.0, top_k=12, flip=False)
    found = module.evaluate_model(model, words, pairs, pictures, heavy, CPU)
    measures = ("R1", "R5", "R10", "mAP", "mINP")
    mixed = {k: found.metrics[k] for k in measures}
    assert mixed == pytest.approx(found.metrics["itc"], abs=1e-3)
    found = module.evaluate_model(model, words, pairs, pictures, none, CPU)
    assert {k: found.metrics[k] for k in measures} == found.metrics["matching"]
    assert found.metrics["matching"] != found.metrics["itc"]
    rows = found.queries
    assert rows["matching_first_rank"] == rows["first_rank"]


def test_memory_changes_no_result(scene, tmp_path):
    model, words, pairs, pictures = scene
    found = [
        module.evaluate_model(model, words, pairs, pictures, PARAMS, CPU, memory=memory)
        for memory in (1 << 30, 1)
    ]
    assert found[0].metrics == found[1].metrics
    assert found[0].queries.drop(["scores"]) == found[1].queries.drop(["scores"])

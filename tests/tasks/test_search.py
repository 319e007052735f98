import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import BertTokenizerFast

from models.mra import MRA, MRAConfig
from tasks.encoder import RetrievalEncoder
from tasks.errors import PedAlignError
from tasks.gallery import build_index
from tasks.images import encode_jpeg
from tasks.schemas import IMAGES
from tasks.search import HITS, SearchIndex, hits_sheet, search
from tasks.shards import image_uid, write_folder

TINY = {
    "image_size": (32, 16), "vision_dim": 8, "depths": (1, 1), "vision_heads": (2, 2),
    "window_size": 4, "text_dim": 16, "text_layers": 1, "fusion_layers": 1, "text_heads": 2,
    "text_inner_dim": 32, "max_tokens": 8, "head": "token", "embed_dim": 8,
}  # fmt: skip
COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "grey": (9, 9, 9)}


class ColourEncoder:
    """Knows three words: a sentence's vector is the colour it names."""

    size = (8, 4)
    revision = "colours-1"
    fuses = True

    def __init__(self):
        self.images = 0

    def encode_images(self, pixels):
        self.images += len(pixels)
        mean = pixels.reshape(len(pixels), -1, 3).mean(axis=1) + 1e-3
        return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)

    def encode_texts(self, texts):
        named = np.array([next(v for k, v in COLOURS.items() if k in t) for t in texts], np.float32)
        return named / np.linalg.norm(named, axis=1, keepdims=True)

    def match(self, text, pixels):
        # Darkest first: the opposite of nothing that the vectors know.
        return -pixels.reshape(len(pixels), -1).mean(axis=1).astype(np.float32)


def flat(colour, scale=1.0):
    return encode_jpeg(np.full((16, 8, 3), np.multiply(colour, scale), dtype=np.uint8))


@pytest.fixture
def gallery(tmp_path):
    folder = tmp_path / "gallery"
    (folder / "deep" / "er").mkdir(parents=True)
    for name, colour in COLOURS.items():
        for scale in (1.0, 0.7):
            (folder / "deep" / f"{name}-{scale}.jpg").write_bytes(flat(colour, scale))
    (folder / "deep" / "er" / "png-named.jpg").write_bytes(_png(COLOURS["red"]))
    (folder / "empty.jpg").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 255, (64, 32, 3), dtype=np.uint8)
    (folder / "cut.jpeg").write_bytes(encode_jpeg(noise)[:-900])
    (folder / "notes.txt").write_text("no image")
    return folder


def _png(colour):
    sink = io.BytesIO()
    Image.new("RGB", (8, 16), colour).save(sink, "PNG")
    return sink.getvalue()


def test_finds_the_colour_that_was_asked_for(gallery, tmp_path):
    encoder = ColourEncoder()
    built = build_index(encoder, gallery, tmp_path / "index", batch=2)
    assert (built.rows, built.rejected) == (9, 2)
    index = SearchIndex.open(tmp_path / "index")
    hits = search(index, encoder, "someone in green", k=3)
    assert hits.schema.equals(HITS)
    assert hits["rank"].to_pylist() == [1, 2, 3]
    assert all("green" in path for path in hits["path"].to_pylist()[:2])
    assert "green" not in hits["path"][2].as_py()
    assert hits["score"].to_pylist() == sorted(hits["score"].to_pylist(), reverse=True)
    assert hits["match"].null_count == 3


def test_unreadable_images_are_rows_with_a_reason(gallery, tmp_path):
    build_index(ColourEncoder(), gallery, tmp_path / "index")
    rejected = pq.read_table(tmp_path / "index" / "rejected.parquet").to_pylist()
    reasons = {row["path"]: row["error"].split(":")[0] for row in rejected}
    assert reasons == {"empty.jpg": "empty", "cut.jpeg": "truncated"}


def test_k_beyond_the_gallery_gives_the_whole_gallery(gallery, tmp_path):
    encoder = ColourEncoder()
    build_index(encoder, gallery, tmp_path / "index")
    hits = search(SearchIndex.open(tmp_path / "index"), encoder, "red", k=500)
    assert hits.num_rows == 9
    assert len(set(hits["uid"].to_pylist())) == 9


def test_reranking_orders_the_candidates_by_the_matching_logit(gallery, tmp_path):
    encoder = ColourEncoder()
    build_index(encoder, gallery, tmp_path / "index")
    index = SearchIndex.open(tmp_path / "index")
    hits = search(index, encoder, "red", k=2, rerank=True, candidates=3)
    # The three red ones are candidates; the darkest of them wins under this judge.
    assert hits["path"][0].as_py() == "deep/red-0.7.jpg"
    assert hits["match"].to_pylist() == sorted(hits["match"].to_pylist(), reverse=True)


def test_an_image_that_went_away_stays_in_the_answer_unjudged(gallery, tmp_path):
    encoder = ColourEncoder()
    build_index(encoder, gallery, tmp_path / "index")
    (gallery / "deep" / "red-0.7.jpg").unlink()
    index = SearchIndex.open(tmp_path / "index")
    hits = search(index, encoder, "red", k=3, rerank=True, candidates=3).to_pylist()
    assert [row["match"] is None for row in hits] == [False, False, True]
    assert hits_sheet(index, "red", search(index, encoder, "red", k=3)).width > 500


def test_building_again_embeds_only_what_is_new(gallery, tmp_path):
    out = tmp_path / "index"
    encoder = ColourEncoder()
    build_index(encoder, gallery, out)
    before = encoder.images
    again = build_index(encoder, gallery, out)
    assert (again.computed, encoder.images) == (0, before)
    (gallery / "new-blue.jpg").write_bytes(flat(COLOURS["blue"], 0.9))
    assert build_index(encoder, gallery, out).rows == 10
    assert len(list((out / "parts").glob("*.parquet"))) == 1


def test_an_interrupted_build_has_no_index_and_goes_on(tmp_path, monkeypatch):
    images = write_images(tmp_path / "shards", 30, shard_rows=8)
    encoder = ColourEncoder()
    original, calls = ColourEncoder.encode_images, []

    def dies(self, pixels):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, pixels)

    monkeypatch.setattr(ColourEncoder, "encode_images", dies)
    with pytest.raises(KeyboardInterrupt):
        build_index(encoder, images, tmp_path / "index")
    with pytest.raises(PedAlignError, match="no finished index"):
        SearchIndex.open(tmp_path / "index")
    built = build_index(encoder, images, tmp_path / "index")
    assert built.reused == 2
    assert built.rows == 30


def write_images(folder, count, shard_rows=100):
    rows = []
    for n in range(count):
        colour = list(COLOURS.values())[n % 3]
        rows.append(
            {
                "uid": image_uid("set", f"{n}"),
                "dataset": "set",
                "split": "test",
                "person_id": f"set/{n % 3}",
                "camera": None,
                "image": flat(colour, 1 - n / 200),
                "width": 8,
                "height": 16,
                "captions": ["x"],
                "labels": None,
                "source_path": f"{n}",
                "parent_uid": None,
                "status": "ok",
                "error": None,
            }
        )
    write_folder(folder, [pa.Table.from_pylist(rows, IMAGES)], "images", shard_rows=shard_rows)
    return folder


def test_searches_shards_like_a_folder(tmp_path):
    images = write_images(tmp_path / "shards", 30, shard_rows=8)
    encoder = ColourEncoder()
    assert build_index(encoder, images, tmp_path / "index").rows == 30
    index = SearchIndex.open(tmp_path / "index")
    hits = search(index, encoder, "blue", k=10)
    assert {int(path) % 3 for path in hits["path"].to_pylist()} == {2}
    assert all(index.read(hits["uid"].to_pylist(), hits["path"].to_pylist()))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**31))
def test_nearest_agrees_with_sorting_everything(rows, k, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, 7)).astype(np.float32)
    index = SearchIndex(None, None, "m", False, vectors, pa.table({}))
    query = rng.standard_normal((3, 7)).astype(np.float32)
    scores, found = index.nearest(query, k)
    slow = query @ vectors.T
    assert found.shape == (3, min(k, rows))
    np.testing.assert_allclose(scores, -np.sort(-slow, axis=1)[:, :k], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(slow, found, 1), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("text", "k", "rule"), [("  ", 3, "sentence"), ("red", 0, "at least one")])
def test_refuses_an_empty_question(gallery, tmp_path, text, k, rule):
    encoder = ColourEncoder()
    build_index(encoder, gallery, tmp_path / "index")
    with pytest.raises(PedAlignError, match=rule):
        search(SearchIndex.open(tmp_path / "index"), encoder, text, k)


def test_refuses_another_model(gallery, tmp_path):
    build_index(ColourEncoder(), gallery, tmp_path / "index")
    other = ColourEncoder()
    other.revision = "colours-2"
    with pytest.raises(PedAlignError, match="space of one model"):
        search(SearchIndex.open(tmp_path / "index"), other, "red")


def test_refuses_a_folder_without_images(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(PedAlignError, match="gallery"):
        build_index(ColourEncoder(), tmp_path / "none", tmp_path / "index")
    (tmp_path / "none" / "bad.jpg").write_bytes(b"")
    with pytest.raises(PedAlignError, match="none of its images"):
        build_index(ColourEncoder(), tmp_path / "none", tmp_path / "index")


def test_the_real_model_from_its_folder(tmp_path):
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "coat", "man"]
    config = MRAConfig(**TINY, vocab_size=len(words))
    MRA.from_config(config).save_pretrained(tmp_path / "model")
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    encoder = RetrievalEncoder.load(tmp_path / "model", torch.device("cpu"))
    images = write_images(tmp_path / "shards", 6)
    build_index(encoder, images, tmp_path / "index", batch=4)
    hits = search(SearchIndex.open(tmp_path / "index"), encoder, "a red coat", k=4, rerank=True)
    assert hits.num_rows == 4
    assert hits["match"].null_count == 0
    norms = np.linalg.norm(np.load(tmp_path / "index" / "vectors.npy"), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    texts = encoder.encode_texts(["a red coat", "a red coat", "a man"])
    np.testing.assert_allclose(texts[0], texts[1], atol=1e-6)
    assert np.abs(texts[0] - texts[2]).max() > 1e-3
    with pytest.raises(PedAlignError, match="no retrieval model"):
        RetrievalEncoder.load(tmp_path / "index")

"""Pairs, pictures and batches: what is read, and that only uid, seed and epoch decide."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tasks.augment import Recipe
from tasks.batches import PairDataset, Preparation, read_pairs
from tasks.eda import table_synonyms
from tasks.errors import PedAlignError
from tasks.order import EpochBatches, load
from tasks.pictures import Pictures
from tasks.schemas import IMAGES
from tasks.shards import write_folder
from tasks.tokens import IGNORED, Masking, Words, load_tokenizer

SIZE = (32, 16)


@pytest.fixture
def prepare(text_folder):
    def make(**changes) -> Preparation:
        recipe = Recipe(size=SIZE, stride=8, crop=True, padding=2, flip=0.5, erasing=0.5)
        words = Words(load_tokenizer(text_folder), 16)
        return Preparation(image=recipe, words=words, masking=Masking(), seed=5, **changes)

    return make


@pytest.fixture
def dataset(shards, annotations, prepare) -> PairDataset:
    pairs, pictures = read_pairs(shards, annotations, split=None, identity="image")
    return PairDataset(pairs, pictures, prepare(regions=True))


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------ reading


def test_every_caption_of_a_usable_train_picture_is_a_pair(shards):
    pairs, pictures = read_pairs(shards, split="train", identity="person")
    assert len(pictures) == 27
    assert len(pairs) == 54
    assert pairs.skipped == {"not usable": 1}
    assert pairs.turn.tolist() == [0, 1] * 27
    assert len(set(pairs.person.tolist())) == 14
    name = pairs.name(3)
    assert name.endswith("#1")
    assert name.split("#")[0] == pairs.uids[1].as_py()
    # Same number exactly where the person is the same.
    people = [pairs.names[int(i)].as_py() for i in pairs.image]
    for number in set(pairs.person.tolist()):
        assert len({p for p, n in zip(people, pairs.person, strict=True) if n == number}) == 1


def test_annotated_pairs_carry_their_regions(shards, annotations):
    pairs, _ = read_pairs(shards, annotations, split=None, identity="image")
    assert len(pairs) == 47
    counts = np.diff(pairs.first)
    assert sorted(set(counts.tolist())) == [0, 2]
    assert pairs.person.tolist() == list(range(47))
    for at in range(len(pairs)):
        caption = pairs.caption[at].as_py().split()
        texts = [
            pairs.phrases[int(p)].as_py()
            for p in pairs.phrase[pairs.first[at] : pairs.first[at + 1]]
        ]
        assert texts in ([], [f"a {caption[4]} shirt", f"{caption[7]} trousers"])
    assert pairs.box[0].tolist() == pytest.approx([0.5, 0.25, 0.9, 0.4])
    assert len(set(pairs.phrases.to_pylist())) == len(pairs.phrases)


def test_people_without_a_name_are_their_own(shards, tmp_path):
    tables = [pq.read_table(path) for path in sorted(shards.glob("*.parquet"))]
    table = pa.concat_tables(tables).filter(pa.compute.field("status") == "ok")
    names = [n if n in {"small/3", "small/4"} else None for n in table["person_id"].to_pylist()]
    at = table.column_names.index("person_id")
    table = table.set_column(at, IMAGES.field("person_id"), pa.array(names, pa.string()))
    write_folder(tmp_path / "unknown", [table], "images", {}, shard_rows=99)
    pairs, _ = read_pairs(tmp_path / "unknown", split=None, identity="person")
    known = [pairs.names[int(i)].as_py() is not None for i in pairs.image]
    numbers = np.array([n for n, yes in zip(pairs.person, known, strict=True) if not yes])
    images = np.array([i for i, yes in zip(pairs.image, known, strict=True) if not yes])
    assert len(set(numbers.tolist())) == len(set(images.tolist()))
    assert {n for n, yes in zip(pairs.person.tolist(), known, strict=True) if yes} == {0, 1}


def test_blank_captions_make_no_pair_and_bare_pictures_stay_in_a_gallery(shards, tmp_path):
    tables = [pq.read_table(path) for path in sorted(shards.glob("*.parquet"))]
    table = pa.concat_tables(tables).filter(pa.compute.field("status") == "ok").slice(0, 5)
    said = [["a red coat", " \t", "blue"], [], ["  "], None, ["a hat"]]
    said[3] = [""]
    at = table.column_names.index("captions")
    table = table.set_column(at, IMAGES.field("captions"), pa.array(said))
    write_folder(tmp_path / "blank", [table], "images", {}, shard_rows=99)
    pairs, pictures = read_pairs(tmp_path / "blank", split=None, identity="image")
    assert pairs.caption.to_pylist() == ["a red coat", "blue", "a hat"]
    assert pairs.turn.tolist() == [0, 2, 0]
    assert pairs.image.tolist() == [0, 0, 1]
    assert len(pictures) == 2
    assert pairs.skipped == {"no caption": 3}
    pairs, pictures = read_pairs(tmp_path / "blank", split=None, identity="image", bare=True)
    assert len(pictures) == len(pairs.people) == 5
    assert pairs.image.tolist() == [0, 0, 4]
    mute = table.set_column(at, IMAGES.field("captions"), pa.array([["  "]] * 5))
    write_folder(tmp_path / "mute", [mute], "images", {}, shard_rows=99)
    with pytest.raises(PedAlignError, match="no usable pair"):
        read_pairs(tmp_path / "mute", split=None, identity="image", bare=True)


def test_a_split_without_pairs_is_an_error(shards):
    with pytest.raises(PedAlignError, match="no usable pair"):
        read_pairs(shards, split="nowhere", identity="image")


def test_annotations_of_another_set_are_an_error(shards, annotations, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(annotations, other)
    manifest = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(manifest.replace('"name": "b', '"name": "c'))
    with pytest.raises(PedAlignError, match="no shard"):
        read_pairs(shards, other, split=None, identity="image")


def test_pictures_are_the_same_cached_and_streamed(shards):
    pairs, cached = read_pairs(shards, split="test", identity="image")
    _, streamed = read_pairs(shards, split="test", identity="image", cache_bytes=0)
    assert cached.cached
    assert not streamed.cached
    wanted = np.array([7, 0, 3, 3])
    for a, b in zip(cached.read(wanted), streamed.read(wanted), strict=True):
        assert a.shape == (20, 12, 3)
        assert np.array_equal(a, b)
    assert len(pairs.uids) == len(cached) == 12


def test_a_picture_of_another_size_than_its_row_is_an_error(shards):
    places = np.array([[0, 0]])
    with pytest.raises(PedAlignError, match="its row says 5x4"):
        Pictures(shards, places, np.array([5]), np.array([4]))


# ------------------------------------------------------------------ batches


def test_shapes_and_types(dataset):
    batch = dataset.__getitems__([(0, row) for row in range(6)])
    length = batch["ids"].shape[1]
    assert batch["image"].shape == (6, 3, *SIZE)
    assert batch["image"].dtype == torch.float32
    for name in ("ids", "mask", "masked_ids", "masked_labels"):
        assert batch[name].shape == (6, length)
    assert batch["region_ids"].shape == batch["region_mask"].shape
    assert batch["patch_mask"].shape == (6, 8)
    assert all(v.dtype == torch.int64 for name, v in batch.items() if name != "image")
    assert batch["mask"].sum(1).max() == length
    assert (batch["patch_mask"].sum(1) >= 1).all()
    assert "eda_ids" not in batch


def test_phrase_ids_are_equal_where_phrases_are_and_never_an_images(dataset):
    rows = list(range(len(dataset)))
    batch = dataset.__getitems__([(0, row) for row in rows])
    words = dataset.preparation.words
    texts = words.tokenizer.batch_decode(batch["region_ids"], skip_special_tokens=True)
    by_id: dict[int, set[str]] = {}
    for text, number in zip(texts, batch["phrase_id"].tolist(), strict=True):
        by_id.setdefault(number, set()).add(text)
    assert all(len(said) == 1 for said in by_id.values())
    bare = np.flatnonzero(np.diff(dataset.pairs.first) == 0)
    for row in rows:
        if row in bare:  # no box: the whole picture, its caption and its own number
            assert batch["phrase_id"][row] == batch["person"][row]
            assert texts[row] == dataset.pairs.caption[row].as_py()
            assert batch["patch_mask"][row].all()
        else:
            assert batch["phrase_id"][row] >= dataset.phrase_base


def test_an_item_does_not_depend_on_its_batch_or_place(dataset):
    whole = dataset.__getitems__([(2, row) for row in (4, 9, 1)])
    alone = dataset[(2, 9)]
    for name in ("image", "patch_mask", "person", "phrase_id"):
        assert torch.equal(whole[name][1], alone[name][0])
    length = int(alone["mask"].sum())
    for name in ("ids", "masked_ids", "masked_labels"):
        assert torch.equal(whole[name][1, :length], alone[name][0])


def test_epochs_and_seeds_differ(dataset, prepare):
    first, again, later = dataset[(0, 3)], dataset[(0, 3)], dataset[(1, 3)]
    assert equal(first, again)
    assert not torch.equal(first["image"], later["image"])
    words, seed = dataset.preparation, 6
    other = PairDataset(
        dataset.pairs, dataset.pictures,
        Preparation(words.image, words.words, words.masking, seed, regions=True),
    )  # fmt: skip
    assert not torch.equal(first["image"], other[(0, 3)]["image"])


def test_labels_are_where_ids_were_masked(dataset):
    batch = dataset.__getitems__([(0, row) for row in range(12)])
    chosen = batch["masked_labels"] != IGNORED
    assert torch.equal(batch["masked_labels"][chosen], batch["ids"][chosen])
    assert torch.equal(batch["masked_ids"][~chosen], batch["ids"][~chosen])
    assert chosen.any(1).all()


def test_padding_to_full_length_where_the_reading_needs_it(shards, prepare):
    pairs, pictures = read_pairs(shards, split="train", identity="person")
    make = prepare(eda_alpha=0.3, lexicon=table_synonyms, trim=False)
    batch = PairDataset(pairs, pictures, make).__getitems__([(0, 0), (0, 5)])
    assert batch["ids"].shape[1] == batch["eda_ids"].shape[1] == 16
    assert "phrase_id" not in batch
    assert "patch_mask" not in batch
    assert (batch["eda_mask"].sum(1) > 2).all()


# ------------------------------------------------------------------ order


def test_an_epoch_sees_every_pair_once_and_epochs_differ():
    order = EpochBatches(count=23, batch=5, epochs=3, seed=1)
    batches = list(order)
    assert len(batches) == len(order) == 12
    epochs = [[key for b in batches[e * 4 : e * 4 + 4] for key in b] for e in range(3)]
    for number, keys in enumerate(epochs):
        assert {epoch for epoch, _ in keys} == {number}
        assert len({row for _, row in keys}) == 20
    assert [row for _, row in epochs[0]] != [row for _, row in epochs[1]]


@pytest.mark.parametrize("start", [0, 1, 4, 6, 11, 12])
def test_a_resumed_order_is_the_rest_of_the_whole(start):
    whole = list(EpochBatches(23, 5, 3, 1))
    assert list(EpochBatches(23, 5, 3, 1, start)) == whole[start:]


def test_fewer_pairs_than_a_batch_is_an_error():
    with pytest.raises(PedAlignError, match="3 training pairs for a batch of 4"):
        EpochBatches(3, 4, 1, 0)


@pytest.mark.slow
def test_workers_change_nothing(dataset):
    def batches(workers: int) -> list[dict]:
        return list(load(dataset, EpochBatches(len(dataset), 20, 2, 0), workers))

    for here, there in zip(batches(0), batches(2), strict=True):
        assert equal(here, there)

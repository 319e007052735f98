"""A retrieval world in miniature: coloured pictures in shards, and tiny Swin and BERT folders."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, SwinConfig, SwinModel

from tasks.images import encode_jpeg
from tasks.params import check_section
from tasks.pretrain import PretrainParams
from tasks.schemas import ANNOTATED, CAPTIONED, IMAGES
from tasks.shards import image_uid, iter_tables, write_folder

COLOURS = {
    "red": (200, 30, 30), "blue": (30, 60, 200), "green": (40, 150, 60), "black": (20, 20, 20),
    "white": (240, 240, 240), "pink": (240, 140, 190), "brown": (110, 60, 30), "grey": (130,) * 3,
}  # fmt: skip
SHAPE = (20, 12)


def _picture(upper: str, lower: str, seed: int) -> bytes:
    pixels = np.empty((*SHAPE, 3), np.float64)
    pixels[:10], pixels[10:] = COLOURS[upper], COLOURS[lower]
    pixels += np.random.default_rng(seed).normal(0, 6, pixels.shape)
    return encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8))


def _rows() -> list[dict]:
    names = sorted(COLOURS)
    rows = []
    for person in range(24):
        upper, lower = names[person % 8], names[(person * 3 + person // 8) % 8]
        split = "train" if person < 14 else "val" if person < 18 else "test"
        for shot in range(2):
            path = f"cam{shot}/{person}.jpg"
            rows.append(
                {
                    "uid": image_uid("small", path), "dataset": "small", "split": split,
                    "person_id": f"small/{person}", "camera": f"cam{shot}",
                    "image": _picture(upper, lower, person * 7 + shot),
                    "width": SHAPE[1], "height": SHAPE[0],
                    "captions": [
                        f"a man in a {upper} shirt and {lower} trousers",
                        f"the {upper} coat of a woman with {lower} pants",
                    ],
                    "labels": None, "source_path": path, "parent_uid": None,
                    "status": "ok", "error": None,
                }
            )  # fmt: skip
    return sorted(rows, key=lambda row: row["uid"])


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """28 train, 8 val and 12 test pictures of 24 people, in several shards; one row is refused."""
    return _written(tmp_path_factory.mktemp("small") / "images", _rows())


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """The same pictures, all for training, as a source has them."""
    rows = [row | {"split": "train"} for row in _rows()]
    return _written(tmp_path_factory.mktemp("source") / "images", rows)


def _written(folder: Path, rows: list[dict]) -> Path:
    refused = next(row for row in _rows() if row["split"] == "train")["uid"]
    first = next(row for row in rows if row["uid"] == refused)
    first |= {"status": "rejected", "error": "truncated: half of it", "image": None}
    write_folder(folder, [pa.Table.from_pylist(rows, schema=IMAGES)], "images", {}, shard_rows=12)
    return folder


@pytest.fixture(scope="session")
def annotations(shards) -> Path:
    """Two phrases with a box each for every picture, but for one, which has none."""
    rows = []
    for at, row in enumerate(_rows()):
        caption = row["captions"][0]
        words = caption.split()
        texts = [] if at == 5 else [f"a {words[4]} shirt", f"{words[7]} trousers"]
        phrase = {"start": 0, "end": 1, "head": "", "group": ""}
        phrase |= {"colours": [], "attributes": []}
        boxes = [[0.5, 0.25, 0.9, 0.4], [0.5, 0.75, 0.9, 0.4]]
        rows.append(
            {
                "uid": row["uid"], "caption": caption,
                "phrases": [{"text": text, **phrase} for text in texts],
                "regions": [
                    {"phrase": n, "box": boxes[n], "score": 0.9} for n in range(len(texts))
                ],
                "rejected": [], "status": "ok", "error": None,
            }
        )  # fmt: skip
    folder = shards.parent / "annotated"
    table = pa.Table.from_pylist(rows, schema=ANNOTATED)
    write_folder(folder, [table], "annotated", {}, shard_rows=12)
    return folder


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory) -> Path:
    """A Swin of two stages for 32x16 pixels, random weights."""
    folder = tmp_path_factory.mktemp("swin")
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=[32, 16], patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2],
        window_size=2,
    )  # fmt: skip
    SwinModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory) -> Path:
    """A BERT of four layers with its vocabulary, random weights."""
    folder = tmp_path_factory.mktemp("bert")
    words = [
        "a", "the", "of", "with", "and", "in", "man", "woman", "shirt", "coat", "trousers",
        "pants", "walk", "##ing", "##s",
    ]  # fmt: skip
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocabulary += [f"##{each}" for each in letters] + [*words, *COLOURS]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n")
    tokenizer = BertTokenizerFast.from_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


TRAINING = {
    "epochs": 2, "batch": 8, "learning_rate": 1e-3, "schedule": "linear", "warmup": 0.1,
    "chunks": 1, "micro_batch": 0, "floor": 0.0,
    "weight_decay": 0.01, "rates": {"crossattention": 2.0}, "precision": "fp32", "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="session")
def pretrain_params(vision_folder, text_folder):
    """Make a pretrain section; keywords change it, these three entry by entry."""

    def make(training=None, model=None, objective=None, **changes) -> PretrainParams:
        body = {
            "init": "start", "vision": str(vision_folder), "text": str(text_folder),
            "model": {
                "kind": "mra", "image_size": [32, 16], "window_size": 2, "text_layers": 2,
                "max_tokens": 16, "head": "stripes", "embed_dim": 8, "head_dropout": 0.1,
                "vision_dropout": 0.0, "drop_path": 0.1, "text_dropout": 0.1, "temperature": 0.07,
                "reading": "paper", "any_reading": False, **(model or {}),
            },
            "objective": {"kind": "mra", "region_weight": 0.8, "padding": 2, **(objective or {})},
            "flip": 0.5, "erasing": 0.3, "cleaning": "raw",
            "training": {**TRAINING, **(training or {})},
            **changes,
        }  # fmt: skip
        return check_section(PretrainParams, body, "pretrain")

    return make


@pytest.fixture(scope="session")
def unipt_params(pretrain_params):
    """Make a section that pretrains a dual encoder, from the same starting weights."""

    def make(training=None, model=None, objective=None, **changes) -> PretrainParams:
        body = {
            "model": {
                "kind": "dual", "image_size": [32, 16], "embed_dim": 8, "max_tokens": 16,
                "vision_dropout": 0.0, "drop_path": 0.1, "text_dropout": 0.1, **(model or {}),
            },
            "objective": {
                "kind": "unipt", "temperature": None, "mlm_weight": 1.0, **(objective or {}),
            },
            "training": {**TRAINING, "rates": {}, **(training or {})},
        }  # fmt: skip
        plain = dataclasses.asdict(pretrain_params())
        return check_section(PretrainParams, {**plain, **body, **changes}, "pretrain")

    return make


@pytest.fixture(scope="session")
def captions(shards, tmp_path_factory) -> Path:
    """Side tables with three captions a picture, other than the shards' own; one says nothing."""
    folder = tmp_path_factory.mktemp("captions")
    table = pa.concat_tables(iter_tables(shards, ["uid"]))
    count = len(table)
    empty = {name: [None] * count for name in ("styles", "seeds", "templates", "attributes")}
    columns = {
        "uid": table["uid"],
        "captions": [[] if at == 5 else ["a man", " ", "the red coat"] for at in range(count)],
        "method": ["keep"] * count,
        **empty,
        "status": ["rejected" if at == 5 else "ok" for at in range(count)],
        "error": ["no-caption: said nothing" if at == 5 else None for at in range(count)],
    }
    told = pa.table(columns, schema=CAPTIONED)
    write_folder(folder, [told], "captioned", {}, shard_rows=12)
    return folder


@pytest.fixture(scope="session")
def dual_start(tmp_path_factory, shards, unipt_params) -> Path:
    """A dual encoder's checkpoint with starting weights only."""
    from tasks.pretrain import pretrain

    run = tmp_path_factory.mktemp("dual")
    return pretrain(shards, None, unipt_params(init="none"), run, torch.device("cpu"))


@pytest.fixture(scope="session")
def start_folder(tmp_path_factory, shards, pretrain_params) -> Path:
    """A checkpoint with starting weights only, as ``init: none`` leaves it."""
    from tasks.pretrain import pretrain

    run = tmp_path_factory.mktemp("start")
    return pretrain(shards, None, pretrain_params(init="none"), run, torch.device("cpu"))

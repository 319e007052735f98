"""Captions for every usable row, by a model that says what it saw, or by the words that came."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from models.captioner import HubCaptioner
from tasks.caption import CaptionParams, caption_table, load_captioner
from tasks.errors import PedAlignError
from tasks.params import check_section
from tasks.schemas import CAPTIONED
from tasks.shards import item_seed

VALUES: dict[str, object] = {
    "method": "captioner",
    "model": "models/tiny/captioner",
    "prompt": "",
    "captions": 1,
    "max_new_tokens": 20,
    "beams": 1,
    "temperature": 0.0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "batch": 4,
    "seed": 3,
}


def section(**changes: object) -> CaptionParams:
    return check_section(CaptionParams, VALUES | changes, "caption")


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 4, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Namer:
    """Names a picture's brightness and its seed; remembers the sizes of its batches."""

    def __init__(self, *, with_seed: bool = False) -> None:
        self.with_seed, self.batches = with_seed, list[int]()

    def caption(self, images: Sequence[np.ndarray], seeds: Sequence[int]) -> list[str]:
        self.batches.append(len(images))
        names = [f"level {image[0, 0, 0]}" if image[0, 0, 0] else "" for image in images]
        if self.with_seed:
            names = [f"{name} seed {seed}" for name, seed in zip(names, seeds, strict=True)]
        return names


def shard(blobs: Sequence[bytes | None], rejected: Sequence[int] = (), **more: object) -> pa.Table:
    count = len(blobs)
    states = ["rejected" if i in rejected else "ok" for i in range(count)]
    columns = {
        "uid": [f"{i:016x}.r0" for i in range(count)],
        "image": pa.array(blobs, pa.binary()),
        "captions": [[f"source {i}"] for i in range(count)],
        "status": states,
        "error": pa.array([None if s == "ok" else "grey: 3" for s in states], pa.string()),
    }
    return pa.table(columns | more)


def test_every_usable_row_is_described_in_full_batches() -> None:
    namer = Namer()
    table = shard([png(i + 1) for i in range(6)], rejected=[1])
    out = caption_table(table, namer, section())
    assert out.schema == CAPTIONED
    assert out["captions"].to_pylist() == [
        ["level 1"], [], ["level 3"], ["level 4"], ["level 5"], ["level 6"],
    ]  # fmt: skip
    assert out["status"].to_pylist() == ["ok", "rejected", "ok", "ok", "ok", "ok"]
    assert out["error"].to_pylist() == [None, "grey: 3", None, None, None, None]
    assert set(out["method"].to_pylist()) == {"captioner"}
    assert namer.batches == [4, 4]  # five pictures: the second batch is filled up


def test_bad_pictures_and_silence_are_reasons_not_ends() -> None:
    table = shard([png(5), b"nothing", None, png(0)])
    out = caption_table(table, Namer(), section())
    assert out["captions"].to_pylist() == [["level 5"], [], [], []]
    slugs = [(error or "").split(":")[0] for error in out["error"].to_pylist()]
    assert slugs == ["", "not-an-image", "empty", "no-caption"]


def test_seeds_come_from_the_uid_and_the_caption_number() -> None:
    table = shard([png(1), png(2), png(3)])
    way = section(captions=2, temperature=0.7)
    out = caption_table(table, Namer(with_seed=True), way)["captions"].to_pylist()
    for uid, texts in zip(table["uid"].to_pylist(), out, strict=True):
        seeds = [int(text.rpartition(" ")[2]) for text in texts]
        assert seeds == [item_seed(uid, 3, f"caption {n}") for n in range(2)]
    alone = caption_table(table.slice(2), Namer(with_seed=True), way)["captions"].to_pylist()
    assert alone == out[2:]


def test_the_same_sentence_is_said_once() -> None:
    out = caption_table(shard([png(7)]), Namer(), section(captions=3, temperature=1.0))
    assert out["captions"].to_pylist() == [["level 7"]]


def test_prompt_keeps_the_words_the_picture_came_with() -> None:
    table = shard(
        [png(1)] * 4,
        rejected=[3],
        captions=pa.array([["a man", "one"], [], [" "], ["x"]], pa.list_(pa.string())),
        prompt=pa.array(["p", "a red coat", None, "p"], pa.string()),
    )
    out = caption_table(table, None, section(method="prompt"))
    assert out["captions"].to_pylist() == [["a man", "one"], ["a red coat"], [], []]
    assert out["status"].to_pylist() == ["ok", "ok", "rejected", "rejected"]
    assert (out["error"][2].as_py() or "").startswith("no-caption")
    assert set(out["method"].to_pylist()) == {"prompt"}
    plain = caption_table(table.drop_columns(["prompt"]), None, section(method="prompt"))
    assert plain["captions"].to_pylist()[:2] == [["a man", "one"], []]


def test_method_and_model_must_fit() -> None:
    with pytest.raises(PedAlignError, match="needs a model"):
        caption_table(shard([png(1)]), None, section())
    with pytest.raises(PedAlignError, match="uses none"):
        caption_table(shard([png(1)]), Namer(), section(method="prompt"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "clip_attributes"}, "not built yet; the methods there are: captioner, prompt"),
        ({"method": "blip"}, "no method; the methods there are"),
        ({"captions": 2}, "temperature above 0"),
        ({"beams": 3, "temperature": 0.5}, "beams to 1"),
        ({"top_p": 0.0}, "top_p"),
        ({"repetition_penalty": 0.5}, "repetition_penalty"),
    ],
)
def test_parameters_are_checked(changes: dict[str, object], words: str) -> None:
    with pytest.raises(PedAlignError, match="caption") as caught:
        section(**changes)
    assert words in str(caught.value)


def test_loading_follows_the_method_and_names_a_missing_model() -> None:
    cpu = torch.device("cpu")
    assert load_captioner(section(method="prompt"), cpu) is None
    with pytest.raises(PedAlignError, match=r"caption\.model"):
        load_captioner(section(model="models/tiny/nothing-here"), cpu)


def test_an_empty_shard() -> None:
    assert caption_table(shard([]), Namer(), section()).num_rows == 0


def test_parameters_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def load(*arguments: object) -> Namer:
        given.extend(arguments)
        return Namer()

    monkeypatch.setattr(HubCaptioner, "from_pretrained", load)
    way = section(prompt="a photo of", beams=2, repetition_penalty=1.2, model="some/model")
    load_captioner(way, torch.device("cpu"))
    name, decoding, device, dtype = given
    assert (name, device, dtype) == ("some/model", torch.device("cpu"), torch.float32)
    assert (decoding.prompt, decoding.beams, decoding.repetition_penalty) == ("a photo of", 2, 1.2)
    assert (decoding.max_new_tokens, decoding.temperature, decoding.top_p) == (20, 0.0, 1.0)

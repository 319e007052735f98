"""Captions for every usable row, by a model that says what it saw, or by the words that came."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.captioner import Decoding, HubCaptioner
from tasks.caption.describing import load_captioner, styles_of
from tasks.caption.parameters import CaptionParams
from tasks.caption.shard import caption_table
from tasks.caption.vocabulary import SHIPPED
from tasks.errors import PedAlignError
from tasks.params import check_section
from tasks.schemas import CAPTIONED
from tasks.shards import item_seed

PLAIN: dict[str, object] = {"prompt": "", "beams": 1, "temperature": 0.0, "top_p": 1.0}
DRAWN = PLAIN | {"temperature": 0.7}
CAPTIONER: dict[str, object] = {
    "model": "models/tiny/captioner",
    "styles": {"plain": PLAIN},
    "max_new_tokens": 20,
    "repetition_penalty": 1.0,
    "batch": 4,
}
ATTRIBUTES: dict[str, object] = {
    "model": "some/clip", "attributes": SHIPPED, "threshold": 0.9, "batch": 4,
}  # fmt: skip


def section(**changes: object) -> CaptionParams:
    """The section, with some of its values changed, wherever they stand."""
    values: dict[str, object] = {
        "method": "captioner",
        "captions": 1,
        "seed": 3,
        "captioner": CAPTIONER | {key: changes.pop(key) for key in CAPTIONER if key in changes},
        "clip_attributes": ATTRIBUTES,
    }
    return check_section(CaptionParams, values | changes, "caption")


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 4, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Namer:
    """Names a picture's brightness and its seed; remembers the sizes of its batches."""

    def __init__(self, *, with_seed: bool = False) -> None:
        self.with_seed, self.batches = with_seed, list[int]()
        self.ways: list[Decoding] = []

    def caption(
        self, images: Sequence[np.ndarray], seeds: Sequence[int], way: Decoding
    ) -> list[str]:
        self.batches.append(len(images))
        self.ways.append(way)
        said = f"{way.prompt} level"
        names = [f"{said} {image[0, 0, 0]}" if image[0, 0, 0] else "" for image in images]
        names = [name.strip() for name in names]
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
    way = section(captions=2, styles={"drawn": DRAWN})
    out = caption_table(table, Namer(with_seed=True), way)["captions"].to_pylist()
    for uid, texts in zip(table["uid"].to_pylist(), out, strict=True):
        seeds = [int(text.rpartition(" ")[2]) for text in texts]
        assert seeds == [item_seed(uid, 3, f"caption {n}") for n in range(2)]
    rows = caption_table(table, Namer(with_seed=True), way).select(["seeds", "styles", "captions"])
    for row in rows.to_pylist():
        assert row["seeds"] == [int(text.rpartition(" ")[2]) for text in row["captions"]]
        assert row["styles"] == ["drawn", "drawn"]
    alone = caption_table(table.slice(2), Namer(with_seed=True), way)["captions"].to_pylist()
    assert alone == out[2:]


def test_the_same_sentence_is_said_once() -> None:
    way = section(captions=3, styles={"drawn": DRAWN})
    out = caption_table(shard([png(7)]), Namer(), way)
    assert out["captions"].to_pylist() == [["level 7"]]
    assert out["styles"].to_pylist() == [["drawn"]]


STYLES = {name: PLAIN | {"prompt": name} for name in ("brief", "long", "odd")}


def test_each_caption_of_a_picture_has_another_style() -> None:
    table = shard([png(n + 1) for n in range(5)], rejected=[2])
    namer = Namer()
    out = caption_table(table, namer, section(captions=3, styles=STYLES)).to_pylist()
    for row in out:
        if row["uid"] == f"{2:016x}.r0":
            assert (row["styles"], row["seeds"], row["captions"]) == (None, None, [])
            continue
        assert sorted(row["styles"]) == ["brief", "long", "odd"]
        level = int(row["uid"][:16], 16) + 1
        assert row["captions"] == [f"{style} level {level}" for style in row["styles"]]
    assert {way.prompt for way in namer.ways} == set(STYLES)
    assert set(namer.batches) == {4}  # each group of a style is filled up


def test_a_single_caption_has_one_of_the_styles_chosen_by_the_uid() -> None:
    way = section(styles=STYLES)
    chosen = [styles_of(f"{n:016x}.r0", way) for n in range(600)]
    assert all(len(styles) == 1 for styles in chosen)
    counts = [chosen.count([name]) for name in STYLES]
    assert min(counts) > 160  # 200 each, less three and a half standard deviations of 11.5
    turned = section(styles=dict(reversed(STYLES.items())))
    assert chosen == [styles_of(f"{n:016x}.r0", turned) for n in range(600)]
    assert chosen != [styles_of(f"{n:016x}.r0", section(styles=STYLES, seed=4)) for n in range(600)]


def test_more_captions_than_styles_go_round() -> None:
    way = section(captions=5, styles={"a": DRAWN, "b": DRAWN})
    first, second, *rest = styles_of("x", way)
    assert {first, second} == {"a", "b"}
    assert rest == [first, second, first]


@given(st.data())
def test_a_pictures_captions_do_not_depend_on_its_neighbours(data: st.DataObject) -> None:
    """Whatever the styles, the number of captions, the batch and the rows beside it."""
    names = data.draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
    way = section(
        styles={name: DRAWN | {"prompt": name} for name in names},
        captions=data.draw(st.integers(1, 5)),
        batch=data.draw(st.integers(1, 5)),
    )
    table = shard([png(n + 1) for n in range(4)])
    rows = data.draw(st.lists(st.integers(0, 3), min_size=1, unique=True).map(sorted))
    whole = caption_table(table, Namer(with_seed=True), way).to_pylist()
    part = caption_table(table.take(rows), Namer(with_seed=True), way).to_pylist()
    assert part == [whole[row] for row in rows]
    assert all(len(row["captions"]) == len(row["styles"]) == len(row["seeds"]) for row in whole)


def test_keep_keeps_the_words_the_picture_came_with() -> None:
    table = shard(
        [png(1)] * 4,
        rejected=[3],
        captions=pa.array([["a man", "one"], [], [" "], ["x"]], pa.list_(pa.string())),
        prompt=pa.array(["p", "a red coat", None, "p"], pa.string()),
    )
    out = caption_table(table, None, section(method="keep"))
    assert out["captions"].to_pylist() == [["a man", "one"], ["a red coat"], [], []]
    assert out["status"].to_pylist() == ["ok", "ok", "rejected", "rejected"]
    assert (out["error"][2].as_py() or "").startswith("no-caption")
    assert set(out["method"].to_pylist()) == {"keep"}
    assert out["styles"].null_count == out["seeds"].null_count == 4
    plain = caption_table(table.drop_columns(["prompt"]), None, section(method="keep"))
    assert plain["captions"].to_pylist()[:2] == [["a man", "one"], []]


def test_method_and_model_must_fit() -> None:
    with pytest.raises(PedAlignError, match="needs a captioner"):
        caption_table(shard([png(1)]), None, section())
    with pytest.raises(PedAlignError, match="uses none"):
        caption_table(shard([png(1)]), Namer(), section(method="keep"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"method": "prompt"},
            "the methods there are: captioner, clip_attributes, keep",
        ),
        ({"captions": 2}, "temperature of plain is 0"),
        ({"captions": 3, "styles": {"a": PLAIN, "b": DRAWN}}, "temperature of a is 0"),
        ({"styles": {}}, "styles"),
        ({"styles": {"a": DRAWN | {"beams": 3}}}, "beams to 1"),
        ({"styles": {"a": PLAIN | {"top_p": 0.0}}}, "top_p"),
        ({"styles": {"a": {"prompt": ""}}}, "missing key `caption.captioner.styles.a.beams`"),
        ({"repetition_penalty": 0.5}, "repetition_penalty"),
        ({"clip_attributes": ATTRIBUTES | {"threshold": 1.0}}, "clip_attributes.threshold"),
        ({"clip_attributes": ATTRIBUTES | {"batch": 0}}, "clip_attributes.batch"),
        ({"clip_attributes": {"model": "m"}}, "missing key `caption.clip_attributes.attributes`"),
    ],
)
def test_parameters_are_checked(changes: dict[str, object], words: str) -> None:
    with pytest.raises(PedAlignError, match="caption") as caught:
        section(**changes)
    assert words in str(caught.value)


def test_only_the_chosen_methods_part_matters() -> None:
    other = section(clip_attributes=ATTRIBUTES | {"threshold": 0.5})
    assert section().mattering() == other.mattering()
    assert section().mattering() != section(max_new_tokens=21).mattering()
    assert section().mattering() != section(seed=4).mattering()
    named = {"method": "clip_attributes"}
    assert section(**named).mattering() == section(**named, max_new_tokens=21).mattering()
    changed = section(**named, clip_attributes=ATTRIBUTES | {"threshold": 0.5})
    assert section(**named).mattering() != changed.mattering()
    assert section(method="keep").mattering() == section(method="keep", seed=4).mattering()
    # Styles are no matter to other methods: two captions by templates need no second style.
    assert section(**named, captions=2).captions == 2


def test_a_missing_model_is_named() -> None:
    with pytest.raises(PedAlignError, match=r"caption\.captioner\.model.*nothing-here"):
        load_captioner("models/tiny/nothing-here", torch.device("cpu"))


def test_an_empty_shard() -> None:
    assert caption_table(shard([]), Namer(), section()).num_rows == 0


def test_parameters_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []

    def load(*arguments: object) -> Namer:
        taken.extend(arguments)
        return Namer()

    monkeypatch.setattr(HubCaptioner, "from_pretrained", load)
    captioner = load_captioner("some/model", torch.device("cpu"))
    assert taken == ["some/model", torch.device("cpu"), torch.float32]
    style = {"prompt": "a photo of", "beams": 2, "temperature": 0.0, "top_p": 0.5}
    caption_table(
        shard([png(1)]), captioner, section(styles={"beam": style}, repetition_penalty=1.2)
    )
    assert isinstance(captioner, Namer)
    assert captioner.ways == [
        Decoding(
            prompt="a photo of", beams=2, temperature=0.0, top_p=0.5, repetition_penalty=1.2,
            max_new_tokens=20,
        )
    ]  # fmt: skip

"""Restyled tables: rows, lineage, padding and bad input; the pictures come from a counting stub."""

import dataclasses
import io
import threading

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.dad.sampling import Sampling
from tasks.errors import PedAlignError
from tasks.images import encode_jpeg
from tasks.restyle import renderer as renderer_module
from tasks.restyle.renderer import Arm, Ready, Renderer
from tasks.restyle.shard import RestyleParams, restyle_table
from tasks.schemas import IMAGES, conform
from tasks.shards import image_uid, item_seed, shard_bytes

SIZE = (16, 8)
PARAMS = RestyleParams(
    mode="restyle", strength=0.5, match=0.4, steps=8, guidance=2.0, scheduler="dpm",
    negative_prompt="grey", control_scale=1.0, reuse=1, noise="random", detail=0.0, variants=4,
    alpha=0.5, synonyms="table",
    quality=92, seed=1,
)  # fmt: skip


class Words:
    """Encodes a prompt as its length and remembers what it was asked."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        self.asked.append(prompts)
        return torch.tensor([[[float(len(p))]] for p in prompts])


class Stub:
    """Stands for a Restyler: a flat grey picture from the prompt's length and the seed."""

    def __init__(self, section: RestyleParams) -> None:
        self.base, self.sampling = Words(), section.sampling
        self.passes: list[tuple[int, list[int]]] = []

    def begin(self, pixels, words, seeds):
        assert words.shape == (len(seeds), 1, 1)
        if pixels is not None:
            assert (pixels.dtype, pixels.shape) == (np.uint8, (len(seeds), *SIZE, 3))
        self.passes.append((len(seeds), list(seeds)))
        grey = (words[:, 0, 0].numpy().astype(np.int64) * 7 + np.asarray(seeds) % 50) % 256
        shape = (len(seeds), *SIZE, 3)
        return Ready(np.broadcast_to(grey[:, None, None, None], shape).astype(np.uint8))


def arm(section: RestyleParams = PARAMS, stub: Stub | None = None) -> Arm:
    stub = stub or Stub(section)
    renderer = Renderer(SIZE, stub.base, base_id="base-1", dad_id="dad-1")
    return Arm(renderer, section, stub)


def plain_arm(mode: str, match: float = 1.0, **look: torch.Tensor) -> Arm:
    section = dataclasses.replace(PARAMS, mode=mode, match=match)
    return Renderer(SIZE, None, None, look, dad_id="dad-1").arm(section)


def source(count: int = 5) -> pa.Table:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        row = dict.fromkeys(IMAGES.names)
        row |= {
            "uid": image_uid("s", str(i)), "dataset": "s", "split": "train", "width": 20,
            "height": 40, "image": encode_jpeg(rng.integers(0, 256, (40, 20, 3), dtype=np.uint8)),
            "source_path": f"{i}.jpg", "captions": [f"a {'red ' * (i % 3)}coat", "second"],
            "status": "ok", "labels": [1] * 27, "person_id": f"s/{i}",
        }  # fmt: skip
        rows.append(row)
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["uid"]), schema=IMAGES)


def changed(table: pa.Table, at: int, **values: object) -> pa.Table:
    rows = table.to_pylist()
    rows[at] |= values
    return pa.Table.from_pylist(rows, schema=IMAGES)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_each_picture_becomes_one_row_with_its_lineage():
    table = source()
    made = restyle_table(table, arm(), batch=2)
    conform(made, "restyled")
    assert made["uid"].to_pylist() == [f"{uid}.r0" for uid in table["uid"].to_pylist()]
    assert made["parent_uid"].to_pylist() == table["uid"].to_pylist()
    assert made["captions"].to_pylist() == table["captions"].to_pylist()
    assert made["labels"].to_pylist() == table["labels"].to_pylist()
    assert made["prompt"].to_pylist() == [c[0] for c in table["captions"].to_pylist()]
    assert set(zip(made["height"].to_pylist(), made["width"].to_pylist(), strict=True)) == {SIZE}
    for name, value in {"mode": "restyle", "strength": 0.5, "match": 0.4, "steps": 8,
                        "guidance": 2.0, "scheduler": "dpm", "negative_prompt": "grey",
                        "control_scale": 1.0, "reuse": 1, "noise": "random", "detail": 0.0,
                        "base_revision": "base-1",
                        "dad_digest": "dad-1",
                        "status": "ok", "eda_op": None}.items():  # fmt: skip
        wanted = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert [*set(made[name].to_pylist())] == [wanted], name
    for row in made.to_pylist():
        assert row["seed"] == item_seed(row["uid"], 1, "noise")
        grey = (len(row["prompt"]) * 7 + row["seed"] % 50) % 256
        assert np.abs(pixels(row["image"]).astype(int) - grey).max() <= 2
        assert pixels(row["image"]).shape == (*SIZE, 3)


def test_batches_are_full_and_a_prompt_is_encoded_once():
    stub = Stub(PARAMS)
    restyle_table(source(7), arm(stub=stub), batch=3)
    assert [size for size, _ in stub.passes] == [3, 3, 3]
    last = stub.passes[-1][1]
    assert last[0] == last[1] == last[2]  # seven rows: the last batch repeats its one picture
    assert len(stub.base.asked) == 1
    assert sorted(stub.base.asked[0]) == sorted({"a coat", "a red coat", "a red red coat"})


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 9), kept=st.sets(st.integers(0, 5), min_size=1))
def test_a_row_depends_on_neither_its_batch_nor_its_neighbours(batch, kept):
    table = source(6)
    whole = {r["uid"]: r for r in restyle_table(table, arm()).to_pylist()}
    part = restyle_table(table.take(sorted(kept)), arm(), batch=batch)
    assert [whole[r["uid"]] for r in part.to_pylist()] == part.to_pylist()


def test_bad_rows_pass_through_as_rejected_and_harm_nobody():
    table = source(6)
    table = changed(table, 1, image=b"\xff\xd8 not a picture")
    table = changed(table, 3, status="rejected", error="truncated: half", image=None, width=0)
    table = changed(table, 4, captions=["  ", "\t"])
    made = restyle_table(table, arm(), batch=4).to_pylist()
    good = {r["uid"]: r for r in restyle_table(source(6), arm()).to_pylist()}
    assert [row["status"] for row in made] == ["ok", "rejected", "ok", "rejected", "ok", "ok"]
    assert made[3]["error"] == "truncated: half"
    assert made[1]["error"].split(":")[0] in {"not-an-image", "truncated", "broken"}
    for at in (1, 3):
        assert made[at]["image"] is None
    assert (made[1]["width"], made[3]["width"]) == (20, 0)
    assert made[4]["prompt"] == ""  # a picture without words is restyled without words
    for at in (0, 2, 5):
        assert made[at] == good[made[at]["uid"]]


def test_a_shard_of_bad_rows_and_an_empty_one():
    table = source(2)
    for at in range(2):
        table = changed(table, at, image=b"", status="ok")
    made = restyle_table(table, arm())
    assert set(made["status"].to_pylist()) == {"rejected"}
    assert restyle_table(source(2).slice(0, 0), arm()).num_rows == 0


def test_generate_makes_every_caption_and_its_variants():
    section = dataclasses.replace(PARAMS, mode="generate", strength=0.1)
    table = changed(source(3), 2, captions=[])
    made = restyle_table(table, arm(section), batch=4).to_pylist()
    first = [row for row in made if row["parent_uid"] == made[0]["parent_uid"]]
    assert [row["uid"].split(".")[1] for row in first] == [f"g{i:02d}" for i in range(8)]
    assert [row["eda_op"] for row in first].count("original") == 2
    captions = table["captions"].to_pylist()[0]
    assert [row["prompt"] for row in first if row["eda_op"] == "original"] == captions
    assert all(row["captions"] == [row["prompt"]] for row in first)
    assert len({row["seed"] for row in first}) == 8
    assert {row["strength"] for row in first} == {1.0}
    assert {(row["person_id"], row["labels"]) for row in first} == {(None, None)}
    assert len(made) == 8 + 8 + 1
    assert made[-1]["status"] == "rejected"
    assert made[-1]["error"].startswith("no-caption")


def test_generate_takes_no_prompt_from_the_splits_that_are_evaluated():
    section = dataclasses.replace(PARAMS, mode="generate")
    table = changed(changed(source(3), 0, split="val"), 1, split="test")
    made = restyle_table(table, arm(section), batch=4).to_pylist()
    assert [row["split"] for row in made] == ["val", "test", *["train"] * 8]
    assert [row["status"] for row in made] == ["rejected"] * 2 + ["ok"] * 8
    assert {row["error"].split(":")[0] for row in made[:2]} == {"other-split"}
    assert all(row["image"] is None and row["captions"] == [] for row in made[:2])


def test_generate_expands_as_published():
    # 20 prompts a caption (sec. 3.2): 68,126 captions give 1,362,520 pictures.
    section = dataclasses.replace(PARAMS, mode="generate", variants=20)
    made = restyle_table(source(2), arm(section)).to_pylist()
    assert len(made) == 2 * 2 * 20
    assert len(made) // 4 * 68_126 == 1_362_520
    # Every caption stands among its own twenty, as it is; the others came from one operation each.
    for uid, captions in zip(
        source(2)["uid"].to_pylist(), source(2)["captions"].to_pylist(), strict=True
    ):
        rows = [row for row in made if row["parent_uid"] == uid]
        assert [row["uid"] for row in rows] == [f"{uid}.g{at:02d}" for at in range(40)]
        for at, caption in enumerate(captions):
            twenty = rows[at * 20 : (at + 1) * 20]
            originals = [row["prompt"] for row in twenty if row["eda_op"] == "original"]
            assert originals == [caption]
            assert len([row for row in twenty if row["eda_op"] != "original"]) == 19
    assert len({row["uid"] for row in made}) == len({row["seed"] for row in made}) == len(made)


def test_none_is_the_source_at_the_same_size_without_a_model():
    made = restyle_table(source(2), plain_arm("none")).to_pylist()
    assert {row["base_revision"] for row in made} == {"none"}
    assert {(row["dad_digest"], row["strength"], row["steps"]) for row in made} == {(None, 0.0, 0)}
    assert {(row["mode"], row["scheduler"], row["negative_prompt"]) for row in made} == {
        ("none", None, None)
    }
    wanted = Image.open(io.BytesIO(source(2)["image"][0].as_py()))
    wanted = np.asarray(wanted.resize((8, 16), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels(made[0]["image"]) - wanted).mean() < 8


def test_colours_moves_each_channel_to_the_target_picture_of_the_rows_seed():
    look = torch.tensor([[[100.0, 60, 20], [3, 2, 1]], [[30, 90, 150], [1, 2, 3]]])
    table = changed(source(6), 2, image=b"nothing")
    made = restyle_table(table, plain_arm("colours", pixels=look)).to_pylist()
    assert [row["status"] for row in made] == ["ok", "ok", "rejected", "ok", "ok", "ok"]
    assert {row["seed"] % 2 for row in made} == {0, 1}
    for row in made:
        assert (row["mode"], row["match"], row["strength"]) == ("colours", 1.0, 0.0)
        assert (row["base_revision"], row["dad_digest"]) == ("none", "dad-1")
        if row["status"] == "ok":
            mean, deviation = look[row["seed"] % 2].numpy()
            seen = pixels(row["image"]).reshape(-1, 3)
            assert np.abs(seen.mean(0) - mean).max() < 1.5
            assert np.abs(seen.std(0) - deviation).max() < 1.5


def test_a_mode_asks_for_what_it_needs():
    with pytest.raises(PedAlignError, match="no model is loaded"):
        plain_arm("restyle")
    with pytest.raises(PedAlignError, match="no target statistics"):
        plain_arm("colours", statistics=torch.zeros(1, 2, 4))
    with pytest.raises(PedAlignError, match="0 changes nothing"):
        plain_arm("colours", match=0.0, pixels=torch.zeros(1, 2, 3))


def test_without_guidance_there_is_no_negative_prompt_and_without_dad_no_digest():
    section = dataclasses.replace(PARAMS, guidance=1.0, control_scale=0.0, match=0.0)
    row = restyle_table(source(1), arm(section)).to_pylist()[0]
    assert (row["negative_prompt"], row["dad_digest"], row["control_scale"]) == (None, None, 0.0)
    assert row["base_revision"] == "base-1"


def test_prompts_are_encoded_in_parts_that_follow_from_the_list_and_leave_after_use():
    base = Words()
    prompts = [f"{at:03d}" for at in range(100)] + ["000", "001"]
    words = renderer_module.Words(base, prompts)
    first = words.take(prompts[:10])
    assert [len(asked) for asked in base.asked] == [64]
    assert first.shape == (10, 1, 1)
    words.take(prompts[60:70])
    assert [len(asked) for asked in base.asked] == [64, 36]
    words.take(prompts[10:60] + prompts[70:100])
    assert set(words._states) == {"000", "001"}  # they come once more
    words.take(["000", "001"])
    assert len(base.asked) == 2
    assert not words._states


def test_what_the_denoiser_does_overlaps_with_decoding_and_encoding():
    """While one batch is made, the next is decoded already, and the last one not yet encoded."""
    events: list[str] = []
    gate = threading.Event()

    class Slow(Stub):
        def begin(self, pixels, words, seeds):
            events.append(f"begin {len(self.passes)}")
            made = super().begin(pixels, words, seeds)

            class Later:
                def wait(self):
                    gate.wait(10)
                    events.append("pictures")
                    return made.wait()

            if len(self.passes) == 3:
                gate.set()
            return Later()

    stub = Slow(PARAMS)
    made = restyle_table(source(6), arm(stub=stub), batch=2)
    assert made.num_rows == 6
    # All three were begun before the first one's pictures were waited for to the end.
    assert events[:3] == ["begin 0", "begin 1", "begin 2"]


def test_the_same_shard_gives_the_same_bytes():
    first = shard_bytes(restyle_table(source(), arm(), batch=2), "restyled")
    again = shard_bytes(restyle_table(source(), arm(), batch=2), "restyled")
    assert first == again


def test_the_section_turns_into_the_sampling_it_names():
    assert PARAMS.sampling == Sampling(
        steps=8, strength=0.5, guidance=2.0, scheduler="dpm", negative_prompt="grey",
        control_scale=1.0, match=0.4,
    )  # fmt: skip
    generate = dataclasses.replace(PARAMS, mode="generate", reuse=3).sampling
    assert (generate.strength, generate.match, generate.reuse) == (1.0, 0.0, 3)

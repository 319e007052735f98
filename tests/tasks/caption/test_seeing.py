"""What is kept of a picture's similarities, and captions for whole shards made of it."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.zeroshot import PromptBank, choose, places
from tasks.caption.parameters import AttributesParams, CaptionParams
from tasks.caption.seeing import AttributeReader, Seen, kept, load_reader
from tasks.caption.shard import caption_table
from tasks.caption.vocabulary import OPTIONAL, REQUIRED, SHIPPED, Value, Vocabulary, read_vocabulary
from tasks.caption.writing import Writer
from tasks.errors import PedAlignError
from tasks.images import decode
from tasks.params import check_section
from tasks.provenance import ROOT
from tasks.schemas import CAPTIONED
from tests.encoders import save_spelling_clip

WORDS = read_vocabulary(ROOT / SHIPPED)
STARTS = dict(zip(WORDS.values, np.cumsum([0, *WORDS.sizes[:-1]]).tolist(), strict=True))


def place(attribute: str, name: str) -> int:
    """The column of a value's prompt."""
    return STARTS[attribute] + [v.name for v in WORDS.values[attribute]].index(name)


def seen_at(logits_BP: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    """What is kept of a matrix of scaled similarities."""
    best, probability = choose(torch.from_numpy(logits_BP), places(WORDS.sizes))
    found = kept(best.numpy(), probability.numpy(), WORDS, threshold)
    return [{v.attribute: (v.name, score) for v, score in each} for each in found]


def test_the_threshold_by_hand() -> None:
    """Of six bags one is likelier than 0.9 if its odds to each of the others are above 45."""
    assert len(WORDS.values["bag"]) == 6
    logits = np.zeros((5, len(WORDS.prompts)), np.float32)
    backpack, none = place("bag", "backpack"), place("bag", "no bag")
    logits[0, backpack] = np.log(45.1)  # 0.9002
    logits[1, backpack] = np.log(44.9)  # 0.8998
    logits[2, none] = 9.0  # that there is none is certain, and nothing to say
    logits[3, backpack] = 1.0
    logits[:, place("gender", "woman")] = 0.5
    logits[:, place("upper clothes", "red plaid coat")] = 0.001
    bare, barely, empty, faint, nothing = seen_at(logits, 0.9)
    assert bare["bag"] == ("backpack", pytest.approx(45.1 / 50.1))
    assert "bag" not in barely
    assert "bag" not in empty
    assert "bag" not in faint
    # The likeliest of the required, however unlikely.
    for row in (bare, barely, empty, faint, nothing):
        assert row["gender"] == ("woman", pytest.approx(1 / (1 + np.exp(-0.5))))
        assert row["upper clothes"] == ("red plaid coat", pytest.approx(1.001 / 275.001, rel=1e-3))
        assert set(row) - {"bag"} == set(REQUIRED)
    # Lower, it keeps what is likelier; of a tie, the first in the file.
    lower = seen_at(logits, 0.35)[3]
    assert lower["bag"] == ("backpack", pytest.approx(np.e / (np.e + 5)))
    assert seen_at(logits, 0.1)[4]["bag"] == ("backpack", pytest.approx(1 / 6))
    assert nothing["age"] == ("child", pytest.approx(0.2))
    assert "glasses" not in seen_at(logits, 0.5)[4]


def test_the_threshold_itself_is_not_above_it() -> None:
    logits = np.zeros((1, len(WORDS.prompts)), np.float32)
    assert "umbrella" not in seen_at(logits, 0.5)[0]
    assert seen_at(logits, 0.49)[0]["umbrella"] == ("umbrella", 0.5)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.99))
def test_required_attributes_are_always_kept(seed: int, threshold: float) -> None:
    logits = np.random.default_rng(seed).normal(0, 8, (3, len(WORDS.prompts))).astype(np.float32)
    for row in seen_at(logits, threshold):
        names = list(row)
        assert names[: len(REQUIRED)] == list(REQUIRED)
        assert set(names[len(REQUIRED) :]) <= set(OPTIONAL)
        assert all(row[name][1] > threshold for name in names[len(REQUIRED) :])
        assert not any(WORDS.find(name, value).absent for name, (value, _) in row.items())


# ------------------------------------------------------------------ shards


class Levels:
    """A model that sees of a picture its brightness: value number `level` of every attribute."""

    size = (6, 4)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def answer(
        self, pixels_BHW3: torch.Tensor, bank: PromptBank
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.batches.append(len(pixels_BHW3))
        level_B = pixels_BHW3.float().mean(dim=(1, 2, 3)).round().long()
        best_BA = level_B[:, None] % torch.tensor(WORDS.sizes)
        return best_BA, torch.full(best_BA.shape, 0.95)


def reader(words: Vocabulary = WORDS) -> tuple[AttributeReader, Levels]:
    model = Levels()
    bank = PromptBank(torch.zeros(0), torch.zeros(0))
    return AttributeReader(model, bank, words, Writer(words), 0.9), model  # type: ignore[arg-type]


def section(**changes: object) -> CaptionParams:
    own = {"model": "", "attributes": SHIPPED, "threshold": 0.9, "batch": 4}
    own |= {key: changes.pop(key) for key in [*own] if key in changes}
    style = {"prompt": "", "beams": 1, "temperature": 0.0, "top_p": 1.0}
    values: dict[str, object] = {
        "method": "clip_attributes", "captions": 2, "seed": 5,
        "captioner": {"model": "", "styles": {"plain": style}, "max_new_tokens": 9,
                      "repetition_penalty": 1.0, "batch": 4},
        "clip_attributes": own,
    }  # fmt: skip
    return check_section(CaptionParams, values | changes, "caption")


def png(level: int, size: tuple[int, int] = (4, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(blobs: list[bytes | None], rejected: tuple[int, ...] = ()) -> pa.Table:
    states = ["rejected" if at in rejected else "ok" for at in range(len(blobs))]
    return pa.table({
        "uid": [f"{at:016x}" for at in range(len(blobs))],
        "image": pa.array(blobs, pa.binary()),
        "captions": pa.array([[] for _ in blobs], pa.list_(pa.string())),
        "status": states,
        "error": pa.array([None if s == "ok" else "grey: 3" for s in states], pa.string()),
    })  # fmt: skip


def test_a_row_says_why_its_captions_say_what_they_say() -> None:
    own, model = reader()
    table = shard([png(7), png(1), b"nothing", None, png(2), png(3, (40, 90)), png(4)], (1,))
    out = caption_table(table, own, section())
    assert out.schema == CAPTIONED
    slugs = [(error or "").split(":")[0] for error in out["error"].to_pylist()]
    assert slugs == ["", "grey", "not-an-image", "empty", "", "", ""]
    assert set(out["method"].to_pylist()) == {"clip_attributes"}
    assert out["styles"].null_count == out["seeds"].null_count == out.num_rows
    assert model.batches == [4, 4]  # filled up, also where two of four cannot be read
    for row, level in zip(out.to_pylist(), [7, None, None, None, 2, 3, 4], strict=True):
        if level is None:
            assert (row["captions"], row["templates"], row["attributes"]) == ([], None, None)
            continue
        assert len(row["captions"]) == len(row["templates"]) == len(set(row["templates"])) == 2
        values = [
            (name, each[level % len(each)])
            for name, each in WORDS.values.items()
            if not each[level % len(each)].absent
        ]
        assert row["attributes"] == [
            {"attribute": name, "value": value.name, "score": pytest.approx(0.95)}
            for name, value in values
        ]
        said = Writer(WORDS).write(row["uid"], (value for _, value in values), 2, 5)
        assert row["captions"] == [sentence.text for sentence in said]
        assert row["templates"] == [sentence.template for sentence in said]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_pictures_captions_do_not_depend_on_its_neighbours(data: st.DataObject) -> None:
    own, _ = reader()
    table = shard([png(n) for n in range(6)])
    whole = caption_table(table, own, section()).to_pylist()
    rows = data.draw(st.lists(st.integers(0, 5), unique=True).map(sorted))
    batch = data.draw(st.integers(1, 7))
    part = caption_table(table.take(pa.array(rows, pa.int64())), own, section(batch=batch))
    assert part.to_pylist() == [whole[row] for row in rows]


def test_method_and_speaker_must_fit() -> None:
    own, _ = reader()
    for speaker, method in ((own, "keep"), (own, "captioner"), (None, "clip_attributes")):
        with pytest.raises(PedAlignError, match="a reader of attributes"):
            caption_table(shard([png(1)]), speaker, section(method=method, captions=1))


# ------------------------------------------------------------------ a model of transformers


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_spelling_clip(folder)
    return folder


def own_section(clip: Path, **changes: object) -> AttributesParams:
    made = section(model=str(clip), attributes=str(ROOT / SHIPPED), **changes)
    return made.clip_attributes


def test_a_folder_of_clip_captions_a_shard(clip: Path) -> None:
    """Two batch sizes and the plainest way: each prompt and each picture alone."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (48, 24, 3), dtype=np.uint8)) for _ in range(5)]
    blobs: list[bytes | None] = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        blobs.append(buffer.getvalue())
    device = torch.device("cpu")
    outs = [
        caption_table(
            shard(blobs),
            load_reader(own_section(clip, threshold=0.3, batch=batch), device),
            section(threshold=0.3, batch=batch),
        ).to_pylist()
        for batch in (2, 5)
    ]
    scores = [[s.pop("score") for row in out for s in row["attributes"]] for out in outs]
    assert outs[0] == outs[1]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)
    plain = load_reader(own_section(clip), device)
    for row, blob in zip(outs[0], blobs, strict=True):
        pixels = np.asarray(decode(blob or b"").resize((32, 32), Image.Resampling.BICUBIC))
        picture, model = torch.from_numpy(pixels.copy())[None], plain.model
        logits = torch.cat(
            [model.logits(picture, model.bank([prompt], [1])) for prompt in WORDS.prompts], dim=1
        )[0]
        likeliest: dict[str, Value] = {}
        for name, part in zip(WORDS.values, logits.split(WORDS.sizes), strict=True):
            value = WORDS.values[name][int(part.argmax())]
            if name in REQUIRED or (part.softmax(0).max() > 0.3 and not value.absent):
                likeliest[name] = value
        assert row["attributes"] == [
            {"attribute": name, "value": value.name} for name, value in likeliest.items()
        ]


def test_what_cannot_be_loaded_is_named(clip: Path, tmp_path: Path) -> None:
    device = torch.device("cpu")
    with pytest.raises(PedAlignError, match=r"caption\.clip_attributes: .*nothing-here"):
        load_reader(own_section(tmp_path / "nothing-here"), device)
    missing = section(model=str(clip), attributes=str(tmp_path / "none.yaml")).clip_attributes
    with pytest.raises(PedAlignError, match=r"none\.yaml: no such file"):
        load_reader(missing, device)
    long = tmp_path / "long.yaml"
    text = (ROOT / SHIPPED).read_text(encoding="utf-8")
    long.write_text(text.replace("A photo of a child.", "A photo of a " + "very " * 30 + "child."))
    named = section(model=str(clip), attributes=str(long)).clip_attributes
    with pytest.raises(PedAlignError, match=r"a prompt of \d+ tokens"):
        load_reader(named, device)
    half = tmp_path / "half"
    shutil.copytree(clip, half)
    (half / "model.safetensors").unlink()
    with pytest.raises(PedAlignError, match="cannot load the model of pictures and texts"):
        load_reader(own_section(half), device)


def test_seen_is_a_value_with_its_score() -> None:
    best = np.zeros((1, 14), np.int64)
    found = kept(best, np.ones((1, 14), np.float32), WORDS, 0.9)
    assert found[0][1] == Seen(WORDS.find("gender", "man"), 1.0)
    assert len(found[0]) == 14

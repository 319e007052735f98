"""DaD training: what it reads, what it learns, and that a killed run ends the same."""

import dataclasses
import io
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from diffusers import ControlNetModel, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from flows.adapt import train
from flows.together import train_together
from tasks import adapt
from tasks.adapt import AdaptParams, train_dad
from tasks.diffusion import DiffusionParams, base_revision, open_base
from tasks.errors import PedAlignError
from tasks.images import encode_jpeg
from tasks.pairs import cache_pairs
from tasks.restyle import RestyleParams, open_restyler, restyle_table
from tasks.runtime import runtime
from tasks.schemas import IMAGES
from tasks.shards import image_uid, write_folder

SIZE = (16, 8)
PARAMS = AdaptParams(
    epochs=2, batch=4, learning_rate=1e-3, warmup_steps=2, decay=True, weight_decay=0.01, clip=1.0,
    prompt_dropout=0.3, ema=0.9, seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> DiffusionParams:
    """A random base of the classes of Stable Diffusion, saved to disk."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    vocab = {t: i for i, t in enumerate(["<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>"])}
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 4), norm_num_groups=2,
        ),
        unet=UNet2DConditionModel(
            block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
            attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=6, bos_token_id=0, eos_token_id=1,
            )
        ),
        tokenizer=CLIPTokenizer(vocab=vocab, merges=[], model_max_length=6),
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return DiffusionParams(base=str(folder), size=SIZE, precision="fp32")


def target(rows: int = 7) -> pa.Table:
    """Rows of the target: dark pictures; one of another split, one rejected, one unreadable."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(rows):
        pixels = rng.integers(0, 90, (*SIZE, 3), dtype=np.uint8)
        row = dict.fromkeys(IMAGES.names)
        row |= {
            "uid": image_uid("t", str(i)), "dataset": "t", "split": "train", "width": SIZE[1],
            "height": SIZE[0], "image": encode_jpeg(pixels), "source_path": str(i),
            "captions": ["a b", f"a {'b ' * (i % 2)}"], "status": "ok",
        }  # fmt: skip
        made.append(row)
    made[1]["split"] = "test"
    made[2] |= {"status": "rejected", "error": "truncated: x", "image": None}
    made[3]["image"] = b"\xff\xd8 no picture"
    made[4]["captions"] = []
    return pa.Table.from_pylist(sorted(made, key=lambda row: row["uid"]), schema=IMAGES)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return ControlNetModel.from_pretrained(folder).state_dict()


def test_only_good_train_rows_are_encoded_and_each_caption_once(diffusion, tmp_path):
    base = open_base(diffusion, "cpu")
    data = cache_pairs([target()], base, SIZE, tmp_path / "cache")
    assert data.latents.shape == (4, 2, 4, 8, 4)
    assert data.skipped == 3
    assert len(data.pairs) == 3 * 2 + 1  # a picture without captions has the empty one
    assert data.captions[0] == ""
    assert len(set(data.captions)) == len(data.captions)
    assert set(data.captions) == {"", "a b", "a ", "a b "}
    assert len(data.words) == len(data.captions)
    rows = [r for r in target().to_pylist() if r["split"] == "train" and r["status"] == "ok"]
    first = next(r for r in rows if r["image"][2:4] != b" n")
    pixels = torch.from_numpy(np.asarray(Image.open(io.BytesIO(first["image"]))))
    mean, deviation = base.encode_pixels(pixels.permute(2, 0, 1)[None].float() / 127.5 - 1)
    assert np.allclose(data.latents[0, 0], mean[0], atol=2e-3)
    assert np.allclose(data.latents[0, 1], deviation[0], atol=2e-3)
    at = data.captions.index("a b")
    assert np.allclose(data.words[at], base.encode_prompts(["a b"])[0], atol=2e-3)
    again = cache_pairs([], base, SIZE, tmp_path / "cache")  # nothing is read a second time
    assert np.array_equal(again.latents, data.latents)


def test_training_lowers_the_loss_and_leaves_a_controlnet_and_a_sheet(diffusion, tmp_path):
    seen: list[tuple[int, int, float]] = []
    section = dataclasses.replace(PARAMS, epochs=40, learning_rate=5e-3)
    before = base_revision(diffusion)
    result = train_dad(
        [target()], diffusion, section, tmp_path, progress=lambda *step: seen.append(step)
    )
    assert (result.images, result.pairs, result.skipped) == (4, 7, 3)
    assert len(result.losses) == 40 == len(seen)  # 7 pairs, batches of 4: one a pass
    assert seen[-1] == (40, 40, result.losses[-1])
    assert np.mean(result.losses[-10:]) < np.mean(result.losses[:10])
    assert Image.open(result.sheet).size == (4 * SIZE[1], 4 * SIZE[0])
    assert len(result.digest) == 64
    look = load_file(result.folder / "look.safetensors")["statistics"]
    data = cache_pairs([], open_base(diffusion, "cpu"), SIZE, tmp_path / "cache")
    assert look.shape == (4, 2, 4)
    one = data.latents[1, 0, 2].astype(np.float32)
    assert look[1, :, 2].numpy() == pytest.approx([one.mean(), one.std(ddof=1)], rel=1e-5)
    section = RestyleParams(
        mode="restyle", strength=0.5, match=0.5, steps=4, guidance=1.0, scheduler="ddim",
        negative_prompt="", control_scale=1.0, variants=1, alpha=0.5, synonyms="table", quality=90,
        seed=0,
    )  # fmt: skip
    restyler = open_restyler(diffusion, section, result.folder, "cpu")
    assert restyler is not None
    assert (restyler.base_revision, restyler.dad_digest) == (before, result.digest)
    made = restyle_table(target(), restyler, section, SIZE, batch=4)
    assert made["status"].to_pylist().count("ok") == 5
    with pytest.raises(PedAlignError, match=r"match is 0\.5"):
        open_restyler(diffusion, section, None, "cpu")
    zero = weights(result.folder)["controlnet_mid_block.weight"]
    assert bool(zero.abs().max() > 0)  # the zero convolutions have opened
    assert base_revision(diffusion) == before


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_killed_training_ends_with_the_same_weights(diffusion, tmp_path, monkeypatch, ema):
    section = dataclasses.replace(PARAMS, epochs=7, ema=ema)
    whole = train_dad([target()], diffusion, section, tmp_path / "whole", checkpoint_seconds=0)

    def die(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_dad(
            [target()], diffusion, section, tmp_path / "cut", checkpoint_seconds=0, progress=die
        )
    steps: list[int] = []
    resumed = train_dad(
        [], diffusion, section, tmp_path / "cut", checkpoint_seconds=0,
        progress=lambda step, *_: steps.append(step),
    )  # fmt: skip
    assert steps == [5, 6, 7]  # the checkpoint of step 4 was whole
    assert resumed.losses == whole.losses
    assert resumed.digest == whole.digest
    assert (tmp_path / "cut" / "sheet.png").read_bytes() == whole.sheet.read_bytes()
    assert not list((tmp_path / "cut").glob(".*"))


def test_the_seed_and_the_dropped_prompts_matter(diffusion, tmp_path):
    losses = {}
    cases = {"first": PARAMS, "again": PARAMS,
             "seed": dataclasses.replace(PARAMS, seed=4),
             "dropped": dataclasses.replace(PARAMS, prompt_dropout=1.0),
             "kept": dataclasses.replace(PARAMS, prompt_dropout=0.0)}  # fmt: skip
    for name, section in cases.items():
        losses[name] = train_dad([target()], diffusion, section, tmp_path / name).losses
    assert losses["first"] == losses["again"]
    assert losses["seed"] != losses["first"]
    assert losses["dropped"][0] != losses["kept"][0]


def test_the_rate_warms_up_and_falls(diffusion, tmp_path):
    base = open_base(diffusion, "cpu")
    data = cache_pairs([target()], base, SIZE, tmp_path / "cache")
    objective = adapt.DaDObjective(base, adapt.new_controlnet(base), SIZE)
    section = dataclasses.replace(PARAMS, epochs=10, warmup_steps=4, learning_rate=0.8)
    loop = adapt._Loop(objective, data, section, torch.device("cpu"))
    rates = []
    for loop.step in range(10):
        rates.append(loop._rate())
    expected = [
        0.8 * min(1, (s + 1) / 4) * 0.5 * (1 + np.cos(np.pi * s / 10)) for s in range(10)
    ]  # fmt: skip
    assert rates == pytest.approx(expected)
    loop.section = dataclasses.replace(section, decay=False)
    assert loop._rate() == 0.8


def test_nothing_to_train_on_is_an_error(diffusion, tmp_path):
    table = target().slice(0, 0)
    with pytest.raises(PedAlignError, match="none of the target's 0 rows"):
        train_dad([table], diffusion, PARAMS, tmp_path)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [({"base": "no/such/folder"}, "diffusion.base"), ({"size": (15, 8)}, "multiples of 2")],
)
def test_a_base_that_cannot_be_used_is_named(diffusion, change, word, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PedAlignError, match=word):
        open_base(dataclasses.replace(diffusion, **change), "cpu")


def test_a_pickle_in_place_of_weights_is_refused(diffusion, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(diffusion.base, folder)
    weights_file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights_file.rename(weights_file.with_suffix(".bin"))
    with pytest.raises(PedAlignError, match=r"diffusion\.base"):
        open_base(dataclasses.replace(diffusion, base=str(folder)), "cpu")


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(diffusion, tmp_path, monkeypatch):
    write_folder(tmp_path / "target", [target(12)], "images", {}, shard_rows=20)
    (tmp_path / "runtime.yaml").write_text("processes: 2\ndevice: cpu\n")
    monkeypatch.chdir(tmp_path)
    runtime.cache_clear()
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        call = partial(train, tmp_path / name, tmp_path / "target", diffusion, PARAMS, 30.0)
        told: list[int] = []

        def tell(step: int, steps: int, row: Mapping[str, float], told: list[int] = told) -> None:
            told.append(step)

        if name == "one":
            made.append(call(torch.device("cpu"), tell))
        else:
            made.append(train_together(call, tell))
        assert told == list(range(1, 9))
    runtime.cache_clear()
    one, two = made
    rows = [(folder / "curve.csv").read_text().split()[1:] for folder in made]
    losses = [[float(row.split(",")[-1]) for row in each] for each in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, value in weights(one).items():
        assert torch.allclose(value, weights(two)[name], atol=1e-4), name
    assert (two / "samples.png").exists()

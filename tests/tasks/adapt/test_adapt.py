"""DaD training: what it reads, what it learns, and that a killed run ends the same."""

import copy
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
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from flows.adapt import train
from flows.together import train_together
from models.dad.controlnet import ControlNetObjective, new_controlnet
from tasks.adapt import samples as adapt_samples
from tasks.adapt.loop import Loop
from tasks.adapt.train import AdaptParams, AdaptResult, Focus, train_dad
from tasks.diffusion import DiffusionParams, base_revision, open_base
from tasks.errors import PedAlignError
from tasks.images import encode_jpeg
from tasks.pairs import CachedPairs, Pairs, StreamedPairs, prepare_pairs
from tasks.params import check_section
from tasks.runtime import Runtime, runtime
from tasks.schemas import IMAGES
from tasks.shards import image_uid, write_folder

SIZE = (16, 8)
PARAMS = AdaptParams(
    method="controlnet", rank=2, alpha=4.0, epochs=2, batch=4, accumulate=1, learning_rate=1e-3,
    warmup_steps=2, schedule="cosine", weight_decay=0.01, clip=1.0, prompt_dropout=0.3,
    timesteps="uniform", offset_noise=0.0, ema=0.9, cache=True, flip=False, sample_every=0, seed=3,
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


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    write_folder(folder, [target()], "images", {}, shard_rows=3)
    return folder


@pytest.fixture(autouse=True)
def quick_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps a sample instead of twelve."""
    quick = dataclasses.replace(adapt_samples.SAMPLING, steps=2)
    monkeypatch.setattr(adapt_samples, "SAMPLING", quick)


def pairs_of(shards: Path, diffusion: DiffusionParams, folder: Path, **options: bool) -> Pairs:
    return prepare_pairs(shards, open_base(diffusion, "cpu"), SIZE, folder, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    file = next(f for f in folder.glob("*.safetensors") if f.name != "look.safetensors")
    return load_file(file)


def changed(**values: object) -> AdaptParams:
    return dataclasses.replace(PARAMS, **values)


def assert_same(one: AdaptResult, two: AdaptResult, **tolerance: float) -> None:
    assert one.losses == pytest.approx(two.losses, rel=1e-4)
    theirs = weights(two.folder)
    for name, value in weights(one.folder).items():
        assert torch.allclose(value, theirs[name], **tolerance), name


# ------------------------------------------------------------------ pairs


def test_only_good_train_rows_are_encoded_and_each_caption_once(diffusion, shards, tmp_path):
    base = open_base(diffusion, "cpu")
    data = prepare_pairs(shards, base, SIZE, tmp_path / "pairs")
    assert isinstance(data, CachedPairs)
    assert data.latents.shape == (4, 1, 2, 4, 8, 4)
    assert (data.images, data.shape, data.skipped) == (4, (4, 8, 4), 3)
    assert len(data.pairs) == 3 * 2 + 1  # a picture without captions has the empty one
    assert data.captions[0] == ""
    assert len(set(data.captions)) == len(data.captions)
    assert set(data.captions) == {"", "a b", "a ", "a b "}
    assert len(data.words) == len(data.captions)
    pixels = first_picture()
    mean, deviation = base.encode_pixels(pixels.permute(2, 0, 1)[None].float() / 127.5 - 1)
    assert np.allclose(data.latents[0, 0, 0], mean[0], atol=2e-3)
    assert np.allclose(data.latents[0, 0, 1], deviation[0], atol=2e-3)
    at = data.captions.index("a b")
    assert np.allclose(data.words[at], base.encode_prompts(["a b"])[0], atol=2e-3)
    again = prepare_pairs(tmp_path / "gone", base, SIZE, tmp_path / "pairs")  # read once only
    assert isinstance(again, CachedPairs)
    assert np.array_equal(again.latents, data.latents)


def first_picture() -> torch.Tensor:
    """The first picture that is trained on, (H, W, 3)."""
    rows = [r for r in target().to_pylist() if r["split"] == "train" and r["status"] == "ok"]
    first = next(r for r in rows if r["image"][2:4] != b" n")
    return torch.from_numpy(np.array(Image.open(io.BytesIO(first["image"]))))


def test_light_and_colour_of_every_train_picture_are_measured(diffusion, shards, tmp_path):
    data = pairs_of(shards, diffusion, tmp_path / "pairs")
    assert isinstance(data, CachedPairs)
    look = load_file(data.look)
    assert look["statistics"].shape == (4, 2, 4)
    one = data.latents[1, 0, 0, 2].astype(np.float32)
    expected = [one.mean(), one.std(ddof=1)]
    assert look["statistics"][1, :, 2].numpy() == pytest.approx(expected, rel=1e-5)
    assert look["pixels"].shape == (4, 2, 3)
    levels = first_picture().double().reshape(-1, 3)
    assert torch.allclose(look["pixels"][0, 0].double(), levels.mean(0), rtol=1e-6)
    assert torch.allclose(look["pixels"][0, 1].double(), levels.std(0, correction=0), rtol=1e-6)


def test_streamed_and_mirrored_pairs_are_those_of_the_cache(diffusion, shards, tmp_path):
    cached = pairs_of(shards, diffusion, tmp_path / "cached", mirror=True)
    streamed = pairs_of(shards, diffusion, tmp_path / "streamed", cache=False, mirror=True)
    assert isinstance(streamed, StreamedPairs)
    assert not list((tmp_path / "streamed").glob("*.f16")) + list(tmp_path.glob("streamed/words*"))
    assert np.array_equal(cached.pairs, streamed.pairs)
    assert cached.captions == streamed.captions
    assert cached.look.read_bytes() == streamed.look.read_bytes()
    rows, mirrored = cached.pairs[[5, 0, 3, 1]], np.array([True, False, True, True])
    ways = [data.encode(data.read(rows, mirrored), torch.device("cpu"))
            for data in (cached, streamed)]  # fmt: skip
    for one, two in zip(*ways, strict=True):
        assert one.dtype == two.dtype == torch.float32
        assert torch.allclose(one, two, atol=4e-3)
    base = open_base(diffusion, "cpu")
    picture = first_picture().flip(1).permute(2, 0, 1)[None].float() / 127.5 - 1
    at = int(np.flatnonzero(cached.pairs[:, 0] == 0)[0])
    read = cached.read(cached.pairs[[at]], np.array([True]))
    seen, _ = cached.encode(read, torch.device("cpu"))
    assert torch.allclose(seen[0, 0], base.encode_pixels(picture)[0][0], atol=2e-3)


def test_nothing_to_train_on_is_an_error(diffusion, tmp_path):
    write_folder(tmp_path / "none", [target().slice(0, 0)], "images", {}, shard_rows=3)
    with pytest.raises(PedAlignError, match="none of the target's 0 rows"):
        train_dad(tmp_path / "none", diffusion, PARAMS, tmp_path / "run")
    assert not (tmp_path / "run" / "pairs").exists()


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_training_lowers_the_loss_and_leaves_an_adapter_and_a_sheet(
    diffusion, shards, tmp_path, method
):
    seen: list[tuple[int, int, float]] = []
    section = changed(method=method, epochs=40, learning_rate=5e-3, sample_every=15)
    before = base_revision(diffusion)
    result = train_dad(
        shards, diffusion, section, tmp_path, progress=lambda *step: seen.append(step)
    )
    assert (result.images, result.pairs, result.skipped) == (4, 7, 3)
    assert len(result.losses) == 40 == len(seen)  # 7 pairs, batches of 4: one a pass
    assert seen[-1] == (40, 40, result.losses[-1])
    assert np.mean(result.losses[-10:]) < np.mean(result.losses[:10])
    rows = sorted(file.name for file in (tmp_path / "samples").glob("0*.png"))
    assert rows == [f"{step:07d}.png" for step in (0, 15, 30, 40)]
    pictures = [np.array(Image.open(tmp_path / "samples" / row)) for row in (rows[0], rows[-1])]
    assert pictures[0].shape == (SIZE[0], 4 * SIZE[1], 3)
    assert not np.array_equal(*pictures)
    assert Image.open(result.sheet).size == (72 + 4 * 80, 5 * 160)  # the target, and four times
    assert len(result.digest) == 64
    assert set(load_file(result.folder / "look.safetensors")) == {"statistics", "pixels"}
    assert base_revision(diffusion) == before
    name = "pytorch_lora_weights" if method == "lora" else "diffusion_pytorch_model"
    assert (result.folder / f"{name}.safetensors").exists()
    started = "lora_B" if method == "lora" else "controlnet_mid_block.weight"
    opened = [value for key, value in weights(result.folder).items() if started in key]
    assert opened
    assert all(bool(value.abs().max() > 0) for value in opened)  # what began at zero has moved


CASES = {
    "last weights": {"ema": 0.0},
    "averaged weights": {},
    "lora": {"method": "lora", "accumulate": 2, "timesteps": Focus(below=0.4, share=0.9),
             "flip": True, "offset_noise": 0.5},
    "streamed": {"cache": False, "flip": True, "schedule": "linear", "sample_every": 2},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_ends_with_the_same_weights(diffusion, shards, tmp_path, case):
    section = changed(epochs=7, **CASES[case])
    whole = train_dad(shards, diffusion, section, tmp_path / "whole", checkpoint_seconds=0)

    def die(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_dad(shards, diffusion, section, tmp_path / "cut", checkpoint_seconds=0, progress=die)
    steps: list[int] = []
    resumed = train_dad(
        shards, diffusion, section, tmp_path / "cut", checkpoint_seconds=0,
        progress=lambda step, *_: steps.append(step),
    )  # fmt: skip
    assert steps == [5, 6, 7]  # the checkpoint of step 4 was whole
    assert resumed.losses == whole.losses
    assert resumed.digest == whole.digest
    assert resumed.sheet.read_bytes() == whole.sheet.read_bytes()
    assert not list((tmp_path / "cut").glob(".*"))


@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_parts_of_a_batch_give_the_step_of_the_whole(diffusion, shards, tmp_path, method):
    made = [
        train_dad(
            shards, diffusion, changed(method=method, accumulate=parts, epochs=3),
            tmp_path / str(parts),
        )
        for parts in (1, 4)
    ]  # fmt: skip
    assert_same(*made, atol=2e-5)


@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_parts_computed_side_by_side_change_no_bit(
    diffusion, shards, tmp_path, method, monkeypatch
):
    made = []
    for workers in (1, 3):
        side_by_side, recomputed = Runtime(workers=workers), Runtime(recompute=workers > 1)
        monkeypatch.setattr("tasks.adapt.loop.runtime", partial(copy.copy, side_by_side))
        monkeypatch.setattr("tasks.adapt.train.runtime", partial(copy.copy, recomputed))
        section = changed(method=method, accumulate=4)
        made.append(
            train_dad(
                shards,
                dataclasses.replace(diffusion, precision="bf16"),
                section,
                tmp_path / f"{workers}",
            )
        )
    assert made[0].losses == made[1].losses
    assert made[0].digest == made[1].digest


def test_a_stream_gives_the_training_of_the_cache(diffusion, shards, tmp_path):
    made = [
        train_dad(shards, diffusion, changed(cache=cache, flip=True), tmp_path / str(cache))
        for cache in (True, False)
    ]
    assert made[0].losses == pytest.approx(made[1].losses, rel=5e-3)  # float16 in the cache
    assert made[0].losses != made[1].losses


@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_recomputed_activations_change_nothing(diffusion, shards, tmp_path, method, monkeypatch):
    made = [train_dad(shards, diffusion, changed(method=method), tmp_path / "kept")]
    monkeypatch.setattr("tasks.adapt.train.runtime", lambda: Runtime(recompute=True))
    calls = []
    again = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(
        torch.utils.checkpoint, "checkpoint", lambda *a, **k: calls.append(1) or again(*a, **k)
    )
    made.append(train_dad(shards, diffusion, changed(method=method), tmp_path / "again"))
    assert calls
    assert made[0].digest == made[1].digest
    assert made[0].losses == made[1].losses


def test_seed_dropped_prompts_timesteps_and_mirrors_matter(diffusion, shards, tmp_path):
    cases = {"first": {}, "again": {}, "seed": {"seed": 4}, "dropped": {"prompt_dropout": 1.0},
             "kept": {"prompt_dropout": 0.0}, "clean": {"timesteps": Focus(below=0.1, share=1.0)},
             "flip": {"flip": True}, "offset": {"offset_noise": 1.0}}  # fmt: skip
    losses = {}
    for name, values in cases.items():
        loop = loop_of(diffusion, shards, tmp_path / name, changed(**values))
        losses[name] = [loop.advance() for _ in range(loop.steps)]
    assert losses["first"] == losses["again"]
    for name in ("seed", "clean", "flip", "offset"):
        assert losses[name] != losses["first"], name
    assert losses["dropped"][0] != losses["kept"][0]


# ------------------------------------------------------------------ draws and rates


def test_focus_draws_its_share_below_its_border():
    generator = torch.Generator().manual_seed(0)
    drawn = Focus(below=0.3, share=0.8).draw(1000, 20_000, generator)
    assert drawn.dtype == torch.int64
    assert (drawn.min(), drawn.max()) == (0, 999)
    assert (drawn < 300).float().mean().item() == pytest.approx(0.8, abs=0.01)
    low, high = drawn[drawn < 300].float(), drawn[drawn >= 300].float()
    assert low.mean().item() == pytest.approx(149.5, abs=4)  # evenly
    assert high.mean().item() == pytest.approx(649.5, abs=10)
    assert Focus(below=0.3, share=1.0).draw(1000, 500, generator).max() < 300
    assert Focus(below=0.001, share=1.0).draw(10, 50, generator).max() == 0
    assert Focus(below=0.999, share=0.0).draw(10, 50, generator).min() == 9


@pytest.mark.parametrize("value", ["some", {"below": 0.0, "share": 1.0}, {"below": 0.5}, 3])
def test_timesteps_are_checked(value):
    section = dataclasses.asdict(PARAMS) | {"timesteps": value}
    with pytest.raises(PedAlignError, match=r"adapt\.timesteps"):
        check_section(AdaptParams, section, "adapt")
    section["timesteps"] = {"below": 0.5, "share": 0.75}
    assert check_section(AdaptParams, section, "adapt").timesteps == Focus(below=0.5, share=0.75)


def loop_of(diffusion: DiffusionParams, shards: Path, folder: Path, section: AdaptParams) -> Loop:
    base = open_base(diffusion, "cpu")
    data = prepare_pairs(shards, base, SIZE, folder / "pairs", mirror=section.flip)
    objective = ControlNetObjective(base, new_controlnet(base), SIZE)
    return Loop(objective, data, section, torch.device("cpu"))


def test_the_rate_warms_up_and_falls(diffusion, shards, tmp_path):
    section = changed(epochs=10, warmup_steps=4, learning_rate=0.8)
    loop = loop_of(diffusion, shards, tmp_path, section)
    falls = {
        "cosine": lambda s: 0.5 * (1 + np.cos(np.pi * s / 10)),
        "linear": lambda s: 1 - s / 10,
        "constant": lambda s: 1.0,
    }
    for name, fall in falls.items():
        loop.section = dataclasses.replace(section, schedule=name)
        rates = []
        for loop.step in range(10):
            rates.append(loop.rate())
        expected = [0.8 * min(1, (s + 1) / 4) * fall(s) for s in range(10)]
        assert rates == pytest.approx(expected), name


def test_an_epoch_takes_every_pair_once_and_half_of_them_mirrored(diffusion, shards, tmp_path):
    section = changed(epochs=300, batch=7, flip=True, prompt_dropout=0.0)
    loop = loop_of(diffusion, shards, tmp_path, section)
    asked: list[tuple[np.ndarray, np.ndarray]] = []
    original = loop.data.read
    object.__setattr__(loop.data, "read", lambda *a: asked.append(a) or original(*a))
    for step in range(300):
        loop.draw(step)
    every = sorted(map(tuple, loop.data.pairs.tolist()))
    assert all(sorted(map(tuple, rows.tolist())) == every for rows, _ in asked)
    assert np.mean([flips.mean() for _, flips in asked]) == pytest.approx(0.5, abs=0.05)
    loop.close()


def test_offset_noise_adds_a_constant_to_each_channel(diffusion, shards, tmp_path):
    plain = loop_of(diffusion, shards, tmp_path, PARAMS)
    offset = loop_of(diffusion, shards, tmp_path, changed(offset_noise=2.0))
    added = []
    for step in range(40):
        (one,), (two,) = plain.draw(step), offset.draw(step)
        assert torch.equal(one.posterior_noise_BChw, two.posterior_noise_BChw)
        change = two.noise_BChw - one.noise_BChw
        assert torch.allclose(change, change[:, :, :1, :1].expand_as(change), atol=1e-5)
        added.append(change[:, :, 0, 0])
    assert torch.stack(added).std().item() == pytest.approx(2.0, rel=0.1)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"base": "no/such/folder"}, "diffusion.base"),
        ({"size": (15, 8)}, "multiples of 2"),
        ({"precision": "fp16"}, "rounds to 0"),
    ],
)
def test_a_base_that_cannot_be_used_is_named(diffusion, change, word, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PedAlignError, match=word):
        train_dad(tmp_path, dataclasses.replace(diffusion, **change), PARAMS, tmp_path)


def test_a_batch_that_cannot_be_divided_is_named(diffusion, shards, tmp_path):
    with pytest.raises(PedAlignError, match="a batch of 4 in 3 parts"):
        train_dad(shards, diffusion, changed(accumulate=3), tmp_path)


def test_a_foreign_or_damaged_checkpoint_is_named(diffusion, shards, tmp_path):
    def die(step: int, *_: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_dad(shards, diffusion, changed(epochs=4), tmp_path, checkpoint_seconds=0,
                  progress=die)  # fmt: skip
    with pytest.raises(PedAlignError, match="of another training"):
        train_dad(shards, diffusion, changed(epochs=4, method="lora"), tmp_path)
    with pytest.raises(PedAlignError, match="4 steps, not 5"):
        train_dad(shards, diffusion, changed(epochs=5), tmp_path)
    (tmp_path / "running.pt").write_bytes(b"no checkpoint")
    with pytest.raises(PedAlignError, match="damaged"):
        train_dad(shards, diffusion, changed(epochs=4), tmp_path)


def test_a_pickle_in_place_of_weights_is_refused(diffusion, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(diffusion.base, folder)
    weights_file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights_file.rename(weights_file.with_suffix(".bin"))
    with pytest.raises(PedAlignError, match=r"diffusion\.base"):
        open_base(dataclasses.replace(diffusion, base=str(folder)), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_two_processes_end_with_the_weights_of_one(diffusion, tmp_path, monkeypatch, method):
    write_folder(tmp_path / "target", [target(12)], "images", {}, shard_rows=20)
    (tmp_path / "runtime.yaml").write_text("processes: 2\ndevice: cpu\n")
    monkeypatch.chdir(tmp_path)
    runtime.cache_clear()
    section, made = changed(method=method, accumulate=2), []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        call = partial(train, tmp_path / name, tmp_path / "target", diffusion, section, 30.0)
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

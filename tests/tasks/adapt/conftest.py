"""A base of random weights, and a small target."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tasks.adapt import samples as adapt_samples
from tasks.adapt.train import AdaptParams
from tasks.diffusion import DiffusionParams
from tasks.images import encode_jpeg
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


def changed(**values: object) -> AdaptParams:
    return dataclasses.replace(PARAMS, **values)

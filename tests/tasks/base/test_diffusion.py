"""The script that made the shipped diffusion model, and the model itself."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from models.dad.base import load_base
from models.dad.restyler import Restyler, Sampling
from models.dad.tiny import SIZE, TEXT_LENGTH, TEXT_WIDTH, new_unet, new_vae
from tasks.base import diffusion
from tasks.base.diffusion import train_tokenizer

SHIPPED = Path("models/tiny/diffusion")
CAPTIONS = ["A woman in a red coat and black boots.", "a man with a blue backpack"] * 20


def test_the_vocabulary_covers_any_text_and_common_words_are_one_token():
    tokenizer = train_tokenizer(CAPTIONS, size=700)
    for text in (*CAPTIONS[:2], "zebra ünï 😀 #1", "x"):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id not in ids[1:-1]  # nothing is unknown
    assert len(tokenizer("woman red coat").input_ids) == 2 + 3
    assert tokenizer("", padding="max_length").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.model_max_length == TEXT_LENGTH


def test_batches_depend_on_seed_and_step_alone():
    def first(n: int, start: int) -> list[tuple[int, list[int]]]:
        source = diffusion._batches(10, 3, 7, start)
        return [(step, rows.tolist()) for step, rows in (next(source) for _ in range(n))]

    whole = first(8, 0)
    assert first(3, 5) == whole[5:]
    epoch = [row for _, rows in whole[:3] for row in rows]
    assert len(set(epoch)) == 9  # three full batches of ten rows, none twice


def test_the_rate_rises_then_falls():
    rates = [diffusion._rate(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 50)
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)


def test_the_networks_fit_each_other():
    vae, unet = new_vae(), new_unet()
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, *SIZE)).latent_dist.mode()
        assert latents.shape == (1, 4, 24, 12)
        words = torch.zeros(1, TEXT_LENGTH, TEXT_WIDTH)
        assert unet(latents, 0, words).sample.shape == latents.shape
        assert vae.decode(latents).sample.shape == (1, 3, *SIZE)


# ------------------------------------------------------------------ what is shipped


def test_the_shipped_weights_say_how_they_were_made():
    record = json.loads((SHIPPED / "training.json").read_text())
    assert record["looks"] == ["source", "random"]
    assert re.match(r"python -m tasks\.base\.diffusion ", record["command"])
    assert record["plan"]["seed"] == 0
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 8_500_000


def test_the_shipped_model_keeps_a_flat_picture():
    base = load_base(str(SHIPPED))
    grey = np.full((1, *SIZE, 3), 128, np.uint8)
    trip = Restyler(base, None, SIZE, Sampling(steps=4, strength=0.0))
    made = trip.restyle(grey, base.encode_prompts([""]), [0]).astype(int)
    assert np.abs(made - 128).mean() < 16


def test_half_of_the_timesteps_and_more_are_noisy():
    steps = diffusion._timesteps(30_000, torch.Generator().manual_seed(0))
    assert (int(steps.min()), int(steps.max())) == (0, 999)
    # Half uniform, of which a third is at 667 and above, half from there: 1/2 + 1/6.
    assert float((steps >= 667).float().mean()) == pytest.approx(2 / 3, abs=0.01)

"""What adapt is trained on: encoded pictures, captions, light and colours."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tasks.adapt.train import train_dad
from tasks.diffusion import DiffusionParams, open_base
from tasks.errors import PedAlignError
from tasks.pairs import CachedPairs, Pairs, StreamedPairs, prepare_pairs
from tasks.shards import write_folder
from tests.tasks.adapt.conftest import PARAMS, SIZE, target


def pairs_of(shards: Path, diffusion: DiffusionParams, folder: Path, **options: bool) -> Pairs:
    return prepare_pairs(shards, open_base(diffusion, "cpu"), SIZE, folder, **options)


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

"""Answers by similarity: the model's own logits, and a softmax over what excludes one another."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModel,
    SiglipConfig,
    SiglipModel,
    T5Tokenizer,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from models.zeroshot import ZeroShot, choose, places
from tests.encoders import save_spelling_clip

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
         "num_attention_heads": 2}  # fmt: skip
PROMPTS = ["a man", "a woman", "a red coat", "a blue coat with a hood", "a hat"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def save_siglip(folder: Path) -> Path:
    """A random SigLIP, which pads its texts to the longest."""
    torch.manual_seed(0)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0),
              *((letter, -2.0) for letter in LETTERS)]  # fmt: skip
    text = SMALL | {"vocab_size": len(pieces), "max_position_embeddings": 40, "pad_token_id": 0,
                    "eos_token_id": 1, "bos_token_id": 1, "projection_size": 16}  # fmt: skip
    vision = SMALL | {"image_size": 32, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        model.logit_bias.fill_(-10.0)
    model.save_pretrained(folder)
    T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_spelling_clip(folder)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_siglip(tmp_path_factory.mktemp("siglip"))


def pictures(count: int) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_logits_are_the_models_own(kind: str, request: pytest.FixtureRequest) -> None:
    """As transformers computes them from its processor's inputs; of SigLIP without the bias."""
    folder = request.getfixturevalue(kind)
    zero = ZeroShot.from_pretrained(folder)
    bank = zero.bank(PROMPTS, [2, 2, 1])
    pixels = pictures(3)
    model: Any = AutoModel.from_pretrained(folder)
    inputs = zero.tokenizer(
        PROMPTS, return_tensors="pt", padding="max_length", max_length=77 if kind == "clip" else 40
    )
    if kind == "siglip":
        inputs.pop("attention_mask")
    mean, std = torch.tensor([0.5] * 3), torch.tensor([0.5] * 3)
    if kind == "clip":
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    inputs["pixel_values"] = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        own = model(**inputs).logits_per_image
    bias = -10.0 if kind == "siglip" else 0.0
    torch.testing.assert_close(zero.logits(pixels, bank), own - bias, atol=2e-4, rtol=1e-5)


def test_prompts_are_seen_once_in_any_batches(clip: Path) -> None:
    zero = ZeroShot.from_pretrained(clip)
    whole = zero.bank(PROMPTS, [5]).text_PD
    for size in (1, 2, 5):
        torch.testing.assert_close(zero.bank(PROMPTS, [5], batch_size=size).text_PD, whole)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(5))


def test_a_batch_answers_as_its_pictures_do(clip: Path) -> None:
    zero = ZeroShot.from_pretrained(clip)
    bank = zero.bank(PROMPTS, [2, 3])
    pixels = pictures(7)
    best, probability = zero.answer(pixels, bank)
    for at in range(7):
        one, score = zero.answer(pixels[at : at + 1], bank)
        assert one.tolist() == best[at : at + 1].tolist()
        torch.testing.assert_close(score, probability[at : at + 1])


def test_half_precision_decides_in_single(clip: Path) -> None:
    zero = ZeroShot.from_pretrained(clip, dtype=torch.bfloat16)
    exact = ZeroShot.from_pretrained(clip)
    bank, own = zero.bank(PROMPTS, [5]), exact.bank(PROMPTS, [5])
    assert zero.model.dtype == torch.bfloat16
    assert bank.text_PD.dtype == torch.float32
    assert zero.scale == exact.scale  # bfloat16 would round it
    cosines = zero.logits(pictures(3), bank) / zero.scale
    torch.testing.assert_close(
        cosines, exact.logits(pictures(3), own) / exact.scale, atol=0.03, rtol=0
    )


def test_a_softmax_of_each_attribute_by_hand() -> None:
    """Two attributes of 2 and 3 values; odds are powers of e."""
    logits = torch.tensor([[0.0, float(np.log(3.0)), 1.0, 1.0, 1.0], [2.0, 2.0, 5.0, 5.0, 9.0]])
    best, probability = choose(logits, places([2, 3]))
    # The first of several that are alike.
    assert best.tolist() == [[1, 0], [0, 2]]
    third = float(np.exp(9.0) / (np.exp(9.0) + 2 * np.exp(5.0)))
    torch.testing.assert_close(probability, torch.tensor([[0.75, 1 / 3], [0.5, third]]))


def test_places_number_the_values_of_each_attribute() -> None:
    assert places([2, 1, 3]).tolist() == [[0, 1, 6], [2, 6, 6], [3, 4, 5]]
    for sizes in ([], [2, 0]):
        with pytest.raises(ValueError, match="rule: one attribute or more"):
            places(sizes)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_attributes_do_not_know_of_each_other(sizes: list[int], seed: int) -> None:
    """Any attributes: as if each were asked alone, and indifferent to a bias of all prompts."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, sum(sizes), generator=generator) * 20
    best, probability = choose(logits, places(sizes))
    biased, same = choose(logits - 16, places(sizes))
    assert biased.tolist() == best.tolist()
    torch.testing.assert_close(same, probability)
    for at, part in enumerate(logits.split(sizes, dim=1)):
        assert best[:, at].tolist() == part.argmax(1).tolist()
        torch.testing.assert_close(probability[:, at], part.softmax(1).amax(1))


def test_what_is_no_such_model_is_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing-here.*rule.*remedy"):
        ZeroShot.from_pretrained(tmp_path / "nothing-here")
    with pytest.raises(ValueError, match="without get_image_features"):
        ZeroShot(torch.nn.Linear(1, 1), None, (32, 32), [0.5] * 3, [0.5] * 3)
    (clip_again := tmp_path / "pickled").mkdir()
    for file in clip.iterdir():
        if file.suffix != ".safetensors":
            (clip_again / file.name).write_bytes(file.read_bytes())
    (clip_again / "pytorch_model.bin").write_bytes(b"code")
    with pytest.raises(ValueError, match="safetensors"):
        ZeroShot.from_pretrained(clip_again)


def test_what_does_not_fit_is_refused(clip: Path) -> None:
    zero = ZeroShot.from_pretrained(clip)
    with pytest.raises(ValueError, match=r"5 prompts for attributes of \[2, 2\] values"):
        zero.bank(PROMPTS, [2, 2])
    with pytest.raises(ValueError, match=r"a prompt of \d+ tokens .*reads 77"):
        zero.bank(["abc " * 30], [1])
    with pytest.raises(ValueError, match=r"pictures of \(16, 32, 3\)"):
        zero.answer(pictures(2)[:, :16], zero.bank(PROMPTS, [5]))

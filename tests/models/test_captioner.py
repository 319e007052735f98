"""Real BLIP and BLIP-2 classes, small and random, loaded from folders; sampling by the seed."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    GPT2Tokenizer,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from models.captioner import Decoding, GumbelDraw, HubCaptioner, gumbel_noise, tidy

WORDS = [
    *("a", "man", "woman", "in", "with", "the", "red", "blue", "black"),
    *("shirt", "trousers", "bag", "photo", "of", "."),
]


def save_blip(folder: Path) -> None:
    torch.manual_seed(0)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    (folder / "vocab.txt").write_text("\n".join(marks + WORDS))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), bos_token="[DEC]")
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 48,
        "bos_token_id": 5,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
        "initializer_range": 0.5,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.5,
    }
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    model.save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    BlipProcessor(images, tokenizer).save_pretrained(folder)


LANGUAGES: dict[str, dict[str, object]] = {
    "opt": {
        "model_type": "opt",
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 96,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "init_std": 0.5,
    },
    "t5": {
        "model_type": "t5",
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
        "initializer_factor": 3.0,
    },
}
"""The two kinds of language model under BLIP-2's published checkpoints."""


def save_blip2(folder: Path, language: str = "opt") -> None:
    torch.manual_seed(0)
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    for letter in "abcdefghijklmnopqrstuvwxyzDI:Ġ":
        vocab[letter] = len(vocab)
    tokenizer = GPT2Tokenizer(
        vocab=vocab,
        merges=[],
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    processor = Blip2Processor(
        BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer, num_query_tokens=4
    )
    config = Blip2Config(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        qformer_config={
            "vocab_size": 20,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "encoder_hidden_size": 16,
        },
        text_config={"vocab_size": len(processor.tokenizer), **LANGUAGES[language]},
        num_query_tokens=4,
        use_decoder_only_language_model=language == "opt",
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def save_blip2_t5(folder: Path) -> None:
    save_blip2(folder, "t5")


SAVE: dict[str, Callable[[Path], None]] = {
    "blip": save_blip,
    "blip2": save_blip2,
    "blip2 t5": save_blip2_t5,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {name: tmp_path_factory.mktemp(name) for name in SAVE}
    for name, save in SAVE.items():
        save(paths[name])
    return paths


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (40, 24, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("kind", SAVE)
def test_loads_from_a_folder_and_describes(folders: dict[str, Path], kind: str) -> None:
    captioner = HubCaptioner.from_pretrained(folders[kind], Decoding(max_new_tokens=8))
    texts = captioner.caption(pictures(3), seeds=[0, 1, 2])
    assert len(texts) == 3
    assert any(texts)
    assert all("\n" not in text and "<" not in text and "[" not in text for text in texts)
    assert texts == captioner.caption(pictures(3), seeds=[7, 8, 9])  # greedy ignores seeds


@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_greedy_takes_the_largest_logit_of_a_plain_loop(
    folders: dict[str, Path], kind: str
) -> None:
    """`generate` with its cache against re-running the whole sentence for every token."""
    captioner = HubCaptioner.from_pretrained(folders[kind], Decoding(max_new_tokens=5))
    model, processor = captioner.model, captioner.processor
    image = pictures(1)[0]
    pixels = processor.image_processor(
        [image], input_data_format="channels_last", return_tensors="pt"
    )["pixel_values"]
    if kind == "blip":
        ids, end = [model.config.text_config.bos_token_id], model.config.text_config.sep_token_id
    else:
        config = model.config
        ids = [config.image_token_index] * config.num_query_tokens + [
            config.text_config.bos_token_id
        ]
        end = config.text_config.eos_token_id
    start = len(ids)
    for _ in range(5):
        with torch.inference_mode():
            logits = model(pixel_values=pixels, input_ids=torch.tensor([ids])).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == end:
            break
    expected = tidy(processor.tokenizer.decode(ids[start:], skip_special_tokens=True))
    assert captioner.caption([image], seeds=[0]) == [expected]


@pytest.mark.parametrize("kind", SAVE)
def test_a_prompt_steers_and_is_not_in_the_caption(folders: dict[str, Path], kind: str) -> None:
    prompt = "a photo of" if kind == "blip" else "Describe"
    captioner = HubCaptioner.from_pretrained(
        folders[kind], Decoding(prompt=prompt, max_new_tokens=6)
    )
    texts = captioner.caption(pictures(2), seeds=[0, 0])
    assert all(not text.lower().startswith(prompt.lower()) for text in texts)
    # The same words given by hand to the processor and to `generate`.
    inputs = captioner.processor(images=pictures(1)[0], text=prompt, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    tokens = captioner.model.generate(**inputs, max_new_tokens=6)
    plain = captioner.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]
    assert texts[0] == tidy(plain, prompt)


def test_beams_and_penalty_reach_the_model(folders: dict[str, Path]) -> None:
    way = Decoding(max_new_tokens=6, beams=4, repetition_penalty=1.7)
    captioner = HubCaptioner.from_pretrained(folders["blip"], way)
    processor = captioner.processor
    pixels = processor.image_processor(
        pictures(3), input_data_format="channels_last", return_tensors="pt"
    )["pixel_values"]
    tokens = captioner.model.generate(
        pixels, max_new_tokens=6, num_beams=4, repetition_penalty=1.7, do_sample=False
    )
    plain = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert captioner.caption(pictures(3), [0] * 3) == [tidy(text) for text in plain]


def test_a_sampled_caption_depends_on_its_own_seed_only(folders: dict[str, Path]) -> None:
    way = Decoding(max_new_tokens=8, temperature=1.0, top_p=0.95)
    captioner = HubCaptioner.from_pretrained(folders["blip"], way)
    images = pictures(4)
    together = captioner.caption(images, [11, 12, 13, 14])
    torch.manual_seed(99)  # the global generator has no say
    alone = [
        captioner.caption([im], [s])[0] for im, s in zip(images, (11, 12, 13, 14), strict=True)
    ]
    assert together == alone
    assert captioner.caption(images[::-1], [14, 13, 12, 11]) == together[::-1]
    draws = {captioner.caption(images[:1], [seed])[0] for seed in range(8)}
    assert len(draws) > 1


def test_draws_follow_the_softmax() -> None:
    probability = torch.tensor([0.5, 0.3, 0.15, 0.05])
    count = 20_000
    draw = GumbelDraw(range(count), temperature=1.0, top_p=1.0)
    scores = draw(torch.zeros(count, 3, dtype=torch.long), probability.log().expand(count, -1))
    shares = torch.bincount(scores.argmax(dim=-1), minlength=4) / count
    # Three standard deviations of a share of a half at 20,000 draws are 0.011.
    assert torch.allclose(shares, probability, atol=0.012)


def test_temperature_sharpens_and_top_p_cuts_the_tail() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(2000, -1)
    position = torch.zeros(2000, 1, dtype=torch.long)
    sharp = GumbelDraw(range(2000), temperature=0.25, top_p=1.0)(position, logits).argmax(dim=-1)
    assert (sharp == 0).float().mean() > 0.8  # 0.5^4 / (0.5^4 + 0.3^4 + ...) = 0.87
    cut = GumbelDraw(range(2000), temperature=1.0, top_p=0.7)(position, logits).argmax(dim=-1)
    assert Counter(cut.tolist()).keys() == {0, 1}  # 0.5, then 0.8 passes 0.7


def test_noise_is_gumbel_and_free_of_correlation() -> None:
    noise = gumbel_noise(torch.arange(400), position=3, count=500)
    assert abs(float(noise.mean()) - 0.5772) < 0.01  # Euler's constant
    assert abs(float(noise.var()) - np.pi**2 / 6) < 0.03
    assert abs(np.corrcoef(noise[:-1].flatten(), noise[1:].flatten())[0, 1]) < 0.01
    assert abs(np.corrcoef(noise[:, :-1].flatten(), noise[:, 1:].flatten())[0, 1]) < 0.01
    other = gumbel_noise(torch.arange(400), position=4, count=500)
    assert abs(np.corrcoef(noise.flatten(), other.flatten())[0, 1]) < 0.01


def test_noise_is_splitmix_by_the_book() -> None:
    """Against the algorithm in Python's unbounded integers."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    golden, seed, position, token = 0x9E3779B97F4A7C15, 2**63 - 5, 9, 2
    bits = mix((mix((mix(seed) + position * golden) % 2**64) + (token + 1) * golden) % 2**64)
    expected = -np.log(-np.log(((bits >> 11) + 0.5) / 2**53))
    noise = gumbel_noise(torch.tensor([seed]), position, count=4)
    assert float(noise[0, token]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("raw", "prompt", "clean"),
    [
        ("a man in a t - shirt .", "", "a man in a t-shirt."),
        ("  two\nlines  ", "", "two lines"),
        ("Describe the image: a woman", "describe the image", "a woman"),
        ("a photo of a photo", "a photo of", "a photo"),
        ("well - known , yes !", "", "well-known, yes!"),
        ("", "x", ""),
    ],
)
def test_tidy(raw: str, prompt: str, clean: str) -> None:
    assert tidy(raw, prompt) == clean


def test_faults_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load .*remedy"):
        HubCaptioner.from_pretrained(tmp_path, Decoding())
    with pytest.raises(ValueError, match="beams 1 or temperature 0"):
        Decoding(beams=2, temperature=0.5)
    captioner = HubCaptioner.from_pretrained(folders["blip"], Decoding())
    with pytest.raises(ValueError, match="one seed an image"):
        captioner.caption(pictures(2), [0])
    assert captioner.caption([], []) == []

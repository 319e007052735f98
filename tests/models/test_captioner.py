"""Real classes, small and random, loaded from folders; sampling by the seed.

BLIP and BLIP-2 (both kinds of language model) as plain captioners, LLaVA as a chat model.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPVisionConfig,
    GPT2Tokenizer,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from models.captioner import Decoding, GumbelDraw, HubCaptioner, gumbel_noise, tidy, whole_sentences

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


CHAT = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def save_llava(folder: Path) -> None:
    torch.manual_seed(0)
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, "<image>": 3}
    for letter in "abcdefghijklmnopqrstuvwxyzDI:Ġ":
        vocab[letter] = len(vocab)
    tokenizer = GPT2Tokenizer(
        vocab=vocab,
        merges=[],
        bos_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",  # and no padding token, as many chat models come
        additional_special_tokens=["<image>"],
    )
    processor = LlavaProcessor(
        BlipImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
            initializer_range=0.5,
        ),
        image_token_index=3,
        vision_feature_select_strategy="full",
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


SAVE: dict[str, Callable[[Path], None]] = {
    "blip": save_blip,
    "blip2": save_blip2,
    "blip2 t5": save_blip2_t5,
    "llava": save_llava,
}


@pytest.fixture(scope="module")
def captioners(folders: dict[str, Path]) -> dict[str, HubCaptioner]:
    return {name: HubCaptioner.from_pretrained(path) for name, path in folders.items()}


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
def test_loads_from_a_folder_and_describes(captioners: dict[str, HubCaptioner], kind: str) -> None:
    captioner, way = captioners[kind], Decoding(max_new_tokens=8)
    texts = captioner.caption(pictures(3), [0, 1, 2], way)
    assert len(texts) == 3
    assert any(texts)
    assert all("\n" not in text and "<" not in text and "[" not in text for text in texts)
    assert texts == captioner.caption(pictures(3), [7, 8, 9], way)  # greedy ignores seeds


@pytest.mark.parametrize("kind", ["blip", "blip2"])
def test_greedy_takes_the_largest_logit_of_a_plain_loop(
    captioners: dict[str, HubCaptioner], kind: str
) -> None:
    """`generate` with its cache against re-running the whole sentence for every token."""
    captioner = captioners[kind]
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
    assert captioner.caption([image], [0], Decoding(max_new_tokens=5)) == [expected]


@pytest.mark.parametrize("kind", ["blip", "blip2", "blip2 t5"])
def test_a_prompt_steers_and_is_not_in_the_caption(
    captioners: dict[str, HubCaptioner], kind: str
) -> None:
    captioner = captioners[kind]
    prompt = "a photo of" if kind == "blip" else "Describe"
    texts = captioner.caption(pictures(2), [0, 0], Decoding(prompt=prompt, max_new_tokens=6))
    assert all(not text.lower().startswith(prompt.lower()) for text in texts)
    # The same words given by hand to the processor and to `generate`.
    inputs = captioner.processor(images=pictures(1)[0], text=prompt, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    tokens = captioner.model.generate(**inputs, max_new_tokens=6)
    plain = captioner.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]
    assert texts[0] == tidy(plain, prompt)


def test_a_chat_model_is_asked_in_its_own_template(captioners: dict[str, HubCaptioner]) -> None:
    """Against the conversation written out, the picture's tokens counted, a plain loop."""
    captioner = captioners["llava"]
    model, tokenizer = captioner.model, captioner.processor.tokenizer
    prompt = "describe the man"
    texts = captioner.caption(pictures(2), [0, 0], Decoding(prompt=prompt, max_new_tokens=6))
    said = "user: " + "<image>" * (4 * 4 + 1) + prompt + "</s>assistant: "
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    assert ids.count(3) == 17
    start = len(ids)
    pixels = captioner.processor.image_processor(pictures(1)[0], return_tensors="pt").pixel_values
    for _ in range(6):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == 1:
            break
    assert texts[0] == tidy(tokenizer.decode(ids[start:], skip_special_tokens=True))
    assert texts != captioner.caption(pictures(2), [0, 0], Decoding(max_new_tokens=6))


def test_beams_and_penalty_reach_the_model(captioners: dict[str, HubCaptioner]) -> None:
    way = Decoding(max_new_tokens=6, beams=4, repetition_penalty=1.7)
    captioner = captioners["blip"]
    processor = captioner.processor
    pixels = processor.image_processor(
        pictures(3), input_data_format="channels_last", return_tensors="pt"
    )["pixel_values"]
    tokens = captioner.model.generate(
        pixels, max_new_tokens=6, num_beams=4, repetition_penalty=1.7, do_sample=False
    )
    plain = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    # None of them has come to its end.
    wanted = [whole_sentences(tidy(text)) for text in plain]
    assert captioner.caption(pictures(3), [0] * 3, way) == wanted


@pytest.mark.parametrize(
    # The random T5 is all too sure of one letter.
    ("kind", "temperature"),
    [("blip", 1.0), ("blip2", 1.0), ("blip2 t5", 20.0), ("llava", 1.0)],
)
def test_a_sampled_caption_depends_on_its_own_seed_only(
    captioners: dict[str, HubCaptioner], kind: str, temperature: float
) -> None:
    captioner = captioners[kind]
    way = Decoding(prompt="a man", max_new_tokens=8, temperature=temperature, top_p=0.95)
    images = pictures(4)
    together = captioner.caption(images, [11, 12, 13, 14], way)
    torch.manual_seed(99)  # the global generator has no say
    alone = [
        captioner.caption([im], [s], way)[0] for im, s in zip(images, (11, 12, 13, 14), strict=True)
    ]
    assert together == alone
    assert captioner.caption(images[::-1], [14, 13, 12, 11], way) == together[::-1]
    draws = {captioner.caption(images[:1], [seed], way)[0] for seed in range(8)}
    assert len(draws) > 1


def test_draws_do_not_depend_on_the_prompts_length() -> None:
    """Padding to a longer neighbour's prompt must not change what is drawn."""
    scores = torch.zeros(1, 50)
    short, long = (GumbelDraw([5], temperature=1.0, top_p=1.0) for _ in range(2))
    drawn = []
    for step in range(3):
        drawn.append(short(torch.zeros(1, 4 + step, dtype=torch.long), scores))
        assert torch.equal(drawn[-1], long(torch.zeros(1, 9 + step, dtype=torch.long), scores))
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


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


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("A man. He wears a red ja", "A man."),
        ("A man. He walks! Is he tall? He", "A man. He walks! Is he tall?"),
        ("a man in a red ja", "a man in a red ja"),
        ("A man. He wears a cap.", "A man."),  # asked only of what was stopped
        ("a v1.5 t-shirt and", "a v1.5 t-shirt and"),
        ("", ""),
    ],
)
def test_a_sentence_cut_short_is_left_out(line: str, kept: str) -> None:
    assert whole_sentences(line) == kept


def test_only_a_caption_that_was_stopped_is_cut(captioners: dict[str, HubCaptioner]) -> None:
    """The model's next token is set by hand: two sentences, ended or not."""
    captioner = captioners["blip"]
    ids = captioner.processor.tokenizer("a man . a woman .", add_special_tokens=False).input_ids
    said = [*ids, captioner.model.config.text_config.sep_token_id]

    class Dictated(torch.nn.Module):
        config, dtype, device = captioner.model.config, torch.float32, torch.device("cpu")
        generation_config = captioner.model.generation_config

        def generate(self, max_new_tokens: int, **_: object) -> torch.Tensor:
            return torch.tensor([said[:max_new_tokens]])

    stopped = HubCaptioner(Dictated(), captioner.processor)
    whole = stopped.caption(pictures(1), [0], Decoding(max_new_tokens=len(said)))
    assert whole == ["a man. a woman."]
    cut = stopped.caption(pictures(1), [0], Decoding(max_new_tokens=5))
    assert cut == ["a man."]


def test_faults_are_named(captioners: dict[str, HubCaptioner], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load .*remedy"):
        HubCaptioner.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="beams 1 or temperature 0"):
        Decoding(beams=2, temperature=0.5)
    captioner = captioners["blip"]
    with pytest.raises(ValueError, match="one seed an image"):
        captioner.caption(pictures(2), [0], Decoding())
    assert captioner.caption([], [], Decoding()) == []


@pytest.mark.parametrize(("kind", "part"), [("blip", "text_decoder"), ("blip2", "query_tokens")])
def test_half_a_captioner_is_not_loaded(
    folders: dict[str, Path], tmp_path: Path, kind: str, part: str
) -> None:
    for file in folders[kind].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    lost = next(key for key in tensors if key.startswith(part))
    save_file({k: v for k, v in tensors.items() if k != lost}, tmp_path / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ValueError, match=rf"1 missing \({re.escape(lost)}\)"):
        HubCaptioner.from_pretrained(tmp_path)

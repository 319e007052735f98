"""Detectors with random weights, built from their sizes and saved nowhere.

What finding regions costs depends on the sizes alone, so its benchmark needs no download; tests
save the small ones to folders. The very classes of the published models with their processors.
Special tokens stand where the published tokenizers have them: Grounding DINO's classes know [CLS],
[SEP], "." and "?" as 101, 102, 1012 and 1029, and the library takes a text for OWLv2 that begins
with token 0 for none, whatever the vocabulary says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertTokenizerFast,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTProcessor,
    SwinConfig,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

WORDS = (
    "a", "man", "woman", "red", "white", "black", "blue", "striped", "shirt", "shoes", "pair", "of",
    "the", "bag", "and", "in", "with", "he", "wears", "carrying", "hat", ",", "-", "'", "t",
)  # fmt: skip
"""Words that a tokenizer here knows whole, unless told others; the rest is spelt."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_SWIN = {
    "swin-t": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24],
               "window_size": 7, "image_size": 224},
    "swin-b": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32],
               "window_size": 12, "image_size": 384},
    "tiny": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2,
             "image_size": 32},
}  # fmt: skip
"""Backbones of ``IDEA-Research/grounding-dino-tiny`` and ``-base``, and a small one."""


def grounding_dino(
    size: str = "tiny",
    *,
    words: Sequence[str] = WORDS,
    max_text_len: int | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Any, Any]:
    """Build Grounding DINO and its processor.

    Args:
        size: ``swin-t`` or ``swin-b``, at 800 x 1333 pixels; or ``tiny``, at 64 x 128.
        words: Its tokenizer's.
        max_text_len: Tokens of a prompt; default: 256, of the tiny one 32.
        device: Where to build it.
    """
    small = size == "tiny"
    tokenizer = bert_tokenizer(words, None if small else 30522)
    text: dict[str, Any] = {"vocab_size": len(tokenizer)}
    rest: dict[str, Any] = {"max_text_len": max_text_len or (32 if small else 256)}
    pixels = {"shortest_edge": 64, "longest_edge": 128} if small else {}
    if small:
        text |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                 "intermediate_size": 16}  # fmt: skip
        rest |= {
            "num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "d_model": 32,
            "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
        }  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(out_features=["stage2", "stage3", "stage4"], **_SWIN[size]),
        text_config=BertConfig(**text),
        **rest,
    )
    with torch.device(device):
        model = GroundingDinoForObjectDetection(config)
    with torch.no_grad():
        # As they are initialised, every score is nought or one, and every box where it began.
        model.model.decoder.layer_norm.weight.fill_(2 / config.d_model**0.5)
        for head in model.bbox_embed:
            torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
            torch.nn.init.normal_(head.layers[-1].bias, std=0.3)
    images = GroundingDinoImageProcessorPil(**({"size": pixels} if pixels else {}))
    return model.eval(), GroundingDinoProcessor(images, tokenizer)


def owl(
    kind: str = "owlv2", size: str = "tiny", *, device: str | torch.device = "cpu"
) -> tuple[Any, Any]:
    """Build OWLv2 or OWL-ViT and its processor.

    Args:
        kind: ``owlv2`` or ``owlvit``.
        size: ``base`` (OWLv2: patches of 16 at 960 x 960; OWL-ViT: of 32 at 768 x 768), or
            ``tiny``: 6 x 6 patches, texts of 8 tokens.
        device: Where to build it.
    """
    small = size == "tiny"
    side, patch = (48, 8) if small else {"owlv2": (960, 16), "owlvit": (768, 32)}[kind]
    tokenizer = clip_tokenizer(8 if small else 16, None if small else 49408)
    known = len(tokenizer)
    text: dict[str, Any] = {"vocab_size": known, "max_position_embeddings": 8 if small else 16,
                            "bos_token_id": known - 2, "eos_token_id": known - 1}  # fmt: skip
    vision: dict[str, Any] = {"image_size": side, "patch_size": patch}
    if small:
        narrow = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                  "num_attention_heads": 2}  # fmt: skip
        text, vision = text | narrow, vision | narrow
    width = 16 if small else 512
    made: Any
    with torch.device(device):
        if kind == "owlv2":
            made = Owlv2ForObjectDetection(
                Owlv2Config(text_config=text, vision_config=vision, projection_dim=width)
            )
        else:
            made = OwlViTForObjectDetection(
                OwlViTConfig(text_config=text, vision_config=vision, projection_dim=width)
            )
        # As they are initialised, every score is nought or one, and boxes differ little.
        torch.nn.init.normal_(made.class_head.logit_shift.weight, std=0.5 / width**0.5)
        torch.nn.init.normal_(made.class_head.logit_scale.weight, std=1 / width**0.5)
        for layer in (made.box_head.dense0, made.box_head.dense1, made.box_head.dense2):
            torch.nn.init.normal_(layer.weight, std=1.5 / layer.in_features**0.5)
    pixels = {"height": side, "width": side}
    if kind == "owlv2":
        return made.eval(), Owlv2Processor(Owlv2ImageProcessorPil(size=pixels), tokenizer)
    return made.eval(), OwlViTProcessor(OwlViTImageProcessorPil(size=pixels), tokenizer)


def bert_tokenizer(words: Sequence[str] = WORDS, size: int | None = None) -> BertTokenizerFast:
    """A WordPiece tokenizer whose special tokens stand where BERT's do.

    Args:
        words: That it knows whole; others are spelt.
        size: Of its vocabulary, filled up; default: no more than is used.
    """
    places = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012,
              "?": 1029}  # fmt: skip
    vocabulary = [f"[unused{at}]" for at in range(1030)]
    for word, at in places.items():
        vocabulary[at] = word
    vocabulary += [*words, *(letter for letter in _LETTERS if letter not in words)]
    vocabulary += [f"##{letter}" for letter in _LETTERS]
    vocabulary += [f"[unused{at}]" for at in range(len(vocabulary), size or 0)]
    return BertTokenizerFast(vocab={word: at for at, word in enumerate(vocabulary)})


def clip_tokenizer(length: int, size: int | None = None) -> CLIPTokenizer:
    """A tokenizer of letters whose special tokens stand where CLIP's do: filler first, ends last.

    Args:
        length: Most tokens of a text.
        size: Of its vocabulary, filled up; default: no more than is used.
    """
    words = ["!", *_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    words += [f"<unused{at}>" for at in range(len(words), (size or 0) - 2)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: at for at, word in enumerate(words)}, merges=[], model_max_length=length,
        pad_token="!",
    )  # fmt: skip

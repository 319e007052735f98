"""Tiny image and text encoders in the folders and layouts of the hub, for tests.

CLIP, Swin, ViT, DeiT and BERT: what retrieval starts from, and what judges and names pictures. As
in `tests.weights` the names of files, classes and tensors are those of the published folders, and
the weights are random.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil


def save_clip(folder: Path) -> None:
    """CLIP with both of its encoders, as the judge's folder has it."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    config = CLIPConfig(
        text_config=CLIPTextConfig(vocab_size=4, max_position_embeddings=6, **small).to_dict(),
        vision_config=CLIPVisionConfig(
            image_size=28, patch_size=14, projection_dim=8, **small
        ).to_dict(),
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    save_images(
        folder,
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        "CLIPImageProcessor",
        "CLIPProcessor",
    )


def save_spelling_clip(folder: Path) -> None:
    """CLIP with both of its encoders and their processors; it reads texts letter by letter."""
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), ".</w>", "-</w>",
             "<|startoftext|>", "<|endoftext|>"]  # fmt: skip
    end = len(words) - 1
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    text = small | {"vocab_size": len(words), "max_position_embeddings": 77,
                    "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}  # fmt: skip
    vision = small | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(
        vocab={word: at for at, word in enumerate(words)}, merges=[], model_max_length=77
    ).save_pretrained(folder)
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    save_images(folder, images, "CLIPImageProcessor", "CLIPProcessor")


def save_swin(folder: Path) -> None:
    """Swin as its hub folder has it: a classifier with window 7, four stages, patch 4."""
    config = SwinConfig(
        image_size=224, patch_size=4, embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8],
        window_size=7, num_labels=10,
    )  # fmt: skip
    SwinForImageClassification(config).save_pretrained(folder)


def save_bert(folder: Path) -> None:
    """BERT with its masked language head; twelve layers, since the profile parts them in the middle
    and names the doubled ones by number."""
    tokenizer = _bert_tokenizer(folder, [*"abcdefghijklmnopqrstuvwxyz0123456789.,'-"])
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=12, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    # The published file keeps TensorFlow's names, and what next sentences are told by.
    file, width = folder / "model.safetensors", config.hidden_size
    rename(file, r"LayerNorm\.weight$", "LayerNorm.gamma")
    unused = {
        "bert.pooler.dense.weight": torch.zeros(width, width),
        "bert.pooler.dense.bias": torch.zeros(width),
        "cls.seq_relationship.weight": torch.zeros(2, width),
        "cls.seq_relationship.bias": torch.zeros(2),
    }
    rename(file, r"LayerNorm\.bias$", "LayerNorm.beta", unused)
    tokenizer.save_pretrained(folder)


_SEEING = {
    "image_size": 32, "patch_size": 8, "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip


def save_vit(folder: Path) -> None:
    """A classifier as ``facebook/deit-small-patch16-224`` has it: a ViT, ImageNet's statistics."""
    vit = ViTForImageClassification(ViTConfig(**_SEEING, num_labels=10))
    _enlarge(vit).save_pretrained(folder)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    images = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=mean, image_std=std)
    save_images(folder, images, "ViTImageProcessor")


def save_deit(folder: Path) -> None:
    """A DeiT with its distillation token and both classifiers; UniPT's statistics."""
    deit = DeiTForImageClassificationWithTeacher(DeiTConfig(**_SEEING, num_labels=10))
    _enlarge(deit).save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    images = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=half, image_std=half)
    save_images(folder, images, "ViTImageProcessor")


def _enlarge(model: Any) -> Any:
    """Give every parameter weights that show: a fresh model's tokens and positions are zeros."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def save_images(folder: Path, processor: Any, name: str, whole: str = "") -> None:
    """Save an image processor as older versions did: under its plain name, in a file of its own.

    Args:
        folder: Where to.
        processor: What decides sizes and statistics.
        name: The class that the file names.
        whole: The class of image processor and tokenizer together, if there is one.
    """
    processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    loaded = json.loads(path.read_text(encoding="utf-8")) | {"image_processor_type": name}
    write_json(path, loaded | ({"processor_class": whole} if whole else {}))


def rename(file: Path, old: str, new: str, more: dict[str, Tensor] | None = None) -> None:
    """Rename tensors of a safetensors file by a regular expression, and add some."""
    renamed = {re.sub(old, new, name): tensor for name, tensor in load_file(file).items()}
    save_file(renamed | (more or {}), file, {"format": "pt"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain data."""
    path.write_text(json.dumps(content), encoding="utf-8")


def _bert_tokenizer(folder: Path, words: Iterable[str]) -> BertTokenizerFast:
    """A WordPiece vocabulary of some words and of all letters, so that nothing is unknown."""
    folder.mkdir(parents=True, exist_ok=True)
    known = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words])
    vocabulary = folder / "vocab.txt"
    letters = (f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789")
    vocabulary.write_text("\n".join([*known, *letters]), encoding="utf-8")
    return BertTokenizerFast(vocab_file=str(vocabulary), vocab=str(vocabulary))

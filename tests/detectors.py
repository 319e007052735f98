"""Tiny detectors with random weights in folders, laid out as the published ones are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_detectors import grounding_dino, owl


def save_grounding_dino(folder: Path, *, max_text_len: int = 32, seed: int = 0) -> None:
    """Grounding DINO with a Swin and a BERT of its own."""
    torch.manual_seed(seed)
    save(*grounding_dino(max_text_len=max_text_len), folder, "GroundingDino")


def save_owlv2(folder: Path, *, seed: int = 0) -> None:
    """OWLv2: a picture of 6 x 6 cells, texts of 8 tokens."""
    torch.manual_seed(seed)
    save(*owl("owlv2"), folder, "Owlv2")


def save_owlvit(folder: Path, *, seed: int = 0) -> None:
    """OWL-ViT: a picture of 6 x 6 cells, texts of 8 tokens."""
    torch.manual_seed(seed)
    save(*owl("owlvit"), folder, "OwlViT")


def save(model: Any, processor: Any, folder: Path, name: str) -> None:
    """Save a model and its processor's parts in files of their own, under their plain names."""
    model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content |= {
        "image_processor_type": f"{name}ImageProcessor",
        "processor_class": f"{name}Processor",
    }
    path.write_text(json.dumps(content), encoding="utf-8")

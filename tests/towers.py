"""Tiny towers in transformers' own folders, and dual encoders that start from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, SwinConfig, SwinModel

from models.dual import DualConfig, DualEncoder, dual_config
from tests.encoders import save_deit, save_spelling_clip, save_vit


class Towers:
    """A folder of each kind: square images of 32 pixels, the Swin's of 48 x 24."""

    def __init__(self, folder: Path, **like: Any) -> None:
        """Write them below a folder.

        Args:
            folder: Where to.
            like: More of the BERT's config.
        """
        self.folder = folder
        torch.manual_seed(0)
        save_vit(folder / "vit")
        save_deit(folder / "deit")
        save_spelling_clip(folder / "clip")
        swin = SwinModel(
            SwinConfig(image_size=[48, 24], embed_dim=8, depths=[2, 2], num_heads=[1, 2],
                       window_size=3),
            add_pooling_layer=False,
        )  # fmt: skip
        bert = BertForMaskedLM(
            BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                       intermediate_size=32, max_position_embeddings=24, **like)
        )  # fmt: skip
        for name, model in (("swin", swin), ("bert", bert)):
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
            model.save_pretrained(folder / name)

    def __getitem__(self, kind: str) -> Path:
        """The folder of one kind."""
        return self.folder / kind

    def config(self, vision: str = "vit", text: str = "bert", **changes: Any) -> DualConfig:
        """The config of a model of two kinds."""
        sizes: dict[str, Any] = {
            "image_size": (48, 24) if vision == "swin" else (32, 32), "embed_dim": 12,
            "max_tokens": 20,
        }  # fmt: skip
        return dual_config(self[vision], self[text], **(sizes | changes))

    def model(self, vision: str = "vit", text: str = "bert", **changes: Any) -> DualEncoder:
        """A model in evaluation mode that starts from two kinds."""
        torch.manual_seed(1)
        model = DualEncoder.from_config(self.config(vision, text, **changes))
        model.load_starting_weights(self[vision], self[text])
        return model.eval()

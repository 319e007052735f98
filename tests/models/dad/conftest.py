"""Random bases of the very classes of Stable Diffusion, small, saved to disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SaveBase = Callable[..., Path]

LAYOUTS: dict[str, dict[str, Any]] = {
    # Stable Diffusion 1.5: one number of heads, 1x1 convolutions around attention, CLIP ViT-L.
    "sd1": {
        "unet": {"attention_head_dim": 2},
        "text": {"hidden_act": "quick_gelu", "num_hidden_layers": 2},
        "width": 8,
    },
    # 2.x: a number of heads for each block, linear projections, OpenCLIP ViT-H one layer short,
    # and a text encoder whose projection is wider than itself.
    "sd2": {
        "unet": {"attention_head_dim": [2, 4], "use_linear_projection": True,
                 "upcast_attention": True},
        "text": {"hidden_act": "gelu", "num_hidden_layers": 3, "projection_dim": 16},
        "width": 16,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def save_base() -> SaveBase:
    """Write a base: ``save_base(folder, "sd2", prediction="v_prediction", zero_snr=True)``."""
    return _save


def _save(
    folder: Path,
    layout: str = "sd1",
    *,
    prediction: str = "epsilon",
    zero_snr: bool = False,
    **options: object,
) -> Path:
    torch.manual_seed(0)
    parts = LAYOUTS[layout]
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(letter + "</w>" for letter in letters)]
    vocab = {t: i for i, t in enumerate(["<|startoftext|>", "<|endoftext|>", *words])}
    text = CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=parts["width"], intermediate_size=16,
        num_attention_heads=2, max_position_embeddings=12, bos_token_id=0, eos_token_id=1,
        pad_token_id=1, **parts["text"],
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8), norm_num_groups=2, sample_size=32, scaling_factor=0.7,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=(8, 4), block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=parts["width"],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **parts["unet"],
    )  # fmt: skip
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        prediction_type=prediction, rescale_betas_zero_snr=zero_snr, steps_offset=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=CLIPTextModel(text), scheduler=scheduler,
        tokenizer=CLIPTokenizer(vocab=vocab, merges=[], model_max_length=12),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    if options.get("variant") == "fp16":
        pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, **options)
    return folder

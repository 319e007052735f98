"""Stable Diffusion 1.5 with random weights, built from its sizes and saved nowhere.

What restyling costs depends on the sizes alone, so its benchmark needs no download.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.dad.base import Base, Precision

SIZE = (384, 256)
"""Height and width of the paper's pictures, in pixels."""


def random_base(tokenizer: str, device: torch.device, precision: Precision) -> Base:
    """Build the networks of ``runwayml/stable-diffusion-v1-5`` on a device.

    Args:
        tokenizer: Folder of any CLIP tokenizer: its words stand for real ones.
        device: Where to.
        precision: Arithmetic; weights are float32.
    """
    torch.manual_seed(0)
    with device:
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        words = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                projection_dim=768,
            )
        )
    for network in (vae, unet, words):
        network.eval().requires_grad_(requires_grad=False)
    return Base(
        name="Stable Diffusion 1.5, random weights",
        vae=vae,
        unet=unet,
        text_encoder=words,
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer, model_max_length=77),
        scheduler=DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
        ),
        precision=precision,
    )

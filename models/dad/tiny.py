"""The architecture of the shipped tiny base: Stable Diffusion's classes, 3.9 million weights.

Shapes, from pictures to the UNet's middle: 96x48x3 pixels, 24x12x4 latents, 6x3x96. Only the
training script builds these from nothing (`tasks.base.diffusion`); everything else loads them by
`models.dad.base.load_base`, as it loads Stable Diffusion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

SIZE = (96, 48)
"""Height and width of the pictures, in pixels."""
TEXT_LENGTH = 64
"""Tokens of a prompt; the longest caption of the world's target has 61."""
TEXT_WIDTH = 96


def new_vae() -> AutoencoderKL:
    """Build the autoencoder: 96x48x3 to 24x12x4 (f = 4)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE[0],
    )


def new_unet() -> UNet2DConditionModel:
    """Build the UNet; text enters at 12x6, where a garment is a few positions, and at 6x3."""
    return UNet2DConditionModel(
        sample_size=(24, 12),
        block_out_channels=(48, 96, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build a two-layer CLIP text encoder for the vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> DDPMScheduler:
    """Build Stable Diffusion's noise schedule, for velocity."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )

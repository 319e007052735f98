"""What the shipped CLIP's vision tower begins with: the captioner's eyes, and where to look.

From nothing, a tower of this size needs hundreds of steps to learn more than the average colour of
a picture. Two beginnings spare them. `begin_with` takes over the blocks of the captioner's vision
tower, which was made on the same drawings; `look_at_bands` gives the class token, which is all that
a CLIP reads, four places to look at. Both are beginnings: training changes them as it likes.

Shape legend: B pictures, P patches, D width, H x W of a kernel or of a grid of patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from tasks.base.pool import SIZE

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BlipForConditionalGeneration, CLIPModel

BANDS = ((0.15, 0.09), (0.36, 0.1), (0.62, 0.12), (0.87, 0.08))
"""Middle and spread of head, upper body, legs and feet, in heights of the picture."""
FIRMNESS = 5.0
"""How firmly the class token looks there: its square is the steepness of the attention."""


@torch.no_grad()
def begin_with(model: CLIPModel, captioner: BlipForConditionalGeneration) -> None:
    """Give the vision tower what the captioner's has learned; it must be as wide and as deep.

    Its patches are 8 x 8 pixels of 96 x 48, here they are 12 x 12 of 96 x 96: kernels and positions
    are resampled. It has no norm before the blocks; the one here begins as a mere scale.
    """
    blip, clip = captioner.vision_model, model.vision_model
    kernel_D3HW = blip.embeddings.patch_embedding.weight.float()
    to, was = clip.config.patch_size, kernel_D3HW.shape[-1]
    resized = F.interpolate(kernel_D3HW, (to, to), mode="bilinear") * (was / to) ** 2
    clip.embeddings.patch_embedding.weight.copy_(resized)
    clip.embeddings.class_embedding.copy_(blip.embeddings.class_embedding.flatten())
    rows, columns = SIZE[0] // was, SIZE[1] // was
    place_PD = blip.embeddings.position_embedding[0].float()
    grid_1DHW = place_PD[1 : 1 + rows * columns].T.unflatten(1, (rows, columns))[None]
    side = clip.config.image_size // to
    moved_PD = F.interpolate(grid_1DHW, (side, side), mode="bilinear")[0].flatten(1).T
    bias_D = blip.embeddings.patch_embedding.bias
    clip.embeddings.position_embedding.weight.copy_(torch.cat([place_PD[:1], moved_PD + bias_D]))
    for mine, theirs in zip(clip.encoder.layers, blip.encoder.layers, strict=True):
        attention, other = mine.self_attn, theirs.self_attn
        for name, part in (("weight", other.qkv.weight), ("bias", other.qkv.bias)):
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            for projection, values in zip(projections, part.chunk(3), strict=True):
                getattr(projection, name).copy_(values)
        attention.out_proj.load_state_dict(other.projection.state_dict())
        for name in ("layer_norm1", "layer_norm2", "mlp"):
            getattr(mine, name).load_state_dict(getattr(theirs, name).state_dict())
    clip.post_layernorm.load_state_dict(blip.post_layernorm.state_dict())


@torch.no_grad()
def look_at_bands(model: CLIPModel, pixels_B3HW: Tensor) -> None:
    """Let the class token begin as four means: of head, upper body, legs and feet.

    What a CLIP says of a picture it reads off its class token, which at first looks everywhere
    alike: for hundreds of steps nothing but the average colour is learned. So one dimension of each
    of the last block's four heads is set to compare a token's row with the head's band. Which
    direction of the tokens tells the row is found by least squares.

    Args:
        model: Its last block is changed.
        pixels_B3HW: Some normalised pictures.
    """
    vision = model.vision_model
    block = vision.encoder.layers[-1]
    came: list[Tensor] = []
    hook = block.layer_norm1.register_forward_hook(lambda _, __, out: came.append(out))
    vision(pixel_values=pixels_B3HW)
    hook.remove()
    tokens_ND = came[0][:, 1:].flatten(0, 1)
    side = vision.config.image_size // vision.config.patch_size
    row_P = (torch.arange(side * side) // side + 0.5) / side
    attention = block.self_attn
    wide = attention.head_dim
    for head, (middle, spread) in enumerate(BANDS):
        want_P = torch.exp(-(((row_P - middle) / spread) ** 2) / 2)
        want_N1 = want_P.repeat(len(pixels_B3HW))[:, None] - want_P.mean()
        direction_D = torch.linalg.lstsq(tokens_ND - tokens_ND.mean(0), want_N1).solution[:, 0]
        attention.k_proj.weight[head * wide] = FIRMNESS * direction_D
        attention.k_proj.bias[head * wide] = 0
        attention.q_proj.weight[head * wide] = 0
        attention.q_proj.bias[head * wide] = FIRMNESS

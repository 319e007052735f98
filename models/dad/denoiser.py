"""The networks that every denoising step runs, in the form in which they run fastest.

`Denoiser` predicts noise (or velocity) as diffusers' pipelines do, with the work left out that
gives the same every time:

- weights are cast to the arithmetic's precision once, where autocast would cast frozen weights in
  every call (it keeps casts of trainable ones only), and laid out channels last;
- the ControlNet's view of its control image is computed once: the image is always white;
- no ControlNet runs where there is none or its weight is 0;
- both halves of classifier-free guidance go through in one pass.

``reuse`` is the one saving that changes pictures, and is off at 1: the UNet's deep features change
slowly from step to step, so at the steps between they are taken over, and only the first
convolution, the last residual block (with its attention) and the output are computed (DeepCache,
Ma et al. 2024, its uppermost branch). Of the ControlNet the first convolution is left then.

Shape legend: B batch, H W pixels, h w latent positions, C latent channels, L tokens, D text width.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from models.dad.controlnet import white_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import ControlNetModel

    from models.dad.base import Base

CHUNK = 16
"""Pictures that the autoencoder takes at once: its activations are the largest there are, and
smaller ones stay in a CPU's cache. Enough to fill a GPU at 384x256."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Denoiser:
    """A base's networks and its ControlNet, copied for making pictures.

    Args:
        base: The base; its own networks stay as they are.
        controlnet: The ControlNet; None for the base alone.
        size: Height and width of the pictures, in pixels.
        compiled: Whether the networks go through torch.compile.
    """

    def __init__(
        self,
        base: Base,
        controlnet: ControlNetModel | None,
        size: tuple[int, int],
        *,
        compiled: bool = False,
    ) -> None:
        self.device, self.dtype = base.device, _DTYPES[base.precision]
        self.factor = float(base.vae.config.scaling_factor)
        self.latent_shape = (
            int(base.unet.config.in_channels),
            *(side // base.scale for side in size),
        )
        self.unet = self._copied(base.unet)
        self.vae = self._copied(base.vae)
        self.controlnet: Any = None
        if controlnet is not None:
            self.controlnet = self._copied(controlnet)
            with torch.no_grad():
                white = self._laid_out(white_image(base, size))
                hint = self.controlnet.controlnet_cond_embedding(white)
            self.hint_1Chw = hint.contiguous(memory_format=torch.channels_last)
            self.controlnet.controlnet_cond_embedding = nn.Identity()
        self._run_unet: Any = self.unet
        self._run_controlnet: Any = self.controlnet
        self._encode, self._decode = self.vae.encode, self.vae.decode
        if compiled:
            # Shapes never change: batches are padded. Modules of their own, so that nothing of
            # this reaches the base.
            self._run_unet = torch.compile(self.unet, dynamic=False)
            self._run_controlnet = self.controlnet and torch.compile(self.controlnet, dynamic=False)
            self._encode = torch.compile(self._encode, dynamic=False)
            self._decode = torch.compile(self._decode, dynamic=False)

    def _copied(self, network: nn.Module) -> Any:
        with torch.no_grad():
            made: Any = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        # Of torch itself: diffusers' own warns of every cast.
        return nn.Module.to(made, self.dtype).to(memory_format=torch.channels_last)

    def _laid_out(self, image_BChw: Tensor) -> Tensor:
        return image_BChw.to(self.dtype).contiguous(memory_format=torch.channels_last)

    # -------------------------------------------------------------- pixels and latents

    def encode(self, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pixels in [-1, 1]: mean and deviation, not scaled, float32 (B, C, h, w)."""
        parts = [self._encode(self._laid_out(part)) for part in pixels_B3HW.split(CHUNK)]
        posteriors = [part.latent_dist for part in parts]
        mean = torch.cat([posterior.mean for posterior in posteriors])
        return mean.float(), torch.cat([posterior.std for posterior in posteriors]).float()

    def decode(self, latents_BChw: Tensor) -> Tensor:
        """Decode scaled latents to levels, uint8 (B, H, W, 3)."""
        parts = (latents_BChw / self.factor).split(CHUNK)
        return torch.cat([_levels(self._decode(self._laid_out(part)).sample) for part in parts])

    # -------------------------------------------------------------- one step

    def begin(
        self,
        words_BLD: Tensor,
        negative_1LD: Tensor | None,
        *,
        guidance: float = 1.0,
        control_scale: float = 1.0,
        reuse: int = 1,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Take a batch's prompts and return what predicts at every step of it.

        Args:
            words_BLD: States of the prompts.
            negative_1LD: State of the negative prompt; None without guidance.
            guidance: Classifier-free guidance scale.
            control_scale: Weight of the ControlNet.
            reuse: Deep features are computed at every ``reuse``-th call.

        Returns:
            A function of noisy latents (B, C, h, w) and a timestep of no dimension on the device,
            to be called once a step in order; it gives the prediction, float32.
        """
        words = words_BLD.to(self.device)
        if negative_1LD is not None:
            words = torch.cat([negative_1LD.to(self.device).expand_as(words), words])
        words = words.to(self.dtype)
        scale = control_scale if self.controlnet is not None else 0.0
        predict = _Reusing(self, words, scale, reuse) if reuse > 1 else self._plain(words, scale)

        def guided(latents_BChw: Tensor, time: Tensor) -> Tensor:
            if negative_1LD is None:
                return predict(self._laid_out(latents_BChw), time).float()
            twice = self._laid_out(torch.cat([latents_BChw, latents_BChw]))
            without, towards = predict(twice, time).float().chunk(2)
            return without + guidance * (towards - without)

        return guided

    def _plain(self, words: Tensor, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
        def predict(latents: Tensor, time: Tensor) -> Tensor:
            skips = middle = None
            if scale:
                skips, middle = self._run_controlnet(
                    latents, time, words, controlnet_cond=self.hint_1Chw,
                    conditioning_scale=scale, return_dict=False,
                )  # fmt: skip
            seen: Tensor = self._run_unet(
                latents, time, words, down_block_additional_residuals=skips,
                mid_block_additional_residual=middle, return_dict=False,
            )[0]  # fmt: skip
            return seen

        return predict


class _Reusing:
    """Prediction of one batch, most of the UNet run at every ``every``-th step only.

    Between them stands what went into the last residual block. The UNet's blocks are called as
    `UNet2DConditionModel.forward` calls them for Stable Diffusion 1.x and 2.x, with nothing added
    to the time's embedding.
    """

    def __init__(self, denoiser: Denoiser, words: Tensor, scale: float, every: int) -> None:
        self._of, self._words, self._scale, self._every = denoiser, words, scale, every
        self._step = 0
        self._deep: Tensor | None = None

    def __call__(self, latents: Tensor, time: Tensor) -> Tensor:
        unet = self._of.unet
        signal = unet.time_embedding(unet.get_time_embed(sample=latents, timestep=time))
        if self._step % self._every == 0 or self._deep is None:
            self._deep, first = self._down_and_up(latents, time, signal)
        else:
            first = self._first(latents)
        self._step += 1
        block = unet.up_blocks[-1]
        seen = block.resnets[-1](torch.cat([self._deep, first], 1), signal)
        if hasattr(block, "attentions"):
            seen = block.attentions[-1](seen, encoder_hidden_states=self._words, return_dict=False)[
                0
            ]
        made: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(seen)))
        return made

    def _first(self, latents: Tensor) -> Tensor:
        """The outermost skip connection: one convolution of each network."""
        made: Tensor = self._of.unet.conv_in(latents)
        controlnet = self._of.controlnet
        if controlnet is not None and self._scale:
            seen = controlnet.conv_in(latents) + self._of.hint_1Chw
            made = made + controlnet.controlnet_down_blocks[0](seen) * self._scale
        return made

    def _down_and_up(self, latents: Tensor, time: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Everything up to the last residual block, and the outermost skip connection."""
        unet, words = self._of.unet, self._words
        seen = unet.conv_in(latents)
        skips = [seen]
        for block in unet.down_blocks:
            seen, more = block(hidden_states=seen, temb=signal, **_text(block, words))
            skips += more
        seen = unet.mid_block(seen, signal, encoder_hidden_states=words)
        if self._of.controlnet is not None and self._scale:
            changes, middle = self._of.controlnet(
                latents, time, words, controlnet_cond=self._of.hint_1Chw,
                conditioning_scale=self._scale, return_dict=False,
            )  # fmt: skip
            skips = [skip + change for skip, change in zip(skips, changes, strict=True)]
            seen = seen + middle
        for block in unet.up_blocks[:-1]:
            count = len(block.resnets)
            mine, skips = tuple(skips[-count:]), skips[:-count]
            seen = block(
                hidden_states=seen, res_hidden_states_tuple=mine, temb=signal,
                upsample_size=skips[-1].shape[2:], **_text(block, words),
            )  # fmt: skip
        last = unet.up_blocks[-1]
        for at, resnet in enumerate(last.resnets[:-1]):
            seen = resnet(torch.cat([seen, skips.pop()], 1), signal)
            if hasattr(last, "attentions"):
                seen = last.attentions[at](seen, encoder_hidden_states=words, return_dict=False)[0]
        return seen, skips.pop()


def _text(block: nn.Module, words: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": words} if getattr(block, "has_cross_attention", False) else {}


def _levels(images_B3HW: Tensor) -> Tensor:
    levels = ((images_B3HW.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()

"""The frozen base of DaD: any model in Stable Diffusion's folder layout, by path or hub name.

One loader for Stable Diffusion 1.5 (the paper's base, sec. 3.1), 2.x, their fine-tunings and
the tiny model that the repository ships. Weights are kept in float32 whatever they are stored in,
and the precision of the arithmetic is autocast's (`Base.autocast`): latents and the sampler's
sums stay exact. No safety checker is loaded: the data are street pictures of clothed people, and
a checker would blacken some of them silently.

    base = load_base("models/tiny/diffusion")
    words_BLD = base.encode_prompts(["A woman in a red coat."])

Shape legend: B batch, H W pixels, h w latent positions (H/f, W/f), C latent channels, L tokens,
D text width. Pixels lie in [-1, 1] as the autoencoder takes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import AutoConfig, CLIPTextModel, CLIPTokenizer, PreTrainedModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True)
class Base:
    """A text-to-image latent diffusion model, frozen.

    Attributes:
        name: What it was loaded from.
        vae: Pixels to latents and back.
        unet: The denoiser.
        text_encoder: Tokens to the sequence that the UNet attends to.
        tokenizer: Text to tokens.
        scheduler: The noise schedule of its training; samplers are made from its config.
        precision: Arithmetic of the networks.
    """

    name: str
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler
    precision: Precision = "fp32"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.unet.parameters()).device

    @property
    def scale(self) -> int:
        """Pixels a latent position, f."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: ``epsilon`` (the noise), ``v_prediction`` or ``sample``."""
        return str(self.scheduler.config.prediction_type)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which the networks run."""
        return autocast(self.device, self.precision)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str], batch: int = 256) -> Tensor:
        """Encode prompts as diffusers' pipelines do: padded to the tokenizer's length, no mask.

        Args:
            prompts: Any texts; what exceeds the tokenizer's length is cut.
            batch: Prompts a forward pass.

        Returns:
            Float32 states (N, L, D).
        """
        parts = []
        for start in range(0, len(prompts), batch):
            tokens = self.tokenizer(
                list(prompts[start : start + batch]),
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            uses_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
            mask = tokens.attention_mask.to(self.device) if uses_mask else None
            # In float32 at any precision: it is a small part of the work, and cached.
            ids = tokens.input_ids.to(self.device)
            parts.append(self.text_encoder(ids, attention_mask=mask)[0].float())
        return torch.cat(parts) if parts else self.encode_prompts([""])[:0]

    @torch.no_grad()
    def encode_pixels(self, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pixels to the posterior of their latents.

        Args:
            pixels_B3HW: Values in [-1, 1]; height and width are multiples of `scale`.

        Returns:
            Mean and standard deviation, scaled as the UNet takes them, float32 (B, C, h, w).
        """
        with self.autocast():
            posterior = self.vae.encode(pixels_B3HW.to(self.device)).latent_dist
        factor = self.vae.config.scaling_factor
        return posterior.mean.float() * factor, posterior.std.float() * factor

    @torch.no_grad()
    def decode_latents(self, latents_BChw: Tensor) -> Tensor:
        """Decode scaled latents to float32 pixels (B, 3, H, W) in [-1, 1]."""
        with self.autocast():
            pixels = self.vae.decode(latents_BChw / self.vae.config.scaling_factor).sample
        return pixels.float().clamp(-1, 1)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Return autocast for a precision; no context at all for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


def load_base(name: str, device: torch.device | str = "cpu", precision: Precision = "fp32") -> Base:
    """Load a base from a folder or the hub, in evaluation mode and frozen.

    Args:
        name: A folder in diffusers' layout, or a name on the hub (``owner/model``), a revision
            after ``@`` where one is wanted.
        device: Where to.
        precision: Arithmetic of the networks; weights are float32 in any case.

    Raises:
        ValueError: A part is missing or does not fit the others.
    """
    path, _, wanted = name.partition("@")
    options: dict[str, Any] = {"revision": wanted} if wanted else {}
    vae = _network(AutoencoderKL, path, "vae", options)
    unet = _network(UNet2DConditionModel, path, "unet", options)
    text_encoder = _network(CLIPTextModel, path, "text_encoder", options)
    tokenizer = CLIPTokenizer.from_pretrained(path, subfolder="tokenizer", **options)
    scheduler = DDPMScheduler.from_pretrained(path, subfolder="scheduler", **options)
    for network in (vae, unet, text_encoder):
        network.eval().requires_grad_(requires_grad=False).to(device)
    base = Base(
        name=name,
        vae=vae,
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        precision=precision,
    )
    _check_fit(base)
    return base


def _network(kind: Any, path: str, part: str, options: dict[str, Any]) -> Any:
    """Load one network in float32; a tensor that its class needs and the file lacks is an error.

    The folder may hold the usual file, or only half-precision weights under diffusers' name for
    them (``diffusion_pytorch_model.fp16.safetensors``); the usual one goes first.
    """
    dtype = "dtype" if issubclass(kind, PreTrainedModel) else "torch_dtype"
    faults: list[OSError] = []
    for variant in (None, "fp16"):
        try:
            network, found = kind.from_pretrained(
                path,
                subfolder=part,
                variant=variant,
                use_safetensors=True,  # a pickle may run code
                output_loading_info=True,
                **{dtype: torch.float32},
                **options,
            )
        except OSError as error:
            faults.append(error)
            continue
        if missing := sorted(found["missing_keys"]):  # they would be left at random
            raise ValueError(
                f"{path}: {part} lacks {len(missing)} tensors, e.g. {missing[:2]}; a base is "
                "complete; download it again"
            )
        return network
    raise faults[0]


def _check_fit(base: Base) -> None:
    text, cross = base.text_encoder.config.hidden_size, base.unet.config.cross_attention_dim
    if text != cross:
        raise ValueError(
            f"{base.name}: the text encoder is {text} wide and the UNet attends to {cross}; both "
            "must be equal; take the parts from one model"
        )
    latent, taken = base.vae.config.latent_channels, base.unet.config.in_channels
    if latent != taken:
        raise ValueError(
            f"{base.name}: the autoencoder has {latent} latent channels and the UNet takes "
            f"{taken}; both must be equal (an inpainting model has 9); take a text-to-image model"
        )
    if base.prediction_type not in {"epsilon", "v_prediction", "sample"}:
        raise ValueError(
            f"{base.name}: prediction_type is {base.prediction_type!r}; this objective knows "
            "epsilon, v_prediction and sample; take another base"
        )
    if base.prediction_type == "epsilon" and base.scheduler.config.rescale_betas_zero_snr:
        raise ValueError(
            f"{base.name}: the scheduler has no signal at the last timestep "
            "(rescale_betas_zero_snr) and the UNet predicts noise, which then says nothing of the "
            "picture; such a schedule needs v_prediction or sample; correct scheduler_config.json"
        )


def revision(name: str) -> str:
    """Identify the weights behind a path or hub name.

    Args:
        name: As for `load_base`.

    Returns:
        For a folder, the SHA-256 of the names and contents of its configuration, vocabulary and
        weight files (a record such as training.json does not count); for a hub name, the commit
        that it stands for now (the cached one where there is no network).

    Raises:
        ValueError: The name is neither a folder of that layout nor a model that can be reached.
    """
    path, _, wanted = name.partition("@")
    folder = Path(path)
    if folder.is_dir():
        return folder_revision(folder)
    if _COMMIT.fullmatch(wanted):
        return wanted
    # The configuration is the smallest file of a model; loading it resolves the commit, online
    # or from the local cache alike.
    try:
        config = AutoConfig.from_pretrained(
            path, subfolder="text_encoder", **({"revision": wanted} if wanted else {})
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is no folder, and the hub has no such model in reach "
            f"({str(error).splitlines()[0]}); a base is a folder in diffusers' layout or a hub "
            "name; correct it or download the model first"
        ) from error
    return str(config._commit_hash)


def folder_revision(folder: Path) -> str:
    """SHA-256 over the model files of a folder in diffusers' layout, or of one network in it.

    Raises:
        ValueError: There is no model file in it.
    """
    places = [folder / part for part in _PARTS if (folder / part).is_dir()] or [folder]
    files = sorted(
        file
        for place in places
        for file in place.iterdir()
        if file.suffix in {".json", ".safetensors", ".txt"} and file.name != "training.json"
    )
    if not any(file.suffix == ".safetensors" for file in files):
        raise ValueError(
            f"{folder}: no weights found; a model folder holds *.safetensors in its parts "
            f"({', '.join(_PARTS)}); point to the folder that holds them"
        )
    entries = []
    for file in files:
        with file.open("rb") as source:
            content = hashlib.file_digest(source, "sha256").hexdigest()
        entries.append([file.relative_to(folder).as_posix(), content])
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()

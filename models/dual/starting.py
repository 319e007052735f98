"""Starting a dual encoder from models in transformers' layout.

Images: ViT, DeiT, CLIP, Swin (also the original Swin's file, see `models.mra.starting`). Texts:
BERT or CLIP. `dual_config` reads the sizes off the same sources, so a model is

    config = dual_config(vision, text, image_size=(384, 128), embed_dim=768, max_tokens=100, ...)
    model = DualEncoder.from_config(config)
    report = model.load_starting_weights(vision, text)

A hub's `facebook/deit-small-patch16-224` is a `vit` to transformers: DeiT without the distillation
token. What an image encoder's pixels were normalised by is read from its preprocessor_config.json;
without one they are taken to be this project's.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    DeiTConfig,
    DeiTModel,
    ImageProcessingMixin,
    ViTConfig,
    ViTModel,
)

from models.dual.checkpoint import POSITIONS
from models.dual.config import DualConfig, Pooling, Three
from models.dual.continuing import Report, check_sizes, fill
from models.dual.granularity import GranularityConfig
from models.dual.towers import (
    TEXT_KINDS,
    VISION_KINDS,
    BertText,
    ClipText,
    PatchVision,
    SwinVision,
    Text,
    Vision,
)
from models.dual.vision import resize_positions, swin_config
from models.loading import load_model
from models.loading import model_type as source_type
from models.mra.starting import original_file, read_bert, read_swin
from models.mra.starting import vision_config as read_swin_config
from models.retrieval import MEAN, STD

if TYPE_CHECKING:
    from models.dual.model import DualEncoder

logger = logging.getLogger(__name__)

_SEES: Any = {
    "what": "image encoder",
    "remedy": "name facebook/deit-small-patch16-224, openai/clip-vit-base-patch16 or a Swin",
}
_READS: Any = {
    "what": "text encoder",
    "remedy": "name bert-base-uncased or openai/clip-vit-base-patch16",
}

# transformers' names, in memory, to those of `PatchEncoder` and `ClipTextEncoder`.
_VIT_NAMES = {
    r"^embeddings\.position_embeddings$": "positions_1PD",
    r"^embeddings\.patch_embeddings\.projection\.": "patches.",
}
_CLIP_NAMES = {
    r"^embeddings\.patch_embedding\.": "patches.",
    r"^embeddings\.token_embedding\.": "words.",
    r"^embeddings\.position_embedding\.": "positions.",
    r"^pre_layrnorm\.": "layernorm_before.",
    r"^(post_layernorm|final_layer_norm)\.": "layernorm.",
    r"^encoder\.layers\.": "layers.",
    r"\.layer_norm1\.": ".layernorm_before.",
    r"\.layer_norm2\.": ".layernorm_after.",
    r"\.self_attn\.": ".attention.",
    r"\.out_proj\.": ".o_proj.",
}


# --- sizes --------------------------------------------------------------------------------------


def dual_config(
    vision: str | Path,
    text: str | Path,
    *,
    image_size: Iterable[int],
    embed_dim: int,
    max_tokens: int,
    vision_dropout: float = 0.0,
    drop_path: float = 0.0,
    text_dropout: float = 0.0,
    granularity: GranularityConfig | None = None,
    window_size: int | None = None,
    pooling: Pooling | None = None,
) -> DualConfig:
    """The config of a model that starts from these two.

    Args:
        vision: See `DualEncoder.load_starting_weights`.
        text: As well.
        image_size: Height and width in pixels.
        embed_dim: Width of the feature. Two towers of CLIP have theirs.
        max_tokens: Longest text; CLIP has 77 positions.
        vision_dropout: See `DualConfig`, as for the next three.
        drop_path: Growing over the image encoder's layers.
        text_dropout: In the text encoder.
        granularity: Sizes of LGUR's module.
        window_size: Swin's largest window; None takes the source's.
        pooling: None takes "own" for two towers of CLIP and "max" for all others.

    Raises:
        ValueError: A source of another kind or none at all, or sizes that do not go together.
    """
    sees, reads = vision_sizes(vision), text_sizes(text)
    if window_size is not None and isinstance(sees, SwinVision):
        sees = dataclasses.replace(sees, window_size=window_size)
    if pooling is None:
        pooling = "own" if sees.kind == reads.kind == "clip" else "max"
    if pooling == "own" and reads.kind == "clip":
        projected = {int(_clip_config(each).projection_dim) for each in (vision, text)}
        if projected != {embed_dim}:
            raise ValueError(
                f"embed_dim {embed_dim} with CLIPs that project to {sorted(projected)}: their "
                "features are what training starts from, so their width is the model's; set "
                f"embed_dim to {max(projected)}"
            )
    height, width = image_size
    mean, std = image_statistics(vision)
    return DualConfig(
        vision=sees,
        text=reads,
        image_size=(height, width),
        embed_dim=embed_dim,
        max_tokens=max_tokens,
        pooling=pooling,
        vision_dropout=vision_dropout,
        drop_path=drop_path,
        text_dropout=text_dropout,
        image_mean=mean,
        image_std=std,
        granularity=granularity,
    )


def vision_sizes(source: str | Path) -> Vision:
    """Sizes of an image encoder.

    Raises:
        ValueError: It is of another kind, or there is none.
    """
    kind = _kind(source, VISION_KINDS, _SEES)
    if kind == "swin":
        swin = _read(read_swin_config, source, _SEES)
        return SwinVision(
            patch_size=swin.patch_size,
            dim=swin.embed_dim,
            depths=tuple(swin.depths),
            heads=tuple(swin.num_heads),
            window_size=swin.window_size,
        )
    found = _vision_config(source, kind)
    return PatchVision(
        kind=kind,
        patch_size=_side(found.patch_size, source, "patch_size"),
        dim=found.hidden_size,
        layers=found.num_hidden_layers,
        heads=found.num_attention_heads,
        inner_dim=found.intermediate_size,
        activation=found.hidden_act,
        eps=found.layer_norm_eps,
        qkv_bias=getattr(found, "qkv_bias", True),
    )


def text_sizes(source: str | Path) -> Text:
    """Sizes of a text encoder.

    Raises:
        ValueError: It is of another kind, or there is none.
    """
    if _kind(source, TEXT_KINDS, _READS) == "clip":
        clip = _clip_config(source).text_config
        return ClipText(
            vocab_size=clip.vocab_size,
            dim=clip.hidden_size,
            layers=clip.num_hidden_layers,
            heads=clip.num_attention_heads,
            inner_dim=clip.intermediate_size,
            max_positions=clip.max_position_embeddings,
            activation=clip.hidden_act,
            eps=clip.layer_norm_eps,
        )
    bert = _read(BertConfig.from_pretrained, source, _READS)
    return BertText(
        vocab_size=bert.vocab_size,
        dim=bert.hidden_size,
        layers=bert.num_hidden_layers,
        heads=bert.num_attention_heads,
        inner_dim=bert.intermediate_size,
        max_positions=bert.max_position_embeddings,
        activation=bert.hidden_act,
        eps=bert.layer_norm_eps,
    )


def image_statistics(source: str | Path) -> tuple[Three, Three]:
    """Mean and standard deviation that an image encoder's pixels were normalised by, in [0, 1].

    Raises:
        ValueError: The preprocessor's file is damaged.
    """
    if original_file(source) is not None:
        return MEAN, STD
    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(str(source))
    except OSError:  # there is none
        logger.info("%s: no preprocessor_config.json; pixels stay as they are", source)
        return MEAN, STD
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{source}: its preprocessor_config.json is damaged ({error}); download it again, or "
            "remove it to have pixels as this project normalises them"
        ) from error
    mean, std = found.get("image_mean"), found.get("image_std")
    if not found.get("do_normalize", True) or mean is None or std is None:
        return MEAN, STD
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            f"{source}: image_mean {mean} and image_std {std} in its preprocessor_config.json: "
            "three numbers each, of red, green and blue, no deviation 0; correct the file"
        )
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


# --- weights ------------------------------------------------------------------------------------


def load_starting_weights(
    model: DualEncoder, vision: str | Path | None, text: str | Path | None
) -> Report:
    """Fill the encoders (see `DualEncoder.load_starting_weights`)."""
    filled: dict[str, Tensor] = {}
    resized: list[str] = []
    with torch.random.fork_rng(devices=[]):  # the throw-away models draw random weights
        if vision is not None:
            check_sizes(vision_sizes(vision), model.config.vision, vision)
            found, resized = _read_vision(model, vision)
            filled |= found
        if text is not None:
            check_sizes(text_sizes(text), model.config.text, text)
            filled |= _read_text(model, text)
    return fill(model, filled, resized, "starting weights")


def _read_vision(model: DualEncoder, source: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """An image encoder's weights under this model's names, and what was resized."""
    sizes = model.config.vision
    if isinstance(sizes, SwinVision):
        own = model.vision_encoder.state_dict()
        swin, tables = read_swin(source, swin_config(model.config), own)
        return _under("vision_encoder.", swin), [f"vision_encoder.{name}" for name in tables]
    config = _vision_config(source, sizes.kind)
    if sizes.kind == "clip":
        whole = load_model(CLIPModel, source, dtype=torch.float32, **_SEES)
        state = _renamed(whole.vision_model.state_dict(), _CLIP_NAMES)
        state["prefix_1KD"] = state.pop("embeddings.class_embedding")[None, None]
        state["positions_1PD"] = state.pop("positions.weight")[None]
        more = {"vision_proj.weight": whole.visual_projection.weight.detach()}
    else:
        stock = DeiTModel if sizes.kind == "deit" else ViTModel
        loaded = load_model(
            stock, source, dtype=torch.float32, options={"add_pooling_layer": False}, **_SEES
        )
        state, more = _renamed(loaded.state_dict(), _VIT_NAMES), {}
        front = ("cls_token", "distillation_token")[: sizes.prefix]
        state["prefix_1KD"] = torch.cat([state.pop(f"embeddings.{each}") for each in front], dim=1)
    found = _under("vision_encoder.", state)
    if model.config.pooling == "own":
        found |= more
    side = config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    old = height // sizes.patch_size, width // sizes.patch_size
    if old == model.config.grid:
        return found, []
    found[POSITIONS] = resize_positions(found[POSITIONS], sizes.prefix, old, model.config.grid)
    return found, [POSITIONS]


def _read_text(model: DualEncoder, source: str | Path) -> dict[str, Tensor]:
    """A text encoder's weights under this model's names."""
    if model.config.text.kind == "bert":
        return _under("text_encoder.", read_bert(source))
    whole = load_model(CLIPModel, source, dtype=torch.float32, **_READS)
    found = _under("text_encoder.", _renamed(whole.text_model.state_dict(), _CLIP_NAMES))
    if model.config.pooling == "own":
        found["text_proj.weight"] = whole.text_projection.weight.detach()
    return found


# --- reading sources ----------------------------------------------------------------------------


def _kind(source: str | Path, kinds: tuple[str, ...], words: Any) -> Any:
    """A source's model type.

    Raises:
        ValueError: There is no model, or one of another type.
    """
    kind = "swin" if original_file(source) is not None else source_type(source, **words)
    if kind not in kinds:
        raise ValueError(
            f"the {words['what']} {str(source)!r} is a {kind}: it is one of {', '.join(kinds)}; "
            f"{words['remedy']}"
        )
    return kind


def _vision_config(source: str | Path, kind: str) -> Any:
    """The stock config of a ViT, a DeiT or CLIP's vision tower."""
    if kind == "clip":
        return _clip_config(source).vision_config
    plain = DeiTConfig if kind == "deit" else ViTConfig
    return _read(plain.from_pretrained, source, _SEES)


def _clip_config(source: str | Path) -> Any:
    """The stock config of a whole CLIP."""
    return _read(CLIPConfig.from_pretrained, source, _SEES)


def _read(reader: Any, source: str | Path, words: Any) -> Any:
    """What a reader of transformers gives.

    Raises:
        ValueError: It fails, whatever it trips over.
    """
    try:
        return reader(source)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"cannot read the {words['what']} {str(source)!r}: "
            f"{' '.join(str(error).split())[:300]}; it is a hub name or a folder in transformers' "
            f"layout; {words['remedy']}"
        ) from error


def _side(value: Any, source: str | Path, name: str) -> int:
    """A side in pixels of something square.

    Raises:
        ValueError: It is not square.
    """
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise ValueError(f"{source}: {name} {value}: patches are square here; take another model")
    return int(sides.pop())


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors under other names."""
    found = {}
    for name, tensor in state.items():
        for old, new in names.items():
            name = re.sub(old, new, name)
        found[name] = tensor
    return found


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with a prefix to their names."""
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}

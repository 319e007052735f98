"""What a retrieval checkpoint is, in words: its encoders, its objective, its tokenizer, its start.

Read from config.json, training.json and tokenizer_config.json, without a weight being loaded. Keys
that an older version did not write are left out of what is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.report.records import read_json, settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAMES = {"mra": "MRA", "dual": "dual encoder"}
"""Kind of model, as config.json has it, to what it is called."""
CLASSES = {"mra": "models.mra.MRA", "dual": "models.dual.DualEncoder"}

_VISION = {"vit": "ViT", "deit": "DeiT", "clip": "CLIP's image encoder", "swin": "Swin"}
_TEXT = {"bert": "BERT", "clip": "CLIP's text encoder"}


@dataclass(frozen=True)
class Anatomy:
    """A retrieval checkpoint in words."""

    kind: str
    """A key of `NAMES`."""
    architecture: str
    objective: str
    """What trained it; empty where nothing says."""
    started: str
    """What it started from; empty where nothing says."""
    tokenizer: str
    """Empty where there is none beside it."""

    @property
    def name(self) -> str:
        """What such a model is called."""
        return NAMES[self.kind]

    @property
    def fuses(self) -> bool:
        """Whether a fusion encoder can look at candidates again."""
        return self.kind == "mra"

    def rows(self) -> list[tuple[str, str]]:
        """What is known, for a table."""
        said = {
            "architecture": self.architecture,
            "objective": self.objective,
            "started from": self.started,
            "tokenizer": self.tokenizer,
            "class": CLASSES[self.kind],
        }
        return [(name, value) for name, value in said.items() if value]


def read_anatomy(folder: Path) -> Anatomy | None:
    """Describe the retrieval model in a folder; None where there is none."""
    body = settings(folder)
    kind = body.get("model_type")
    if kind not in NAMES:
        return None
    section = body.get("params") or {}
    return Anatomy(
        kind,
        _mra(body) if kind == "mra" else _dual(body),
        _objective(kind, str(body.get("stage", "")), section),
        _started(str(body.get("stage", "")), section),
        _tokenizer(folder, body),
    )


def _mra(body: Mapping[str, Any]) -> str:
    text, fusion = body.get("text_layers"), body.get("fusion_layers")
    layers = f" (layers: {text} for the text alone, {fusion} for both)" if text else ""
    return (
        f"MRA: a Swin image encoder and a BERT text encoder{layers} whose upper layers see the "
        f"picture too, the fusion encoder{_sizes(body)}"
    )


def _dual(body: Mapping[str, Any]) -> str:
    vision, text = (body.get(name) or {} for name in ("vision", "text"))
    seen = _VISION.get(str(vision.get("kind")), "an image encoder")
    read = _TEXT.get(str(text.get("kind")), "a text encoder")
    how = "each encoder's own token" if body.get("pooling") == "own" else "the maximum over tokens"
    said = f"dual encoder: {seen} and {read}, compared by the cosine of {how}; no fusion encoder"
    parts = (body.get("granularity") or {}).get("parts")
    if parts:
        said += f"; with {parts} parts by prototypes (granularity unification)"
    return said + _sizes(body)


def _sizes(body: Mapping[str, Any]) -> str:
    size, width = body.get("image_size"), body.get("embed_dim")
    said = f"; pictures of {size[0]} x {size[1]}" if size else ""
    return said + (f", features of {width}" if width else "")


def _objective(kind: str, stage: str, section: Mapping[str, Any]) -> str:
    """Say what the losses are, from the stage's parameters."""
    losses = section.get("objective") or {}
    named = losses.get("kind") or ("mra" if kind == "mra" else "")
    if named == "mra" and stage == "finetune":
        weight = losses.get("eda_weight", section.get("eda_weight"))
        twin = f", and ITC and ITM of each caption's EDA twin (weight {weight:g})" if weight else ""
        return f"ITC + ITM + MLM{twin}"
    if named == "mra" and stage == "pretrain":
        weight = losses.get("region_weight", section.get("region_weight"))
        regions = f" + {weight:g} x (RPC + RPM) of regions and phrases" if weight else ""
        return f"ITC + ITM + MLM{regions}"
    if named == "unipt":
        temperature, weight = losses.get("temperature"), losses.get("mlm_weight")
        at = f"temperature {temperature:g}" if temperature else "no temperature"
        words = f" + {weight:g} x MLM on the text alone" if weight else ""
        return f"UniPT: symmetric InfoNCE on cosines ({at}){words}"
    if named == "identity":
        margin, weight = losses.get("margin"), losses.get("granularity_weight")
        parts = section.get("model", {}).get("granularity")
        both = f", and both on the granularity module's features (weight {weight:g})"
        cold = losses.get("contrast_temperature")
        beside = f" + symmetric InfoNCE on cosines (temperature {cold:g})" if cold else ""
        return (
            "identity classification shared by pictures and texts + bidirectional ranking against "
            f"semi-hard negatives (margin {margin}){beside}" + (both if parts and weight else "")
        )
    return ""


def _started(stage: str, section: Mapping[str, Any]) -> str:
    if stage == "finetune":
        return "the pretrained checkpoint"
    init = section.get("init")
    if init is None:
        return ""
    encoders = " and ".join(str(section[key]) for key in ("vision", "text") if section.get(key))
    if init == "start":
        return encoders
    if init == "none":
        return f"{encoders}, and not trained"
    return f"the checkpoint {init}"


def _tokenizer(folder: Path, body: Mapping[str, Any]) -> str:
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return ""
    name = str(read_json(path).get("tokenizer_class", "tokenizer"))
    size = body.get("vocab_size") or (body.get("text") or {}).get("vocab_size")
    said = f"{name}, beside the weights"
    said += f"; {size:,} entries" if size else ""
    longest = body.get("max_tokens")
    return said + (f"; texts of up to {longest} tokens" if longest else "")

"""Released files as checkpoint folders of this project."""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertTokenizerFast

from models.checkpoint_files import TIED
from models.mra import MRA, MRAConfig
from models.mra.checkpoint import load_state
from models.mra.released import (
    DERIVED,
    PATCHES,
    check_derived,
    for_pixels,
    from_released,
    own_names,
    released_config,
)
from models.mra.released_sizes import VISION, VisionSizes, text_sizes, vision_sizes
from tasks.augment import MEAN, STD
from tasks.checkpoints import save_checkpoint
from tasks.errors import PedAlignError
from tasks.released.files import read_released, require_absent
from tasks.shards import file_digest
from tasks.tokens import load_tokenizer

log = logging.getLogger(__name__)

MLM_HEAD = "text_encoder.cls."
"""What a released model trained without masked language modelling lacks."""
HEAD_WIDTH = 64
"""Width of an attention head in every BERT that was published."""

PIXELS = {
    "clip": (MEAN, STD),
    "mals": ((0.4416847, 0.41812873, 0.4237452), (0.3088255, 0.29743394, 0.301009)),
    "cuhk": ((0.38901278, 0.3651612, 0.34836376), (0.24344306, 0.23738699, 0.23368555)),
    "icfg": ((0.30941582, 0.28956893, 0.30347288), (0.25849792, 0.24547698, 0.2366199)),
    "rstp": ((0.27722597, 0.26065794, 0.3036557), (0.2609547, 0.2508087, 0.25293276)),
}
"""Mean and deviation by which a release normalises pixels: CLIP's in MRA (and in this project),
the dataset's own in APTM's configs."""


@dataclass(frozen=True)
class Imported:
    """What became of every tensor of a released file."""

    config: MRAConfig
    mapped: dict[str, tuple[str, ...]]
    """Released name to this project's names."""
    resized: list[str]
    """This project's names of the position tables fitted to other windows."""
    derived: list[str]
    """Buffers that follow from the sizes: compared, not kept."""
    tied: list[str]
    """Second copies of a shared tensor: compared, not kept."""
    left: list[str]
    """Tensors that this model has no place for."""
    changed: list[str] = field(default_factory=list)
    """This project's names of what was adapted to its pixels."""
    new: list[str] = field(default_factory=list)
    """This project's names of what the file lacks: initialised at random."""


def import_released(
    file: Path,
    out: Path,
    text: Path | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    window: int | None = None,
    text_heads: int | None = None,
    pixels: str = "clip",
) -> Imported:
    """Turn a released checkpoint into a checkpoint folder of this project, reading `released`.

    The image size that the weights were saved at is that of their masks of shifted windows, or the
    config's `h` and `w` (or `image_res`), or `image_size`. Where `image_size` is another one, or
    `window` is given, the position tables are resized as the release does.

    Args:
        file: MRA's or APTM's checkpoint.
        out: A new folder.
        text: The text model's folder, of which the tokenizer is taken; or its vocab.txt. None:
            the config's `vocab`; without that the checkpoint has no tokenizer, and whoever reads
            texts with it asks for one.
        image_size: Height and width in pixels.
        window: Largest side of an attention window, in tokens.
        text_heads: BERT's attention heads; by default the config's, the text folder's, or one for
            every 64 channels.
        pixels: How the weights expect pixels normalised, a key of `PIXELS`. Where it is not this
            project's own way, the difference goes into the patch embedding, which then is no
            longer the file's.

    Raises:
        PedAlignError: A file that is not such a checkpoint or needs code to be unpickled, a size
            that cannot be known, a tokenizer of another vocabulary, or an existing `out`.
    """
    require_absent(out)
    if pixels not in PIXELS:
        raise PedAlignError(
            f"pixels {pixels!r}", f"the known ways are {', '.join(PIXELS)}", "choose one of them"
        )
    raw, settings = read_released(file)
    state = {_plain_name(name): tensor for name, tensor in raw.items()}
    try:
        swin, bert = vision_sizes(state, VISION), text_sizes(state)
    except ValueError as error:
        raise PedAlignError(
            f"{file}: {error}",
            "a released retrieval model has vision_encoder, text_encoder with cross-attention, "
            "vision_proj, text_proj, itm_head and temp",
            "name a checkpoint of MRA or APTM; a plain Swin or BERT goes to pretrain.vision/text",
        ) from error
    tokenizer = _tokenizer(file, settings, text, bert.vocab)
    vision, words = (_mapping(settings, key) for key in ("vision", "text"))
    own_size = _own_size(file, swin, {**vision, **settings}, image_size)
    heads = text_heads or _text_heads(file, words, text, bert.dim)
    vision |= {"h": own_size[0], "w": own_size[1]}
    words |= {"num_attention_heads": heads}
    changes: dict[str, Any] = {"head_dropout": float(settings.get("itc_dop", 0.5))}
    if "max_tokens" in settings:
        changes["max_tokens"] = min(int(settings["max_tokens"]), bert.positions)
    try:
        temperature = float(settings.get("temp", state["temp"]))
        config = released_config(vision, words, temperature, state, **changes)
        model, found = _fill(config, state, str(file))
        if window is not None or image_size not in (None, own_size):
            config = dataclasses.replace(
                config,
                image_size=image_size or own_size,
                window_size=window or config.window_size,
                stage_windows=None,
            )
            model, found = _fill(config, state, str(file), check=False)
    except (KeyError, TypeError, ValueError) as error:
        raise PedAlignError(
            f"{file}: {error}",
            "sizes come from the tensors, the file's config and the options, and have to agree",
            "give --image-size H W, --window N and --text-heads N as the weights were trained",
        ) from error
    if pixels != "clip":
        with torch.no_grad():
            for name, tensor in for_pixels(model.state_dict(), PIXELS[pixels], (MEAN, STD)).items():
                model.get_parameter(name).copy_(tensor)
        found = dataclasses.replace(found, changed=list(PATCHES))
    record = {"stage": "import", "file": file.name, "digest": file_digest(file), "pixels": pixels}
    if tokenizer is None:
        model.save_pretrained(out)
        log.warning("%s: without a tokenizer; copy the text model's vocab.txt there", out)
    else:
        save_checkpoint(out, model, tokenizer, record, [])
    log.info("%s: %d tensors mapped, %d left", file, len(found.mapped), len(found.left))
    return found


def _fill(
    config: MRAConfig, state: Mapping[str, Tensor], source: str, *, check: bool = True
) -> tuple[MRA, Imported]:
    """Build a model and fill it.

    Args:
        config: Its sizes.
        state: Weights under the released names.
        source: Where they are from, for messages.
        check: Whether stored buffers are of these sizes.

    Raises:
        ValueError: Tensors are missing, of another shape, or contradict each other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MRA(config)
    own = model.state_dict()
    derived = sorted(name for name in state if name.endswith(DERIVED))
    tied = sorted(name for name in state if name in TIED)
    for copy in tied:
        if TIED[copy] in state and not torch.equal(state[copy], state[TIED[copy]]):
            raise ValueError(f"{copy} differs from {TIED[copy]}, with which it is one tensor")
    mapped, left = {}, []
    for name in sorted(state.keys() - set(derived) - set(tied)):
        names = own_names(name)
        if all(each in own for each in names):
            mapped[name] = names
        else:
            left.append(name)
    weights = from_released({name: state[name] for name in mapped})
    new = sorted(own.keys() - weights.keys() - TIED.keys())
    if all(name.startswith(MLM_HEAD) for name in new):
        weights |= {name: own[name] for name in new}
    resized = load_state(model, weights, source)
    if check:
        check_derived(model, state)
    found = Imported(
        config=config,
        mapped=mapped,
        resized=sorted(resized),
        derived=derived,
        tied=tied,
        left=left,
        new=new,
    )
    return model, found


def _plain_name(name: str) -> str:
    """A released name without what wrappers add, and with `bert.` where a model left it out."""
    name = name.removeprefix("module.")
    head, text, inner = name.partition("text_encoder.")
    if text and not head and not inner.startswith(("bert.", "cls.")):
        return f"text_encoder.bert.{inner}"
    return name


def _own_size(
    file: Path,
    swin: VisionSizes,
    settings: Mapping[str, Any],
    image_size: tuple[int, int] | None,
) -> tuple[int, int]:
    """The image size that weights were saved at.

    Raises:
        PedAlignError: Masks and config differ, or nothing tells.
    """
    named = _named_size(file, settings)
    if image_size is None and None not in (named, swin.image_size) and named != swin.image_size:
        raise PedAlignError(
            f"{file}: config with image size {named}, masks of shifted windows with "
            f"{swin.image_size}",
            "a model has one image size; its masks show it",
            f"give --image-size {' '.join(map(str, swin.image_size or ()))} to go by the masks",
        )
    size = swin.image_size or named or image_size
    if size is None:
        raise PedAlignError(
            f"{file}: neither a config with h and w, nor masks of shifted windows",
            "the image size does not show in the weights",
            "give --image-size H W, the height and width that the model was trained at",
        )
    return size


def _named_size(file: Path, settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """The image size that a config names: ``h`` and ``w``, and ``image_res`` for what they leave.

    Raises:
        PedAlignError: It names something else.
    """
    if "image_res" not in settings and not {"h", "w"} <= settings.keys():
        return None
    both: Any = settings.get("image_res")
    sides: list[Any] = list(both) if isinstance(both, list | tuple) else [both, both]
    sides = [settings.get(key, side) for key, side in zip("hw", sides, strict=False)]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise PedAlignError(
            f"{file}: config with image size {sides}",
            "h and w, or image_res, are height and width in pixels",
            "correct the config in the file: torch.load it, change it, torch.save it",
        )
    return sides[0], sides[1]


def _mapping(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A part of a config, {} where it has none."""
    part = settings.get(key)
    return dict(part) if isinstance(part, Mapping) else {}


def _text_heads(file: Path, words: Mapping[str, Any], text: Path | None, dim: int) -> int:
    """The number of BERT's attention heads.

    Raises:
        PedAlignError: Nothing tells.
    """
    heads = words.get("num_attention_heads")
    path = text / "config.json" if text is not None else None
    if heads is None and path is not None and path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        heads = found.get("num_attention_heads") if found.get("hidden_size") == dim else None
    if heads is None and dim % HEAD_WIDTH == 0:
        heads = dim // HEAD_WIDTH
    if heads is None:
        raise PedAlignError(
            f"{file}: a text encoder of width {dim}",
            "the number of its attention heads does not show in the weights",
            "give --text-heads N",
        )
    return int(heads)


def _tokenizer(
    file: Path, settings: Mapping[str, Any], text: Path | None, vocab: int
) -> BertTokenizerFast | None:
    """The tokenizer of a folder, of a vocab.txt or of the config's word pieces.

    Raises:
        PedAlignError: There is none where one is named, or it is of another vocabulary.
    """
    if text is None and "vocab" not in settings:
        return None
    if text is not None and not text.is_file():
        tokenizer = load_tokenizer(text)
    else:
        pieces = text.read_bytes() if text else "\n".join(settings["vocab"]).encode() + b"\n"
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "vocab.txt").write_bytes(pieces)
            tokenizer = load_tokenizer(folder)
    largest = max(tokenizer.get_vocab().values())
    if largest + 1 != vocab:
        raise PedAlignError(
            f"{text or file}: {largest + 1} word pieces, and weights for {vocab}",
            "weights mean what they mean with the tokenizer that they were trained with",
            "name the text model that the release was trained from (bert-base-uncased: 30,522)",
        )
    return tokenizer

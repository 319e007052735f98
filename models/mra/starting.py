"""Starting an MRA from a plain Swin and a plain BERT.

The paper starts from ImageNet's Swin-B and bert-base-uncased. BERT's upper layers become the
fusion encoder; their cross-attention is in no such folder and stays as it was initialised.

Swin: a folder in transformers' layout, or a file under the original names, such as
`swin_base_patch4_window7_224_22k.pth` (or a folder with just that file); the classifier in it is
left. BERT: a folder in transformers' layout, safetensors or pytorch_model.bin, with or without the
MLM head and the `bert.` prefix, LayerNorm's weights under their old names too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, SwinConfig, SwinModel

from models.mra.checkpoint import fit_tables
from models.mra.released import DERIVED, from_released, own_names
from models.mra.released_sizes import VISION, VisionSizes, vision_sizes
from models.mra.vision import VisionEncoder

if TYPE_CHECKING:
    from models.mra.model import MRA

logger = logging.getLogger(__name__)

Report = dict[str, list[str]]

# Names of transformers' Swin on disk to those in memory. The library does this for its own classes
# only; names that are already new pass unchanged.
_SWIN_NAMES = {
    r"attention\.self\.query": "attention.q_proj",
    r"attention\.self\.key": "attention.k_proj",
    r"attention\.self\.value": "attention.v_proj",
    r"attention\.self\.relative_position_bias_table": (
        "attention.relative_position_bias.relative_position_bias_table"
    ),
    r"attention\.output\.dense": "attention.o_proj",
    r"intermediate\.dense": "mlp.fc1",
    r"output\.dense": "mlp.fc2",
}

TEXT = "text_encoder."

_SUFFIXES = (".pth", ".pt", ".bin")

# What has to agree between a folder and the model, by the names of the transformers configs.
_SWIN_SIZES = ("patch_size", "embed_dim", "depths", "num_heads")
_BERT_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


_IMAGE = 224
"""Side of the image for which a file without masks of shifted windows was made, in pixels. It
counts for nothing: a model has its own image size."""


def vision_config(source: str | Path) -> SwinConfig:
    """Sizes of Swin's starting weights.

    Args:
        source: A folder in transformers' layout, a name on the hub, or a file under the original
            names (or a folder with one).

    Raises:
        ValueError: A file that is no such Swin.
        OSError: No such folder, and no such name on the hub.
    """
    file = original_file(source)
    if file is None:
        return SwinConfig.from_pretrained(source)
    sizes = _sizes(file, read_original(file))
    return SwinConfig(
        image_size=list(sizes.image_size or (_IMAGE, _IMAGE)),
        patch_size=sizes.patch,
        embed_dim=sizes.dim,
        depths=list(sizes.depths),
        num_heads=list(sizes.heads),
        window_size=sizes.windows[0],
    )


def plain_swin(source: str | Path) -> SwinModel:
    """The stock Swin, pooled, of any source that `vision_config` reads, at its own image size.

    Nothing is fetched: a name on the hub has to be in its cache.

    Raises:
        ValueError: A file that is no such Swin.
        OSError: No such folder.
    """
    file = original_file(source)
    if file is None:
        return SwinModel.from_pretrained(source, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        swin = SwinModel(vision_config(file))
    swin.load_state_dict(_read_file(file, swin.state_dict()))
    return swin.eval()


def load_starting_weights(
    model: MRA, vision_folder: str | Path | None, text_folder: str | Path | None
) -> Report:
    """Fill the encoders from plain folders or files (see `MRA.load_starting_weights`).

    Raises:
        ValueError: A folder whose sizes do not fit this model, or a file that is no Swin.
    """
    report: Report = {"loaded": [], "resized": [], "new": []}
    filled: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):  # the throw-away models draw random weights
        if vision_folder is not None:
            encoder = model.vision_encoder
            swin, resized = read_swin(vision_folder, encoder.config, encoder.state_dict())
            filled |= {f"{VISION}{name}": tensor for name, tensor in swin.items()}
            report["resized"] = sorted(f"{VISION}{name}" for name in resized)
        if text_folder is not None:
            config = BertConfig.from_pretrained(text_folder)
            _check_sizes(config, model.text_encoder.config, _BERT_SIZES, text_folder)
            filled |= {f"{TEXT}{name}": tensor for name, tensor in read_bert(text_folder).items()}
    own = model.state_dict()
    model.load_state_dict({**own, **filled})
    parameters = dict(model.named_parameters())
    report["loaded"] = sorted(name for name in parameters if name in filled)
    report["new"] = sorted(name for name in parameters if name not in filled)
    logger.info(
        "Starting weights: %d parameters loaded (%d position tables resized), %d new",
        len(report["loaded"]),
        len(report["resized"]),
        len(report["new"]),
    )
    return report


def read_original(file: Path) -> dict[str, Tensor]:
    """Read a Swin under its original names, without running anything in the file.

    Returns:
        The tensors of the encoder; the classifier's and buffers that follow from sizes are among
        them.

    Raises:
        ValueError: It is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ValueError(
            f"{file}: {reason}; it should be a file of torch.save with tensors and plain values "
            "only (unpickling more could run code and is refused)"
        ) from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise ValueError(f"{file}: no state dict in it; name the file of a Swin")
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def original_file(source: str | Path) -> Path | None:
    """The file under the original names that a source is or holds; None: transformers' layout.

    Raises:
        ValueError: Several such files, or a file that is missing.
    """
    path = Path(source)
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES)
        if len(files) > 1:
            raise ValueError(f"{path}: {[f.name for f in files]}; name the one to start from")
        return files[0] if files else None
    if path.suffix in _SUFFIXES and not path.is_file():
        raise ValueError(f"{path}: no such file; correct the path, or fetch the weights")
    return path if path.is_file() else None


def _sizes(file: Path, state: Mapping[str, Tensor]) -> VisionSizes:
    """Sizes of a Swin under its original names.

    Raises:
        ValueError: It is none.
    """
    try:
        return vision_sizes(state)
    except ValueError as error:
        raise ValueError(f"{file}: {error} (of the original Swin)") from error


def read_swin(
    source: str | Path, wanted: Any, own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """A Swin's weights for a `VisionEncoder`.

    Args:
        source: See `vision_config`.
        wanted: The encoder's own config.
        own: Its state.

    Returns:
        Its new state, tables resized to its windows, and their names.

    Raises:
        ValueError: A source whose sizes do not fit, or that is no Swin.
    """
    config = vision_config(source)
    _check_sizes(config, wanted, _SWIN_SIZES, source)
    file = original_file(source)
    state = _read_folder(source, config) if file is None else _read_file(file, own)
    fitted, resized = fit_tables(state, own)
    wrong = [name for name in own if fitted[name].shape != own[name].shape]
    if wrong:
        raise ValueError(f"{source}: of another shape than this model's: {wrong[:3]}")
    return fitted, resized


def _read_folder(folder: str | Path, config: SwinConfig) -> dict[str, Tensor]:
    """Swin's weights in transformers' layout."""
    if not hasattr(config, "stage_windows"):
        # A stock folder has one size of table in all stages, whatever their grids.
        config.stage_windows = [config.window_size] * len(config.depths)
    swin, info = VisionEncoder.from_pretrained(
        folder,
        config=config,
        key_mapping=_SWIN_NAMES,
        dtype=torch.float32,
        output_loading_info=True,
    )
    _check_found(info, folder)
    state: dict[str, Tensor] = swin.state_dict()
    return state


def _read_file(file: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Swin's weights under the original names; what the encoder has no place for is left."""
    given = {
        f"{VISION}{name}": tensor.float()
        for name, tensor in read_original(file).items()
        if not name.endswith(DERIVED)
    }
    left = sorted(
        name.removeprefix(VISION)
        for name in given
        if not all(each.removeprefix(VISION) in own for each in own_names(name))
    )
    if left:
        logger.info("%s: left %d tensors: %s", file, len(left), ", ".join(left[:5]))
    kept = {name: t for name, t in given.items() if name.removeprefix(VISION) not in set(left)}
    state = {name.removeprefix(VISION): tensor for name, tensor in from_released(kept).items()}
    _check_found({"missing_keys": own.keys() - state.keys()}, file)
    return state


def read_bert(source: str | Path) -> dict[str, Tensor]:
    """A BERT's weights for a `TextEncoder`; without an MLM head, none of one.

    Args:
        source: A folder in transformers' layout, or a name on the hub.

    Raises:
        ValueError: Tensors of the encoder are missing.
    """
    bert, info = BertForMaskedLM.from_pretrained(
        source, dtype=torch.float32, output_loading_info=True
    )
    missing = set(info["missing_keys"])
    _check_found(
        {"missing_keys": [name for name in missing if not name.startswith("cls.")]}, source
    )
    headless = any(name.startswith("cls.predictions.transform") for name in missing)
    return {
        name: tensor
        for name, tensor in bert.state_dict().items()
        if not (headless and name.startswith("cls.") and not name.endswith("decoder.weight"))
    }


def _check_sizes(found: Any, wanted: Any, names: tuple[str, ...], folder: str | Path) -> None:
    """Compare the sizes of two transformers configs.

    Raises:
        ValueError: They differ.
    """
    wrong = {
        name: (_plain(getattr(found, name)), _plain(getattr(wanted, name)))
        for name in names
        if _plain(getattr(found, name)) != _plain(getattr(wanted, name))
    }
    if wrong:
        raise ValueError(
            f"{folder}: (found, wanted) {wrong}: starting weights fit a model of their own sizes "
            "only (image size and window excepted); change the model's parameters or the folder"
        )


def _check_found(info: Any, folder: str | Path) -> None:
    """Check that a folder held every tensor that it should.

    Raises:
        ValueError: Tensors are missing.
    """
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder}: without {len(missing)} tensors, e.g. {missing[:3]}: it should hold a "
            "complete encoder in transformers' layout, or Swin's in its original one"
        )


def _plain(value: Any) -> Any:
    """Lists and tuples alike."""
    return tuple(value) if isinstance(value, list | tuple) else value

"""Load a model of transformers whole, or not at all.

`from_pretrained` warns where a file lacks a tensor that the class needs, and goes on with random
numbers in its place: a captioner with half a decoder writes sentences, and a shard of them is
lost before anybody reads the log. Here a tensor that is missing or of another shape is an error
that names it. Poser, captioner and detector load through this module.

Unusual: tied weights stand once in a file and count as there (transformers ties them before it
counts). Tensors that the file has and the class does not use are harmless, and logged: published
checkpoints carry leftovers of training. Safetensors only: unpickling runs whatever the file says.

    model = load_model(VitPoseForPoseEstimation, name, what="pose model", remedy="...")
    processor = load_processor(AutoImageProcessor, name, what="pose model", remedy="...")
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import torch

log = logging.getLogger(__name__)

ALONE = threading.RLock()
"""Held while a model is loaded or built, where other threads may do so too: transformers and
diffusers make modules without memory by changing torch's own classes for that while, and what
another thread builds then has no memory either."""


def load_model(
    kind: Any,
    name: str | Path,
    *,
    what: str,
    remedy: str,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Load a model of transformers with every tensor that its class needs.

    Args:
        kind: The class, or an Auto class that finds it by config.json.
        name: Hub name or local folder.
        what: What is loaded, in words for messages: "pose model".
        remedy: Names that would do, for messages.
        dtype: Of the weights; that of the file where none is given.
        revision: Hub commit.
        options: Of the class: which parts it has.

    Returns:
        The model, on the CPU and in evaluation mode.

    Raises:
        ValueError: Nothing of that class can be read there in safetensors, or a tensor is missing
            or of another shape.
    """
    more: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    with ALONE, _named(name, what, "model.safetensors, config.json", remedy):
        model, report = kind.from_pretrained(
            str(name),
            revision=revision,
            use_safetensors=True,
            output_loading_info=True,
            # Not to let them pass: to name them below.
            ignore_mismatched_sizes=True,
            **more,
            **(options or {}),
        )
    misshapen = [
        f"{key} is {tuple(there)}, needs {tuple(needed)}"
        for key, there, needed in sorted(report["mismatched_keys"])
    ]
    other = {key for key, *_ in report["mismatched_keys"]}
    missing = sorted(
        key
        for key in set(report["missing_keys"]) - other
        # A counter that no model reads outside training; old files lack it.
        if not key.endswith(".num_batches_tracked")
    )
    if missing or misshapen:
        found = [f"{len(missing)} missing ({some(missing)})"] if missing else []
        found += [f"{len(misshapen)} of another shape ({some(misshapen)})"] if misshapen else []
        raise ValueError(
            f"the {what} {str(name)!r} does not fill a {type(model).__name__}, tensors "
            f"{' and '.join(found)}; rule: every tensor of the class stands in the file, or it "
            f"would run on random numbers; remedy: download or save it again, or {remedy}"
        )
    if unused := sorted(report["unexpected_keys"]):
        log.info("%s %s: %d tensors are not used (%s)", what, name, len(unused), some(unused))
    return model


def model_type(name: str | Path, *, what: str, remedy: str, revision: str | None = None) -> str:
    """Read from config.json of which type a model is, before any weight is read.

    Raises:
        ValueError: There is no config.json, or it names no type.
    """
    from transformers import PreTrainedConfig

    with _named(name, what, "config.json", remedy):
        config, _ = PreTrainedConfig.get_config_dict(str(name), revision=revision)
        if not config.get("model_type"):
            raise ValueError("its config.json names no model_type, or there is none")
    return str(config["model_type"])


def load_processor(
    kind: Any,
    name: str | Path,
    *,
    what: str,
    remedy: str,
    revision: str | None = None,
    backend: str = "pil",
) -> Any:
    """Load the processor of a model: see `load_model`.

    Args:
        kind: Its class, or an Auto class.
        name: See `load_model`, as for the next three.
        what: In words.
        remedy: For messages.
        revision: Hub commit.
        backend: Who resizes pictures. Transformers would take torchvision where it is installed,
            which rounds differently, and results would depend on that.

    Raises:
        ValueError: There is none, or a library that it needs is not installed.
    """
    with _named(name, what, "the processor's and the tokenizer's files", remedy):
        return kind.from_pretrained(str(name), revision=revision, backend=backend)


def check_tokenizer(tokenizer: Any, read: int, name: str | Path, *, what: str, remedy: str) -> None:
    """Refuse a tokenizer that is not the model's.

    Where its files are missing, transformers makes up one that knows special tokens alone, and
    every word is unknown.

    Args:
        tokenizer: As it was loaded.
        read: How many tokens the model has vectors for: a few more than there are words, in some.
        name: Of the model.
        what: See `load_model`.
        remedy: See `load_model`.

    Raises:
        ValueError: It knows more tokens than the model, or a tenth fewer.
    """
    if not 0.9 * read <= len(tokenizer) <= read:
        raise ValueError(
            f"the tokenizer of the {what} {str(name)!r} knows {len(tokenizer)} tokens, the model "
            f"reads {read}; rule: they were made for each other; remedy: put the tokenizer's files "
            f"beside the model's, or {remedy}"
        )


@contextmanager
def _named(name: str | Path, what: str, files: str, remedy: str) -> Iterator[None]:
    """Say what could not be loaded, whatever transformers trips over."""
    try:
        yield
    except (OSError, KeyError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ValueError(
            f"cannot load the {what} {str(name)!r}: {' '.join(str(error).split())[:300]}; rule: "
            f"a hub name or a folder with {files}; remedy: {remedy}"
        ) from error


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of a list for a message, and how many more there are."""
    listed = list(names)
    more = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {more} more" if more > 0 else "")

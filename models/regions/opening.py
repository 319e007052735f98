"""A detector's network and processor by hub name or folder, checked to belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from models.loading import check_tokenizer, load_model, load_processor

if TYPE_CHECKING:
    from pathlib import Path


def open_detector(
    network: Any,
    processor: Any,
    name: str | Path,
    *,
    example: str,
    revision: str | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Any, Any]:
    """Load both; safetensors only, weights in float32.

    Args:
        network: The network's class.
        processor: The processor's class.
        name: Hub name or folder.
        example: A name that would do, for messages.
        revision: Hub commit.
        device: Where to run.

    Returns:
        The network, on the device, and its processor.

    Raises:
        ValueError: The name holds no whole network of that class, or not its processor.
    """
    words: Any = {"what": "detector", "remedy": f"name {example} or embedded"}
    own = load_processor(processor, name, revision=revision, **words)
    model = load_model(network, name, dtype=torch.float32, revision=revision, **words)
    check_tokenizer(own.tokenizer, model.config.text_config.vocab_size, name, **words)
    return model.to(device), own

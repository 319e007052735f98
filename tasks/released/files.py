"""Released files: read without running anything in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from tasks.errors import PedAlignError


def read_released(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a released file without running anything in it.

    Returns:
        Its tensors and its config; {} where it has none.

    Raises:
        PedAlignError: It is missing, damaged, no state dict, or holds more than tensors and plain
            values.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise PedAlignError(
            f"{file}: not only tensors and plain values ({_foreign(error)})",
            "unpickling anything else could run code, so it is refused",
            "where the file comes from and is trusted, save its weights alone: "
            'torch.save({"model": torch.load(FILE)["model"]}, NEW)',
        ) from error
    except FileNotFoundError as error:
        raise PedAlignError(
            f"{file}: no such file",
            "a released checkpoint is a file that torch.save wrote",
            "correct the path",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise PedAlignError(
            f"{file}: {str(error).splitlines()[0] if str(error) else error!r}",
            "a released checkpoint is a file that torch.save wrote",
            "correct the path, or fetch the file again",
        ) from error
    found = content
    if isinstance(content, Mapping):
        found = next((content[key] for key in ("model", "state_dict") if key in content), content)
    if not isinstance(found, Mapping) or not any(isinstance(v, Tensor) for v in found.values()):
        raise PedAlignError(
            f"{file}: no state dict in it",
            'it holds tensors by name, plainly or under "model"',
            "name another file",
        )
    config = content.get("config") if found is not content else None
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    return tensors, dict(config) if isinstance(config, Mapping) else {}


def require_absent(path: Path) -> None:
    """Check that nothing would be overwritten.

    Raises:
        PedAlignError: Something is there.
    """
    if path.exists():
        raise PedAlignError(
            f"{path}: exists", "nothing is overwritten", "name a new path, or remove this one"
        )


def _foreign(error: UnpicklingError) -> str:
    """What a file holds besides; torch's own message goes on to advise unpickling it all."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f"it names {found[1]}" if found else "it cannot be read as such"

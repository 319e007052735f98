"""A row of a parity report, and the rules by which a quantity passes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tasks.errors import PedAlignError

VALUES = 2e-4
"""Features, losses and scores: of the largest reference value."""
NORMS = 0.01
"""Gradient norms: of the reference norm."""
NEGLIGIBLE = 1e-6
"""Gradient norms below this share of the largest only have to stay below it."""
METRICS = 0.005
"""Metrics, in percent: equal to two decimals."""
TABLES = 1e-3
"""Position tables."""
RATES = 1e-9
"""Learning rates: equal but for the last digits of float64."""


@dataclass(frozen=True)
class Row:
    """One quantity: how far this project is from the reference."""

    name: str
    rule: str
    """The tolerance, in words."""
    ok: bool
    absolute: float | None = None
    """Largest difference; None where nothing could be subtracted."""
    relative: float | None = None
    """The same, as a share of what the rule names."""
    note: str = ""

    def line(self, width: int) -> str:
        """One line of text, the name padded to a width."""
        figures = (
            f"{_figure(self.absolute):>11}  {_figure(self.relative):>9}  "
            f"{self.rule:<18}  {'ok' if self.ok else 'FAIL'}"
        )
        return f"{self.name:<{width}}  {figures}{f'  {self.note}' if self.note else ''}"


def values_row(name: str, found: Tensor, reference: Tensor) -> Row:
    """Features, losses, scores: the largest difference against the largest reference value."""
    rule = f"{VALUES:.0e} of largest"
    if found.shape != reference.shape:
        return _shapes(name, rule, found, reference)
    absolute = _largest(found - reference)
    largest = _largest(reference)
    relative = absolute / largest if largest else (math.inf if absolute else 0.0)
    return Row(name, rule, relative <= VALUES, absolute, relative)


def norm_row(name: str, found: float | None, reference: float, largest: float) -> Row:
    """A gradient norm; None where this project's parameter took no gradient."""
    norm = 0.0 if found is None else found
    absolute = abs(norm - reference)
    if reference < NEGLIGIBLE * largest:
        ok = norm < NEGLIGIBLE * largest
        return Row(name, f"below {NEGLIGIBLE * largest:.1e}", ok, absolute, absolute / largest)
    relative = absolute / reference
    return Row(name, f"{NORMS:.0%}", relative <= NORMS, absolute, relative)


def metric_row(name: str, found: float, reference: float) -> Row:
    """A metric in percent."""
    absolute = abs(found - reference)
    relative = absolute / abs(reference) if reference else (math.inf if absolute else 0.0)
    return Row(name, "two decimals", absolute <= METRICS, absolute, relative)


def table_row(name: str, found: Tensor, reference: Tensor) -> Row:
    """A position table."""
    rule = f"{TABLES:.0e}"
    if found.shape != reference.shape:
        return _shapes(name, rule, found, reference)
    absolute = _largest(found - reference)
    return Row(name, rule, absolute <= TABLES, absolute, absolute / max(_largest(reference), 1e-30))


def equal_row(name: str, equal: bool, note: str = "") -> Row:
    """Something that is equal or not."""
    return Row(name, "equal", equal, note=note)


def unknown_row(name: str) -> Row:
    """A quantity that this project does not know, so that it cannot have passed."""
    return Row(name, "-", ok=False, note="not compared: unknown here")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        PedAlignError: The file is missing or is none.
    """
    data = _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(data, dict):
        raise PedAlignError(
            f"{path}: no JSON object", "it holds named entries", "take the file from its source"
        )
    return data


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        PedAlignError: The file is missing or damaged.
    """
    return dict(_read(path, lambda: load_file(path)))


def need(entries: Mapping[str, Any], key: str, path: Path) -> Any:
    """An entry that a file must have.

    Raises:
        PedAlignError: It is missing.
    """
    if key not in entries:
        raise PedAlignError(
            f"{path}: without {key}",
            "the quantities in this folder cannot be computed without it",
            "take the file from its source",
        )
    return entries[key]


def _read(path: Path, how: Callable[[], Any]) -> Any:
    try:
        return how()
    except (OSError, ValueError, SafetensorError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise PedAlignError(
            f"{path}: {reason.splitlines()[0]}",
            "a folder of reference numbers is complete: a model's has config.json, "
            "weights.safetensors and vectors.safetensors; a recipe's has recipe.json and "
            "position_tables.safetensors",
            "take the missing or damaged file from its source",
        ) from error


def _shapes(name: str, rule: str, found: Tensor, reference: Tensor) -> Row:
    note = f"shape {tuple(found.shape)}, reference {tuple(reference.shape)}"
    return Row(name, rule, ok=False, note=note)


def _largest(values: Tensor) -> float:
    """Largest magnitude; NaN if one is, 0 for an empty tensor."""
    if not values.numel():
        return 0.0
    return float(torch.as_tensor(values).double().abs().max())


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"

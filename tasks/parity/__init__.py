"""Parity: this project's numbers beside those of the released code, quantity by quantity.

A folder of reference numbers is either of a model (config.json, weights.safetensors,
vectors.safetensors: `vectors.compare_model`) or of a recipe (recipe.json,
position_tables.safetensors: `recipe.compare_recipe`). Sizes are read off each folder. Every
quantity in it is compared; one that is unknown here counts as a failure, never as passed.

    pedalign parity FOLDER      # one such folder, or a folder of them
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.errors import PedAlignError
from tasks.parity.recipe import RECIPE_FILES, compare_recipe
from tasks.parity.rows import Row
from tasks.parity.vectors import MODEL_FILES, Golden, compare_model, load_golden

__all__ = [
    "Golden",
    "Row",
    "compare_model",
    "compare_recipe",
    "failed",
    "load_golden",
    "parity",
    "report",
]


def parity(folder: Path) -> dict[str, list[Row]]:
    """Compare every folder of reference numbers at or directly below a folder.

    Returns:
        By folder name, a row a quantity.

    Raises:
        PedAlignError: There is none, or a file of one is missing or damaged.
    """
    if not folder.is_dir():
        raise PedAlignError(
            f"{folder}: no such folder",
            "parity reads a folder of reference numbers, or a folder of such folders",
            "correct the path",
        )
    places = [folder] if _kinds(folder) else [each for each in _below(folder) if _kinds(each)]
    if not places:
        raise PedAlignError(
            f"{folder}: no reference numbers in it or in a folder directly below it",
            f"a model's are {', '.join(MODEL_FILES)}; a recipe's are {', '.join(RECIPE_FILES)}",
            "name the folder that holds them",
        )
    found: dict[str, list[Row]] = {}
    for place in places:
        rows = found.setdefault(place.resolve().name, [])
        for compare in _kinds(place):
            rows += compare(place)
        if not rows:
            raise PedAlignError(
                f"{place}: its files hold no quantity",
                "what is not compared has not passed",
                "take the files from their source",
            )
    return found


def failed(rows: list[Row]) -> list[Row]:
    """The rows that are not within tolerance, or were not compared."""
    return [row for row in rows if not row.ok]


def report(found: dict[str, list[Row]]) -> str:
    """The rows as text: a line a quantity, and a sum a folder."""
    width = max(len(row.name) for rows in found.values() for row in rows)
    lines = []
    for name, rows in found.items():
        lines.append(
            f"{name}\n  {'quantity':<{width}}  {'largest |d|':>11}  {'relative':>9}  "
            f"{'tolerance':<18}  result"
        )
        lines += [f"  {row.line(width)}" for row in rows]
        count = len(failed(rows))
        lines.append(f"{name}: {len(rows)} quantities, {count} failed\n")
    return "\n".join(lines).rstrip()


def _kinds(folder: Path) -> list[Callable[[Path], list[Row]]]:
    """What a folder holds reference numbers of, by any of their files."""
    kinds = ((MODEL_FILES, compare_model), (RECIPE_FILES, compare_recipe))
    return [how for files, how in kinds if any((folder / name).is_file() for name in files)]


def _below(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir())

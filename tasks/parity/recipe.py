"""The released recipe: groups, schedules, patch masks, caption clean-up, position tables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.mra.masking import patch_mask
from models.mra.position_tables import resize_table
from models.mra.released import own_names
from tasks.errors import PedAlignError
from tasks.parity.rows import (
    RATES,
    Row,
    equal_row,
    read_json,
    read_tensors,
    table_row,
    unknown_row,
)
from tasks.rates import Schedule, parameter_groups, schedule_factor, warmup_steps
from tasks.tokens import Cleaning, clean_caption

RECIPE_FILES = ("recipe.json", "position_tables.safetensors")

FACTORS = {
    "pretrain": {"crossattention": 2.0},
    "finetune": {
        r"vision_encoder\.encoder\.layers\.[23]\.": 2.0,
        r"text_encoder\.bert\.encoder\.layer\.(4|5|10|11)\.": 2.0,
        r"text_encoder\.cls": 2.0,
        "itm_head": 2.0,
    },
}
"""`training.rates` of the published settings, by stage (profiles/sd15.yaml)."""
PATCH = 32
"""Pixels a side of the patches in the released masks."""

_SCHEDULE = re.compile(r"(linear|step)_(\d+)x(\d+)_warmup([\d.eE+-]+)_lr([\d.eE+-]+)")
_TABLE = re.compile(r"(.*?\d+to(\d+).*)\.out")


def compare_recipe(folder: Path) -> list[Row]:
    """Compare every quantity of a recipe's folder.

    Raises:
        PedAlignError: A file is missing or damaged.
    """
    path = folder / "recipe.json"
    recipe = read_json(path)
    parts: dict[str, Callable[[Any], list[Row]]] = {
        "param_groups": group_rows,
        "schedules": schedule_rows,
        "patch_masks": patch_rows,
        "captions": caption_rows,
    }
    rows: list[Row] = []
    for name, entries in recipe.items():
        if name not in parts:
            rows.append(unknown_row(name))
            continue
        try:
            rows += parts[name](entries)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PedAlignError(
                f"{path}: {name} could not be read ({error!r})",
                "it has the layout of the released numbers",
                "take the file from its source",
            ) from error
    return rows + table_rows(folder / "position_tables.safetensors")


def group_rows(stages: dict[str, dict[str, list[float]]]) -> list[Row]:
    """Learning rate and weight decay of every parameter, by stage.

    The base rate is that of the temperature, which no rule doubles.
    """
    rows = []
    for stage, wanted in stages.items():
        name = f"param_groups.{stage}"
        if stage not in FACTORS:
            rows.append(unknown_row(name))
            continue
        base = wanted["temp"][0] if "temp" in wanted else min(rate for rate, _ in wanted.values())
        decay = max(decay for _, decay in wanted.values())
        # Of a joined query, key and value the first stands for all three: they share a group.
        own = {own_names(released)[0]: released for released in wanted}
        groups = parameter_groups(
            [(each, nn.Parameter(torch.zeros(1))) for each in own], base, decay, FACTORS[stage]
        )
        found = {own[each]: (g["peak"], g["weight_decay"]) for g in groups for each in g["names"]}
        wrong = sorted(
            each for each in wanted if not _close(found.get(each, ()), tuple(wanted[each]))
        )
        note = f"{len(wanted)} parameters{_first(wrong)}"
        rows.append(equal_row(name, not wrong, note))
    return rows


def schedule_rows(schedules: dict[str, list[float]]) -> list[Row]:
    """The learning rate at every step. A name says its kind, steps, warm-up and peak."""
    rows = []
    for name, wanted in schedules.items():
        row = f"schedules.{name}"
        parsed = _SCHEDULE.fullmatch(name)
        if parsed is None:
            rows.append(unknown_row(row))
            continue
        kind, epochs, steps, warm, peak = parsed.groups()
        total, rate = int(epochs) * int(steps), float(peak)
        warmup = warmup_steps(float(warm), total)
        schedule: Schedule = "linear" if kind == "linear" else "step"
        found = [rate * schedule_factor(schedule, s, total, warmup) for s in range(len(wanted))]
        worst = max((abs(a - b) for a, b in zip(found, wanted, strict=True)), default=0.0)
        rows.append(
            Row(row, "equal", worst <= RATES * rate, worst, worst / rate, f"{len(wanted)} steps")
        )
    return rows


def patch_rows(cases: list[dict[str, Any]]) -> list[Row]:
    """Pixel boxes to patch masks; a released mask starts with token 0, which is never inside."""
    wrong = []
    for number, case in enumerate(cases):
        _only(case, {"image", "box_xywh", "mask"})
        height, width = case["image"]
        box = torch.tensor([case["box_xywh"]], dtype=torch.float64)
        if [0, *patch_mask(box, (height, width), PATCH)[0].tolist()] != case["mask"]:
            wrong.append(f"number {number}")
    return [equal_row("patch_masks", not wrong, f"{len(cases)} boxes{_first(wrong)}")]


def caption_rows(cases: list[dict[str, Any]]) -> list[Row]:
    """The clean-up of captions."""
    wrong = []
    for number, case in enumerate(cases):
        _only(case, {"caption", "icfg_rstp", "max_words", "out"})
        cleaning: Cleaning = "alphanumeric" if case["icfg_rstp"] else "raw"
        if clean_caption(case["caption"], cleaning, case["max_words"]) != case["out"]:
            wrong.append(f"number {number}")
    return [equal_row("captions", not wrong, f"{len(cases)} captions{_first(wrong)}")]


def table_rows(path: Path) -> list[Row]:
    """Position tables before and after a change of window; a name ends "7to8.in" or "7to8.out"."""
    tables = read_tensors(path)
    rows, used = [], set()
    for name, wanted in tables.items():
        parsed = _TABLE.fullmatch(name)
        source = f"{parsed[1]}.in" if parsed else ""
        if parsed is None or source not in tables:
            continue
        used |= {name, source}
        try:
            found = resize_table(tables[source], int(parsed[2]))
        except ValueError as error:
            rows.append(Row(f"position_tables.{parsed[1]}", "-", ok=False, note=str(error)))
            continue
        rows.append(table_row(f"position_tables.{parsed[1]}", found, wanted))
    return rows + [unknown_row(f"position_tables.{name}") for name in sorted(tables.keys() - used)]


def _close(found: tuple[float, ...], wanted: tuple[float, ...]) -> bool:
    return len(found) == len(wanted) and all(
        math.isclose(a, b, rel_tol=RATES) for a, b in zip(found, wanted, strict=True)
    )


def _only(case: dict[str, Any], known: set[str]) -> None:
    """Check that a case has no key whose meaning is unknown.

    Raises:
        KeyError: It has one.
    """
    if case.keys() - known:
        raise KeyError(*sorted(case.keys() - known))


def _first(wrong: list[str], most: int = 3) -> str:
    return f"; {len(wrong)} differ: {', '.join(wrong[:most])}" if wrong else ""

"""Rows of ``restyled``: the pictures, and of each where it comes from and how it was made.

Every row names its parent, its prompt and EDA operation, its seed, and how it was sampled with
which models (`tasks.restyle.renderer.Arm.lineage`), so any picture can be made again from its row
alone.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tasks.restyle.renderer import noise_seed
from tasks.schemas import OK, REJECTED, RESTYLED, conform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.restyle.prompts import Item
    from tasks.restyle.renderer import Arm


def restyled_table(
    parents: pa.Table,
    items: Sequence[Item],
    pictures: Mapping[str, bytes],
    errors: Mapping[str, str],
    arm: Arm,
) -> pa.Table:
    """Put the rows of a shard together.

    Args:
        parents: The input shard, ``images``.
        items: The rows, in any order.
        pictures: Encoded pictures by uid.
        errors: Why there is none, by uid.
        arm: What made the pictures.

    Returns:
        A conforming ``restyled`` table.
    """
    items = sorted(items, key=lambda item: item.uid)
    table = parents.drop_columns(["image"]).take(
        pa.array([item.parent for item in items], pa.int64())
    )

    def repeat(value: object) -> list[object]:
        return list(itertools.repeat(value, len(items)))

    columns: dict[str, Any] = {name: table[name] for name in table.column_names}
    # A picture made from words shows nobody in particular.
    if arm.section.mode == "generate":
        columns |= {"person_id": repeat(None), "camera": repeat(None), "labels": repeat(None)}
    sides = {
        side: [
            was if item.uid in errors else length
            for item, was in zip(items, table[side].to_pylist(), strict=True)
        ]
        for side, length in zip(("height", "width"), arm.size, strict=True)
    }
    columns |= sides
    columns |= {
        "uid": [item.uid for item in items],
        "parent_uid": table["uid"],
        "image": [pictures.get(item.uid) for item in items],
        "captions": [item.captions for item in items],
        "status": [REJECTED if item.uid in errors else OK for item in items],
        "error": [errors.get(item.uid) for item in items],
        "prompt": [item.prompt for item in items],
        "eda_op": [item.operation for item in items],
        "seed": [noise_seed(item.uid, arm.section) for item in items],
        **{name: repeat(value) for name, value in arm.lineage().items()},
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if isinstance(columns[field.name], list)
        else columns[field.name].combine_chunks().cast(field.type)
        for field in RESTYLED
    ]
    return conform(pa.table(arrays, schema=RESTYLED), "restyled")

"""All arms measured, the start first, the others side by side; and pictures of each for a sheet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.gap.measuring import LEAST, ArmFigures, Findings, Gauge, PictureSet
from tasks.shards import atomic_file, item_seed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.judge import Judge
    from models.poser import Poser
    from tasks.gap.arms import GapParams

EXAMPLES = "examples.parquet"
TARGET = "target"
_LEAST_PEOPLE = 2
_SCHEMA = pa.schema([("arm", pa.string()), ("uid", pa.string()), ("prompt", pa.string()),
                     ("image", pa.binary())])  # fmt: skip


def compare(
    made: Mapping[str, pa.Table],
    failed: Mapping[str, str],
    halves: tuple[pa.Table, pa.Table],
    size: tuple[int, int],
    section: GapParams,
    *,
    start: str | None,
    main: str | None,
    judge: Judge | None = None,
    poser: Poser | None = None,
    workers: int = 1,
) -> Findings | str:
    """Measure every arm.

    Args:
        made: Arm to its pictures, rows of ``restyled``.
        failed: Arm to the reason why it has none.
        halves: The target's held-out pictures (`tasks.gap.picking.pick_target`).
        size: Height and width at which light, sharpness and bodies are compared.
        section: Section ``gap``; its arms give the order.
        start: The arm where the gap starts.
        main: The arm that is what the run makes.
        judge: See `Gauge`.
        poser: See `Gauge`.
        workers: Arms measured at once; no figure depends on it.

    Returns:
        The figures, or the reason why there are none.
    """
    sets = PictureSet.of(halves[0]), PictureSet.of(halves[1])
    if min(map(len, sets)) < LEAST or min(len(set(each.people)) for each in sets) < _LEAST_PEOPLE:
        return (
            f"the target has {len(sets[0]) + len(sets[1])} held-out pictures for two halves of "
            f"people of their own, and a distance takes {LEAST} of {_LEAST_PEOPLE} people a half"
        )
    gauge = Gauge(sets, size, section, judge, poser)
    figures: dict[str, ArmFigures] = {name: ArmFigures(name, 0, why) for name, why in
                                      failed.items()}  # fmt: skip
    if start is not None and start in made:
        figures[start] = gauge.measure(start, PictureSet.of(made[start]), starts=True)
    others = [name for name in section.arms if name in made and name not in figures]
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda name: gauge.measure(name, PictureSet.of(made[name])), others)
        figures |= zip(others, done, strict=True)
    begins = start if start in figures and figures[start].reason is None else None
    return Findings(
        tuple(figures[name] for name in section.arms if name in figures),
        gauge.target(),
        begins,
        main,
        gauge.features,
    )


def write_examples(
    path: Path, made: Mapping[str, pa.Table], target: pa.Table, section: GapParams
) -> None:
    """Keep a few pictures of every arm, the same source pictures in each, and of the target.

    Which ones follows their uids alone. The bytes are those that were measured.
    """
    rows = []
    for name in section.arms:
        if name in made:
            rows += _chosen(name, made[name], section)
    rows += _chosen(TARGET, target, section)
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    with atomic_file(path) as sink:
        pq.write_table(table, sink, row_group_size=64, compression="none")


def _chosen(name: str, table: pa.Table, section: GapParams) -> list[dict[str, object]]:
    rows = table.select(["uid", "image", "captions"]).to_pylist()
    rows.sort(key=lambda row: item_seed(row["uid"].partition(".")[0], section.seed, "sheet"))
    return [
        {"arm": name, "uid": row["uid"], "image": row["image"],
         "prompt": row["captions"][0] if row["captions"] else ""}
        for row in rows[: section.sheet_pictures]
        if row["image"]
    ]  # fmt: skip

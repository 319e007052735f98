"""One arm: the chosen source pictures made over, or new pictures of the chosen captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from tasks.images import encode_jpeg, to_array_batch
from tasks.restyle.renderer import open_renderer, row_seed
from tasks.schemas import RESTYLED, conform

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tasks.diffusion import DiffusionParams
    from tasks.restyle.renderer import Renderer
    from tasks.restyle.shard import RestyleParams


PLAIN = frozenset({"none", "colours"})
"""Modes that no diffusion model takes part in."""


def open_for(
    diffusion: DiffusionParams, dad: Path | None, device: torch.device, *, model: bool
) -> Renderer:
    """Load what all arms share; without ``model`` only modes without a diffusion model work."""
    return open_renderer(diffusion, dad, device, model=model)


def render_arm(
    rows: pa.Table,
    renderer: Renderer,
    section: RestyleParams,
    size: tuple[int, int],
    *,
    batch: int = 64,
) -> pa.Table:
    """Make an arm's pictures, compressed as the stage restyle compresses its own.

    Args:
        rows: Rows of ``images`` in uid order: source pictures, or in mode ``generate`` the rows of
            `tasks.gap.picking.pick_prompts`.
        renderer: From `open_for`.
        section: The arm.
        size: Height and width of the pictures.
        batch: Pictures a pass; changes a result by floating-point noise only.

    Returns:
        A conforming ``restyled`` table, one row a row.

    Raises:
        PedAlignError: The arm cannot be made, such as a strength that runs no step.
    """
    generated = section.mode == "generate"
    columns = {name: rows[name].to_pylist() for name in rows.column_names}
    # A caption read off the picture counts, so pictures of no caption are made all the same.
    prompts = [next((t for t in texts if t.strip()), "") for texts in columns["captions"]]
    seeds = [row_seed(uid, section) for uid in columns["uid"]]
    arm = renderer.arm(section)
    pixels = None if generated else to_array_batch(columns["image"], size)
    made = arm.render(pixels, prompts, seeds, batch=batch)
    count, suffix = len(prompts), "g00" if generated else "r0"
    columns |= {name: [value] * count for name, value in arm.lineage().items()}
    columns |= {
        "uid": [f"{uid}.{suffix}" for uid in columns["uid"]],
        "parent_uid": columns["uid"],
        "image": [encode_jpeg(picture, section.quality) for picture in made],
        "width": [size[1]] * count,
        "height": [size[0]] * count,
        "captions": [[prompt] for prompt in prompts] if generated else columns["captions"],
        "prompt": prompts,
        "eda_op": [None] * count,
        "seed": seeds,
    }
    return conform(pa.table({name: columns[name] for name in RESTYLED.names}, RESTYLED), "restyled")

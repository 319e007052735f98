"""The sample sheet of a DaD training: fixed prompts and seeds, so that a person sees it learn.

The first row is the target as the autoencoder gives it back; below it, the same captions from the
same noise by text to image, with the weights that would be kept at that step. Rows are pictures of
their own in the run folder, so a killed training goes on with the sheet that it had.

Shape legend: B columns, H W pixels.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from models.dad.restyler import Restyler, Sampling
from tasks.shards import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.dad.base import Base
    from tasks.adapt.loop import Loop
    from tasks.pairs import Pairs

PICTURES = 8
"""Columns of the sheet."""
SAMPLING = Sampling(steps=12, guidance=1.0, scheduler="dpm")
"""Without guidance: it pulls away from what the empty prompt gives, which has the look as well."""
_TALL = (160, 256)
"""Pictures lower than the first are shown larger, higher than the second smaller, in pixels."""
_MARGIN = 72


class Samples:
    """A training's sheet.

    Args:
        data: Where prompts come from: the first captions of pictures spread over the split.
        base: Decodes the target's row.
        size: Height and width of the pictures, in pixels.
        folder: Of the rows and the sheet.
    """

    def __init__(self, data: Pairs, base: Base, size: tuple[int, int], folder: Path) -> None:
        self.size, self.folder, self.path = size, folder, folder / "sheet.png"
        _, firsts = np.unique(data.pairs[:, 0], return_index=True)
        rows = data.pairs[firsts[:: max(1, len(firsts) // PICTURES)][:PICTURES]]
        self.prompts = [data.captions[at] for at in rows[:, 1]]
        plain = np.zeros(len(rows), np.bool_)
        posterior, self._words = data.encode(data.read(rows, plain), base.device)
        self._target = base.decode_latents(posterior[:, 0])

    def add(self, loop: Loop) -> None:
        """Make the row of the step that the training has reached, unless it is there."""
        path = self.folder / f"{loop.step:07d}.png"
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with loop.kept() as objective:
                base, controlnet = objective.running()
                # A fresh Restyler each time is cheap: it only puts the same networks together.
                restyler = Restyler(base, controlnet, self.size, SAMPLING)
                made = restyler.generate(self._words, range(len(self.prompts)))
            atomic_write(path, _png(np.concatenate(made, axis=1)))
        atomic_write(self.path, _png(np.asarray(self.draw())))

    def draw(self) -> Image.Image:
        """Draw the sheet of all rows there are."""
        levels = self._target.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        rows = {"target": np.concatenate(levels.cpu().numpy(), axis=1)}
        for path in sorted(self.folder.glob("[0-9]*.png")):
            with Image.open(path) as row:
                rows[f"step {int(path.stem)}"] = np.asarray(row.convert("RGB"))
        height = min(max(self.size[0], _TALL[0]), _TALL[1])
        width = round(height * self.size[1] / self.size[0]) * len(self.prompts)
        sheet = Image.new("RGB", (_MARGIN + width, height * len(rows)), "white")
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        for at, (name, pixels) in enumerate(rows.items()):
            pen.text((6, at * height + height / 2), name, "black", font, anchor="lm")
            row_picture = Image.fromarray(pixels)
            sheet.paste(row_picture.resize((width, height), Image.Resampling.BICUBIC),
                        (_MARGIN, at * height))  # fmt: skip
        return sheet


def _png(pixels: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, format="PNG")
    return sink.getvalue()

"""Stage `report`: one self-contained page, its pictures, and the cards.

In: every folder of the run. Out: ``data/reports/report``. Alone: ``python -m flows.report``.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from prefect import flow

from flows import windows
from flows.stage import run
from tasks.inputs import Inputs, optional
from tasks.overlays import draw_regions
from tasks.params import read_section
from tasks.report import ReportParams, Sources
from tasks.report import report as write
from tasks.report.gap import SwinExtractor
from tasks.runtime import cache_root, device

OUT = Path("data/reports/report")


@flow
def report() -> None:
    """Read what the stages left, and write it down for a person."""
    section = read_section(ReportParams, "report")
    inputs = read_section(Inputs, "inputs")
    sources = Sources.under(
        Path("data"), timings=cache_root() / "timings", target=Path(inputs.adapt).name
    )
    vision = optional(inputs.vision)
    extractor = SwinExtractor.load(vision, device()) if vision else None
    write(section, sources, OUT, draw_regions=draw_regions, extractor=extractor)
    for path in sorted(OUT.glob("*.png")):
        with Image.open(path) as picture:
            picture.thumbnail((1600, 1600))
            windows.picture(
                f"report-{path.stem}", picture, path.stem.replace("-", " ").capitalize()
            )


if __name__ == "__main__":
    run(report, OUT)

"""Stage `report`: one self-contained page, its pictures, and the cards.

In: every folder of the run. Out: ``data/reports/report``. Alone: ``python -m flows.report``.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from prefect import flow

from flows import windows
from flows.stage import run
from tasks.inputs import Inputs
from tasks.params import PARAMS_FILE, read_section, read_yaml
from tasks.report import ReportParams, Run, Sources
from tasks.report import report as write
from tasks.runtime import cache_root

OUT = Path("data/reports/report")


def evaluated(checkpoint: str, images: str, **how: object) -> Run:
    """Say what an entry of ``evaluate.runs`` evaluates; its own stage has checked it."""
    return Run(Path(checkpoint), images, how)


@flow
def report() -> None:
    """Read what the stages left, and write it down for a person."""
    section = read_section(ReportParams, "report")
    inputs = read_section(Inputs, "inputs")
    params = read_yaml(PARAMS_FILE)
    sources = Sources.under(
        Path("data"),
        timings=cache_root() / "timings",
        target=Path(inputs.adapt).name,
        runs={name: evaluated(**entry) for name, entry in params["evaluate"]["runs"].items()},
        finetuned=tuple(params["finetune"]["datasets"]),
        described=tuple(params["describe"]["datasets"]),
        reidentified=tuple(params["reid"]["datasets"]),
    )
    write(section, sources, OUT)
    for path in sorted(OUT.glob("*.png")):
        with Image.open(path) as picture:
            picture.thumbnail((1600, 1600))
            windows.picture(
                f"report-{path.stem}", picture, path.stem.replace("-", " ").capitalize()
            )


if __name__ == "__main__":
    run(report, OUT)

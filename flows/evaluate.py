"""Stage `evaluate@RUN`: retrieval on a test split, before or after fine-tuning.

In: the checkpoint and the shards that ``evaluate.runs.RUN`` names. Out:
``data/reports/evaluate/RUN``: metrics.json, cmc.csv, queries.parquet, queries.csv, protocol.json.
On a known benchmark the published figures are shown beside the run's own. Alone:
``python -m flows.evaluate RUN``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow

from flows import windows
from flows.stage import run
from tasks.evaluate.run import EvaluationRun
from tasks.evaluate.run import evaluate as measure
from tasks.params import read_section
from tasks.runtime import device, runtime

OUT = Path("data/reports/evaluate")


@flow
def evaluate(name: str) -> None:
    """Rank every caption of the test split against its gallery, and say how well."""
    section = read_section(EvaluationRun, f"evaluate.runs.{name}")
    found = measure(
        Path(section.images),
        Path(section.checkpoint),
        section.protocol,
        device(),
        cleaning=section.cleaning,
        batch=runtime().batch_size,
        memory=runtime().memory_mb << 20,
    )
    found.save(OUT / name)
    names = ("R1", "R5", "R10", "mAP", "mINP")
    titles = {"itc": "ITC alone", "matching": "matching alone", "chance": "chance"}
    rankings = [("re-ranked", found.metrics)] if "matching" in found.metrics else []
    rankings += [(said, found.metrics[n]) for n, said in titles.items() if n in found.metrics]
    rows = [
        {"ranking": title, **{k: round(values[k], 2) for k in names if k in values}}
        for title, values in rankings
    ]
    windows.table(f"eval-{name}", rows, f"{name}: percent over {found.queries.num_rows} queries")
    windows.standing(name, OUT / name)
    windows.rank_lists(name, OUT / name, Path(section.images))


if __name__ == "__main__":
    run(evaluate, OUT / sys.argv[1], name=sys.argv[1])

"""Experiments: arms of a profile, over seeds."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


def ablate(
    file: Annotated[Path, typer.Argument(help="The experiment, experiments/evidence.yaml say")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what is shared and what it costs")
    ] = False,
    tables: Annotated[
        bool, typer.Option("--tables", help="Only write the tables of what is finished, into --out")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables, figures and the plan")
    ] = None,
    arms: Annotated[
        list[str] | None, typer.Option("--arm", help="Only this arm; may be given again")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Only so many seeds of each arm", min=1)] = None,
    jobs: Annotated[int, typer.Option(help="Runs at once, a core each", min=1)] = 2,
    nice: Annotated[int, typer.Option(help="Politeness of the processes", min=0, max=19)] = 5,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Let DVC look at finished data again")
    ] = False,
    records: Annotated[
        Path | None,
        typer.Option(help="Take finished runs from this ablation-records.tar.xz", exists=True),
    ] = None,
) -> None:
    """Compute an experiment: every arm, with every seed, sharing what arms have in common.

    Killed at any moment, the same command goes on. docs/ablation.md says how a file is written.
    Exits with 1 if a run failed; the others are computed all the same.
    """
    from flows.ablate import ablate as compute

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("flows.ablate").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = compute(
        file,
        plan=plan,
        tables=tables,
        out=out,
        arms=arms or (),
        seeds=seeds,
        jobs=jobs,
        nice=nice,
        refresh=refresh,
        records=records,
    )
    if code:
        raise typer.Exit(code)

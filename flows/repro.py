"""``python -m flows.repro [targets]``: a whole rebuild as one page in the Prefect UI.

Starts a Prefect server unless one is up, opens one parent flow run and runs ``dvc repro`` below
it, so that every stage is a child of that run; at the end it prints what each stage cost and where
to look. The server that it started ends with it; ``make ui`` keeps one up.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from prefect import flow, tags
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console
from rich.table import Table

from flows import windows
from flows.stage import GROUP_VARIABLE, PARENT_VARIABLE, find_server
from tasks.runtime import cache_root, runtime

SKIPPED = ("didn't change, skipping", "is cached - skipping run")
REPORT = Path("data/reports/report/index.html")
console = Console()


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Yield the API of a running Prefect server, started for the while if none is up."""
    if url := find_server():
        yield url
        return
    port = runtime().port
    environment = os.environ | {"PREFECT_SERVER_API_PORT": str(port), "DO_NOT_TRACK": "1"}
    log_folder = cache_root() / "logs"
    log_folder.mkdir(parents=True, exist_ok=True)
    with (log_folder / "prefect-server.log").open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"],
            env=environment,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + 60
            while not (url := find_server()):
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the Prefect server did not start; see {sink.name}")
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@flow(name="rebuild")
def rebuild(targets: list[str]) -> int:
    """Run ``dvc repro`` as the parent of its stages' runs.

    Args:
        targets: DVC's targets and options; empty rebuilds everything.

    Returns:
        DVC's exit code.
    """
    # Stages call `python` by name; it has to be this one, also where no environment is activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {PARENT_VARIABLE: str(flow_run.id or ""), "PATH": path}
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", *targets],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    skipped = []
    for line in process.stdout or ():
        sys.stdout.write(line)
        if any(mark in line for mark in SKIPPED):
            skipped.append(line.strip())
    windows.table("skipped-stages", [{"stage": s} for s in skipped], "Stages that did not run")
    return process.wait()


def main(targets: list[str]) -> None:
    """Rebuild, then say what it cost and where to look."""
    # Without a handler a SIGTERM would leave the server running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.time()
    group = f"{time.strftime('%Y%m%d-%H%M%S')}"
    os.environ[GROUP_VARIABLE] = group
    with server() as url, temporary_settings({PREFECT_API_URL: url}), tags(f"rebuild:{group}"):
        os.environ["PREFECT_API_URL"] = url
        code = rebuild.with_options(flow_run_name=f"rebuild {group}")(targets)
    console.print(cost_table(started))
    if code:
        console.print("[red]The rebuild stopped.[/red] The stage that failed says why above.")
        sys.exit(code)
    console.print("Metrics:  dvc metrics show")
    console.print(f"Pictures: {REPORT}")
    console.print('Search:   pedalign index && pedalign search "a woman in a red jacket"')


def cost_table(since: float) -> Table:
    """Lay out time and peak memory of the stages, those of an earlier rebuild marked."""
    table = Table(title="What each stage cost")
    for column, justify in (("stage", "left"), ("seconds", "right"), ("peak MB", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    records = [json.loads(p.read_bytes()) for p in (cache_root() / "timings").glob("*.json")]
    total = 0.0
    for record in sorted(records, key=lambda r: r["started"]):
        now = record["started"] >= since
        total += record["seconds"] if now else 0.0
        name = record["stage"] if now else f"{record['stage']} (reused)"
        table.add_row(name, f"{record['seconds']:.1f}" if now else "", f"{record['peak_mb']:.0f}")
    table.add_section()
    table.add_row("stages together", f"{total:.1f}", "")
    table.add_row("the rebuild", f"{time.time() - since:.1f}", "")
    return table


if __name__ == "__main__":
    main(sys.argv[1:])

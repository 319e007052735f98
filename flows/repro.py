"""``python -m flows.repro [targets]``: a whole rebuild as one page in the Prefect UI.

Starts a Prefect server unless one is up, opens one parent flow run and runs ``dvc repro`` below
it, so that every stage is a child of that run; at the end it prints what each stage cost and where
to look. Without targets, on a CPU, some stages run beside others (`flows.lanes`). ``python -m
flows.repro exp run -S ...`` does the same for an experiment. The server that it started ends with
it (`flows.servers`), and so does all the rest, also after SIGKILL (`flows.guard`); ``make ui``
keeps one up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, cast
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed
from rich.console import Console
from rich.table import Table

from flows import faults, guard, lanes, liveness, mending, supplies, windows
from flows.servers import shared, shared_server
from flows.stage import GROUP_VARIABLE, PARENT_VARIABLE
from tasks.errors import PedAlignError
from tasks.inputs import NOTHING
from tasks.params import PARAMS_FILE, read_yaml
from tasks.runtime import cache_root

SKIPPED = (
    (re.compile(r"Stage '([^']+)' didn't change, skipping"), "nothing it depends on has changed"),
    (re.compile(r"Stage '([^']+)' is cached - skipping run"), "DVC has this result already"),
)
RUNNING = re.compile(r"Running stage '([^']+)'")
EXPERIMENTS = re.compile(r"Ran experiment\(s\): (.+)")
REPORT = Path("data/reports/report/index.html")
console = Console()
log = logging.getLogger("flows.repro")  # also where it runs as __main__


@dataclass
class Said:
    """What DVC's output tells of a rebuild."""

    stages: dict[str, str] = field(default_factory=dict)
    """Why each stage did not run, in DVC's order; an empty text where it did."""
    experiments: str = ""
    """Names of the experiments that it was."""
    prefix: str = ""
    """What its lines begin with."""
    hear: Callable[[set[str]], None] = lambda _: None
    """Told the stages that are over, whenever there is one more."""

    def listen(self, lines: Iterable[str]) -> None:
        """Read lines, and pass each on to this process's output at once."""
        for line in lines:
            sys.stdout.write(self.prefix + line)
            sys.stdout.flush()
            if found := RUNNING.search(line):
                self.hear(set(self.stages) - {found[1]})
                self.stages[found[1]] = ""
                log.info("%s runs", found[1])
            if found := EXPERIMENTS.match(line):
                self.experiments = found[1].strip()
            for pattern, reason in SKIPPED:
                if found := pattern.search(line):
                    self.stages[found[1]] = reason
                    self.hear(set(self.stages))
                    log.info("%s is skipped: %s", found[1], reason)

    def add(self, later: Said) -> None:
        """Add what a later call of DVC said; a stage that ran before has still run."""
        for stage, reason in later.stages.items():
            if stage not in self.stages or self.stages[stage]:
                self.stages[stage] = reason
        self.experiments = self.experiments or later.experiments

    @property
    def ran(self) -> list[str]:
        """The stages that were started."""
        return [stage for stage, reason in self.stages.items() if not reason]

    @property
    def skipped(self) -> list[dict[str, str]]:
        """A row for each stage that did not run."""
        return [{"stage": s, "why": reason} for s, reason in self.stages.items() if reason]


class Beside:
    """Runs the stages beside a part's main line one by one, each once it can; a context.

    The end of the context waits for the one that runs, and starts no other: the last part, which is
    everything, has the rest.
    """

    def __init__(self, waiting: dict[str, list[str]], environment: dict[str, str]) -> None:
        """Wait to `hear` what is over.

        Args:
            waiting: Stage: those that have to be over first.
            environment: Of DVC.
        """
        self.said = Said()
        self.failed: dict[str, int] = {}
        """DVC's exit code of stages that failed."""
        self._waiting = {stage: set(needs) for stage, needs in waiting.items()}
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._ended = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True, name="beside")

    def hear(self, over: set[str]) -> None:
        """Take note of the stages that are over."""
        with self._news:
            for needs in self._waiting.values():
                needs -= over
            self._news.notify()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._news:
            self._ended = True
            self._news.notify()
            process = self._process
        if kind is None:
            self._thread.join()
        elif process is not None:
            if not issubclass(kind, KeyboardInterrupt):  # which the terminal sends to DVC too
                process.terminate()
            self._thread.join(10)
            process.kill()

    def _work(self) -> None:
        while stage := self._next():
            said = Said(prefix=f"{stage} | ")
            said.listen((self._process and self._process.stdout) or ())
            if self._process and (code := self._process.wait()):
                self.failed[stage] = code
            self.said.add(said)

    def _next(self) -> str | None:
        """Start the next stage that can be, as soon as it can."""

        def ready() -> list[str]:
            return [stage for stage, needs in self._waiting.items() if not needs]

        with self._news:
            self._news.wait_for(lambda: self._ended or not self._waiting or ready())
            if self._ended or self.failed or not self._waiting:
                return None
            stage = ready()[0]
            del self._waiting[stage]
            # The main line goes first where they want the same core.
            polite = ["nice", "-n", "5"] if shutil.which("nice") else []
            self._process = _dvc(["repro", "-s", stage], self._environment, polite)
            return stage


def _dvc(
    arguments: list[str], environment: dict[str, str], before: Iterable[str] = ()
) -> subprocess.Popen[str]:
    # Two of them take turns at the project's lock, also where one has gigabytes to take in.
    return subprocess.Popen(
        [*before, sys.executable, "-m", "dvc", "--wait-for-lock", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


@flow(name="rebuild")
def rebuild(arguments: list[str], parts: list[lanes.Part]) -> State[int]:
    """Run DVC as the parent of its stages' runs.

    Args:
        arguments: Of ``dvc``.
        parts: What runs beside what; the last is ``arguments`` whole.

    Returns:
        The run's last state, with DVC's exit code as data.
    """
    # Stages call `python` by name; it has to be this one, also where no environment is activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {PARENT_VARIABLE: str(flow_run.id or ""), "PATH": path}
    said, code, stopped = Said(), 0, list[str]()
    for part in parts:
        command = ["repro", *part.line] if part.line else arguments
        with Beside(part.beside, environment) as beside:
            line = Said(hear=beside.hear)
            code = _run_line(line, command, environment)
        said.add(line)
        said.add(beside.said)
        stopped = line.ran if code else list(beside.failed)
        code = code or next(iter(beside.failed.values()), 0)
        if code:
            break
    skipped = said.skipped
    if skipped:
        windows.table("skipped-stages", skipped, f"{len(skipped)} stages did not run")
    if said.experiments:
        with get_client(sync_client=True) as client:
            name = f"{flow_run.name} ({said.experiments})"
            client.update_flow_run(UUID(str(flow_run.id)), name=name)
    if code == 0:
        counts = f"{len(said.ran)} stages ran, {len(skipped)} skipped"
        return Completed(message=counts, data=code)
    return Failed(message=what_stopped(code, stopped), data=code)


def _run_line(said: Said, command: list[str], environment: dict[str, str]) -> int:
    process = _dvc(command, environment)
    try:
        said.listen(process.stdout or ())
        return process.wait()
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):  # which the terminal sends to DVC too
            process.terminate()
        _let_end(process)
        raise


def _let_end(process: subprocess.Popen[str]) -> None:
    """Pass on what DVC has left to say, and make sure that it ends; a stage ends with it."""
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        rest, _ = process.communicate(timeout=10)
        sys.stdout.write(rest)
    process.kill()


def what_stopped(code: int, ran: list[str]) -> str:
    """Say in a line what ended a rebuild early.

    Args:
        code: DVC's exit code; negative for a signal, as `subprocess` has it.
        ran: The stages that were started, in order.
    """
    during = f" during {ran[-1]}" if ran else ""
    if code < 0:
        name = signal.Signals(-code).name
        return (
            f"dvc was killed ({name}){during}; its stage ended with it. "
            "The same command goes on from what was finished."
        )
    return f"The rebuild stopped{during}; what stopped it stands above."


def run_rebuild(arguments: list[str], parts: list[lanes.Part], group: str) -> tuple[int, str]:
    """Run the parent's flow and keep its note.

    Args:
        arguments: Of ``dvc``.
        parts: What runs beside what.
        group: The rebuild's name.

    Returns:
        DVC's exit code, and the run's last word.
    """
    with get_client(sync_client=True) as client:
        name = f"rebuild {group}"
        parameters = {"arguments": arguments, "parts": parts}
        run = client.create_flow_run(
            rebuild, parameters=parameters, name=name, tags=[f"rebuild:{group}"]
        )
        code = -1
        try:
            with liveness.noted(run.id, name):
                ended = run_flow(rebuild, flow_run=run, parameters=parameters, return_type="state")
            state = cast("State[int]", ended)
            code = cast("int", state.result(raise_on_failure=False))
        finally:
            if code:  # a stage that ended with DVC could not say so
                liveness.bury_soon()
    return code, state.message or ""


def main(arguments: list[str]) -> None:
    """Rebuild, then say what it cost and where to look.

    Args:
        arguments: Targets and options of ``dvc repro``, or ``exp`` and the rest of its command.
    """
    # Without a handler a SIGTERM would leave the server running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.getLogger("flows").setLevel(logging.INFO)
    started = time.time()
    group = time.strftime("%Y%m%d-%H%M%S")
    os.environ[GROUP_VARIABLE] = group
    command = arguments if arguments[:1] == ["exp"] else ["repro", *arguments]
    try:
        if supplies.wants_everything(command):
            supplies.check()
        for said in (*mending.mend(), *changed_datasets()):
            console.print(f"[yellow]{said}[/yellow]")
        with guard.start(shared().folder), ThreadPoolExecutor(1) as asking:
            # DVC looks for what has changed while the server starts.
            planned = asking.submit(lanes.plan if command == ["repro"] else lanes.whole)
            with shared_server() as url, temporary_settings({PREFECT_API_URL: url}):
                os.environ["PREFECT_API_URL"] = url
                liveness.bury()
                code, message = run_rebuild(command, planned.result(), group)
    except PedAlignError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.stderr.write(f"{faults.INTERRUPTED}\n")
        sys.exit(130)
    console.print(cost_table(started))
    if code:
        console.print(f"[red]{message}[/red]")
        sys.exit(code if code > 0 else 128 - code)
    console.print("Metrics:  dvc metrics show")
    console.print(f"Pictures: {REPORT}")
    console.print('Search:   pedalign index && pedalign search "a woman in a red jacket"')


def changed_datasets() -> list[str]:
    """Look whether raw datasets are as their fingerprints say, by names and sizes.

    DVC watches the fingerprint and not the images, of which there may be a million.

    Returns:
        A paragraph for each that differs; the rebuild goes on with what DVC knows.
    """
    from tasks.ingest.raw import check_fingerprint  # half a second that most starts need not wait

    found = []
    for dataset in read_yaml(PARAMS_FILE).get("ingest", {}).get("datasets", {}).values():
        if dataset["fingerprint"] == NOTHING:
            continue
        try:
            check_fingerprint(Path(dataset["root"]), Path(dataset["fingerprint"]))
        except PedAlignError as error:
            found.append(str(error))
    return found


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

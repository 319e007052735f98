"""Kill rebuilds of one profile, try its faults, write the table; see the package."""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import time
from pathlib import Path

from benchmarks.reliability.bench import Bench
from benchmarks.reliability.faults import FAULTS
from benchmarks.reliability.plan import make_plan
from benchmarks.reliability.project import (
    ROOT,
    Project,
    Reference,
    code_digest,
    make_reference,
)
from benchmarks.reliability.results import (
    FaultOutcome,
    append,
    fault_table,
    kill_table,
    machine,
    read,
    write_section,
)
from benchmarks.reliability.server import free_port, prefect_server
from benchmarks.reliability.trial import Outcome, run_trial

log = logging.getLogger("reliability")
DOCUMENT = ROOT / "docs" / "reliability.md"
ATTEMPTS = 3
"""Of a trial whose moment did not come: a window of milliseconds can be missed."""


def main() -> None:
    """Parse the command line and do what is not done yet."""
    arguments = parse()
    # An end by SIGTERM ends what was started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    trials = make_plan(arguments.profile, arguments.kills, arguments.seed)
    wanted = [t for t in trials if any(part in t.name for part in arguments.only or [""])]
    folder = Path(arguments.out).resolve() / arguments.profile
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    kills_file, faults_file = folder / "results.jsonl", folder / "faults.jsonl"
    bench = Bench(arguments.profile, folder, ports=(0, free_port()))
    with prefect_server(folder / "server") as port:
        bench.ports = (port, bench.ports[1])
        bench.reference = have_reference(bench)
        for trial in wanted:
            done = read(kills_file, Outcome).get(trial.name)
            for _ in range(0 if done and done.reached else ATTEMPTS):
                outcome = run_trial(trial, bench)
                append(kills_file, outcome)
                log.info("%s", summary(outcome))
                keep_failed(bench, outcome.name, sound=outcome.sound or not outcome.reached)
                if outcome.reached:
                    break
        for fault in FAULTS if arguments.faults else ():
            if not any(part in fault.__name__ for part in arguments.only or [""]):
                continue
            if fault.__name__.replace("_", " ") in read(faults_file, FaultOutcome):
                continue
            result = fault(bench)
            append(faults_file, result)
            log.info(
                "%s: %s, %s", result.name, "sound" if result.sound else "NOT SOUND", result.seen
            )
            keep_failed(bench, fault.__name__, sound=result.sound)
    kills = [o for o in read(kills_file, Outcome).values() if o.reached]
    faults = list(read(faults_file, FaultOutcome).values())
    text = f"Measured with {machine()}.\n\n{kill_table(kills, bench.reference)}"
    if faults:
        text += f"\n\n{fault_table(faults)}"
    sys.stdout.write(text + "\n")
    if arguments.write_docs:
        write_section(DOCUMENT, arguments.profile, text)
    sys.exit(any(not o.sound for o in [*kills, *faults]))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--profile", choices=["micro", "tiny"], default="micro")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder for copies, logs and results")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="trials and faults whose names contain one"
    )
    parser.add_argument("--faults", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--write-docs", action="store_true", help=f"write {DOCUMENT.name}")
    return parser.parse_args()


def have_reference(bench: Bench) -> Reference:
    """The undisturbed run, made unless it is there and of the same code."""
    note = bench.folder / "reference.json"
    if note.exists():
        reference = Reference.load(note)
        if reference.code != code_digest():
            log.warning("%s is of other code than the project has now; goes on with that", note)
        return reference
    log.info("the undisturbed run")
    project = Project(bench.project, bench.profile)
    started = time.monotonic()
    reference = make_reference(project, bench.ports[0], bench.logs / "reference.log")
    Project(bench.pristine).copy_from(project.folder)
    reference.save(note)
    log.info("%.0f s, %d files", time.monotonic() - started, len(reference.digests))
    return reference


def summary(outcome: Outcome) -> str:
    """One line on an outcome."""
    if not outcome.reached:
        return f"{outcome.name} {outcome.stage}, {outcome.moment}: not reached, {outcome.note}"
    verdict = "nothing lost" if outcome.sound else "LOST"
    return (
        f"{outcome.name} {outcome.stage}, {outcome.moment}, {outcome.target}: {verdict}; "
        f"{outcome.entries} entries, {len(outcome.recomputed)} computed again, "
        f"checkpoint {outcome.checkpoint} resumed {outcome.resumed}, "
        f"orphans {outcome.orphans_ended} s, rerun {outcome.rerun_code} in "
        f"{outcome.rerun_seconds} s, {len(outcome.differing)} files differ"
    )


def keep_failed(bench: Bench, name: str, *, sound: bool) -> None:
    """Put the project of a trial that went wrong aside, to be looked at."""
    folder = bench.folder / "failed" / name
    if not sound and bench.project.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(exist_ok=True)
        bench.project.rename(folder)


if __name__ == "__main__":
    main()

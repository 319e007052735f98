"""Two rebuilds, or two runs of one stage, at once."""

from __future__ import annotations

from benchmarks.reliability.bench import Bench
from benchmarks.reliability.case import SHARDS, Case
from benchmarks.reliability.results import FaultOutcome


def two_rebuilds_at_once(bench: Bench) -> FaultOutcome:
    """Two ``dvc repro`` are started in the same moment."""
    case = Case(bench, "two rebuilds at once")
    case.forget(SHARDS)
    return _at_once(
        case, ("dvc", "repro"), "two `dvc repro` in the same moment, `restyle` to be run"
    )


def two_stages_at_once(bench: Bench) -> FaultOutcome:
    """A stage is started twice in the same moment, without DVC."""
    case = Case(bench, "two stages at once")
    case.forget(SHARDS)
    return _at_once(
        case, ("flows.restyle",), "two `python -m flows.restyle` in the same moment, without DVC"
    )


def _at_once(case: Case, command: tuple[str, ...], how: str) -> FaultOutcome:
    first, second = case.together(command, command)
    again = case.run()
    refused = [said for said in (first, second) if said.code]
    pattern = "another process is writing|is being blocked by|busy|Unable to acquire lock"
    seen = refused[0].paragraph(pattern) if refused else "the second waited"
    return case.finish(
        how=how,
        seen=f"exit codes {first.code} and {second.code}: {seen}",
        said=refused[0] if refused else first,
        remedy="`dvc repro`",
        sound=len(refused) < 2
        and again.code == 0
        and not any(said.traceback for said in (first, second)),
    )

"""``python -m flows.ablate experiments/evidence.yaml``: every arm of an experiment, over seeds.

The same as ``pedalign ablate``. First the data of each variant, by the real DAG: ``dvc repro`` in a
project of its own below ``.cache/ablate``. Then the runs, each in a process of its own
(`tasks.ablate.runs`), ``--jobs`` at once, seed by seed so that arms stay level. Then the tables.
What is finished is taken, so the same command goes on after a kill, and a run that fails stops
only itself. ``--plan`` says what is shared and what it costs, and runs nothing.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flows import guard, servers
from tasks.ablate.experiment import read_experiment
from tasks.ablate.graph import DVC_FILE, Graph
from tasks.ablate.plan import ArmPlan, Run, make_plan, table
from tasks.ablate.workspaces import RESULT, Workspace
from tasks.errors import PedAlignError
from tasks.locks import output_lock
from tasks.params import read_yaml
from tasks.provenance import ROOT
from tasks.runtime import cache_root
from tasks.shards import atomic_write

log = logging.getLogger("flows.ablate")  # also where it runs as __main__

PLAN_FILE, RECORDS_FILE = "ablation-plan.md", "ablation-records.tar.xz"
_QUIET = {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1", "TQDM_MININTERVAL": "30"}


class Ablation:
    """An experiment and its folder."""

    def __init__(
        self,
        file: Path,
        *,
        arms: Sequence[str] = (),
        seeds: int | None = None,
        jobs: int = 2,
        nice: int = 5,
        refresh: bool = False,
        records: Path | None = None,
    ) -> None:
        """Read the experiment and see what is finished.

        Args:
            file: The experiment's.
            arms: Those that are computed now; all unless some are named.
            seeds: How many of each arm are computed now.
            jobs: Runs at once.
            nice: Politeness of the processes, as of ``nice -n``.
            refresh: Whether DVC looks at finished data again: code may have changed.
            records: Finished runs of another machine, as `tell` packs them; None for none.

        Raises:
            PedAlignError: The experiment is not one, or an arm is unknown.
        """
        self.experiment = read_experiment(file)
        self.workspace = Workspace((cache_root() / "ablate").resolve())
        planned = make_plan(self.experiment)
        if records is not None:
            from tasks.ablate.archive import unpack  # pyarrow, which a plan does without

            folder = self.workspace.root / "records" / self.experiment.name
            taken = unpack(records, folder, {run.result for run in planned.runs})
            log.info("%d runs taken from %s", len(taken), records)
        self.plan = self.workspace.look(planned)
        self._arms = list(arms) or list(self.experiment.arms)
        self._seeds, self._jobs, self._nice, self._refresh = seeds, jobs, nice, refresh
        self._commit = commit()
        if unknown := sorted(set(arms) - set(self.experiment.arms)):
            raise PedAlignError(
                f"{file} has no arm {', '.join(unknown)}",
                f"the arms are: {', '.join(self.experiment.arms)}",
                "name some of them",
            )

    def wanted(self) -> list[Run]:
        """The runs that are asked for now and not finished, in order."""
        return [
            run
            for run in self.plan.runs
            if run.arm in self._arms
            and (self._seeds is None or run.seed < self._seeds)
            and (self._refresh or run.result not in self.plan.done)
        ]

    # -------------------------------------------------------------- computing

    def compute(self) -> list[str]:
        """Compute what is wanted and not finished.

        Returns:
            What failed, a line each.
        """
        waiting, failed = self.wanted(), list[str]()
        self._check(waiting)
        for folder in self.workspace.forget(self.plan):
            log.info("%s was of another plan; dropped", folder)
        for variant, arms in self.plan.variants().items():
            of_it = [each for each in arms if any(run.arm == each.arm.name for run in waiting)]
            if not of_it or (self.workspace.finished(variant) is not None and not self._refresh):
                continue
            if fault := self._make_data(of_it[0]):
                names = {each.arm.name for each in of_it}
                failed.append(f"data of {', '.join(sorted(names))}: {fault}")
                waiting = [run for run in waiting if run.arm not in names]
        for each in {run.arm: self.plan.arms[run.arm] for run in waiting}.values():
            self.workspace.refresh(each)
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                failed += [fault for fault in pool.map(self._do, waiting) if fault]
            except BaseException:
                guard.end_children()  # the pool would wait for them
                raise
        if fault := self._measure_gap():
            failed.append(fault)
        return failed

    def _check(self, runs: Sequence[Run]) -> None:
        """Look at the sections of each arm's trainings, before hours go into its data.

        Raises:
            PedAlignError: One is not legal.
        """
        orders = {run.arm: str(self._order(run)) for run in runs}
        if not orders:
            return
        done = subprocess.run(
            [sys.executable, "-m", "tasks.ablate.runs", "--check", *orders.values()],
            env=_environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise PedAlignError(
                f"{self.experiment.path}: {done.stderr.strip()}",
                "an arm's parameters are as legal as a profile's",
                "correct the arm, or the profile",
            )

    def _make_data(self, each: ArmPlan) -> str:
        """Have a variant's data made by DVC; give what went wrong, or nothing."""
        log.info("data of %s: %s", each.arm.name, ", ".join(each.stages))
        began = time.time()
        fault, used = self._rebuild(self.workspace.prepare(each), each.targets)
        if fault:
            return fault
        self.workspace.finish(each, self._stage_seconds(began, used), self._commit)
        self.workspace.look(self.plan)
        return ""

    def _measure_gap(self) -> str:
        """Have DVC measure the gap of the arm that the experiment names, once its data is there.

        Returns:
            What went wrong, or nothing.
        """
        if self.experiment.gap is None:
            return ""
        each, identity = self._gap_of(self.experiment.gap)
        ready = self.workspace.finished(each.variant) is not None
        if not ready or self.workspace.gap(each, identity) is not None:
            return ""
        log.info("gap of %s", each.arm.name)
        self.workspace.refresh(each)
        fault, used = self._rebuild(
            # Alone: what it reads is finished, whatever has become of the code since.
            self.workspace.project(each.variant),
            ("--single-item", "gap"),
        )
        if fault:
            return f"gap of {each.arm.name}: {fault}"
        self.workspace.finish_gap(each, identity, used, self._commit)
        return ""

    def _gap_of(self, name: str) -> tuple[ArmPlan, str]:
        """An arm, and what its stage `gap` depends on."""
        each = self.plan.arms[name]
        return each, Graph(each.arm.params, read_yaml(ROOT / DVC_FILE)).identity("gap")

    def _rebuild(self, folder: Path, targets: Sequence[str]) -> tuple[str, float]:
        """Let DVC run stages of a project; give what went wrong, or nothing, and CPU seconds."""
        sink_path = self.workspace.log(f"data-{folder.name}")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with sink_path.open("ab") as sink:
            code = subprocess.run(
                self._polite([sys.executable, "-m", "flows.repro", *targets]),
                cwd=folder,
                env=_environment(),
                stdout=sink,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return (f"dvc stopped with {code}; see {sink_path}" if code else ""), used

    def _stage_seconds(self, since: float, used: float) -> dict[str, float]:
        """Part the CPU time of a rebuild among the stages that ran, by their wall time."""
        notes = (self.workspace.root / "store" / "timings").glob("*.json")
        told = [json.loads(path.read_bytes()) for path in notes]
        ran = {each["stage"]: each["seconds"] for each in told if each["started"] >= since}
        whole = sum(ran.values())
        return {stage: used * seconds / whole for stage, seconds in ran.items()} if whole else {}

    def _order(self, run: Run) -> Path:
        """Write down what a process is to do."""
        order = {
            "params": self.plan.arms[run.arm].arm.seeded(run.seed, self.experiment.finetune),
            "finetune": self.experiment.finetune,
            "direct": self.experiment.direct,
            "tuned": self.experiment.tuned,
            "root": str(self.workspace.root),
            "commit": commit(),  # of the code as it is when the run starts
        }
        path = self.workspace.root / "orders" / f"{self.experiment.name}-{run.arm}-{run.seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(order).encode())
        return path

    def _do(self, run: Run) -> str:
        """Do a run in a process of its own; give what went wrong, or nothing."""
        order_file = self._order(run)
        sink_path = self.workspace.log(order_file.stem)
        with sink_path.open("ab") as sink:
            done = subprocess.run(
                # -P: the checkout's code, and not the copy in the project.
                self._polite([sys.executable, "-P", "-m", "tasks.ablate.runs", str(order_file)]),
                cwd=self.workspace.project(self.plan.arms[run.arm].variant),
                env=_environment(PYTHONPATH=str(ROOT)),
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                check=False,
            )
        if done.returncode:
            log.error("%s, seed %d failed (%d)", run.arm, run.seed, done.returncode)
            return f"{run.arm}, seed {run.seed}: ended with {done.returncode}; see {sink_path}"
        record = self.workspace.keep(self.experiment.name, run, Path(done.stdout.splitlines()[-1]))
        told = json.loads((record / RESULT).read_bytes())
        self.plan.done[run.result] = told
        scores = [f"{what} {told[what]['R1']:.1f}" for what in ("direct", "tuned") if told[what]]
        minutes = sum(told["core_seconds"].values()) / 60
        log.info(
            "%s, seed %d: R1 %s; %.1f core-minutes", run.arm, run.seed, ", ".join(scores), minutes
        )
        return ""

    def _polite(self, command: list[str]) -> list[str]:
        return ["nice", "-n", str(self._nice), *command] if shutil.which("nice") else command

    # -------------------------------------------------------------- telling

    def plan_text(self) -> str:
        """The compute plan as Markdown."""
        experiment = self.experiment
        lines = [
            f"# Compute plan of {experiment.path.as_posix()}",
            "",
            f"`pedalign ablate {experiment.path.as_posix()} --plan`, at {self._commit}.",
            f"Parameters: `{experiment.profile.as_posix()}` with each arm's changes.",
            "A core-minute is a minute of one core. Runs that are not finished count as the mean",
            "of their arm, or as the file's `calibration` says.",
            "",
            *table(self.plan),
            *self._power(),
        ]
        return "\n".join(lines) + "\n"

    def _power(self) -> list[str]:
        """Say how small a difference the stated contrasts would find, as far as one may assume."""
        assumed, contrasts = self.experiment.assumed, self.experiment.contrasts
        if assumed is None or not contrasts:
            return []
        from tasks.ablate.statistics import Components, planned  # scipy, which is slow to load

        seeds = min(len(self.experiment.arms[each.better].seeds) for each in contrasts)
        lines = [
            "",
            "## What it can find",
            "",
            f"The difference of fine-tuned R@1 that {len(contrasts)} contrasts, Holm-corrected,",
            f"find with 80 % power from {assumed.people:,} test people. Assumed are standard",
            f"deviations of {assumed.person:g} points between people, {assumed.rest:g} of a person",
            "with a seed.",
            "",
            f"| points between seeds | {seeds} seeds | {2 * seeds} seeds |",
            "|---|---|---|",
        ]
        for seed in (assumed.seed / 2, assumed.seed, assumed.seed * 1.5):
            parts = Components(seed, assumed.person, assumed.rest)
            found = [planned(parts, assumed.people, n, len(contrasts)) for n in (seeds, 2 * seeds)]
            lines.append(f"| {seed:g} | " + " | ".join(f"{each:.1f}" for each in found) + " |")
        lines += [
            "",
            f"The contrasts have {seeds} seeds. None is added after a look at results.",
        ]
        return lines

    def records(self) -> list[Path]:
        """Folders of the finished runs."""
        name = self.experiment.name
        done = [run for run in self.plan.runs if run.result in self.plan.done]
        return [self.workspace.record(name, run) for run in done]

    def gallery(self) -> Path | None:
        """Shards of the test pictures, where some variant has made them."""
        images = self.experiment.base["evaluate"]["runs"][self.experiment.direct]["images"]
        for variant in self.plan.variants():
            if self.workspace.finished(variant) is not None:
                return self.workspace.project(variant) / str(images)
        return None

    def drawn(self) -> bool:
        """Whether the test people are this program's drawings, pictures at hand or not."""
        images = Path(self.experiment.base["evaluate"]["runs"][self.experiment.direct]["images"])
        dataset = self.experiment.base["ingest"]["datasets"].get(images.name, {})
        return dataset.get("world") is not None

    def tell(self, out: Path) -> None:
        """Write tables, figures and the page of the finished runs."""
        # Matplotlib, which the plan does without.
        from tasks.ablate.archive import pack
        from tasks.ablate.pages import write
        from tasks.report.sources import Sources

        file, shared, domains = self.experiment.path.as_posix(), sum(self.plan.taken.values()), None
        if self.experiment.gap is not None:
            each, identity = self._gap_of(self.experiment.gap)
            if (seconds := self.workspace.gap(each, identity)) is not None:
                target = Path(each.arm.params["inputs"]["adapt"]).name
                data = self.workspace.project(each.variant) / "data"
                domains = each.arm.name, Sources.under(data, target=target)
                shared += seconds
        write(
            self.experiment,
            self.records(),
            out,
            command=f"pedalign ablate {file}",
            gallery=self.gallery(),
            drawn=self.drawn(),
            domains=domains,
            shared_seconds=shared,
        )
        shown = [arm for each in self.experiment.contrasts[:1] for arm in (each.better, each.plain)]
        pack(self.records(), out / RECORDS_FILE, whole={(arm, 0) for arm in shown})


def _environment(**more: str) -> dict[str, str]:
    """Of the processes: neither of this one's DVC nor of its Prefect run."""
    dropped = {"DVC_ROOT", "DVC_STAGE", "PEDALIGN_PARENT_RUN", "PEDALIGN_REBUILD", "PYTHONPATH"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | _QUIET | {"OMP_NUM_THREADS": "1"} | more


def commit() -> str:
    """The checkout's commit, marked where files differ from it."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude", "*"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return told.stdout.strip() or "unknown"


def ablate(
    file: Path,
    *,
    plan: bool = False,
    tables: bool = False,
    out: Path | None = None,
    arms: Sequence[str] = (),
    seeds: int | None = None,
    jobs: int = 2,
    nice: int = 5,
    refresh: bool = False,
    records: Path | None = None,
) -> int:
    """Compute an experiment, or say what it would compute; see `Ablation`.

    Args:
        file: The experiment's.
        plan: Only print the plan, and write it into ``out`` where that is given.
        tables: Only write the tables of what is finished.
        out: Where tables go; nowhere unless it is given.
        arms: See `Ablation`.
        seeds: See `Ablation`.
        jobs: See `Ablation`.
        nice: See `Ablation`.
        refresh: See `Ablation`.
        records: See `Ablation`.

    Returns:
        An exit code: 1 if something failed.

    Raises:
        PedAlignError: The experiment is not one, or another process computes it.
    """
    found = Ablation(
        file, arms=arms, seeds=seeds, jobs=jobs, nice=nice, refresh=refresh, records=records
    )
    if plan:
        text = found.plan_text()
        sys.stdout.write(text)
        if out is not None:
            atomic_write(out / PLAN_FILE, text.encode())
        return 0
    failed: list[str] = []
    if not tables:
        server = servers.shared().folder  # of the rebuilds
        with guard.start(server), output_lock(found.workspace.root, found.workspace.root):
            failed = found.compute()
    if out is not None:
        found.tell(out)
    for line in failed:
        log.error("%s", line)
    return int(bool(failed))


if __name__ == "__main__":
    from flows.cli import main  # which imports this module's caller

    main(["ablate", *sys.argv[1:]])

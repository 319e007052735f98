"""The folders of an experiment: a project for each variant of the data, and one store for all.

Below ``.cache/ablate``, which neither git nor DVC tracks::

    projects/<variant>/   a copy of the code with params.yaml, where DVC makes the data
    dvc/                  their DVC cache, with its record of finished stages
    store/                their ``.cache``: shards, running checkpoints, trainings of `adapt`
    runs/<key>/           a pretraining, a fine-tuning or what a run measured, by what it is made of
    records/<experiment>/<arm>/seed-<n>/   the finished runs of an experiment
    logs/                 what each process said

A project whose data is finished says so in ``finished.json`` and is not looked at again: results
of a later commit stand beside those of an earlier one only where someone asks for that
(``--refresh``). The folder needs nothing outside itself but the real datasets that the profile
names, so it may be kept, copied and gone on with.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.ablate.plan import ArmPlan, Plan, Run
from tasks.inputs import NOTHING
from tasks.provenance import ROOT, folder_digest
from tasks.runtime import RUNTIME_FILE
from tasks.shards import atomic_write
from tasks.store import link_or_copy

CODE = ("flows", "tasks", "models")
FILES = ("dvc.yaml", ".dvcignore", NOTHING)
WEIGHTS = "models/tiny"
FINISHED = "finished.json"
GAP = "gap.json"
RESULT = "result.json"


@dataclass(frozen=True)
class Workspace:
    """``.cache/ablate``."""

    root: Path
    """Absolute."""

    def project(self, variant: str) -> Path:
        """The project folder of a variant of the data."""
        return self.root / "projects" / variant[:16]

    def record(self, experiment: str, run: Run) -> Path:
        """Folder of a finished run."""
        return self.root / "records" / experiment / run.arm / f"seed-{run.seed}"

    def log(self, name: str) -> Path:
        """File for what a process says."""
        folder = self.root / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.log"

    # -------------------------------------------------------------- what is there

    def finished(self, variant: str) -> Mapping[str, float] | None:
        """CPU seconds by identity of the stages that a finished variant ran, or None."""
        path = self.project(variant) / FINISHED
        if not path.exists():
            return None
        told = json.loads(path.read_bytes())
        return dict(told["seconds"]) if told["variant"] == variant else None

    def look(self, plan: Plan) -> Plan:
        """Note in a plan what is finished."""
        for run in plan.runs:
            found = self.record(plan.experiment.name, run) / RESULT
            if found.exists() and (told := json.loads(found.read_bytes()))["run"] == run.result:
                plan.done[run.result] = told
        taken: dict[str, float] = {}
        for variant, arms in plan.variants().items():
            if (seconds := self.finished(variant)) is not None:
                taken |= {of: taken.get(of, 0.0) for of in arms[0].stages.values()}
                taken |= {of: each for of, each in seconds.items() if each}
        plan.taken = taken
        return plan

    # -------------------------------------------------------------- what is made

    def prepare(self, each: ArmPlan) -> Path:
        """Make a variant's project, or bring its code and parameters up to date.

        Returns:
            The folder, in which ``dvc repro`` can be called.
        """
        folder = self.project(each.variant)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (FINISHED, GAP):
            (folder / name).unlink(missing_ok=True)
        for name in CODE:
            # Outputs below data stay, and so does DVC's note of what made them.
            shutil.rmtree(folder / name, ignore_errors=True)
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        (folder / "data").mkdir(exist_ok=True)
        for name in FILES:
            shutil.copyfile(ROOT / name, folder / name)
        self._set_up(folder, each.arm.params)
        store = self.root / "store"
        store.mkdir(exist_ok=True)
        if not (folder / ".cache").exists():
            (folder / ".cache").symlink_to(os.path.relpath(store, folder))
        if not (folder / ".dvc").exists():
            self._dvc(folder, "init", "-q", "--no-scm")
            for key, value in (
                ("core.analytics", "false"),
                ("core.check_update", "false"),
                ("cache.dir", os.path.relpath(self.root / "dvc", folder)),
                ("cache.type", "reflink,hardlink,symlink,copy"),
            ):
                self._dvc(folder, "config", "-q", key, value)
        return folder

    def refresh(self, each: ArmPlan) -> None:
        """Bring what runs read of a finished project up to date: weights, parameters, links.

        Its code stays that of its data, which is not looked at again.
        """
        folder = self.project(each.variant)
        if folder_digest(ROOT / WEIGHTS) != folder_digest(folder / WEIGHTS):
            shutil.rmtree(folder / WEIGHTS, ignore_errors=True)
            shutil.copytree(ROOT / WEIGHTS, folder / WEIGHTS)
        self._set_up(folder, each.arm.params)

    def _set_up(self, folder: Path, params: Mapping[str, Any]) -> None:
        """Write the parameters, this machine's runtime.yaml if there is one, and links."""
        if Path(RUNTIME_FILE).exists():
            shutil.copyfile(RUNTIME_FILE, folder / RUNTIME_FILE)
        else:
            (folder / RUNTIME_FILE).unlink(missing_ok=True)
        with (folder / "params.yaml").open("w", encoding="utf-8") as sink:
            YAML().dump(json.loads(json.dumps(params)), sink)
        self._link_datasets(folder, params)

    @staticmethod
    def _dvc(folder: Path, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True)

    @staticmethod
    def _link_datasets(folder: Path, params: Mapping[str, Any]) -> None:
        """Link what the profile reads of the checkout's data: real datasets, weights."""
        wanted = [Path("data/weights"), Path(params["inputs"]["init"])]
        for dataset in params["ingest"]["datasets"].values():
            if dataset.get("world") is None:  # a world is drawn, into a folder of the project's own
                wanted += [Path(dataset[key]) for key in ("root", "annotation", "fingerprint")]
        for path in wanted:
            place = folder / path
            inside = not path.is_absolute() and path.as_posix().startswith("data/")
            if inside and place.is_symlink() and place.resolve() != path.resolve():
                place.unlink()  # of another checkout or machine, or of a dataset that has moved
            if inside and path.exists() and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path.resolve())

    def finish(self, each: ArmPlan, seconds: Mapping[str, float], commit: str) -> None:
        """Note that a variant's data is there.

        Args:
            each: An arm of the variant.
            seconds: CPU seconds of the stages that were run for it, by name.
            commit: Of the code that made it.
        """
        told = {
            "variant": each.variant,
            "commit": commit,
            "seconds": {of: round(seconds.get(name, 0.0), 1) for name, of in each.stages.items()},
        }
        path = self.project(each.variant) / FINISHED
        atomic_write(path, (json.dumps(told, indent=1) + "\n").encode())

    def gap(self, each: ArmPlan, identity: str) -> float | None:
        """CPU seconds that the stage `gap` took in an arm's project; None if it has not run.

        Args:
            each: The arm.
            identity: Of the stage (`tasks.ablate.graph`).
        """
        path = self.project(each.variant) / GAP
        if not path.exists():
            return None
        told = json.loads(path.read_bytes())
        return float(told["seconds"]) if told["identity"] == identity else None

    def finish_gap(self, each: ArmPlan, identity: str, seconds: float, commit: str) -> None:
        """Note that the stage `gap` ran in an arm's project."""
        told = {"identity": identity, "commit": commit, "seconds": round(seconds, 1)}
        path = self.project(each.variant) / GAP
        atomic_write(path, (json.dumps(told, indent=1) + "\n").encode())

    def keep(self, experiment: str, run: Run, measured: Path) -> Path:
        """Put what a run measured among an experiment's records.

        Args:
            experiment: Its name.
            run: The run.
            measured: Folder with result.json and a table for each evaluation.

        Returns:
            The record's folder.
        """
        folder = self.record(experiment, run)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for path in sorted(measured.glob("*.parquet")):
            link_or_copy(path, partial / path.name)
        told = json.loads((measured / RESULT).read_bytes())
        told = {"arm": run.arm, "seed": run.seed, "run": run.result, **told}
        atomic_write(partial / RESULT, (json.dumps(told, indent=1) + "\n").encode())
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
        return folder

    def forget(self, plan: Plan) -> list[Path]:
        """Drop records that are not of this plan's runs; what they were made of stays in ``runs``.

        Returns:
            Those dropped.
        """
        kept = {self.record(plan.experiment.name, run) for run in plan.runs}
        done = {
            self.record(plan.experiment.name, run) for run in plan.runs if run.result in plan.done
        }
        found = sorted((self.root / "records" / plan.experiment.name).glob("*/seed-*"))
        stale = [folder for folder in found if folder not in kept or folder not in done]
        for folder in stale:
            shutil.rmtree(folder)
        return stale

"""What an experiment computes: the stages and trainings of every arm, each counted once.

Two arms share a stage where its identity is the same under both (`tasks.ablate.graph`), and a
pretraining where it also has the same parameters and seed. Nothing is run to find that out, so the
plan is there before the first minute is spent: `table` is docs/results/ablation-plan.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.ablate.experiment import Arm, Experiment
from tasks.ablate.graph import DVC_FILE, Graph, content
from tasks.errors import PedAlignError
from tasks.inputs import NOTHING
from tasks.params import read_yaml
from tasks.provenance import digest

UNTRAINED = ("vision", "text", "init", "model")
"""What counts of section ``pretrain`` where nothing is trained; besides the seed of new parts."""


@dataclass(frozen=True)
class Run:
    """An arm with a seed."""

    arm: str
    seed: int
    pretrain: str
    """Identity of its pretraining."""
    finetune: str
    """Identity of its fine-tuning."""
    result: str
    """Identity of everything that it measures."""


@dataclass(frozen=True)
class ArmPlan:
    """What an arm computes."""

    arm: Arm
    targets: tuple[str, ...]
    """Data stages that its trainings and evaluations read from, as ``dvc repro`` takes them."""
    stages: Mapping[str, str]
    """These and all before them: name to identity."""
    runs: tuple[Run, ...]

    @cached_property
    def variant(self) -> str:
        """Identity of its data; arms of one variant share a project folder."""
        return digest(sorted(self.stages.items()))

    @property
    def trains(self) -> bool:
        """Whether it pretrains at all."""
        return bool(self.arm.params["pretrain"]["init"] != "none")


@dataclass
class Plan:
    """What an experiment computes."""

    experiment: Experiment
    arms: dict[str, ArmPlan]
    done: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Results there are, by the run's identity ``result``."""
    taken: Mapping[str, float] = field(default_factory=dict)
    """CPU seconds of the data stages that are finished, by identity."""

    @property
    def runs(self) -> list[Run]:
        """All runs, seed by seed, so that arms stay level while they are computed."""
        found = [run for each in self.arms.values() for run in each.runs]
        return sorted(found, key=lambda run: run.seed)

    def variants(self) -> dict[str, list[ArmPlan]]:
        """Arms by the data that they have in common."""
        found: dict[str, list[ArmPlan]] = {}
        for each in self.arms.values():
            found.setdefault(each.variant, []).append(each)
        return found


def make_plan(experiment: Experiment, dvc_file: Path = DVC_FILE) -> Plan:
    """Say what every arm computes.

    Raises:
        PedAlignError: A change concerns no stage of its arm, or two arms are the same.
    """
    plan, dag = Plan(experiment, {}), read_yaml(dvc_file)
    same: dict[str, str] = {}
    for name, arm in experiment.arms.items():
        each = _arm_plan(experiment, arm, arm.params, dag)
        whole = each.runs[0].result
        if whole in same:
            raise PedAlignError(
                f"{experiment.path}: arms `{same[whole]}` and `{name}` are the same",
                "an arm is computed once; a table or a curve may show it several times",
                f"take `{name}` out, and add its curves to `{same[whole]}`",
            )
        same[whole] = name
        for key in arm.change:
            less = _without(experiment, arm, key)
            if _arm_plan(experiment, arm, less, dag).runs[0].result == whole:
                raise PedAlignError(
                    f"{experiment.path}: arm `{name}` changes `{key}`, which does nothing there",
                    "a change concerns a stage that the arm's results depend on",
                    f"take `{key}` out of `{name}`",
                )
        plan.arms[name] = each
    return plan


def _without(experiment: Experiment, arm: Arm, key: str) -> dict[str, Any]:
    """An arm's parameters with one of its changes undone."""
    found: dict[str, Any] = json.loads(json.dumps(arm.params))
    value: Any = experiment.base
    place: Any = found
    *parents, last = key.split(".")
    for part in parents:
        value, place = value[part], place[part]
    place[last] = value[last]
    return found


def _arm_plan(
    experiment: Experiment, arm: Arm, params: Mapping[str, Any], dag: Mapping[str, Any]
) -> ArmPlan:
    graph = Graph(params, dag)
    reads = _read_by_pretraining(params)
    used = [params["evaluate"]["runs"][run]["images"] for run in experiment.runs()]
    tuning: Mapping[str, Any] = {}
    if experiment.finetune is not None:
        tuning = params["finetune"]["datasets"][experiment.finetune]
        used.append(tuning["images"])
    makers = dict.fromkeys(graph.maker(path) for path in [*reads, *used])
    targets = tuple(sorted(name for name in makers if name is not None))
    stages = {name: graph.identity(name) for name in graph.before(targets)}

    def source(path: str) -> str:
        maker = graph.maker(path)
        return path if maker is None else f"{path} of {stages[maker]}"

    starts = [
        content(path) if graph.maker(path) is None else source(path)
        for path in (params["inputs"][name] for name in ("vision", "text", "init"))
    ]
    runs = []
    for seed in arm.seeds:
        pretrain = digest(
            _counts(params["pretrain"]), [source(path) for path in reads], starts,
            params["machine"], seed,
        )  # fmt: skip
        finetune = digest(
            _seedless(tuning), [source(path) for path in used[len(experiment.runs()) :]], pretrain
        )
        measured = [
            {**params["evaluate"]["runs"][run], "checkpoint": None} for run in experiment.runs()
        ]
        result = digest(measured, [source(path) for path in used], finetune)
        runs.append(Run(arm.name, seed, pretrain, finetune, result))
    return ArmPlan(arm, targets, stages, tuple(runs))


def _read_by_pretraining(params: Mapping[str, Any]) -> list[str]:
    """Folders that a pretraining reads; none where nothing is trained."""
    if params["pretrain"]["init"] == "none":
        return []
    inputs = params["inputs"]
    told = (inputs["pretrain_images"], inputs["pretrain_annotations"])
    return [path for path in told if path != NOTHING]


def _counts(pretrain: Mapping[str, Any]) -> dict[str, Any]:
    """What of the section decides a pretraining; its seed stands apart."""
    if pretrain["init"] == "none":
        return {name: pretrain[name] for name in UNTRAINED}
    return _seedless(pretrain)


def _seedless(section: Mapping[str, Any]) -> dict[str, Any]:
    if not section:
        return {}
    return {**section, "training": {**section["training"], "seed": None}}


# ------------------------------------------------------------------ what it costs


@dataclass(frozen=True)
class Cost:
    """Core-minutes of an arm, each stage and training counted where it first comes up."""

    stages: float
    """Of its own data stages."""
    run: float
    """A run, pretraining included."""
    left: float
    """All that is still to be computed."""
    spent: float
    """What has been computed."""
    measured: bool
    """Whether ``run`` is the mean of finished runs, and no estimate."""


def costs(plan: Plan) -> dict[str, Cost]:
    """Estimate every arm's cost: as measured where it was, else by the file's calibration.

    Raises:
        PedAlignError: Nothing was measured, and the file has no calibration.
    """
    found, seen = {}, set[str]()
    for name, each in plan.arms.items():
        made = {stage: of for stage, of in each.stages.items() if of not in seen}
        seen |= set(made.values())
        spent = sum(plan.taken.get(of, 0.0) for of in made.values())
        ahead = sum(_stage_seconds(plan, s) for s, of in made.items() if of not in plan.taken)
        seconds = [_seconds(plan.done[run.result]) for run in each.runs if run.result in plan.done]
        run = sum(seconds) / len(seconds) if seconds else _run_seconds(plan, each)
        left = 0.0
        for one in each.runs:
            if one.result not in plan.done:
                again = one.pretrain in seen and each.trains
                left += run - (_calibrated(plan, "pretrain") if again else 0.0)
            seen.add(one.pretrain)
        found[name] = Cost(
            stages=(spent + ahead) / 60,
            run=run / 60,
            left=(left + ahead) / 60,
            spent=(sum(seconds) + spent) / 60,
            measured=bool(seconds),
        )
    return found


def _seconds(result: Mapping[str, Any]) -> float:
    return float(sum(result["core_seconds"].values()))


def _run_seconds(plan: Plan, each: ArmPlan) -> float:
    if each.arm.minutes is not None:
        return 60 * each.arm.minutes
    parts = ["evaluate", *(["finetune"] if plan.experiment.finetune else [])]
    return sum(_calibrated(plan, part) for part in [*parts, *(["pretrain"] if each.trains else [])])


def _calibrated(plan: Plan, part: str) -> float:
    told = plan.experiment.calibration
    if told is None:
        measured = [r["core_seconds"][part] for r in plan.done.values() if r["core_seconds"][part]]
        return sum(measured) / len(measured) if measured else 0.0
    return float(getattr(told, part))


def _stage_seconds(plan: Plan, stage: str) -> float:
    told = plan.experiment.calibration
    return told.stages.get(stage.partition("@")[0], 0.0) if told else 0.0


def table(plan: Plan) -> list[str]:
    """Lay the plan out as Markdown: a row an arm, then what arms have in common."""
    told = costs(plan)
    lines = [
        "| arm | changes | seeds | data stages of its own | taken from other arms "
        "| core-minutes a run | done | core-minutes still to go |",
        "|---|---|---|---|---|---|---|---|",
    ]
    seen = set[str]()
    for name, each in plan.arms.items():
        own = [stage for stage, of in each.stages.items() if of not in seen]
        shared = len(each.stages) - len(own)
        seen |= set(each.stages.values())
        change = "<br>".join(f"`{key}: {_short(value)}`" for key, value in each.arm.change.items())
        done = sum(run.result in plan.done for run in each.runs)
        cost = told[name]
        run = f"{cost.run:.1f}{'' if cost.measured else ' (estimate)'}"
        lines.append(
            f"| {name} | {change or 'the profile as it is'} | {len(each.runs)} "
            f"| {', '.join(own) or 'none'} | {shared or 'none'} | {run} "
            f"| {done} of {len(each.runs)} | {cost.left:.0f} |"
        )
    runs = plan.runs
    finished = sum(run.result in plan.done for run in runs)
    left, spent = (sum(getattr(c, part) for c in told.values()) for part in ("left", "spent"))
    pretrainings = len({r.pretrain for r in runs if plan.arms[r.arm].trains})
    lines += [
        "",
        f"{len(plan.arms)} arms, {len(runs)} runs ({finished} finished), {pretrainings} "
        f"pretrainings, {len({r.finetune for r in runs}) if plan.experiment.finetune else 0} "
        f"fine-tunings; {len(plan.variants())} variants of the data, whose "
        f"{sum(len(arms[0].stages) for arms in plan.variants().values())} stages are {len(seen)} "
        f"different ones. Spent {spent:.0f} core-minutes, still to go {left:.0f} "
        f"({left / 60:.1f} core-hours).",
    ]
    return lines


def _short(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 40 else f"{text[:37]}…"

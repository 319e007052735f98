"""An experiment file: arms as changes of a profile, how many seeds, and what is compared.

``experiments/evidence.yaml`` is one, and docs/ablation.md says how to write another. An arm is
named changes of parameters by dotted key, and nothing else: what it computes, and what it shares
with other arms, follows from the DAG (`tasks.ablate.graph`). A seed is that of pretraining and of
fine-tuning.

What is unusual: a change has to do something. A key that the profile has not, a value that it has
already, a key that no stage of the arm reads and two arms that are the same are all errors, before
anything is computed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.arithmetic import fastest
from tasks.errors import PedAlignError
from tasks.params import Positive, PositiveFloat, check_section, params, read_yaml

EXAMPLE = "experiments/evidence.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,%+_-]*")


@params
class ArmParams:
    """An arm as the file has it."""

    change: dict[str, Any]
    """Dotted key of params.yaml to its value; ``{}`` is the profile as it is."""
    group: str = "main"
    """Rows of a group stand together in tables."""
    seeds: Positive | None = None
    """How many, where it is not the experiment's number."""
    curves: dict[str, float] = Field(default_factory=dict)
    """Curves that it is a point of, and where on the abscissa."""
    note: str = ""
    """A line for tables."""
    minutes: PositiveFloat | None = None
    """Core-minutes of a run for the plan, where the calibration's do not hold."""


@params
class ContrastParams:
    """A contrast as the file has it."""

    better: str
    """The arm that should do better."""
    plain: str
    """The arm it is compared with."""


@params
class Calibration:
    """CPU seconds that the plan counts with until runs have been measured."""

    pretrain: PositiveFloat
    """A pretraining."""
    finetune: PositiveFloat
    """A fine-tuning."""
    evaluate: PositiveFloat
    """All evaluations of a run."""
    stages: dict[str, PositiveFloat]
    """Data stages by word (``restyle``), each where it is computed and not taken."""


@params
class Assumed:
    """What the plan assumes of the difference of two arms, in percentage points of rank-1."""

    people: Positive
    """Test people."""
    seed: PositiveFloat
    """Standard deviation of what a seed adds for everybody."""
    person: PositiveFloat
    """Of what a person adds with every seed."""
    rest: PositiveFloat
    """Of what only a person with a seed has."""


@params
class ExperimentParams:
    """The file."""

    profile: str
    """Parameters that the arms change, a path from the project's folder."""
    note: str
    """A sentence to show above every table."""
    finetune: str | None
    """Entry of ``finetune.datasets``; null: direct transfer only."""
    direct: str
    """Entry of ``evaluate.runs`` whose pictures and protocol measure the pretrained model."""
    tuned: str | None
    """The same for the fine-tuned model; null where nothing is tuned."""
    seeds: Positive
    """How many: 0, 1, …"""
    arms: dict[str, ArmParams]
    """By name, in the order of tables."""
    contrasts: dict[str, ContrastParams]
    """By name, stated before anything is run."""
    calibration: Calibration | None = None
    """For the plan."""
    assumed: Assumed | None = None
    """For the plan: what decides how small a difference would be found."""
    gap: str | None = None
    """Arm whose pictures the stage `gap` sets between source and target, for the pages."""


@dataclass(frozen=True)
class Arm:
    """An arm."""

    name: str
    change: Mapping[str, Any]
    seeds: tuple[int, ...]
    group: str
    curves: Mapping[str, float]
    note: str
    minutes: float | None
    params: Mapping[str, Any]
    """The profile with the changes."""

    def seeded(self, seed: int, finetune: str | None) -> dict[str, Any]:
        """The parameters of a run: the seed is that of both trainings."""
        found = copy.deepcopy(dict(self.params))
        found["pretrain"]["training"]["seed"] = seed
        if finetune is not None:
            found["finetune"]["datasets"][finetune]["training"]["seed"] = seed
        return found


@dataclass(frozen=True)
class Contrast:
    """Two arms that are compared: ``better`` minus ``plain``."""

    name: str
    better: str
    plain: str


@dataclass(frozen=True)
class Experiment:
    """An experiment, checked as far as its own file goes."""

    name: str
    path: Path
    note: str
    profile: Path
    finetune: str | None
    direct: str
    tuned: str | None
    arms: Mapping[str, Arm]
    contrasts: tuple[Contrast, ...]
    calibration: Calibration | None
    assumed: Assumed | None
    gap: str | None
    base: Mapping[str, Any]
    """The profile."""

    def images(self) -> set[str]:
        """Folders of shards that fine-tuning and evaluation read."""
        found = {self.base["evaluate"]["runs"][run]["images"] for run in self.runs()}
        if self.finetune is not None:
            found.add(self.base["finetune"]["datasets"][self.finetune]["images"])
        return found

    def runs(self) -> list[str]:
        """Entries of ``evaluate.runs`` that it uses."""
        return [self.direct, *([self.tuned] if self.tuned else [])]


def read_experiment(path: Path) -> Experiment:
    """Read and check an experiment file and its profile.

    Raises:
        PedAlignError: There is no such file; a key of it is unknown or missing; an arm changes what
            the profile has not, or to what it has already; a contrast names no arm; two arms are
            the same.
    """
    if not path.is_file():
        raise PedAlignError(
            f"{path}: no such file",
            "an experiment is a YAML file of arms, as docs/ablation.md describes it",
            f"name one that is there, {EXAMPLE} say, by its path from the project's folder",
        )
    told = check_section(ExperimentParams, read_yaml(path), "", path, EXAMPLE)
    base = _settled(read_yaml(Path(told.profile)))
    _check_entries(told, base, path)
    arms = {}
    for name, arm in told.arms.items():
        if not _NAME.fullmatch(name):
            raise PedAlignError(
                f"{path}: an arm is called {name!r}",
                "an arm's name is that of a folder too: letters, digits, blanks and . , % + _ -",
                "rename it",
            )
        arms[name] = Arm(
            name=name,
            change=arm.change,
            seeds=tuple(range(arm.seeds or told.seeds)),
            group=arm.group,
            curves=arm.curves,
            note=arm.note,
            minutes=arm.minutes,
            params=_changed(base, arm.change, f"{path}: arm `{name}`", told.profile),
        )
    contrasts = tuple(
        Contrast(name, each.better, each.plain) for name, each in told.contrasts.items()
    )
    for contrast in contrasts:
        _check_contrast(contrast, arms, path)
    if told.gap is not None:
        _check_gap(told.gap, arms, path)
    return Experiment(
        name=path.stem,
        path=path,
        note=told.note,
        profile=Path(told.profile),
        finetune=told.finetune,
        direct=told.direct,
        tuned=told.tuned,
        arms=arms,
        contrasts=contrasts,
        calibration=told.calibration,
        assumed=told.assumed,
        gap=told.gap,
        base=base,
    )


def _settled(value: Any) -> Any:
    """The profile with the arithmetic that ``precision: auto`` is here: other runs elsewhere."""
    if isinstance(value, dict):
        auto = {"precision": fastest()} if value.get("precision") == "auto" else {}
        return {name: _settled(each) for name, each in value.items()} | auto
    return [_settled(each) for each in value] if isinstance(value, list) else value


def _check_entries(told: ExperimentParams, base: Mapping[str, Any], path: Path) -> None:
    if not told.arms:
        raise PedAlignError(f"{path}: no arms", "an experiment has one at least", "add some")
    if (told.finetune is None) != (told.tuned is None):
        raise PedAlignError(
            f"{path}: finetune is {told.finetune} and tuned is {told.tuned}",
            "a fine-tuned model is evaluated, and only such a one",
            "name an entry for both, or null for both",
        )
    wanted = [("evaluate.runs", told.direct)]
    if told.tuned is not None:
        wanted += [("evaluate.runs", told.tuned), ("finetune.datasets", str(told.finetune))]
    for section, entry in wanted:
        word, part = section.split(".")
        known = base.get(word, {}).get(part, {})
        if entry not in known:
            raise PedAlignError(
                f"{path}: {told.profile} has no {section}.{entry}",
                f"the entries there are: {', '.join(known) or 'none'}",
                "name one of them",
            )


def _check_contrast(contrast: Contrast, arms: Mapping[str, Arm], path: Path) -> None:
    for name in (contrast.better, contrast.plain):
        if name not in arms:
            raise PedAlignError(
                f"{path}: contrast `{contrast.name}` names an arm `{name}`, which is unknown",
                f"the arms are: {', '.join(arms)}",
                "correct its spelling, or add the arm",
            )
    if contrast.better == contrast.plain:
        raise PedAlignError(
            f"{path}: contrast `{contrast.name}` compares `{contrast.plain}` with itself",
            "a contrast is between two arms",
            "name another one",
        )
    unequal = set(arms[contrast.better].seeds) ^ set(arms[contrast.plain].seeds)
    if unequal:
        raise PedAlignError(
            f"{path}: contrast `{contrast.name}` is between {len(arms[contrast.better].seeds)} "
            f"and {len(arms[contrast.plain].seeds)} seeds",
            "a contrast is paired by seed",
            "give both arms the same `seeds`",
        )


def _check_gap(name: str, arms: Mapping[str, Arm], path: Path) -> None:
    if name not in arms:
        raise PedAlignError(
            f"{path}: `gap` names an arm `{name}`, which is unknown",
            f"the arms are: {', '.join(arms)}",
            "correct its spelling, or leave `gap` out",
        )
    if arms[name].params["pretrain"]["init"] == "none":
        raise PedAlignError(
            f"{path}: `gap` names `{name}`, which pretrains on nothing",
            "the stage `gap` compares the pictures that an arm pretrains on with the target's",
            "name an arm that makes pictures",
        )


def _changed(
    base: Mapping[str, Any], change: Mapping[str, Any], where: str, profile: str
) -> dict[str, Any]:
    """The profile with an arm's changes."""
    found = copy.deepcopy(dict(base))
    for key, value in change.items():
        *parents, last = key.split(".")
        place: Any = found
        for part in parents:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            known = ", ".join(map(str, place)) if isinstance(place, dict) else "none"
            raise PedAlignError(
                f"{where} changes `{key}`, which is unknown",
                f"{profile} has in {'.'.join(parents) or 'all'}: {known}",
                "correct the key, or add it to the profile",
            )
        if place[last] == value:
            raise PedAlignError(
                f"{where} changes `{key}` to {value!r}, which it is already",
                f"a change differs from {profile}",
                "take it out, or correct the value",
            )
        place[last] = copy.deepcopy(value)
    return found

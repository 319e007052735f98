"""What is compared: section ``gap`` of params.yaml, and the arms that it makes of ``restyle``."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from tasks.gap.rendering import PLAIN
from tasks.judge.train import JudgeParams
from tasks.params import Fraction, NonNegative, Positive, Strings, check_section, params
from tasks.restyle.shard import RestyleParams
from tasks.target import TRAIN

Changes = dict[str, Any]
"""Fields of the section restyle to the values that an arm gives them."""


@params
class GapParams:
    """Section ``gap``: what is compared, and by whom it is judged."""

    pictures: Annotated[int, Field(ge=8)]
    """Source pictures of every arm, and pictures of each half of the target; fewer where there are
    fewer. Distances shrink with more, so figures of different numbers are not to be compared."""
    seed: NonNegative
    """Seed of the choice of pictures, of the test's folds and of the resampling."""
    held_out: Strings
    """Splits of the target that figures are taken against; ``[val]`` to choose parameters by, so
    that the test split stays unseen."""
    arms: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,39}$")], Changes]
    """Name of each arm to the fields of the section restyle that it changes. ``{}`` is what this
    run makes, and the headline; an arm in mode ``none`` is the source, where the gap starts."""
    poser: str
    """Pose model, a hub name or folder; ``none`` leaves the viewpoint out."""
    keypoint_score: Fraction
    """Confidence from which a joint is seen."""
    viewpoint: Strings
    """Arms whose bodies are looked at: what changes light and colour alone need not be. The target
    is looked at always."""
    resamples: NonNegative
    """Resamples of the bootstrap that gives KID its interval; 0 leaves it out."""
    sheet_pictures: Positive
    """Columns of the contact sheet."""
    judge: JudgeParams
    """The judge of content, whose features the distances take."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not self.arms:
            raise ValueError("there is no arm; `restyled: {}` is what this run makes")
        if not self.held_out or TRAIN in self.held_out:
            raise ValueError(
                f"held_out is {list(self.held_out)}; what is trained on measures nothing"
            )
        unknown = sorted(set(self.viewpoint) - set(self.arms))
        if unknown:
            raise ValueError(f"viewpoint names {unknown}; the arms are {sorted(self.arms)}")
        return self


def arm_sections(section: GapParams, restyle: RestyleParams) -> dict[str, RestyleParams]:
    """Apply every arm's changes to the section restyle.

    Raises:
        PedAlignError: A field is unknown, or a value has the wrong type or range; the arm is named.
    """
    own = asdict(restyle)
    return {
        name: check_section(RestyleParams, own | changes, f"gap.arms.{name}")
        for name, changes in section.arms.items()
    }


def essence(arm: RestyleParams) -> RestyleParams:
    """The arm without the fields that its mode leaves unread: what its pictures depend on.

    Arms take captions as they are, so EDA never counts.
    """
    same = replace(arm, variants=1, alpha=0.0, synonyms="table")
    if arm.mode == "generate":
        return replace(same, strength=1.0, match=0.0, noise="random", detail=0.0)
    if arm.mode in PLAIN:
        # A sampler's settings: of no account where none runs.
        match = arm.match if arm.mode == "colours" else 0.0
        return replace(same, strength=0.0, match=match, steps=1, guidance=1.0, negative_prompt="",
                       scheduler="dpm", noise="random", detail=0.0,
                       control_scale=0.0)  # fmt: skip
    return same


def main_arm(arms: dict[str, RestyleParams], restyle: RestyleParams) -> str | None:
    """The arm that is what the run itself makes; None where no arm is.

    Only what its pictures depend on counts (`essence`).
    """
    own = essence(restyle)
    return next((name for name, arm in arms.items() if essence(arm) == own), None)


def start_arm(arms: dict[str, RestyleParams], main: str | None) -> str | None:
    """The arm where the gap starts: the source itself, else the main arm without DaD."""
    source = next((name for name, arm in arms.items() if arm.mode == "none"), None)
    return source or _without_dad(arms, main)


def _without_dad(arms: dict[str, RestyleParams], main: str | None) -> str | None:
    """The arm that generates as the main one does, by the base alone (the paper's 111.41)."""
    if main is None or arms[main].mode != "generate":
        return None
    return next((name for name, arm in arms.items()
                 if arm.mode == "generate" and arm.control_scale == 0), None)  # fmt: skip


def curve_arms(arms: dict[str, RestyleParams], main: str | None) -> list[tuple[float, str]]:
    """Arms that differ from the main one in strength alone, by strength; fewer than 2 are none."""
    if main is None or arms[main].mode != "restyle":
        return []
    alike = {
        arm.strength: name
        for name, arm in reversed(arms.items())
        if essence(replace(arm, strength=arms[main].strength)) == essence(arms[main])
    }
    return sorted(alike.items()) if len(alike) > 1 else []


def changed(arm: RestyleParams, restyle: RestyleParams) -> str:
    """What an arm changes, as a reader wants it told: ``strength 0.4, match 0``."""
    told = [
        f"{field.name} {getattr(arm, field.name)}"
        for field in fields(RestyleParams)
        if getattr(arm, field.name) != getattr(restyle, field.name)
    ]
    return ", ".join(told) or "as restyle makes them"

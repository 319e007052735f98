"""Learning rates: of every parameter, and at every step.

Group and schedule rules are the release's (of groups: optim.py); which expressions name which rate
is a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import nn

from tasks.errors import PedAlignError

FAST = 2.0
"""How much faster those learn that an objective itself wants ``doubled``."""

Schedule = Literal["linear", "step", "multistep"]
FALLS = (20, 40, 50)
"""Sixtieths of a training at which ``multistep`` falls to a tenth (LGUR: epochs, of 60)."""


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of warm-up: a number of steps, or a share of ``total`` where it is below 1."""
    return int(warmup * total) if warmup < 1 else int(warmup)


def schedule_factor(
    schedule: Schedule, step: int, total: int, warmup: int, floor: float = 0.0
) -> float:
    """Learning rate at a step, as a share of the peak (A1).

    Args:
        schedule: Its name.
        step: From 0.
        total: Steps that the schedule is laid out for.
        warmup: Steps of linear warm-up, the first at 0.
        floor: Share that it falls to and never below, once warmed up.
    """
    if step < warmup:
        return step / warmup
    if total <= warmup:
        return 1.0
    if schedule == "multistep":
        return max(floor, 0.1 ** sum(60 * step >= fall * total for fall in FALLS))
    left = floor + (1 - floor) * max(0.0, (total - step) / (total - warmup))
    if schedule == "linear":
        return left
    return max(floor, left * (1.0 if step < 4 * warmup else 0.5 if step < 7 * warmup else 0.2))


def decays(name: str) -> bool:
    """Whether weight decay applies: to all but biases (position tables too) and norm layers.

    As in the release the name decides, so BatchNorm in the contrastive heads and LayerNorm in the
    matching head, being numbered members of a Sequential, do decay.
    """
    return "bias" not in name and "norm" not in name.lower()


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    learning_rate: float,
    weight_decay: float,
    rates: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Sort parameters into AdamW's groups.

    Args:
        named: Names and parameters; those that take no gradient are left out.
        learning_rate: Peak.
        weight_decay: Of those that `decays`.
        rates: Regular expression of names to how many times as fast those learn; others once.

    Returns:
        A group for every rate and decay, with ``params``, ``names``, ``peak`` and
        ``weight_decay``.

    Raises:
        PedAlignError: An expression matches no parameter, so it would silently do nothing, or two
            of different factors match the same one.
    """
    found: dict[tuple[float, float], tuple[list[nn.Parameter], list[str]]] = {}
    unused = set(rates)
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        hits = [pattern for pattern in rates if re.search(pattern, name)]
        unused -= set(hits)
        factors = {rates[pattern] for pattern in hits} or {1.0}
        if len(factors) > 1:
            raise PedAlignError(
                f"`rates`: {', '.join(f'{each!r} ({rates[each]:g})' for each in hits)} all match "
                f"{name}",
                "expressions that match the same parameter have the same factor",
                "narrow one of them, for example by ^ and \\b",
            )
        key = (learning_rate * factors.pop(), weight_decay if decays(name) else 0.0)
        members, names = found.setdefault(key, ([], []))
        members.append(parameter)
        names.append(name)
    if unused:
        raise PedAlignError(
            f"`rates`: {sorted(unused)} match no parameter",
            "each expression names parameters of the model that learn at a rate of their own",
            "correct it, for example to text_encoder.cls or vision_encoder.encoder.layers.1",
        )
    return [
        {"params": members, "names": names, "peak": peak, "lr": peak, "weight_decay": decay}
        for (peak, decay), (members, names) in sorted(found.items())
    ]

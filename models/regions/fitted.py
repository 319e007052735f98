"""The fitted numbers of the embedded region proposer, and the file they are kept in.

Everything that `models.regions.body` learned, a few thousand numbers: where heads and feet show in
a mask, which boxes things take on a body, by which evidence to choose among them, how sure a choice
is. ``models/tiny/regions/regions.json`` is what ``python -m tasks.base.regions`` wrote, with the
record of how beside it (``training.json``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float32]

SHIPPED = (Path(__file__).parent / "../tiny/regions/regions.json").resolve()
"""The numbers that are used when none are given."""


@dataclass(frozen=True)
class FrameFit:
    """Where a body begins and ends; see `models.regions.view`."""

    template: Float
    """Mean silhouette of a person in the frame, of shape `models.regions.view.TEMPLATE`."""
    match: float
    """Weight of the silhouette's score."""
    top: Float
    """Weights of a top's features."""
    bottom: Float
    """Weights of a bottom's features."""


@dataclass(frozen=True)
class KindFit:
    """How things of one kind are found; see `models.regions.candidates`."""

    boxes: Float
    """Candidates (M, 4) on the body: v0, v1, u0, u1."""
    weights: Float
    """Weights of `models.regions.candidates.FEATURES`."""
    usual: Float
    """How near each candidate (M,) is to where such things are, whatever the word."""
    heads: dict[str, tuple[float, Float]] = field(repr=False)
    """Head noun -> how much was seen, and how near that is to each candidate (M,)."""
    choice: Float
    """(2, O), for choosing among `models.regions.body.OPTIONS`: the kind's own intercepts, and its
    own weights of the picture's texture."""
    sure: Float
    """The same of the confidence."""


@dataclass(frozen=True)
class Fitted:
    """All fitted numbers."""

    frame: FrameFit
    kinds: dict[str, KindFit]
    """Kind of thing -> how it is found. The keys of `models.regions.layout.KINDS`."""
    choice: Float
    """Weights of `models.regions.candidates.option_features` by which an option is chosen."""
    sure: Float
    """Weights of the same for the confidence in it."""
    plain: dict[str, tuple[float, float]]
    """``person``, ``place``, ``vague`` -> intercept and slope of the confidence in a box that is
    not chosen among candidates, by the figure's mean in it."""

    def save(self, path: Path) -> None:
        """Write a JSON file of rounded numbers."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kinds = {
            name: {
                "boxes": _rounded(kind.boxes, 4),
                "weights": _rounded(kind.weights, 4),
                "usual": _rounded(kind.usual, 4),
                "choice": _rounded(kind.choice, 4),
                "sure": _rounded(kind.sure, 4),
                "heads": {
                    head: {"seen": round(seen, 3), "near": _rounded(near, 4)}
                    for head, (seen, near) in sorted(kind.heads.items())
                },
            }
            for name, kind in sorted(self.kinds.items())
        }
        content = {
            "frame": {
                "match": round(self.frame.match, 5),
                "top": _rounded(self.frame.top, 4),
                "bottom": _rounded(self.frame.bottom, 4),
                "template": _rounded(self.frame.template, 4),
            },
            "choice": _rounded(self.choice, 4),
            "sure": _rounded(self.sure, 4),
            "plain": {k: [round(x, 4) for x in v] for k, v in sorted(self.plain.items())},
            "kinds": kinds,
        }
        path.write_text(_compact(content), encoding="utf-8")

    @classmethod
    def load(cls, path: Path = SHIPPED) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is missing or not of that form.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            frame = content["frame"]
            return cls(
                frame=FrameFit(
                    _array(frame["template"]), float(frame["match"]),
                    _array(frame["top"]), _array(frame["bottom"]),
                ),
                kinds={
                    name: KindFit(
                        _array(kind["boxes"]), _array(kind["weights"]), _array(kind["usual"]),
                        {
                            head: (float(of["seen"]), _array(of["near"]))
                            for head, of in kind["heads"].items()
                        },
                        _array(kind["choice"]), _array(kind["sure"]),
                    )
                    for name, kind in content["kinds"].items()
                },
                choice=_array(content["choice"]),
                sure=_array(content["sure"]),
                plain={k: (float(v[0]), float(v[1])) for k, v in content["plain"].items()},
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = (
                f"{path}: {type(error).__name__}: {error}; it must be what "
                "python -m tasks.base.regions writes; make it again, or restore it from the "
                "repository"
            )
            raise ValueError(message) from error


@cache
def shipped() -> Fitted:
    """The numbers in the repository."""
    return Fitted.load(SHIPPED)


def _array(values: list[Any]) -> Float:
    return np.array(values, np.float32)


def _rounded(values: Float, digits: int) -> Any:
    return np.round(np.asarray(values, np.float64), digits).tolist()


def _compact(content: dict[str, Any]) -> str:
    """JSON with a line for every list of numbers, so that a person can read it and a diff too."""
    lines: list[str] = []

    def write(value: Any, indent: str, name: str, end: str) -> None:
        if isinstance(value, dict):
            lines.append(f"{indent}{name}{{")
            for n, (key, inner) in enumerate(value.items()):
                last = "" if n == len(value) - 1 else ","
                write(inner, indent + " ", f"{json.dumps(key)}: ", last)
            lines.append(f"{indent}}}{end}")
        else:
            lines.append(f"{indent}{name}{json.dumps(value, separators=(',', ':'))}{end}")

    write(content, "", "", "")
    return "\n".join(lines) + "\n"

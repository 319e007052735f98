"""Whether what a CLIP sees is true: attribute by attribute on the built-in world.

    python -m benchmarks.pseudo_accuracy [--pictures 1000] [--figure docs/pictures/pseudo-texts.png]
        [--out accuracy.json]

Three sets of people whom the model has not met: in the target's cameras, as format world-unlabelled
draws them, and in the source's look. Each picture goes through JPEG and is stretched as
the stage does; a required attribute has its likeliest value, an optional one a value above the
threshold.

Chance has two meanings, and both are shown: always naming the commonest value, and naming any with
equal luck. Of an attribute of two values three times chance is impossible, by either: for these
stand kappa (the share of what chance leaves that is gained, with the model's own frequencies) and
the ratio of odds.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from models.zeroshot import ZeroShot
from tasks.base.clip import WORDS, number_values, stretch, true_values
from tasks.base.clip_parts import UNSEEN
from tasks.caption.vocabulary import OPTIONAL, REQUIRED, Value, Vocabulary, read_vocabulary
from tasks.images import decode, encode_jpeg
from tasks.report.figures import MUTED, PALETTE, STYLE, png
from tasks.world.attributes import sample_resident
from tasks.world.dataset import unlabelled_item
from tasks.world.looks import SOURCE, TARGET_CAMERAS, render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MODEL = "models/tiny/clip"
SEED = 20_261_121
"""First word of the seeds of this benchmark's people, whom nothing else draws."""
THRESHOLDS = np.array([0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99])
PUBLISHED = 0.9
SETS = ("target", "unlabelled", "source")


@dataclass(frozen=True)
class Answers:
    """What is true of some pictures and what the model says."""

    true_NA: NDArray[np.int64]
    """Number of the true value of each attribute; `UNSEEN` where it cannot be seen."""
    best_NA: NDArray[np.int64]
    score_NA: NDArray[np.float32]


@dataclass(frozen=True)
class Accuracy:
    """One attribute in one set of pictures."""

    pictures: int
    """That show it."""
    right: float
    commonest: float
    """Share of the commonest value."""
    uniform: float
    """One over the number of values that occur."""
    kappa: float
    sure: float
    """Mean probability of the likeliest value."""

    @property
    def times_commonest(self) -> float:
        """How many times as often as the commonest value it is right."""
        return self.right / self.commonest

    @property
    def times_uniform(self) -> float:
        """How many times as often as a blind guess."""
        return self.right / self.uniform

    @property
    def odds_ratio(self) -> float:
        """Its odds of being right to those of naming the commonest value."""
        return odds(self.right) / odds(self.commonest)


def odds(share: float) -> float:
    """Odds of a share; infinite for 1."""
    return share / (1 - share) if share < 1 else float("inf")


def draw(which: str, pictures: int) -> tuple[list[NDArray[np.uint8]], list[dict[str, str]]]:
    """Draw people of a set, each once, and what each picture shows."""
    shown, truth = [], []
    for at in range(pictures):
        rng = np.random.default_rng([SEED, SETS.index(which), at])
        if which == "unlabelled":
            person, _, drawing = unlabelled_item(at, 0, SEED)
        elif which == "target":
            person = sample_resident(rng, target=True)
            drawing = render(person, TARGET_CAMERAS[at % len(TARGET_CAMERAS)], rng)
        else:
            person = sample_resident(rng, target=False)
            drawing = render(person, SOURCE, rng)
        stored = np.asarray(decode(encode_jpeg(drawing.pixels, 90)))
        shown.append(stretch(stored))
        truth.append(true_values(person.labels(), drawing.boxes, drawing.action, drawing.view))
    return shown, truth


def ask(model: ZeroShot, words: Vocabulary, which: str, pictures: int) -> Answers:
    """Let the model answer for a set of pictures."""
    bank = model.bank(words.prompts, words.sizes)
    shown, truth = draw(which, pictures)
    best, score = [], []
    for start in range(0, pictures, 100):
        found = model.answer(torch.from_numpy(np.stack(shown[start : start + 100])), bank)
        best.append(found[0].numpy())
        score.append(found[1].numpy())
    return Answers(number_values(truth, words).numpy(), np.concatenate(best), np.concatenate(score))


def measure(
    true_N: NDArray[np.int64], best_N: NDArray[np.int64], score_N: NDArray[np.float32]
) -> Accuracy:
    """One attribute's figures; pictures that do not show it are left out."""
    there = true_N != UNSEEN
    true_N, best_N = true_N[there], best_N[there]
    count = len(true_N)
    values, times = np.unique(true_N, return_counts=True)
    said = Counter(best_N.tolist())
    right = float((true_N == best_N).mean())
    by_luck = sum(n * said[v] for v, n in zip(values.tolist(), times.tolist(), strict=True))
    expected = by_luck / count**2
    return Accuracy(
        pictures=count,
        right=right,
        commonest=float(times.max() / count),
        uniform=1 / len(values),
        kappa=(right - expected) / (1 - expected) if expected < 1 else float("nan"),
        sure=float(score_N[there].mean()),
    )


def parts_of(value: Value) -> dict[str, str]:
    """What a value consists of: of clothes garment, colour and pattern; of the rest, the words."""
    if value.garment:
        return {
            "garment": value.garment, "colour": value.colour or "", "pattern": value.pattern or "",
        }  # fmt: skip
    words = value.name.split(" ", 2)
    if value.attribute == "hair length":
        return {"length": words[0], "colour": words[1]}
    if value.attribute in ("bag", "hat") and not value.absent:
        return {"kind": value.name.split(" ", 1)[1], "colour": words[0]}
    return {"kind": "none"} if value.absent else {}


def part_rows(words: Vocabulary, answers: Answers) -> dict[str, float]:
    """Accuracy of the parts of each attribute's values, "upper clothes colour" and so on."""
    found: dict[str, list[bool]] = {}
    for at, values in enumerate(words.values.values()):
        pairs = zip(answers.true_NA[:, at].tolist(), answers.best_NA[:, at].tolist(), strict=True)
        for true, best in pairs:
            if true == UNSEEN:
                continue
            said = parts_of(values[best])
            for part, what in parts_of(values[true]).items():
                found.setdefault(f"{values[true].attribute} {part}", []).append(
                    said.get(part) == what
                )
    return {name: float(np.mean(hits)) for name, hits in found.items()}


def together(words: Vocabulary, answers: Answers) -> float:
    """Share of the pictures in which every required attribute that can be seen is right."""
    at = [n for n, name in enumerate(words.values) if name in REQUIRED]
    fits = (answers.true_NA == answers.best_NA) | (answers.true_NA == UNSEEN)
    return float(fits[:, at].all(axis=1).mean())


def by_threshold(words: Vocabulary, answers: Answers, name: str) -> dict[str, NDArray[np.float64]]:
    """An optional attribute at every threshold.

    Returns:
        ``kept``, share of all pictures in which it is named; ``right``, of those, the share in
        which the very value is true; ``there``, the share in which there is one at all; and
        ``found``, of the pictures that show one, the share in which the very value is named.
    """
    values = words.values[name]
    at = list(words.values).index(name)
    true_N, best_N = answers.true_NA[:, at], answers.best_NA[:, at]
    absent = np.array([value.absent for value in values])
    shows_N = ~absent[true_N]
    curves: dict[str, list[float]] = {"kept": [], "right": [], "there": [], "found": []}
    for threshold in THRESHOLDS:
        kept_N = ~absent[best_N] & (answers.score_NA[:, at] > threshold)
        right_N = kept_N & (true_N == best_N)
        count = max(int(kept_N.sum()), 1)
        curves["kept"].append(float(kept_N.mean()))
        curves["right"].append(float(right_N.sum() / count))
        curves["there"].append(float((kept_N & shows_N).sum() / count))
        curves["found"].append(float(right_N.sum() / max(int(shows_N.sum()), 1)))
    return {key: np.array(row) for key, row in curves.items()}


def chart(
    names: Sequence[str], figures: dict[str, dict[str, Accuracy]], curves: dict[str, Any]
) -> Figure:
    """Draw accuracy against chance, and the optional attributes against the threshold."""
    optional = [name for name in names if name in OPTIONAL]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12.4, 4.2), layout="constrained")
        panels = figure.subplots(1, 1 + len(optional), width_ratios=(1.7, *[1] * len(optional)))
        axes = panels[0]
        at = np.arange(len(names))
        for place, which in enumerate(SETS):
            heights = [100 * figures[which][name].right for name in names]
            x = at + 0.27 * (place - 1)
            axes.bar(x, heights, 0.25, color=PALETTE[place], label=which)
            for each, height in zip(x, heights, strict=True):
                axes.text(each, height + 1, f"{height:.0f}", ha="center", fontsize=8, color=MUTED)
        for n, name in enumerate(names):
            entry = figures["target"][name]
            line = {"color": "#1c2128", "lw": 1.6}
            axes.hlines(100 * entry.commonest, n - 0.42, n + 0.42, **line)
            axes.hlines(100 * entry.uniform, n - 0.42, n + 0.42, ls=":", **line)
        axes.plot([], [], color="#1c2128", lw=1.6, label="commonest value")
        axes.plot([], [], color="#1c2128", lw=1.6, ls=":", label="1 / values")
        axes.set_xticks(at, [name.replace(" ", "\n") for name in names], fontsize=9)
        axes.set(ylabel="right (%)", ylim=(0, 129), title="Likeliest value")
        axes.grid(visible=False, axis="x")
        axes.legend(ncols=3, loc="upper center", fontsize=8.5, columnspacing=1, handlelength=1.4)
        for axes, name in zip(panels[1:], optional, strict=True):
            found = curves["target"][name]
            for n, (key, label) in enumerate(
                (
                    ("there", "named: there is one"),
                    ("right", "named: that very one"),
                    ("found", "shown: named rightly"),
                )
            ):
                # Of nothing named, nothing is right or wrong.
                shares = np.where((found["kept"] > 0) | (key == "found"), found[key], np.nan)
                axes.plot(THRESHOLDS, 100 * shares, "o-", ms=3, color=PALETTE[n], label=label)
            axes.axvline(PUBLISHED, color="#8b95a1", lw=1, ls="--")
            axes.set(
                xlabel="threshold", xlim=(-0.03, 1.03), ylim=(-3, 129), title=f"{name}, target"
            )
            axes.set_ylabel("%")
            axes.legend(loc="upper center", fontsize=8.5, ncols=2, columnspacing=1, handlelength=1)
        for axes in panels:
            axes.set_yticks(range(0, 101, 20))
    return figure


def table(which: str, figures: dict[str, Accuracy]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [
        f"| {which} | pictures | right % | commonest % | times | 1/values % | times | kappa | "
        "odds ratio | mean score |",
        "|---" * 10 + "|",
    ]
    for name, e in figures.items():
        ratio = "" if e.commonest == 1 else f"{e.odds_ratio:.1f}"
        kappa = "" if e.commonest == 1 else f"{e.kappa:.2f}"
        lines.append(
            f"| {name} | {e.pictures:,} | {100 * e.right:.1f} | {100 * e.commonest:.1f} | "
            f"{e.times_commonest:.1f} | {100 * e.uniform:.1f} | {e.times_uniform:.1f} | {kappa} | "
            f"{ratio} | {e.sure:.2f} |"
        )
    return lines


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--words", type=Path, default=WORDS)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    words = read_vocabulary(args.words)
    model = ZeroShot.from_pretrained(args.model)
    figures: dict[str, dict[str, Accuracy]] = {}
    curves: dict[str, Any] = {}
    record: dict[str, Any] = {}
    for which in SETS:
        answers = ask(model, words, which, args.pictures)
        columns = (answers.true_NA.T, answers.best_NA.T, answers.score_NA.T)
        figures[which] = {
            name: measure(*three)
            for name, three in zip(words.values, zip(*columns, strict=True), strict=True)
        }
        curves[which] = {
            name: by_threshold(words, answers, name) for name in words.values if name in OPTIONAL
        }
        parts = part_rows(words, answers)
        record[which] = {
            "attributes": {name: vars(entry) for name, entry in figures[which].items()},
            "parts": parts,
            "all_required_right": together(words, answers),
            "by_threshold": {
                name: {key: row.tolist() for key, row in found.items()}
                for name, found in curves[which].items()
            },
        }
        print("\n".join(table(which, figures[which])))
        print(", ".join(f"{name} {100 * share:.1f}" for name, share in parts.items()))
        print(f"all required right {100 * together(words, answers):.1f} %")
        for name, found in curves[which].items():
            for n, threshold in enumerate(THRESHOLDS):
                told = ", ".join(f"{key} {100 * row[n]:.1f}" for key, row in found.items())
                print(f"  {name} > {threshold:g}: {told}")
        print()
    if args.figure:
        shown = [name for name in words.values if name != "age"]
        args.figure.write_bytes(png(chart(shown, figures, curves)))
    if args.out:
        args.out.write_text(json.dumps({"thresholds": THRESHOLDS.tolist(), **record}, indent=1))


if __name__ == "__main__":
    main()

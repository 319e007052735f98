"""Regions against the truth, as tables.

    python -m benchmarks.regions world                     # the built-in world
    python -m benchmarks.regions photos [data/raw/photos]  # real photos, against layout alone
    python -m benchmarks.regions kept [data] [--anew]      # what a rebuild keeps and refuses
    python -m benchmarks.regions speed                     # batches against one at a time

All but `kept` take the embedded proposer; abstention counts as an overlap of 0. With ``--draw
FOLDER`` the first two write charts and sheets as well. The photos are not in the repository:
docs/datasets.md. What is measured and how to read it: docs/regions.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from benchmarks.regions.kept import fates, tables
from benchmarks.regions.measures import RIGHT, Answers, Floats, calibration, interval, iou, rows
from benchmarks.regions.photos import (
    Photos,
    baselines,
    compare,
    cross_validated,
    fitted_without,
    people,
    strongest,
)
from benchmarks.regions.pictures import by_group, reliability, save, sheet
from benchmarks.regions.speed import speed
from benchmarks.regions.world import as_drawn, moved, scene
from models.regions.body import BodyProposer


def world(asked: argparse.Namespace) -> None:
    """Overlap and calibration in the world."""
    proposer = BodyProposer()
    for looks, drawer, wording in (
        ("target", moved, "phrases"), ("target", moved, "captions"),
        ("target", as_drawn, "phrases"), ("source", moved, "phrases"),
    ):  # fmt: skip
        drawn = scene(asked.pictures, looks=looks, drawer=drawer, wording=wording)
        answers = drawn.answers(proposer)
        print(f"\n{looks} looks, {drawer.__name__.replace('_', ' ')}, by {wording}")
        _spread(drawn.people)
        _world_table(answers)
        if asked.draw:
            name = f"{looks}-{drawer.__name__}-{wording}"
            save(sheet(drawn.pixels, answers, f"{looks} looks"), asked.draw / f"{name}.jpg")
            save(reliability({f"{looks} looks": answers}), asked.draw / f"{name}-confidence.png")


def _spread(people: Floats) -> None:
    low, high = np.percentile(people[:, [0, 1, 3]], (5, 95), axis=0)
    names = ("centre across", "centre down", "height")
    print("90 % of the people: " + ", ".join(
        f"{name} {a:.2f} to {b:.2f}" for name, a, b in zip(names, low, high, strict=True)
    ))  # fmt: skip


def _world_table(answers: Answers) -> None:
    print(
        "| group | phrases | mean IoU | 95 % | IoU >= 0.5 | none | confident | ECE | Brier |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for name, mask in rows(answers, answers.group_N).items():
        overlap, right, score = answers.overlap[mask], answers.right[mask], answers.score_N[mask]
        low, high = interval(overlap, answers.picture_N[mask])
        print(
            f"| {name} | {mask.sum()} | {overlap.mean():.3f} | {low:.3f} to {high:.3f} "
            f"| {right.mean():.3f} | {answers.abstained[mask].mean():.3f} "
            f"| {(score >= RIGHT).mean():.3f} | {calibration(score, right).error:.3f} "
            f"| {np.mean((score - right) ** 2):.3f} |"
        )
    there = ~answers.abstained
    kept = calibration(answers.score_N[there], answers.right[there])
    print(f"ECE without the phrases that got no box: {kept.error:.3f}")


def photos(asked: argparse.Namespace) -> None:
    """Shares of hits on photos beside the baselines."""
    loaded = Photos.load(asked.root)
    answers = cross_validated(loaded, fitted_without(asked.root), asked.folds)
    layouts = baselines(loaded, answers, people(loaded, BodyProposer()))
    print(f"{len(answers.score_N)} regions of {len(loaded)} photos, {asked.folds} folds")
    print("| layout alone: median boxes in | IoU >= 0.5 |\n|---|---|")
    for name, boxes in layouts.items():
        print(f"| {name} | {np.mean(iou(boxes, answers.truth_N4) >= RIGHT):.3f} |")
    name, boxes = strongest(layouts, answers)
    layout = iou(boxes, answers.truth_N4) >= RIGHT
    print(f"\nbeside {name}")
    print(
        "| what | regions | proposer | layout | gain | 95 % | won | lost | p |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    nouns = rows(answers, answers.head_N)
    often = {noun: mask for noun, mask in nouns.items() if noun != "all" and mask.sum() >= 10}
    for row, mask in (rows(answers, answers.group_N) | often).items():
        c = compare(answers.right[mask], layout[mask], answers.picture_N[mask])
        print(
            f"| {row} | {mask.sum()} | {c.first:.3f} | {c.second:.3f} | {c.gain:+.3f} "
            f"| {c.low:+.3f} to {c.high:+.3f} | {c.won} | {c.lost} | {c.chance:.2g} |"
        )
    found = calibration(answers.score_N, answers.right)
    print(
        f"\nmean IoU {answers.overlap.mean():.3f}, none {answers.abstained.mean():.3f}, "
        f"confident {np.mean(answers.score_N >= RIGHT):.3f}, ECE {found.error:.3f}"
    )
    if asked.draw:
        save(by_group(answers, layout, name), asked.draw / "photos-groups.png")
        save(reliability({"photos": answers}), asked.draw / "photos-confidence.png")
        save(sheet(loaded.pixels, answers, "photos"), asked.draw / "photos.jpg")


def kept(asked: argparse.Namespace) -> None:
    """Regions of a rebuild against the truth, by what became of them."""
    raw = asked.raw or asked.data / "raw/source"
    print(tables(fates(asked.data, raw, anew=asked.anew)))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regions", description=(__doc__ or "").split("\n", 1)[0]
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("world", help=world.__doc__)
    one.add_argument("--pictures", type=int, default=500)
    one.set_defaults(run=world)
    two = commands.add_parser("photos", help=photos.__doc__)
    two.add_argument("root", type=Path, nargs="?", default=Path("data/raw/photos"))
    two.add_argument("--folds", type=int, default=5)
    two.set_defaults(run=photos)
    for command in (one, two):
        command.add_argument("--draw", type=Path, help="folder for charts and sheets")
    three = commands.add_parser("kept", help=kept.__doc__)
    three.add_argument("data", type=Path, nargs="?", default=Path("data"))
    three.add_argument("--raw", type=Path, help="the raw source; default: DATA/raw/source")
    three.add_argument("--anew", action="store_true", help="annotate again, with today's code")
    three.set_defaults(run=kept)
    four = commands.add_parser("speed", help=speed.__doc__)
    four.add_argument("--pictures", type=int, default=192)
    four.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    four.add_argument("--rounds", type=int, default=5)
    four.add_argument("--threads", type=int, default=1)
    four.add_argument("--side", choices=("plain", "fast"), help=argparse.SUPPRESS)
    four.set_defaults(run=speed)
    asked = parser.parse_args()
    asked.run(asked)


if __name__ == "__main__":
    main()

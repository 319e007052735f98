"""Regions on the 100 street photos: is the box proposed for "a blue dress" the dress?

    python -m benchmarks.photo_regions [data/raw/photos]

One phrase for each labelled region, of its colour name and its label ("red bag"); the proposer of
the section ``annotate`` answers; the figure is the share of regions whose box overlaps the label's
box by an IoU of at least 0.5, by group. Abstention counts as a miss. The photos are not in the
repository: docs/datasets.md.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from tasks.annotate.shard import AnnotateParams, load_proposer, query_of
from tasks.images import decode
from tasks.ingest.photos import colour_name
from tasks.params import read_section
from tasks.phrases import load_parser, parse
from tasks.runtime import device

NOT_NAMED = {"person", "skin"}
THRESHOLD = 0.5


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Overlap of two (cx, cy, w, h) boxes."""
    low = np.maximum(one[:2] - one[2:] / 2, other[:2] - other[2:] / 2)
    high = np.minimum(one[:2] + one[2:] / 2, other[:2] + other[2:] / 2)
    both = float(np.prod(np.clip(high - low, 0, None)))
    return both / max(float(np.prod(one[2:]) + np.prod(other[2:])) - both, 1e-9)


def main(root: Path) -> None:
    """Measure and print a table."""
    section = read_section(AnnotateParams, "annotate")
    proposer, nlp = load_proposer(section, device()), load_parser(section.parser)
    entries = json.loads((root / "regions.json").read_text(encoding="utf-8"))
    images, queries, truths = [], [], []
    for entry in entries:
        named = [r for r in entry["regions"] if r["label"] not in NOT_NAMED]
        texts = [f"{colour_name(r['median_rgb'])} {r['label']}" for r in named]
        phrases = [found[0] if found else None for found in parse(nlp, texts)]
        kept = [(p, r) for p, r in zip(phrases, named, strict=True) if p is not None]
        images.append(np.asarray(decode((root / entry["image"]).read_bytes())))
        queries.append([query_of(p) for p, _ in kept])
        truths.append([np.array(r["box"]) for _, r in kept])
    hits: dict[str, list[bool]] = defaultdict(list)
    for asked, truth, found in zip(queries, truths, proposer.propose(images, queries), strict=True):
        for index, (query, box) in enumerate(zip(asked, truth, strict=True)):
            mine = np.flatnonzero(found.phrase_N == index)
            best = mine[np.argmax(found.scores_N[mine])] if len(mine) else None
            right = best is not None and iou(found.boxes_N4[best], box) >= THRESHOLD
            hits[query.group].append(right)
            hits["all"].append(right)
    print(f"| group | regions | IoU >= {THRESHOLD} |\n|---|---|---|")
    for group in sorted(hits):
        print(f"| {group} | {len(hits[group])} | {np.mean(hits[group]):.3f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data/raw/photos"))

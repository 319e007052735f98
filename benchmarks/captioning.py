"""What temperature does to captions: how diverse they become, and how true they stay.

    python -m benchmarks.captioning [data] [--pictures 2000] [--temperatures 0 0.3 0.5 0.7 1 1.3]

Pictures are those of data/restyled that passed the screen and were made from the built-in world's
drawings, whose truth lies beside them; the captioner is that of section ``caption`` of params.yaml.
Every picture is captioned twice, with seeds of its own. The table says of each temperature: CPU
seconds for 1,000 captions; distinct-1/2/3 and the share of repeats over the first captions; how
often the second caption is the first again; and how often the first names an attribute as it is.
Two more rows measure the captions that the pictures came with and those of the target's train split
in the same way.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from models.captioner import Captioner, Decoding
from tasks.base.captioner import read_caption
from tasks.caption.describing import load_captioner
from tasks.caption.parameters import CaptionParams
from tasks.diversity import Diversity, measure
from tasks.images import decode
from tasks.lookup import Row, fetch, sample
from tasks.params import read_section
from tasks.runtime import device
from tasks.shards import item_seed

NAMED = ("gender", "upper_colour", "upper_kind", "lower_colour", "lower_kind", "bag", "bag_colour")


def chosen(data: Path, count: int) -> list[Row]:
    """Restyled pictures that were kept, each with its source's truth."""
    uids = sample(data / "screened", count, 0, "captioning", where={"keep": True})
    rows = fetch(data / "restyled", uids, ["image", "captions", "source_path"])
    truth = pq.read_table(data / "raw/source/truth.parquet", columns=[
        "source_path", "box_bag", *(name for name in NAMED)
    ])  # fmt: skip
    by_path = {row["source_path"]: row for row in truth.to_pylist()}
    return [rows[uid] | {"truth": by_path[rows[uid]["source_path"]]} for uid in uids]


def told(captioner: Captioner, rows: Sequence[Row], way: Decoding, number: int) -> list[str]:
    """A caption of every picture, the seeds those of the stage."""
    texts: list[str] = []
    for start in range(0, len(rows), 128):
        part = rows[start : start + 128]
        seeds = [item_seed(row["uid"], 0, f"caption {number}") for row in part]
        texts += captioner.caption([row["pixels"] for row in part], seeds, way)
    return texts


def truthful(texts: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """Share of pictures whose caption names an attribute as it is, where it names it at all.

    A bag counts as there only where some of it can be seen.
    """
    hits: dict[str, list[bool]] = {name: [] for name in NAMED}
    for text, row in zip(texts, rows, strict=True):
        wanted = dict(row["truth"])
        if wanted["box_bag"] is None:
            wanted["bag"] = wanted["bag_colour"] = "none"
        read = read_caption(text)
        for name in NAMED:
            unseen = name == "bag_colour" and "none" in {wanted["bag"], read["bag"]}
            if name in read and not unseen:
                hits[name].append(read[name] == wanted[name])
    return {name: float(np.mean(values)) if values else np.nan for name, values in hits.items()}


def line(name: str, seconds: str, found: Diversity, again: str, right: dict[str, float]) -> str:
    """A row of the table."""
    shares = [found.distinct_1, found.distinct_2, found.distinct_3, found.repeated]
    cells = [name, seconds, *(f"{100 * share:.2f}" for share in shares), again]
    cells += [f"{100 * right[name]:.1f}" if name in right else "" for name in NAMED]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Caption, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("data"))
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=[0.0, 0.3, 0.5, 0.7, 1.0, 1.3]
    )
    args = parser.parse_args()
    section = read_section(CaptionParams, "caption")
    captioner = load_captioner(section.captioner.model, device())
    rows = chosen(args.data, args.pictures)
    for row in rows:
        row["pixels"] = np.asarray(decode(row.pop("image")))
    print(f"{section.captioner.model} on {len(rows)} pictures; all but seconds in percent\n")
    head = ["captions", "s per 1,000", "distinct-1", "distinct-2", "distinct-3", "repeated"]
    head += ["same twice", *(name.replace("_", " ") for name in NAMED)]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    old = [row["captions"][0] for row in rows]
    print(line("as they came", "", measure(old), "", truthful(old, rows)))
    for temperature in args.temperatures:
        way = Decoding(temperature=temperature, max_new_tokens=section.captioner.max_new_tokens)
        start = time.process_time()
        first, second = (told(captioner, rows, way, number) for number in range(2))
        seconds = 1000 * (time.process_time() - start) / (2 * len(rows))
        again = float(np.mean([a == b for a, b in zip(first, second, strict=True)]))
        name = f"temperature {temperature:g}" if temperature else "greedy"
        cells = (measure(first), f"{100 * again:.1f}", truthful(first, rows))
        print(line(name, f"{seconds:.1f}", *cells), flush=True)
    target = args.data / "ingested/target"
    uids = sample(target, len(rows), 0, "captioning", where={"split": "train"})
    texts = [t for row in fetch(target, uids, ["captions"]).values() for t in row["captions"]]
    print(
        line(f"the target's ({len(texts[: len(rows)])})", "", measure(texts[: len(rows)]), "", {})
    )


if __name__ == "__main__":
    main()

"""The embedded proposer in batches against one picture at a time: speed and memory."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from benchmarks.measuring import in_turns, process_peaks, resident, tell_peak
from benchmarks.regions.world import scene
from models.regions.body import BodyProposer
from models.regions.proposals import RegionProposer

CPU = torch.device("cpu")


def speed(asked: argparse.Namespace) -> None:
    """Batches against one picture at a time."""
    torch.set_num_threads(asked.threads)
    drawn = scene(asked.pictures)
    queries = drawn.queries

    def one_by_one() -> None:
        proposer: RegionProposer = BodyProposer()
        for pixels, phrases in zip(drawn.pixels, queries, strict=True):
            proposer.propose([pixels], [phrases])

    def in_batches(size: int) -> None:
        BodyProposer(batch_size=size).propose(drawn.pixels, queries)

    if asked.side:
        before = resident()
        one_by_one() if asked.side == "plain" else in_batches(asked.batches[-1])
        tell_peak(before)
        return
    sides = {f"{size} a batch": (lambda _, size=size: in_batches(size)) for size in asked.batches}
    times = in_turns({"one at a time": lambda _: one_by_one(), **sides}, asked.rounds, CPU)
    phrases = sum(map(len, queries))
    print(f"{len(queries)} pictures of 192x96, {phrases} phrases, {asked.rounds} rounds in turns")
    print("| | pictures a second | against one at a time |\n|---|---|---|")
    for name, seconds in times.items():
        ratio = times["one at a time"] / seconds
        print(f"| {name} | {len(queries) / seconds:.0f} | {ratio:.2f} |")
    print(_memory(asked.batches))


def _memory(batches: Sequence[int]) -> str:
    peaks = process_peaks("benchmarks.regions")
    plain, fast = (
        1024 * (peaks[side]["peak"] - peaks[side]["before"]) for side in ("plain", "fast")
    )
    return f"memory above what is held before: one at a time {plain:.0f} MiB, "\
        f"{batches[-1]} a batch {fast:.0f} MiB"  # fmt: skip

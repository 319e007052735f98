"""Re-ranking beside the released order of work: time, operations, memory.

    python -m benchmarks.reranking [--small] [--queries 16] [--candidates 24] [--gallery 24]
                                   [--same-products]

The paper's model at 384x256 (97 image tokens of 1,024; random weights) judges the candidates of
queries with captions as long as CUHK-PEDES's. Both sides, `tasks.evaluate.ranking.rerank` and
`benchmarks.plain_mra`, get the same tokens of texts and images, and their scores have to agree.
Encoding is not timed: it is the same work on both sides, and little beside this.

On a CPU the sample is small (every query meets every image; the released test has 512 candidates a
query and every image in 1,025 lists, so that keys and values count less there than here); on a GPU
128 queries meet 512 candidates each out of 1,024 images. The time of the whole test, 6,156 queries
x 512 candidates x 2 views, is extrapolated from the time a pair takes.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.flops import FAST, PLAIN, STEPS, reranking
from benchmarks.measuring import (
    cuhk_lengths,
    distribution,
    gpu_peak,
    in_turns,
    machine_options,
    operations,
    peak_rate,
    process_peaks,
    resident,
    tell_peak,
    use_machine,
)
from benchmarks.plain_mra import PlainMRA
from benchmarks.pretraining_step import small_config
from models.mra import MRA, MRAConfig
from tasks.evaluate.ranking import TextTokens, rerank
from tasks.evaluate.spill import Rows

WHOLE = {"queries": 6156, "candidates": 512, "gallery": 3074, "views": 2}
"""The test of CUHK-PEDES as published."""
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest difference of scores, relative to their spread (standard deviation)."""


def make_model(small: bool, device: torch.device) -> MRA:
    """Random weights whose fusion layers tell images apart, their scores of attention about 2."""
    torch.manual_seed(0)
    config = small_config() if small else MRAConfig(image_size=(384, 256), window_size=8)
    model = MRA(config)
    with torch.no_grad():
        for name, parameter in model.text_encoder.bert.encoder.named_parameters():
            if parameter.ndim > 1 and "crossattention" in name:
                parameter.normal_(std=0.5 * parameter.shape[1] ** -0.5)
    return model.to(device).eval()


@torch.inference_mode()
def make_inputs(
    model: MRA, lengths: np.ndarray, gallery: int, candidates: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random inputs, on the CPU.

    Returns:
        Tokens (Q, L, D) and mask (Q, L) of texts, tokens of images (G, P, D), and each query's
        candidates (Q, K).
    """
    config, generator = model.config, torch.Generator().manual_seed(1)
    mask = (torch.arange(config.max_tokens) < torch.from_numpy(lengths)[:, None]).long()
    ids = torch.randint(1, config.vocab_size, mask.shape, generator=generator) * mask
    text = torch.cat(
        [
            PlainMRA(model).encode_text(i.to(device), m.to(device)).float().cpu()
            for i, m in zip(ids.split(64), mask.split(64), strict=True)
        ]
    )
    patches = config.grid[0] * config.grid[1]
    image = torch.randn((gallery, patches + 1, config.vision_width), generator=generator)
    image[:, 0] = image[:, 1:].mean(1)
    lists = [torch.randperm(gallery, generator=generator)[:candidates] for _ in lengths]
    return text, mask, image, torch.stack(lists)


def main() -> None:
    """Check, time and count both sides."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--small", action="store_true", help="a small model: seconds")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--candidates", type=int, help="of each query")
    parser.add_argument("--gallery", type=int)
    parser.add_argument("--batch", type=int, help="pairs a pass of the fast side")
    parser.add_argument("--rounds", type=int, help="timed passes; default 1 on a CPU, 5 on a GPU")
    parser.add_argument("--attention", choices=("sdpa", "softmax"), default="sdpa")
    parser.add_argument(
        "--same-products",
        action="store_true",
        help="without oneDNN (models.linear), so that both sides multiply by the same routine",
    )
    machine_options(parser)
    options = parser.parse_args()
    device = use_machine(options)
    if options.same_products:
        torch.backends.mkldnn.set_flags(False)
    on_gpu = device.type == "cuda"
    queries = options.queries or (128 if on_gpu else 16)
    candidates = options.candidates or (512 if on_gpu else 24)
    gallery = options.gallery or (1024 if on_gpu else 24)
    batch = options.batch or 64
    memory: dict[str, dict[str, float]] = {}
    if options.side is None and not on_gpu:  # first: two models at once may not fit
        memory = process_peaks("benchmarks.reranking")
    model = make_model(options.small, device)
    lengths = cuhk_lengths(queries, np.random.default_rng(0), model.config.max_tokens)
    text_QLD, mask_QL, image_GPD, candidates_QK = make_inputs(
        model, lengths, gallery, candidates, device
    )
    texts, images = TextTokens.from_padded(text_QLD, mask_QL), Rows.of(image_GPD.flatten(1))
    plain = PlainMRA(model, options.attention)
    # The plain side finds all it needs on the device; the other one brings its slices there.
    there = [each.to(device) for each in (text_QLD, mask_QL, image_GPD, candidates_QK)]
    found: dict[str, Tensor] = {}

    def run(side: str, _round: int = 0) -> None:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"),
        ):
            if side == "plain":
                found[side] = plain.rerank(*there)
            else:
                found[side] = rerank(model, texts, images, candidates_QK, device, batch=batch)

    if options.side is not None:
        before = resident()
        run(options.side)
        tell_peak(before)
        return

    pairs = queries * candidates
    print(
        f"{queries} queries x {candidates} candidates of {gallery} images: {pairs} pairs, each "
        f"image in {pairs / gallery:.0f}; attention of the plain side: {options.attention}"
    )
    many = cuhk_lengths(100_000, np.random.default_rng(0), model.config.max_tokens)
    print(f"  word pieces of these queries: {distribution(lengths)}")
    print(f"  of what they are drawn from:  {distribution(many)}")
    for side in ("plain", "fast"):  # the warm-up too
        run(side)
    spread = float(found["plain"].std())
    gap = float((found["plain"] - found["fast"]).abs().max())
    print(f"scores differ by {gap:.1e} at most; their standard deviation is {spread:.1e}")
    if not gap <= TOLERANCE[options.precision] * spread:
        raise SystemExit("the two sides disagree")

    sides = {side: partial(run, side) for side in ("plain", "fast")}
    rounds = options.rounds or (5 if on_gpu else 1)
    seconds = in_turns(sides, rounds, device, warm_up=False)
    sizes = lengths.tolist()
    cost = {
        side: reranking(model.config, sizes, candidates, gallery, how)
        for side, how in (("plain", PLAIN), ("fast", FAST))
    }
    if on_gpu:
        memory = {side: {"peak": gpu_peak(partial(run, side), device)} for side in sides}
    whole = WHOLE["queries"] * WHOLE["candidates"] * WHOLE["views"]
    print("| side | seconds | pairs a second | TFLOP | TFLOP/s | peak GiB | CUHK, extrapolated |")
    print("|---|---|---|---|---|---|---|")
    for side in sides:
        rate = pairs / seconds[side]
        print(
            f"| {side} | {seconds[side]:.2f} | {rate:.1f} | {cost[side] / 1e12:.3f} | "
            f"{cost[side] / seconds[side] / 1e12:.3f} | {memory[side]['peak']:.2f} | "
            f"{whole / rate / 3600:.1f} h |"
        )
    print(
        f"| ratio | {seconds['plain'] / seconds['fast']:.2f} | | {cost['plain'] / cost['fast']:.2f}"
        f" | | {memory['plain']['peak'] / memory['fast']['peak']:.2f} | |"
    )
    if not on_gpu:
        print(f"of the peak, {memory['fast']['before']:.2f} GiB is there before re-ranking")
    if peak := peak_rate(device):
        used = cost["fast"] / seconds["fast"] / peak
        print(f"model FLOP utilisation of the fast side: {100 * used:.1f} % of {peak / 1e12:.0f}")
    if options.small:
        for side in sides:
            counted = operations(partial(run, side))
            print(f"counted by torch, {side}: {counted / cost[side]:.3f} of what the sizes say")

    print("\n| order of work (the whole CUHK test) | TFLOP a 1,000 pairs | share |\n|---|---|---|")
    views = [
        reranking(
            model.config,
            many[: WHOLE["queries"]].tolist(),
            WHOLE["candidates"],
            WHOLE["gallery"],
            how,
        )
        for _, how in STEPS
    ]
    for (name, _), part in zip(STEPS, views, strict=True):
        each = part / WHOLE["queries"] / WHOLE["candidates"] / 1e9
        print(f"| {name} | {each:.2f} | {100 * part / views[0]:.0f} % |")


if __name__ == "__main__":
    main()

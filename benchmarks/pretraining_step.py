"""A pretraining step beside the released order of work: time, operations, memory.

    python -m benchmarks.pretraining_step [--small] [--batch 16] [--steps 3] [--attention softmax]

The paper's model (Swin-B at 224x224, BERT-base, 226.58 M parameters, random weights) with its
dropout; captions as BLIP-2 writes them. A step is forward pass, backward pass and AdamW. Both
sides, `models.mra.objectives` and `benchmarks.plain_mra`, train the same weights on the same
batches in turns, a new batch every turn; first, with dropout off, their losses and gradients have
to agree. Default: 16 rows on a CPU in float32, 160 (the paper's batch) on a GPU under bf16
autocast. ``--attention softmax`` writes the plain side's attention out as in the release, that of
the image encoder included; else both sides use the same kernel and the same image encoder.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.flops import FAST, PLAIN, STEPS, Texts, pretraining_step
from benchmarks.measuring import (
    blip2_lengths,
    distribution,
    gpu_peak,
    in_turns,
    machine_options,
    operations,
    peak_rate,
    phrase_lengths,
    process_peaks,
    resident,
    tell_peak,
    use_machine,
)
from benchmarks.plain_mra import Batch, PlainMRA
from models.mra import MRA, READINGS, MRAConfig
from models.mra.objectives import PretrainObjective

Step = Callable[[Batch], Tensor]

PHRASES = 400
"""Distinct phrases that regions are drawn from: rows with one phrase are positives in RPC."""
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}
"""Largest difference of losses, relative to each, and of gradients, relative to the largest."""


def small_config() -> MRAConfig:
    """A model of the same build that takes seconds."""
    return MRAConfig(
        image_size=(96, 96),
        vision_dim=32,
        depths=(2, 2, 2),
        vision_heads=(1, 2, 4),
        window_size=6,
        vocab_size=2000,
        text_dim=128,
        text_layers=3,
        fusion_layers=3,
        text_heads=4,
        text_inner_dim=512,
        embed_dim=256,
    )


def make_batch(config: MRAConfig, rows: int, seed: int, without_region: float) -> Batch:
    """A batch of random pixels and word pieces with lengths as in the data.

    Args:
        config: Sizes and reading.
        rows: B.
        seed: Decides all.
        without_region: Share of images without a box, whose phrase is the whole caption.
    """
    rng = np.random.default_rng(seed)
    longest = config.max_tokens
    # These readings look at pads, so that every text needs its full length.
    width = longest if config.reading.pool_pads or config.reading.mask_pads else 0
    captions = blip2_lengths(rows, rng, longest)
    bare = rng.random(rows) < without_region
    phrases = np.where(bare, captions, phrase_lengths(rows, rng, longest))
    ids, mask = _texts(captions, rng.integers(1, config.vocab_size, (rows, longest)), width)
    kinds = rng.integers(0, PHRASES, rows)
    words = np.random.default_rng(0).integers(1, config.vocab_size, (PHRASES, longest))
    region_ids, region_mask = _texts(phrases, words[kinds], width)
    labels = np.full_like(ids, -100)
    for row, length in enumerate(captions):
        usable = longest if config.reading.mask_pads else int(length) - 1
        wanted = min(10, max(1, round(usable * 0.25)))
        places = rng.choice(np.arange(1, usable), wanted, replace=False)
        labels[row, places] = ids[row, places]
    height, width = config.grid
    boxes = np.zeros((rows, height, width), dtype=np.int64)
    for row in range(rows):
        tall, wide = rng.integers(1, height + 1), rng.integers(1, width + 1)
        top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
        boxes[row, top : top + tall, left : left + wide] = 1
    boxes[bare] = 1
    person = np.arange(rows)
    batch = {
        "ids": ids,
        "mask": mask,
        "masked_ids": np.where(labels == -100, ids, 1),
        "masked_labels": labels,
        "region_ids": region_ids,
        "region_mask": region_mask,
        "person": person,
        "phrase_id": np.where(bare, person, rows + kinds),
        "patch_mask": boxes.reshape(rows, -1),
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in batch.items()}
    tensors["image"] = torch.randn(
        (rows, 3, *config.image_size), generator=torch.Generator().manual_seed(seed)
    )
    return tensors


def _texts(lengths: np.ndarray, words: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of texts of these lengths: (B, width), or as wide as the longest needs."""
    width = max(width, int(lengths.max()))
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    return words[:, :width] * mask, mask


def sides(model: MRA, options: argparse.Namespace) -> dict[str, Step]:
    """Forward and backward pass of both sides; each gives its named losses as one tensor."""
    objective, plain = PretrainObjective(model), PlainMRA(model, options.attention)

    def make(losses_of: Callable[[Batch, torch.Generator], Batch]) -> Step:
        def run(batch: Batch) -> Tensor:
            model.zero_grad(set_to_none=True)
            generator = torch.Generator().manual_seed(1)
            with torch.autocast(
                torch.device(options.device).type,
                torch.bfloat16,
                enabled=options.precision == "bf16",
            ):
                losses = losses_of(batch, generator)
            losses["loss"].backward()
            return torch.stack([losses[name].detach().float() for name in sorted(losses)])

        return run

    return {"plain": make(plain.pretraining), "fast": make(objective)}


def check(model: MRA, both: dict[str, Step], batch: Batch, tolerance: float) -> None:
    """Compare losses and gradients of both sides, dropout off.

    Raises:
        SystemExit: They differ.
    """
    model.eval()
    found: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
    for name, side in both.items():
        losses = side(batch)
        gradients = {k: p.grad.cpu() for k, p in model.named_parameters() if p.grad is not None}
        found[name] = losses.cpu(), gradients
    model.zero_grad(set_to_none=True)
    (plain, wanted), (fast, gradients) = found["plain"], found["fast"]
    loss_gap = float(((plain - fast).abs() / plain.abs()).max())
    largest = max(float(g.abs().max()) for g in wanted.values())
    gap = max(float((gradients[k] - g).abs().max()) for k, g in wanted.items()) / largest
    print(f"dropout off: losses differ by {loss_gap:.1e} (relative), gradients by {gap:.1e}")
    if gradients.keys() != wanted.keys() or not max(loss_gap, gap) <= tolerance:
        raise SystemExit(f"the two sides disagree (more than {tolerance:g})")
    model.train()


def texts_of(batch: Batch) -> Texts:
    """What the cost of a batch depends on."""
    labelled = (batch["masked_labels"] != -100).sum(1)
    return Texts(
        rows=len(batch["ids"]),
        caption=batch["ids"].shape[1],
        phrase=batch["region_ids"].shape[1],
        labelled=int(labelled.sum()),
        most=int(labelled.max()),
    )


def main() -> None:
    """Check, time and count both sides."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--small", action="store_true", help="a small model: seconds")
    parser.add_argument("--batch", type=int, help="rows; default 16 on a CPU, 160 on a GPU")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each side")
    parser.add_argument("--reading", choices=tuple(READINGS), default="paper")
    parser.add_argument("--attention", choices=("sdpa", "softmax"), default="sdpa")
    parser.add_argument("--without-region", type=float, default=0.02, help="share of images")
    machine_options(parser)
    options = parser.parse_args()
    device = use_machine(options)
    on_gpu = device.type == "cuda"
    rows = options.batch or (160 if on_gpu else 16)
    memory: dict[str, dict[str, float]] = {}
    if options.side is None and not on_gpu:  # first: two models at once may not fit
        memory = process_peaks("benchmarks.pretraining_step")
    torch.manual_seed(0)
    config = small_config() if options.small else MRAConfig()
    config = dataclasses.replace(config, vision_dropout=0.1, reading=READINGS[options.reading])
    model = MRA(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.01, fused=True)
    both = sides(model, options)

    def batch_of(number: int) -> Batch:
        made = make_batch(config, rows, 100 + number, options.without_region)
        return {name: each.to(device) for name, each in made.items()}

    def step(side: str, number: int) -> None:
        both[side](batches[number])
        optimizer.step()

    batches = {number: batch_of(number) for number in range(-1, options.steps)}
    if options.side is not None:
        before = resident()
        for number in (-1, 0):
            step(options.side, number)
        tell_peak(before)
        return

    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"{parameters:.2f} M parameters, {rows} rows, reading {options.reading}, "
        f"attention of the plain side: {options.attention}"
    )
    for name, key in (("captions", "mask"), ("phrases", "region_mask")):
        lengths = torch.cat([batch[key].sum(1) for batch in batches.values()]).cpu().numpy()
        widths = [batch[key].shape[1] for batch in batches.values()]
        print(f"  {name}, word pieces: {distribution(lengths)}; batches' longest {widths}")
    check(model, both, batches[-1], TOLERANCE[options.precision])

    seconds = in_turns({side: partial(step, side) for side in both}, options.steps, device)
    timed = [texts_of(batches[number]) for number in range(options.steps)]
    cost = {
        name: sum(pretraining_step(config, each, how) for each in timed) / len(timed)
        for name, how in (("plain", PLAIN), ("fast", FAST))
    }
    counted = {name: operations(partial(side, batches[0])) for name, side in both.items()}
    if on_gpu:
        memory = {s: {"peak": gpu_peak(partial(step, s, 0), device)} for s in both}

    print("| side | s a step | images a second | TFLOP a step | TFLOP/s | peak GiB |")
    print("|---|---|---|---|---|---|")
    for name in both:
        print(
            f"| {name} | {seconds[name]:.3f} | {rows / seconds[name]:.1f} | "
            f"{cost[name] / 1e12:.3f} | {cost[name] / seconds[name] / 1e12:.3f} | "
            f"{memory[name]['peak']:.2f} |"
        )
    print(
        f"| ratio | {seconds['plain'] / seconds['fast']:.2f} | | {cost['plain'] / cost['fast']:.2f}"
        f" | | {memory['plain']['peak'] / memory['fast']['peak']:.2f} |"
    )
    if not on_gpu:
        print(f"of the peak, {memory['fast']['before']:.2f} GiB is there before the first step")
    if peak := peak_rate(device):
        used = cost["fast"] / seconds["fast"] / peak
        print(f"model FLOP utilisation of the fast side: {100 * used:.1f} % of {peak / 1e12:.0f}")
    first = timed[0]
    for name, how in (("plain", PLAIN), ("fast", FAST)):
        wanted = pretraining_step(config, first, how)
        print(f"counted by torch, {name}: {counted[name] / wanted:.3f} of what the sizes say")
    print("\n| order of work (first batch) | TFLOP | share of the plain side |\n|---|---|---|")
    whole = pretraining_step(config, first, PLAIN)
    for name, how in STEPS:
        part = pretraining_step(config, first, how)
        print(f"| {name} | {part / 1e12:.3f} | {100 * part / whole:.0f} % |")


if __name__ == "__main__":
    main()

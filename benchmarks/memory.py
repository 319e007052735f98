"""Memory of a pretraining step at the paper's size, plain and with what saves it.

    python -m benchmarks.memory [--batches 8 16] [--precision bf16] [--micro 8] [--reading paper]

Swin-B at 224x224 with BERT-base (226.58 M parameters, random weights, the paper's dropout) takes
whole steps of AdamW on captions as BLIP-2 writes them, under four settings: plain, `recompute`
(runtime.yaml), `training.micro_batch`, and both. Every number comes from a process of its own,
after room was made for all gradients and AdamW's moments, and is the peak of one step. What stays
between steps (weights, gradients, two moments: 3.38 GiB, and on a CPU the libraries) is the base,
the rest is the step's. From two batches a line is laid through the step's memory, and read off at
40 and 160 rows; those figures are extrapolated. On a CPU memory is the peak of the resident set, on
a GPU what torch has allocated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.measuring import resident
from benchmarks.pretraining_step import make_batch
from models.mra import MRA, READINGS, MRAConfig
from models.mra.objectives import PretrainObjective
from models.recomputing import recompute_layers
from tasks.training import BETAS, EPSILON

SETTINGS = ("plain", "recompute", "micro_batch", "both")
ASKED = (40, 160)
GIB = 2**30


def step_memory(options: argparse.Namespace) -> dict[str, float]:
    """Take steps under one setting.

    Returns:
        GiB of the base and of the step beyond it, and the seconds that the step took.
    """
    device = torch.device(options.device)
    torch.manual_seed(0)
    config = dataclasses.replace(MRAConfig(vision_dropout=0.1), reading=READINGS[options.reading])
    micro = options.micro if options.setting in ("micro_batch", "both") else 0
    objective = PretrainObjective(MRA(config), micro_batch=micro).to(device).train()
    recompute_layers(objective, again=options.setting in ("recompute", "both"))
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=1e-6, betas=BETAS, eps=EPSILON, fused=True
    )

    def step(rows: int, seed: int = 1) -> None:
        batch = {
            name: value.to(device)
            for name, value in make_batch(config, rows, seed, without_region=0.1).items()
        }
        half = options.precision == "bf16"
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = objective(batch, torch.Generator().manual_seed(seed))["loss"]
        loss.backward()
        optimizer.step()

    for parameter in objective.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes room for its moments
    base = torch.cuda.memory_allocated(device) / GIB if device.type == "cuda" else resident()
    reset_peak(device)
    began = time.perf_counter()
    step(options.rows)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {"base": base, "step": peak(device) - base, "seconds": time.perf_counter() - began}


def reset_peak(device: torch.device) -> None:
    """Let the peak start from what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> float:
    """GiB, the most since `reset_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / GIB


def measured_apart(options: argparse.Namespace, setting: str, rows: int) -> dict[str, float]:
    """`step_memory` in a process of its own."""
    words = ["--setting", setting, "--rows", str(rows)]
    words += ["--precision", options.precision, "--micro", str(options.micro)]
    words += ["--reading", options.reading, "--device", options.device]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def at(rows: int, points: list[tuple[int, float]]) -> float:
    """The line through the first and last of (rows, GiB), read off at `rows`."""
    (low, first), (high, last) = points[0], points[-1]
    return first + (rows - low) * (last - first) / (high - low)


def main() -> None:
    """Measure all settings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batches", type=int, nargs=2, help="8 16, on a GPU 40 160")
    parser.add_argument("--micro", type=int, default=8, help="rows of micro_batch")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--reading", choices=tuple(READINGS), default="paper")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    parser.add_argument("--setting", choices=SETTINGS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.setting:
        print(json.dumps(step_memory(options)))
        return
    batches = options.batches or ([8, 16] if options.device == "cpu" else list(ASKED))
    header = [f"step at {rows}" for rows in batches]
    header += ["a row, MiB", *(f"all at {rows}, extrapolated" for rows in ASKED), "s a step"]
    print(f"{options.precision}, reading {options.reading}, micro_batch {options.micro}, GiB")
    print(" | ".join(["setting", "base", *header]))
    for setting in options.settings:
        found = [measured_apart(options, setting, rows) for rows in batches]
        points = [(rows, each["step"]) for rows, each in zip(batches, found, strict=True)]
        base = max(each["base"] for each in found)
        a_row = (points[1][1] - points[0][1]) / (points[1][0] - points[0][0]) * 1024
        cells = [base, *(step for _, step in points), a_row]
        cells += [base + at(rows, points) for rows in ASKED]
        cells += [found[-1]["seconds"]]
        print(" | ".join([setting, *(f"{cell:.2f}" for cell in cells)]), flush=True)


if __name__ == "__main__":
    main()

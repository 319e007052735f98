"""How the benchmarks of the model measure: lengths of texts, turns, memory, operations, machine.

Two sides are timed in turns (A B A B ...) so that a machine that slows down slows both; the median
of each counts. Peak memory on a CPU is the resident set of a process that runs one side only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 operations a second of GPUs, by a part of their name (their makers' sheets)."""

Lengths = NDArray[np.int64]


# ------------------------------------------------------------------ texts


def blip2_lengths(count: int, rng: np.random.Generator, longest: int) -> Lengths:
    """Word pieces of captions like BLIP-2's: about 12 words, [CLS] and [SEP] included.

    Words are normal (12, 2.5) between 6 and 20; one word in twelve takes two pieces.
    """
    words = np.clip(np.rint(rng.normal(12, 2.5, count)), 6, 20).astype(np.int64)
    return _pieces(words, rng.binomial(words, 1 / 12), longest)


def phrase_lengths(count: int, rng: np.random.Generator, longest: int) -> Lengths:
    """Word pieces of phrases of two to four words ("a black shirt")."""
    words = rng.integers(2, 5, count)
    return _pieces(words, rng.binomial(words, 1 / 12), longest)


def cuhk_lengths(count: int, rng: np.random.Generator, longest: int) -> Lengths:
    """Word pieces of captions like CUHK-PEDES's: a mean of 23.5 words, of 30 pieces.

    Words are log-normal with a standard deviation of a third, from 12 on; full stops, commas and
    split words add 4.5 pieces on average.
    """
    words = np.maximum(np.rint(rng.lognormal(np.log(23.5) - 0.055, 0.33, count)), 12)
    return _pieces(words.astype(np.int64), rng.poisson(4.5, count), longest)


def _pieces(words: Lengths, more: Lengths, longest: int) -> Lengths:
    return np.minimum(words + more + 2, longest)


def distribution(lengths: Lengths) -> str:
    """Describe lengths in a line."""
    low, half, high = np.percentile(lengths, (10, 50, 90))
    return (
        f"mean {lengths.mean():.1f}, sd {lengths.std():.1f}, least {lengths.min()}, 10 % {low:.0f},"
        f" median {half:.0f}, 90 % {high:.0f}, most {lengths.max()}"
    )


# ------------------------------------------------------------------ machine


def machine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where to compute."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="default: bf16 on a GPU")
    parser.add_argument("--side", choices=("plain", "fast"), help=argparse.SUPPRESS)


def use_machine(options: argparse.Namespace) -> torch.device:
    """Set threads and precision, and say in a line what the machine is and does besides."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    options.precision = options.precision or ("bf16" if device.type == "cuda" else "fp32")
    if options.side is None:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        print(
            f"{name}, {options.threads} threads, {options.precision}, torch {torch.__version__}, "
            f"load of the machine before: {os.getloadavg()[0]:.1f}"
        )
    return device


def peak_rate(device: torch.device) -> float | None:
    """Dense bf16 operations a second that a GPU can do; None where unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in PEAKS.items() if part in name), None)


# ------------------------------------------------------------------ measures


def in_turns(
    sides: Mapping[str, Callable[[int], object]],
    rounds: int,
    device: torch.device,
    *,
    warm_up: bool = True,
) -> dict[str, float]:
    """Median seconds of each side, timed in turns; each is given the round's number.

    Args:
        sides: By name.
        rounds: That count, from 0.
        device: Is waited for.
        warm_up: Whether a round -1 goes before that does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1 if warm_up else 0, rounds):
        for name, side in sides.items():
            wait(device)
            start = time.perf_counter()
            side(number)
            wait(device)
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def wait(device: torch.device) -> None:
    """Wait for what a GPU was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of a call as torch counts them.

    Attention and linear maps are computed as plain products of matrices meanwhile, for torch knows
    the cost of those on every device.
    """
    with (
        warnings.catch_warnings(action="ignore"),  # of GPUs that are not asked for
        torch.backends.mkldnn.flags(enabled=False),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        run()
    total: int = counter.get_total_flops()
    return total


def gpu_peak(run: Callable[[], object], device: torch.device) -> float:
    """Largest memory in GiB that torch held on a GPU during a call."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    run()
    wait(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


def process_peaks(module: str) -> dict[str, dict[str, float]]:
    """Run this benchmark again, once a side, and collect what each tells by `tell_peak`."""
    found = {}
    for side in ("plain", "fast"):
        command = [sys.executable, "-m", module, *sys.argv[1:], "--side", side]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[side] = json.loads(done.stdout.splitlines()[-1])
    return found


def resident() -> float:
    """Memory in GiB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def tell_peak(before: float) -> None:
    """Print, as the last line, what this process held before its side ran and at most."""
    # Not getrusage's ru_maxrss: a process inherits its parent's.
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmHWM"))
    print(json.dumps({"before": before, "peak": int(line.split()[1]) / 2**20}))

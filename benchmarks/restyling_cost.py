"""What a restyled picture costs: operations, and on a GPU how busy it is. For `restyling`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measuring import operations, wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.restyle.renderer import Arm


def cost(arm: Arm) -> float:
    """Floating-point operations of one picture: encoder, steps and decoder, as torch counts."""
    restyler = arm.restyler
    assert restyler is not None  # modes none and colours are not measured
    denoiser, sampling = restyler._denoiser, restyler.sampling
    device, size = denoiser.device, arm.size
    latents = torch.randn(1, *denoiser.latent_shape, device=device)
    width = denoiser.unet.config.cross_attention_dim
    words = torch.randn(1, 77, width, device=device)
    steps = [torch.tensor(500, device=device)] * sampling.executed

    def run() -> None:
        with torch.no_grad():
            denoiser.encode(torch.rand(1, 3, *size, device=device))
            predict = denoiser.begin(
                words,
                words if sampling.guided else None,
                guidance=sampling.guidance,
                control_scale=sampling.control_scale,
                reuse=sampling.reuse,
            )
            for time_ in steps[: 2 * sampling.reuse]:
                predict(latents, time_)
            denoiser.decode(latents)

    if len(steps) <= 2 * sampling.reuse:
        return operations(run)
    # Steps repeat with the period of `reuse`: two periods, less one, give what one costs.
    twice = operations(run)
    kept, steps[:] = len(steps), steps[: sampling.reuse]
    once = operations(run)
    return once + (twice - once) * (kept - sampling.reuse) / sampling.reuse


def gpu_share(run: Callable[[], object], device: torch.device) -> float:
    """Share of a call's time in which kernels ran on the GPU."""
    wait(device)
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        start = time.perf_counter()
        run()
        wait(device)
        seconds = time.perf_counter() - start
    busy = sum(event.self_device_time_total for event in recorded.key_averages())
    return busy / 1e6 / seconds


def by_events(arm: Arm, prompts: list[str], device: torch.device) -> float:
    """Seconds of one full batch alone on a GPU, by its own clock; the best of three."""
    batch = len(prompts)
    pixels = np.zeros((batch, *arm.size, 3), np.uint8)
    found = []
    for _ in range(3):
        words = arm.words(prompts)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        arm.begin(pixels, words, prompts, range(batch), batch).wait()
        end.record()
        wait(device)
        found.append(start.elapsed_time(end) / 1e3)
    return min(found)

"""Images a second of restyling, shard to shard, beside diffusers' pipeline called in a loop.

    python -m benchmarks.restyling [--size tiny|sd15] [--images 128] [--rounds 3] [--memory]

Both sides turn the same pictures with the same captions and seeds through the same base and
ControlNet in the same precision, with the same sampler and the same number of executed steps. The
plain side reads a JPEG file, calls diffusers' ControlNet image-to-image pipeline with one picture
and saves a JPEG file, in a loop; where there are two cores it is measured with all threads in each
operation and as two loops of one thread each, and the faster counts. Our side reads a shard and
puts a shard into the store (`tasks.restyle.shard`). They run in turns, and the first pictures of
both are compared first.

``--size tiny`` is the shipped base at 96x48 with the sampling of params.yaml; ``--size sd15`` is
Stable Diffusion 1.5 at 384x256 with random weights, 20 executed steps with guidance, or what
``--steps``, ``--strength``, ``--guidance`` and ``--reuse`` say. On a GPU the share of time that it
computes and its FLOP utilisation are printed too. ``--memory`` compares the peak resident set of
1,000 rows and 10,000, each in a process of its own.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetImg2ImgPipeline
from numpy.typing import NDArray
from PIL import Image

from benchmarks import stable_diffusion
from benchmarks.measuring import (
    in_turns,
    machine_options,
    peak_rate,
    resident,
    tell_peak,
    use_machine,
)
from benchmarks.restyling_cost import by_events, cost, gpu_share
from models.dad.adapters import ControlNetAdapter
from models.dad.base import Base, load_base
from models.dad.controlnet import load_controlnet, new_controlnet
from models.dad.sampling import make_sampler
from models.dad.tiny import SIZE as TINY_SIZE
from tasks.images import decode, encode_jpeg
from tasks.params import read_section
from tasks.restyle.renderer import Arm, Renderer, row_seed
from tasks.restyle.shard import RestyleParams, restyle_table
from tasks.schemas import IMAGES
from tasks.shards import image_uid, iter_tables, read_manifest, read_named, write_folder
from tasks.store import ShardStore
from tasks.world.batches import sample_batch

PUBLISHED = 1_362_520
"""Pictures that the paper made (sec. 3.2)."""
TINY_BASE = "models/tiny/diffusion"
TOLERANCE = {"fp32": 0.5, "bf16": 2.0}
"""Largest mean difference of both sides' pictures, in levels of 255, JPEG's included."""


@dataclass(frozen=True)
class Work:
    """What both sides are given, on disk."""

    folder: Path
    rows: list[dict[str, Any]]
    """uid and caption, in uid order."""
    section: RestyleParams
    size: tuple[int, int]
    batch: int

    @property
    def executed(self) -> int:
        """Denoising steps of a picture."""
        return self.section.sampling.executed


# ------------------------------------------------------------------ the two sides


class Plain:
    """Diffusers' own pipeline, one picture a call."""

    def __init__(self, base: Base, controlnet: ControlNetModel, work: Work) -> None:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[base.precision]
        # As a user of the library loads it: torch_dtype for all of its parts. One at a time.
        networks = {"vae": base.vae, "unet": base.unet, "text_encoder": base.text_encoder}
        parts = {
            name: torch.nn.Module.to(copy.deepcopy(network), dtype)
            for name, network in (networks | {"controlnet": controlnet}).items()
        }
        self.pipeline = StableDiffusionControlNetImg2ImgPipeline(
            **parts,
            tokenizer=base.tokenizer,
            scheduler=make_sampler(base, work.section.scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.work, self.precision = work, base.precision
        self.white = Image.new("RGB", work.size[::-1], "white")

    def __call__(self, rows: list[dict[str, Any]], out: Path) -> None:
        """Restyle some rows, file by file."""
        section = self.work.section
        for row in rows:
            image = Image.open(self.work.folder / "files" / f"{row['uid']}.jpg").convert("RGB")
            made = self.pipeline(
                prompt=row["caption"],
                negative_prompt=section.negative_prompt or None,
                image=image,
                control_image=self.white,
                strength=section.strength,
                num_inference_steps=section.steps,
                guidance_scale=section.guidance,
                controlnet_conditioning_scale=section.control_scale,
                generator=torch.Generator().manual_seed(row_seed(row["uid"], section)),
            ).images[0]
            made.save(out / f"{row['uid']}.jpg", quality=section.quality, subsampling=0)


def restyle_shards(arm: Arm, work: Work, out: Path, workers: int) -> None:
    """Our side: from the folder of shards into a store, `workers` shards in flight."""
    store = ShardStore(out)
    source = work.folder / "shards"

    def one(name: str) -> None:
        made = restyle_table(read_named(source, name), arm, batch=work.batch)
        store.save(f"{name.removesuffix('.parquet')}", name, made, "restyled")

    with ThreadPoolExecutor(workers) as pool:
        names = [shard.name for shard in read_manifest(source).shards]
        for future in [pool.submit(one, name) for name in names]:
            future.result()


# ------------------------------------------------------------------ what they work on


def tables(count: int, size: tuple[int, int], distinct: int) -> Iterator[pa.Table]:
    """Drawn people as rows of ``images``; `distinct` pictures, repeated under other names."""
    pixels, captions, _, _ = sample_batch(np.random.default_rng(0), distinct, "source", size)
    datas = [encode_jpeg(picture, 92) for picture in pixels]
    uids = sorted((image_uid("benchmark", str(at)), at % distinct) for at in range(count))
    for start in range(0, count, 256):
        rows = [
            dict.fromkeys(IMAGES.names)
            | {
                "uid": uid,
                "dataset": "benchmark",
                "split": "train",
                "image": datas[which],
                "width": size[1],
                "height": size[0],
                "captions": [captions[which]],
                "source_path": f"{uid}.jpg",
                "status": "ok",
            }
            for uid, which in uids[start : start + 256]
        ]
        yield pa.Table.from_pylist(rows, schema=IMAGES)


def prepare(folder: Path, options: argparse.Namespace, section: RestyleParams) -> Work:
    """Write the pictures as shards and as files."""
    size = stable_diffusion.SIZE if options.size == "sd15" else TINY_SIZE
    whole = pa.concat_tables(tables(options.images, size, options.images))
    # As many shards as workers at least, so that all have work to the end.
    shard_rows = max(options.batch, -(-options.images // (4 * options.workers)))
    write_folder(folder / "shards", [whole], "images", shard_rows=shard_rows)
    (folder / "files").mkdir()
    rows = []
    for row in whole.to_pylist():
        (folder / "files" / f"{row['uid']}.jpg").write_bytes(row["image"])
        rows.append({"uid": row["uid"], "caption": row["captions"][0]})
    return Work(folder, rows, section, size, options.batch)


def compare(plain: Plain, arm: Arm, work: Work) -> None:
    """Hold the first pictures of both sides against each other.

    Raises:
        SystemExit: They are not the same pictures.
    """
    few = work.rows[:4]
    out = work.folder / "compared"
    out.mkdir()
    plain(few, out)
    source = [decode((work.folder / "files" / f"{row['uid']}.jpg").read_bytes()) for row in few]
    seeds = [row_seed(row["uid"], work.section) for row in few]
    pixels = np.stack([np.asarray(image) for image in source])
    ours = arm.render(pixels, [row["caption"] for row in few], seeds, batch=len(few))
    theirs = np.stack([np.asarray(Image.open(out / f"{row['uid']}.jpg")) for row in few])
    packed = np.stack([_as_jpeg(picture, work.section.quality) for picture in ours])
    apart = np.abs(packed.astype(int) - theirs.astype(int))
    between = np.abs(pixels.astype(int) - theirs.astype(int)).mean()
    print(
        f"pictures of both sides differ by {apart.mean():.2f} levels of 255 on average, those and "
        f"their sources by {between:.1f}"
    )
    # What half precision rounds away grows with what a picture is changed by.
    if not apart.mean() <= max(TOLERANCE[plain.precision], 0.05 * between):
        raise SystemExit("the two sides make different pictures")


def _as_jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    return np.asarray(decode(encode_jpeg(picture, quality)))


# ------------------------------------------------------------------ memory


def memory(options: argparse.Namespace) -> None:
    """Compare the peak resident sets of 1,000 and 10,000 rows, half size, one step a picture."""
    peaks = []
    for rows in (1_000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            made = tables(rows, (48, 24), 500)
            names = (f"b{at:05d}.parquet" for at in itertools.count())
            count = -(-rows // 256)
            write_folder(
                Path(folder) / "shards", made, "images", names=itertools.islice(names, count)
            )
            command = [sys.executable, "-m", "benchmarks.restyling", "--rows-in", folder]
            command += ["--base", options.base, "--workers", str(options.workers)]
            command += ["--batch", str(options.batch)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout.splitlines()[-1])
        peaks.append(told["peak"])
        print(f"{rows} rows: {told['peak']:.3f} GiB, {told['before']:.3f} with the model loaded")
    print(f"ten times the rows: {peaks[1] / peaks[0]:.3f} times the memory")


def rows_in(options: argparse.Namespace) -> None:
    """One process of `memory`: restyle a folder of shards and tell the peak."""
    torch.set_num_threads(1)
    base = load_base(options.base, "cpu", "bf16")
    section = dataclasses.replace(
        read_section(RestyleParams, "restyle"), mode="restyle", noise="random", detail=0.0,
        match=0.0, strength=1.0, steps=1, guidance=1.0,
    )  # fmt: skip
    arm = Renderer((48, 24), base, ControlNetAdapter(new_controlnet(base))).arm(section)
    work = Work(Path(options.rows_in), [], section, (48, 24), options.batch)
    before = resident()
    restyle_shards(arm, work, work.folder / "store", options.workers)
    rows = sum(t.num_rows for t in iter_tables(work.folder / "shards", ["uid"]))
    kept = len(list((work.folder / "store").glob("*.parquet")))
    print(f"{rows} rows, {kept} shards")
    tell_peak(before)


# ------------------------------------------------------------------ main


def sampling_of(options: argparse.Namespace) -> RestyleParams:
    """The section ``restyle`` of params.yaml, or of the paper's size, with what was asked for."""
    section = read_section(RestyleParams, "restyle")
    # The pipeline knows neither matching nor inverted noise.
    section = dataclasses.replace(
        section, mode="restyle", noise="random", detail=0.0, match=0.0, control_scale=1.0
    )
    if options.size == "sd15":
        section = dataclasses.replace(
            section, steps=20, strength=1.0, guidance=7.5, scheduler="dpm", negative_prompt="blurry"
        )
    asked = {
        name: getattr(options, name)
        for name in ("steps", "strength", "guidance", "scheduler", "reuse")
        if getattr(options, name) is not None
    }
    return dataclasses.replace(section, **asked)


def make_networks(
    options: argparse.Namespace, device: torch.device
) -> tuple[Base, ControlNetModel]:
    """Load, or build, base and ControlNet."""
    if options.size == "sd15":
        base = stable_diffusion.random_base(f"{TINY_BASE}/tokenizer", device, options.precision)
    else:
        base = load_base(options.base, device, options.precision)
    if options.dad:
        return base, load_controlnet(Path(options.dad), base)
    controlnet = new_controlnet(base).requires_grad_(requires_grad=False)
    return base, controlnet.eval()


def main() -> None:
    """Compare, time and count both sides."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=("tiny", "sd15"), default="tiny")
    parser.add_argument("--base", default=TINY_BASE, help="folder of a base, with --size tiny")
    parser.add_argument("--dad", help="folder of its ControlNet; default: an untrained one")
    parser.add_argument("--images", type=int, help="default: four batches of each worker")
    parser.add_argument("--plain-images", type=int, help="of the plain side; default: a quarter")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="shards in flight")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--strength", type=float)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--scheduler")
    parser.add_argument("--reuse", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--rows-in", help=argparse.SUPPRESS)
    machine_options(parser)
    options = parser.parse_args()
    if options.rows_in:
        rows_in(options)
        return
    if options.memory:
        memory(options)
        return
    options.precision = options.precision or "bf16"
    device = use_machine(options)
    options.images = options.images or 4 * options.batch * options.workers
    with tempfile.TemporaryDirectory() as folder:
        measure(options, device, prepare(Path(folder), options, sampling_of(options)))


def measure(options: argparse.Namespace, device: torch.device, work: Work) -> None:
    """Time both sides and print what was found."""
    base, controlnet = make_networks(options, device)
    section = work.section
    renderer = Renderer(work.size, base, ControlNetAdapter(controlnet), compiled=options.compile)
    arm = renderer.arm(section)
    print(
        f"{base.name} at {work.size[0]}x{work.size[1]}: {work.executed} of {section.steps} steps, "
        f"{section.scheduler}, guidance {section.guidance:g}, reuse {section.reuse}; "
        f"{len(work.rows)} pictures, batches of {work.batch}, {options.workers} shards in flight"
    )
    loops = [Plain(base, controlnet, work)]
    if section.reuse == 1:
        compare(loops[0], arm, work)
    plain_rows = work.rows[: options.plain_images or max(1, len(work.rows) // 4)]
    out = work.folder / "out"

    def fresh() -> Path:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return out

    def fast(_: int) -> None:
        # Threads of one operation: one where the workers share the cores.
        torch.set_num_threads(1 if device.type == "cpu" else options.threads)
        restyle_shards(arm, work, fresh(), options.workers)

    def plain(_: int) -> None:
        torch.set_num_threads(options.threads)
        loops[0](plain_rows, fresh())

    def plain_loops(_: int) -> None:
        torch.set_num_threads(1)
        folder = fresh()
        with ThreadPoolExecutor(len(loops)) as pool:
            parts = [plain_rows[at :: len(loops)] for at in range(len(loops))]
            list(pool.map(lambda loop, rows: loop(rows, folder), loops, parts))

    sides: dict[str, Callable[[int], object]] = {"fast": fast, "plain": plain}
    counts = {"fast": len(work.rows), "plain": len(plain_rows), "plain, loops": len(plain_rows)}
    if device.type == "cpu" and options.threads > 1:
        loops += [Plain(base, controlnet, work) for _ in range(options.threads - 1)]
        sides["plain, loops"] = plain_loops
    seconds = in_turns(sides, options.rounds, device)
    rates = {name: counts[name] / each for name, each in seconds.items()}
    what = {
        "fast": "shards to shards",
        "plain": f"one loop, {options.threads} threads an operation",
        "plain, loops": f"{options.threads} loops, one thread an operation each",
    }
    print("\n| side | images/s |\n|---|---|")
    for name, rate in rates.items():
        print(f"| {name}: {what[name]} | {rate:.2f} |")
    best = max(rate for name, rate in rates.items() if name != "fast")
    print(f"| ratio to the faster plain one | {rates['fast'] / best:.2f} |\n")
    torch.set_num_threads(options.threads)
    each = cost(arm)
    print(
        f"{each / 1e9:.1f} GFLOP a picture, {each * rates['fast'] / 1e12:.2f} TFLOP/s; "
        f"{PUBLISHED:,} pictures would take {PUBLISHED / rates['fast'] / 3600:.1f} hours "
        "(extrapolated)"
    )
    if peak := peak_rate(device):
        used = each * rates["fast"] / peak
        print(f"FLOP utilisation {100 * used:.1f} % of {peak / 1e12:.0f} TFLOP/s")
    if device.type == "cuda":
        captions = itertools.cycle(row["caption"] for row in work.rows)
        alone = by_events(arm, list(itertools.islice(captions, work.batch)), device)
        share = gpu_share(lambda: fast(0), device)
        print(
            f"a batch alone takes {alone:.2f} s ({work.batch / alone:.1f} images/s); over the "
            f"whole run kernels take {100 * share:.0f} % of the time"
        )


if __name__ == "__main__":
    main()

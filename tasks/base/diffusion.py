"""Train the tiny latent diffusion model that the repository ships: ``models/tiny/diffusion/``.

It stands where Stable Diffusion 1.5 stands in the paper: a general text-to-image model that has
never seen the target. Its pictures are the built-in world in the source look and in random other
looks; no target camera, no target person (``training.json`` beside the weights records it).

What is unusual: pictures are drawn once into a pool and several captions a picture are drawn with
them, so that two cores spend their time on training; the text encoder is trained together with
the UNet from nothing, since there is no CLIP this small; the target is the velocity
(v-prediction), because with noise prediction a model this small learns brightness and colour
casts, which is what a domain look is made of, last. bf16 autocast halves the time a step.

    python -m tasks.base.diffusion --work /tmp/base --out models/tiny/diffusion

A killed run continues where its work folder stands. ``--export`` writes the newest state.

Shape legend: B batch, H W pixels, h w latent positions, L caption tokens, D text width.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from tokenizers import AddedToken, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from models.dad.tiny import (
    SIZE,
    TEXT_LENGTH,
    new_scheduler,
    new_text_encoder,
    new_unet,
    new_vae,
)

log = logging.getLogger(__name__)

PROMPT_DROPOUT = 0.1
PEOPLE = "drawn anew while the pool is drawn (sample_resident, target=False): never the target's"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the base is trained; recorded in training.json."""

    seed: int
    images: int
    source_share: float
    vae_steps: int
    vae_batch: int
    vae_lr: float
    unet_steps: int
    unet_batch: int
    unet_lr: float
    decoder_steps: int


# ------------------------------------------------------------------ pictures and captions


def draw_pool(plan: Plan, folder: Path) -> tuple[NDArray[np.uint8], list[list[str]]]:
    """Draw the training pictures once.

    Returns:
        Pixels (N, 96, 48, 3) of uint8, memory-mapped, and four captions a picture.
        The first ``source_share`` of the pictures have the source look and source wording; the
        others a random look and either wording.
    """
    from tasks.world.batches import sample_batch
    from tasks.world.captions import describe

    pixels_file, captions_file = folder / "pool.npy", folder / "captions.json"
    if captions_file.exists():
        return np.load(pixels_file, mmap_mode="r"), json.loads(captions_file.read_text())
    rng = np.random.default_rng(plan.seed)
    pool = np.lib.format.open_memmap(
        pixels_file, mode="w+", dtype=np.uint8, shape=(plan.images, *SIZE, 3)
    )
    captions: list[list[str]] = []
    wordings: dict[str, tuple[Literal["source", "target"], ...]] = {
        "source": ("source", "source", "source", "source"),
        "random": ("source", "target", "source", "target"),
    }
    sources = round(plan.images * plan.source_share)
    for start in tqdm(range(0, plan.images, 100), desc="pool", mininterval=10):
        count = min(100, plan.images - start)
        plain = min(max(sources - start, 0), count)
        shares: tuple[tuple[Literal["source", "random"], int], ...] = (
            ("source", plain), ("random", count - plain),
        )  # fmt: skip
        for look, n in shares:
            if n == 0:
                continue
            pixels, _, people, drawings = sample_batch(rng, n, look, SIZE)
            pool[len(captions) : len(captions) + n] = pixels
            for person, drawing in zip(people, drawings, strict=True):
                captions.append([describe(person, style, rng, drawing) for style in wordings[look]])
    pool.flush()
    captions_file.write_text(json.dumps(captions))
    return pool, captions


def train_tokenizer(captions: Iterable[str], size: int = 1000) -> CLIPTokenizer:
    """Train a byte-pair vocabulary in CLIP's own file layout, so that any text can be encoded."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    blank = CLIPTokenizer(vocab={start: 0, end: 1}, merges=[])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[AddedToken(start, special=True), AddedToken(end, special=True)],
        initial_alphabet=ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend = blank.backend_tokenizer
    backend.train_from_iterator(captions, trainer)
    model = json.loads(backend.to_str())["model"]
    vocab = dict(model["vocab"])
    # Every byte must also exist as the end of a word, or a rare word would end in <unk>.
    for letter in sorted(ByteLevel.alphabet()):
        vocab.setdefault(letter + "</w>", len(vocab))
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TEXT_LENGTH)


# ------------------------------------------------------------------ training


def _rate(step: int, steps: int, peak: float) -> float:
    warm = min(1.0, (step + 1) / max(1, min(200, steps // 20)))
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Draw timesteps, two thirds of them from the noisiest third.

    On 24 x 12 positions a garment's colour shows through the noise up to about t = 870, so with
    uniform draws seven pictures of eight would teach the model to look and not to read.
    """
    uniform = torch.randint(0, 1000, (count,), generator=generator)
    noisy = torch.randint(667, 1000, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.5, uniform, noisy)


def _batches(count: int, batch: int, seed: int, first: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (step, indices) for ever; a step's indices depend on seed and step alone."""
    per_epoch = count // batch
    for step in range(first, 1 << 60):
        epoch, place = divmod(step, per_epoch)
        if place == 0 or step == first:
            order = np.random.default_rng((seed, epoch)).permutation(count)
        yield step, order[place * batch : (place + 1) * batch]


def _pixels(pool: NDArray[np.uint8], rows: NDArray[Any]) -> Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(pool[np.sort(rows)]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(pool: NDArray[np.uint8], plan: Plan, folder: Path) -> tuple[AutoencoderKL, float]:
    """Train the autoencoder: mean squared error and a small KL term.

    Returns:
        The autoencoder with its latents scaled to unit deviation, and its last mean loss.
    """
    if (folder / "vae" / "config.json").exists():
        vae = AutoencoderKL.from_pretrained(folder / "vae")
        return vae, float(json.loads((folder / "vae.json").read_text())["loss"])
    torch.manual_seed(plan.seed)
    vae = new_vae().train()
    optimizer = torch.optim.AdamW(vae.parameters(), plan.vae_lr, weight_decay=0, fused=True)
    ema = EMAModel(vae.parameters(), decay=0.995, foreach=True)
    recent: list[float] = []
    began = time.monotonic()
    for step, rows in _batches(len(pool), plan.vae_batch, plan.seed + 1, 0):
        if step == plan.vae_steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, plan.vae_steps, plan.vae_lr)
        image = _pixels(pool, rows)
        if step % 2:
            image = image.flip(-1)
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(image).latent_dist
            seen = vae.decode(posterior.sample(generator)).sample
        error = F.mse_loss(seen.float(), image)
        spread = posterior.logvar.float()
        kl = 0.5 * (posterior.mean.float().square() + spread.exp() - 1 - spread).mean()
        loss = error + 1e-4 * kl
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        ema.step(vae.parameters())
        recent = [*recent[-99:], float(error)]
        if step % 100 == 0:
            log.info("vae %d mse %.5f kl %.3f %.0f s", step, np.mean(recent), kl.item(),
                     time.monotonic() - began)  # fmt: skip
    ema.copy_to(vae.parameters())
    vae.eval()
    latents = encode_pool(vae, pool[:: max(1, len(pool) // 1000)])
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    vae.save_pretrained(folder / "vae")
    (folder / "vae.json").write_text(json.dumps({"loss": float(np.mean(recent))}))
    return vae, float(np.mean(recent))


def tune_decoder(
    vae: AutoencoderKL, latents: Tensor, pool: NDArray[np.uint8], plan: Plan, folder: Path
) -> float:
    """Train the decoder on, with the encoder as it is, so that the UNet's latents stay valid.

    Mean absolute error, which keeps thin stripes and edges that a squared error smears.

    Args:
        vae: Its decoder is changed in place.
        latents: Scaled latents (N, 4, h, w) of the pool.
        pool: Pixels (N, H, W, 3).
        plan: Steps and rate.
        folder: Where the result is kept.

    Returns:
        The mean absolute error of the last 100 steps, pixels in [-1, 1].
    """
    if (folder / "decoder" / "config.json").exists():
        vae.load_state_dict(AutoencoderKL.from_pretrained(folder / "decoder").state_dict())
        return float(json.loads((folder / "decoder.json").read_text())["loss"])
    weights = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(weights, plan.vae_lr / 2, weight_decay=0, fused=True)
    ema = EMAModel(weights, decay=0.995, foreach=True)
    recent: list[float] = []
    for step, rows in _batches(len(pool), plan.vae_batch, plan.seed + 4, 0):
        if step == plan.decoder_steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, plan.decoder_steps, plan.vae_lr / 2)
        image = _pixels(pool, rows)
        with torch.autocast("cpu", torch.bfloat16):
            seen = vae.decode(latents[np.sort(rows)] / vae.config.scaling_factor).sample
        loss = F.l1_loss(seen.float(), image)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        ema.step(weights)
        recent = [*recent[-99:], loss.item()]
        if step % 100 == 0:
            log.info("decoder %d mae %.5f", step, np.mean(recent))
    ema.copy_to(weights)
    vae.save_pretrained(folder / "decoder")
    (folder / "decoder.json").write_text(json.dumps({"loss": float(np.mean(recent))}))
    return float(np.mean(recent))


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, pool: NDArray[np.uint8], batch: int = 100) -> Tensor:
    """Encode pictures to unscaled latent means (N, 4, 24, 12)."""
    parts = []
    for start in range(0, len(pool), batch):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(vae.encode(_pixels(pool, np.arange(start, min(start + batch, len(pool)))))
                         .latent_dist.mean.float())  # fmt: skip
    return torch.cat(parts)


def train_unet(
    latents: Tensor, ids: Tensor, empty: Tensor, modules: nn.ModuleDict, plan: Plan, folder: Path
) -> float:
    """Train UNet and text encoder together; leaves the averaged weights in ``modules``.

    Args:
        latents: Scaled latents (N, 4, h, w).
        ids: Token ids (N, 4, L).
        empty: Token ids (L,) of the empty prompt.
        modules: ``unet`` and ``text``.
        plan: Steps, batch and rate.
        folder: Where the running state is kept.

    Returns:
        The mean loss of the last 200 steps.
    """
    scheduler = new_scheduler()
    optimizer = torch.optim.AdamW(modules.parameters(), plan.unet_lr, weight_decay=0.01, fused=True)
    ema = EMAModel(modules.parameters(), decay=0.9995, foreach=True)
    running, first, recent = folder / "running.pt", 0, list[float]()
    if running.exists():
        state = torch.load(running, weights_only=True)
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        first, recent = state["step"], state["recent"]
    modules.train()
    # In bf16 on a CPU the plain attention is faster than the fused one, backwards above all.
    unet: Any = modules["unet"]
    text_encoder: Any = modules["text"]
    unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")
    began = time.monotonic()
    for step, rows in _batches(len(latents), plan.unet_batch, plan.seed + 2, first):
        if (step % 400 == 0 and step > first) or step == plan.unet_steps:
            state = {"modules": modules.state_dict(), "optimizer": optimizer.state_dict(),
                     "ema": ema.state_dict(), "step": step, "recent": recent}  # fmt: skip
            torch.save(state, running.with_suffix(".tmp"))
            running.with_suffix(".tmp").replace(running)
        if step == plan.unet_steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, plan.unet_steps, plan.unet_lr)
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
        clean, count = latents[rows], len(rows)
        noise = torch.randn(clean.shape, generator=generator)
        steps_B = _timesteps(count, generator)
        which = torch.randint(0, ids.shape[1], (count,), generator=generator)
        text = ids[torch.from_numpy(rows), which].long()
        text[torch.rand(count, generator=generator) < PROMPT_DROPOUT] = empty.long()
        noisy = scheduler.add_noise(clean, noise, steps_B)
        target = scheduler.get_velocity(clean, noise, steps_B)
        with torch.autocast("cpu", torch.bfloat16):
            words = text_encoder(text)[0]
            seen = unet(noisy, steps_B, words).sample
        loss = F.mse_loss(seen.float(), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        ema.step(modules.parameters())
        recent = [*recent[-199:], loss.item()]
        if step % 100 == 0:
            log.info("unet %d loss %.4f %.0f s", step, np.mean(recent), time.monotonic() - began)
    ema.copy_to(modules.parameters())
    return float(np.mean(recent))


def save_base(
    out: Path,
    vae: AutoencoderKL,
    modules: nn.ModuleDict,
    tokenizer: CLIPTokenizer,
    record: dict[str, Any],
) -> None:
    """Write the diffusers folder layout in half precision, with training.json beside it."""
    StableDiffusionPipeline(
        vae=vae.eval().half(),
        unet=modules["unet"].eval().half(),
        text_encoder=modules["text"].eval().half(),
        tokenizer=tokenizer,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out, safe_serialization=True)
    tokenizer.backend_tokenizer.model.save(str(out / "tokenizer"))  # vocab.json and merges.txt
    config = out / "vae" / "config.json"  # diffusers notes the folder that it came from
    kept = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
    config.write_text(json.dumps(kept, indent=2) + "\n")
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    for weights in out.rglob("*.safetensors"):
        weights.chmod(0o644)


def main(arguments: list[str] | None = None) -> None:
    """Run the whole training, or export the newest running state."""
    parser = argparse.ArgumentParser(description="train the shipped tiny diffusion model")
    parser.add_argument("--work", type=Path, required=True, help="pool and running state")
    parser.add_argument("--out", type=Path, default=Path("models/tiny/diffusion"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=24_000)
    parser.add_argument("--vae-steps", type=int, default=2_000)
    parser.add_argument("--unet-steps", type=int, default=6_000)
    parser.add_argument("--decoder-steps", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", action="store_true", help="only write the newest state")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    plan = Plan(seed=args.seed, images=args.images, source_share=0.4, vae_steps=args.vae_steps,
                vae_batch=16, vae_lr=2e-3, unet_steps=args.unet_steps, unet_batch=32,
        decoder_steps=args.decoder_steps,
                unet_lr=1e-3)  # fmt: skip
    args.work.mkdir(parents=True, exist_ok=True)
    pool, captions = draw_pool(plan, args.work)
    # Kept: the trainer numbers its tokens in another order at each run, and a resumed text encoder
    # would read other words.
    words = args.work / "tokenizer"
    if not words.exists():
        train_tokenizer(text for texts in captions for text in texts).save_pretrained(words)
    tokenizer = CLIPTokenizer.from_pretrained(words)
    vae, vae_loss = train_vae(pool, plan, args.work)
    torch.manual_seed(plan.seed + 3)
    modules = nn.ModuleDict({"unet": new_unet(), "text": new_text_encoder(tokenizer)})
    if args.export:
        state = torch.load(args.work / "running.pt", weights_only=True)
        ema = EMAModel(modules.parameters())
        ema.load_state_dict(state["ema"])
        ema.copy_to(modules.parameters())
        loss, done = float(np.mean(state["recent"])), int(state["step"])
        decoder_loss: float | None = None
    else:
        latents = encode_pool(vae, pool) * vae.config.scaling_factor
        flat = [text for texts in captions for text in texts]
        kind = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = tokenizer(flat, **kind).input_ids.to(torch.int16).view(len(captions), -1, TEXT_LENGTH)
        empty = tokenizer("", **kind).input_ids[0]
        loss, done = train_unet(latents, ids, empty, modules, plan, args.work), plan.unet_steps
        decoder_loss = tune_decoder(vae, latents, pool, plan, args.work)
    flags = f"--seed {plan.seed} --images {plan.images} --vae-steps {plan.vae_steps}"
    flags += f" --unet-steps {plan.unet_steps} --decoder-steps {plan.decoder_steps}"
    record = {
        "command": f"python -m tasks.base.diffusion --work FOLDER {flags}",
        "seed": plan.seed,
        "looks": ["source", "random"],
        "images": plan.images,
        "people": PEOPLE,
        "plan": asdict(plan),
        "unet_steps_done": done,
        "losses": {"vae_mse": vae_loss, "unet_velocity_mse": loss, "decoder_mae": decoder_loss},
    }
    save_base(args.out, vae, modules, tokenizer, record)


if __name__ == "__main__":
    main()

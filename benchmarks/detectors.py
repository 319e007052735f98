"""Pictures a second of the detectors that find regions: batched, beside one picture at a time.

    python -m benchmarks.detectors [--size tiny|real] [--detector grounding-dino|owlv2 ...]
        [--backbone swin-b|swin-t] [--images 32] [--batch 8] [--rounds 3] [--device cuda]
        [--precision fp32|bf16]

The plain side is how the library's pages show it: the processor, the model and the processor's
post-processing for one picture and its phrases, in a loop, in the same precision. Ours is
`propose` of `models.regions.detectors`, and for Grounding DINO `ground` with whole captions too.
They run in turns over the same pictures of the paper's size (384x256), with 2 to 6 phrases each.
Before, boxes and scores of the first pictures are compared. On a GPU our side runs in fp32 as well,
and peak memory is printed.

Networks have random weights and the sizes of the published ones (`benchmarks.random_detectors`):
``--size real`` is Grounding DINO with Swin-B and BERT-base at 1200x800 pixels (its processor's size
for such pictures) and OWLv2 with ViT-B/16 at 960x960; ``--size tiny`` shows that the benchmark
runs, and what is left of a picture's cost when the network costs nearly nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measuring import gpu_peak, in_turns, machine_options, use_machine
from benchmarks.random_detectors import WORDS, grounding_dino, owl
from models.regions.batches import Precision, autocast
from models.regions.grounding_dino import GroundingDino
from models.regions.owlv2 import Owl
from models.regions.proposals import Query, cut_boxes

SIZE = (384, 256)
"""Height and width of the paper's pictures."""
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
"""Most by which nine scores in ten may differ between the sides, best with best and so on."""
DETECTORS = ("grounding-dino", "owlv2")


@dataclass(frozen=True)
class Work:
    """Pictures and what is looked for in them."""

    images: list[NDArray[np.uint8]]
    phrases: list[list[str]]

    @property
    def queries(self) -> list[list[Query]]:
        """The phrases as our side takes them."""
        return [[Query(phrase) for phrase in of] for of in self.phrases]

    @property
    def captions(self) -> list[str]:
        """A caption of the phrases of each picture."""
        return [" with ".join(of) for of in self.phrases]

    def first(self, count: int) -> Work:
        """The first pictures."""
        return Work(self.images[:count], self.phrases[:count])


def work(count: int, size: tuple[int, int]) -> Work:
    """Squares of any colour, and phrases of two to four of the words that a tokenizer knows."""
    rng = np.random.default_rng(0)
    words = [word for word in WORDS if len(word) > 1]
    squares = rng.integers(0, 256, (count, size[0] // 32, size[1] // 32, 3), dtype=np.uint8)
    images = list(squares.repeat(32, axis=1).repeat(32, axis=2))
    phrases = [
        [" ".join(rng.choice(words, rng.integers(2, 5))) for _ in range(rng.integers(2, 7))]
        for _ in range(count)
    ]
    return Work(images, phrases)


class Plain:
    """The library's own way, one picture a call."""

    def __init__(self, model: Any, processor: Any, precision: Precision) -> None:
        self.model, self.processor, self.precision = model, processor, precision
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, chosen: Work, threshold: float = 0.35) -> list[dict[str, Any]]:
        """Find boxes as the processor's post-processing gives them."""
        out = []
        for image, phrases in zip(chosen.images, chosen.phrases, strict=True):
            inputs = self.processor(
                images=[image], text=[phrases], truncation=True,
                input_data_format="channels_last", return_tensors="pt",
            ).to(self.device)  # fmt: skip
            with autocast(self.device, self.precision):
                output = self.model(**inputs)
            more = {"text_threshold": threshold} if "input_ids" in output else {}
            # Pixels, as a user wants them, and then fractions again, as ours are.
            height, width = image.shape[:2]
            (found,) = self.processor.post_process_grounded_object_detection(
                output, threshold=threshold, target_sizes=[(height, width)], **more
            )
            corners = found["boxes"].float().cpu().numpy() / [width, height, width, height]
            low, high = corners[:, :2], corners[:, 2:]
            boxes = cut_boxes(np.concatenate([(low + high) / 2, high - low], axis=1))
            out.append({"boxes": boxes, "scores": found["scores"].float().cpu().numpy()})
        return out


def compare(plain: Plain, ours: GroundingDino | Owl, chosen: Work) -> None:
    """Hold the scores of both sides against each other, with every box let through.

    Raises:
        SystemExit: They are not the same.
    """
    kept = ours.box_threshold
    ours.box_threshold = 0.0
    found = ours.propose(chosen.images, chosen.queries)
    ours.box_threshold = kept
    apart, count = 0.0, 0
    for theirs, mine in zip(plain(chosen, 0.0), found, strict=True):
        there = (theirs["boxes"][:, 2:] > 0).all(axis=1)
        scores = np.sort(theirs["scores"][there])[::-1]
        few = min(len(scores), len(mine))
        differences = np.abs(scores[:few] - mine.scores_N[:few])
        apart, count = max(apart, float(np.quantile(differences, 0.9))), count + few
    print(f"scores of {count} boxes of both sides: 90 % within {apart:.1g}")
    if not apart <= TOLERANCE[ours.precision]:
        raise SystemExit("the two sides find different boxes")


def build(
    name: str, options: argparse.Namespace, device: torch.device
) -> tuple[Any, Any, Callable[[Precision], GroundingDino | Owl]]:
    """A network, its processor, and our detector around them in a precision."""
    torch.manual_seed(0)
    tiny = options.size == "tiny"
    if name == "owlv2":
        model, processor = owl("owlv2", "tiny" if tiny else "base", device=device)
        return (
            model,
            processor,
            lambda precision: Owl(model, processor, precision=precision, batch_size=options.batch),
        )
    model, processor = grounding_dino("tiny" if tiny else options.backbone, device=device)
    return (
        model,
        processor,
        lambda precision: GroundingDino(
            model, processor, precision=precision, text_threshold=0.0, batch_size=options.batch
        ),
    )


def measure(name: str, options: argparse.Namespace, device: torch.device) -> None:
    """Time a detector's sides and print what was found."""
    model, processor, around = build(name, options, device)
    ours = around(options.precision)
    plain = Plain(model, processor, options.precision)
    whole = work(options.images, SIZE)
    fewer = whole.first(options.plain_images or max(1, len(whole.images) // 4))
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"\n{name}, {size:.1f} M parameters, batches of {options.batch}")
    compare(plain, ours, whole.first(2))
    sides: dict[str, tuple[int, Callable[[], Sequence[Any]]]] = {
        "one picture at a time": (len(fewer.images), lambda: plain(fewer)),
        "propose": (len(whole.images), lambda: ours.propose(whole.images, whole.queries)),
    }
    if isinstance(ours, GroundingDino):
        sides["ground"] = len(whole.images), lambda: ours.ground(whole.images, whole.captions)
    if device.type == "cuda" and options.precision != "fp32":
        exact = around("fp32")
        sides["propose, fp32"] = (
            len(whole.images),
            lambda: exact.propose(whole.images, whole.queries),
        )
    timed = {name: (lambda _, run=run: run()) for name, (_, run) in sides.items()}
    seconds = in_turns(timed, options.rounds, device, warm_up=not options.cold)
    rates = {name: count / seconds[name] for name, (count, _) in sides.items()}
    print("\n| side | images/s | ratio | GiB |\n|---|---|---|---|")
    for side, rate in rates.items():
        peak = f"{gpu_peak(sides[side][1], device):.2f}" if device.type == "cuda" else ""
        print(f"| {side} | {rate:.2f} | {rate / rates['one picture at a time']:.2f} | {peak} |")


def main() -> None:
    """Compare, time and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=("tiny", "real"), default="tiny")
    parser.add_argument("--detector", choices=DETECTORS, nargs="+", default=list(DETECTORS))
    parser.add_argument("--backbone", choices=("swin-b", "swin-t"), default="swin-b")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--plain-images", type=int, help="of the plain side; default: a quarter")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--cold", action="store_true", help="no round that does not count")
    machine_options(parser)
    options = parser.parse_args()
    device = use_machine(options)
    for name in options.detector:
        measure(name, options, device)


if __name__ == "__main__":
    main()

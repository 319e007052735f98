"""Screening on pictures broken on purpose: how many are caught, how many good ones are refused?

    python -m benchmarks.screening [data] [--pictures 300] [--sheet FOLDER]

Good pictures are those of data/restyled, and the real ones of the ingested datasets at the same
size. Broken ones are restyled pictures, each broken in a known way: greyed, blanked, turned to
noise, beheaded, upside down, two people for one, put together from parts, or repeated with small
changes. All are encoded as the restyle stage encodes and go through the section ``screen`` of
params.yaml whole. A row of the table is a kind; its figures are the share that is refused and the
first reasons for it. With ``--sheet`` a sheet of each kind is written: what got through stands
first.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageEnhance

from tasks.images import decode, encode_jpeg
from tasks.lookup import fetch, sample
from tasks.params import read_section
from tasks.report.sheets import SheetRow, contact_sheet
from tasks.runtime import device
from tasks.screen.instruments import load_instruments, measure_table
from tasks.screen.rules import ScreenParams, judge_table, repeated
from tasks.shards import read_manifest

Pixels = np.ndarray
Break = Callable[[Pixels, Pixels, np.random.Generator], Pixels]


def _stretched(pixels: Pixels, like: Pixels) -> Pixels:
    size = (like.shape[1], like.shape[0])
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _grey(picture: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))


def _blank(picture: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """A soft gradient between two colours, as generators give for a prompt that they ignore."""
    share = np.linspace(0, 1, len(picture))[:, None, None]
    mixed = rng.uniform(0, 255, 3) * share + rng.uniform(0, 255, 3) * (1 - share)
    return np.broadcast_to(mixed, picture.shape).astype(np.uint8)


def _noise(picture: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    return rng.integers(0, 256, picture.shape, dtype=np.uint8)


def _cut(top: float, bottom: float) -> Break:
    """Show only the rows between two heights, stretched to the whole picture."""

    def cut(picture: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
        rows = slice(round(top * len(picture)), round(bottom * len(picture)))
        return _stretched(picture[rows], picture)

    return cut


def _erased(top: float, bottom: float) -> Break:
    """Paint the rows between two heights with the picture's left edge: what stood there is gone."""

    def erase(picture: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
        rows = slice(round(top * len(picture)), round(bottom * len(picture)))
        out = picture.copy()
        out[rows] = out[rows, :1]
        return out

    return erase


def _upside_down(picture: Pixels, _: Pixels, __: np.random.Generator) -> Pixels:
    return picture[::-1]


def _side_by_side(picture: Pixels, other: Pixels, _: np.random.Generator) -> Pixels:
    """Two people, each in the middle two thirds of its own picture."""
    edge = picture.shape[1] // 6
    both = np.concatenate([picture[:, edge:-edge], other[:, edge:-edge]], axis=1)
    return _stretched(both, picture)


def _one_above_the_other(picture: Pixels, other: Pixels, _: np.random.Generator) -> Pixels:
    return _stretched(np.concatenate([picture, other]), picture)


def _parts(picture: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Four bands in another order."""
    bands = np.array_split(picture, 4)
    order = rng.permutation(4)
    while (order == np.arange(4)).all():
        order = rng.permutation(4)
    return np.concatenate([bands[i] for i in order])


KINDS: dict[str, Break] = {
    "greyed": _grey,
    "blank": _blank,
    "noise": _noise,
    "head cut off, stretched": _cut(0.3, 1),
    "head painted over": _erased(0, 0.28),
    "legs cut off, stretched": _cut(0, 0.5),
    "legs painted over": _erased(0.55, 1),
    "middle only, stretched": _cut(0.25, 0.75),
    "upside down": _upside_down,
    "two side by side": _side_by_side,
    "two above each other": _one_above_the_other,
    "bands in another order": _parts,
}

REPEATS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded again at quality 70": lambda image: decode(encode_jpeg(image, 70)),
    "a fifth brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "smaller and back": lambda image: image.resize(
        (image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.BICUBIC
    ).resize(image.size, Image.Resampling.BICUBIC),
    "shifted by a pixel": lambda image: image.transform(
        image.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0)
    ),
}


@dataclass(frozen=True)
class Verdicts:
    """What screening says of some pictures."""

    pictures: Sequence[Pixels]
    reasons: Sequence[str]
    """First reason of each; empty where it is kept."""

    @property
    def refused(self) -> float:
        """Share of the pictures that are refused."""
        return float(np.mean([bool(reason) for reason in self.reasons]))

    def line(self, name: str) -> str:
        """A row of the table."""
        counts = Counter(reason for reason in self.reasons if reason)
        why = ", ".join(f"{reason} {count}" for reason, count in counts.most_common(4))
        return f"| {name} | {len(self.reasons)} | {self.refused:.1%} | {why} |"


class Bench:
    """The instruments and the rules of params.yaml."""

    def __init__(self) -> None:
        self.section = read_section(ScreenParams, "screen")
        self.instruments = load_instruments(self.section, device())

    def judge(self, pictures: Sequence[Pixels], *, repeats: bool = False) -> Verdicts:
        """Encode pictures, screen them and decode what was seen."""
        blobs = [encode_jpeg(picture, 92) for picture in pictures]
        table = pa.table(
            {
                "uid": [f"{i:016x}" for i in range(len(blobs))],
                "image": pa.array(blobs, pa.binary()),
                "status": ["ok"] * len(blobs),
                "error": pa.array([None] * len(blobs), pa.string()),
            }
        )
        measured = measure_table(table, self.instruments)
        found = repeated([measured], self.section, Path(), device()) if repeats else None
        reasons = judge_table(measured, self.section, found)["reason"].to_pylist()
        return Verdicts(pictures, [(reason or "").split("+")[0] for reason in reasons])


def load(folder: Path, count: int, like: Pixels | None = None) -> list[Pixels]:
    """Some pictures of a folder of shards, by uid alone, at the size of another if given."""
    uids = sample(folder, count, 0, "screening")
    rows = fetch(folder, uids, ["image"])
    pictures = [np.asarray(decode(rows[uid]["image"])) for uid in uids]
    return pictures if like is None else [_stretched(picture, like) for picture in pictures]


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("data"))
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--sheet", type=Path)
    asked = parser.parse_args()
    bench = Bench()
    restyled = load(asked.data / "restyled", asked.pictures)
    results = {"good: restyled": bench.judge(restyled)}
    for folder in sorted((asked.data / "ingested").iterdir()):
        if read_manifest(folder).rows:
            results[f"good: {folder.name}"] = bench.judge(load(folder, asked.pictures, restyled[0]))
    others = restyled[1:] + restyled[:1]
    for name, change in KINDS.items():
        rng = np.random.default_rng(0)
        results[name] = bench.judge(
            [change(one, other, rng) for one, other in zip(restyled, others, strict=True)]
        )
    print("| pictures | number | refused | first reasons |\n|---|---|---|---|")
    for name, verdicts in results.items():
        print(verdicts.line(name))

    print("\n| repeated | pairs | found | other pictures taken for repeats |\n|---|---|---|---|")
    for name, copy in REPEATS.items():
        copies = [np.asarray(copy(Image.fromarray(picture))) for picture in restyled]
        reasons = bench.judge([*restyled, *copies], repeats=True).reasons
        # A repeat of what the other rules refuse is no repeat: its original does not go on.
        pairs = zip(reasons[: len(restyled)], reasons[len(restyled) :], strict=True)
        answers = [again for first, again in pairs if not first]
        found = np.mean([reason == "duplicate" for reason in answers])
        wrong = sum(reason == "duplicate" for reason in reasons[: len(restyled)])
        print(f"| {name} | {len(answers)} | {found:.1%} | {wrong} |")
    if asked.sheet:
        _write_sheets(asked.sheet, results)


def _write_sheets(folder: Path, results: dict[str, Verdicts]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, verdicts in results.items():
        good = name.startswith("good")
        # The mistakes first: refused good ones, broken ones that got through.
        mistaken = [bool(reason) == good for reason in verdicts.reasons]
        order = sorted(range(len(mistaken)), key=lambda i: not mistaken[i])
        shown = [Image.fromarray(np.ascontiguousarray(verdicts.pictures[i])) for i in order[:12]]
        reasons = ", ".join(verdicts.reasons[i] or "kept" for i in order[:3])
        detail = f"{name}: {sum(mistaken)} wrong of {len(order)}; {reasons}"
        rows.append(SheetRow("good" if good else "broken", detail, shown))
    contact_sheet(rows).save(folder / "screening.png")


if __name__ == "__main__":
    main()

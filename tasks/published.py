"""What has been published on the benchmarks, to stand beside a run's own figures on them.

Numbers are as the named sources print them; nobody has measured them here. Beside each method
stands what its figure is of: which split chose the epoch, whether a fusion encoder ranked again,
which encoders, and what they had seen before; "–" is what the source does not say. All are
fine-tuned on the benchmark's train split and ask its test split, sentences to pictures.

A run on another dataset, or on drawings, has none of this: `why_none` says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_SAID = "–"
TEST = "test"
"""The epoch that is best on the test split itself, read off the released code."""

COSINE = "cosine"
MRA_PAPER, UNIPT_PAPER = "MRA's paper", "UniPT's paper"
BI_IRRA, FMFA, GA_DMS = "Bi-IRRA's paper, table I", "FMFA's paper", "GA-DMS's paper"
CLIP, SWIN = "CLIP ViT-B/16", "Swin-B, BERT"


@dataclass(frozen=True)
class Method:
    """Whose figures they are, and what they are of."""

    given_in: str
    """Where the figures were read."""
    encoders: str = NOT_SAID
    seen: str = NOT_SAID
    """What the weights were trained on before the benchmark."""
    ranked: str = NOT_SAID
    """By the cosine alone, or again by a fusion encoder."""
    chosen_on: str = NOT_SAID
    """Which split chose the epoch."""


@dataclass(frozen=True)
class Result:
    """A method's figures on one benchmark, percent."""

    method: str
    R1: float
    R5: float
    R10: float
    mAP: float | None = None
    mINP: float | None = None

    @property
    def how(self) -> Method:
        """Whose they are, and what they are of."""
        return METHODS[self.method]

    @property
    def measures(self) -> dict[str, float]:
        """By the names that a report uses; those that are not given are absent."""
        found = {"R@1": self.R1, "R@5": self.R5, "R@10": self.R10}
        more = {"mAP": self.mAP, "mINP": self.mINP}
        return found | {name: value for name, value in more.items() if value is not None}


_MRA_RANKED = "fusion, first 512 (RSTPReid 1,000), flips"

METHODS: Mapping[str, Method] = {
    "MRA": Method(MRA_PAPER, SWIN, "SDA, 1.22 M restyled", _MRA_RANKED, TEST),
    "MRA without pretraining": Method(MRA_PAPER, SWIN, "no pairs of persons", _MRA_RANKED, TEST),
    "APTM": Method(MRA_PAPER, SWIN, "MALS, 1.51 M generated", "fusion, first 128", TEST),
    "RaSa": Method("RaSa's repository", "ALBEF", "ALBEF, 14 M general", "fusion", TEST),
    "MARS": Method("MARS's repository", "ALBEF, MAE", "ALBEF, 14 M general", "fusion", TEST),
    "IRRA": Method("IRRA's repository", CLIP, "CLIP alone", COSINE, TEST),
    "CLIP, fine-tuned": Method("IRRA's repository", CLIP, "CLIP alone", COSINE, TEST),
    "TBPS-CLIP": Method(BI_IRRA, CLIP, "CLIP alone", COSINE, TEST),
    "RDE": Method(BI_IRRA, CLIP, "CLIP alone", COSINE, TEST),
    "AUL": Method(BI_IRRA, SWIN, "MALS"),
    "NAM + IRRA": Method(BI_IRRA, CLIP, "LUPerson-MLLM, 1.0 M", COSINE, TEST),
    "NAM + APTM": Method(BI_IRRA, SWIN, "LUPerson-MLLM, 1.0 M"),
    "Bi-IRRA": Method(BI_IRRA, "X2-VLM", "X2-VLM"),
    "Bi-IRRA + LUPerson-MLLM": Method(BI_IRRA, "X2-VLM", "X2-VLM, LUPerson-MLLM"),
    "GA-DMS, 1 M": Method(GA_DMS, CLIP, "WebPerson, 1 M", COSINE, TEST),
    "GA-DMS, 5 M": Method(GA_DMS, CLIP, "WebPerson, 5.0 M", COSINE, TEST),
    "HAM + IRRA": Method(FMFA, CLIP, "HAM-PEDES, 1.0 M", COSINE),
    "UniPT + IRRA": Method(FMFA, CLIP, "LUPerson-T, 0.95 M", COSINE),
    "SAMC": Method(MRA_PAPER),
    "CFine": Method(MRA_PAPER),
    "ViTAA": Method(MRA_PAPER),
    "UniPT, ViT-B/16": Method(UNIPT_PAPER, "ViT-B/16, BERT", "LUPerson-T, 0.95 M", COSINE),
    "UniPT, DeiT-Small": Method(UNIPT_PAPER, "DeiT-Small, BERT", "LUPerson-T, 0.95 M", COSINE),
    "LGUR, DeiT-Small": Method(UNIPT_PAPER, "DeiT-Small, BERT", ranked=COSINE),
    "LGUR, ResNet-50": Method(UNIPT_PAPER, "ResNet-50, BERT", ranked=COSINE),
    "IVT, ViT-B": Method(UNIPT_PAPER, "ViT-B"),
    "CAIBC": Method(UNIPT_PAPER),
    "SSAN": Method(UNIPT_PAPER),
    "DSSL": Method(UNIPT_PAPER),
}
"""Method to whose figures they are. The scores of IRRA, RDE, TBPS-CLIP, RaSa and others are of the
epoch that the test split chose as much as MRA's and APTM's: their released training loops ask it
after every epoch."""

RESULTS: Mapping[str, tuple[Result, ...]] = {
    "cuhk-pedes": (
        Result("Bi-IRRA + LUPerson-MLLM", 79.43, 92.59, 95.68, 70.51),
        Result("Bi-IRRA", 78.82, 92.02, 95.47, 69.68),
        Result("NAM + APTM", 78.13, 91.19, 94.50, 68.75),
        Result("MARS", 77.62, 90.63, 94.27, 71.41),
        Result("GA-DMS, 5 M", 77.60, 91.40, 94.78, 69.82),
        Result("HAM + IRRA", 77.32, 91.20, 94.95, 68.87),
        Result("AUL", 77.23, 90.43, 94.41),
        Result("MRA", 77.21, 90.66, 94.46, 68.50),
        Result("GA-DMS, 1 M", 77.02, 91.28, 94.58, 69.65),
        Result("NAM + IRRA", 76.82, 91.16, 94.46, 69.55),
        Result("APTM", 76.53, 90.04, 94.15, 66.91),
        Result("RaSa", 76.51, 90.29, 94.25, 69.38),
        Result("RDE", 75.94, 90.14, 94.12, 67.56),
        Result("UniPT + IRRA", 74.37, 89.51, 93.97, 66.60),
        Result("SAMC", 74.03, 89.18, 93.31, 68.42),
        Result("TBPS-CLIP", 73.54, 88.19, 92.35, 65.38),
        Result("IRRA", 73.38, 89.93, 93.71, 66.13, 50.24),
        Result("MRA without pretraining", 71.23, 87.54, 92.43, 64.75),
        Result("CFine", 69.57, 85.93, 91.15),
        Result("UniPT, ViT-B/16", 68.50, 84.67, 90.38),
        Result("CLIP, fine-tuned", 68.19, 86.47, 91.47, 61.12),
        Result("UniPT, DeiT-Small", 66.83, 84.16, 89.42),
        Result("IVT, ViT-B", 65.59, 83.11, 89.21),
        Result("LGUR, DeiT-Small", 65.25, 83.12, 89.00),
        Result("CAIBC", 64.43, 82.87, 88.37),
        Result("LGUR, ResNet-50", 64.21, 81.94, 87.93),
        Result("SSAN", 61.37, 80.15, 86.73),
        Result("DSSL", 59.98, 80.41, 87.56),
        Result("ViTAA", 55.97, 75.84, 83.52, 51.60),
    ),
    "icfg-pedes": (
        Result("Bi-IRRA + LUPerson-MLLM", 70.36, 83.86, 88.47, 43.28),
        Result("GA-DMS, 5 M", 69.51, 83.47, 87.67, 42.30),
        Result("NAM + APTM", 69.37, 83.55, 88.18, 42.42),
        Result("AUL", 69.16, 83.32, 88.37),
        Result("GA-DMS, 1 M", 69.07, 83.26, 87.64, 41.91),
        Result("MRA", 68.93, 83.46, 88.07, 41.38),
        Result("Bi-IRRA", 68.53, 83.04, 87.79, 41.82),
        Result("APTM", 68.51, 82.99, 87.56, 41.22),
        Result("HAM + IRRA", 68.21, 83.28, 88.04, 41.72),
        Result("RDE", 67.68, 82.47, 87.36, 40.06),
        Result("MARS", 67.60, 81.47, 85.79, 44.93),
        Result("NAM + IRRA", 67.05, 82.16, 87.33, 41.51),
        Result("MRA without pretraining", 66.02, 81.67, 86.78, 39.04),
        Result("RaSa", 65.28, 80.40, 85.12, 41.29),
        Result("TBPS-CLIP", 65.05, 80.34, 85.47, 39.83),
        Result("UniPT + IRRA", 64.50, 80.24, 85.74, 38.22),
        Result("SAMC", 63.68, 79.69, 85.21, 42.41),
        Result("IRRA", 63.46, 80.25, 85.82, 38.06, 7.92),
        Result("CFine", 60.83, 76.55, 82.42),
        Result("UniPT, ViT-B/16", 60.09, 76.19, 82.46),
        Result("UniPT, DeiT-Small", 59.08, 75.92, 82.08),
        Result("LGUR, DeiT-Small", 59.02, 75.32, 81.56),
        Result("LGUR, ResNet-50", 57.42, 74.97, 81.45),
        Result("CLIP, fine-tuned", 56.74, 75.72, 82.26, 31.84),
        Result("IVT, ViT-B", 56.04, 73.60, 80.22),
        Result("SSAN", 54.23, 72.63, 79.53),
    ),
    "rstpreid": (
        Result("Bi-IRRA", 72.85, 87.75, 91.90, 55.60),
        Result("Bi-IRRA + LUPerson-MLLM", 72.50, 88.15, 92.45, 57.32),
        Result("AUL", 71.65, 87.55, 92.05),
        Result("HAM + IRRA", 71.35, 87.60, 93.05, 55.40),
        Result("GA-DMS, 5 M", 71.25, 87.25, 92.90, 55.43),
        Result("GA-DMS, 1 M", 70.30, 88.00, 92.85, 54.89),
        Result("NAM + APTM", 69.95, 87.35, 92.30, 54.17),
        Result("NAM + IRRA", 68.50, 87.15, 92.10, 53.02),
        Result("MRA", 68.15, 86.30, 91.10, 53.77),
        Result("MARS", 67.55, 86.55, 91.35, 52.92),
        Result("APTM", 67.50, 85.70, 91.45, 52.56),
        Result("RaSa", 66.90, 86.50, 91.35, 52.31),
        Result("RDE", 65.35, 83.95, 89.90, 50.88),
        Result("UniPT + IRRA", 62.20, 83.30, 89.75, 48.33),
        Result("TBPS-CLIP", 61.95, 83.55, 88.75, 48.26),
        Result("SAMC", 60.80, 82.35, 89.00, 49.67),
        Result("IRRA", 60.20, 81.30, 88.20, 47.17, 25.28),
        Result("MRA without pretraining", 56.30, 77.55, 85.20, 45.88),
        Result("CLIP, fine-tuned", 54.05, 80.70, 88.00, 43.41),
        Result("UniPT, ViT-B/16", 51.85, 74.85, 82.85),
        Result("CFine", 50.55, 72.50, 81.60),
        Result("UniPT, DeiT-Small", 49.45, 72.75, 80.35),
        Result("LGUR, DeiT-Small", 47.95, 71.85, 80.25),
        Result("CAIBC", 47.35, 69.55, 79.00),
        Result("LGUR, ResNet-50", 46.95, 69.90, 79.12),
        Result("IVT, ViT-B", 46.70, 70.00, 78.80),
        Result("SSAN", 43.50, 67.80, 77.15),
        Result("DSSL", 32.43, 55.08, 63.19),
    ),
}
"""Format of the dataset to what was published on its test split, the best R@1 first."""


def why_none(dataset: str, form: str, *, drawn: bool) -> str:
    """Say in one line why nothing published stands beside a run; empty where something does.

    Args:
        dataset: Its name.
        form: Its format, as its manifest has it.
        drawn: Whether its pictures are the built-in world's.
    """
    if drawn:
        return (
            f"No published figure stands beside {dataset}: its pictures are drawings of this "
            "program, and figures on photographs say nothing about them."
        )
    if form in RESULTS:
        return ""
    known = ", ".join(RESULTS)
    return (
        f"No published figure stands beside {dataset}: its format is {form or 'not on record'}, "
        f"and figures are known for {known}."
    )

"""``precision: auto`` is told by what the machine is faster in, and sections hold what was told."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from tasks import arithmetic
from tasks.arithmetic import fastest
from tasks.diffusion import DiffusionParams
from tasks.errors import PedAlignError
from tasks.params import check_section
from tasks.runtime import Runtime

DIFFUSION = {"base": "x", "size": [96, 48]}


def machine(
    patch: pytest.MonkeyPatch, *, device: str = "auto", cuda: bool = False, amx: bool = False
) -> None:
    patch.setattr(arithmetic, "runtime", lambda: Runtime(device=device))
    patch.setattr(torch.cuda, "is_available", lambda: cuda)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda **_: cuda)
    patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"amx": True}, "bf16"),
        ({"amx": False}, "fp32"),  # avx512_bf16 alone is slower than float32
        ({"cuda": True}, "bf16"),
        ({"cuda": True, "device": "cpu"}, "fp32"),
        ({"cuda": False, "device": "cuda:0"}, "fp32"),  # an old GPU
        ({"device": "mps", "amx": True}, "fp32"),
    ],
)
def test_bf16_where_matrix_units_are(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], expected: str
) -> None:
    machine(monkeypatch, **said)
    assert fastest() == expected


@pytest.mark.parametrize("amx", [True, False])
def test_a_section_holds_what_was_told(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    machine(monkeypatch, amx=amx)
    section = check_section(DiffusionParams, DIFFUSION | {"precision": "auto"}, "diffusion")
    assert section.precision == ("bf16" if amx else "fp32")
    assert dataclasses.asdict(section)["precision"] == section.precision  # and so keys and records
    named = check_section(DiffusionParams, DIFFUSION | {"precision": "bf16"}, "diffusion")
    assert named.precision == "bf16"


def test_another_word_is_refused() -> None:
    with pytest.raises(PedAlignError, match=r"diffusion\.precision"):
        check_section(DiffusionParams, DIFFUSION | {"precision": "half"}, "diffusion")

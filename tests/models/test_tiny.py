"""The shipped weights: what they have seen, how large they are, that they load."""

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.provenance import ROOT
from tasks.world.attributes import belongs_to_target
from tasks.world.batches import sample_batch

FOLDERS = sorted(p.parent for p in (ROOT / "models" / "tiny").glob("*/training.json"))


def test_every_model_of_the_default_has_its_record() -> None:
    assert {f.name for f in FOLDERS} == {
        "bert",
        "captioner",
        "clip",
        "diffusion",
        "poser",
        "regions",
        "swin",
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_weights_saw_neither_target_cameras_nor_target_people(folder: Path) -> None:
    record = json.loads((folder / "training.json").read_bytes())
    assert set(record["looks"]) <= {"source", "random"}
    assert record["command"].startswith("python -m tasks.base.")
    assert "target" not in record["command"]
    assert record["people"]


def test_the_sampler_they_were_trained_with_gives_no_target() -> None:
    for look in ("source", "random", "mixed"):
        _, _, people, _ = sample_batch(np.random.default_rng(0), 50, look, (24, 12))
        assert not any(belongs_to_target(person) for person in people)
    with pytest.raises(ValueError, match="target"):
        sample_batch(np.random.default_rng(0), 1, "target", (24, 12))  # type: ignore[arg-type]


def test_together_they_are_a_few_megabytes() -> None:
    total = sum(p.stat().st_size for f in FOLDERS for p in f.rglob("*") if p.is_file())
    assert total < 16e6
    assert not list((ROOT / "models" / "tiny").rglob("*.bin"))

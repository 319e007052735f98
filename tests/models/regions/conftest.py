"""Folders of tiny detectors, saved once for the tests of this folder; and pictures of noise."""

import numpy as np
import pytest

from tests.detectors import save_grounding_dino, save_owlv2, save_owlvit


@pytest.fixture(scope="session")
def detectors(tmp_path_factory):
    """A folder with a folder of each model type."""
    root = tmp_path_factory.mktemp("detectors")
    save_grounding_dino(root / "grounding-dino")
    save_owlv2(root / "owlv2")
    save_owlvit(root / "owlvit")
    return root


@pytest.fixture
def picture():
    """Noise of a seed and of a size."""

    def make(seed, size=(48, 24)):
        return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)

    return make

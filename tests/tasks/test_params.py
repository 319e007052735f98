"""params.yaml: what is wrong is named, with its rule and its remedy."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from tasks.errors import PedAlignError
from tasks.params import Floats, Fraction, Positive, params, read_section


@params
class Inner:
    threshold: Fraction


@params
class Section:
    steps: Positive
    rate: float
    scales: Floats
    mode: Annotated[str, Field(pattern="^(a|b)$")]
    inner: Inner


GOOD = """
stage:
  steps: 3
  rate: 1e-4
  scales: [0.5, 1]
  mode: a
  inner: {threshold: 0.35}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_reads_nested_sections_into_frozen_values(tmp_path: Path) -> None:
    section = read_section(Section, "stage", write(tmp_path, GOOD))
    assert section.rate == 1e-4  # YAML 1.1 would give a string
    assert section.scales == (0.5, 1.0)
    assert section.inner == Inner(threshold=0.35)
    with pytest.raises(AttributeError):
        section.steps = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("steps: 3", "steps: 0", "`stage.steps` is 0"),
        ("steps: 3", "steps: 3.5", "`stage.steps` is 3.5"),
        ("steps: 3", "steps: '3'", "`stage.steps` is '3'"),
        ("steps: 3", "stepz: 3", "unknown key `stage.stepz`"),
        ("steps: 3", "stepz: 3", "missing key `stage.steps`"),
        ("threshold: 0.35", "threshold: 1.35", "`stage.inner.threshold` is 1.35"),
        ("mode: a", "mode: c", "`stage.mode` is 'c'"),
        ("rate: 1e-4", "rate: yes please", "`stage.rate`"),
        ("scales: [0.5, 1]", "scales: [0.5, x]", "`stage.scales.1` is 'x'"),
        ("stage:", "stag:", "section `stage` is missing"),
    ],
)
def test_a_fault_names_file_key_value_and_remedy(
    tmp_path: Path, old: str, new: str, named: str
) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(PedAlignError) as caught:
        read_section(Section, "stage", path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.rule
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1, 2\n", "", "\x00\x01"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(PedAlignError):
        read_section(Section, "stage", write(tmp_path, text))


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(PedAlignError, match=r"cp profiles/tiny\.yaml params\.yaml"):
        read_section(Section, "stage", tmp_path / "params.yaml")

"""profiles/market.yaml has the paper's values; profiles/reid.yaml the world's two starts."""

import pytest

from tasks.params import read_section, read_yaml
from tasks.provenance import ROOT
from tasks.reid import ReidParams

MARKET = ROOT / "profiles" / "market.yaml"


@pytest.mark.parametrize(
    ("profile", "starts"),
    [
        (
            "market",
            {
                "imagenet": "data/weights/swin-base-patch4-window7-224",
                "sda": "data/checkpoints/pretrain",
            },
        ),
        ("reid", {"start": "models/tiny/swin", "pretrained": "data/checkpoints/pretrain"}),
    ],
)
def test_two_entries_that_differ_in_their_start_alone(profile, starts):
    path = ROOT / "profiles" / f"{profile}.yaml"
    loaded = read_yaml(path)["reid"]["datasets"]
    assert {name: entry.pop("start") for name, entry in loaded.items()} == starts
    first, second = loaded.values()
    assert first == second
    section = read_section(ReidParams, f"reid.datasets.{next(iter(starts))}", path)
    assert section.people >= 2


def test_the_papers_values():
    section = read_section(ReidParams, "reid.datasets.sda", MARKET)
    assert section.image_size == (224, 224)
    assert section.training.epochs == 60
    assert (section.people, section.pictures, section.margin) == (16, 4, 0.3)
    assert section.select == "last"  # the dataset has no val split


def test_all_else_is_that_of_the_papers_profile():
    market, paper = read_yaml(MARKET), read_yaml(ROOT / "profiles" / "sd15.yaml")
    dataset = market["ingest"]["datasets"].pop("market-1501")
    assert (dataset["format"], dataset["annotation"]) == ("market1501", "data/nothing")
    assert market.pop("reid") != paper.pop("reid")
    for loaded in (market, paper):
        del loaded["inputs"]["reid"]
    assert market == paper

"""Missing datasets and weights are named before anything is computed."""

from pathlib import Path
from typing import Any

import pytest

from flows.supplies import MODELS, check, lacking, wants_everything
from tasks.errors import PedAlignError
from tasks.inputs import NOTHING, Inputs
from tasks.params import read_yaml
from tasks.provenance import ROOT


def profile(name: str) -> dict[str, Any]:
    return read_yaml(ROOT / "profiles" / f"{name}.yaml")


def put_everything(params: dict[str, Any]) -> None:
    for dataset in params["ingest"]["datasets"].values():
        for key in ("annotation", "fingerprint"):
            path = Path(dataset[key])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for part in MODELS:
        folder = Path(params["inputs"][part])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ("config.cfg" if part == "parser" else "model.safetensors")).touch()


def test_each_missing_path_is_named_with_what_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = profile("sd15")
    named = {line.split()[0] for line in lacking(params)}
    wanted = {params["inputs"][part] for part in MODELS}
    for dataset in params["ingest"]["datasets"].values():
        wanted |= {dataset["annotation"], dataset["fingerprint"]}
    assert named == wanted - {NOTHING}
    assert len(named) == 15
    put_everything(params)
    assert list(lacking(params)) == []


def test_an_unfinished_and_an_empty_folder_are_no_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = profile("sd15")
    put_everything(params)
    base, text = (Path(params["inputs"][part]) for part in ("base", "text"))
    (text / "model.safetensors").rename(text / "README.md")
    parts = base / ".cache/huggingface/download/unet"
    parts.mkdir(parents=True)
    (parts / "a.incomplete").touch()
    (tmp_path / "data" / "raw" / "rstpreid.dvc").touch()
    (tmp_path / "data" / "raw" / "rstpreid" / "data_captions.json").unlink()
    found = sorted(lacking(params))
    assert [line.split()[0] for line in found] == [
        "data/raw/rstpreid/data_captions.json", str(text), str(base),
    ]  # fmt: skip
    assert "dvc pull data/raw/rstpreid.dvc" in found[0]
    assert "no weights in it" in found[1]
    assert "did not finish" in found[2]


def test_a_path_that_no_input_watches_is_looked_for_and_a_hub_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = profile("sd15")
    put_everything(params)
    params["inputs"] |= {"captioner": NOTHING, "detector": NOTHING}
    params["caption"]["captioner"]["model"] = "data/weights/elsewhere"
    params["annotate"]["proposer"] = "IDEA-Research/grounding-dino-base"
    assert list(lacking(params)) == [
        "data/weights/elsewhere (caption.captioner.model: no such folder)"
    ]
    # What another method would read is not asked for.
    params["caption"] |= {"method": "clip_attributes"}
    params["caption"]["clip_attributes"]["attributes"] = "data/own.yaml"
    assert list(lacking(params)) == [
        "data/weights/clip-vit-base-patch16 (caption.clip_attributes.model: no such folder)",
        "data/own.yaml (caption.clip_attributes.attributes: no such folder)",
    ]
    params["caption"] |= {"method": "keep"}
    assert list(lacking(params)) == []


@pytest.mark.parametrize("name", ["tiny", "micro"])
def test_the_default_has_all_it_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert list(lacking(profile(name))) == []


def test_the_error_names_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PedAlignError, match="docs/weights") as caught:
        check(ROOT / "profiles" / "sd15.yaml")
    assert "pedalign fingerprint data/raw/icfg-pedes" in caught.value.found
    assert caught.value.found.count("\n") == 15


def test_every_watched_model_folder_is_looked_for() -> None:
    data = {
        "adapt",
        "adapt_captions",
        "evaluations",
        "restyle",
        "dad",
        "pretrain_images",
        "pretrain_annotations",
        "reid",
        "words",
    }
    assert set(Inputs.__dataclass_fields__) - data == set(MODELS)


@pytest.mark.parametrize(
    ("command", "everything"),
    [
        ("python -m dvc repro", True),
        ("dvc repro --force -k", True),
        ("dvc repro evaluate@cuhk-pedes-direct", False),
        ("dvc repro -s adapt", False),
        ("dvc exp run", False),
        ("sh -c python", False),
        ("repro", True),
    ],
)
def test_only_a_rebuild_without_targets_wants_everything(command: str, everything: bool) -> None:
    assert wants_everything(command.split()) == everything


def test_what_describes_a_target_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = profile("unlabelled")
    section = params["describe"]["datasets"]["target"]
    named = [line for line in lacking(params) if "describe.datasets.target" in line]
    assert [line.split()[0] for line in named] == [section["captioner"], section["attributes"]]
    section |= {"captioner": NOTHING, "attributes": NOTHING}
    assert not [line for line in lacking(params) if "describe" in line]


def test_the_start_of_re_identification_is_looked_for_unless_a_stage_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = profile("market")
    starts = {name: entry["start"] for name, entry in params["reid"]["datasets"].items()}
    assert starts == {
        "imagenet": "data/weights/swin-base-patch4-window7-224", "sda": "data/checkpoints/pretrain"
    }  # fmt: skip
    found = [line for line in lacking(params) if "reid.datasets" in line]
    assert found == [f"{starts['imagenet']} (reid.datasets.imagenet.start: no such folder)"]
    Path(starts["imagenet"]).mkdir(parents=True)
    (Path(starts["imagenet"]) / "model.safetensors").touch()
    assert [line for line in lacking(params) if "reid.datasets" in line] == []

"""What annotation shows on its run's page: its artifacts, without a server."""

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows import windows
from tasks.images import encode_jpeg
from tasks.schemas import ANNOTATED, IMAGES
from tasks.shards import write_folder

UIDS = [f"{n:016x}" for n in range(3)]
CAPTION = "a man in a red shirt"
PHRASES = [
    {"text": text, "start": CAPTION.find(text), "end": CAPTION.find(text) + len(text),
     "head": text, "group": group, "colours": [], "attributes": []}
    for text, group in (("a man", "person"), ("a red shirt", "upper"))
]  # fmt: skip


def write(root: Path, *, refused: bool) -> tuple[Path, Path]:
    whole, half = [0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]
    rejected = [{"phrase": 1, "box": half, "score": 0.2, "reason": "low-confidence"}]
    rows = [
        {"uid": uid, "caption": CAPTION, "phrases": PHRASES,
         "regions": [{"phrase": 0, "box": whole, "score": 0.9}],
         "rejected": rejected if refused else [], "status": "ok", "error": None}
        for uid in UIDS
    ]  # fmt: skip
    images = [
        dict.fromkeys(IMAGES.names)
        | {"uid": uid, "dataset": "d", "split": "train", "width": 10, "height": 20}
        | {"image": encode_jpeg(np.full((20, 10, 3), 99, np.uint8)), "captions": []}
        | {"source_path": uid, "status": "ok"}
        for uid in UIDS
    ]
    for name, schema, table in (("images", IMAGES, images), ("annotated", ANNOTATED, rows)):
        write_folder(root / name, [pa.Table.from_pylist(table, schema)], name, None, shard_rows=2)
    return root / "images", root / "annotated"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Artifacts of a run by key, instead of a server's."""
    shown: dict[str, object] = {}
    monkeypatch.setattr(windows, "_inside_run", lambda: True)
    monkeypatch.setattr(
        windows, "create_markdown_artifact", lambda text, key, **_: shown.update({key: text})
    )
    monkeypatch.setattr(
        windows, "create_table_artifact", lambda rows, key, **_: shown.update({key: rows})
    )
    return shown


def test_annotation_shows_regions_refused_boxes_and_groups(
    page: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        windows.regions(*write(tmp_path, refused=True))
    assert not caplog.records
    assert sorted(page) == ["annotated", "annotated-groups", "refused-boxes"]
    assert page["annotated-groups"] == [
        {"group": "person", "phrases": "3", "with a region": "100.0%", "mean confidence": "0.90",
         "no box named": "0", "low-confidence": "0"},
        {"group": "upper", "phrases": "3", "with a region": "0.0%", "mean confidence": "–",
         "no box named": "0", "low-confidence": "3"},
        {"group": "all", "phrases": "6", "with a region": "50.0%", "mean confidence": "0.90",
         "no box named": "0", "low-confidence": "3"},
    ]  # fmt: skip
    assert str(page["annotated"]).startswith("![A box for each phrase")


def test_nothing_refused_shows_no_sheet_of_it(page: dict[str, object], tmp_path: Path) -> None:
    windows.regions(*write(tmp_path, refused=False))
    assert sorted(page) == ["annotated", "annotated-groups"]


def evaluated(folder: Path, **protocol: object) -> Path:
    folder.mkdir()
    metrics = {"R1": 75.0, "R5": 90.0, "R10": 94.0, "mAP": 67.0, "mINP": 50.0, "reranked": False}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    told = {"dataset": "mine", "split": "test", "chosen_on": "val", "kept_epoch": 3, "epochs": 9}
    (folder / "protocol.json").write_text(json.dumps(told | protocol))
    return folder


def test_an_evaluation_stands_among_the_published_ones(
    page: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = {"stage": "finetune", "trained_on": "data/ingested/mine"}
    folder = evaluated(tmp_path / "a", format="cuhk-pedes", official=True, **tuned)
    windows.standing("mine", folder)
    rows = page["published-mine"]
    assert isinstance(rows, list)
    names = [row["method"] for row in rows]
    assert names.index("LFSA") + 1 == names.index("mine")  # 75.20, and 75
    assert rows[names.index("mine")]["epoch by"] == "validation"
    printed = capsys.readouterr().out
    assert "3 of 9, by validation" in printed
    assert "IRRA" in printed
    how = page["protocol-mine"]
    assert isinstance(how, list)
    assert how[0]["epoch"] == "3 of 9, by validation"
    pretrained = evaluated(tmp_path / "b", format="cuhk-pedes", stage="pretrain")
    windows.standing("direct", pretrained)
    listed = page["published-direct"]
    assert isinstance(listed, list)
    assert "RDE" not in {row["method"] for row in listed}
    assert listed[0]["method"] == "direct"


def test_on_drawings_one_line_says_why_nothing_is_published(
    page: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows.standing("w", evaluated(tmp_path / "a", format="world-target", drawn=True))
    assert "published-w" not in page
    assert "drawings of this program" in capsys.readouterr().out


def test_a_training_shows_its_epochs(page: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "curve.csv").write_text("step,epoch,lr,loss\n1,1,0.1,4\n2,1,0.1,2\n3,2,0.1,1\n")
    windows.losses("finetune@t", tmp_path)
    assert set(page) == {"finetune-t-losses"}  # nobody ranked an epoch
    chose = {"R1": 10.0, "mAP": 9.0}
    selection = {"scores": {"val": [10.0, 8.0]}, "judges": {},
                 "curve": [{"epoch": 1, "val": chose}, {"epoch": 2, "val": chose}]}  # fmt: skip
    record = {"chosen_on": "val", "kept_epoch": 1, "selection": selection}
    (tmp_path / "training.json").write_text(json.dumps(record))
    windows.losses("finetune@t", tmp_path)
    assert "finetune-t-epochs" in page

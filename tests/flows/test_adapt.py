"""What stage `adapt` shows while it trains."""

import os
from pathlib import Path

import pytest
from PIL import Image

from flows import windows
from flows.adapt import Window


def test_the_sheet_is_shown_whenever_it_has_a_new_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, tuple[int, int]]] = []
    monkeypatch.setattr(windows, "picture", lambda key, image, _: shown.append((key, image.size)))
    sheet = tmp_path / "sheet.png"
    Image.new("RGB", (4, 4)).save(sheet)  # of an earlier try
    window = Window(sheet)
    window.show(1, 10, {"loss": 1.0})
    assert shown == []
    for step, height in ((2, 8), (3, 8), (4, 12)):
        if step != 3:
            Image.new("RGB", (4, height)).save(sheet)
            os.utime(sheet, ns=(step, step))
        window.show(step, 10, {"loss": 1.0})
    assert shown == [("dad-samples", (4, 8)), ("dad-samples", (4, 12))]


def test_there_may_be_no_sheet_yet(tmp_path: Path) -> None:
    Window(tmp_path / "samples" / "sheet.png").show(1, 10, {"loss": 1.0})

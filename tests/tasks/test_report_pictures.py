"""The report's pictures and charts, drawn from values given by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from tasks.disk import size_text
from tasks.report.figures import (
    Curve,
    counts_chart,
    duration,
    loss_chart,
    number,
    png,
    smooth,
)
from tasks.report.gap_figures import Point, curve_chart, trade_chart
from tasks.report.sheets import (
    RIGHT,
    WRONG,
    RankedImage,
    RankList,
    SheetRow,
    contact_sheet,
    rank_sheet,
)


def test_rank_sheet_frames_right_green_and_wrong_red():
    grey = Image.new("RGB", (20, 40), (128, 128, 128))
    lists = [RankList("a man", "", [RankedImage(grey, True), RankedImage(grey, False)], grey)]
    colours = {colour for _, colour in rank_sheet(lists).getcolors(1 << 20)}
    assert tuple(bytes.fromhex(RIGHT[1:])) in colours
    assert tuple(bytes.fromhex(WRONG[1:])) in colours
    with pytest.raises(ValueError, match="0 rank lists"):
        rank_sheet([])


@pytest.mark.parametrize("note", ["c1", "a camera whose name is longer than its picture is wide"])
def test_a_long_note_does_not_reach_its_neighbours(note):
    found = [RankedImage(Image.new("RGB", (50, 100)), False, note) for _ in range(2)]
    sheet = np.asarray(rank_sheet([RankList("q", "", found)], with_truth=False).convert("L"))
    # Between the two pictures, below them, runs a column that is blank.
    red = np.flatnonzero((sheet < 60).sum(0) > 200)  # the black pictures' columns
    right, left = red[red < red.mean()].max(), red[red > red.mean()].min()
    below = sheet[np.flatnonzero((sheet < 60).sum(1) > 200).max() + 6 :, right + 1 : left]
    assert (below > 250).all(0).any()


def test_contact_sheet_shows_missing_pictures_as_such():
    row = SheetRow("source", "", [None, Image.new("RGB", (10, 20), "red")])
    sheet = contact_sheet([row])
    assert sheet.width > sheet.height
    colours = {colour for _, colour in sheet.getcolors(1 << 20)}
    assert (255, 0, 0) in colours
    assert (241, 243, 245) in colours


def test_a_long_title_stays_beside_the_pictures():
    blue = Image.new("RGB", (100, 200), "blue")
    sheet = contact_sheet([SheetRow("an uncommonly long title of a row", "", [blue])])
    left = 24 + 236  # margin and room for the title
    assert (0, 0, 255) in {colour for _, colour in sheet.getcolors(1 << 20)}
    strip = sheet.crop((left - 8, 0, left, sheet.height))
    assert strip.getcolors() == [(8 * sheet.height, (255, 255, 255))]


def test_moving_mean_by_hand():
    # weight 0.5: (1*0.5)/0.5 = 1; (0.25*1 + 0.5*3)/0.75 = 7/3; NaN leaves the mean.
    found = smooth(np.array([1.0, 3.0, np.nan]), weight=0.5)
    np.testing.assert_allclose(found, [1, 7 / 3, 7 / 3])


def test_charts_survive_what_a_short_or_odd_run_gives():
    nothing = np.array([np.nan, np.nan])
    curve = Curve("one", np.array([1.0, 2.0]), {"itc": nothing, "itm": np.array([1.0, np.nan])})
    for figure in (
        loss_chart([curve]),
        counts_chart({"ingest": {}, "restyle": {"ok": 3}}),
        curve_chart(
            [0.0, 0.5], {"KID left": [1.0, np.nan], "content kept": [np.nan, np.nan]}, None
        ),
        trade_chart([Point("a", -0.2, 0.9, np.nan, True), Point("b", 1.0, 1.1, 0.0, False)]),
    ):
        assert Image.open(io.BytesIO(png(figure))).size[0] > 800


def test_words_for_times_and_sizes():
    assert [duration(s) for s in (8.26, 250, 11_100)] == ["8.3 s", "4 min 10 s", "3 h 05 min"]
    assert [number(x) for x in (1980.4, 12.345, 0.02468, -3.5)] == [
        "1,980",
        "12.3",
        "0.0247",
        "-3.5",
    ]
    assert [size_text(n) for n in (0, 640, 1536, 3 << 30)] == ["0 B", "640 B", "1.5 KB", "3.0 GB"]

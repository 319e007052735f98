"""Phrases and regions in the report: every number worked out by hand, and what the sheets show."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.annotate.reasons import REASONS
from tasks.callouts import COLOURS, REFUSED
from tasks.images import encode_jpeg
from tasks.report import region_tally
from tasks.report.parts import Grid, Picture
from tasks.report.region_figures import words_chart
from tasks.report.region_sheets import cards, overlap, refused_sheet, region_sheet, standing
from tasks.report.region_tally import in_order, tally_regions
from tasks.report.regions import group_rows, section
from tasks.schemas import ANNOTATED, IMAGES, SCREENED
from tasks.shards import MANIFEST, write_folder

UIDS = [f"{n:016x}" for n in range(6)]
PARAMS = {
    "phrases": "parser", "parser": "embedded", "proposer": "some/detector", "box_threshold": 0.35,
    "flips": False,
}  # fmt: skip


def phrase(text, head, group, colours=(), attributes=(), start=0):
    return {
        "text": text, "start": start, "end": start + len(text) if start >= 0 else -1, "head": head,
        "group": group, "colours": list(colours),
        "attributes": [{"kind": kind, "value": value} for kind, value in attributes],
    }  # fmt: skip


def box(at, score, reason=None, place=(0.5, 0.5, 0.5, 0.5)):
    found = {"phrase": at, "box": list(place), "score": score}
    return found if reason is None else found | {"reason": reason}


MAN = phrase("A man", "man", "person", (), [("count", "one")])
SHIRT = phrase("a red shirt", "shirt", "upper", ["red"], [("pattern", "striped")])
BLUE = phrase("a blue shirt", "shirt", "upper", ["blue"], [("pattern", "striped"), ("fit", "long")])
BAG = phrase("bag", "bag", "carried", start=-1)
ROWS = [
    # Two of three phrases found; the shirt's second box is refused as surplus.
    ([MAN, SHIRT, BAG], [box(0, 1.0), box(1, 0.5)], [box(1, 0.4, "surplus")]),
    # One phrase found twice, the other refused for its confidence.
    ([MAN, BAG], [box(0, 0.75), box(0, 0.45)], [box(1, 0.25, "low-confidence")]),
    # Two phrases on one box: the shirt stays.
    (
        [SHIRT, BLUE],
        [box(0, 0.95)],
        [box(1, 0.5, "contradiction: red and blue"), box(1, 0.1, "low-confidence")],
    ),
    ([], [], []),
    ([MAN], [], []),
]
"""Phrases, regions and refused boxes of the usable rows; a rejected one follows."""


def write(folder, rows=ROWS, params=PARAMS):
    records = [
        {"uid": UIDS[n], "caption": "A man in a red shirt", "phrases": phrases,
         "regions": regions, "rejected": rejected, "status": "ok", "error": None}
        for n, (phrases, regions, rejected) in enumerate(rows)
    ]  # fmt: skip
    records.append(
        {"uid": UIDS[5], "caption": "x", "phrases": [MAN], "regions": [box(0, 1.0)],
         "rejected": [box(0, 0.1, "surplus")], "status": "rejected", "error": "grey: 1"}
    )  # fmt: skip
    table = pa.Table.from_pylist(records, schema=ANNOTATED)
    meta = {"revisions": {}} | ({"params": params} if params else {})
    write_folder(folder, [table], "annotated", meta, shard_rows=2)
    return folder


def write_images(folder):
    rows = []
    for n, uid in enumerate(UIDS):
        pixels = np.full((40, 20, 3), (40 * n, 0, 0), np.uint8)
        row = dict.fromkeys(IMAGES.names)
        rows.append(
            row
            | {"uid": uid, "dataset": "d", "split": "train", "width": 20, "height": 40}
            | {"image": encode_jpeg(pixels), "captions": [], "source_path": uid, "status": "ok"}
        )
    write_folder(folder, [pa.Table.from_pylist(rows, schema=IMAGES)], "images", shard_rows=4)
    return folder


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    return tally_regions(write(tmp_path_factory.mktemp("data") / "annotated"))


def test_counts_by_hand(counts):
    assert counts.pictures == 5
    assert (counts.phrases, counts.found, counts.regions) == (8, 4, 5)
    assert counts.refused == {"low-confidence": 2, "contradiction": 1, "surplus": 1}
    assert list(counts.refused) == in_order(counts.refused)
    # Pictures with 0, 1, 2, 3 phrases; with 0, 1, 2 regions.
    assert counts.phrases_each == [1, 1, 2, 1]
    assert counts.regions_each == [2, 1, 2]
    assert counts.typical == pytest.approx(2 / 5)
    assert counts.elsewhere == 2  # the bag, twice, stands in no caption


def test_groups_by_hand(counts):
    assert list(counts.groups) == ["person", "upper", "carried"]
    person, upper, carried = counts.groups.values()
    # The man of the last row has no box at all.
    assert (person.phrases, person.found, person.regions, person.silent) == (3, 2, 3, 1)
    assert person.confidence == pytest.approx((1 + 0.75 + 0.45) / 3)
    assert (upper.phrases, upper.found, upper.regions, upper.silent) == (3, 2, 2, 0)
    assert upper.refused == {"low-confidence": 1, "contradiction": 1, "surplus": 1}
    assert (carried.phrases, carried.found, carried.silent) == (2, 0, 1)
    assert carried.confidence == 0
    assert carried.refused == {"low-confidence": 1}
    rows = group_rows(counts)
    assert [row["group"] for row in rows] == ["person", "upper", "carried", "all"]
    assert rows[-1] == {
        "group": "all", "phrases": "8", "with a region": "50.0%", "mean confidence": "0.73",
        "no box named": "2", "low-confidence": "2", "contradiction": "1", "surplus": "1",
    }  # fmt: skip
    assert rows[2]["mean confidence"] == "–"


def test_confidences_by_hand(counts):
    # Twenty bars of 0.05: 0.45 is in the tenth (number 9), 1.0 in the last.
    assert np.flatnonzero(counts.kept).tolist() == [9, 10, 15, 19]
    assert counts.kept[19] == 2  # 0.95 as well
    assert np.flatnonzero(counts.unsure).tolist() == [2, 5]
    assert np.flatnonzero(counts.otherwise).tolist() == [8, 10]
    assert sum(counts.kept) + sum(counts.unsure) + sum(counts.otherwise) == 5 + 4


def test_what_is_named_most_by_hand(counts):
    assert counts.named["phrases"] == [
        ("a man", 3), ("a red shirt", 2), ("bag", 2), ("a blue shirt", 1),
    ]  # fmt: skip
    assert counts.named["heads"] == [("man", 3), ("shirt", 3), ("bag", 2)]
    assert counts.named["colours"] == [("red", 2), ("blue", 1)]
    assert counts.named["attributes"] == [
        ("count: one", 3), ("pattern: striped", 3), ("fit: long", 1),
    ]  # fmt: skip
    assert counts.different == {"phrases": 4, "heads": 3, "colours": 2, "attributes": 3}


def test_rare_words_are_forgotten_where_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(region_tally, "_MOST_WORDS", 2)
    found = tally_regions(write(tmp_path / "annotated")).named
    # Shards of two rows: the first has three texts, of which "a man" and "bag" were seen twice.
    assert found["phrases"][0] == ("a man", 3)
    assert ("bag", 2) in found["phrases"]


def test_the_report_says_how_phrases_and_boxes_were_found(counts, tmp_path):
    assert counts.threshold == 0.35
    assert counts.how() == (
        "Phrases by the parser embedded; boxes by the proposer some/detector, kept from a "
        "confidence of 0.35."
    )
    for params, words in (
        (PARAMS | {"phrases": "words"}, "the same words for every picture"),
        (PARAMS | {"phrases": "detector"}, "from the whole caption"),
        (PARAMS | {"flips": True}, "also asked about the mirrored picture"),
    ):
        assert words in tally_regions(write(tmp_path / words, ROWS[:1], params)).how()
    silent = tally_regions(write(tmp_path / "silent", ROWS[:1], None))
    assert silent.how() == ""
    assert silent.threshold is None


def test_a_table_without_attributes_is_read(counts, tmp_path):
    folder = write(tmp_path / "annotated")
    fields = [field for field in ANNOTATED.field("phrases").type.value_type if
              field.name != "attributes"]  # fmt: skip
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        at = table.column_names.index("phrases")
        old = pa.array(table["phrases"].to_pylist(), pa.list_(pa.struct(fields)))
        pq.write_table(table.set_column(at, "phrases", old), path)
    found = tally_regions(folder)
    assert found.named["attributes"] == []
    assert found.groups == counts.groups
    assert section(found, {}).parts
    assert refused_sheet(write_images(tmp_path / "images"), folder) is not None


def test_a_table_of_rejected_rows_alone_is_read(tmp_path):
    found = tally_regions(write(tmp_path / "annotated", []))
    assert (found.pictures, found.phrases, found.regions, found.refused) == (0, 0, 0, {})
    assert section(found, {}).parts == []
    assert section(None, {}).parts == []
    images = write_images(tmp_path / "images")
    assert region_sheet(images, tmp_path / "annotated", 4, 0) is None
    assert refused_sheet(images, tmp_path / "annotated") is None


def test_the_section_shows_pictures_numbers_and_charts(counts):
    out = section(counts, {"regions": b"one", "refused-boxes": b"two"})
    assert [part.name for part in out.parts if isinstance(part, Picture)] == [
        "regions", "region-counts", "refused-boxes", "phrase-words",
    ]  # fmt: skip
    overview, groups = (part for part in out.parts if isinstance(part, Grid))
    cells = {row[0]: row[1:] for row in overview.rows}
    assert cells["annotated pictures"] == ("5", "")
    assert cells["phrases"] == ("8", "1.60")
    assert cells["– not in the caption"] == ("2", "")
    assert cells["phrases with a region"] == ("4", "0.80")
    assert cells["regions"] == ("5", "1.00")
    assert cells["boxes refused"] == ("4", "0.80")
    assert cells["pictures without a region"] == ("2", "")
    assert "by the proposer some/detector" in overview.caption
    assert REASONS["surplus"] in groups.caption
    assert len(groups.rows) == 4
    chart = next(part for part in out.parts if part.is_picture and part.name == "region-counts")
    assert "40% have 2 to 4 regions" in chart.caption
    assert Image.open(io.BytesIO(chart.data)).size[0] > 1000


def test_charts_take_any_word():
    named = {"phrases": [("$x_{", 2), ("a\nb" * 40, 1)], "heads": [], "colours": [("zzz", 1)]}
    assert words_chart(named, {"phrases": 2, "heads": 0, "colours": 1}).axes


# -- sheets -----------------------------------------------------------------------------------


def colours_in(image):
    return {colour for _, colour in image.getcolors(1 << 24)}


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def test_the_sheet_shows_rows_with_regions_first_and_what_screening_keeps(tmp_path):
    images, annotated = write_images(tmp_path / "images"), write(tmp_path / "annotated")
    sheet = region_sheet(images, annotated, 3, 0, columns=2)
    # The three rows that have regions: pictures 0, 1 and 2, whose reds are 0, 40 and 80.
    shown = colours_in(sheet)
    assert rgb(COLOURS["upper"]) in shown
    assert rgb(COLOURS["person"]) in shown
    assert rgb(REFUSED) not in shown
    one = region_sheet(images, annotated, 1, 0, columns=2)
    assert sheet.width > 1.8 * one.width
    assert sheet.height > 1.8 * one.height
    screened = [
        {"uid": uid, "keep": uid == UIDS[4], "reason": None if uid == UIDS[4] else "grey",
         "grey_variance": 1.0, "jpeg_bytes": 1, "people": None, "pose_score": None,
         "duplicate_of": None, "status": "ok" if uid == UIDS[4] else "rejected",
         "error": None if uid == UIDS[4] else "grey: 1"}
        for uid in UIDS
    ]  # fmt: skip
    folder = tmp_path / "screened"
    write_folder(
        folder, [pa.Table.from_pylist(screened, schema=SCREENED)], "screened", shard_rows=9
    )
    kept = region_sheet(images, annotated, 3, 0, screened=folder)
    assert rgb(COLOURS["upper"]) not in colours_in(kept)  # row 4 has a man and no region


def test_a_missing_picture_leaves_a_grey_pane():
    entry = {"caption": "a man", "phrases": [MAN], "regions": [box(0, 0.5)], "rejected": []}
    assert (241, 243, 245) in colours_in(cards([(None, entry)]))


def test_refused_boxes_stand_in_a_row_a_reason(tmp_path):
    images, annotated = write_images(tmp_path / "images"), write(tmp_path / "annotated")
    sheet = refused_sheet(images, annotated, each=1)
    # Three reasons, three rows of equal height; of two of them, the box that stays is shown.
    shown = colours_in(sheet)
    assert rgb(REFUSED) in shown
    assert rgb(COLOURS["upper"]) in shown
    assert rgb(COLOURS["person"]) not in shown
    assert refused_sheet(images, write(tmp_path / "two", ROWS[:2]), each=1).height < sheet.height
    assert refused_sheet(images, write(tmp_path / "none", ROWS[3:]), each=1) is None


def test_which_box_stays_in_a_refused_ones_place():
    here, there = (0.25, 0.5, 0.5, 1.0), (0.75, 0.5, 0.5, 1.0)
    regions = [box(0, 0.9, None, here), box(1, 0.5, None, there), box(1, 0.8, None, here)]
    assert standing(box(2, 0.4, "contradiction: x", there), regions) is regions[1]
    assert standing(box(2, 0.4, "duplicate", (0.2, 0.5, 0.4, 1.0)), regions) is regions[0]
    assert standing(box(1, 0.4, "surplus", there), regions) is regions[2]
    assert standing(box(1, 0.4, "low-confidence", there), regions) is None
    assert standing(box(1, 0.4, "duplicate", there), []) is None


def test_overlap_by_hand():
    # Two halves of the picture that share a quarter: 0.25 / (0.5 + 0.5 - 0.25).
    assert overlap((0.25, 0.5, 0.5, 1), (0.5, 0.5, 0.5, 1)) == pytest.approx(0.25 / 0.75)
    assert overlap((0.25, 0.5, 0.5, 1), (0.75, 0.5, 0.5, 1)) == 0
    assert overlap((0.5, 0.5, 0, 0), (0.5, 0.5, 0, 0)) == 0


def test_the_choice_of_pictures_does_not_depend_on_shards(tmp_path):
    images, annotated = write_images(tmp_path / "images"), write(tmp_path / "annotated")
    assert len(json.loads((annotated / MANIFEST).read_text())["shards"]) > 1
    other = tmp_path / "other"
    tables = [pq.read_table(path) for path in sorted(annotated.glob("*.parquet"))]
    write_folder(other, [pa.concat_tables(tables)], "annotated", shard_rows=100)
    for draw in (lambda folder: region_sheet(images, folder, 2, 3),
                 lambda folder: refused_sheet(images, folder, 1, 3)):  # fmt: skip
        assert draw(annotated).tobytes() == draw(other).tobytes()

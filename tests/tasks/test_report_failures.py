"""Failures by what a query mentions, what wrong pictures share, and the map of the domains."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.images import encode_jpeg
from tasks.phrases import load_parser, parse
from tasks.report import failing
from tasks.report.domains import domain_map, lay_out, picture
from tasks.report.mentions import failures, interval, mentioned, names_it
from tasks.report.sources import Sources
from tasks.schemas import IMAGES
from tasks.shards import write_folder

PEOPLE = 30


def image_row(number, person, split="test", dataset="target", value=99):
    return dict.fromkeys(IMAGES.names) | {
        "uid": f"{number:016x}", "dataset": dataset, "split": split,
        "person_id": f"{dataset}/{person}", "image": encode_jpeg(np.full((8, 4, 3), value, "u1")),
        "width": 4, "height": 8, "captions": [], "source_path": f"{split}/{number}", "status": "ok",
    }  # fmt: skip


def write(folder, rows):
    rows = sorted(rows, key=lambda row: row["uid"])
    write_folder(folder, [pa.Table.from_pylist(rows, IMAGES)], "images", {}, shard_rows=16)
    return folder


@pytest.fixture
def world(tmp_path):
    """30 test people of one picture: even ones wear red coats and carry bags, odd ones blue shirts.

    Queries of odd people are right. Those of even people find the next even one: the coat is
    right, the bag is another, for bags go by thirds.
    """
    rows = [image_row(n, n) for n in range(PEOPLE)]
    rows += [image_row(100 + n, 100 + n, "train") for n in range(3)]
    folder = write(tmp_path / "ingested/target", rows)
    bags = ["backpack", "handbag", "suitcase"]
    truth = [
        {"source_path": f"test/{n}", "look": "cam", "upper_kind": ["coat", "shirt"][n % 2],
         "bag": bags[n // 2 % 3] if n % 2 == 0 else "none"}
        for n in range(PEOPLE)
    ]  # fmt: skip
    schema = pa.schema([
        pa.field("source_path", pa.string(), metadata={"meaning": "path"}),
        pa.field("look", pa.string(), metadata={"meaning": "look or camera"}),
        pa.field("upper_kind", pa.string(), metadata={"meaning": "attribute upper_kind of ..."}),
        pa.field("bag", pa.string(), metadata={"meaning": "attribute bag of ..."}),
    ])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(truth, schema), folder / "truth.parquet")
    queries = []
    for n in range(PEOPLE):
        wrong = n % 2 == 0
        text = "a man in a red coat with a bag" if wrong else "a woman in a blue shirt"
        first = (n + 2) % PEOPLE if wrong else n
        queries += [
            {"uid": f"{n:016x}", "caption": f"{text}{'.' * again}", "person_id": f"target/{n}",
             "first_rank": 2 if wrong else 1, "top10": [f"{first:016x}", f"{n:016x}"]}
            for again in range(2)
        ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(queries), tmp_path / "queries.parquet")
    return tmp_path


def test_rank1_by_mention(world):
    found = failures("direct", world / "queries.parquet", [world / "ingested/target"], seed=0)
    assert (found.queries, found.people, found.rank1, found.wrong) == (60, 30, 50.0, 30)
    by = {(m.kind, m.value): m for m in found.mentions}
    assert (by["colour", "red"].rank1, by["colour", "red"].without) == (0, 100)
    assert (by["colour", "blue"].rank1, by["upper body", "shirt"].rank1) == (100, 100)
    assert by["names", "a bag or a thing carried"].queries == 30
    assert by["names", "a bag or a thing carried"].people == 15
    # Everybody wears something above, so this tells nobody apart.
    assert ("names", "something on the upper body") not in by
    firsts = [m.rank1 for m in found.mentions]
    assert firsts == sorted(firsts, reverse=True)


def test_what_wrong_pictures_share(world):
    found = failures("direct", world / "queries.parquet", [world / "ingested/target"], seed=0)
    by = {each.attribute: each for each in found.shared}
    assert set(by) == {"upper kind", "bag"}  # a look is no attribute
    assert (by["upper kind"].queries, by["upper kind"].shared) == (30, 100)
    assert by["bag"].shared == 0
    # 14 of the other 29 wear a coat, and 4 carry such a bag: test pictures alone are the gallery.
    assert by["upper kind"].chance == pytest.approx(100 * 14 / 29)
    assert by["bag"].chance == pytest.approx(100 * 4 / 29)
    assert [each.attribute for each in found.shared] == ["bag", "upper kind"]


def test_without_the_truth_there_are_mentions_alone(world):
    (world / "ingested/target/truth.parquet").unlink()
    found = failures("direct", world / "queries.parquet", [world / "ingested/target"], seed=0)
    assert found.shared == ()
    section = failing.section(found)
    assert [part.is_picture for part in section.parts] == [True, False]
    assert "wrong first pictures" not in section.parts[0].caption


def test_the_section_draws_one_figure_and_two_tables(world):
    found = failures("direct", world / "queries.parquet", [world / "ingested/target"], seed=0)
    figure, mentions, shared = failing.section(found).parts
    assert figure.is_picture
    assert "30 wrong first pictures" in figure.caption
    assert ("red (colour)", "30", "15", "0.0", "0.0 to 0.0", "100.0") in mentions.rows
    assert ("bag", "30", "0.0", "100.0", f"{400 / 29:.1f}") in shared.rows
    again = failing.section(found).parts[0]
    assert again.data == figure.data
    assert failing.section(None).parts == []


def test_rare_mentions_are_left_out(world):
    table = pq.read_table(world / "queries.parquet").to_pylist()
    table[0]["caption"] = "a man with an orange umbrella"
    pq.write_table(pa.Table.from_pylist(table), world / "queries.parquet")
    found = failures("direct", world / "queries.parquet", [], seed=0)
    assert "orange" not in {m.value for m in found.mentions}


def test_nobody_to_find_gives_no_section(world):
    table = pq.read_table(world / "queries.parquet").to_pylist()
    rows = [row | {"first_rank": 0} for row in table]
    pq.write_table(pa.Table.from_pylist(rows), world / "queries.parquet")
    assert failures("direct", world / "queries.parquet", [], seed=0) is None


def test_an_interval_is_over_people_and_not_over_queries():
    # 20 people: of ten every one of 30 queries is right, of the others none is. Over 600 queries
    # 50 % would be known to 4 points; over 20 people it is not known to 20.
    asked = np.full((20, 1), 30.0)
    hits = np.where(np.arange(20)[:, None] < 10, 30.0, 0.0)
    low, high = interval(hits, asked, seed=0)
    assert high[0] - low[0] > 35
    assert low[0] < 50 < high[0]
    # Where all are equal, nothing varies; and a seed gives the same again.
    flat = interval(np.full((20, 1), 3.0), np.full((20, 1), 6.0), seed=1)
    assert (flat[0][0], flat[1][0]) == (50, 50)
    assert interval(hits, asked, seed=0)[0] == low


@pytest.mark.parametrize(
    ("caption", "mentions"),
    [
        ("a man in a dark blue striped shirt",
         {("colour", "blue"), ("pattern", "striped"), ("upper body", "shirt"), ("gender", "male")}),
        ("a woman with a white handbag", {("carried", "handbag"), ("colour", "white")}),
        ("she has long black hair", {("names", "hair"), ("length", "long"), ("colour", "black")}),
    ],
)  # fmt: skip
def test_what_a_caption_mentions(caption, mentions):
    (phrases,) = parse(load_parser(), [caption])
    assert mentions <= mentioned(phrases)
    assert ("hair", "hair") not in mentioned(phrases)


def test_whether_a_caption_names_an_attribute_of_the_world():
    (phrases,) = parse(load_parser(), ["a man in a striped shirt and black shoes"])
    named = ("gender", "upper_kind", "upper_pattern", "shoe_colour", "shoe_kind")
    assert all(names_it(name, phrases) for name in named)
    silent = ("upper_colour", "bag", "bag_colour", "hat", "hair_length")
    assert not any(names_it(name, phrases) for name in silent)


# ------------------------------------------------------------------ the map of the domains


def clouds():
    rng = np.random.default_rng(3)
    return {
        "source": rng.normal(0, 1, (30, 6)) + 20,
        "restyled": rng.normal(0, 1, (30, 6)),
        "target": rng.normal(0, 1, (24, 6)),
    }


def test_a_map_keeps_apart_what_is_apart_and_is_the_same_again():
    found = lay_out(clouds(), "some features", seed=5)
    assert {name: len(points) for name, points in found.points.items()} == {
        "source": 30, "restyled": 30, "target": 24,
    }  # fmt: skip
    centre = {name: points.mean(0) for name, points in found.points.items()}
    near = np.linalg.norm(centre["restyled"] - centre["target"])
    far = np.linalg.norm(centre["source"] - centre["target"])
    assert far > 2 * near
    again = lay_out(clouds(), "some features", seed=5)
    assert all(np.array_equal(found.points[n], again.points[n]) for n in found.points)
    drawn = picture(found)
    assert "perplexity 27.6667, seed 5" in drawn.caption
    assert "30 source, 30 restyled, 24 target" in drawn.caption
    assert drawn.data == picture(again).data


def test_features_that_say_nothing_have_no_map():
    assert lay_out({"source": np.ones((9, 3)), "target": np.ones((9, 3))}, "same", 0) is None
    assert lay_out({"source": np.full((9, 3), np.nan)}, "none", 0) is None
    assert lay_out({"source": np.eye(2)}, "few", 0) is None


def test_without_an_encoder_there_is_no_map(tmp_path, caplog):
    folder = write(tmp_path / "ingested/target", [image_row(n, n) for n in range(9)])
    assert domain_map(Sources(ingested=(folder,), target="target"), seed=0) is None
    broken = tmp_path / "pretrain"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    sources = Sources(ingested=(folder,), target="target", checkpoints={"pretrain": broken})
    assert domain_map(sources, seed=0) is None
    assert "no map of the domains" in caplog.text

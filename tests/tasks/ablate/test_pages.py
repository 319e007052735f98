"""Pages, tables and pictures of an ablation, from records that never ran."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.ablate import changes, disagreement, figures, mentions, paper, sections, tables
from tasks.ablate.changes import nearest
from tasks.ablate.pages import grid_lines, markdown, plain, write
from tasks.ablate.records import by_arm, read_answers, read_record
from tasks.ablate.results import gather, spread
from tasks.errors import PedAlignError
from tasks.images import encode_jpeg
from tasks.report.parts import Grid
from tasks.report.sources import Sources
from tasks.schemas import IMAGES
from tasks.shards import write_folder
from tests.ablations import Contrast, Experiment, queries, small, write_records


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    experiment = small()
    root = tmp_path_factory.mktemp("records")
    return experiment, write_records(experiment, root, skip=(("restyle-50%", 2),))


@pytest.fixture(scope="module")
def results(recorded):
    return gather(*recorded, resamples=500)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    asked = queries()
    rows = []
    for at, (uid, person) in enumerate(sorted(zip(asked.uids, asked.people, strict=True))):
        image = Image.new("RGB", (24, 48), (at * 4, 90, 200 - at * 3))
        row = dict.fromkeys(IMAGES.names)
        row |= {"uid": uid, "dataset": "world-target", "split": "test", "person_id": person}
        row |= {"image": encode_jpeg(image), "width": 24, "height": 48, "captions": ["a man"]}
        rows.append(row | {"source_path": f"{at}.jpg", "status": "ok"})
    folder = tmp_path_factory.mktemp("gallery") / "target"
    table = pa.Table.from_pylist(rows, schema=IMAGES)
    write_folder(folder, [table], "images", {"drawn": True}, 64)
    return folder


def test_answers_are_in_one_order_whatever_the_order_of_rows(recorded, tmp_path):
    _, folders = recorded
    record = read_record(folders[0])
    answers = read_answers([record], "tuned")
    table = pq.read_table(folders[0] / "tuned.parquet")
    turned = tmp_path / "turned"
    turned.mkdir()
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), turned / "tuned.parquet")
    other = read_answers([replace(record, folder=turned)], "tuned")
    assert other.captions == answers.captions
    assert np.array_equal(other.rank_SQ, answers.rank_SQ)
    assert answers.values("R1").mean() == pytest.approx(record.figures["tuned"]["R1"], abs=1e-3)
    assert answers.values("mAP").mean() == pytest.approx(record.figures["tuned"]["mAP"], abs=1e-2)
    assert answers.cmc(10)[0, 4] == pytest.approx(record.figures["tuned"]["R5"], abs=1e-3)


def test_other_queries_and_damaged_records_are_errors(recorded, tmp_path):
    _, folders = recorded
    short = tmp_path / "short"
    short.mkdir()
    pq.write_table(pq.read_table(folders[0] / "tuned.parquet").slice(1), short / "tuned.parquet")
    records = [read_record(folders[0]), replace(read_record(folders[1]), folder=short)]
    with pytest.raises(PedAlignError, match="same queries"):
        read_answers(records, "tuned")
    (short / "result.json").write_text('{"arm": "x", "seed": 0, "direct": {"R1": 3}}')
    with pytest.raises(PedAlignError, match="R5"):
        read_record(short)


def test_runs_that_are_not_planned_are_left_out(recorded, caplog):
    experiment, folders = recorded
    fewer = replace(experiment, arms={"no-pretraining": experiment.arms["no-pretraining"]})
    found = by_arm(fewer, [*folders, folders[0].parent / "not there"])
    assert {name: len(runs) for name, runs in found.items()} == {"no-pretraining": 3}
    assert "left out" in caplog.text


def test_contrasts_are_differences_of_the_means(results):
    for each in results.compared:
        better, plain_arm = (
            np.mean(results.figures(arm, "tuned", "R1"))
            for arm in (each.stated.better, each.stated.plain)
        )
        assert each.found.value == pytest.approx(better - plain_arm, abs=1e-3)
        assert each.adjusted >= each.found.p
        assert each.smallest > each.found.error
    assert results.planned == 18
    assert results.finished == 17
    assert results.seeds("restyle-50%") == "2 of 3"


def test_a_figure_that_its_queries_do_not_give_is_told(recorded, tmp_path):
    experiment, _ = recorded
    one = Experiment({"no-pretraining": experiment.arms["no-pretraining"]})
    folders = write_records(one, tmp_path / "records")
    body = json.loads((folders[1] / "result.json").read_text())
    body["tuned"]["R1"] += 5
    (folders[1] / "result.json").write_text(json.dumps(body))
    found = gather(one, folders, resamples=50)
    assert len(found.differing) == 1
    assert "seed 1" in found.differing[0]
    assert "- Not as recorded: no-pretraining" in markdown(found, [], ["x"], "", "")


@pytest.fixture(scope="module")
def pages(recorded, gallery, tmp_path_factory):
    """The whole of it, once."""
    out = tmp_path_factory.mktemp("pages")
    (out / "ablation-findings.md").write_text("Drawn by chance <b>.\n\n- one\n- two\n")
    write(*recorded, out, command="pedalign ablate x.yaml", gallery=gallery)
    return out


def test_the_page_says_what_is_there_and_what_is_missing(pages, recorded):
    page = (pages / "ablation.md").read_text()
    assert "interim: 17 of 18 runs" in page
    assert "`pedalign ablate x.yaml`" in page
    assert "commit 0123456789" in page
    assert "drawings made by this program" in page
    assert "- aligned pretraining: +" in page
    assert "Drawn by chance <b>." in page
    html = (pages / "ablation.html").read_text()
    assert "Drawn by chance &lt;b&gt;." in html
    assert "dataset_card" not in html
    assert html.count("data:image/") == 7
    for name in ("contrasts", "arms", "curves", "cmc", "failures", "disagreement", "epochs"):
        data = (pages / f"ablation-{name}.png").read_bytes()
        assert min(Image.open(io.BytesIO(data)).size) > 200
        assert f"(ablation-{name}.png)" in page
    lines = (pages / "ablation.csv").read_text().splitlines()
    assert len(lines) == 1 + 6 * 3 * 5
    assert len((pages / "ablation-runs.csv").read_text().splitlines()) == 1 + 17
    told = pd.read_csv(pages / "ablation-queries.csv")
    assert told.shape == (3 * 120, 4 + 17)
    first = pq.read_table(recorded[1][0] / "tuned.parquet").to_pandas()
    ranks = first.set_index("uid")["rank_of_first"]
    told = told[told["evaluation"] == "tuned"].set_index("uid")
    assert told["no-pretraining, seed 0"].to_dict() == ranks.to_dict()


def test_drawn_people_are_told_where_their_pictures_are_not_at_hand(recorded, tmp_path):
    write(*recorded, tmp_path / "drawn", drawn=True)
    write(*recorded, tmp_path / "real")
    for name, expected in (("drawn", True), ("real", False)):
        page = (tmp_path / name / "ablation.md").read_text()
        assert ("drawings made by this program" in page) is expected
        assert ("ours on a drawn world" in page) is expected


def test_the_same_records_give_the_same_bytes(recorded, gallery, pages, tmp_path):
    experiment, folders = recorded
    found = pages / "ablation-findings.md"
    (tmp_path / found.name).write_bytes(found.read_bytes())
    write(experiment, folders[::-1], tmp_path, command="pedalign ablate x.yaml", gallery=gallery)
    files = sorted(path.name for path in pages.iterdir())
    assert files == sorted(path.name for path in tmp_path.iterdir())
    for file in files:
        assert (tmp_path / file).read_bytes() == (pages / file).read_bytes()


def test_the_gap_before_and_after_stands_on_the_page(recorded, tmp_path):
    gap = tmp_path / "data" / "reports" / "gap"
    gap.mkdir(parents=True)
    (gap / "metrics.json").write_text('{"arm": "restyled", "start": "source"}')
    header = (
        "arm,mode,strength,changes,reason,KID_left,KID_low,KID_high,FID_left,CMMD,CMMD_left,"
        "told_apart,content_kept,least_kept,least_attribute,colours_kept,pictures,pose_distance"
    )
    lines = (
        "source,none,,as it came,,1,,,1,,,100,0.9,0.7,bag kind,0.8,64,",
        "restyled,restyle,0.4,as the run,,0.25,0.1,0.4,0.2,,,88,0.93,0.6,hat kind,0.75,64,",
        "target,target,,held-out pictures,,0,,,0,,,55,1,,,1,64,",
    )
    (gap / "arms.csv").write_text("\n".join((header, *lines)) + "\n")
    (gap / "curve.csv").write_text("strength\n")
    (gap / "details").mkdir()
    for name in ("statistics", "attributes"):
        (gap / "details" / f"{name}.csv").write_text("arm\n")
    sources = Sources.under(tmp_path / "data", target="target")
    out = tmp_path / "out"
    write(*recorded, out, domains=("restyle-regions", sources))
    page = (out / "ablation.md").read_text()
    assert "can still be read off them. Here of restyle-regions." in page
    assert "25 %" in page.split("## Domain gap")[1]
    assert "(ablation-gap-domain-gap.png)" in page
    assert (out / "ablation-gap-domain-gap.png").exists()
    # The arms' own chart keeps its name.
    assert "(ablation-arms.png)" in page


def test_nothing_computed_yet_is_a_page_too(tmp_path):
    write(small(), [], tmp_path)
    page = (tmp_path / "ablation.md").read_text()
    assert "interim: 0 of 18 runs" in page
    assert page.count("not computed yet") == 3 + 3
    assert (tmp_path / "ablation.html").exists()


def test_one_seed_makes_no_claim(tmp_path):
    experiment = small(seeds=1)
    found = gather(experiment, write_records(experiment, tmp_path / "r"), resamples=50)
    assert all(math.isnan(each.adjusted) for each in found.compared)
    assert found.compared[0].verdict == "one seed: nothing can be said"
    assert "from one seed" in markdown(found, [], ["x"], "", "")
    assert tables.varying(found) is None


def test_before_all_seeds_are_in_nothing_is_claimed(tmp_path):
    experiment = small(seeds=4)
    skip = tuple(("restyle-regions", seed) for seed in (2, 3))
    found = gather(experiment, write_records(experiment, tmp_path / "r", skip=skip), resamples=50)
    for each in found.compared:  # all three are with restyle-regions
        assert each.verdict == "interim: 2 of 4 seeds"
        assert math.isnan(each.adjusted)
    claims = tables.contrasts(found)[0].rows
    assert {(row[4], row[5], row[7]) for row in claims} == {("–", "–", "2 of 4")}
    assert "interim: 2 of 4 seeds." in markdown(found, [], ["x"], "", "")


def test_an_arm_stands_beside_those_that_it_changes_further():
    stated = {
        "both": {"mode": "none", "weight": 0},
        "plain": {"mode": "none"},
        "image": {"weight": 0},
        "mra": {},
        "beta": {"weight": 0.4},
        "both-kept": {"mode": "none", "weight": 0, "captions": "keep"},
    }
    assert nearest(stated) == {
        "both": ["plain", "image", "mra"],
        "plain": ["mra"],
        "image": ["mra"],
        "beta": ["mra"],
        "both-kept": ["both", "mra"],  # "plain" and "image" stand between
    }
    assert nearest({"a": {"x": 1}, "b": {"y": 1}}) == {}


def test_changes_are_by_the_seeds_that_both_arms_have(tmp_path):
    experiment = small(seeds=5)
    skip = (("restyle-regions", 0), ("restyle-50%", 1))
    results = gather(experiment, write_records(experiment, tmp_path, skip=skip), resamples=50)
    assert results.common(["restyle-regions", "restyle-50%"]) == [2]
    assert results.common(["restyle-regions", "no-pretraining"]) == [1, 2, 3, 4]
    grid = changes.table(results)
    cells = {row[0]: row[1:] for row in grid.rows}
    assert cells["restyle-50%"][:2] == ["restyle-regions", "1"]
    one, other = (
        results.figures(arm, "tuned", "R1", [2]) for arm in ("restyle-50%", "restyle-regions")
    )
    assert cells["restyle-50%"][2] == f"{one[0] - other[0]:+.2f}"  # and no interval
    assert cells["no-pretraining"][1] == "4"
    assert " to " in cells["no-pretraining"][2]
    # So are rows that stand under each other beside the paper's.
    ours = [g for g in tables.beside(results, "here") if "weight of the region" in g.caption]
    assert [row[2] for row in ours[-1].rows] == ["2", "2", "2"]  # seeds 1 and 2


def test_several_seeds_have_an_interval_in_every_chart(results):
    dot = sections._dot(results, "restyle-regions", "tuned")
    assert dot.low < dot.value < dot.high
    assert len(sections._dot(results, "restyle-regions", "tuned", [1, 2]).seeds) == 2
    assert sections._dot(results, "restyle-regions", "tuned", [9]) is None
    figure = figures.arms_chart([figures.ArmRow("a", "main", None, dot, "3 seeds")])
    spans = [line.get_xdata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert [dot.low, dot.high] in [list(span) for span in spans]


def test_groups_are_held_against_the_difference_over_all(results):
    better, other = (results.answers[a, "tuned"] for a in ("restyle-regions", "no-pretraining"))
    groups = mentions.grouped(better, other, least_people=5, resamples=200)
    for overall, coloured in ((groups[0].difference.value, False), (1000.0, True)):
        figure = figures.mentions_chart(groups[:1], "a", "b", overall)
        dot = next(line for line in figure.axes[1].lines if line.get_marker() == "o")
        assert dot.get_xdata()[0] == pytest.approx(groups[0].difference.value)
        assert (dot.get_color() == figures.TUNED) is coloured


def test_findings_that_are_outdated_are_told(recorded, tmp_path, caplog):
    experiment, folders = recorded
    (tmp_path / "ablation-findings.md").write_text("**Interim.** More to come.\n")
    write(experiment, folders, tmp_path)
    assert "interim" not in caplog.text.lower()
    whole = small()
    write(whole, write_records(whole, tmp_path / "r"), tmp_path)
    assert "speaks of interim results" in caplog.text


def test_evaluations_of_other_pictures_are_rows_of_their_own(recorded, tmp_path):
    experiment, _ = recorded
    folders = write_records(experiment, tmp_path / "r")
    for folder in folders:
        table = pq.read_table(folder / "direct.parquet").slice(0, 90)
        pq.write_table(table, folder / "direct.parquet")
    told = pd.read_csv(io.StringIO(tables.queries_csv(gather(experiment, folders, resamples=50))))
    assert told.groupby("evaluation").size().to_dict() == {
        "direct": 90, "tuned": 120, "tuned_by_test": 120,
    }  # fmt: skip


def test_one_seed_has_no_interval(tmp_path):
    experiment = small(seeds=1)
    found = gather(experiment, write_records(experiment, tmp_path / "r"), resamples=50)
    assert {row[3] for row in tables.contrasts(found)[0].rows} == {"–"}
    # And its dot stands inside the chart, which has no interval's end to go by.
    figure = figures.arms_chart(
        [figures.ArmRow("a", "main", None, figures.Dot(30.0, math.nan, math.nan, [30.0]), "1 seed")]
    )
    assert 30 < figure.axes[0].get_xlim()[1] < 100
    rows = tables.measures_csv(found, 50).splitlines()[1:]
    assert all(row.endswith(",,,") for row in rows)  # neither deviation nor interval


def test_who_made_it_on_what_and_what_is_shared_is_told(tmp_path):
    experiment = small()
    folders = write_records(experiment, tmp_path / "r")
    one, other = folders[0], folders[1]
    for folder, more in (
        (one, {"made_by": ["feedbeef-dirty"], "device": "cpu", "trainings": {"pretrain": "k"}}),
        (other, {"device": "cuda", "trainings": {"pretrain": "k"}}),
    ):
        body = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(body | more))
    assert read_record(one).commits == ("0123456789abcdef", "feedbeef-dirty")
    found = gather(experiment, folders, resamples=50)
    assert found.commits == ["0123456789abcdef", "feedbeef-dirty"]
    assert found.differing == ["runs were computed on cpu and cuda"]
    assert found.core_seconds == len(folders) * 270 - 150  # one pretraining is of both
    write(experiment, folders, tmp_path / "out")
    assert "commit 0123456789, feedbeef-dirty" in (tmp_path / "out" / "ablation.md").read_text()


def test_without_fine_tuning_direct_transfer_is_the_claim(recorded, tmp_path):
    experiment, _ = recorded
    folders = write_records(experiment, tmp_path / "r")
    for folder in folders:
        body = json.loads((folder / "result.json").read_text())
        body |= {"tuned": None, "tuned_by_test": None, "curve": []}
        (folder / "result.json").write_text(json.dumps(body))
        (folder / "tuned.parquet").unlink()
        (folder / "tuned_by_test.parquet").unlink()
    found = gather(experiment, folders, resamples=50)
    assert found.claimed == "direct"
    assert found.compared[0].found.value > 5
    (grid,) = tables.arms(found)
    assert grid.caption.startswith("Direct transfer")


def test_the_papers_figures_and_ours_share_no_table(results):
    theirs = {f"{value:.2f}" for t in paper.TABLES for row in t.rows for value in (row.r1, row.r10)}
    grids = list(tables.beside(results, "on a drawn world"))
    for grid in grids:
        cells = {cell for row in grid.rows for cell in row}
        if grid.caption.startswith("Theirs"):
            assert not any("±" in cell for cell in cells)
        else:
            assert "on a drawn world" in grid.caption
            assert not cells & theirs
    kinds = [grid.caption.split(":")[0] for grid in grids[:-1]]
    assert kinds == ["Theirs", "Ours"] * len(paper.TABLES)


def test_the_papers_curves_are_its_tables():
    for table in paper.TABLES:
        if table.curve:
            assert [r1 for _, r1 in paper.CURVES[table.curve]] == [row.r1 for row in table.rows]


def test_queries_are_grouped_by_what_they_mention(results):
    assert mentions.mentioned(["a man in a scarlet striped jacket and grey jeans"]) == [
        frozenset(
            {
                ("colour", "red"),
                ("colour", "gray"),
                ("thing", "jacket"),
                ("thing", "jeans"),
                ("attribute", "pattern: striped"),
                ("attribute", "gender: male"),
            }
        )
    ]
    arms = (results.answers[arm, "tuned"] for arm in ("restyle-regions", "no-pretraining"))
    groups = mentions.grouped(*arms, least_people=5, resamples=50)
    named = {(group.kind, group.name): group for group in groups}
    assert ("thing", "jeans") not in named  # all queries mention them
    red = named["colour", "red"]
    assert red.people == 20  # of 60 people ten wear it above and ten below
    assert red.queries == 40
    assert red.difference.value == pytest.approx(red.better - red.plain)


def test_disagreements_are_for_and_against(results):
    better, other = (results.answers[a, "tuned"] for a in ("restyle-regions", "no-pretraining"))
    places = disagreement.chosen(better, other, 6)
    assert len(places) == 6
    hits = [(better.rank_SQ[0, at] == 1, other.rank_SQ[0, at] == 1) for at in places]
    assert hits == [(True, False)] * 3 + [(False, True)] * 3
    for half in (places[:3], places[3:]):
        assert len({better.people[at] for at in half}) == 3
    assert disagreement.chosen(better, better, 6) == []
    assert disagreement.sheet(("a", better), ("b", other), [], []) is None


def test_markdown_tables_keep_their_columns():
    grid = Grid("", ["a", "b"], [["x|y", "1"]], best=frozenset({(0, 1)}))
    assert grid_lines(grid) == ["| a | b |", "| :--- | ---: |", "| x\\|y | **1** |"]
    assert plain("# Head\n\nIt goes\non.\n\n- **one**\n  more\n- `two`\n") == [
        "Head", "It goes on.", "one more", "two",
    ]  # fmt: skip
    assert spread([]) == "–"
    assert spread([2.0]) == "2.00"
    assert spread([1.0, 3.0]) == "2.00 ± 1.41"


def test_a_contrast_of_an_arm_without_runs_still_counts(recorded):
    experiment, folders = recorded
    wider = replace(
        experiment, contrasts=(*experiment.contrasts, Contrast("later", "restyle-50%", "nobody"))
    )
    fewer, more = (gather(each, folders, resamples=200) for each in (experiment, wider))
    assert more.compared[-1].found is None
    assert more.compared[0].smallest > fewer.compared[0].smallest
    assert more.compared[0].adjusted == pytest.approx(
        min(1.0, fewer.compared[0].adjusted * 4 / 3), rel=1e-6
    )

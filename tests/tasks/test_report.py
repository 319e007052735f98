import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from tasks.errors import PedAlignError
from tasks.gap.arms import GapParams, arm_sections, changed
from tasks.gap.comparing import EXAMPLES, compare, write_examples
from tasks.gap.results import DETAILS, write_results
from tasks.images import encode_jpeg
from tasks.params import read_section
from tasks.provenance import ROOT
from tasks.report import ReportParams, Sources, report
from tasks.report.cards import TERMS, terms
from tasks.report.gather import gather, read_evaluation
from tasks.report.illustrate import choose_queries
from tasks.report.splits import check_splits
from tasks.restyle.shard import RestyleParams
from tasks.schemas import ANNOTATED, IMAGES, RESTYLED, SCREENED
from tasks.shards import image_uid, write_folder

OK = {"status": "ok", "error": None}
PARAMS = ReportParams(seed=0, sheet_images=3, region_images=2, rank_list_queries=4)
EVIL = 'a man <script>alert("x")</script> in | red'


def pixels(level):
    return np.full((24, 12, 3), level, dtype=np.uint8)


def image_row(dataset, path, split="train", person=None, level=100, captions=("a man",)):
    return {
        "uid": image_uid(dataset, path), "dataset": dataset, "split": split, "person_id": person,
        "camera": "cam1", "image": encode_jpeg(pixels(level)), "width": 12, "height": 24,
        "captions": list(captions), "labels": None, "source_path": path, "parent_uid": None, **OK,
    }  # fmt: skip


def write(folder, rows, schema, name, meta=None):
    write_folder(folder, [pa.Table.from_pylist(rows, schema)], name, meta, shard_rows=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A whole run: 12 source pictures (one broken), 4 target people with 5 pictures each."""
    root = tmp_path_factory.mktemp("data")
    source = [image_row("world-source", f"{n}", level=200, captions=[EVIL]) for n in range(12)]
    source[0] |= {"image": None, "status": "rejected", "error": "truncated: 7 bytes"}
    target = [
        image_row("world-target", f"{p}-{n}", "train" if p < 2 else "test", f"world-target/{p}",
                  50 + 9 * p, [f"person {p} view {n}"])
        for p in range(4)
        for n in range(5)
    ]  # fmt: skip
    write(root / "ingested/world-source", source, IMAGES, "images", {"drawn": True})
    write(root / "ingested/world-target", target, IMAGES, "images", {"drawn": True})
    restyled, screened, annotated = [], [], []
    for n, row in enumerate(source):
        uid = row["uid"] + ".r0"
        restyled.append(
            row | {"uid": uid, "parent_uid": row["uid"], "prompt": EVIL, "eda_op": None, "seed": 1,
                   "strength": 0.5, "steps": 2, "guidance": 1.0, "base_revision": "b",
                   "dad_digest": None, "mode": "restyle", "match": 0.0, "scheduler": "dpm",
                   "negative_prompt": None, "control_scale": 1.0, "reuse": 1, "noise": "random",
                   "detail": 0.0,
                   "image": row["image"] and encode_jpeg(pixels(100))}
        )  # fmt: skip
        reason = "upstream" if n == 0 else "grey+no-legs" if n == 1 else None
        screened.append(
            {"uid": uid, "keep": reason is None, "reason": reason, "grey_variance": 1.0,
             "jpeg_bytes": 9, "pose_score": None, "duplicate_of": None, "status": "ok",
             "error": None}
            | ({"status": "rejected", "error": f"{reason}: x"} if reason else {})
        )  # fmt: skip
        annotated.append(
            {"uid": uid, "caption": EVIL, "status": row["status"], "error": row["error"],
             "phrases": [{"text": "a man", "start": 0, "end": 5, "head": "man", "group": "person",
                          "colours": [], "attributes": []}],
             "regions": [{"phrase": 0, "box": [0.5, 0.5, 1, 1], "score": 0.5}] if n % 2 else [],
             "rejected": [{"phrase": 0, "box": [0.5, 0.5, 1, 1], "score": 0.4,
                           "reason": "large: 1.0"}]}
        )  # fmt: skip
    write(root / "restyled", restyled, RESTYLED, "restyled", {"base": "models/b", "p": {"q": 1}})
    write(root / "screened", screened, SCREENED, "screened")
    write(root / "annotated", annotated, ANNOTATED, "annotated")
    test = [row for row in target if row["split"] == "test"]
    for name, shift in (("direct", 1), ("finetuned", 0)):
        write_evaluation(root / "reports/evaluate" / name, test, shift)
    for name in ("dad", "pretrain", "finetune/world-target"):
        folder = root / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "curve.csv").write_text("step,itc,lr\n1,4,0.1\n2,,0.2\n3,2,0.1\n")
        (folder / "config.json").write_text(json.dumps({"embed_dim": 8}))
    write_gap(root / "reports/gap", source[1:], target)
    (root / "timings").mkdir()
    for n, stage in enumerate(("restyle", "adapt")):
        entry = {"stage": stage, "seconds": 10.0 * (n + 1), "peak_mb": 5, "started": f"{9 - n}"}
        (root / "timings" / f"{stage}.json").write_text(json.dumps(entry))
    return root


def write_gap(folder, source, target):
    """What the stage `gap` leaves: three arms, one of which could not be made."""
    restyle = read_section(RestyleParams, "restyle", ROOT / "profiles/tiny.yaml")
    section = read_section(GapParams, "gap", ROOT / "profiles/tiny.yaml")
    arms = {"source": {"mode": "none"}, "restyled": {}, "broken": {"control_scale": 0.0}}
    section = replace(section, arms=arms, viewpoint=(), sheet_pictures=2, resamples=5)
    sections = arm_sections(section, restyle)
    for row in source:
        row["captions"] = [EVIL]
    # Ten pictures a half, of a spread of their own: equal ones have no distances to speak of.
    halves = [images([row | {"image": encode_jpeg(noise(n, 90))} for n, row in enumerate(part)])
              for part in (target[:10], target[10:])]  # fmt: skip
    made = {name: images([row | {"image": encode_jpeg(noise(n, level))}
                          for n, row in enumerate(source)])
            for name, level in (("source", 200), ("restyled", 120))}  # fmt: skip
    findings = compare(
        made, {"broken": "it <b>broke</b>"}, tuple(halves), (24, 12), section, start="source",
        main="restyled",
    )  # fmt: skip
    changes = {name: changed(arm, restyle) for name, arm in sections.items()}
    write_results(folder, findings, sections, changes, [])
    write_examples(folder / DETAILS / EXAMPLES, made, halves[0], section)


def noise(seed, level):
    rng = np.random.default_rng(seed)
    drawn = level + 3 * seed + rng.normal(0, 15, (24, 12, 3))
    return np.clip(drawn, 0, 255).astype(np.uint8)


def images(rows):
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["uid"]), schema=IMAGES)


def write_evaluation(folder, test, shift):
    """Every second query is answered at rank 2; `shift` says which."""
    folder.mkdir(parents=True)
    rows = []
    for n, row in enumerate(test):
        order = [row, *[other for other in test if other is not row]]
        wrong = (n + shift) % 2
        if wrong:
            order = [next(o for o in test if o["person_id"] != row["person_id"]), *order]
        order = list({o["uid"]: o for o in order}.values())
        rows.append(
            {"uid": row["uid"], "caption": row["captions"][0], "person_id": row["person_id"],
             "top10": [o["uid"] for o in order],
             "correct": [o["person_id"] == row["person_id"] for o in order],
             "first_rank": 1 + wrong, "ap": 0.5, "inp": 0.25}
        )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "queries.parquet")
    (folder / "cmc.csv").write_text("rank,recall\n1,50.0\n2,100.0\n")
    body = {
        "R1": 50.0 + shift,
        "R5": 100.0,
        "R10": 100.0,
        "mAP": 50.0,
        "mINP": 25.0,
        "queries": 10,
        "chance": {"R1": 20.0},
    }
    (folder / "metrics.json").write_text(json.dumps(body))


@pytest.fixture(scope="module")
def out(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    report(PARAMS, Sources.under(data, data / "timings"), out)
    return out


class Page(HTMLParser):
    """Collects what a page loads and shows."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.addresses += [values[k] for k in ("src", "href") if k in values]
        if tag == "img":
            self.images.append(values)


def test_page_loads_nothing_from_elsewhere_and_runs_nothing(out):
    text = (out / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    allowed = re.compile(r"data:image/(png|jpeg);base64,|#[a-z-]+$|[a-z_-]+\.(png|md)$")
    assert [a for a in page.addresses if not allowed.match(a)] == []
    for name in [a for a in page.addresses if a.endswith((".png", ".md"))]:
        assert (out / name).exists()


def test_page_numbers_its_figures_and_describes_every_picture(out):
    text = (out / "index.html").read_text(encoding="utf-8")
    numbers = [int(n) for n in re.findall(r"<b>Figure (\d+)</b>", text)]
    assert numbers == list(range(1, len(numbers) + 1))
    page = Page(text)
    assert len(page.images) == len(numbers) == 14
    assert all(image["alt"] for image in page.images)
    files = {path.stem for path in out.glob("*.png")}
    assert files == {
        "before-after", "arms", "rejects", "wording", "regions", "region-counts", "refused-boxes",
        "phrase-words", "cmc", "ranks-direct", "ranks-finetuned", "losses", "counts", "timings",
    }  # fmt: skip


def test_page_and_cards_say_that_the_world_is_drawn(out):
    for name in ("index.html", "dataset_card.md", "model_card.md"):
        text = (out / name).read_text(encoding="utf-8")
        assert "Drawn world." in text
        assert "no real person is shown" in text


def test_same_inputs_give_the_same_bytes(data, out, tmp_path):
    sources = Sources.under(data, data / "timings")
    report(PARAMS, sources, tmp_path)
    for path in out.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_card_counts_regions(out):
    card = (out / "dataset_card.md").read_text(encoding="utf-8")
    assert (
        "Annotation: 11 phrases and 6 regions on 11 pictures; 54.5% of the phrases have a region; "
        "11 boxes refused (large: 11).\n" in card
    )


def test_the_gap_is_on_the_page_and_on_the_card(out):
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "it &lt;b&gt;broke&lt;/b&gt;" in page
    assert "of the gap to the target is left (KID)" in page
    card = (out / "dataset_card.md").read_text(encoding="utf-8")
    line = next(row for row in card.splitlines() if row.startswith("| KID"))
    before, after, floor, left = (c.strip().replace(",", "") for c in line.split("|")[2:6])
    share = (float(after) - float(floor)) / (float(before) - float(floor))
    assert 0 < share < 1
    assert float(left.removesuffix(" %")) == pytest.approx(100 * share, abs=1.5)


def test_numbers_of_the_run(data):
    facts = gather(Sources.under(data, data / "timings"))
    assert facts.tables["ingest world-source"].outcomes == {"ok": 11, "truncated": 1}
    assert facts.tables["screen"].outcomes == {"grey": 1, "ok": 10, "upstream": 1}
    # Of the 11 usable rows, those with odd numbers (6) have a region.
    assert (facts.regions.pictures, facts.regions.phrases, facts.regions.regions) == (11, 11, 6)
    assert facts.regions.refused == {"large": 11}
    check = facts.splits["world-target"]
    assert check.people == {"train": 2, "test": 2}
    assert check.images == {"train": 10, "test": 10}
    assert check.shared_people == {"train/test": 0}
    assert facts.evaluations["direct"].measures == {
        "R@1": 51.0, "R@5": 100.0, "R@10": 100.0, "mAP": 50.0, "mINP": 25.0,
    }  # fmt: skip
    assert facts.evaluations["direct"].queries == 10
    assert facts.evaluations["direct"].besides["by chance"] == {"R@1": 20.0}
    assert [stage for stage, _, _ in facts.timings] == ["adapt", "restyle"]
    assert set(facts.drawn) == {"world-source", "world-target"}


def test_disk_use_of_every_stage_and_of_the_cache(data, tmp_path):
    facts = gather(Sources.under(data, data / "timings"))
    assert facts.cache is None  # no stage has told
    assert facts.outputs["restyle"] == facts.tables["restyle"].size
    curve = data / "checkpoints/finetune/world-target"
    expected = sum((curve / name).stat().st_size for name in ("curve.csv", "config.json"))
    assert facts.outputs["finetune world-target"] == expected
    assert list(facts.outputs)[-2:] == ["evaluate direct", "evaluate finetuned"]
    use = {"shards": 3 << 20, "trainings": 1 << 20, "runs": 0, "together": 4 << 20, "own": 2048}
    timings = tmp_path / "timings"
    shutil.copytree(data / "timings", timings)
    for started, stage, cache in (("1", "early", {"together": 9}), ("8", "late", use)):
        body = {"stage": stage, "seconds": 1.0, "started": started, "cache": cache}
        (timings / f"{stage}.json").write_text(json.dumps(body))
    sources = Sources.under(data, timings)
    assert gather(sources).cache == use
    report(PARAMS, sources, tmp_path / "out")
    text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert ".cache (shards 3.0 MB, trainings 1.0 MB, running checkpoints 0 B)" in text
    assert "4.0 MB" in text
    assert "2.0 KB are on the disk for it alone" in text
    assert "evaluate finetuned" in text


def test_findings_of_ingestion_are_shown(tmp_path):
    told = {
        "comparison": {"variant": "the published split", "exact": False,
                       "differences": ["test people: 3 (-997), the published split has 1,000"]},
        "pictures_in_two_splits": 1234, "shared_examples": [{"caption": EVIL, "people": 5}],
        "empty_captions": 7, "odd_captions": {"code": 2}, "copied": {"cmyk": 3},
    }  # fmt: skip
    write(tmp_path / "ingested/set", [image_row("set", "1")], IMAGES, "images", {"report": told})
    report(PARAMS, Sources.under(tmp_path), tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for said in ("test people: 3 (-997)", "1,234", "(5 people)", "code: 2", "cmyk: 3"):
        assert said in text
    assert "<script>" not in text


def test_leaks_and_shared_sentences_are_found_and_written(tmp_path):
    rows = [
        image_row("set", "1", "train", "set/1", captions=["same words", "x"]),
        image_row("set", "2", "test", "set/1", captions=["own words"]),
        image_row("set", "3", "test", "set/2", captions=["same words"]),
        image_row("set", "4", "val", None, captions=["same words"]),
    ]
    write(tmp_path / "ingested/set", rows, IMAGES, "images")
    check = check_splits(tmp_path / "ingested/set")
    assert check.shared_people["train/test"] == 1
    assert check.shared_captions == 1
    report(PARAMS, Sources.under(tmp_path), tmp_path / "out")
    card = (tmp_path / "out" / "dataset_card.md").read_text(encoding="utf-8")
    assert "**set: identities stand in two splits (1 in train/test).**" in card
    assert "train/test: 1" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_report_of_one_ingested_set_stands_alone_and_claims_no_drawing(tmp_path):
    write(tmp_path / "ingested/street", [image_row("street", "1")], IMAGES, "images")
    report(PARAMS, Sources.under(tmp_path), tmp_path / "out")
    for name in ("index.html", "dataset_card.md", "model_card.md"):
        assert "Drawn world" not in (tmp_path / "out" / name).read_text(encoding="utf-8")
    front = front_matter(tmp_path / "out" / "dataset_card.md")
    assert front["license"] == "other"
    assert front["license_name"] == "research-only"


def test_a_report_of_nothing_is_an_error(tmp_path):
    with pytest.raises(PedAlignError, match="no ingested dataset"):
        report(PARAMS, Sources.under(tmp_path), tmp_path / "out")


def front_matter(path):
    _, head, _ = path.read_text(encoding="utf-8").split("---\n", 2)
    return YAML(typ="safe", pure=True).load(head)


def test_cards_have_the_hubs_front_matter_and_every_section(out):
    front = front_matter(out / "dataset_card.md")
    assert front["license"] == "apache-2.0"
    assert front["size_categories"] == ["n<1K"]
    assert front["annotations_creators"] == ["machine-generated"]
    model = front_matter(out / "model_card.md")
    results = model["model-index"][0]["results"]
    assert [r["dataset"]["name"] for r in results] == ["direct", "finetuned"]
    assert results[0]["metrics"][0] == {"type": "recall_at_1", "name": "R@1", "value": 51.0}
    dataset = (out / "dataset_card.md").read_text(encoding="utf-8")
    for heading in (
        "Provenance and licences", "Composition", "Generation settings",
        "Splits and identity-leak check", "Known biases", "Intended and out-of-scope use", "Ethics",
    ):  # fmt: skip
        assert f"## {heading}\n" in dataset
    assert "| screen | 12 | 10 | grey: 1, upstream: 1 |" in dataset
    assert "world-target: no identity stands in two splits." in dataset
    assert "## Ethics\n" in (out / "model_card.md").read_text(encoding="utf-8")


def test_cards_pass_the_hubs_own_parser(out):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard((out / "model_card.md").read_text(encoding="utf-8"))
    assert card.data.eval_results[0].metric_value == 51.0
    assert hub.DatasetCard((out / "dataset_card.md").read_text(encoding="utf-8")).data.license


def test_terms_of_known_and_unknown_datasets():
    assert terms("world-source", {"drawn": True})[1] == "Apache-2.0"
    assert terms("target", {"format": "cuhk"}) == TERMS["cuhk"]
    assert "ask" in terms("worldwide-street", {})[1]


def test_evaluations_that_are_no_percentages_are_refused(tmp_path):
    (tmp_path / "metrics.json").write_text('{"R1": 140}')
    with pytest.raises(PedAlignError, match="percentages"):
        read_evaluation(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(PedAlignError, match="not JSON"):
        read_evaluation(tmp_path)


def test_queries_are_half_right_half_wrong_and_the_same_each_time(data):
    entry = read_evaluation(data / "reports/evaluate/direct")
    chosen = choose_queries(entry, 4, 0)
    assert chosen == choose_queries(entry, 4, 0)
    ranks = {
        (row["uid"], row["caption"]): row["first_rank"]
        for row in pq.read_table(entry.folder / "queries.parquet").to_pylist()
    }
    assert [ranks[query] for query in chosen] == [1, 1, 2, 2]
    assert len(choose_queries(entry, 100, 0)) == 10

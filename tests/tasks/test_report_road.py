"""A report of every road: without Domain-aware Diffusion, re-ranking or fine-tuning, and why."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from models.mra import MRA, MRAConfig
from tasks.images import encode_jpeg
from tasks.report import ReportParams, Run, Sources, cards, page, published, report, road
from tasks.report.anatomy import read_anatomy
from tasks.report.gather import gather, read_evaluation
from tasks.schemas import CAPTIONED, IMAGES, RESTYLED
from tasks.shards import image_uid, write_folder

OK = {"status": "ok", "error": None}
PARAMS = ReportParams(seed=0, sheet_images=2, region_images=2, rank_list_queries=2)
DUAL = {
    "model_type": "dual", "vision": {"kind": "swin"}, "text": {"kind": "bert", "vocab_size": 528},
    "image_size": [96, 48], "embed_dim": 128, "max_tokens": 48, "pooling": "max",
    "granularity": None,
}  # fmt: skip
UNIPT = {
    "stage": "pretrain",
    "params": {
        "init": "start", "vision": "models/tiny/swin", "text": "models/tiny/bert",
        "objective": {"kind": "unipt", "temperature": None, "mlm_weight": 1.0},
    },
}  # fmt: skip


def picture_row(dataset, number, split, captions):
    pixels = np.full((24, 12, 3), 20 * number, np.uint8)
    return {
        "uid": image_uid(dataset, f"{number}"), "dataset": dataset, "split": split,
        "person_id": f"{dataset}/{number // 2}", "camera": None, "image": encode_jpeg(pixels),
        "width": 12, "height": 24, "captions": captions, "labels": None,
        "source_path": f"{number}", "parent_uid": None, **OK,
    }  # fmt: skip


def write(folder, rows, schema, name, meta=None):
    rows = sorted(rows, key=lambda row: row["uid"])
    write_folder(folder, [pa.Table.from_pylist(rows, schema)], name, meta or {}, shard_rows=8)


def captioned(rows, method):
    seen = [{"attribute": "gender", "value": "man", "score": 0.9}]
    return [
        {"uid": row["uid"], "captions": ["A man is walking."] if row["split"] == "train" else [],
         "method": method, "styles": None, "seeds": None, "templates": None,
         "attributes": seen if row["split"] == "train" else None,
         "status": "ok" if row["split"] == "train" else "rejected",
         "error": None if row["split"] == "train" else "other-split: not described"}
        for row in rows
    ]  # fmt: skip


def record(folder, *bodies):
    folder.mkdir(parents=True)
    for name, body in zip(("config.json", "training.json"), bodies, strict=False):
        (folder / name).write_text(json.dumps(body))
    return folder


def evaluation(folder, first, *, reranked):
    folder.mkdir(parents=True)
    whole = {"R1": first, "R5": 50.0, "R10": 60.0, "mAP": 30.0, "mINP": 20.0}
    other = {"matching": {"R1": 1.0}} if reranked else {"reranked": False}
    body = {**whole, "queries": 4, "gallery": 2, "itc": whole, **other, "chance": {"R1": 5.0}}
    (folder / "metrics.json").write_text(json.dumps(body))
    (folder / "cmc.csv").write_text(f"rank,recall,recall_itc\n1,{first},{first}\n2,80,80\n")


@pytest.fixture
def unlabelled(tmp_path):
    """UniPT's road to a target without captions: no DaD, no fine-tuning, a dual encoder."""
    root = tmp_path / "data"
    source = [picture_row("world-unlabelled", n, "train", []) for n in range(6)]
    target = [picture_row("world-target", n, "train", []) for n in range(4)]
    target += [picture_row("world-target", n, "test", ["a man"]) for n in (8, 9)]
    write(root / "ingested/world-unlabelled", source, IMAGES, "images", {"drawn": True})
    write(root / "ingested/world-target", target, IMAGES, "images", {"drawn": True})
    made = [
        row | {"uid": row["uid"] + ".r0", "parent_uid": row["uid"], "prompt": "", "eda_op": None,
               "seed": 1, "strength": 0.0, "steps": 0, "guidance": 1.0, "base_revision": "none",
               "dad_digest": None, "mode": "none", "match": 0.0, "scheduler": "dpm",
               "negative_prompt": None, "control_scale": 1.0, "reuse": 1, "noise": "random",
               "detail": 0.0}
        for row in source
    ]  # fmt: skip
    write(root / "restyled", made, RESTYLED, "restyled", {"mode": "none"})
    said = {"method": "clip_attributes"}
    write(root / "captioned", captioned(made, **said), CAPTIONED, "captioned", said)
    write(root / "described/world-target", captioned(target, **said), CAPTIONED, "captioned", said)
    record(root / "checkpoints/dad", {}, {"method": "none", "reason": "no picture is restyled"})
    folder = record(root / "checkpoints/pretrain", DUAL, UNIPT)
    tokenizer = {"tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    evaluation(root / "reports/evaluate/direct", 12.5, reranked=False)
    # What an earlier profile left, which is no part of this run.
    record(root / "checkpoints/finetune/world-target", {"model_type": "mra"}, {"stage": "finetune"})
    evaluation(root / "reports/evaluate/finetuned", 99.0, reranked=True)
    runs = {"direct": Run(folder, "data/ingested/world-target", {})}
    return Sources.under(root, target="world-target", runs=runs, finetuned=(), described=None)


def test_the_page_says_why_nothing_was_fine_tuned(unlabelled, tmp_path):
    report(PARAMS, unlabelled, tmp_path / "out")
    for name in ("index.html", "model_card.md"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "the train pictures of world-target have no captions" in text
        assert "The result of this run is direct transfer" in text
        assert "99.0" not in text  # of the earlier profile
        assert "finetuned" not in text
    page_text = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert "ranked by the cosine of features alone (a dual encoder has no fusion" in page_text
    assert "after re-ranking" not in page_text
    assert "no DaD adapter was trained (no picture is restyled)" in page_text
    assert "no picture was restyled in this run" in page_text


def test_a_row_a_stage(unlabelled):
    facts = gather(unlabelled)
    told = dict(road.road(facts))
    assert list(told) == [
        "adapt", "restyle", "describe world-target", "caption", "pretrain", "finetune",
        "evaluate direct", "gap",
    ]  # fmt: skip
    assert told["restyle"].startswith("left out: the pictures are taken as they are")
    assert told["describe world-target"].endswith("4 of 6 rows usable")
    assert told["caption"].startswith("pseudo texts")
    assert "Dual encoder: Swin and BERT" in told["pretrain"]
    assert "UniPT: symmetric InfoNCE on cosines (no temperature) + 1 x MLM" in told["pretrain"]
    assert told["evaluate direct"] == "ranked by the cosine alone"
    assert told["gap"] == "left out: nothing was compared with the target's pictures"


def test_the_gap_says_itself_why_it_measured_nothing(unlabelled, tmp_path):
    (tmp_path / "gap").mkdir()
    (tmp_path / "gap/metrics.json").write_text('{"reason": "the target has 3 pictures"}')
    (tmp_path / "gap/arms.csv").write_text("arm,mode\n")
    facts = gather(replace(unlabelled, gap=tmp_path / "gap"))
    assert dict(road.road(facts))["gap"] == "left out: the target has 3 pictures"


def test_the_table_repeats_no_ranking(unlabelled):
    facts = gather(unlabelled)
    section = next(part for part in page.build(facts, {}) if part.title == "Retrieval")
    table = next(part for part in section.parts if not part.is_picture)
    assert [row[0] for row in table.rows] == ["direct", "– by chance"]
    assert table.rows[0][1] == "12.50"
    assert facts.wording is None
    assert page.tiles(facts)[0].value == "12.5 %"


def test_the_cards_of_a_dual_encoder(unlabelled):
    facts = gather(unlabelled)
    card = cards.model_card(facts)
    assert "# PedAlign dual encoder" in card
    assert "name: pedalign-dual-encoder" in card
    assert (
        "It was pretrained on pictures taken as they are, with pseudo texts of what a CLIP finds "
        "in them, and not fine-tuned." in card
    )
    assert "| tokenizer | BertTokenizer, beside the weights; 528 entries; texts of up to 48" in card
    assert "the model is a models.dual.DualEncoder" in card
    assert "--rerank" not in card
    assert "fused" not in card
    data = cards.dataset_card(facts)
    assert "restyled person pairs" not in data
    assert "given pseudo texts of the attributes that a CLIP finds" in data
    assert "diffusion model may drift" not in data
    assert "base diffusion model" not in data


def test_pseudo_texts_are_counted_beside_captions(unlabelled):
    from tasks.report.wording import measure_wording

    found = measure_wording(unlabelled, seed=0)
    assert found.sets["pseudo texts of world-target"].captions == 4
    assert found.sets["new captions"].captions == 6
    assert "target captions" not in found.sets  # nobody wrote any on train


def test_the_card_counts_pseudo_texts(unlabelled, tmp_path):
    report(PARAMS, unlabelled, tmp_path / "out")
    card = (tmp_path / "out/dataset_card.md").read_text(encoding="utf-8")
    assert "Pseudo texts: new captions: 6 sentences on 6 pictures, of 1 kinds of attributes" in card
    assert "nobody has checked them" in card


def test_other_reasons(unlabelled, tmp_path):
    """With captions it is the parameters that left fine-tuning out."""
    told = [picture_row("world-target", n, "train", ["a man"]) for n in range(4)]
    write(tmp_path / "other/ingested/world-target", told, IMAGES, "images", {"drawn": True})
    record(tmp_path / "other/checkpoints/pretrain", {"model_type": "mra"}, {"stage": "pretrain"})
    evaluation(tmp_path / "other/reports/evaluate/direct", 10.0, reranked=False)
    here = {"target": "world-target"}
    facts = gather(Sources.under(tmp_path / "other", **here, finetuned=()))
    assert road.no_finetuning(facts).startswith("finetune.datasets in params.yaml is empty")
    assert road.no_reranking(facts) == "top_k is 0, so the fusion encoder was not asked"
    assert "no fine-tuned checkpoint" in road.no_finetuning(
        gather(Sources.under(tmp_path / "other", **here))
    )
    both = gather(Sources.under(unlabelled.ingested[0].parents[1], **here))
    assert road.no_finetuning(both) == ""
    assert both.model.kind == "mra"
    text = next(s for s in page.build(both, {}) if s.title == "Retrieval").parts[0].caption
    assert "after re-ranking by the fusion encoder (direct: by the cosine alone)" in text


def test_an_evaluation_without_a_word_on_it_was_re_ranked(tmp_path):
    evaluation(tmp_path / "a", 10.0, reranked=True)
    found = read_evaluation(tmp_path / "a")
    assert found.reranked
    assert set(found.besides) == {
        "by features alone", "by the matching score alone", "by chance",
    }  # fmt: skip


def test_what_is_said_of_a_real_mra(tmp_path):
    config = MRAConfig(
        image_size=(32, 16), vision_dim=8, depths=(1, 1), vision_heads=(2, 2), window_size=4,
        text_dim=16, text_layers=1, fusion_layers=2, text_heads=2, text_inner_dim=32,
        max_tokens=8, head="token", embed_dim=8, vocab_size=9,
    )  # fmt: skip
    MRA.from_config(config).save_pretrained(tmp_path / "model")
    found = read_anatomy(tmp_path / "model")
    assert (found.kind, found.fuses, found.objective, found.tokenizer) == ("mra", True, "", "")
    assert "(layers: 1 for the text alone, 2 for both)" in found.architecture
    assert "pictures of 32 x 16, features of 8" in found.architecture
    assert read_anatomy(tmp_path) is None


@pytest.mark.parametrize(
    ("stage", "section", "said"),
    [
        ("pretrain", {"objective": {"kind": "mra", "region_weight": 0.8}},
         "ITC + ITM + MLM + 0.8 x (RPC + RPM) of regions and phrases"),
        ("pretrain", {"region_weight": 0.0}, "ITC + ITM + MLM"),
        ("finetune", {"objective": {"kind": "mra", "eda_weight": 0.5}},
         "ITC + ITM + MLM, and ITC and ITM of each caption's EDA twin (weight 0.5)"),
    ],
)  # fmt: skip
def test_the_objective_in_words(tmp_path, stage, section, said):
    record(tmp_path / "m", {"model_type": "mra"}, {"stage": stage, "params": section})
    assert read_anatomy(tmp_path / "m").objective == said


def test_the_objective_of_a_fine_tuned_dual_encoder(tmp_path):
    losses = {"kind": "identity", "margin": 0.2, "granularity_weight": 1.0}
    section = {"objective": losses, "model": {"granularity": {"parts": 6}}}
    config = DUAL | {"granularity": {"parts": 6}}
    record(tmp_path / "m", config, {"stage": "finetune", "params": section})
    found = read_anatomy(tmp_path / "m")
    assert "semi-hard negatives (margin 0.2)" in found.objective
    assert found.objective.endswith("granularity module's features (weight 1)")
    assert "6 parts by prototypes" in found.architecture
    assert found.started == "the pretrained checkpoint"
    losses["contrast_temperature"] = 0.07
    record(tmp_path / "n", config, {"stage": "finetune", "params": section})
    assert "InfoNCE on cosines (temperature 0.07)" in read_anatomy(tmp_path / "n").objective


@pytest.mark.parametrize("exact", [True, False])
def test_published_figures_stand_beside_a_benchmarks_own(tmp_path, exact):
    rows = [picture_row("mine", n, "test", ["a man"]) for n in range(2)]
    meta = {"format": "cuhk-pedes", "report": {"comparison": {
        "exact": exact, "variant": "the published split", "differences": []}}}  # fmt: skip
    write(tmp_path / "ingested/mine", rows, IMAGES, "images", meta)
    write(tmp_path / "ingested/other", rows, IMAGES, "images", meta)  # not evaluated
    evaluation(tmp_path / "reports/evaluate/direct", 10.0, reranked=True)
    protocol = {"dataset": "mine", "format": "cuhk-pedes", "split": "test", "official": exact,
                "variant": "the published split", "chosen_on": "last", "reranked": 512,
                "stage": "finetune", "trained_on": "data/ingested/mine",
                "similarity_weight": 0.002, "image_size": [384, 256]}  # fmt: skip
    (tmp_path / "reports/evaluate/direct/protocol.json").write_text(json.dumps(protocol))
    runs = {"direct": Run(tmp_path, "data/ingested/mine", {})}
    facts = gather(Sources.under(tmp_path, target="mine", runs=runs))
    how, grid = published.tables(facts)
    assert how.rows[0][0] == "direct"
    assert "cosine, then fusion encoder on the first 512" in how.rows[0]
    unipt = next(row for row in grid.rows if row[0] == "UniPT, ViT-B/16")
    assert unipt[1:6] == ("68.50", "84.67", "90.38", "", "")
    assert unipt[-1] == "UniPT's paper"
    assert grid.rows[-1][:2] == ("direct", "10.00")
    assert (len(grid.rows) - 1, 0) in grid.best
    assert ("is not exactly the published split" in grid.caption) is not exact
    section = next(part for part in page.build(facts, {}) if part.title == "Retrieval")
    assert grid.caption in [part.caption for part in section.parts]


def test_nothing_is_published_on_drawings(unlabelled):
    assert not published.tables(gather(unlabelled))  # an older version says nothing of a protocol
    folder = unlabelled.evaluations[0]
    protocol = {"dataset": "world-target", "format": "world-target", "drawn": True,
                "split": "test", "chosen_on": "last", "reranked": 0}  # fmt: skip
    (folder / "protocol.json").write_text(json.dumps(protocol))
    (how,) = published.tables(gather(unlabelled))
    assert "its pictures are drawings" in how.caption


def test_what_all_evaluations_have_in_common_is_told_once(unlabelled):
    protocol = {"dataset": "t", "drawn": True, "split": "test", "chosen_on": "val", "epochs": 4}
    facts = gather(unlabelled)
    first = facts.evaluations["direct"]
    for name, kept in (("a", 2), ("b", 3)):
        folder = first.folder.parent / name
        folder.mkdir()
        (folder / "protocol.json").write_text(json.dumps(protocol | {"kept_epoch": kept}))
    both = {n: replace(first, folder=first.folder.parent / n) for n in "ab"}
    (how,) = published.tables(replace(facts, evaluations=both))
    assert how.header == ("evaluation", "epoch")
    assert how.rows == [("a", "2 of 4, by validation"), ("b", "3 of 4, by validation")]
    assert "dataset: t, test split" in how.caption

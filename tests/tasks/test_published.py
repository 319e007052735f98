"""Published figures, a run's own among them, and why there are none."""

import pytest

from tasks.published import METHODS, NOT_SAID, RESULTS, TRANSFERRED, Result, why_none
from tasks.report.published import BOARDS, HEADER, OWN, Own, nothing_published, standing

TUNED, DIRECT = BOARDS


@pytest.mark.parametrize("results", [*RESULTS.values(), *TRANSFERRED.values()])
def test_rows_are_percentages_that_rise_with_the_rank_and_fall_with_the_place(results):
    for each in results:
        rising = [value for value in (0, each.R1, each.R5, each.R10, 100) if value is not None]
        assert rising == sorted(set(rising))
        assert each.mAP is None or 0 < each.mAP < each.R1
        assert each.mINP is None or 0 < each.mINP < each.mAP
    firsts = [each.R1 for each in results]
    assert firsts == sorted(firsts, reverse=True)
    names = [each.method for each in results]
    assert len(set(names)) == len(names)


def test_every_row_says_who_gives_it_and_every_method_has_a_row():
    told, direct = (
        {each.method for results in board.values() for each in results}
        for board in (RESULTS, TRANSFERRED)
    )
    assert told | direct == set(METHODS)
    assert not told & direct
    assert set(RESULTS) == set(TRANSFERRED)
    assert all(how.given_in != NOT_SAID for how in METHODS.values())
    # The epoch of these was chosen on test; nothing is claimed of whom no released code shows it.
    by_test = {name for name, how in METHODS.items() if how.chosen_on == "test"}
    assert {"MRA", "APTM", "IRRA", "RDE", "RaSa", "TBPS-CLIP"} <= by_test
    assert not {"SAMC", "CFine", "Bi-IRRA", "UniPT, ViT-B/16"} & by_test


def test_measures_that_are_not_given_are_absent():
    assert Result("APTM", 70.0, 80.0, 90.0).measures == {"R@1": 70.0, "R@5": 80.0, "R@10": 90.0}
    assert Result("APTM", 70.0, 80.0, 90.0, 60.0).measures["mAP"] == 60.0
    assert Result("MVR on HAM (RDE)", 78.54).measures == {"R@1": 78.54}


def own(name, first, **protocol):
    told = {"format": "cuhk-pedes", "chosen_on": "val", "reranked": 0, "flip": True,
            "dataset": "cuhk", "stage": "finetune", "trained_on": "data/ingested/cuhk"}  # fmt: skip
    return Own(name, {"R@1": first, "R@5": 90.0, "R@10": 95.0}, told | protocol)


def test_a_runs_own_rows_stand_where_their_rank_puts_them():
    rows = standing(TUNED, "cuhk-pedes", [own("ours", 76.0), own("worst", 1.0, chosen_on="test")])
    firsts = [float(row[1]) for row in rows]
    assert firsts == sorted(firsts, reverse=True)
    names = [row[0] for row in rows]
    assert names.index("RaSa") + 1 == names.index("ours") == names.index("RDE") - 1
    mine = dict(zip(HEADER, rows[names.index("ours")], strict=True))
    assert (mine["epoch by"], mine["given in"], mine["mAP"]) == ("validation", OWN, "")
    assert mine["ranked by"] == "cosine of features, flips"
    assert dict(zip(HEADER, rows[-1], strict=True))["epoch by"] == "test"
    reranked = standing(TUNED, "rstpreid", [own("a", 99.0, reranked=1000, flip=False)])[0]
    assert "cosine, then fusion encoder on the first 1,000" in reranked


def test_a_run_stands_among_those_that_were_trained_as_it_was():
    assert own("a", 70.0).board is TUNED
    pretrained = own("b", 60.0, stage="pretrain", trained_on="data/restyled", chosen_on="last")
    abroad = own("c", 50.0, trained_on="data/ingested/icfg/")
    assert pretrained.board is DIRECT
    assert abroad.board is DIRECT
    rows = standing(DIRECT, "cuhk-pedes", [pretrained, abroad])
    seen = {row[0]: dict(zip(HEADER, row, strict=True))["seen before"] for row in rows}
    assert (seen["b"], seen["c"]) == ("pretraining alone", "fine-tuned on icfg")
    assert "MRA" not in seen, "its figures are of a model that was fine-tuned there"
    assert [row[0] for row in rows].index("b") == 4, "after 70.15, 68.34, 66.26 and 60.74"
    imported = own("d", 70.0, stage="import", trained_on=None)
    assert imported.board is None
    assert "no record" in nothing_published(imported)
    assert nothing_published(abroad) == ""


def test_one_line_says_why_nothing_stands_beside():
    assert "drawings" in why_none("target", "world-target", drawn=True)
    assert "folder" in why_none("mine", "folder", drawn=False)
    assert "not on record" in why_none("mine", "", drawn=False)
    assert why_none("cuhk", "cuhk-pedes", drawn=False) == ""
    assert all("\n" not in why_none("x", form, drawn=False) for form in ("folder", ""))

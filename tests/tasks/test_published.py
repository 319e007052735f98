"""Published figures, a run's own among them, and why there are none."""

import pytest

from tasks.published import METHODS, NOT_SAID, RESULTS, Result, why_none
from tasks.report.published import HEADER, OWN, Own, standing


@pytest.mark.parametrize("results", RESULTS.values(), ids=RESULTS)
def test_rows_are_percentages_that_rise_with_the_rank_and_fall_with_the_place(results):
    for each in results:
        assert 0 < each.R1 < each.R5 < each.R10 < 100
        assert each.mAP is None or 0 < each.mAP < each.R1
        assert each.mINP is None or 0 < each.mINP < each.mAP
    firsts = [each.R1 for each in results]
    assert firsts == sorted(firsts, reverse=True)
    names = [each.method for each in results]
    assert len(set(names)) == len(names)


def test_every_row_says_who_gives_it_and_every_method_has_a_row():
    told = {each.method for results in RESULTS.values() for each in results}
    assert told == set(METHODS)
    assert all(how.given_in != NOT_SAID for how in METHODS.values())
    # The epoch of these was chosen on test; nothing is claimed of whom no released code shows it.
    by_test = {name for name, how in METHODS.items() if how.chosen_on == "test"}
    assert {"MRA", "APTM", "IRRA", "RDE", "RaSa", "TBPS-CLIP"} <= by_test
    assert not {"SAMC", "CFine", "Bi-IRRA", "UniPT, ViT-B/16"} & by_test


def test_measures_that_are_not_given_are_absent():
    assert Result("APTM", 70.0, 80.0, 90.0).measures == {"R@1": 70.0, "R@5": 80.0, "R@10": 90.0}
    assert Result("APTM", 70.0, 80.0, 90.0, 60.0).measures["mAP"] == 60.0


def own(name, first, **protocol):
    told = {"format": "cuhk-pedes", "chosen_on": "val", "reranked": 0, "flip": True, **protocol}
    return Own(name, {"R@1": first, "R@5": 90.0, "R@10": 95.0}, told)


def test_a_runs_own_rows_stand_where_their_rank_puts_them():
    rows = standing("cuhk-pedes", [own("ours", 76.0), own("worst", 1.0, chosen_on="test")])
    firsts = [float(row[1]) for row in rows]
    assert firsts == sorted(firsts, reverse=True)
    names = [row[0] for row in rows]
    assert names.index("RaSa") + 1 == names.index("ours") == names.index("RDE") - 1
    mine = dict(zip(HEADER, rows[names.index("ours")], strict=True))
    assert (mine["epoch by"], mine["given in"], mine["mAP"]) == ("validation", OWN, "")
    assert mine["ranked by"] == "cosine of features, flips"
    assert dict(zip(HEADER, rows[-1], strict=True))["epoch by"] == "test"
    reranked = standing("rstpreid", [own("a", 99.0, reranked=1000, flip=False)])[0]
    assert "cosine, then fusion encoder on the first 1,000" in reranked


def test_one_line_says_why_nothing_stands_beside():
    assert "drawings" in why_none("target", "world-target", drawn=True)
    assert "folder" in why_none("mine", "folder", drawn=False)
    assert "not on record" in why_none("mine", "", drawn=False)
    assert why_none("cuhk", "cuhk-pedes", drawn=False) == ""
    assert all("\n" not in why_none("x", form, drawn=False) for form in ("folder", ""))

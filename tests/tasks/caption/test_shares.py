"""Figures of pseudo texts, counted by hand."""

import pyarrow as pa
import pytest

from tasks.caption.shares import LUPERSON_T, LUPERSON_T_TEXTS, TextCounting
from tasks.caption.vocabulary import OPTIONAL
from tasks.schemas import CAPTIONED


def table(*rows: tuple[list[str], list[str], dict[str, tuple[str, float]] | None]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "uid": f"{at:016x}",
                "captions": captions,
                "method": "clip_attributes",
                "templates": templates or None,
                "attributes": None if seen is None else [
                    {"attribute": name, "value": value, "score": score}
                    for name, (value, score) in seen.items()
                ],
                "status": "ok" if captions else "rejected",
                "error": None if captions else "grey: 3",
            }
            for at, (captions, templates, seen) in enumerate(rows)
        ],
        CAPTIONED,
    )  # fmt: skip


def test_figures_by_hand() -> None:
    man = ("man", 0.75)
    counted = TextCounting()
    counted.add(table(
        (["A man.", "The man."], ["a", "the"], {"gender": man, "bag": ("backpack", 0.95)}),
        ([], [], None),
        (["A man."], ["a"], {"gender": man, "bag": ("handbag", 1.0), "hat": ("cap", 0.92)}),
    ))  # fmt: skip
    counted.add(table((["A woman."], ["a"], {"gender": ("woman", 0.5), "bag": ("handbag", 1.0)})))
    counted.add(table())
    found = counted.figures()
    assert found.pictures == 3
    assert found.optional == pytest.approx(4 / 3)
    assert tuple(found.shares) == OPTIONAL
    bag, hat, glasses = (found.shares[name] for name in ("bag", "hat", "glasses"))
    assert (bag.count, bag.share, bag.score) == (3, 0.75, pytest.approx(2.95 / 3))
    assert (hat.count, hat.share) == (1, 0.25)
    assert (glasses.count, glasses.share, glasses.score) == (0, 0.0, 0.0)
    assert found.values["bag"] == {"handbag": 2, "backpack": 1}
    assert list(found.values["gender"].items()) == [("man", 2), ("woman", 1)]
    assert found.templates == 2
    assert (found.diversity.captions, found.diversity.vocabulary) == (4, 4)
    assert found.diversity.repeated == 0.25


def test_the_published_shares() -> None:
    found = TextCounting().figures()
    assert (found.pictures, found.optional, found.templates) == (0, 0.0, 0)
    assert sum(LUPERSON_T.values()) == 580_257
    shares = {name: round(100 * share.published) for name, share in found.shares.items()}
    assert shares == {"bag": 38, "glasses": 17, "smoke": 0, "hat": 17, "cellphone": 20,
                      "umbrella": 0, "gloves": 3, "vehicle": 4}  # fmt: skip
    assert sum(LUPERSON_T.values()) / LUPERSON_T_TEXTS == pytest.approx(0.454, abs=1e-3)

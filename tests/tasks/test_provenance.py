"""What counts as the same code: an edit of a line does not, a comment does."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.provenance import EXEMPT, closure, computation_key, module_path, source_digest

SOURCE = '''
"""A module."""
LIMIT = 3  # pixels
class Box:
    width: int
    """Its width."""
def double(x):
    """Double it."""
    return 2 * x
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# pixels", "# in pixels", True),
        ('"""A module."""', '"""The module."""', True),
        ('"""Double it."""', "", True),
        ('"""Its width."""', '"""How wide."""', True),
        ("2 * x", "(2 *  x)", True),
        ("2 * x", "3 * x", False),
        ("LIMIT = 3", "LIMIT = 4", False),
        ("double", "twice", False),
    ],
)
def test_only_what_computes_counts(old: str, new: str, same: bool) -> None:
    assert (source_digest(SOURCE) == source_digest(SOURCE.replace(old, new))) is same


def test_closure_follows_imports_and_stops_at_exempt_modules() -> None:
    assert closure("tasks.shards") == ["tasks.schemas", "tasks.shards"]
    assert not set(closure("tasks.runtime", "flows.stage")) & EXEMPT


def test_digests_are_the_same_while_other_threads_parse() -> None:
    # CPython 3.11 raises SystemError when two threads build trees at once.
    text = SOURCE * 200
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(source_digest, [text] * 64))) == 1


def test_exempt_modules_exist() -> None:
    assert [name for name in EXEMPT if module_path(name) is None] == []


def test_every_ingredient_moves_the_key() -> None:
    base = {"inputs": ["a"], "params": {"seed": 1}, "code": ["tasks.shards"]}
    key = computation_key("screen", **base)
    assert key == computation_key("screen", **base)
    others = [
        computation_key("caption", **base),
        computation_key("screen", **(base | {"inputs": ["b"]})),
        computation_key("screen", **(base | {"params": {"seed": 2}})),
        computation_key("screen", **(base | {"code": ["tasks.params"]})),
        computation_key("screen", **base, revisions={"poser": "1"}),
        computation_key("screen", **base, device="cuda:0"),
    ]
    assert len({key, *others}) == 7
    assert computation_key("screen", **base, device="cuda:1") == others[-1]

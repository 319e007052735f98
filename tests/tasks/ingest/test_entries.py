"""Annotation files read in blocks: the same entries as a whole read, and clear faults."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import PedAlignError
from tasks.ingest import entries
from tasks.ingest.entries import Refused, read_entries

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None)
@given(
    values=st.lists(JSON, max_size=6), block=st.integers(1, 40), indent=st.sampled_from([None, 2])
)
def test_blocks_of_any_size_give_what_json_gives(tmp_path_factory, values, block, indent):
    path = tmp_path_factory.mktemp("entries") / "a.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "_CHUNK", block)
        assert list(read_entries(path)) == values


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', "a mapping"),
        ("", "nothing"),
        ("<html>", "begins with '<'"),
        ('[{"a": 1}, {"a"', "broken after 1 entries"),
        ("[1 2]", "comma"),
        ("[1", "the file ends"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_list_stops(tmp_path, text, found):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(PedAlignError, match=found) as caught:
        list(read_entries(path))
    assert caught.value.remedy


def test_entries_before_the_damage_have_been_given(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[1, 2, {"x":')
    reading = read_entries(path)
    assert [next(reading), next(reading)] == [1, 2]
    with pytest.raises(PedAlignError, match="broken after 2"):
        next(reading)


def test_a_byte_order_mark_is_skipped_and_latin1_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf["\xc3\xa9"]')
    assert list(read_entries(path)) == ["é"]
    path.write_bytes(b'["\xe9"]')
    with pytest.raises(PedAlignError, match="not UTF-8"):
        list(read_entries(path))


def test_json_lines_give_a_bad_line_as_its_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\nnot json\n[2]\n')
    assert list(read_entries(path)) == [{"a": 1}, "not json\n", [2]]


def test_csv_gives_mappings_without_empty_cells(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('image,caption,split\na.jpg,"red, wide\nhat",\nb.jpg,x,test\n')
    assert list(read_entries(path)) == [
        {"image": "a.jpg", "caption": "red, wide\nhat"},
        {"image": "b.jpg", "caption": "x", "split": "test"},
    ]
    path.write_text('image,caption\n"open quote,x\n')
    with pytest.raises(PedAlignError, match="CSV"):
        list(read_entries(path))
    path.write_text("")
    with pytest.raises(PedAlignError, match="header"):
        list(read_entries(path))


def test_a_bare_comma_in_a_csv_loses_no_words(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,caption\na.jpg,a man, in red\nb.jpg,fine,,\n")
    first, second = read_entries(path)
    assert first == Refused("too-many-cells: [' in red'] stand beyond the header's columns")
    assert second == {"image": "b.jpg", "caption": "fine"}
    path.write_text("image,caption,,\nc.jpg,x,,\n")
    assert list(read_entries(path)) == [{"image": "c.jpg", "caption": "x"}]
    path.write_text("image,caption,image\na.jpg,x,b.jpg\n")
    with pytest.raises(PedAlignError, match="several columns are called image"):
        list(read_entries(path))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_entry_that_can_be_read_in_two_ways_is_refused(tmp_path, name):
    path = tmp_path / name
    lines = ['{"id": 1, "id": 2}', '{"a": {"b": 1, "b": 2}}', f"{'[' * 17}{']' * 17}",
             f"{'[' * 16}{']' * 16}", json.dumps([[]] * 40)]  # fmt: skip
    path.write_text("[" + ",".join(lines) + "]" if name == "a.json" else "\n".join(lines))
    twice, inner, deep, deepest, wide = read_entries(path)
    assert twice == Refused("duplicate-key: one of 'id' stands twice")
    assert inner == {"a": {"b": 2}}  # no layout looks that deep
    assert deep == Refused("nested-too-deep: more than 16 levels")
    assert json.dumps(deepest) == lines[3]
    assert wide == [[]] * 40


def test_other_files_are_refused(tmp_path):
    with pytest.raises(PedAlignError, match=r"ends in '\.pkl'"):
        list(read_entries(tmp_path / "a.pkl"))
    with pytest.raises(PedAlignError, match="No such file"):
        list(read_entries(tmp_path / "a.json"))

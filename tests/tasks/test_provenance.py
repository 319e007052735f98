"""What counts as the same computation: a comment or a docstring changes nothing, a line does."""

import ast
import io
import shutil
import tokenize
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import provenance
from tasks.caption.vocabulary import SHIPPED
from tasks.provenance import (
    EXEMPT,
    PACKAGES,
    ROOT,
    closure,
    computation_key,
    data_files,
    imported_libraries,
    library_versions,
    model_revision,
    module_path,
    source_digest,
)

STAGES = (
    "ingest", "adapt", "restyle", "screen", "caption", "annotate", "pretrain", "finetune",
    "evaluate", "report",
)  # fmt: skip

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
        computation_key("screen", **(base | {"code": ["tasks.eda"]})),
        computation_key("screen", **base, revisions={"poser": "1"}),
        computation_key("screen", **base, device="cuda:0"),
    ]
    assert len({key, *others}) == 7
    assert computation_key("screen", **base, device="cuda:1") == others[-1]


def key_of(stage: str) -> str:
    return computation_key(stage, inputs=["a"], params={"seed": 1}, code=[f"tasks.{stage}"])


def forget() -> None:
    for cached in (
        provenance._tree, provenance._bare_tree, provenance._version, provenance.code_digest,
        provenance.imported_libraries,
    ):  # fmt: skip
        cached.cache_clear()


Edit = Callable[[str, str, str], None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """A copy of the project's code, in which a text of a file is replaced."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package,
            ignore=shutil.ignore_patterns("__pycache__", "tiny", "*.safetensors"),
        )  # fmt: skip
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    forget()

    def replace(name: str, old: str, new: str) -> None:
        path = tmp_path / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        forget()

    yield replace
    forget()


def test_an_edited_line_of_restyling_moves_its_key_and_no_other(edit: Edit) -> None:
    before = {stage: key_of(stage) for stage in ("restyle", "adapt", "screen", "annotate")}
    edit("models/dad/restyler.py", "import torch", "import torch\n\nEXTRA = 1")
    after = {stage: key_of(stage) for stage in before}
    # Adapting shows samples by the restyler; screening and annotating do not use it.
    assert {stage for stage in before if before[stage] != after[stage]} == {"restyle", "adapt"}


@pytest.mark.parametrize("name", ["tasks/restyle/shard.py", "flows/restyle.py", "tasks/shards.py"])
def test_every_layer_counts_by_what_it_computes(edit: Edit, name: str) -> None:
    first = "from __future__ import annotations"
    before = key_of("restyle")
    edit(name, first, f"# An aside.\n{first}\n\n# And another.")
    edit(name, '"""', '"""Told otherwise: ')
    assert key_of("restyle") == before
    edit(name, first, f"{first}\n\nEXTRA = 1")
    assert key_of("restyle") != before


def test_a_word_list_counts_for_whoever_reads_it(edit: Edit) -> None:
    stages = ("restyle", "pretrain", "finetune", "screen", "annotate")
    before = {stage: key_of(stage) for stage in stages}
    edit("tasks/synonyms.json", "[", "[ ")
    after = {stage: key_of(stage) for stage in stages}
    moved = {stage for stage in stages if before[stage] != after[stage]}
    assert moved == {"restyle", "pretrain", "finetune"}


def test_templates_count_for_the_report_only(edit: Edit) -> None:
    before = {stage: key_of(stage) for stage in ("report", "restyle")}
    edit("tasks/report/template.html", "<", " <")
    assert key_of("report") != before["report"]
    assert key_of("restyle") == before["restyle"]


def test_what_watches_and_locks_does_not_count(edit: Edit) -> None:
    before = key_of("restyle")
    for name in ("tasks/store.py", "tasks/locks.py", "flows/stage.py", "tasks/errors.py"):
        edit(
            name, "from __future__ import annotations", "from __future__ import annotations\nX = 1"
        )
    assert key_of("restyle") == before


def test_the_report_names_its_templates_and_eda_its_words() -> None:
    assert [path.name for path in data_files("tasks.eda")] == ["synonyms.json"]
    templates = {path.name for name in closure("tasks.report") for path in data_files(name)}
    assert templates == {"template.html", "dataset_card.md.jinja", "model_card.md.jinja"}
    assert data_files("tasks.nowhere") == []


def test_no_data_file_of_the_code_is_overlooked() -> None:
    """Whatever lies beside the modules and is no module is found through some module."""
    found = {
        path
        for package in PACKAGES
        for module in sorted((ROOT / package).rglob("*.py"))
        for path in data_files(".".join(module.relative_to(ROOT).with_suffix("").parts))
    }
    found |= {
        path
        for module in (ROOT / "tasks").rglob("__init__.py")
        for path in data_files(".".join(module.parent.relative_to(ROOT).parts))
    }
    shipped = ROOT / "models" / "tiny"
    assert data_files("models.regions.fitted") == [shipped / "regions" / "regions.json"]
    beside = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file()
        and path.suffix not in {".py", ".pyc"}
        # The shipped base and the attributes: parameters name them, and keys their digests.
        and shipped not in path.parents
        and path != ROOT / SHIPPED
    }
    assert beside == {path for path in found if shipped not in path.parents}


def test_imports_are_such_as_the_closure_sees() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            relative = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
            assert not relative, path


def test_libraries_are_those_that_the_code_imports_and_what_computes_for_them() -> None:
    assert set(imported_libraries("tasks.screen.rules")) >= {"numpy", "pillow", "pyarrow", "torch"}
    assert {"safetensors", "tokenizers"} <= set(imported_libraries("tasks.pretrain"))
    assert "prefect" not in imported_libraries("flows.screen")
    assert "ast" not in imported_libraries("flows.screen")
    needed = {name for stage in STAGES for name in imported_libraries(f"flows.{stage}")}
    # A name that no distribution has would never change the key; nltk is an extra.
    assert [name for name in needed - {"nltk"} if library_versions(name)[name] == "absent"] == []


def test_a_models_folder_counts_without_what_its_download_left_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = provenance.folder_digest(tmp_path)
    left = tmp_path / ".cache" / "huggingface" / "download" / "config.json.metadata"
    left.parent.mkdir(parents=True)
    left.write_text("a commit, a digest, 1763740000.1")
    assert provenance.folder_digest(tmp_path) == before
    (tmp_path / "config.json").write_text("[]")
    assert provenance.folder_digest(tmp_path) != before


def test_another_version_of_a_library_moves_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of("restyle")
    version = provenance.importlib.metadata.version
    monkeypatch.setattr(
        provenance.importlib.metadata,
        "version",
        lambda name: "99" if name == "diffusers" else version(name),
    )
    forget()
    try:
        assert key_of("restyle") != before
    finally:
        forget()


def test_the_number_of_threads_moves_the_key() -> None:
    threads = torch.get_num_threads()
    before = key_of("restyle")
    try:
        torch.set_num_threads(threads + 1)
        assert key_of("restyle") != before
    finally:
        torch.set_num_threads(threads)
    assert key_of("restyle") == before


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)
)
sections = st.dictionaries(st.text(max_size=5), st.one_of(values, st.lists(values, max_size=3)))


@settings(max_examples=50, deadline=None)
@given(one=sections, other=sections)
def test_equal_parameters_and_only_they_give_equal_keys(one: dict, other: dict) -> None:
    def key(params: dict) -> str:
        return computation_key("screen", inputs=[], params=params, code=["tasks.errors"])

    assert key(one) == key(dict(reversed(one.items())))
    # 1, 1.0 and True are equal to Python, and different parameters to a program.
    assert (key(one) == key(other)) is (repr(sorted(one.items())) == repr(sorted(other.items())))


MODULE = (ROOT / "models" / "dad" / "restyler.py").read_text(encoding="utf-8")
TOKENS = list(tokenize.generate_tokens(io.StringIO(MODULE).readline))
ENDS = [token.start for token in TOKENS if token.type == tokenize.NEWLINE]
NUMBERS = [token for token in TOKENS if token.type == tokenize.NUMBER]


def spliced(start: tuple[int, int], end: tuple[int, int], text: str) -> str:
    lines = MODULE.splitlines(keepends=True)
    line = lines[start[0] - 1]
    lines[start[0] - 1] = line[: start[1]] + text + line[end[1] :]
    return "".join(lines)


@settings(max_examples=40, deadline=None)
@given(
    at=st.sampled_from(ENDS),
    text=st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp"))),
)
def test_a_comment_anywhere_changes_nothing(at: tuple[int, int], text: str) -> None:
    assert source_digest(spliced(at, at, f"  # {text}\n\n")) == source_digest(MODULE)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NUMBERS))
def test_another_number_anywhere_changes_the_code(token: tokenize.TokenInfo) -> None:
    edited = spliced(token.start, token.end, f"({token.string} + 1)")
    assert source_digest(edited) != source_digest(MODULE)


def test_a_model_may_be_a_file_of_weights(tmp_path: Path) -> None:
    file = tmp_path / "swin.pth"
    file.write_bytes(b"one")
    (tmp_path / "beside").write_bytes(b"x")
    first = model_revision(str(file))
    (tmp_path / "beside").write_bytes(b"y")
    model_revision.cache_clear()
    assert model_revision(str(file)) == first
    file.write_bytes(b"two")
    model_revision.cache_clear()
    assert model_revision(str(file)) != first

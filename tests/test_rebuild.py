"""What reruns after a change: docs/reruns.md, measured by running DVC.

Each case changes one thing in a copy of a rebuilt project, says ``dvc repro`` and reads which
stages ran and how many shards were computed. The cases marked ``always`` run with every test run,
some only up to a stage, and must find what is written; all of them take half an hour:
``PEDALIGN_WRITE_DOCS=1 pytest tests/test_rebuild.py`` runs them and writes each row as it is
measured, so ``-k`` renews single rows.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.projects import ROOT, STAGES, Project

DOC = ROOT / "docs" / "reruns.md"
HEAD = "| changed | stages that ran | shards computed |\n|---|---|---|\n"
WRITE = bool(os.environ.get("PEDALIGN_WRITE_DOCS"))

pytestmark = [pytest.mark.dvc, pytest.mark.slow, pytest.mark.timeout(1500)]

AFTER_FINETUNE = {"finetune@target", "evaluate@finetuned", "report"}
AFTER_PRETRAIN = {"pretrain", "evaluate@direct", *AFTER_FINETUNE}
AFTER_RESTYLE = {"restyle", "gap", "screen", "caption", "annotate", *AFTER_PRETRAIN}
EVERYTHING = {"ingest@source", "ingest@target", "adapt", *AFTER_RESTYLE}


@dataclass(frozen=True)
class Case:
    """One change and what it may and must rerun."""

    title: str
    """As it stands in the table."""
    first: tuple[str, ...]
    """The stages that read what is changed; only they and what depends on them may run."""
    must: frozenset[str]
    """Stages that run whatever the figures are. Others depend on them: whether a picture that
    looks different is screened differently, say."""
    params: dict[str, object] = field(default_factory=dict)
    edits: tuple[tuple[str, str, str], ...] = ()
    """File, a text in it, another text."""
    shards: dict[str, str] = field(default_factory=dict)
    """Stage: how many of its shards it computes, a key of `AMOUNTS`."""
    bytes_of: str = ""
    """A folder whose content is compared before and after."""
    same: bool = True
    """What the comparison should give."""
    always: bool = False
    until: str = ""
    """The stage at which the short run ends, if not the last."""


AMOUNTS: dict[str, Callable[[int, int], bool]] = {
    "none": lambda computed, shards: computed == 0,
    # A shard that grows beyond shard_rows splits in two; no other is touched.
    "one or two": lambda computed, shards: 1 <= computed <= 2 < shards,
    "all": lambda computed, shards: computed == shards,
}


def parameter(key: str, value: object, first: str | tuple[str, ...], must: set[str]) -> Case:
    stages = (first,) if isinstance(first, str) else first
    return Case(f"`{key}: {value}`", stages, frozenset(must), {key: value})


SOURCE, TARGET = "ingest.datasets.source.world", "ingest.datasets.target.world"
CASES = (
    Case("nothing", (), frozenset(), always=True),
    parameter("machine.threads", 2, tuple(sorted(EVERYTHING)), EVERYTHING),
    parameter(f"{SOURCE}.seed", 1, "ingest@source", {"ingest@source", *AFTER_RESTYLE}),
    parameter(f"{TARGET}.seed", 1, "ingest@target", EVERYTHING - {"ingest@source"}),
    parameter("diffusion.precision", "fp32", "adapt", {"adapt", *AFTER_RESTYLE}),
    parameter("adapt.seed", 1, "adapt", {"adapt", *AFTER_RESTYLE}),
    parameter("restyle.seed", 1, ("restyle", "gap"), AFTER_RESTYLE),
    Case(
        "`inputs.dad: data/nothing` and `restyle.match: 0` (the base without DaD)",
        ("restyle", "gap"),
        frozenset(AFTER_RESTYLE),
        {"inputs.dad": "data/nothing", "restyle.match": 0.0},
    ),
    parameter("screen.poser", "none", "screen", {"screen", "caption", "report"}),
    parameter("caption.method", "keep", "caption", {"caption", "annotate", *AFTER_PRETRAIN}),
    parameter("annotate.box_threshold", 0.6, "annotate", {"annotate", *AFTER_PRETRAIN}),
    Case(
        "`annotate.phrases: words` and `inputs.words: data/ingested/target`",
        ("annotate",),
        frozenset({"annotate", *AFTER_PRETRAIN}),
        {"annotate.phrases": "words", "inputs.words": "data/ingested/target"},
    ),
    Case(
        "`annotate.words: 7`, which only `phrases: words` reads",
        ("annotate",),
        frozenset({"annotate"}),
        {"annotate.words": 7},
        shards={"annotate": "none"},
        bytes_of="data/annotated",
    ),
    parameter("pretrain.training.seed", 1, "pretrain", AFTER_PRETRAIN),
    parameter("finetune.datasets.target.training.seed", 1, "finetune@target", AFTER_FINETUNE),
    parameter(
        "evaluate.runs.direct.protocol.similarity_weight",
        0.5,
        "evaluate@direct",
        {"evaluate@direct", "report"},
    ),
    parameter("gap.seed", 1, "gap", {"gap", "report"}),
    parameter("report.seed", 1, "report", {"report"}),
    Case(
        "one more source image",
        ("ingest@source",),
        frozenset({"ingest@source", *AFTER_RESTYLE}),
        {f"{SOURCE}.people": 33},
        shards={"ingest@source": "one or two", "restyle": "one or two"},
        always=True,
        until="restyle",
    ),
    Case(
        "a line of `tasks/restyle/renderer.py`",
        ("restyle", "gap"),
        frozenset(AFTER_RESTYLE),
        edits=(
            ("tasks/restyle/renderer.py", 'section.seed, "noise")', 'section.seed + 1, "noise")'),
        ),
        shards={"restyle": "all"},
        bytes_of="data/restyled",
        same=False,
        always=True,
        until="restyle",
    ),
    Case(
        "a docstring and a comment of `tasks/restyle/shard.py`",
        ("restyle", "gap"),
        frozenset({"restyle", "gap"}),
        edits=(
            ("tasks/restyle/shard.py", '"""Render source pictures', '"""Draw source pictures'),
            ("tasks/restyle/shard.py", "from __future__ ", "# What comes\nfrom __future__ "),
        ),
        shards={"restyle": "none"},
        bytes_of="data/restyled",
        always=True,
    ),
    Case(
        "a line of `tasks/screen/instruments.py` that changes no result",
        ("screen",),
        frozenset({"screen"}),
        edits=(("tasks/screen/instruments.py", "_CHUNK = 256", "_CHUNK: int = 256"),),
        shards={"screen": "all"},
        bytes_of="data/screened",
    ),
    Case(
        "`flows/windows.py`, which no result depends on",
        (),
        frozenset(),
        edits=(("flows/windows.py", '"""What a run shows', '"""All that a run shows'),),
        always=True,
    ),
)


@pytest.fixture
def project(rebuilt: Project, tmp_path: Path) -> Iterator[Project]:
    yield rebuilt.copy(tmp_path / "project")
    shutil.rmtree(tmp_path / "project")


@pytest.fixture(scope="module")
def edges(rebuilt: Project) -> set[tuple[str, str]]:
    return rebuilt.edges()


def below(edges: Iterable[tuple[str, str]], first: Iterable[str]) -> set[str]:
    """Some stages and every stage that depends on them."""
    found = set(first)
    while new := {after for before, after in edges if before in found} - found:
        found |= new
    return found


def above(edges: Iterable[tuple[str, str]], last: str) -> set[str]:
    """A stage and every stage that it depends on."""
    return below(((after, before) for before, after in edges), [last])


@pytest.mark.parametrize("case", CASES, ids=lambda case: re.sub(r"\W+", "-", case.title).strip("-"))
def test_what_reruns(case: Case, project: Project, edges: set[tuple[str, str]]) -> None:
    if not (case.always or WRITE):
        pytest.skip("measured with PEDALIGN_WRITE_DOCS=1 only")
    until = "" if WRITE else case.until
    reached = above(edges, until) if until else {stage for edge in edges for stage in edge}
    before = project.files(case.bytes_of) if case.bytes_of else {}
    for key, value in case.params.items():
        project.set(key, value)
    for edit in case.edits:
        project.edit(*edit)

    ran = project.repro(*([until] if until else []))
    assert case.must & reached <= set(ran) <= below(edges, case.first)
    counts = []
    for stage, amount in case.shards.items():
        computed, shards = project.computed(stage)
        assert AMOUNTS[amount](computed, shards), f"{stage}: {computed} of {shards}"
        counts.append(f"{stage}: {computed} of {shards}")
    if case.bytes_of:
        assert (project.files(case.bytes_of) == before) == case.same

    row = (", ".join(ran) or "none", "; ".join(counts))
    if WRITE:
        write_row(case.title, row)
    stages, written_counts = written()[case.title]
    assert ran == [stage for stage in stages if stage in reached]
    assert row[1] == written_counts


def test_the_table_is_whole_and_possible(edges: set[tuple[str, str]]) -> None:
    if WRITE:
        pytest.skip("being written")
    table = written()
    assert list(table) == [case.title for case in CASES], "PEDALIGN_WRITE_DOCS=1 writes it anew"
    assert len({stage for edge in edges for stage in edge}) == STAGES
    for case in CASES:
        stages, _ = table[case.title]
        assert case.must <= set(stages) <= below(edges, case.first), case.title


def test_every_section_of_the_parameters_has_a_row() -> None:
    from tasks.params import read_yaml

    changed = {key.split(".")[0] for case in CASES for key in case.params}
    sections = read_yaml(ROOT / "params.yaml")
    # A section without an entry has no stage: `describe` is tried in docs/unlabelled.md's profile.
    assert changed == {name for name, held in sections.items() if held != {"datasets": {}}}


def written() -> dict[str, tuple[list[str], str]]:
    """The table of the docs: what was changed -> stages that ran, shards."""
    _, _, table = DOC.read_text(encoding="utf-8").partition(HEAD)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {
        title: ([] if stages == "none" else stages.split(", "), counts)
        for title, stages, counts in rows
    }


def write_row(title: str, row: tuple[str, str]) -> None:
    """Put one measured row into the docs, in the order of the cases."""
    rows = {name: (", ".join(ran) or "none", counts) for name, (ran, counts) in written().items()}
    rows[title] = row
    lines = [f"| {c.title} | {' | '.join(rows[c.title])} |" for c in CASES if c.title in rows]
    text, _, _ = DOC.read_text(encoding="utf-8").partition(HEAD)
    DOC.write_text(text + HEAD + "\n".join(lines) + "\n", encoding="utf-8")

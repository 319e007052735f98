"""What the report knows: numbers read from manifests, metrics, curves and narrow columns.

Nothing here decodes a picture or holds a whole table: row counts come from the manifests, reasons
and identities from single columns, one shard at a time. Every input but the ingested sets may be
absent, and then its part of the report is absent too.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from tasks.errors import PedAlignError
from tasks.report.anatomy import Anatomy, read_anatomy
from tasks.report.choices import Chosen, read_chosen, read_epochs
from tasks.report.epoch_figures import Epochs
from tasks.report.figures import Curve
from tasks.report.gap import Gap, read_gap
from tasks.report.records import MEASURES, read_json, settings
from tasks.report.region_tally import Regions, tally_regions
from tasks.report.rejects import Tally, tally
from tasks.report.splits import SplitCheck, check_splits
from tasks.schemas import OK
from tasks.shards import iter_tables, read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tasks.caption.shares import TextFigures
    from tasks.report.domains import DomainMap
    from tasks.report.mentions import Failures
    from tasks.report.reid import Found
    from tasks.report.sources import Sources
    from tasks.report.wording import Wording

log = logging.getLogger(__name__)

_NOT_LOSSES = frozenset({"step", "lr", "epoch", "seconds"})


@dataclass(frozen=True)
class Table:
    """One stage's table in numbers."""

    rows: int
    outcomes: Mapping[str, int]
    """Rows by outcome: "ok", or the reason for refusing."""
    size: int
    """Bytes on disk."""
    meta: Mapping[str, Any]
    digest: str


@dataclass(frozen=True)
class Evaluation:
    """One evaluation's figures."""

    folder: Path
    measures: Mapping[str, float]
    """R@1, R@5, R@10, mAP, mINP in percent."""
    besides: Mapping[str, Mapping[str, float]]
    """The same measures by other rankings: by features alone, and by chance."""
    queries: int | None
    gallery: int | None
    ranks: np.ndarray
    recall: np.ndarray
    """Percent of queries answered within each of ``ranks``."""
    reranked: bool
    """Whether a fusion encoder looked at candidates again."""


@dataclass(frozen=True)
class Facts:
    """Everything that the page and the cards say."""

    sources: Sources
    tables: Mapping[str, Table]
    splits: Mapping[str, SplitCheck]
    regions: Regions | None
    evaluations: Mapping[str, Evaluation]
    chosen: Mapping[str, Chosen]
    """Evaluation to how its checkpoint's epoch was chosen; those of no fine-tuning are absent."""
    curves: tuple[Curve, ...]
    choosing: tuple[Epochs, ...]
    """Of every fine-tuning that ranked its epochs: how well each did."""
    configs: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Anatomy]
    """Training run to what it trained, of those that trained a retrieval model."""
    methods: Mapping[str, str]
    """Table of captions to the method by which they were made."""
    timings: tuple[tuple[str, float, float | None], ...]
    outputs: Mapping[str, int]
    """Bytes on disk of what each stage left: tables, checkpoints, evaluations."""
    cache: Mapping[str, int] | None
    """Disk use of ``.cache`` (`tasks.disk.cache_use`) after the last stage before the report. From
    the timings, and not measured here: a report of the same outputs and timings is the same."""
    gap: Gap | None
    """How near the arms come to the target, and what content they keep."""
    unmeasured: str
    """Why the stage `gap` measured nothing; empty where it did, or does not say."""
    rejects: Tally | None
    """What screening refused, and why."""
    wording: Wording | None
    """How diverse the captions are."""
    texts: Mapping[str, TextFigures]
    """Pseudo texts in numbers, by table; empty where there are none."""
    failures: Failures | None = None
    """What the failures of the best evaluation have in common."""
    domains: DomainMap | None = None
    """Where the pictures of each domain lie among each other."""
    reidentified: tuple[Found, ...] = ()
    """Pictures found by pictures."""

    @property
    def fair(self) -> Mapping[str, Evaluation]:
        """Evaluations but those whose epoch was chosen on the test split: no headline is theirs."""
        by_test = {name for name, chosen in self.chosen.items() if chosen.on == "test"}
        return {name: e for name, e in self.evaluations.items() if name not in by_test}

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the highest R@1, one of a fair choice if there is any."""
        entries = (self.fair or self.evaluations).values()
        return max(entries, key=lambda e: e.measures.get("R@1", 0.0), default=None)

    @property
    def model(self) -> Anatomy | None:
        """The retrieval model that came out: fine-tuned on the target, on anything, or not."""
        on_target = self.models.get(f"finetune {self.sources.target}")
        return on_target or next(iter(list(self.models.values())[::-1]), None)

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of the datasets that are the built-in world's drawings."""
        return tuple(
            path.name
            for path in self.sources.ingested
            if is_drawn(path.name, self.tables[f"ingest {path.name}"].meta)
        )


def is_drawn(name: str, meta: Mapping[str, Any]) -> bool:
    """Whether a dataset comes from the built-in world and shows no real person.

    Ingestion says so in the manifest. Of the name, only the world's own two count: a user's
    "world-cup" holds photographs.
    """
    return bool(meta.get("drawn")) or name in {"world-source", "world-target"}


def gather(
    sources: Sources,
    wording: Wording | None = None,
    texts: Mapping[str, TextFigures] | None = None,
) -> Facts:
    """Read every number that the report shows.

    Args:
        sources: The folders.
        wording: What `tasks.report.wording` counted, which reads all captions.
        texts: What `tasks.report.texts` counted, which reads them too.

    Raises:
        PedAlignError: No dataset is ingested, or a file that is there is damaged.
    """
    if not sources.ingested:
        raise PedAlignError(
            "no ingested dataset was given to the report",
            "a report describes at least one dataset",
            "run dvc repro ingest",
        )
    runs = sources.checkpoints
    return Facts(
        sources=sources,
        tables={name: _table(path) for name, path in sources.tables.items()},
        splits={path.name: check_splits(path) for path in sources.ingested},
        regions=tally_regions(sources.annotated) if sources.annotated else None,
        evaluations={path.name: read_evaluation(path) for path in sources.evaluations},
        chosen={
            path.name: chosen
            for path in sources.evaluations
            if path.name in sources.runs
            and (chosen := read_chosen(sources.runs[path.name].checkpoint))
        },
        choosing=tuple(
            epochs for name, path in runs.items() if (epochs := read_epochs(name, path))
        ),
        curves=tuple(
            read_curve(name, path / "curve.csv")
            for name, path in runs.items()
            if (path / "curve.csv").exists()
        ),
        configs={name: settings(path) for name, path in runs.items()},
        models={name: model for name, path in runs.items() if (model := read_anatomy(path))},
        methods={
            name: method for name, path in sources.tables.items() if (method := _method(path))
        },
        timings=_timings(sources.timings),
        outputs={name: folder_size(path) for name, path in sources.outputs.items()},
        cache=_cache(sources.timings),
        gap=read_gap(sources.gap) if sources.gap else None,
        unmeasured=_unmeasured(sources.gap),
        rejects=tally(sources.screened) if sources.screened else None,
        wording=wording,
        texts=texts or {},
    )


def _unmeasured(gap: Path | None) -> str:
    if gap is None or not (gap / "metrics.json").exists():
        return ""
    return str(read_json(gap / "metrics.json").get("reason") or "")


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _table(folder: Path) -> Table:
    manifest = read_manifest(folder)
    outcomes = _screen_outcomes(folder) if manifest.schema_name == "screened" else manifest.counts
    return Table(manifest.rows, outcomes, folder_size(folder), manifest.meta, manifest.digest)


def _method(folder: Path) -> str:
    """The method of a table of captions; empty for any other table."""
    manifest = read_manifest(folder)
    if manifest.schema_name != "captioned":
        return ""
    if told := manifest.meta.get("method"):
        return str(told)
    for table in iter_tables(folder, ["method"], verify=False):  # of an older version
        if table.num_rows:
            return str(table["method"][0].as_py())
    return ""


def _screen_outcomes(folder: Path) -> dict[str, int]:
    """Count screening decisions; a picture refused for two reasons counts under the first."""
    counts: Counter[str] = Counter()
    for table in iter_tables(folder, ["keep", "reason", "status", "error"], verify=False):
        for keep, reason, status, error in zip(
            *(table[name].to_pylist() for name in ("keep", "reason", "status", "error")),
            strict=True,
        ):
            slug = error if status != OK else OK if keep else reason
            counts[str(slug or "no reason given").split(":", 1)[0].split("+", 1)[0]] += 1
    return dict(sorted(counts.items()))


def read_evaluation(folder: Path) -> Evaluation:
    """Read one evaluation's metrics.json and cmc.csv (`tasks.evaluate.run`).

    Raises:
        PedAlignError: A measure is no percentage.
    """
    raw = read_json(folder / "metrics.json")
    reranked = bool(raw.get("reranked", True))
    besides = {
        words: _measures(raw[name], folder)
        for name, words in (
            ("itc", "by features alone"),
            ("matching", "by the matching score alone"),
            ("chance", "by chance"),
        )
        # Without re-ranking the whole is by features alone.
        if isinstance(raw.get(name), dict) and (reranked or name != "itc")
    }
    ranks, recall = np.empty(0), np.empty(0)
    if (folder / "cmc.csv").exists():
        table = pa_csv.read_csv(folder / "cmc.csv")
        ranks, recall = (np.asarray(table[c], dtype=float) for c in ("rank", "recall"))
    queries, gallery = raw.get("queries"), raw.get("gallery")
    return Evaluation(
        folder, _measures(raw, folder), besides, queries, gallery, ranks, recall, reranked
    )


def _measures(raw: Mapping[str, Any], folder: Path) -> dict[str, float]:
    found = {name: raw[name.replace("@", "")] for name in MEASURES if name.replace("@", "") in raw}
    for name, value in found.items():
        if not isinstance(value, int | float) or not 0 <= value <= 100:
            raise PedAlignError(
                f"{folder / 'metrics.json'}: {name} is {value!r}",
                "measures are percentages",
                "run dvc repro evaluate",
            )
    return {name: float(value) for name, value in found.items()}


def read_curve(title: str, path: Path, most: int = 4000) -> Curve:
    """Read a training curve; a very long one is thinned evenly to ``most`` points."""
    table = pa_csv.read_csv(path)
    keep = np.unique(np.linspace(0, table.num_rows - 1, min(most, table.num_rows)).astype(int))
    columns = {
        name: np.asarray(table[name].to_numpy(), dtype=float)[keep]
        for name in table.column_names
        if pa.types.is_integer(table[name].type) or pa.types.is_floating(table[name].type)
    }
    steps = columns.get("step", np.arange(len(keep), dtype=float))
    losses = {name: values for name, values in columns.items() if name not in _NOT_LOSSES}
    return Curve(title, steps, losses, columns.get("lr"))


def _timings(folder: Path | None) -> tuple[tuple[str, float, float | None], ...]:
    entries = []
    for path in sorted(folder.glob("*.json")) if folder else []:
        body = read_json(path)
        if "seconds" not in body:
            log.warning("%s: no seconds; the stage is left out of the timings", path.name)
            continue
        stage = str(body.get("stage", path.stem))
        peak = body.get("peak_mb")
        entries.append((str(body.get("started", "")), stage, float(body["seconds"]), peak))
    return tuple((stage, seconds, peak) for _, stage, seconds, peak in sorted(entries))


def _cache(timings: Path | None) -> dict[str, int] | None:
    """Read the disk use of ``.cache`` that the last stage recorded beside its time."""
    bodies = [read_json(path) for path in sorted(timings.glob("*.json"))] if timings else []
    told = [body for body in bodies if isinstance(body.get("cache"), dict)]
    last = max(told, key=lambda body: str(body.get("started", "")), default=None)
    return {str(k): int(v) for k, v in last["cache"].items()} if last else None

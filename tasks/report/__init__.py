"""The report: what a run did, to be looked at rather than read.

``report`` reads the finished tables, curves and metrics and writes one folder: ``index.html`` (one
file, nothing loaded from elsewhere), each of its figures as a PNG, and the cards of the dataset
and of the model. Reading order: `tasks.report.sources` (the folders), `tasks.report.gather` (the
numbers), `tasks.report.choices` (which epochs were kept), `tasks.report.anatomy` (what the models
are), `tasks.report.road` (what each stage did, and why where it did nothing), `tasks.report.gap`,
`tasks.report.domains`, `tasks.report.rejects`, `tasks.report.wording`, `tasks.report.texts`,
`tasks.report.regions`, `tasks.report.published`, `tasks.report.mentions`, `tasks.report.failing`,
`tasks.report.crossing` and `tasks.report.reid` (their sections), `tasks.report.illustrate` (which
pictures), `tasks.report.sheets` and `tasks.report.figures` (how they are drawn),
`tasks.report.page` and `tasks.report.cards` (how they are put together).
"""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.evaluate.protocol import read_protocol
from tasks.params import NonNegative, Positive, params
from tasks.report import cards, illustrate, page, reid, texts
from tasks.report.choices import Run
from tasks.report.domains import domain_map
from tasks.report.gather import Facts, gather
from tasks.report.mentions import failures
from tasks.report.parts import Picture
from tasks.report.region_sheets import refused_sheet, region_sheet
from tasks.report.rejects import reject_sheet
from tasks.report.sources import Sources
from tasks.report.wording import caption_sheet, measure_wording
from tasks.shards import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from tasks.report.mentions import Failures

__all__ = ["Facts", "ReportParams", "Run", "Sources", "report"]

log = logging.getLogger(__name__)


@params
class ReportParams:
    """Section `report` of params.yaml."""

    seed: NonNegative
    """Seed of the choice of pictures and queries to show."""
    sheet_images: Positive
    """Columns of the before/after sheet."""
    region_images: Positive
    """Annotated pictures to show."""
    rank_list_queries: Positive
    """Queries to show for each evaluation; half of them are such as the best one gets wrong."""


def report(
    params: ReportParams,
    sources: Sources,
    out: Path,
) -> Facts:
    """Write the report of whatever the sources hold.

    Args:
        params: What to show.
        sources: The folders to read; see `Sources.under`.
        out: Folder for index.html, the figures and the cards; files of an earlier report with
            the same names are replaced.

    Returns:
        The numbers that were reported.

    Raises:
        PedAlignError: No dataset is ingested, or an input is damaged.
    """
    facts = gather(sources, measure_wording(sources, params.seed), texts.measure_texts(sources))
    facts = replace(
        facts,
        failures=_failures(facts, params.seed),
        domains=domain_map(sources, params.seed) if facts.gap else None,
        reidentified=reid.read(sources.reidentified),
    )
    sheets: dict[str, Image.Image | None] = {
        "before-after": illustrate.before_after(sources, params.sheet_images, params.seed),
        "captions": caption_sheet(sources, params.region_images, params.seed),
        **texts.sheets_of(sources, params.region_images, params.seed),
    }
    if sources.restyled and sources.screened:
        sheets["rejects"] = reject_sheet(sources.restyled, sources.screened, seed=params.seed)
    if sources.restyled and sources.annotated:
        both, seed = (sources.restyled, sources.annotated), params.seed
        sheets["regions"] = region_sheet(
            *both, params.region_images, seed, screened=sources.screened
        )
        sheets["refused-boxes"] = refused_sheet(*both, seed=seed)
    if facts.evaluations:
        # Every evaluation shows the same queries, so that they can be compared one by one.
        best = facts.best or next(iter(facts.evaluations.values()))
        queries = illustrate.choose_queries(best, params.rank_list_queries, params.seed)
        for name, entry in facts.evaluations.items():
            sheets[f"ranks-{name}"] = illustrate.rank_lists(entry, sources.ingested, queries)
    sheets |= reid.sheets_of(
        facts.reidentified, sources.ingested, params.rank_list_queries, params.seed
    )
    pictures = {name: encode_png(sheet) for name, sheet in sheets.items() if sheet is not None}
    sections = page.build(facts, pictures)
    out.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for part in section.parts:
            if isinstance(part, Picture):
                atomic_write(out / part.file, part.data)
    atomic_write(out / "dataset_card.md", cards.dataset_card(facts).encode())
    atomic_write(out / "model_card.md", cards.model_card(facts).encode())
    atomic_write(out / "index.html", page.render(facts, sections).encode())
    log.info("report written: %d sections, %d pictures", len(sections), len(pictures))
    return facts


def _failures(facts: Facts, seed: int) -> Failures | None:
    """What the best evaluation's failures have in common; None where none kept its queries."""
    entry = facts.best
    queries = entry.folder / "queries.parquet" if entry else None
    if entry is None or queries is None or not queries.exists():
        return None
    split = (read_protocol(entry.folder) or {}).get("split", "test")
    return failures(entry.folder.name, queries, facts.sources.ingested, seed, split)


def encode_png(image: Image.Image) -> bytes:
    """Encode a sheet without metadata; the same pixels give the same bytes.

    Pictures hardly compress: level 2 takes a third of the usual time for a tenth more bytes.
    """
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=2)
    return sink.getvalue()

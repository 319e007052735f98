"""Where a report's numbers lie: the folders that the stages of one run left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.shards import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from tasks.report.choices import Run


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The folders that a report reads. All but ``ingested`` may be None or empty."""

    ingested: tuple[Path, ...]
    """Ingested datasets."""
    target: str | None = None
    """Name of the target dataset, among ``ingested``."""
    restyled: Path | None = None
    screened: Path | None = None
    captioned: Path | None = None
    annotated: Path | None = None
    described: Mapping[str, Path] = field(default_factory=dict)
    """Dataset to the table of pseudo texts that the stage `describe` made for it."""
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    """Training run ("adapt", "pretrain", "finetune world-target") to its folder."""
    evaluations: tuple[Path, ...] = ()
    """Folders with metrics.json, cmc.csv and queries.parquet; the name is the folder's."""
    reidentified: Mapping[str, Path] = field(default_factory=dict)
    """Entry of the stage `reid` to the folder of its figures."""
    runs: Mapping[str, Run] = field(default_factory=dict)
    """Evaluation to what was evaluated, on what and how."""
    finetuned: tuple[str, ...] | None = None
    """Names of the fine-tunings that belong to the run; None where nobody says."""
    judge: Path | None = None
    """Folder of the judge that the stage `gap` trained."""
    gap: Path | None = None
    """Folder of the stage `gap`."""
    timings: Path | None = None
    """Folder of STAGE.json files."""

    @classmethod
    def under(
        cls,
        data: Path,
        timings: Path | None = None,
        target: str | None = None,
        runs: Mapping[str, Run] | None = None,
        finetuned: Collection[str] | None = None,
        described: Collection[str] | None = None,
        reidentified: Collection[str] | None = None,
    ) -> Sources:
        """Take whatever lies at the usual places below the data folder.

        Args:
            data: The folder.
            timings: Folder of STAGE.json files.
            target: Name of the target dataset; None takes one that is called so.
            runs: Evaluations of this run; None takes every one that lies there.
            finetuned: Fine-tunings of this run. What an earlier profile left stays away from the
                report; None takes every one that lies there.
            described: Datasets that got pseudo texts in this run; None takes all that lie there.
            reidentified: Re-identifications of this run; None takes all that lie there.
        """

        def table(name: str) -> Path | None:
            return data / name if (data / name / MANIFEST).exists() else None

        trained = {"adapt": data / "checkpoints" / "dad", "pretrain": data / "checkpoints/pretrain"}
        for folder in sorted((data / "checkpoints" / "finetune").glob("*")):
            if finetuned is None or folder.name in finetuned:
                trained[f"finetune {folder.name}"] = folder
        ingested = tuple(p.parent for p in sorted((data / "ingested").glob(f"*/{MANIFEST}")))
        if target is None:
            named = [p.name for p in ingested if "target" in p.name]
            target = named[0] if named else None
        compared = data / "reports" / "gap"
        metrics = sorted((data / "reports" / "evaluate").glob("*/metrics.json"))
        pseudo = [path.parent for path in sorted((data / "described").glob(f"*/{MANIFEST}"))]
        ranked = [
            path.parent for path in sorted((data / "reports" / "reid").glob("*/metrics.json"))
        ]
        return cls(
            ingested=ingested,
            target=target,
            restyled=table("restyled"),
            screened=table("screened"),
            captioned=table("captioned"),
            annotated=table("annotated"),
            described={
                path.name: path for path in pseudo if described is None or path.name in described
            },
            checkpoints={name: path for name, path in trained.items() if path.is_dir()},
            evaluations=tuple(p.parent for p in metrics if runs is None or p.parent.name in runs),
            reidentified={
                path.name: path
                for path in ranked
                if reidentified is None or path.name in reidentified
            },
            runs=runs or {},
            finetuned=None if finetuned is None else tuple(finetuned),
            judge=judge if (judge := data / "checkpoints" / "judge").is_dir() else None,
            gap=compared if compared.is_dir() else None,
            timings=timings,
        )

    @property
    def tables(self) -> dict[str, Path]:
        """Every table by the name under which the report shows it."""
        named = {f"ingest {p.name}": p for p in self.ingested}
        named |= {f"describe {name}": path for name, path in self.described.items()}
        stages = {
            "restyle": self.restyled,
            "screen": self.screened,
            "caption": self.captioned,
            "annotate": self.annotated,
        }
        return named | {name: path for name, path in stages.items() if path is not None}

    @property
    def outputs(self) -> dict[str, Path]:
        """What every stage left, tables first."""
        evaluated = {f"evaluate {path.name}": path for path in self.evaluations}
        return self.tables | dict(self.checkpoints) | evaluated

    @property
    def target_folder(self) -> Path | None:
        """The ingested target set."""
        return next((p for p in self.ingested if p.name == self.target), None)

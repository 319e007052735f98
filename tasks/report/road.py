"""The road that a run took: what each stage did, and a plain reason where it did nothing.

There is more than one road through the same stages: with Domain-aware Diffusion or without, with
captions that people wrote or pseudo texts, to MRA or to a dual encoder, fine-tuned or not. What is
missing from a report is missing for a reason, and this says which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.report.parts import Grid, Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.report.gather import Facts

HEADER = ("stage", "what was done")

_MODES = {
    "restyle": "pictures made over into the target's look",
    "generate": "pictures generated from captions alone",
    "colours": "the target's colours put on the pictures, without a diffusion model",
    "none": "left out: the pictures are taken as they are, and no diffusion model took part",
}
_METHODS = {
    "keep": "the captions that the pictures came with",
    "captioner": "new captions by a captioner",
    "clip_attributes": "pseudo texts: attributes that a CLIP finds, put into templates",
}


def section(facts: Facts) -> Section:
    """The page's section on the run itself."""
    found = Section("Road", "What each stage of this run did, and why where it did nothing.")
    rows = road(facts)
    if rows:
        text = "The stages of this run in their order."
        found.parts.append(Grid(text, HEADER, rows, text=frozenset({1})))
    return found


def road(facts: Facts) -> list[Sequence[str]]:
    """A row a stage. A run that trained and evaluated nothing has none."""
    if not facts.models and not facts.evaluations:
        return []
    told = {"adapt": _adapt(facts), "restyle": _restyle(facts)}
    told |= {
        name: f"{_METHODS.get(facts.methods[name], facts.methods[name])}; {_rows(facts, name)}"
        for name in facts.tables
        if name in facts.methods
    }
    if facts.regions:
        told["annotate"] = f"{facts.regions.phrases:,} phrases, {facts.regions.regions:,} regions"
    for name, model in facts.models.items():
        told[name] = ". ".join(
            part[0].upper() + part[1:] for part in (model.architecture, model.objective) if part
        )
        if model.started:
            told[name] += f". Started from {model.started}"
    if reason := no_finetuning(facts):
        told["finetune"] = f"left out: {reason}"
    for name, entry in facts.evaluations.items():
        how = "the cosine, then by the fusion encoder" if entry.reranked else "the cosine alone"
        told[f"evaluate {name}"] = f"ranked by {how}"
    if facts.gap is None:
        reason = facts.unmeasured or "nothing was compared with the target's pictures"
        told["gap"] = f"left out: {reason}"
    return [(stage, said) for stage, said in told.items() if said]


def no_finetuning(facts: Facts) -> str:
    """Why nothing was fine-tuned; empty where something was, or where there is no model at all."""
    if any(name.startswith("finetune") for name in facts.models) or not facts.models:
        return ""
    target = facts.sources.target
    check = facts.splits.get(target or "")
    if check is not None and not check.captions.get("train"):
        return (
            f"the train pictures of {target} have no captions, so there is nothing to fine-tune "
            "on. The result of this run is direct transfer: the pretrained model, on the test split"
        )
    if facts.sources.finetuned == ():
        return (
            "finetune.datasets in params.yaml is empty. The result of this run is direct transfer: "
            "the pretrained model, on the test split"
        )
    return "there is no fine-tuned checkpoint"


def no_reranking(facts: Facts) -> str:
    """Why no evaluation was re-ranked; empty where one was, or where there is none."""
    if not facts.evaluations or any(entry.reranked for entry in facts.evaluations.values()):
        return ""
    kinds = {model.kind for model in facts.models.values()}
    if kinds == {"dual"}:
        return "a dual encoder has no fusion encoder that could look at candidates again"
    return "top_k is 0, so the fusion encoder was not asked"


def _adapt(facts: Facts) -> str:
    """What Domain-aware Diffusion did."""
    body = facts.configs.get("adapt")
    if body is None:
        return "left out: no DaD adapter was trained" if facts.models else ""
    if body.get("method") == "none":
        reason = str(body.get("reason") or "").rstrip(".")
        return "left out: no DaD adapter was trained" + (f" ({reason})" if reason else "")
    return "a DaD adapter was trained on the target's train pictures"


def _restyle(facts: Facts) -> str:
    table = facts.tables.get("restyle")
    if table is None:
        return "left out: no pictures were made" if facts.models else ""
    mode = str(table.meta.get("mode", "restyle"))
    return f"{_MODES.get(mode, f'mode {mode}')}; {_rows(facts, 'restyle')}"


def _rows(facts: Facts, name: str) -> str:
    table = facts.tables[name]
    return f"{table.outcomes.get('ok', 0):,} of {table.rows:,} rows usable"

"""Dataset and model cards, in the layout of the Hugging Face Hub, from manifests and metrics.

A card opens with YAML front matter that the Hub reads, then states provenance and licences,
composition by status and reason, settings, the identity-leak check, biases, and what the thing is
for and what not. Person retrieval is next door to surveillance, so the last part is no formality.
"""

from __future__ import annotations

import io
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from ruamel.yaml import YAML

from tasks.report import choices, gap, road, texts
from tasks.report.anatomy import CLASSES
from tasks.report.figures import smooth
from tasks.report.gather import Facts, is_drawn
from tasks.report.page import notice
from tasks.report.records import MEASURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# What a user must know before passing anything on. Keys are matched against the dataset's format
# and name in lower case.
TERMS: dict[str, tuple[str, str]] = {
    "cuhk": (
        "CUHK-PEDES: photographs from five re-identification sets",
        "on request, research only",
    ),
    "icfg": ("ICFG-PEDES: photographs of MSMT17", "on request, research only"),
    "rstp": ("RSTPReid: photographs of MSMT17", "research only"),
    "mals": ("MALS: generated pictures of people", "research only"),
    "sda": ("SDA: generated pictures of people", "research only"),
    "luperson": ("LUPerson-T: photographs from street videos", "research only"),
}
SHIPPED = "models/tiny/"
"""Where the weights that come with the program lie."""
PSEUDO = "clip_attributes"
"""Method of captions that makes them of attributes."""
PLAIN = frozenset({"none", "colours"})
"""Modes of restyling without a diffusion model."""
DRAWN = ("drawings made by this program; no real person", "Apache-2.0")
_UNKNOWN = ("the user's own pictures", "stated by whoever provided them; ask before passing on")

ETHICS = """\
## Ethics

Finding a person from a description is useful to look for a lost child and just as useful to \
follow someone who does not want to be followed. Whoever uses this should know:

- **Consent.** Several public benchmarks show people who were filmed in public without being \
asked. Do not publish their pictures, and honour requests for removal.
- **Law.** Remote biometric identification is restricted or forbidden in many places (in the \
European Union by the AI Act and the GDPR). An assessment of the effects on those searched for \
comes before any use on real people.
- **Errors fall on the wrong person.** A first answer is a suggestion for a human to check, never \
evidence. Error rates differ between groups of people and are not measured here.
- **Restyled is not anonymous.** An image made from a photograph of someone may still show that \
person.
- **Say so.** Keep this section with every copy of the data or the model."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def terms(name: str, meta: Mapping[str, Any]) -> tuple[str, str]:
    """What a dataset is and under which terms it comes."""
    if is_drawn(name, meta):
        return DRAWN
    label = f"{meta.get('format', '')} {name}".lower()
    return next((entry for key, entry in TERMS.items() if key in label), _UNKNOWN)


def dataset_card(facts: Facts) -> str:
    """Write the card of the restyled, annotated set (of the ingested ones if there is no other)."""
    final = _final_table(facts)
    kept = facts.tables[final].outcomes.get("ok", 0)
    sources = [p.name for p in facts.sources.ingested if p.name != facts.sources.target]
    size = next((text for limit, text in _SIZES if kept < limit), "1M<n<10M")
    front = {
        "pretty_name": f"PedAlign {'restyled ' if _diffused(facts) else ''}person pairs",
        "license": _licence(facts),
        **({} if _licence(facts) != "other" else {"license_name": "research-only"}),
        "language": ["en"],
        "task_categories": ["text-retrieval", "object-detection"],
        "size_categories": [size],
        "source_datasets": ["original"] if len(facts.drawn) == len(facts.splits) else sources,
        "annotations_creators": ["machine-generated"],
        "language_creators": ["machine-generated"],
        "tags": ["text-based-person-retrieval", "synthetic", "person-re-identification"],
    }
    restyle = facts.tables.get("restyle")
    return _render(
        "dataset_card.md.jinja",
        front,
        title=front["pretty_name"],
        notice=notice(facts),
        count=f"{kept:,}",
        source_names=", ".join(sources) or "the target itself",
        target_name=facts.sources.target or "no target",
        making=_making(facts, sources),
        diffused=_diffused(facts),
        provenance=_provenance(facts),
        licence_note=_licence_note(facts),
        composition=[
            (
                name,
                f"{table.rows:,}",
                f"{table.outcomes.get('ok', 0):,}",
                ", ".join(f"{why}: {n:,}" for why, n in table.outcomes.items() if why != "ok")
                or "none",
            )
            for name, table in facts.tables.items()
        ],
        texts=[_cell(said, 1000) for said in texts.told(facts.texts)],
        regions=_annotation(facts),
        settings=_flat(restyle.meta) if restyle else [],
        splits=[
            (name, split, _count(check.people[split]), f"{n:,}", f"{check.captions[split]:,}")
            for name, check in facts.splits.items()
            for split, n in check.images.items()
        ],
        leaks=_leak_lines(facts),
        gap=gap.distances(facts.gap) if facts.gap else [],
        gap_made=(facts.gap.main if facts.gap else "") or "restyled",
        gap_content=gap.told(facts.gap) if facts.gap else "",
        ethics=ETHICS,
    )


def _diffused(facts: Facts) -> bool:
    """Whether a diffusion model took part."""
    return _mode(facts) not in PLAIN


def _mode(facts: Facts) -> str:
    """How the pictures were made; ``none`` where they are as ingested."""
    restyle = facts.tables.get("restyle")
    return (_find(restyle.meta, ("mode",)) or "restyle") if restyle else "none"


def _annotation(facts: Facts) -> str:
    """Phrases and regions in numbers and how they were found; empty without any."""
    counts = facts.regions
    if counts is None:
        return ""
    said = (
        f"{counts.phrases:,} phrases and {counts.regions:,} regions on {counts.pictures:,} pictures"
    )
    if counts.phrases:
        said += f"; {counts.found / counts.phrases:.1%} of the phrases have a region"
    if counts.refused:
        why = ", ".join(f"{_cell(reason)}: {n:,}" for reason, n in counts.refused.items())
        said += f"; {sum(counts.refused.values()):,} boxes refused ({why})"
    return " ".join(filter(None, (f"{said}.", _cell(counts.how()))))


def _making(facts: Facts, sources: Sequence[str]) -> str:
    """How the pairs were made, as half a sentence."""
    if "restyle" not in facts.tables:
        return "as ingested"
    origin, target = ", ".join(sources) or "the target", facts.sources.target or "the target"
    mode = _mode(facts)
    made = {
        "restyle": f"made by restyling {origin} into the look of {target} with Domain-aware "
        "Diffusion (DaD)",
        "generate": f"generated from the captions of {target} with Domain-aware Diffusion (DaD)",
        "none": f"taken from {origin} as they are, without diffusion",
    }.get(mode, f"made in the mode {mode}")
    captions = {
        "keep": "with the captions that they came with",
        PSEUDO: "given pseudo texts of the attributes that a CLIP finds",
    }
    steps = {
        "screen": "screened",
        "caption": captions.get(facts.methods.get("caption", ""), "captioned again"),
        "annotate": "annotated with phrases and regions",
    }
    return ", ".join([made, *(word for stage, word in steps.items() if stage in facts.tables)])


def model_card(facts: Facts) -> str:
    """Write the card of the retrieval model."""
    front: dict[str, Any] = {
        "license": _licence(facts),
        **({} if _licence(facts) != "other" else {"license_name": "research-only"}),
        "language": ["en"],
        "tags": ["text-based-person-retrieval", "image-text-retrieval", "domain-adaptation"],
        "metrics": ["recall"],
    }
    model = facts.model
    name = model.name if model else "MRA"
    if facts.fair:
        index = {"name": f"pedalign-{name.replace(' ', '-').lower()}"}
        front["model-index"] = [index | {"results": _model_index(facts)}]
    curves = {curve.title: curve for curve in facts.curves}
    runs = []
    for run in dict.fromkeys([*curves, *facts.configs]):
        losses = ""
        if run in curves:
            means = {loss: smooth(values)[-1] for loss, values in curves[run].losses.items()}
            losses = ", ".join(f"{loss} {v:.3g}" for loss, v in means.items() if np.isfinite(v))
        settings = _flat(facts.configs.get(run, {}))
        told = facts.models[run].rows() if run in facts.models else []
        runs.append(
            {
                "name": run,
                "losses": losses,
                "anatomy": [(what, _cell(said, 1000)) for what, said in told],
                "settings": settings,
            }
        )
    return _render(
        "model_card.md.jinja",
        front,
        title=f"PedAlign {name}",
        notice=notice(facts),
        told=_model(facts),
        direct=road.no_finetuning(facts),
        ranked=road.no_reranking(facts),
        loaded=CLASSES[model.kind] if model else CLASSES["mra"],
        fuses=model.fuses if model else True,
        measures=MEASURES,
        results=[
            (
                name,
                *(f"{e.measures[m]:.2f}" if m in e.measures else "–" for m in MEASURES),
                _count(e.queries),
                _count(e.gallery),
            )
            for name, e in facts.evaluations.items()
        ],
        choices_header=choices.HEADER,
        choices_text=choices.EXPLANATION,
        choices=[[_cell(cell) for cell in row] for row in choices.rows(facts)],
        runs=runs,
        provenance=_provenance(facts),
        licence_note=_licence_note(facts),
        ethics=ETHICS,
    )


_KINDS = {
    "mra": "The model is MRA (Multi-granularity Relation Alignment): a Swin image encoder and a "
    "BERT text encoder whose upper layers fuse both",
    "dual": "The model is a dual encoder: an image encoder and a text encoder whose features are "
    "compared by their cosine, and nothing that sees both",
}
_MADE = {
    "restyle": "restyled into the target's look",
    "generate": "generated in the target's look",
    "colours": "given the target's colours",
    "none": "taken as they are",
}


def _model(facts: Facts) -> str:
    """What the model is and how it came about, as a sentence."""
    kind = facts.model.kind if facts.model else "mra"
    mode = _mode(facts)
    method = facts.methods.get("caption")
    texts = ", with pseudo texts of what a CLIP finds in them" if method == PSEUDO else ""
    weight = facts.configs.get("pretrain", {}).get("params", {}).get("objective", {})
    both = kind == "mra" and weight.get("region_weight", 1)
    level = "at image and at region level " if both else ""
    how = f"pretrained {level}on pictures {_MADE.get(mode, mode)}{texts}"
    then = "and not fine-tuned" if road.no_finetuning(facts) else "then fine-tuned"
    return f"{_KINDS[kind]}. It was {how}, {then}."


def _render(template: str, front: Mapping[str, Any], **values: object) -> str:
    source = resources.files("tasks.report").joinpath(template).read_text("utf-8")
    # Markdown and not HTML: escaping would show as entities. Cells are cleaned by `_cell`.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    sink = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(dict(front), sink)
    return environment.from_string(source).render(front_matter=sink.getvalue(), **values)


def _final_table(facts: Facts) -> str:
    order = ("annotate", "screen", "caption", "restyle")
    usable = [name for name in order if name in facts.tables]
    # Screening decides what is kept; annotation may see rows that screening refused.
    return (
        min(usable, key=lambda n: facts.tables[n].outcomes.get("ok", 0))
        if usable
        else next(iter(facts.tables))
    )


def _count(value: int | None) -> str:
    return f"{value:,}" if value else "unknown"


def _licence(facts: Facts) -> str:
    return "apache-2.0" if len(facts.drawn) == len(facts.splits) else "other"


def _licence_note(facts: Facts) -> str:
    if _licence(facts) == "apache-2.0":
        return (
            "Nothing here derives from a third party's pictures; it may be passed on under "
            "Apache-2.0."
        )
    return (
        "What is derived from a set inherits its terms: this may be used for research and may not "
        "be passed on unless every set above allows it."
    )


def _provenance(facts: Facts) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for path in facts.sources.ingested:
        meta = facts.tables[f"ingest {path.name}"].meta
        what, licence = terms(path.name, meta)
        rows.append((_cell(path.name), what, licence))
    restyle = facts.tables.get("restyle")
    if restyle and _diffused(facts):
        base = _find(restyle.meta, ("base", "base_model", "base_revision"))
        licence = (
            "Apache-2.0, shipped with the program"
            if base and SHIPPED in base
            else "as stated by its publisher (Stable Diffusion 1.5: CreativeML OpenRAIL-M)"
        )
        rows.append(("base diffusion model", _cell(base or "see the settings"), licence))
    return rows


def _find(meta: Mapping[str, Any], names: Iterable[str]) -> str | None:
    flat = dict(_flat(meta))
    for name in names:
        for key, value in flat.items():
            if key == name or key.endswith(f".{name}"):
                return value
    return None


def _leak_lines(facts: Facts) -> list[str]:
    lines = []
    for name, check in facts.splits.items():
        known = [split for split, people in check.people.items() if people]
        if not known:
            lines.append(f"{name}: identities are unknown, so a leak cannot be excluded.")
        elif len(known) == 1:
            lines.append(f"{name}: one split ({known[0]}), nothing to leak between.")
        elif any(check.shared_people.values()):
            found = ", ".join(f"{n} in {pair}" for pair, n in check.shared_people.items() if n)
            lines.append(f"**{name}: identities stand in two splits ({found}).**")
        else:
            lines.append(f"{name}: no identity stands in two splits.")
        if check.shared_captions:
            lines.append(
                f"{name}: {check.shared_captions:,} sentences stand word for word with more than "
                "one person."
            )
    return lines


def _flat(body: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as rows of dotted names and values; long lists are shortened."""
    rows: list[tuple[str, str]] = []
    for key, value in body.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((_cell(f"{prefix}{key}"), _cell(value)))
    return rows


def _cell(value: object, most: int = 160) -> str:
    """A value as one cell of a Markdown table."""
    text = " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= most else text[: most - 1] + "…"


def _model_index(facts: Facts) -> list[dict[str, Any]]:
    names = {"R@1": "recall_at_1", "R@5": "recall_at_5", "R@10": "recall_at_10"}
    return [
        {
            "task": {"type": "image-text-retrieval", "name": "Text-based person retrieval"},
            "dataset": {"name": name, "type": name, "split": "test"},
            "metrics": [
                {"type": names.get(measure, measure), "name": measure, "value": round(value, 4)}
                for measure, value in entry.measures.items()
            ],
        }
        for name, entry in facts.fair.items()
    ]

"""Where source, restyled and target pictures lie: a map of their features by t-SNE.

The features are those in which stage ``gap`` measures distances, of the judge that was trained on
the target's train split (or a hub's model in its place); where no judge could be trained, those of
the pretrained vision encoder. The target's pictures are of splits that trained neither, where it
has any, one of each person. Which pictures follows their uids alone, and one thread lays them out,
so the map is the same on every run.

A map shows who mingles with whom. Distances between far groups mean nothing in t-SNE; the measured
gap is in the tables.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from tasks.errors import PedAlignError
from tasks.images import ImageError, to_array_batch
from tasks.lookup import fetch, sample
from tasks.report.figures import PALETTE, STYLE, png
from tasks.report.parts import Picture
from tasks.shards import iter_tables, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.report.sources import Sources

log = logging.getLogger(__name__)

PICTURES = 100
"""Of each domain at most."""
PERPLEXITY = 30.0
LEAST = 8
"""Pictures of a domain; a map of fewer shows nothing."""
_HELD_OUT = ("test", "val")
_TINTS = {"source": PALETTE[0], "restyled": PALETTE[1], "target": PALETTE[2]}
_MARKERS = {"source": "o", "restyled": "^", "target": "s"}
_BATCH = 64
_DRAWN = 8
"""Pictures looked at for each that is shown, to find so many people."""


@dataclass(frozen=True)
class DomainMap:
    """Pictures of several domains on a plane."""

    points: Mapping[str, NDArray[np.floating]]
    """Domain to (N, 2)."""
    features: str
    """What the map is of."""
    perplexity: float
    seed: int


def domain_map(sources: Sources, seed: int) -> DomainMap | None:
    """Lay out some pictures of each domain; None where there are no two to compare.

    Args:
        sources: Datasets, restyled pictures and checkpoints.
        seed: Of the choice of pictures and of t-SNE.
    """
    opened = _encoder(sources)
    images = _chosen(sources, seed)
    if opened is None or len(images) < 2:
        return None
    size, encode, name = opened
    found: dict[str, NDArray[np.floating]] = {}
    for domain, rows in images.items():
        try:
            parts = [rows[at : at + _BATCH] for at in range(0, len(rows), _BATCH)]
            found[domain] = np.concatenate([encode(to_array_batch(p, size)) for p in parts])
        except ImageError as error:
            log.warning("no map of the domains: %s of %s", error, domain)
            return None
    return lay_out(found, name, seed)


def lay_out(features: Mapping[str, NDArray[np.floating]], name: str, seed: int) -> DomainMap | None:
    """Lay out features on a plane by t-SNE.

    Args:
        features: Domain to (N, D).
        name: What they are.
        seed: Of t-SNE.

    Returns:
        The map; None of fewer than three pictures or of features that are all the same.
    """
    from sklearn.manifold import TSNE  # takes a second
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no stubs

    together = np.concatenate(list(features.values())).astype(np.float64)
    if len(together) < 3 or not np.isfinite(together).all() or not together.std(0).any():
        return None
    perplexity = min(PERPLEXITY, (len(together) - 1) / 3)
    with threadpool_limits(1):
        model = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
        points = model.fit_transform(together)
    ends = np.cumsum([len(rows) for rows in features.values()])[:-1]
    named = dict(zip(features, np.split(points, ends), strict=True))
    return DomainMap(named, name, perplexity, seed)


def picture(found: DomainMap) -> Picture:
    """Draw the map."""
    counts = ", ".join(f"{len(points):,} {name}" for name, points in found.points.items())
    text = (
        f"Where pictures lie in {found.features}: {counts}, by t-SNE (perplexity "
        f"{found.perplexity:g}, seed {found.seed}), one of each person. It shows who mingles with "
        "whom; distances between groups are no measure, those are in the table."
    )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 6.6), layout="constrained")
        axes = figure.subplots()
        for name, points in found.points.items():
            axes.plot(points[:, 0], points[:, 1], _MARKERS[name], color=_TINTS[name], ms=6,
                      alpha=0.75, mec="white", mew=0.5, label=name)  # fmt: skip
        axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        figure.legend(loc="outside upper left", ncols=3, fontsize=9.5)
    return Picture("domains", text, png(figure), narrow=True)


def _chosen(sources: Sources, seed: int) -> dict[str, list[bytes]]:
    """Pictures of each domain, as they are stored."""
    target = sources.target_folder
    folders = {"source": _plain(sources), "restyled": sources.restyled, "target": target}
    if sources.restyled is not None and read_manifest(sources.restyled).meta.get("mode") == "none":
        del folders["restyled"]  # the source's pictures as they came
    found: dict[str, list[bytes]] = {}
    for name, folder in folders.items():
        if folder is None:
            continue
        held_out = name == "target"  # the judge knows its train pictures
        images = _images(folder, _HELD_OUT, seed) if held_out else []
        images = images if len(images) >= LEAST else _images(folder, (None,), seed)
        if len(images) >= LEAST:
            found[name] = images
    return found


def _images(folder: Path, splits: Sequence[str | None], seed: int) -> list[bytes]:
    """Some pictures of a folder, one of each person: those of one person would lie together."""
    people: dict[str, str] = {}
    for split in splits:
        where = {"split": split} if split else {}
        uids = sample(folder, _DRAWN * PICTURES, seed, "map of the domains", where)
        rows = fetch(folder, uids, ["person_id"])
        for uid in uids:
            people.setdefault(rows[uid]["person_id"] or uid, uid)
    chosen = list(people.values())[:PICTURES]
    rows = fetch(folder, chosen, ["image"])
    return [rows[uid]["image"] for uid in chosen if rows[uid]["image"]]


def _plain(sources: Sources) -> Path | None:
    """The dataset whose pictures were restyled; None where they were generated from captions."""
    if sources.restyled is None:
        return None
    for table in iter_tables(sources.restyled, ["dataset"], verify=False):
        if table.num_rows:
            name = table["dataset"][0].as_py()
            others = (path for path in sources.ingested if path.name != sources.target)
            return next((path for path in others if path.name == name), None)
    return None


def _encoder(
    sources: Sources,
) -> tuple[tuple[int, int], Callable[[NDArray[np.uint8]], NDArray[np.floating]], str] | None:
    """What turns pictures into features: size, function and name; None where there is nothing."""
    judge = sources.judge
    if judge is not None and (judge / "judge.json").exists():
        from models.judge import load_judge

        try:
            opened = load_judge(judge, "cpu")
        except ValueError as error:  # a hub's model that this machine does not have
            log.warning("no map of the domains in the judge's features: %s", error)
        else:
            return opened.size, opened.encode_images, "the features of the gap's judge"
    pretrained = sources.checkpoints.get("pretrain")
    if pretrained is not None and (pretrained / "config.json").exists():
        from tasks.encoder import RetrievalEncoder

        try:
            encoder = RetrievalEncoder.load(pretrained)
        except PedAlignError as error:
            log.warning("no map of the domains: %s", error.found)
        else:
            name = "the features of the pretrained image encoder"
            return encoder.size, encoder.encode_images, name
    return None

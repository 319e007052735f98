"""A released model's numbers: encoders, objective, gradients, ranking.

The model is built from the folder's weights under the reading `released` and goes through this
project's own objective, re-ranking and metrics.

Shapes: B rows, L word pieces, P image tokens, Q queries, G gallery images, K candidates.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoint_files import TIED
from models.mra import MRA
from models.mra.checkpoint import load_state
from models.mra.losses import contrastive_loss
from models.mra.objectives import PretrainObjective
from models.mra.released import (
    DERIVED,
    check_derived,
    from_released,
    released_config,
    to_released,
)
from models.ranking import Mixture, rank
from tasks.errors import PedAlignError
from tasks.evaluate.ranking import MEMORY, Embedded, embed_images, embed_texts, judge
from tasks.parity.rows import (
    NEGLIGIBLE,
    Row,
    equal_row,
    metric_row,
    need,
    norm_row,
    read_json,
    read_tensors,
    unknown_row,
    values_row,
)
from tasks.tokens import load_tokenizer

MODEL_FILES = ("config.json", "weights.safetensors", "vectors.safetensors")
GRADIENT = "grad_norm."
SIMILARITY_WEIGHT = 0.002
"""Of the cosine in the released score."""
BATCH = 64
"""Images, texts or pairs a pass."""

# What vectors.safetensors holds as input; everything else in it is a result to compare with.
_INPUTS = {
    "enc": ("image", "ids", "mask", "idx"),
    "obj": (
        "image", "ids", "mask", "masked_ids", "masked_pos", "mlm_labels", "region_ids",
        "region_mask", "box_atts", "idx", "label",
    ),
    "eval": ("image", "ids", "mask", "gallery_pids", "query_pids"),
}  # fmt: skip
_METRIC = re.compile(r"(itc|rerank)\.(R(\d+)|mAP|mINP)")


@dataclass(frozen=True)
class Golden:
    """A folder of a model's reference numbers, and the model that should reproduce them."""

    folder: Path
    settings: dict[str, Any]
    weights: dict[str, Tensor]
    vectors: dict[str, Tensor]
    model: MRA
    """In evaluation mode."""

    def setting(self, key: str) -> Any:
        """An entry of config.json."""
        return need(self.settings, key, self.folder / "config.json")

    def vector(self, name: str) -> Tensor:
        """A tensor of vectors.safetensors."""
        found: Tensor = need(self.vectors, name, self.folder / "vectors.safetensors")
        return found


def load_golden(folder: Path) -> Golden:
    """Read a folder and build its model.

    Raises:
        PedAlignError: A file is missing or damaged, or the weights do not fit the config.
    """
    settings = read_json(folder / "config.json")
    weights = read_tensors(folder / "weights.safetensors")
    vectors = read_tensors(folder / "vectors.safetensors")
    vision, text, temperature = (
        need(settings, key, folder / "config.json") for key in ("vision", "text", "temp")
    )
    try:
        model = MRA(released_config(vision, text, temperature, weights))
        load_state(model, from_released(weights), str(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise PedAlignError(
            f"{folder}: no model of these weights ({error})",
            "config.json and weights.safetensors are of one released model",
            "take both files from one source",
        ) from error
    return Golden(folder, settings, weights, vectors, model.eval())


def compare_model(folder: Path) -> list[Row]:
    """Compare every quantity of a model's folder.

    Raises:
        PedAlignError: A file, or a tensor that others are computed from, is missing.
    """
    golden = load_golden(folder)
    inputs = {f"{part}.{name}" for part, names in _INPUTS.items() for name in names}
    wanted = {name: golden.vectors[name] for name in sorted(golden.vectors.keys() - inputs)}
    rows = weight_rows(golden)
    parts: dict[str, Callable[[Golden], dict[str, Tensor]]] = {
        "enc": encoder_results,
        "obj": objective_results,
        "eval": lambda golden: ranking_results(golden, "eval", flip=False),
        "eval_flip": lambda golden: ranking_results(golden, "eval_flip", flip=True),
    }
    for part, compute in parts.items():
        own = [name for name in wanted if name.startswith(f"{part}.")]
        gradients = [name for name in wanted if name.startswith(GRADIENT)] if part == "obj" else []
        if not own and not gradients:
            continue
        try:
            found = compute(golden)
        except (IndexError, RuntimeError, ValueError) as error:
            raise PedAlignError(
                f"{folder}: {part}.* could not be computed ({str(error).splitlines()[0]})",
                "its inputs in vectors.safetensors fit the model of config.json",
                "take all files from one source",
            ) from error
        for name in own:
            rows.append(_result_row(name, found, wanted.pop(name)))
        if gradients:
            rows += gradient_rows(golden, {name: wanted.pop(name) for name in gradients})
    if {"texts", "vocab"} <= golden.settings.keys() and "eval.ids" in golden.vectors:
        rows.append(_texts_row(golden))
    return rows + [unknown_row(name) for name in wanted]


def _result_row(name: str, found: dict[str, Tensor], reference: Tensor) -> Row:
    if name not in found:
        return unknown_row(name)
    if _METRIC.fullmatch(name.split(".", 1)[1]):
        return metric_row(name, float(found[name]), float(reference))
    return values_row(name, found[name], reference)


# ------------------------------------------------------------------ the weights


def weight_rows(golden: Golden) -> list[Row]:
    """Whether the weights come back as they were, and stored buffers are what sizes give."""
    back = to_released(golden.model.state_dict())
    learned = {n: t for n, t in golden.weights.items() if not n.endswith(DERIVED) and n not in TIED}
    wrong = sorted(
        name
        for name in back.keys() | learned.keys()
        if name not in back or name not in learned or not torch.equal(back[name], learned[name])
    )
    wrong += [
        copy
        for copy, source in TIED.items()
        if copy in golden.weights and not torch.equal(golden.weights[copy], golden.weights[source])
    ]
    rows = [equal_row("weights", not wrong, _note(f"{len(learned)} tensors", wrong))]
    try:
        names = check_derived(golden.model, golden.weights)
    except ValueError as error:
        return [*rows, equal_row("weights.derived", equal=False, note=str(error))]
    return [*rows, equal_row("weights.derived", equal=True, note=f"{len(names)} buffers")]


# ------------------------------------------------------------------ encoders


@torch.no_grad()
def encoder_results(golden: Golden) -> dict[str, Tensor]:
    """`enc.*`: tokens, features before normalisation, matching logits, ITC."""
    model, vector = golden.model, golden.vector
    ids, mask = vector("enc.ids"), vector("enc.mask")
    image_BPD, image_BE = model.encode_image(vector("enc.image"))
    text_BLD, text_BE = model.encode_text(ids, mask)
    found = {
        "image_embeds": image_BPD,
        "text_embeds": text_BLD,
        "image_feat": model.image_feature(image_BPD),
        "text_feat": model.text_feature(text_BLD, mask),
        "cross_embeds": model.text_encoder.fuse(text_BLD, mask, model.image_keys(image_BPD)),
        "itm_logits": model.match(text_BLD, mask, image_BPD),
    }
    if "enc.idx" in golden.vectors:
        found["loss_itc"] = contrastive_loss(
            image_BE, text_BE, model.temp, vector("enc.idx"), label_smoothing=_smoothing(golden)
        )
    return {f"enc.{name}": value for name, value in found.items()}


# ------------------------------------------------------------------ objective and gradients


def objective_results(golden: Golden) -> dict[str, Tensor]:
    """`obj.*`: the losses of a pretraining step; leaves the gradients of their sum in the model."""
    batch, weight = objective_batch(golden), float(golden.setting("region_weight"))
    smoothing = _smoothing(golden)
    golden.model.zero_grad(set_to_none=True)
    losses = PretrainObjective(golden.model, region_weight=weight, label_smoothing=smoothing)(batch)
    losses["loss"].backward()
    found = {name: losses[name] for name in ("itc", "itm", "mlm")}
    if weight:
        found["region"] = (losses["rpc"] + losses["rpm"]) / weight
    elif "region_ids" in batch:  # it counts for nothing, and is compared all the same
        with torch.no_grad():
            once = PretrainObjective(golden.model, region_weight=1.0, label_smoothing=smoothing)
            unweighted = once(batch)
        found["region"] = unweighted["rpc"] + unweighted["rpm"]
    named = {f"obj.loss_{name}": loss.detach() for name, loss in found.items()}
    return {**named, "obj.total": losses["loss"].detach()}


def objective_batch(golden: Golden) -> dict[str, Tensor]:
    """The inputs of `obj.*` under this project's batch keys."""
    vector = golden.vector
    ids, labels = vector("obj.ids"), vector("obj.mlm_labels")
    placed = torch.full_like(ids, -100)
    row_M, column_M = (labels != -100).nonzero(as_tuple=True)
    placed[row_M, vector("obj.masked_pos")[row_M, column_M]] = labels[row_M, column_M]
    batch = {
        "image": vector("obj.image"),
        "ids": ids,
        "mask": vector("obj.mask"),
        "person": vector("obj.idx"),
        "masked_ids": vector("obj.masked_ids"),
        "masked_labels": placed,
    }
    if "obj.region_ids" in golden.vectors or float(golden.setting("region_weight")) > 0:
        batch |= {
            "region_ids": vector("obj.region_ids"),
            "region_mask": vector("obj.region_mask"),
            "phrase_id": vector("obj.label"),
            # As released, 1 is outside; token 0 has an entry.
            "patch_mask": 1 - vector("obj.box_atts")[:, 1:],
        }
    return batch


def gradient_rows(golden: Golden, wanted: dict[str, Tensor]) -> list[Row]:
    """Norms of the gradients that `objective_results` left, under the released names."""
    gradients = {n: p.grad for n, p in golden.model.named_parameters() if p.grad is not None}
    norms = {
        f"{GRADIENT}{name}": float(gradient.double().norm())
        for name, gradient in to_released(gradients).items()
    }
    parameters = {f"{GRADIENT}{name}" for name in to_released(dict(_detached(golden.model)))}
    largest = max(float(value) for value in wanted.values())
    rows = [
        norm_row(name, norms.get(name), float(reference), largest)
        if name in parameters
        else unknown_row(name)
        for name, reference in wanted.items()
    ]
    extra = sorted(n for n in norms.keys() - wanted.keys() if norms[n] >= NEGLIGIBLE * largest)
    if extra:
        note = _note("learns here, and has no reference", extra)
        rows.append(Row(f"{GRADIENT}*", "same parameters", ok=False, note=note))
    return rows


# ------------------------------------------------------------------ ranking


@torch.no_grad()
def ranking_results(golden: Golden, part: str, *, flip: bool) -> dict[str, Tensor]:
    """`eval.*` and `eval_flip.*`: similarities, scores after re-ranking, metrics of both."""
    model = golden.model

    def given(name: str) -> Tensor:
        own = f"{part}.{name}"
        return golden.vector(own if own in golden.vectors else f"eval.{name}")

    device, image_GCHW = torch.device("cpu"), given("image")
    ids_QL, mask_QL = (given(name).numpy() for name in ("ids", "mask"))
    images, image_GE = embed_images(
        model, image_GCHW.split(BATCH), len(image_GCHW), device, flip=flip
    )
    texts, text_QE = embed_texts(model, ids_QL, mask_QL, device, batch=BATCH)
    judged = judge(
        model,
        Embedded(images, image_GE, texts, text_QE),
        int(golden.setting("k_test")),
        device,
        batch=BATCH,
    )
    mixture = Mixture.of(
        judged.candidates, judged.logit_VQK, similarity_weight=SIMILARITY_WEIGHT, processes=1
    )
    similarity_QG = text_QE @ image_GE.T
    score_QG, _ = mixture.scores(slice(0, len(text_QE)), similarity_QG)
    found = {f"{part}.sims": similarity_QG, f"{part}.score": score_QG}
    people = given("query_pids"), given("gallery_pids")
    ranked = rank(text_QE, image_GE, mixture, *people, top=1, memory=MEMORY)
    ranks = tuple(
        sorted({int(m[3]) for n in golden.vectors if (m := _METRIC.search(n)) and m[3] is not None})
    )
    for kind, metrics in (("itc", ranked.itc), ("rerank", ranked.reranked)):
        for name, value in metrics.means(ranks).items():
            found[f"{part}.{kind}.{name}"] = torch.tensor(value, dtype=torch.float64)
    return found


def _texts_row(golden: Golden) -> Row:
    """Whether the query texts become the stored word pieces."""
    texts, ids_QL = golden.settings["texts"], golden.vector("eval.ids")
    with tempfile.TemporaryDirectory() as folder:
        pieces = "\n".join(golden.setting("vocab"))
        (Path(folder) / "vocab.txt").write_text(f"{pieces}\n", encoding="utf-8")
        tokenizer = load_tokenizer(folder)
    out = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=ids_QL.shape[1],
        return_tensors="pt",
    )
    equal = torch.equal(out["input_ids"], ids_QL) and torch.equal(
        out["attention_mask"], golden.vector("eval.mask")
    )
    return equal_row("eval.ids of texts", equal, f"{len(texts)} texts")


def _smoothing(golden: Golden) -> float:
    return float(golden.settings.get("label_smoothing", 0.0))


def _detached(model: MRA) -> list[tuple[str, Tensor]]:
    return [(name, parameter.detach()) for name, parameter in model.named_parameters()]


def _note(what: str, wrong: list[str], most: int = 3) -> str:
    """What was compared and, where some differ, the first of them."""
    if not wrong:
        return what
    return f"{what}; {len(wrong)} differ: {', '.join(wrong[:most])}"

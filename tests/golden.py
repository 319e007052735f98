"""Folders of reference numbers at any size, written from the second implementation.

Re-ranking goes query by query, metrics rank by rank.

Shapes: B rows, L word pieces, P image tokens, D width.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tests.second_model import (
    VOCAB,
    Size,
    State,
    fuse,
    head,
    itc,
    itm,
    match,
    mlm,
    new_weights,
    read,
    see,
)

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(os.environ.get("PEDALIGN_GOLDEN", ROOT.parent / "shared" / "golden"))
"""Where the released code's own numbers are, if they are on this machine."""


def new_texts(count: int, length: int, seed: int) -> tuple[list[str], Tensor, Tensor]:
    """Random texts, padded to a length."""
    rng = random.Random(seed)
    words = [at for at, piece in enumerate(VOCAB) if at > 4 and not piece.startswith("##")]
    texts, ids = [], torch.zeros(count, length, dtype=torch.int64)
    for row in range(count):
        chosen = [rng.choice(words) for _ in range(rng.randint(3, length - 2))]
        texts.append(" ".join(VOCAB[at] for at in chosen))
        ids[row, : len(chosen) + 2] = torch.tensor([2, *chosen, 3])
    return texts, ids, (ids != 0).long()


def encoder_vectors(w: State, size: Size) -> State:
    g = torch.Generator().manual_seed(1)
    _, ids, mask = new_texts(5, max(8, size.length - 7), 1)
    v = {"image": torch.randn(5, 3, *size.image, generator=g), "ids": ids, "mask": mask}
    v["idx"] = torch.tensor([1, 1, 0, 0, 2])
    image, text = see(w, size, v["image"]), read(w, size, ids, mask)
    v |= {"image_embeds": image, "text_embeds": text}
    v["image_feat"] = head(w, size, "vision_proj", image, first=False)
    v["text_feat"] = head(w, size, "text_proj", text, first=True)
    v["cross_embeds"] = fuse(w, size, text, mask, image)
    v["itm_logits"] = match(w, v["cross_embeds"])
    v["loss_itc"] = itc(w, size, v["image_feat"], v["text_feat"], v["idx"])
    return {f"enc.{name}": tensor for name, tensor in v.items()}


def objective_vectors(w: State, size: Size) -> State:
    g = torch.Generator().manual_seed(2)
    _, ids, mask = new_texts(2, 14, 2)
    _, region_ids, region_mask = new_texts(2, 12, 3)
    masked, pos = ids.clone(), torch.tensor([[1, 3, 0], [2, 4, 5]])
    labels = ids.gather(1, pos)
    labels[0, 2] = -100
    masked.scatter_(1, torch.tensor([[1, 3, 3], [2, 4, 4]]), 4)
    rows, columns = size.grids[-1]
    inside = torch.zeros(2, rows, columns, dtype=torch.int64)
    inside[0, : max(1, rows // 2)] = 1
    inside[1, rows // 3 :, : max(1, columns // 2)] = 1
    v = {
        "obj.image": torch.randn(2, 3, *size.image, generator=g),
        "obj.ids": ids, "obj.mask": mask, "obj.masked_ids": masked, "obj.masked_pos": pos,
        "obj.mlm_labels": labels, "obj.region_ids": region_ids, "obj.region_mask": region_mask,
        "obj.idx": torch.tensor([0, 1]), "obj.label": torch.tensor([5, 6]),
    }  # fmt: skip
    v["obj.box_atts"] = torch.cat([torch.ones(2, 1), 1 - inside.flatten(1)], 1).long()
    w = {
        name: tensor.clone().requires_grad_(tensor.is_floating_point() and "running" not in name
                                            and "attn_mask" not in name)
        for name, tensor in w.items()
    }  # fmt: skip
    image, text = see(w, size, v["obj.image"]), read(w, size, ids, mask)
    phrase = read(w, size, region_ids, region_mask)
    within = inside.flatten(1).float()
    mean = (image[:, 1:] * within[:, :, None]).sum(1) / within.sum(1, keepdim=True)
    region = torch.cat([mean[:, None], image[:, 1:]], 1)
    feature = {
        "image": head(w, size, "vision_proj", image, first=False),
        "text": head(w, size, "text_proj", text, first=True),
        "region": head(w, size, "vision_proj", region, first=False),
        "phrase": head(w, size, "text_proj", phrase, first=True),
    }
    seen = (1 - v["obj.box_atts"]).float()  # token 0 is never seen
    rpc = itc(w, size, feature["region"], feature["phrase"], v["obj.label"])
    rpm = itm(w, size, phrase, region_mask, region, seen)
    losses = {
        "itc": itc(w, size, feature["image"], feature["text"], v["obj.idx"]),
        "itm": itm(w, size, text, mask, image, None),
        "mlm": mlm(w, size, v, image),
        "region": 0.8 * (rpc + rpm),
    }
    total = losses["itc"] + losses["itm"] + losses["mlm"] + size.region_weight * losses["region"]
    total.backward()
    v |= {f"obj.loss_{name}": loss.detach() for name, loss in losses.items()}
    v["obj.total"] = total.detach()
    for name, tensor in w.items():
        if tensor.grad is not None:
            v[f"grad_norm.{name}"] = tensor.grad.norm()
    return v


def scaled(x: Tensor) -> Tensor:
    return (x - x.min()) / (x.max() - x.min())


def ranked(score: Tensor, query: Tensor, gallery: Tensor) -> dict[str, float]:
    """R@k, mAP, mINP in percent, query by query."""
    sums = dict.fromkeys(("R1", "R5", "R10", "mAP", "mINP"), 0.0)
    for row, person in zip(score, query, strict=True):
        hits = (gallery[row.argsort(descending=True)] == person).tolist()
        at = [rank for rank, hit in enumerate(hits, 1) if hit]
        for k in (1, 5, 10):
            sums[f"R{k}"] += at[0] <= k
        sums["mAP"] += sum(n / rank for n, rank in enumerate(at, 1)) / len(at)
        sums["mINP"] += len(at) / at[-1]
    return {name: 100 * value / len(query) for name, value in sums.items()}


def ranking_vectors(w: State, size: Size) -> tuple[list[str], State]:
    g = torch.Generator().manual_seed(4)
    texts, ids, mask = new_texts(size.queries, size.length, 5)
    people = max(2, size.gallery // 2)
    v: State = {
        "eval.image": torch.randn(size.gallery, 3, *size.image, generator=g),
        "eval.ids": ids,
        "eval.mask": mask,
        "eval.gallery_pids": torch.arange(size.gallery) % people,
        "eval.query_pids": torch.arange(size.queries) % people,
    }
    text = read(w, size, ids, mask)
    text_feat = F.normalize(head(w, size, "text_proj", text, first=True), dim=-1)
    views = [see(w, size, image) for image in (v["eval.image"], v["eval.image"].flip(-1))]
    features = [F.normalize(head(w, size, "vision_proj", x, first=False), dim=-1) for x in views]
    for part, count in (("eval", 1), ("eval_flip", 2)):
        sims = text_feat @ torch.stack(features[:count]).mean(0).t()
        score = 0.002 * scaled(sims)
        for view in views[:count]:
            own = torch.zeros_like(sims)
            for q, row in enumerate(sims):
                best = row.topk(size.k_test).indices
                pairs = text[q].expand(len(best), -1, -1), mask[q].expand(len(best), -1)
                logit = match(w, fuse(w, size, *pairs, view[best]))[:, 1]
                own[q] = logit.min()
                own[q, best] = logit
            score = score + scaled(own) / count
        v |= {f"{part}.sims": sims, f"{part}.score": score}
        for kind, values in (("itc", sims), ("rerank", score)):
            found = ranked(values, v["eval.query_pids"], v["eval.gallery_pids"])
            v |= {f"{part}.{kind}.{name}": torch.tensor(x) for name, x in found.items()}
    return texts, v


def settings(size: Size, texts: list[str]) -> dict[str, Any]:
    """config.json."""
    return {
        "vision": {
            "ckpt": "", "vision_width": size.width, "image_res": size.image[0],
            "h": size.image[0], "w": size.image[1], "window_size": size.window,
            "embed_dim": size.dim, "depths": list(size.depths), "num_heads": list(size.heads),
            "drop_rate": 0.0, "drop_path_rate": 0.0,
        },
        "text": {
            "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.0,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": size.text_dim,
            "initializer_range": 0.02, "intermediate_size": size.text_inner,
            "layer_norm_eps": 1e-12, "max_position_embeddings": size.positions,
            "model_type": "bert", "num_attention_heads": size.text_heads,
            "num_hidden_layers": size.layers, "pad_token_id": 0, "type_vocab_size": 2,
            "vocab_size": len(VOCAB), "fusion_layer": size.fusion_layer,
            "encoder_width": size.width,
        },
        "embed_dim": size.embed_dim, "temp": size.temp, "label_smoothing": size.smoothing,
        "region_weight": size.region_weight, "k_test": size.k_test, "vocab": VOCAB,
        "texts": texts, "seed": 0,
    }  # fmt: skip


def write_golden(folder: Path, size: Size) -> Path:
    """Write a folder of the golden format."""
    folder.mkdir(parents=True)
    state = new_weights(size)
    with torch.no_grad():
        texts, vectors = ranking_vectors(state, size)
        vectors |= encoder_vectors(state, size)
    vectors |= objective_vectors(state, size)
    tied = "text_encoder.cls.predictions.decoder."
    state[f"{tied}bias"] = state["text_encoder.cls.predictions.bias"].clone()
    state[f"{tied}weight"] = state["text_encoder.bert.embeddings.word_embeddings.weight"].clone()
    save_file({k: t.contiguous() for k, t in state.items()}, folder / "weights.safetensors")
    save_file(
        {k: t.detach().contiguous().clone() for k, t in vectors.items()},
        folder / "vectors.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(settings(size, texts)))
    return folder

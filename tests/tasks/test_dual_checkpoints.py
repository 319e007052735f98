"""A dual encoder's checkpoint folder in every command that loads checkpoints."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from models.dual import DualConfig, DualEncoder
from models.dual.config import BertText, ClipText, PatchVision
from tasks.checkpoints import save_checkpoint
from tasks.encoder import RetrievalEncoder
from tasks.errors import PedAlignError
from tasks.evaluate.run import EvaluateParams, evaluate
from tasks.gallery import build_index
from tasks.released import export_released
from tasks.report.anatomy import read_anatomy
from tasks.search import SearchIndex, search
from tasks.tokens import load_tokenizer
from tests.encoders import save_spelling_clip

CPU = torch.device("cpu")
COSINE = EvaluateParams(
    top_k=0, flip=False, similarity_weight=None, processes=None, precision="fp32"
)
LAYERS = {"dim": 16, "layers": 1, "heads": 2, "inner_dim": 24}
PARTS = {"parts": 2, "part_dim": 6, "depth": 1, "heads": 2, "head_dim": 4, "inner_dim": 8}


@pytest.fixture(scope="module", params=["vit and bert", "clip", "with parts"])
def checkpoint(request, tmp_path_factory, text_folder):
    """Random weights of a ViT with a BERT, of a CLIP, and with a granularity module."""
    folder = tmp_path_factory.mktemp("dual")
    clip = request.param == "clip"
    if clip:
        save_spelling_clip(folder / "start")
    tokenizer = load_tokenizer(folder / "start" if clip else text_folder)
    sizes = {**LAYERS, "vocab_size": len(tokenizer), "max_positions": 32}
    torch.manual_seed(2)
    model = DualEncoder.from_config(
        DualConfig(
            vision=PatchVision(kind="clip" if clip else "vit", patch_size=8, **LAYERS),
            text=ClipText(**sizes) if clip else BertText(**sizes),
            image_size=(32, 16),
            embed_dim=8,
            max_tokens=32,
        ).changed({"granularity": PARTS if request.param == "with parts" else None})
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return save_checkpoint(folder / "model", model, tokenizer, {"stage": "pretrain"}, [])


def test_evaluates_indexes_and_searches_by_the_cosine(checkpoint, shards, tmp_path):
    found = evaluate(shards, checkpoint, COSINE, CPU, batch=5)
    assert found.metrics["reranked"] is False
    assert found.metrics["gallery"] == 12
    encoder = RetrievalEncoder.load(checkpoint, CPU)
    assert encoder.size == (32, 16)
    assert not encoder.fuses
    build_index(encoder, shards, tmp_path / "index", batch=5)
    index = SearchIndex.open(tmp_path / "index")
    row = found.queries.to_pylist()[0]
    hits = search(index, encoder, row["caption"], k=48)
    scores = dict(zip(hits["uid"].to_pylist(), hits["score"].to_pylist(), strict=True))
    np.testing.assert_allclose([scores[uid] for uid in row["top10"]], row["scores"], atol=1e-5)


def test_what_needs_a_fusion_encoder_is_refused(checkpoint, shards, tmp_path):
    section = EvaluateParams(
        top_k=4, flip=True, similarity_weight=0.002, processes=None, precision="fp32"
    )
    with pytest.raises(PedAlignError, match="a dual encoder, and top_k is 4"):
        evaluate(shards, checkpoint, section, CPU)
    with pytest.raises(PedAlignError, match="no names for its tensors"):
        export_released(checkpoint, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("checkpoint", ["vit and bert"], indirect=True)
def test_the_commands(checkpoint, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, runner = ["--model", str(checkpoint)], CliRunner()
    done = runner.invoke(app, ["index", str(shards), *model, "--out", "index"])
    assert done.exit_code == 0, done.output
    assert "47 images can be found" in done.output
    asked = ["search", "a man in red", *model, "--index", "index", "-k", "3"]
    assert runner.invoke(app, asked).exit_code == 0
    assert (tmp_path / "search.png").exists()
    refused = runner.invoke(app, [*asked, "--rerank"])
    assert isinstance(refused.exception, PedAlignError)
    assert "search without --rerank" in str(refused.exception)


def test_is_described_for_the_report(checkpoint):
    found = read_anatomy(checkpoint)
    assert found.name == "dual encoder"
    assert "pictures of 32 x 16, features of 8" in found.architecture
    assert "Tokenizer" in found.tokenizer
    assert "texts of up to 32 tokens" in found.tokenizer

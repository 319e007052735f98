"""Released checkpoints: what a file tells is read off it, and what goes in comes out again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.mra.released import derived_buffers
from models.mra.released_sizes import vision_sizes
from tasks.checkpoints import load_model
from tasks.encoder import RetrievalEncoder
from tasks.errors import PedAlignError
from tasks.evaluate.run import EvaluateParams, evaluate
from tasks.pretrain import new_model
from tasks.released import export_released, import_released, read_released
from tasks.released.importing import PIXELS
from tests import second_model
from tests.golden import new_texts
from tests.second_model import VOCAB, Size, new_weights

MRA_SIZE = Size(image=(64, 32), depths=(2, 2), heads=(1, 2))
APTM_SIZE = Size(
    image=(384, 128), window=8, depths=(1, 2, 1, 2), heads=(1, 2, 4, 8), dim=8, token_head=True,
    embed_dim=256, text_dim=64, text_heads=1, layers=4, fusion_layer=2, positions=60,
)  # fmt: skip
TIED = {
    "text_encoder.cls.predictions.decoder.weight": (
        "text_encoder.bert.embeddings.word_embeddings.weight"
    ),
    "text_encoder.cls.predictions.decoder.bias": "text_encoder.cls.predictions.bias",
}
YAML = {"image_res": 64, "h": 64, "w": 32, "temp": 0.05, "itc_dop": 0.25, "max_tokens": 30}


def released(size: Size = MRA_SIZE) -> dict[str, torch.Tensor]:
    """A state dict as the released class gives it."""
    state = new_weights(size)
    return state | {copy: state[source] for copy, source in TIED.items()}


def without(state, *endings: str):
    return {name: tensor for name, tensor in state.items() if not name.endswith(endings)}


def save(path: Path, content) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def vocab(tmp_path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n")
    return path


def test_sizes_come_from_tensors_and_config(tmp_path, vocab):
    file = save(tmp_path / "a.pth", {"model": released(), "config": YAML})
    found = import_released(file, tmp_path / "out", vocab, text_heads=3)
    config = load_model(tmp_path / "out").config
    assert config == found.config
    assert (config.image_size, config.windows, config.depths) == ((64, 32), (4, 4), (2, 2))
    assert (config.vision_dim, config.vision_heads, config.patch_size) == (4, (1, 2), 4)
    assert (config.text_dim, config.text_heads, config.text_inner_dim) == (12, 3, 20)
    assert (config.text_layers, config.fusion_layers) == (1, 2)
    assert (config.head, config.embed_dim, config.head_dropout) == ("stripes", 10, 0.25)
    assert (config.temperature, config.max_tokens, config.vocab_size) == (0.05, 30, len(VOCAB))
    assert config.reading.pool_pads
    assert config.reading.beta_twice
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["file"] == "a.pth"


def test_every_tensor_has_its_place(tmp_path, vocab):
    state = released() | {"queue": torch.zeros(3), "vision_encoder.head.weight": torch.zeros(2, 2)}
    found = import_released(save(tmp_path / "a.pth", state), tmp_path / "out", vocab, text_heads=3)
    assert found.left == ["queue", "vision_encoder.head.weight"]
    assert found.tied == sorted(TIED)
    assert all(name.endswith(("index", "mask", "position_ids")) for name in found.derived)
    assert found.resized == found.new == []
    kinds = [found.mapped, found.left, found.tied, found.derived]
    assert sorted(name for kind in kinds for name in kind) == sorted(state)
    assert len(found.mapped["vision_encoder.layers.0.blocks.0.attn.qkv.weight"]) == 3


@pytest.mark.parametrize("size", [MRA_SIZE, APTM_SIZE], ids=["MRA", "APTM"])
def test_what_goes_in_comes_out(tmp_path, vocab, size):
    state = released(size)
    file = save(tmp_path / "a.pth", {"model": state})
    found = import_released(file, tmp_path / "out", vocab, text_heads=size.text_heads)
    assert not found.left
    export_released(tmp_path / "out", tmp_path / "b.pth")
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    assert back["model"].keys() == state.keys()
    for name, tensor in state.items():
        assert back["model"][name].dtype == tensor.dtype, name
        assert torch.equal(back["model"][name], tensor), name
    # A second time without any option: the file says everything.
    again = import_released(tmp_path / "b.pth", tmp_path / "again", vocab)
    assert again.config == found.config
    first, second = ((tmp_path / f / "model.safetensors").read_bytes() for f in ("out", "again"))
    assert first == second
    # The tied decoder is stored once.
    table = back["model"][TIED["text_encoder.cls.predictions.decoder.weight"]]
    decoder = back["model"]["text_encoder.cls.predictions.decoder.weight"]
    assert decoder.data_ptr() == table.data_ptr()


def test_an_aptm_checkpoint_computes_what_the_release_does(tmp_path, vocab):
    file = save(tmp_path / "aptm.pth", {"model": released(APTM_SIZE), "config": {"embed_dim": 256}})
    import_released(file, tmp_path / "out", vocab)  # a head for 64 channels
    model = load_model(tmp_path / "out").eval()
    config = model.config
    assert (config.image_size, config.windows) == ((384, 128), (8, 8, 8, 4))
    assert (config.head, config.embed_dim, config.text_heads) == ("token", 256, 1)
    image = torch.randn(2, 3, 384, 128, generator=torch.Generator().manual_seed(0))
    _, ids, mask = new_texts(2, 20, 0)
    state = new_weights(APTM_SIZE)
    with torch.no_grad():
        tokens = second_model.see(state, APTM_SIZE, image)
        text = second_model.read(state, APTM_SIZE, ids, mask)
        ours, _ = model.encode_image(image)
        read, _ = model.encode_text(ids, mask)
        torch.testing.assert_close(ours, tokens, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            model.image_feature(ours),
            second_model.head(state, APTM_SIZE, "vision_proj", tokens, first=False),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
        torch.testing.assert_close(
            model.match(read, mask, ours),
            second_model.match(state, second_model.fuse(state, APTM_SIZE, text, mask, tokens)),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip


def test_search_evaluation_and_training_take_it(tmp_path, text_folder, shards):
    """With the fixtures' own text model, whose folder also tells the attention heads."""
    vocabulary = (text_folder / "vocab.txt").read_text().split()
    state = new_weights(Size(text_dim=16, positions=32, depths=(2, 1), heads=(1, 2)))
    for name, rows in (
        ("text_encoder.bert.embeddings.word_embeddings.weight", (len(vocabulary), 16)),
        ("text_encoder.cls.predictions.bias", (len(vocabulary),)),
    ):
        state[name] = torch.randn(rows)
    file = save(tmp_path / "a.pth", {"module." + name: tensor for name, tensor in state.items()})
    found = import_released(file, tmp_path / "out", text_folder)
    assert found.config.text_heads == 2
    encoder = RetrievalEncoder.load(tmp_path / "out", torch.device("cpu"))
    pixels = np.zeros((2, 64, 32, 3), np.uint8)
    assert encoder.encode_images(pixels).shape == encoder.encode_texts(["a man", "a"]).shape
    protocol = EvaluateParams(
        top_k=3, flip=False, similarity_weight=0.002, processes=None, precision="fp32"
    )
    metrics = evaluate(shards, tmp_path / "out", protocol, torch.device("cpu")).metrics
    assert metrics["processes"] == 4  # the reading's
    assert load_model(tmp_path / "out", image_size=(96, 48), window_size=6).config.windows[0] == 6


@torch.no_grad()
def test_other_pixels_give_the_same_tokens(tmp_path, vocab):
    """The file's own normalisation before the file's weights, and ours before the adapted ones."""
    file = save(tmp_path / "a.pth", {"model": released(), "config": YAML})
    image = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    tokens = {}
    for name in ("clip", "cuhk"):
        found = import_released(file, tmp_path / name, vocab, text_heads=3, pixels=name)
        assert bool(found.changed) == (name == "cuhk")
        model = load_model(tmp_path / name).eval()
        for way in ("clip", "cuhk"):
            mean, deviation = (torch.tensor(v)[:, None, None] for v in PIXELS[way])
            tokens[name, way] = model.encode_image((image - mean) / deviation)[0]
    torch.testing.assert_close(tokens["cuhk", "clip"], tokens["clip", "cuhk"], rtol=0, atol=1e-4)
    assert (tokens["clip", "clip"] - tokens["clip", "cuhk"]).abs().max() > 0.01
    with pytest.raises(PedAlignError, match="mals"):
        import_released(file, tmp_path / "out", vocab, text_heads=3, pixels="imagenet")


# ------------------------------------------------------------------ the image size


@given(st.sampled_from([3, 4, 6]), st.integers(2, 4), st.integers(2, 4), st.integers(0, 1))
@settings(max_examples=15, deadline=None)
def test_a_mask_tells_the_image_size(window, rows, columns, stage):
    """Also where only the second stage is shifted."""
    grid = (rows * window, columns * window)
    image = tuple(4 * side * 2**stage for side in grid)
    depths = (1, 2) if stage else (2, 1)
    state = new_weights(Size(image=image, window=window, depths=depths, heads=(1, 1)))
    assert vision_sizes(state, "vision_encoder.").image_size == image


def test_masks_tell_where_no_config_does(tmp_path, vocab):
    file = save(tmp_path / "a.pth", released())
    found = import_released(file, tmp_path / "out", vocab, text_heads=3)
    assert found.config.image_size == (64, 32)


def test_the_config_tells_where_no_mask_does(tmp_path, vocab):
    bare = without(released(), "attn_mask", "relative_position_index", "position_ids")
    file = save(tmp_path / "a.pth", {"model": bare, "config": {"image_res": 64, "w": 32}})
    found = import_released(file, tmp_path / "out", vocab, text_heads=3)
    assert found.config.image_size == (64, 32)
    assert found.derived == []


def test_a_config_may_name_both_sides_at_once(tmp_path, vocab):
    bare = without(released(), "attn_mask", "relative_position_index", "position_ids")
    file = save(tmp_path / "a.pth", {"model": bare, "config": {"image_res": [64, 32]}})
    assert import_released(file, tmp_path / "out", vocab, text_heads=3).config.image_size == (
        64,
        32,
    )


@pytest.mark.parametrize("named", ["large", [64], None, 0])
def test_an_image_size_that_is_none_is_an_error(tmp_path, vocab, named):
    file = save(tmp_path / "a.pth", {"model": released(), "config": {"image_res": named}})
    with pytest.raises(PedAlignError, match="height and width in pixels"):
        import_released(file, tmp_path / "out", vocab, text_heads=3)


def test_an_option_tells_where_nothing_does(tmp_path, vocab):
    file = save(tmp_path / "a.pth", without(released(), "attn_mask"))
    with pytest.raises(PedAlignError, match="--image-size"):
        import_released(file, tmp_path / "out", vocab, text_heads=3)
    found = import_released(file, tmp_path / "out", vocab, text_heads=3, image_size=(64, 32))
    assert found.config.image_size == (64, 32)
    assert found.resized == []


def test_another_image_size_resizes_the_tables(tmp_path, vocab):
    file = save(tmp_path / "a.pth", {"model": released(), "config": YAML})
    found = import_released(
        file, tmp_path / "out", vocab, text_heads=3, image_size=(96, 48), window=6
    )
    assert found.config.windows == (6, 6)
    assert len(found.resized) == 4
    assert load_model(tmp_path / "out").config.image_size == (96, 48)


def test_a_config_against_the_masks_is_an_error(tmp_path, vocab):
    config = {"h": 128, "w": 32, "image_res": 128}
    file = save(tmp_path / "a.pth", {"model": released(), "config": config})
    with pytest.raises(PedAlignError, match="--image-size 64 32"):
        import_released(file, tmp_path / "out", vocab, text_heads=3)
    found = import_released(file, tmp_path / "out", vocab, text_heads=3, image_size=(64, 32))
    assert found.config.image_size == (64, 32)


def test_weights_that_shift_otherwise_are_refused(tmp_path, vocab):
    state = released()
    name = "vision_encoder.layers.0.blocks.1.attn_mask"
    state[name] = state[name].clone()
    state[name][-1] = 0
    with pytest.raises(PedAlignError, match="attn_mask"):
        import_released(save(tmp_path / "a.pth", state), tmp_path / "out", vocab, text_heads=3)


def test_derived_buffers_by_hand():
    """Against the indices and masks that were written down from the definition."""
    from models.mra import MRA
    from models.mra.released import released_config

    state = new_weights(APTM_SIZE)
    vision = {"h": 384, "w": 128}
    model = MRA(released_config(vision, {"num_attention_heads": 1}, 0.07, state))
    found = derived_buffers(model)
    endings = ("relative_position_index", "attn_mask", "position_ids")
    wanted = {name: tensor for name, tensor in state.items() if name.endswith(endings)}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


# ------------------------------------------------------------------ what may be absent


def test_without_an_mlm_head_it_is_new(tmp_path, vocab):
    state = {n: t for n, t in released().items() if not n.startswith("text_encoder.cls.")}
    renamed = {name.replace("text_encoder.bert.", "text_encoder."): t for name, t in state.items()}
    file = save(tmp_path / "a.pth", {"model": renamed, "config": YAML})
    found = import_released(file, tmp_path / "out", vocab, text_heads=3)
    assert found.new
    assert all(name.startswith("text_encoder.cls.predictions.") for name in found.new)
    assert not found.left


def test_without_a_tokenizer_the_model_is_written_all_the_same(tmp_path):
    file = save(tmp_path / "a.pth", {"model": released(), "config": YAML})
    import_released(file, tmp_path / "out", text_heads=3)
    assert load_model(tmp_path / "out").config.embed_dim == 10
    with pytest.raises(PedAlignError, match=r"vocab\.txt"):
        RetrievalEncoder.load(tmp_path / "out", torch.device("cpu"))


def test_word_pieces_in_the_config_become_the_tokenizer(tmp_path):
    file = save(tmp_path / "a.pth", {"model": released(), "config": {**YAML, "vocab": VOCAB}})
    import_released(file, tmp_path / "out", text_heads=3)
    encoder = RetrievalEncoder.load(tmp_path / "out", torch.device("cpu"))
    assert encoder.encode_texts(["a man with bags"]).shape == (1, 10)


def test_pretraining_starts_from_an_original_swin_file(tmp_path, pretrain_params):
    """`pretrain.vision` may name it, or a folder that holds nothing else."""
    swin = new_weights(Size(image=(32, 16), dim=8, depths=(1, 1), heads=(1, 2), window=2))
    prefix = "vision_encoder."
    weights = {name.removeprefix(prefix): t for name, t in swin.items() if name.startswith(prefix)}
    file = save(tmp_path / "swin.pth", {"model": {**weights, "head.weight": torch.ones(3, 16)}})
    for source in (file, tmp_path):
        model = new_model(pretrain_params(vision=str(source)))
        norm = model.state_dict()["vision_encoder.layernorm.weight"]
        assert torch.equal(norm, weights["norm.weight"])
    with pytest.raises(PedAlignError, match=r"absent\.pth"):
        new_model(pretrain_params(vision=str(tmp_path / "absent.pth")))


# ------------------------------------------------------------------ refusals


class Code:
    """Unpickles to a call."""

    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"model": {"a": torch.zeros(1)}, "config": Code()}, "could run code"),
        ({"model": {"temp": torch.zeros(1)}}, "vision_encoder"),
        ({"epoch": 3}, "no state dict"),
        (torch.zeros(3), "no state dict"),
        (without(released(), "crossattention.self.query.weight"), "cross-attention"),
        (without(released(), "temp"), "temp"),
        (without(released(), "itm_head.0.weight"), r"itm_head\.0\.weight"),
        (released() | {"text_encoder.cls.predictions.decoder.bias": torch.zeros(len(VOCAB))},
         "one tensor"),
        ({"model": released(), "config": {**YAML, "text": {"hidden_size": 7}}}, "hidden_size"),
    ],
)  # fmt: skip
def test_what_is_no_such_checkpoint_is_refused(tmp_path, vocab, content, named, capsys):
    file = save(tmp_path / "a.pth", content)
    with pytest.raises(PedAlignError, match=named):
        import_released(file, tmp_path / "out", vocab, text_heads=3)
    assert not (tmp_path / "out").exists()
    assert "run" not in capsys.readouterr().out


def test_damaged_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04 no archive")
    for name in ("a.pth", "absent.pth"):
        with pytest.raises(PedAlignError, match=name):
            read_released(tmp_path / name)


def test_unknown_attention_heads_are_asked_for(tmp_path, vocab):
    file = save(tmp_path / "a.pth", {"model": released(), "config": YAML})
    with pytest.raises(PedAlignError, match="--text-heads"):
        import_released(file, tmp_path / "out", vocab)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path, vocab):
    file = save(tmp_path / "a.pth", {"model": released(), "config": YAML})
    vocab.write_text("\n".join([*VOCAB, "more"]) + "\n")
    with pytest.raises(PedAlignError, match="word pieces"):
        import_released(file, tmp_path / "out", vocab, text_heads=3)


def test_nothing_is_overwritten(tmp_path, vocab):
    file = save(tmp_path / "a.pth", {"model": released(), "config": YAML})
    import_released(file, tmp_path / "out", vocab, text_heads=3)
    for call in (
        lambda: import_released(file, tmp_path / "out", vocab, text_heads=3),
        lambda: export_released(tmp_path / "out", file),
    ):
        with pytest.raises(PedAlignError, match="exists"):
            call()


def test_padded_windows_cannot_be_exported(tmp_path, vocab):
    file = save(tmp_path / "a.pth", {"model": released(), "config": YAML})
    # 13 x 7 tokens: no window above 1 tiles them.
    import_released(file, tmp_path / "out", vocab, text_heads=3, image_size=(52, 28))
    with pytest.raises(PedAlignError, match="tile"):
        export_released(tmp_path / "out", tmp_path / "b.pth")

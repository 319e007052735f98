"""Arms of one renderer on the shipped base: the same networks, sampled in different ways."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from models.dad.adapters import ControlNetAdapter, LoraAdapter
from models.dad.base import Base, load_base
from models.dad.controlnet import new_controlnet
from models.dad.restyler import Restyler
from tasks.diffusion import DiffusionParams
from tasks.errors import PedAlignError
from tasks.images import decode, encode_jpeg
from tasks.provenance import ROOT
from tasks.restyle.renderer import Renderer, needs_model, open_renderer, row_seed
from tasks.restyle.shard import RestyleParams, restyle_table
from tasks.schemas import IMAGES
from tasks.shards import image_uid, item_seed, shard_bytes

SIZE = (32, 16)
BASE = str(ROOT / "models" / "tiny" / "diffusion")
PARAMS = RestyleParams(
    mode="restyle", strength=0.5, match=0.0, steps=4, guidance=1.0, scheduler="dpm",
    negative_prompt="", control_scale=1.0, reuse=1, noise="random", detail=0.0, variants=3,
    alpha=0.5, synonyms="table",
    quality=95, seed=1,
)  # fmt: skip
PROMPTS = ["a man in a red coat", "a woman", "", "a woman", "a blue hat"]
UIDS = [image_uid("s", str(at)) for at in range(5)]
LOOK = {
    "statistics": torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0)) + 0.2,
    "pixels": torch.tensor([[[90.0, 80, 70], [9, 8, 7]]]).repeat(3, 1, 1),
}


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(BASE)


@pytest.fixture(scope="module")
def renderer(base: Base) -> Renderer:
    torch.manual_seed(1)
    controlnet = new_controlnet(base)
    with torch.no_grad():
        for weight in controlnet.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.02)
    return Renderer(SIZE, base, ControlNetAdapter(controlnet), LOOK, base_id="b", dad_id="d")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8)


def changed(**values: object) -> RestyleParams:
    return dataclasses.replace(PARAMS, **values)


def seeds(section: RestyleParams = PARAMS) -> list[int]:
    return [row_seed(uid, section) for uid in UIDS]


def far(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - two.astype(int)).mean())


def test_arms_share_networks_and_prompts(renderer, pictures, monkeypatch):
    encoded: list[str] = []
    encode = Base.encode_prompts
    monkeypatch.setattr(
        Base, "encode_prompts", lambda self, texts, **more: encoded.extend(texts) or encode(
            self, texts, **more
        ),
    )  # fmt: skip
    arms = [
        changed(), changed(strength=1.0), changed(control_scale=0.0), changed(match=0.6),
        changed(strength=0.0), changed(mode="generate"), changed(mode="colours", match=1.0),
        changed(mode="none"),
    ]  # fmt: skip
    made = [renderer.arm(each).render(pictures, PROMPTS, seeds(), batch=2) for each in arms]
    assert sorted(encoded) == sorted(set(PROMPTS))  # by one arm for all, and no negative prompt
    assert len({id(renderer.arm(each).restyler._denoiser) for each in arms[:6]}) == 1
    for at, one in enumerate(made):
        assert (one.shape, one.dtype) == (pictures.shape, np.uint8)
        assert all(far(one, other) > 0.5 for other in made[:at])
    assert np.array_equal(made[-1], pictures)
    assert np.abs(made[-2].mean((1, 2)) - [90, 80, 70]).max() < 1


def test_an_arm_gives_the_same_bytes_whatever_was_made_before(renderer, pictures):
    arm = renderer.arm(changed(guidance=2.0, negative_prompt="grey"))
    first = arm.render(pictures, PROMPTS, seeds())
    renderer.arm(changed()).render(pictures[:2], ["other", "words"], [1, 2])
    assert np.array_equal(arm.render(pictures, PROMPTS, seeds()), first)


def test_a_row_depends_on_neither_order_nor_batch(renderer, pictures):
    arm, given = renderer.arm(changed(guidance=2.0)), seeds()
    whole = arm.render(pictures, PROMPTS, given)
    turned = arm.render(pictures[::-1], PROMPTS[::-1], given[::-1], batch=2)[::-1]
    assert np.abs(whole.astype(int) - turned).max() <= 1
    alone = arm.render(pictures[3:4], PROMPTS[3:4], given[3:4], batch=1)
    assert np.abs(whole[3:4].astype(int) - alone).max() <= 1
    assert arm.render(pictures[:0], [], []).shape == (0, *SIZE, 3)


def test_arrays_and_shards_are_rendered_alike(renderer, pictures):
    order = sorted(range(5), key=lambda at: UIDS[at])
    rows = [
        dict.fromkeys(IMAGES.names) | {
            "uid": UIDS[at], "dataset": "s", "split": "train", "width": SIZE[1], "height": SIZE[0],
            "image": encode_jpeg(pictures[at], 95), "source_path": f"{at}.jpg", "status": "ok",
            "captions": [PROMPTS[at]],
        }
        for at in order
    ]  # fmt: skip
    table, arm = pa.Table.from_pylist(rows, schema=IMAGES), renderer.arm(PARAMS)
    made = restyle_table(table, arm, batch=2).to_pylist()
    source = np.stack([np.asarray(decode(row["image"])) for row in rows])
    prompts = [row["captions"][0] for row in rows]
    given = [item_seed(f"{row['uid']}.r0", 1, "noise") for row in rows]
    wanted = arm.render(source, prompts, given, batch=2)
    for row, picture in zip(made, wanted, strict=True):
        assert row["image"] == encode_jpeg(picture, 95)
    # Resumed after a kill, or on another worker: the same bytes.
    bytes_of = [shard_bytes(restyle_table(table, arm, batch=2), "restyled") for _ in range(2)]
    assert bytes_of[0] == bytes_of[1]


def test_a_lora_is_run_at_the_weight_of_each_arm(base, pictures):
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    width = base.unet.get_parameter(name).shape
    adapter = LoraAdapter({name: torch.randn(width, generator=torch.Generator().manual_seed(3))})
    renderer = Renderer(SIZE, base, adapter, {}, base_id="b", dad_id="d")
    made = {}
    for scale in (0.0, 0.5, 1.0):
        section = changed(control_scale=scale, strength=1.0)
        arm = renderer.arm(section)
        made[scale] = arm.render(pictures, PROMPTS, seeds())
        adapted, _ = adapter.applied(base, scale)
        alone = Restyler(adapted, None, SIZE, section.sampling)
        wanted = alone.restyle(pictures, base.encode_prompts(PROMPTS), seeds())
        assert np.abs(made[scale].astype(int) - wanted).max() <= 1
        assert arm.lineage()["control_scale"] == scale
        assert arm.lineage()["dad_digest"] == ("d" if scale else None)
    assert far(made[0.0], made[1.0]) > far(made[0.0], made[0.5]) > 0


def test_inverted_noise_goes_up_without_the_adapter_and_down_with_it(base, pictures):
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    shape = base.unet.get_parameter(name).shape
    adapter = LoraAdapter({name: torch.randn(shape, generator=torch.Generator().manual_seed(3))})
    renderer = Renderer(SIZE, base, adapter, {}, base_id="b", dad_id="d")
    inverted = {"noise": "inverted", "scheduler": "ddim", "strength": 0.5, "guidance": 1.0}
    made = {
        scale: renderer.arm(changed(**inverted, control_scale=scale)).render(
            pictures, PROMPTS, seeds()
        )
        for scale in (0.0, 1.0)
    }
    assert far(made[0.0], made[1.0]) > 0
    # By hand: the base up, and the base with the changes down.
    sampling = changed(**inverted).sampling
    adapted, _ = adapter.applied(base, 1.0)
    alone = Restyler(adapted, None, SIZE, sampling, plain=base)
    wanted = alone.restyle(pictures, base.encode_prompts(PROMPTS), seeds())
    assert np.abs(made[1.0].astype(int) - wanted).max() <= 1
    other = Restyler(adapted, None, SIZE, sampling)
    assert far(other.restyle(pictures, base.encode_prompts(PROMPTS), seeds()), wanted) > 0
    lineage = renderer.arm(changed(**inverted)).lineage()
    assert (lineage["noise"], lineage["scheduler"]) == ("inverted", "ddim")
    with pytest.raises(PedAlignError, match="noise is inverted and the scheduler dpm"):
        renderer.arm(changed(noise="inverted"))


def test_bad_settings_are_refused_before_anything_is_made(renderer, base):
    with pytest.raises(PedAlignError, match="runs no step"):
        renderer.arm(changed(strength=0.1))
    bare = Renderer(SIZE, base)
    with pytest.raises(PedAlignError, match="no target statistics"):
        bare.arm(changed(match=0.5))
    assert bare.arm(changed()).lineage()["control_scale"] == 0.0  # there is no DaD to weigh
    with pytest.raises(PedAlignError, match="no model is loaded"):
        Renderer(SIZE, None, None, LOOK).arm(changed())
    assert [needs_model(changed(mode=mode)) for mode in ("restyle", "generate")] == [True] * 2
    assert [needs_model(changed(mode=mode)) for mode in ("colours", "none")] == [False] * 2


def test_opening_says_what_does_not_fit(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    nowhere = DiffusionParams(base=str(tmp_path), size=SIZE, precision="fp32")
    with pytest.raises(PedAlignError, match=r"diffusion\.base"):
        open_renderer(nowhere, None, "cpu")
    save_file(LOOK, tmp_path / "look.safetensors")
    light = open_renderer(nowhere, tmp_path, "cpu", model=False)
    assert light.base is None
    assert light.arm(changed(mode="colours", match=1.0)).lineage()["dad_digest"] == light.dad_id
    whole = DiffusionParams(base=BASE, size=SIZE, precision="fp32")
    with pytest.raises(PedAlignError, match="restyle:"):
        open_renderer(whole, tmp_path, "cpu")  # statistics without an adapter

"""Bases as they come: 1.5 and 2.x, half precision, other samplers' schedules, and broken ones."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import PNDMScheduler
from safetensors.torch import load_file, save_file

from models.dad.base import load_base, revision
from models.dad.controlnet import ControlNetObjective, load_controlnet, new_controlnet
from models.dad.lora import LoraObjective, new_lora
from models.dad.restyler import Restyler, Sampling

SIZE = (32, 16)
KINDS = {
    "1.5": ("sd1", {}),
    "2.1": ("sd2", {"prediction": "v_prediction"}),
    "2.1 with no signal at the end": ("sd2", {"prediction": "v_prediction", "zero_snr": True}),
    "sample": ("sd1", {"prediction": "sample"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["controlnet", "lora"])
def test_every_kind_of_base_is_adapted_and_sampled(save_base, tmp_path, kind, method):
    layout, options = KINDS[kind]
    base = load_base(str(save_base(tmp_path, layout, **options)))
    objective = (
        ControlNetObjective(base, new_controlnet(base), SIZE)
        if method == "controlnet"
        else LoraObjective(base, new_lora(base, 2, 2.0), SIZE)
    )
    words = base.encode_prompts(["a red coat", ""])
    assert words.shape == (2, 12, base.unet.config.cross_attention_dim)
    clean, noise = torch.randn(2, 4, 8, 4), torch.randn(2, 4, 8, 4)
    optimizer = torch.optim.AdamW(objective.learned.values(), 1e-2)
    losses = []
    for _ in range(4):
        loss = objective(clean, words, noise, torch.tensor([20, 999]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    made = Restyler(*objective.running(), SIZE, Sampling(steps=2, guidance=2.0)).generate(
        words, [0, 1]
    )
    assert made.shape == (2, *SIZE, 3)
    assert made.std() > 0  # neither black nor NaN


def test_a_folder_with_half_precision_files_alone_is_loaded(save_base, tmp_path):
    folder = save_base(tmp_path / "half", variant="fp16")
    assert {file.name for file in folder.rglob("*.safetensors")} == {
        "model.fp16.safetensors", "diffusion_pytorch_model.fp16.safetensors",
    }  # fmt: skip
    half, whole = load_base(str(folder)), load_base(str(save_base(tmp_path / "whole")))
    for part in ("vae", "unet", "text_encoder"):
        ours, theirs = getattr(half, part), getattr(whole, part)
        for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert one.dtype == torch.float32
            assert torch.equal(one, two.half().float())
    assert len(revision(str(folder))) == 64


def test_another_samplers_schedule_in_the_folder_is_the_same_noise(save_base, tmp_path):
    folder = save_base(tmp_path)
    before = load_base(str(folder)).scheduler.alphas_cumprod
    PNDMScheduler(  # as Stable Diffusion 1.5 is published
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    base = load_base(str(folder))
    assert torch.equal(base.scheduler.alphas_cumprod, before)
    assert base.prediction_type == "epsilon"


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
def test_a_network_with_holes_is_refused(save_base, tmp_path, part):
    file = next((save_base(tmp_path) / part).glob("*.safetensors"))
    tensors = load_file(file)
    gone = sorted(tensors)[-1]
    tensors.pop(gone)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"{part} lacks 1 tensors.*{gone}"):
        load_base(str(tmp_path))


def test_a_controlnet_with_holes_is_refused(save_base, tmp_path):
    base = load_base(str(save_base(tmp_path / "base")))
    new_controlnet(base).save_pretrained(tmp_path / "dad")
    file = tmp_path / "dad" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("controlnet_mid_block.bias")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 tensors.*controlnet_mid_block.bias"):
        load_controlnet(tmp_path / "dad", base)


def test_an_untrained_controlnet_of_2_x_has_its_own_heads(save_base, tmp_path):
    base = load_base(str(save_base(tmp_path, "sd2", prediction="v_prediction")))
    controlnet = new_controlnet(base)
    heads = [
        block.attn1.heads
        for network in (base.unet, controlnet)
        for block in network.down_blocks[1].attentions[0].transformer_blocks
    ]
    assert heads == [4, 4]
    for name, value in controlnet.down_blocks.state_dict().items():
        assert torch.equal(value, base.unet.down_blocks.state_dict()[name])


def test_noise_prediction_without_signal_is_refused(save_base, tmp_path):
    with pytest.raises(ValueError, match="no signal at the last timestep"):
        load_base(str(save_base(tmp_path, zero_snr=True)))


def test_an_unknown_prediction_and_an_inpainting_base_are_refused(save_base, tmp_path):
    folder: Path = save_base(tmp_path)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "flow"}))
    with pytest.raises(ValueError, match="prediction_type is 'flow'"):
        load_base(str(folder))

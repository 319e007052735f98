"""The light adapter: what it trains, that diffusers takes it, and that a foreign one is refused."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.dad.adapters import ControlNetAdapter, LoraAdapter, load_adapter
from models.dad.base import Base, load_base
from models.dad.controlnet import ControlNetObjective, new_controlnet
from models.dad.lora import TARGETS, WEIGHTS, LoraObjective, new_lora, save_lora

SIZE = (32, 16)


@pytest.fixture(scope="module")
def folder(save_base, tmp_path_factory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"), "sd2", prediction="v_prediction")


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return load_base(str(folder))


def trained(base: Base, alpha: float = 6.0) -> UNet2DConditionModel:
    """A LoRA whose updates are no longer zero."""
    unet = new_lora(base, 2, alpha, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn_like(weight))
    return unet


def seen(unet: UNet2DConditionModel, base: Base) -> torch.Tensor:
    torch.manual_seed(3)
    noisy, words = torch.randn(2, 4, 8, 4), base.encode_prompts(["a", "b"])
    with torch.no_grad():
        return unet(noisy, torch.tensor([10, 900]), words).sample


def test_an_untrained_one_changes_nothing_and_attention_alone_learns(base):
    unet = new_lora(base, 2, 4.0, seed=5)
    assert torch.equal(seen(unet, base), seen(base.unet, base))
    learned = LoraObjective(base, unet, SIZE).learned
    attentions = [n for n, m in base.unet.named_modules() if n.endswith(("attn1", "attn2"))]
    assert len(learned) == 2 * len(TARGETS) * len(attentions)  # A and B of each projection
    assert all(".lora_" in name for name in learned)
    again, other = new_lora(base, 2, 4.0, seed=5), new_lora(base, 2, 4.0, seed=6)
    name = next(n for n, _ in unet.named_parameters() if "lora_A" in n)
    assert torch.equal(unet.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(unet.get_parameter(name), other.get_parameter(name))
    assert not any(p.requires_grad for p in base.unet.parameters())
    assert not any("lora" in n for n, _ in base.unet.named_parameters())


def test_it_is_saved_and_added_into_the_weights_by_its_scale(base, tmp_path):
    unet, before = trained(base), seen(base.unet, base)
    save_lora(unet, tmp_path)
    adapter = load_adapter(tmp_path, base)
    assert isinstance(adapter, LoraAdapter)
    whole, controlnet = adapter.applied(base, 1.0)
    assert controlnet is None
    assert torch.allclose(seen(whole.unet, base), seen(unet, base), atol=1e-4)
    assert not torch.allclose(seen(whole.unet, base), before, atol=1e-2)
    half, _ = adapter.applied(base, 0.5)
    for name, weight in base.unet.named_parameters():
        middle = (weight + whole.unet.get_parameter(name)) / 2
        assert torch.allclose(half.unet.get_parameter(name), middle, atol=1e-6), name
    assert adapter.applied(base, 0.0) == (base, None)
    assert torch.equal(seen(base.unet, base), before)
    factors = load_file(tmp_path / WEIGHTS)
    place = next(iter(adapter.changes)).removesuffix(".weight")  # W + alpha / rank * B A, by hand
    up, down = (factors[f"unet.{place}.lora_{which}.weight"] for which in "BA")
    assert torch.allclose(adapter.changes[f"{place}.weight"], 6.0 / 2 * up @ down, atol=1e-6)


def test_the_same_updates_give_the_same_file(base, tmp_path):
    unet = trained(base)
    for name in "abcdef":  # safetensors writes a header's notes in a random order
        save_lora(unet, tmp_path / name)
    assert len({(tmp_path / name / WEIGHTS).read_bytes() for name in "abcdef"}) == 1
    with safe_open(tmp_path / "a" / WEIGHTS, "pt") as opened:
        assert set(opened.metadata()) == {"format", "lora_adapter_metadata"}


def test_diffusers_takes_it(base, folder, tmp_path):
    unet = trained(base)
    save_lora(unet, tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name=WEIGHTS)
    assert torch.allclose(seen(pipeline.unet, base), seen(unet, base), atol=1e-5)


def test_a_file_without_notes_has_alpha_equal_to_its_rank(base, tmp_path):
    save_lora(trained(base, alpha=2.0), tmp_path / "noted")
    (tmp_path / "bare").mkdir()
    save_file(load_file(tmp_path / "noted" / WEIGHTS), tmp_path / "bare" / WEIGHTS)
    noted, bare = (load_adapter(tmp_path / name, base) for name in ("noted", "bare"))
    assert isinstance(noted, LoraAdapter)
    assert isinstance(bare, LoraAdapter)
    assert all(torch.equal(bare.changes[n], value) for n, value in noted.changes.items())


def test_files_that_are_incomplete_or_of_another_base_are_refused(base, save_base, tmp_path):
    save_lora(trained(base), tmp_path / "dad")
    other = load_base(str(save_base(tmp_path / "other", "sd1")))
    with pytest.raises(ValueError, match="only fits the base"):
        load_adapter(tmp_path / "dad", other)
    tensors = load_file(tmp_path / "dad" / WEIGHTS)
    first, *rest = sorted(tensors)
    cases = {
        "one factor of two": {name: tensors[name] for name in rest},
        "belongs nowhere": {**tensors, "unet.somewhere.lora_A.weight": tensors[first].clone()},
        "holds no tensors": {},
    }
    for word, held in cases.items():
        (tmp_path / word).mkdir()
        save_file(held, tmp_path / word / WEIGHTS)
        with pytest.raises(ValueError, match=word):
            load_adapter(tmp_path / word, base)


def test_a_controlnet_is_told_from_a_lora(base, tmp_path):
    new_controlnet(base).save_pretrained(tmp_path)
    adapter = load_adapter(tmp_path, base)
    assert isinstance(adapter, ControlNetAdapter)
    assert adapter.applied(base, 0.7) == (base, adapter.controlnet)
    assert adapter.applied(base, 0.0) == (base, None)  # nothing of DaD runs
    with pytest.raises(OSError, match="nothing"):
        load_adapter(tmp_path / "nothing", base)


def test_an_objective_takes_back_what_it_had_learned_and_nothing_else(base):
    one, two = (LoraObjective(base, new_lora(base, 2, 2.0, seed=s), SIZE) for s in (1, 2))
    two.restore({name: value.detach() for name, value in one.learned.items()})
    assert all(torch.equal(two.learned[n], value) for n, value in one.learned.items())
    with pytest.raises(ValueError, match="another training"):
        ControlNetObjective(base, new_controlnet(base), SIZE).restore(one.learned)


def test_a_base_that_predicts_the_clean_picture_is_trained_to(save_base, tmp_path):
    base = load_base(str(save_base(tmp_path, prediction="sample")))
    objective = ControlNetObjective(base, new_controlnet(base), SIZE)
    torch.manual_seed(4)
    clean, noise = torch.randn(2, 4, 8, 4), torch.randn(2, 4, 8, 4)
    steps, words = torch.tensor([5, 700]), base.encode_prompts(["a", ""])
    with torch.no_grad():
        noisy = base.scheduler.add_noise(clean, noise, steps)
        wanted = (base.unet(noisy, steps, words).sample - clean).square().mean()
        assert objective(clean, words, noise, steps).item() == pytest.approx(wanted.item())

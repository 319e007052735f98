"""The restyler against diffusers' own pipelines, on tiny random models saved to disk."""

import dataclasses
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file, save_file

from models.dad.base import Base, load_base, revision
from models.dad.controlnet import (
    ControlNetObjective,
    load_controlnet,
    new_controlnet,
    white_image,
)
from models.dad.look import match_colours, match_look, put_back
from models.dad.restyler import Restyler
from models.dad.sampling import SamplerName, Sampling, make_sampler

SIZE = (32, 16)
PROMPTS = ["a red coat", "a blue hat", "a red coat", ""]
SEEDS = [5, 2**62 + 1, 7, 8]


def shaken(base: Base) -> ControlNetModel:
    """A ControlNet whose zero convolutions are no longer zero."""
    torch.manual_seed(1)
    controlnet = new_controlnet(base)
    with torch.no_grad():
        for weight in controlnet.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    return controlnet.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, save_base: Callable[..., Path]) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return load_base(str(folder))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)


def plain(kind: type, base: Base, controlnet: ControlNetModel, sampler: str) -> object:
    pipeline = kind(
        vae=base.vae, text_encoder=base.text_encoder, tokenizer=base.tokenizer, unet=base.unet,
        controlnet=controlnet, scheduler=make_sampler(base, sampler), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def levels(images: torch.Tensor) -> np.ndarray:
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("sampler", get_args(SamplerName))
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_restyle_equals_the_diffusers_pipeline(base, pictures, sampler, guidance):
    controlnet = shaken(base)
    sampling = Sampling(
        steps=4, strength=0.5, guidance=guidance, scheduler=sampler, negative_prompt="grey",
        control_scale=0.8,
    )  # fmt: skip
    restyler = Restyler(base, controlnet, SIZE, sampling)
    ours = restyler.restyle(pictures, base.encode_prompts(PROMPTS), SEEDS)
    pipeline = plain(StableDiffusionControlNetImg2ImgPipeline, base, controlnet, sampler)
    theirs = pipeline(
        prompt=PROMPTS, negative_prompt=["grey"] * 4,
        image=torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255,
        control_image=torch.ones(4, 3, *SIZE), strength=0.5, num_inference_steps=4,
        guidance_scale=guidance, controlnet_conditioning_scale=0.8, output_type="pt",
        generator=[torch.Generator().manual_seed(s) for s in SEEDS],
    ).images  # fmt: skip
    assert np.abs(ours.astype(int) - levels(theirs)).max() <= 1
    assert (ours == levels(theirs)).mean() > 0.99


@pytest.mark.parametrize("sampler", ["ddim", "euler", "lcm"])
def test_generate_equals_the_diffusers_pipeline(base, sampler):
    controlnet = shaken(base)
    restyler = Restyler(base, controlnet, SIZE, Sampling(steps=3, guidance=2.0, scheduler=sampler))
    ours = restyler.generate(base.encode_prompts(PROMPTS), SEEDS)
    theirs = plain(StableDiffusionControlNetPipeline, base, controlnet, sampler)(
        prompt=PROMPTS, image=torch.ones(4, 3, *SIZE), num_inference_steps=3, guidance_scale=2.0,
        output_type="pt", generator=[torch.Generator().manual_seed(s) for s in SEEDS],
    ).images  # fmt: skip
    assert ours.shape == (4, *SIZE, 3)
    assert np.abs(ours.astype(int) - levels(theirs)).max() <= 1


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_base_alone_equals_the_pipeline_without_a_controlnet(
    save_base, tmp_path, pictures, strength
):
    velocity = load_base(str(save_base(tmp_path, prediction="v_prediction")))
    velocity.unet.register_to_config(sample_size=64)  # this pipeline takes no pair of sides
    sampling = Sampling(steps=4, strength=strength, guidance=2.0, control_scale=0.0)
    ours = Restyler(velocity, shaken(velocity), SIZE, sampling).restyle(
        pictures, velocity.encode_prompts(PROMPTS), SEEDS
    )
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=velocity.vae, text_encoder=velocity.text_encoder, tokenizer=velocity.tokenizer,
        unet=velocity.unet, scheduler=make_sampler(velocity, "dpm"), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=PROMPTS, image=torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255,
        strength=strength, num_inference_steps=4, guidance_scale=2.0, output_type="pt",
        generator=[torch.Generator().manual_seed(s) for s in SEEDS],
    ).images  # fmt: skip
    assert np.abs(ours.astype(int) - levels(theirs)).max() <= 1


def test_deep_features_are_taken_over_only_between_the_steps_that_were_asked_for(base, pictures):
    words, controlnet = base.encode_prompts(PROMPTS), shaken(base)
    every = Restyler(base, controlnet, SIZE, Sampling(steps=6, guidance=2.0, control_scale=0.7))
    made = every.restyle(pictures, words, SEEDS).astype(int)
    # At a single step everything is computed, through the blocks one by one: the same picture.
    for steps in (1, 2):
        sampling = Sampling(steps=steps, guidance=2.0, control_scale=0.7)
        once = every.with_sampling(sampling).generate(words, SEEDS).astype(int)
        sampling = dataclasses.replace(sampling, reuse=9)
        reused = every.with_sampling(sampling).generate(words, SEEDS).astype(int)
        assert (np.abs(once - reused).max() <= 1) == (steps == 1)
    # The more steps take over, the further from the picture that computes all.
    apart = []
    for reuse in (2, 6):
        sampling = Sampling(steps=6, guidance=2.0, control_scale=0.7, reuse=reuse)
        other = every.with_sampling(sampling).restyle(pictures, words, SEEDS).astype(int)
        apart.append(np.abs(made - other).mean())
    assert 0 < apart[0] < apart[1]


def test_deep_features_are_counted_by_what_runs(base):
    restyler = Restyler(base, shaken(base), SIZE, Sampling(steps=6, reuse=3))
    ran: list[str] = []
    network = restyler._denoiser
    network.unet.mid_block.register_forward_hook(lambda *_: ran.append("unet"))
    network.controlnet.mid_block.register_forward_hook(lambda *_: ran.append("controlnet"))
    restyler.generate(base.encode_prompts(["a"]), [1])
    assert sorted(ran) == ["controlnet"] * 2 + ["unet"] * 2  # steps 0 and 3 of six
    ran.clear()
    alone = restyler.with_sampling(Sampling(steps=2, control_scale=0.0))
    alone.generate(base.encode_prompts(["a"]), [1])
    assert ran == ["unet"] * 2  # a weight of 0: the ControlNet does not run


def test_the_base_and_the_controlnet_stay_as_they_were(folder, pictures):
    half = load_base(str(folder), precision="bf16")
    controlnet = new_controlnet(half).train()
    networks = (half.unet, half.vae, controlnet)
    before = [{k: (v.clone(), v.stride()) for k, v in n.state_dict().items()} for n in networks]
    restyler = Restyler(half, controlnet, SIZE, Sampling(steps=2, strength=0.5))
    restyler.restyle(pictures, half.encode_prompts(PROMPTS), SEEDS)
    for network, kept in zip(networks, before, strict=True):
        for name, value in network.state_dict().items():
            assert (value.dtype, value.stride()) == (torch.float32, kept[name][1])
            assert torch.equal(value, kept[name][0])
    assert controlnet.training
    assert all(weight.requires_grad for weight in controlnet.parameters())


def test_threads_may_share_a_restyler(base, pictures):
    one = Restyler(base, shaken(base), SIZE, Sampling(steps=4, strength=0.75, scheduler="unipc"))
    other = one.with_sampling(Sampling(steps=4, strength=0.5, guidance=2.0, scheduler="ddpm"))
    words = base.encode_prompts(PROMPTS)
    alone = [each.restyle(pictures, words, SEEDS) for each in (one, other)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(r.restyle, pictures, words, SEEDS) for r in (one, other) * 4]
        for at, job in enumerate(jobs):
            assert np.array_equal(job.result(), alone[at % 2])


def test_order_and_batch_change_nothing_but_noise(base, pictures):
    restyler = Restyler(base, shaken(base), SIZE, Sampling(steps=4, strength=0.75, guidance=2.0))
    words = base.encode_prompts(PROMPTS)
    together = restyler.restyle(pictures, words, SEEDS).astype(int)
    turned = restyler.restyle(pictures[::-1], words.flip(0), SEEDS[::-1]).astype(int)
    alone = restyler.restyle(pictures[1:2], words[1:2], SEEDS[1:2]).astype(int)
    assert np.abs(together - turned[::-1]).max() <= 1
    assert np.abs(together[1:2] - alone).max() <= 1
    again = restyler.restyle(pictures, words, SEEDS)
    assert np.array_equal(together, again)
    other = restyler.restyle(pictures, words, [s + 1 for s in SEEDS]).astype(int)
    assert np.abs(together - other).mean() > 1


def test_an_untrained_controlnet_and_a_zero_scale_are_the_base_alone(base, pictures):
    words = base.encode_prompts(PROMPTS)
    sampling = {"steps": 2, "strength": 1.0, "guidance": 1.0}
    alone = Restyler(base, None, SIZE, Sampling(**sampling)).restyle(pictures, words, SEEDS)
    off = Restyler(base, shaken(base), SIZE, Sampling(**sampling, control_scale=0.0))
    on = Restyler(base, shaken(base), SIZE, Sampling(**sampling))
    assert np.array_equal(alone, off.restyle(pictures, words, SEEDS))
    assert not np.array_equal(alone, on.restyle(pictures, words, SEEDS))


def test_strength_0_is_the_round_trip_of_the_autoencoder(base, pictures):
    restyler = Restyler(base, None, SIZE, Sampling(steps=4, strength=0.0))
    ours = restyler.restyle(pictures, base.encode_prompts(PROMPTS), SEEDS)
    image = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        seen = base.vae.decode(base.vae.encode(image).latent_dist.mode()).sample
    assert np.abs(ours.astype(int) - levels((seen / 2 + 0.5).clamp(0, 1))).max() <= 1


def test_matching_gives_each_start_the_statistics_of_its_target_picture():
    torch.manual_seed(3)
    start, look = torch.randn(3, 4, 8, 4) * 2 + 1, torch.rand(5, 2, 4) + 0.1
    made = match_look(start, look, [0, 7, 2**62], 1.0)
    for at, row in enumerate([0, 2, 2**62 % 5]):
        assert torch.allclose(made[at].mean((1, 2)), look[row, 0], atol=1e-5)
        assert torch.allclose(made[at].std((1, 2)), look[row, 1], atol=1e-5)
    half = match_look(start, look, [0, 7, 2**62], 0.5)
    assert torch.allclose(half, (start + made) / 2, atol=1e-5)
    assert torch.equal(match_look(start, look, [0, 7, 2**62], 0.0), start)
    flat = match_look(torch.zeros(1, 4, 8, 4), look, [0], 1.0)  # nothing to scale
    assert bool(torch.isfinite(flat).all())


def test_detail_is_put_back_by_hand():
    source = torch.tensor([[[[10, 0, 9]], [[90, 0, 9]]]], dtype=torch.uint8)  # two pixels
    trip = torch.tensor([[[[30, 0, 9]], [[70, 0, 9]]]], dtype=torch.uint8)  # red is smeared
    made = torch.tensor([[[[40, 5, 9]], [[60, 5, 9]]]], dtype=torch.uint8)  # at half the contrast
    assert put_back(made, trip, source, 1.0).flatten().tolist() == [30, 5, 9, 70, 5, 9]
    assert put_back(made, trip, source, 0.5).flatten().tolist() == [35, 5, 9, 65, 5, 9]
    assert torch.equal(put_back(made, trip, source, 0.0), made)
    assert torch.equal(put_back(trip, trip, source, 1.0), source)  # nothing made: the source


def test_with_detail_the_way_through_the_autoencoder_gives_the_source(base):
    sampling = Sampling(steps=4, strength=0.0, detail=1.0)
    restyler = Restyler(base, None, SIZE, sampling)
    source = np.random.default_rng(0).integers(40, 200, (3, *SIZE, 3), np.uint8)
    made = restyler.restyle(source, base.encode_prompts(["a", "b", "c"]), [1, 2, 3])
    assert np.abs(made.astype(int) - source).max() <= 1
    without = restyler.with_sampling(Sampling(steps=4, strength=0.0))
    lost = without.restyle(source, base.encode_prompts(["a", "b", "c"]), [1, 2, 3])
    assert np.abs(lost.astype(int) - source).mean() > 5


def test_colours_go_to_the_statistics_of_the_target_picture_by_hand():
    picture = np.array([[[[10, 0, 7], [30, 0, 7]]]], np.uint8)  # mean 20, deviation 10, in red
    look = np.array([[[0, 0, 0], [0, 0, 0]], [[100, 50, 250], [5, 9, 9]]], np.float32)
    made = match_colours(picture, look, [7])  # 7 % 2: the second target picture
    assert made.tolist() == [[[[95, 50, 250], [105, 50, 250]]]]  # flat channels take the mean
    half = match_colours(picture, look, [7], 0.5)
    assert half.tolist() == [[[[52, 25, 128], [68, 25, 128]]]]  # half way from 10 to 95, ...
    assert np.array_equal(match_colours(picture, look, [7], 0.0), picture)
    bright = match_colours(picture, look * 3, [1])
    assert bright.max() == 255  # cut, not wrapped around
    assert match_colours(picture, look, [2**62]).max() == 0
    both = match_colours(np.repeat(picture, 2, 0), look, [7, 2])
    assert np.array_equal(both[0], made[0])
    assert both[1].max() == 0


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_matching_changes_the_light_and_needs_a_target(base, pictures, strength):
    look = torch.stack([torch.full((1, 4), -2.0), torch.full((1, 4), 0.5)], dim=1)
    words, plan = base.encode_prompts(PROMPTS), {"steps": 4, "strength": strength}
    plain = Restyler(base, None, SIZE, Sampling(**plan), look_N2C=look)
    matched = Restyler(base, None, SIZE, Sampling(**plan, match=1.0), look_N2C=look)
    bare = Restyler(base, None, SIZE, Sampling(**plan))
    unmatched = plain.restyle(pictures, words, SEEDS)
    assert np.array_equal(unmatched, bare.restyle(pictures, words, SEEDS))
    assert not np.array_equal(unmatched, matched.restyle(pictures, words, SEEDS))
    with pytest.raises(ValueError, match="no target statistics"):
        Restyler(base, None, SIZE, Sampling(**plan, match=0.5))


@pytest.mark.parametrize(
    ("size", "sampling", "word"),
    [
        ((30, 16), Sampling(steps=4), "multiples of 4"),
        (SIZE, Sampling(steps=4, strength=0.2), "no step"),
        (SIZE, Sampling(steps=4, scheduler="magic"), "samplers are"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_named(base, size, sampling, word):
    with pytest.raises(ValueError, match=word):
        Restyler(base, None, size, sampling)


def test_prompts_are_encoded_as_the_pipeline_does(base):
    pipeline = plain(StableDiffusionControlNetPipeline, base, new_controlnet(base), "ddim")
    theirs, empty = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    assert torch.allclose(base.encode_prompts(PROMPTS, batch=3), theirs, atol=1e-6)
    assert torch.allclose(base.encode_prompts([""]), empty[:1], atol=1e-6)
    assert base.encode_prompts([]).shape == (0, 12, 8)


def test_half_precision_weights_load_as_float32(folder, tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half")
    half = load_base(str(tmp_path / "half"), precision="bf16")
    for network in (half.vae, half.unet, half.text_encoder):
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        assert not any(p.requires_grad for p in network.parameters())
    restyler = Restyler(half, None, SIZE, Sampling(steps=2, strength=0.5))
    grey = np.full((1, *SIZE, 3), 128, np.uint8)
    assert restyler.restyle(grey, half.encode_prompts([""]), [0]).shape == (1, *SIZE, 3)


def test_revision_follows_the_weights_and_not_the_records(save_base, folder, tmp_path):
    copy = save_base(tmp_path / "copy")
    assert revision(str(copy)) == revision(str(folder))
    (copy / "training.json").write_text("{}")
    (copy / "unet" / "training.json").write_text("{}")
    assert revision(str(copy)) == revision(str(folder))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert revision(str(copy)) != revision(str(folder))
    with pytest.raises(ValueError, match="no weights found"):
        revision(str(tmp_path))
    commit = "0123456789abcdef" * 2 + "01234567"
    assert revision(f"owner/model@{commit}") == commit


def test_a_base_whose_parts_do_not_fit_is_refused(save_base, folder, tmp_path):
    other = save_base(tmp_path / "other", "sd2")
    mixed = tmp_path / "mixed"
    for part in folder.iterdir():
        (mixed / part.name).parent.mkdir(exist_ok=True)
        (mixed / part.name).symlink_to(
            (other if part.name == "text_encoder" else folder) / part.name
        )
    with pytest.raises(ValueError, match="16 wide and the UNet attends to 8"):
        load_base(str(mixed))


# ------------------------------------------------------------------ ControlNet and objective


def test_a_text_encoder_with_holes_is_refused(folder, tmp_path):
    copy = tmp_path / "holes"
    shutil.copytree(folder, copy)
    file = copy / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if "token_embedding" in name))
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 tensors.*token_embedding"):
        load_base(str(copy))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_objective_is_the_mean_squared_error_of_what_the_base_predicts(
    save_base, tmp_path, prediction
):
    base = load_base(str(save_base(tmp_path, prediction=prediction)))
    objective = ControlNetObjective(base, shaken(base), SIZE)
    torch.manual_seed(2)
    clean, noise = torch.randn(3, 4, 8, 4), torch.randn(3, 4, 8, 4)
    steps, words = torch.tensor([0, 400, 999]), base.encode_prompts(["a", "b", "c"])
    loss = objective(clean, words, noise, steps)
    errors = []
    kept = base.scheduler.alphas_cumprod
    for i in range(3):  # one by one, from the definition; the control image a full batch
        a, s = kept[steps[i]].sqrt(), (1 - kept[steps[i]]).sqrt()
        noisy = (a * clean[i] + s * noise[i])[None]
        down, mid = objective.controlnet(
            noisy, steps[i], words[i : i + 1], torch.ones(1, 3, *SIZE), return_dict=False
        )
        seen = base.unet(
            noisy, steps[i], words[i : i + 1], down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample  # fmt: skip
        wanted = noise[i] if prediction == "epsilon" else a * noise[i] - s * clean[i]
        errors.append((seen[0] - wanted).square().mean())
    assert loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)


def test_only_the_controlnet_learns_and_starts_from_nothing(base):
    controlnet = new_controlnet(base)
    objective = ControlNetObjective(base, controlnet, SIZE)
    assert {id(p) for p in objective.parameters()} == {id(p) for p in controlnet.parameters()}
    before = {k: v.clone() for k, v in base.unet.state_dict().items()}
    clean, steps = torch.randn(2, 4, 8, 4), torch.tensor([10, 500])
    words, noise = base.encode_prompts(["a", "b"]), torch.randn(2, 4, 8, 4)
    optimizer = torch.optim.SGD(objective.parameters(), 0.1)
    first = objective(clean, words, noise, steps)
    with torch.no_grad():
        noisy = base.scheduler.add_noise(clean, noise, steps)
        alone = base.unet(noisy, steps, words).sample
    assert first.item() == pytest.approx((alone - noise).square().mean().item(), rel=1e-5)
    for _ in range(3):
        optimizer.zero_grad()
        loss = objective(clean, words, noise, steps)
        loss.backward()
        optimizer.step()
    assert loss < first
    assert all(torch.equal(v, before[k]) for k, v in base.unet.state_dict().items())
    assert all(p.grad is None for p in base.unet.parameters())


def test_a_controlnet_is_saved_loaded_and_refused_by_another_base(save_base, base, tmp_path):
    controlnet = shaken(base)
    controlnet.save_pretrained(tmp_path / "dad")
    loaded = load_controlnet(tmp_path / "dad", base)
    assert all(
        torch.equal(a, b) for a, b in zip(controlnet.parameters(), loaded.parameters(), strict=True)
    )
    other = load_base(str(save_base(tmp_path / "other", "sd2")))
    with pytest.raises(ValueError, match="cross_attention_dim"):
        load_controlnet(tmp_path / "dad", other)


def test_the_control_image_is_white(base):
    assert white_image(base, SIZE).shape == (1, 3, *SIZE)
    assert bool((white_image(base, SIZE) == 1).all())


def test_eight_times_smaller_latents_take_the_published_hint_encoder(base):
    published = ControlNetModel.from_unet(base.unet)
    halvings = len(published.config.conditioning_embedding_out_channels) - 1
    assert 2**halvings == 8
    ours = new_controlnet(base)
    assert 2 ** (len(ours.config.conditioning_embedding_out_channels) - 1) == base.scale == 4
    assert isinstance(make_sampler(base, "ddim"), DDIMScheduler)

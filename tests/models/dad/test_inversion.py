"""The bridge on distributions whose best denoiser is known, and inside the restyler."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from models.dad.base import Base, load_base
from models.dad.controlnet import new_controlnet
from models.dad.inversion import Bridge
from models.dad.restyler import Restyler
from models.dad.sampling import Sampling

SCHEDULE = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
CLEAN = 20


def bridge(strength: float, steps: int, predicts: str = "epsilon") -> Bridge:
    kind = SimpleNamespace(scheduler=SCHEDULE, prediction_type=predicts, device=torch.device("cpu"))
    return Bridge(kind, strength, steps)  # type: ignore[arg-type]


def parts(time: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
    kept = SCHEDULE.alphas_cumprod[time]
    return kept.sqrt(), (1 - kept).sqrt()


def normal(mean: float = 0.0, predicts: str = "epsilon"):
    """The best denoiser of pictures that are normal with this mean and deviation 1."""

    def predict(at: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        keep, spread = parts(time)
        noise = spread * (at - keep * mean)
        picture = (at - spread * noise) / keep
        velocity = keep * noise - spread * picture
        return {"epsilon": noise, "sample": picture, "v_prediction": velocity}[predicts]

    return predict


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0))


def test_one_step_up_and_down_by_hand(latents):
    made = bridge(0.5, 1).walk(latents, normal(), normal())
    keep, spread = parts(499)
    noise = parts(CLEAN)[1] * latents  # asked about the clean picture, at timestep 20
    up = keep * latents + spread * noise
    assert torch.allclose(made, (up - spread * (spread * up)) / keep, atol=1e-5)


def test_a_way_up_and_down_with_one_model_ends_nearer_to_the_picture_with_more_steps(latents):
    errors = [
        float((bridge(0.6, steps).walk(latents, normal(), normal()) - latents).abs().max())
        for steps in (1, 4, 16)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.2 * float(latents.abs().max())


def test_two_models_move_a_picture_by_what_they_see_differently(latents):
    # Of normal pictures x - keep * mean is the same all along the path, so what is moved is the
    # difference of the means, as far as the noisy end hides the picture.
    end = 0.9
    made = bridge(end, 24).walk(latents, normal(), normal(3.0))
    same = bridge(end, 24).walk(latents, normal(), normal())
    wanted = 3.0 * (1 - parts(899)[0])
    assert (made - same).mean().item() == pytest.approx(wanted.item(), rel=0.1)
    assert (made - same).std().item() < 0.02


@pytest.mark.parametrize("predicts", ["v_prediction", "sample"])
def test_what_a_base_predicts_makes_no_difference(latents, predicts):
    by_noise = bridge(0.5, 5).walk(latents, normal(), normal(1.0))
    other = bridge(0.5, 5, predicts)
    made = other.walk(latents, normal(predicts=predicts), normal(1.0, predicts))
    assert torch.allclose(made, by_noise, atol=1e-4)


def test_the_places_end_where_the_strength_says_and_begin_above_clean():
    assert bridge(0.5, 4).times == [124, 249, 374, 499]
    assert bridge(1.0, 2).times == [499, 999]
    with pytest.raises(ValueError, match="fewer steps"):
        bridge(0.1, 5)  # the first place would be 19


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, save_base) -> Base:
    return load_base(str(save_base(tmp_path_factory.mktemp("base"))))


def test_inverted_noise_knows_no_seed_and_runs_the_controlnet_on_the_way_down_only(base):
    torch.manual_seed(1)
    controlnet = new_controlnet(base)
    with torch.no_grad():
        for weight in controlnet.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    sampling = Sampling(steps=6, strength=0.5, scheduler="ddim", noise="inverted")
    restyler = Restyler(base, controlnet, (32, 16), sampling)
    ran = {"unet": 0, "controlnet": 0}

    def count(name: str):
        def add(*_: object) -> None:
            ran[name] += 1

        return add

    restyler._denoiser.unet.register_forward_hook(count("unet"))
    restyler._denoiser.controlnet.register_forward_hook(count("controlnet"))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 16, 3), dtype=np.uint8)
    words = base.encode_prompts(["a red coat", ""])
    made = restyler.restyle(pictures, words, [1, 2])
    assert ran == {"unet": 6, "controlnet": 3}
    assert np.array_equal(made, restyler.restyle(pictures, words, [3, 4]))
    turned = restyler.restyle(pictures[::-1], words.flip(0), [0, 0])[::-1]
    assert np.abs(turned.astype(int) - made).max() <= 1
    drawn = restyler.with_sampling(Sampling(steps=6, strength=0.5, scheduler="ddim"))
    assert not np.array_equal(drawn.restyle(pictures, words, [1, 2]), made)
    assert np.array_equal(  # from words alone noise is drawn, whatever it says
        restyler.generate(words, [1, 2]), drawn.generate(words, [1, 2])
    )


def test_inverted_noise_asks_for_ddim():
    with pytest.raises(ValueError, match="set scheduler to ddim"):
        Sampling(steps=4, scheduler="dpm", noise="inverted")

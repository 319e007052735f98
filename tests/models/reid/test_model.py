"""A person encoder: neck, folder, objective, and what it can start from."""

import pytest
import torch

from models.dual.config import SwinVision
from models.reid import PersonEncoder, ReidConfig, ReidObjective
from models.reid.starting import start_kind, start_person_encoder
from tests.towers import Towers

SIZES = ReidConfig(
    vision=SwinVision(patch_size=4, dim=8, depths=(2, 2), heads=(1, 2), window_size=3),
    image_size=(48, 24),
)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return Towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PersonEncoder(SIZES)


def test_the_feature_is_the_mean_token_and_the_neck_has_no_bias(model):
    model.eval()
    image = torch.randn(3, 3, 48, 24)
    tokens = model.vision_encoder(image)
    assert torch.equal(model(image), tokens[:, 0])
    assert torch.allclose(model(image), tokens[:, 1:].mean(1), atol=1e-5)
    assert not model.neck_norm.bias.requires_grad
    assert torch.allclose(model.describe(image).norm(dim=1), torch.ones(3))


def test_a_folder_gives_the_same_model_back(model, tmp_path):
    image = torch.randn(4, 3, 48, 24)
    model.train()
    model.neck(model(image))  # moves the running statistics
    model.save_pretrained(tmp_path)
    again = PersonEncoder.from_pretrained(tmp_path)
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again.describe(image), model.eval().describe(image))


def test_folders_that_hold_no_person_encoder_are_named(tmp_path, towers):
    for folder in (tmp_path, towers["swin"]):
        with pytest.raises(ValueError, match=str(folder)):
            PersonEncoder.from_pretrained(folder)


def test_losses_by_their_names_and_their_sum(model):
    objective = ReidObjective(model, people=3, margin=0.3, triplet_weight=0.5)
    batch = {"image": torch.randn(6, 3, 48, 24), "person": torch.tensor([0, 0, 1, 1, 2, 2])}
    losses = objective(batch)
    assert list(losses) == ["id", "triplet", "loss"]
    assert float(losses["loss"]) == pytest.approx(float(losses["id"] + losses["triplet"]))
    losses["loss"].backward()
    trained = [p for p in objective.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    alone = ReidObjective(model, people=3, triplet_weight=0.0)(batch)
    assert list(alone) == ["id", "loss"]


def test_parts_of_a_batch_give_the_losses_of_the_whole(model):
    batch = {"image": torch.randn(4, 3, 48, 24), "person": torch.tensor([0, 0, 1, 1])}
    torch.manual_seed(1)
    whole = ReidObjective(model, people=2)
    parts = ReidObjective(model, people=2, micro_batch=2)
    parts.classifier.load_state_dict(whole.classifier.state_dict())
    assert float(parts(batch)["loss"]) == pytest.approx(float(whole(batch)["loss"]), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"people": 1}, "at least 2"),
        ({"margin": -0.1}, "margin"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_values_out_of_range_are_named(model, change, said):
    with pytest.raises(ValueError, match=said):
        ReidObjective(model, **{"people": 2, **change})


def test_people_out_of_range_are_named(model):
    batch = {"image": torch.randn(2, 3, 48, 24), "person": torch.tensor([0, 2])}
    with pytest.raises(ValueError, match="renumber"):
        ReidObjective(model, people=2)(batch)


@pytest.mark.parametrize("kind", ["vit", "deit", "swin"])
def test_plain_weights_are_taken_over(kind, towers):
    size = (48, 24) if kind == "swin" else (32, 32)
    assert start_kind(towers[kind]) == "plain"
    model = start_person_encoder(towers[kind], image_size=size)
    other = towers.model(kind, image_size=size)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        wanted = other.image_states(image)[:, 0]
        assert torch.allclose(model.eval()(image), wanted, atol=1e-5)


def test_a_dual_encoders_images_are_seen_as_it_sees_them(towers, tmp_path):
    dual = towers.model("swin")
    dual.save_pretrained(tmp_path)
    assert start_kind(tmp_path) == "dual"
    model = start_person_encoder(tmp_path, image_size=(48, 24)).eval()
    image = torch.randn(2, 3, 48, 24)
    with torch.no_grad():
        assert torch.allclose(model(image), dual.image_states(image)[:, 0], atol=1e-5)
    with pytest.raises(ValueError, match="window_size to null"):
        start_person_encoder(tmp_path, image_size=(48, 24), window_size=2)


def test_another_size_resizes_position_tables(towers):
    model = start_person_encoder(towers["swin"], image_size=(64, 32), window_size=4).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 32)).isfinite().all()
    with pytest.raises(ValueError, match="only a Swin has"):
        start_person_encoder(towers["vit"], image_size=(32, 32), window_size=4)

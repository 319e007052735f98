import dataclasses

import numpy as np
import pytest

from tasks.world.attributes import sample_person
from tasks.world.backgrounds import ABSTRACT, PLACES, STUDIO, background
from tasks.world.looks import (
    MARGIN,
    SOURCE,
    TARGET_CAMERAS,
    distance_to_target,
    random_look,
    render,
)


def test_random_looks_keep_away_from_the_cameras_of_the_target():
    rng = np.random.default_rng(0)
    vectors = np.stack([camera.vector() for camera in TARGET_CAMERAS])
    looks = [random_look(rng) for _ in range(2000)]
    points = np.stack([look.vector() for look in looks])
    distance = np.linalg.norm(points[:, None] - vectors[None], axis=2)
    assert distance.min() >= MARGIN
    assert all(set(look.places).isdisjoint(PLACES) for look in looks)
    assert points.min(axis=0).max() < 0.25, "they are wide: every range is used to its low end"
    assert points.max(axis=0).min() > 0.75, "and to its high end"


def test_the_margin_means_something():
    """Without it, some random looks would come nearer; the source itself is far away."""
    rng = np.random.default_rng(1)
    near = [random_look(rng) for _ in range(300)]
    assert min(map(distance_to_target, near)) < 1.1 * MARGIN
    assert distance_to_target(SOURCE) > MARGIN
    assert all(distance_to_target(camera) == 0 for camera in TARGET_CAMERAS)


def test_distance_worked_out_by_hand():
    camera = TARGET_CAMERAS[0]
    # pitch has a range of 34 degrees: 17 more are half a unit.
    moved = dataclasses.replace(camera, pitch=camera.pitch + 17)
    assert np.linalg.norm(moved.vector() - camera.vector()) == pytest.approx(0.5)


def test_families_of_backgrounds_share_no_member():
    assert set(SOURCE.places) <= set(STUDIO)
    assert {p for camera in TARGET_CAMERAS for p in camera.places} <= set(PLACES)
    assert not set(STUDIO) & set(PLACES)
    assert not set(STUDIO) & set(ABSTRACT)
    assert not set(PLACES) & set(ABSTRACT)


@pytest.mark.parametrize("name", [*STUDIO, *PLACES, *ABSTRACT])
@pytest.mark.parametrize("size", [(192, 96), (48, 24)])
def test_every_background_fills_its_image(name, size):
    for softness in (0.0, 2.0):
        pixels = background(name, np.random.default_rng(3), size, softness)
        assert pixels.shape == (*size, 3)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 1


def test_an_image_follows_from_its_seed_alone():
    for look in (SOURCE, TARGET_CAMERAS[2]):
        a, b = (
            render(sample_person(np.random.default_rng(1)), look, np.random.default_rng(2))
            for _ in range(2)
        )
        np.testing.assert_array_equal(a.pixels, b.pixels)


def statistics(look, n=40):
    """Mean brightness, mean saturation, sharpness over a few people."""
    out = []
    for i in range(n):
        rng = np.random.default_rng([7, i])
        x = render(sample_person(rng), look, rng).pixels.astype(float)
        out.append((x.mean(), (x.max(2) - x.min(2)).mean(), x.reshape(-1, 3).mean(0)))
    light, colour, channels = zip(*out, strict=True)
    return np.mean(light), np.mean(colour), np.mean(channels, axis=0)


def test_source_and_target_differ_visibly():
    source_light, source_colour, _ = statistics(SOURCE)
    for camera in TARGET_CAMERAS:
        light, colour, _ = statistics(camera, 15)
        assert colour < 0.85 * source_colour, camera.name
        assert light < 0.95 * source_light, camera.name


def test_cameras_have_casts_of_their_own():
    blue_over_red = {}
    for camera in TARGET_CAMERAS:
        _, _, (red, _, blue) = statistics(camera, 15)
        blue_over_red[camera.name] = blue / red
    assert blue_over_red["cam_a"] == max(blue_over_red.values())
    assert blue_over_red["cam_c"] == min(blue_over_red.values())


def test_noise_is_that_of_the_camera():
    plain = dataclasses.replace(SOURCE, softness=2.0)
    noisy = dataclasses.replace(plain, noise=12.0)
    person = sample_person(np.random.default_rng(0))
    a, b = (
        render(person, look, np.random.default_rng(5)).pixels.astype(float)
        for look in (plain, noisy)
    )
    corner = (b - a)[150:, :20]
    # 0.6 * own + 0.6 * shared noise of deviation 12: green has both from one draw, 14.4.
    assert 8 < corner.std() < 14

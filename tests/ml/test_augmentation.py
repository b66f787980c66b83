"""Random views stay pictures of the same organ."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ml import compiled
from ml.augmentation import Draw, any_knots, augment, curves, placed, rising_knots, through
from ml.framing import content_boxes
from ml.preprocess import Preprocessing
from ml.recipes import Augmentation
from tests.factories import make_pixels

PLAIN = Preprocessing(mean=0.0, std=1.0)  # grey values as they are
NOTHING = Augmentation(
    rotation=0, scale=(0.875, 0.875), stretch=0, shift=0, gamma=0, any_curve=0, curve=0, contrast=0,
    brightness=0, shading=0, negative=0, noise=0,
)  # fmt: skip


def views(strength: Augmentation, number: int = 8, seed: int = 0) -> torch.Tensor:
    images = np.stack([make_pixels(n, "chest", 256) for n in range(number)])
    return augment(images, PLAIN, strength, np.random.default_rng(seed))


def test_views_differ_and_repeat_by_seed() -> None:
    first, again, other = (views(Augmentation(), 3, seed) for seed in (0, 0, 1))
    assert (first.shape, first.dtype) == ((3, 1, 224, 224), torch.float32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= first.min() <= first.max() <= 1


def test_without_any_strength_only_the_mirror_is_left() -> None:
    images = np.stack([make_pixels(n, "chest", 256) for n in range(8)])
    plain, seen = PLAIN(images), views(NOTHING)
    same = [torch.allclose(a, b, atol=0.01) for a, b in zip(seen, plain, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=0.01) for a, b in zip(seen, plain, strict=True)]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


@pytest.mark.parametrize(
    "change",
    [
        {"rotation": 20.0}, {"scale": (0.5, 0.6)}, {"stretch": 0.5}, {"shift": 0.3}, {"gamma": 0.8},
        {"any_curve": 1.0}, {"curve": 1.0}, {"contrast": 0.6}, {"brightness": 0.3}, {"shading": 0.5},
        {"negative": 1.0}, {"noise": 0.2},
    ],
)  # fmt: skip
def test_every_strength_changes_something(change: dict[str, float]) -> None:
    difference = (views(replace(NOTHING, **change)) - views(NOTHING)).abs().mean()
    assert 0.001 < difference < 0.7


def draw_for(images: int) -> Draw:
    return Draw(images, np.random.default_rng(0))


def test_a_rising_curve_keeps_the_order_of_grey_values() -> None:
    ramp = np.tile(np.linspace(0, 1, 500, dtype=np.float32), (4, 1))
    curved = through(rising_knots(draw_for(4)), ramp)
    assert (np.diff(curved, axis=1) > 0).all()
    assert np.allclose(curved[:, [0, -1]], [0, 1], atol=1e-5)
    assert not np.allclose(curved[0], curved[1], atol=0.01)


def test_any_curve_maps_grey_values_anywhere_and_mostly_keeps_black() -> None:
    curved = through(any_knots(draw_for(400)), np.tile(np.float32([0, 0.3, 0.7, 1]), (400, 1)))
    assert 0 <= curved.min() <= curved.max() <= 1
    assert 0.6 < np.mean(curved[:, 0] == 0) < 0.8
    assert 0.3 < np.mean(curved[:, 2] > curved[:, 1]) < 0.7  # falls as often as it rises


def test_grey_values_change_by_gamma_contrast_and_brightness_alone_where_nothing_else_may() -> None:
    still = replace(NOTHING, gamma=0.6, contrast=0.4, brightness=0.12)
    for curve in curves(still, draw_for(50)):
        black, middle, white = curve[0], curve[512], curve[-1]
        assert 1 / 1.4 - 0.01 < white - black < 1.4 + 0.01  # contrast
        assert abs((black + white) / 2 - 0.5) <= 0.12 + 1e-3  # brightness
        gamma = np.log((middle - black) / (white - black)) / np.log(512 / 1023)
        assert 1 / 1.6 - 0.01 < gamma < 1.6 + 0.01


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_a_view_is_where_pytorch_finds_it(padding: str) -> None:
    images = np.stack([make_pixels(n, "chest", 256) for n in range(6)])
    theta = placed(content_boxes(images), replace(Augmentation(), scale=(0.8, 1.6)), draw_for(6))
    grid = F.affine_grid(torch.from_numpy(theta), [6, 1, 224, 224], align_corners=False)
    grey = torch.from_numpy(images).unsqueeze(1).float() / 255
    expected = F.grid_sample(grey, grid, padding_mode=padding, align_corners=False)
    seen = np.empty((224, 224), np.float32)
    for n, image in enumerate(images):
        compiled._place(image, theta[n], padding == "zeros", seen)
        assert np.allclose(seen, expected[n, 0], atol=2e-3), n


def test_noise_is_normal_white_and_as_strong_as_it_says() -> None:
    fields = np.full((20, 224, 224), 0.5, np.float32)
    for seed, field in enumerate(fields):
        compiled._add_noise(field, np.float32(0.05), np.uint64(seed))
    noise = (fields - 0.5) / 0.05
    assert abs(noise.mean()) < 0.005
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert np.percentile(noise, [2.5, 16, 84, 97.5]) == pytest.approx([-1.96, -0.994, 0.994, 1.96], abs=0.03)
    rows = noise.reshape(20, -1)
    for one, other in [(rows[0], rows[1]), (rows[:, :-1], rows[:, 1:]), (rows[:, :-224], rows[:, 224:])]:
        assert abs(np.mean(one * other)) < 0.02


@pytest.mark.parametrize("shape", [(2, 255, 256), (256, 256)])
def test_pictures_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    for change in (PLAIN, content_boxes, lambda x: augment(x, PLAIN, NOTHING, np.random.default_rng(0))):
        with pytest.raises(ValueError, match="Renditions are uint8"):
            change(np.zeros(shape, np.uint8))

"""Random views stay pictures of the same organ."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ml.augmentation import Draw, any_curve, augment, rising_curve
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
    return augment(images, PLAIN, strength, torch.Generator().manual_seed(seed))


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


def test_a_rising_curve_keeps_the_order_of_grey_values() -> None:
    ramp = torch.linspace(0, 1, 500).view(1, 1, 20, 25).repeat(4, 1, 1, 1)
    curved = rising_curve(ramp, Draw(4, torch.Generator().manual_seed(0))).flatten(1)
    assert (curved.diff(dim=1) > 0).all()
    assert torch.allclose(curved[:, [0, -1]], torch.tensor([0.0, 1.0]).expand(4, 2), atol=1e-5)
    assert not torch.allclose(curved[0], curved[1], atol=0.01)


def test_any_curve_maps_equal_grey_values_to_equal_ones_and_mostly_keeps_black() -> None:
    image = torch.tensor([0.0, 0.3, 0.3, 0.7, 1.0]).view(1, 1, 1, 5).repeat(200, 1, 1, 1)
    curved = any_curve(image, Draw(200, torch.Generator().manual_seed(0))).flatten(1)
    assert torch.equal(curved[:, 1], curved[:, 2])
    assert 0 <= curved.min() <= curved.max() <= 1
    assert 0.6 < (curved[:, 0] == 0).float().mean() < 0.8
    assert 0.3 < (curved[:, 3] > curved[:, 1]).float().mean() < 0.7  # falls as often as it rises

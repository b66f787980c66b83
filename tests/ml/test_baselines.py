"""What the paper compares itself with: each does what its source says, on images made for the question."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ml.baselines import multi_instance
from ml.baselines.autoregressive import (
    DISTANCES,
    BinaryTreeSVM,
    autocorrelogram,
    autoregression,
    rings_around,
    texture,
)
from ml.baselines.handcrafted import CLASSIFIERS, local_binary_patterns, oriented_gradients
from ml.baselines.networks import AlexNet, OverFeat, ResNet18
from ml.baselines.relevant_blocks import RelevantBlocks, blocks_of
from ml.network import NetworkShape, trainable_parameters
from ml.schedule import Schedule
from tests.factories import make_pixels


def pictures(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Brains (0) and chests (1) in turn: uint8 (N, 256, 256) and int64 (N,)."""
    organs = np.arange(number, dtype=np.int64) % 2
    return np.stack([make_pixels(seed + n, ("brain", "chest")[n % 2], 256) for n in range(number)]), organs


# Of the published networks, with one grey channel and 24 classes. ResNet-18 and AlexNet: torchvision's
# 11,689,512 and 61,100,840 without what two colour channels and 976 classes take.
@pytest.mark.parametrize(
    ("network", "parameters", "width"),
    [
        (AlexNet, 61_100_840 - 2 * 64 * 121 - 976 * 4097, 4096),
        (ResNet18, 11_689_512 - 2 * 64 * 49 - 976 * 513, 512),
        (OverFeat, 145_920_872 - 2 * 96 * 121 - 976 * 4097, 3072),
    ],
)
def test_a_network_has_its_published_size(
    network: Callable[[NetworkShape], nn.Module], parameters: int, width: int
) -> None:
    made = network(NetworkShape(24)).eval()
    assert trainable_parameters(made) == parameters
    with torch.inference_mode():
        output = made(torch.rand(2, 1, 224, 224))
    assert output.fc1.shape == (2, width)
    assert output.organ_logits.shape == (2, 24)
    assert output.modality_logits is None
    assert (output.fc1 >= 0).all()


def test_patterns_of_a_flat_image_are_all_the_same() -> None:
    flat = np.full((1, 256, 256), 90, np.uint8)
    found = local_binary_patterns(flat, cells=4).reshape(16, 59)
    assert found.shape == (16, 59)
    assert np.allclose(found.sum(1), 1)
    assert np.allclose(found.max(1)[[5, 6, 9, 10]], 1)  # cells away from the border


def test_patterns_do_not_see_brightness() -> None:
    images, _ = pictures(2)
    darker = (images // 2).repeat(1, 0) * 2  # even grey values, so that halving keeps their order
    assert np.allclose(local_binary_patterns(darker), local_binary_patterns(darker // 2))


def test_gradients_tell_horizontal_from_vertical() -> None:
    stripes = np.tile((np.arange(256) // 16 % 2 * 255).astype(np.uint8), (256, 1))
    both = oriented_gradients(np.stack([stripes, stripes.T]))
    assert both.shape == (2, 8100)
    by_orientation = both.reshape(2, -1, 9).sum(1)
    assert by_orientation.argmax(1).tolist() == [0, 4]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_learns_what_patterns_show(name: str) -> None:
    images, organs = pictures(24)
    asked, truth = pictures(6, 1000)
    classifier = CLASSIFIERS[name]().fit(local_binary_patterns(images), organs)
    assert (classifier.predict(local_binary_patterns(asked)) == truth).mean() >= 0.8


def test_blocks_that_are_hard_to_encode_are_kept() -> None:
    rng = np.random.default_rng(0)
    images = np.full((20, 256, 256), 60, np.uint8)
    images[:, 64:192, 64:192] = rng.integers(0, 256, (20, 128, 128))  # 4 x 4 blocks of noise
    noisy = {8 * row + column for row in range(2, 6) for column in range(2, 6)}
    blocks = RelevantBlocks.fitted_to(images)
    assert noisy <= set(blocks.kept.tolist())
    assert len(blocks.kept) == 32
    assert blocks.describe(images[:3]).shape == (3, 32 * 59)


def test_blocks_are_in_the_order_of_reading() -> None:
    image = np.zeros((1, 256, 256), np.uint8)
    image[0, 32:64, 64:96] = 255  # row 1, column 2
    assert np.flatnonzero(blocks_of(image)[0].sum(1)).tolist() == [10]


def test_an_autocorrelogram_counts_equal_levels_by_distance() -> None:
    stripes = np.tile(np.arange(128) // 2 % 2, (128, 1))  # two columns of 0, two of 1, and so on
    shares = autocorrelogram(stripes, 2).reshape(len(DISTANCES), 2)
    # down a column every pixel has its level; along a row every second one at odd distances
    assert np.allclose(shares, 0.75, atol=0.01)


def test_the_model_finds_the_dependence_of_a_texture_it_made() -> None:
    """Grey values that are the mean of what is above and on the left, and noise: strong at distance 1."""
    rng = np.random.default_rng(0)
    grey = rng.normal(0, 1, (128, 128))
    for row in range(1, 128):
        for column in range(1, 128):
            grey[row, column] += 0.49 * (grey[row - 1, column] + grey[row, column - 1])
    smooth = autoregression(grey).reshape(16, 5)
    rough = autoregression(rng.normal(0, grey.std(), (128, 128))).reshape(16, 5)
    assert (smooth[:, 0] > 0.15).all()
    assert (np.abs(rough[:, 0]) < 0.1).all()
    assert smooth[:, 4].mean() < 0.5 * rough[:, 4].mean()  # noise left over


def test_a_pixel_has_4_8_8_4_neighbours_within_reach() -> None:
    pixel, rings = rings_around(np.ones((10, 12)))
    assert pixel.shape == (6 * 8,)
    assert rings[:, 0].tolist() == [4, 8, 8, 4]


def test_a_flat_image_has_a_texture_too() -> None:
    found = texture(np.zeros((1, 256, 256), np.uint8))
    assert found.shape == (1, 4 * 16 + 4 * 19 + 16 * 5)
    assert np.isfinite(found).all()


def test_the_tree_tells_many_classes_apart() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array([2, 3, 5, 7, 11]), 20)
    features = (rng.normal(0, 0.3, (100, 4)) + labels[:, None] * [1, 0, -1, 0]).astype(np.float32)
    tree = BinaryTreeSVM().fit(features, labels)
    assert (tree.predict(features) == labels).all()
    assert tree.predict(features[:0]).shape == (0,)


def test_the_tree_bears_classes_that_look_the_same() -> None:
    tree = BinaryTreeSVM().fit(np.ones((6, 2), np.float32), np.array([0, 0, 1, 1, 2, 2]))
    assert set(tree.predict(np.ones((2, 2), np.float32)).tolist()) <= {0, 1, 2}


def test_patches_are_learnt_from_in_two_stages(tmp_path: Path) -> None:
    """Stopped in the second stage and taken up again."""
    images, organs = pictures(32)
    seen: list[str] = []

    def stop_in_stage_two(stage: str, schedule: Schedule) -> None:
        seen.append(stage)

    arguments = (images, organs, 2, 4, tmp_path, stop_in_stage_two)
    assert multi_instance.learn(*arguments, should_stop=lambda: "learning patches" in seen) is None
    first_stage = seen.count("discovering patches")
    network = multi_instance.learn(*arguments)
    assert network is not None
    assert seen.count("discovering patches") == first_stage  # it was not done again
    asked, truth = pictures(8, 1000)
    features, predicted = multi_instance.describe(network, asked)
    assert features.shape == (8, 600)
    assert (predicted == truth).mean() >= 0.85


def test_patches_that_tell_little_are_learnt_as_such() -> None:
    images, organs = pictures(4)
    network = multi_instance.PatchNetwork(2)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)  # every patch tells the same: none is much worse than the best
    patches, labels = multi_instance.discovered(network, images, organs)
    assert patches.shape == (4 * multi_instance.PER_IMAGE, 1, 50, 50)
    assert sorted(set(labels.tolist())) == [0, 1]

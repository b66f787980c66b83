"""The paper's network, its preprocessing and projection."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import rankdata

from ml.framing import content_edges
from ml.network import (
    NetworkShape,
    OrganNetwork,
    device_for,
    fold_batch_norms,
    initialise_as_paper,
    organ_network,
    trainable_parameters,
)
from ml.preprocess import Preprocessing
from ml.projection import fit_projection
from ml.recipes import RECIPES
from tests.factories import make_pixels, tiny_shape

# Kernel size, channels in and out of each convolution; inputs and outputs of each layer above.
PAPER_CONVOLUTIONS = [(11, 1, 64), (5, 64, 192), (5, 192, 384), (3, 384, 256), (3, 256, 256)]
PAPER_LAYERS = [(256 * 6 * 6, 4096), (4096, 4096), (4096, 4096), (4096, 24)]


def renditions(number: int) -> np.ndarray:
    return np.stack([make_pixels(seed, ("brain", "chest")[seed % 2], 256) for seed in range(number)])


def test_the_network_has_the_paper_layers() -> None:
    with torch.device("meta"):
        network = OrganNetwork(NetworkShape(organs=24))
        seen = network.eval()(torch.empty(2, 1, 224, 224))
    expected = sum(k * k * i * o + o for k, i, o in PAPER_CONVOLUTIONS) + sum(
        i * o + o for i, o in PAPER_LAYERS
    )
    assert trainable_parameters(network) == expected
    assert (seen.fc1.shape, seen.organ_logits.shape, seen.modality_logits) == ((2, 4096), (2, 24), None)
    assert network.conv1.stride == (4, 4)


def test_the_modality_head_stands_on_fc3() -> None:
    network = OrganNetwork(tiny_shape(3, 5)).eval()
    seen = network(torch.rand(1, 1, 224, 224))
    assert seen.organ_logits.shape == (1, 3)
    assert seen.modality_logits is not None
    assert seen.modality_logits.shape == (1, 5)
    assert (seen.fc1 >= 0).all()  # after ReLU


def test_the_paper_initialisation() -> None:
    network = OrganNetwork(NetworkShape(organs=24))
    initialise_as_paper(network)
    biases = {name: p.unique().tolist() for name, p in network.named_parameters() if name.endswith("bias")}
    ones = {f"{name}.bias" for name in ("conv2", "conv4", "conv5", "fc1", "fc2", "fc3")}
    assert {name for name, values in biases.items() if values == [1.0]} == ones
    assert all(values == [0.0] for name, values in biases.items() if name not in ones)
    assert network.fc1.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert network.fc1.weight.mean().item() == pytest.approx(0, abs=1e-4)


def test_batch_norms_fold_into_the_paper_network() -> None:
    torch.manual_seed(0)
    plain = organ_network(tiny_shape(), replace(RECIPES["default"], batch_norm=False))
    network = organ_network(tiny_shape(), replace(RECIPES["default"], batch_norm=True, dropout=0.0))
    x = 3 * torch.rand(8, 1, 224, 224)
    for _ in range(3):
        seen = network.train()(x)  # takes in mean and variance
    expected = network.eval()(x)
    assert not torch.allclose(seen.organ_logits, expected.organ_logits, rtol=1e-3)
    fold_batch_norms(network)
    folded = network(x)
    assert network.state_dict().keys() == plain.state_dict().keys()
    for name in ("fc1", "organ_logits", "modality_logits"):
        assert torch.allclose(getattr(folded, name), getattr(expected, name), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        device_for("cuda")


def test_preprocessing_takes_the_centre() -> None:
    image = np.zeros((1, 256, 256), np.uint8)
    image[0, 16:240, 16:240] = 255
    x = Preprocessing(mean=0.5, std=0.25)(image)
    assert (x.shape, x.dtype) == ((1, 1, 224, 224), torch.float32)
    assert x.unique().tolist() == [2.0]


def test_preprocessing_of_each_image_forgets_brightness_and_contrast() -> None:
    image = renditions(1)
    darker = (image // 3 + 20).astype(np.uint8)
    preprocessing = Preprocessing(per_image=True)
    x = preprocessing(image)
    assert (x.mean().item(), x.std().item()) == (pytest.approx(0, abs=1e-4), pytest.approx(1, rel=1e-3))
    assert torch.allclose(preprocessing(darker), x, atol=0.05)
    assert preprocessing(np.full((1, 256, 256), 90, np.uint8)).abs().max() < 1e-4  # nothing to stretch


def test_preprocessing_of_few_pixels_forgets_sharpness() -> None:
    fine = np.zeros((1, 256, 256), np.uint8)
    fine[:, :, ::2] = 200  # every other column
    x = Preprocessing(0, 1, resolution=56)(fine)
    assert x.std() < 0.01
    assert x.mean().item() == pytest.approx(100 / 255, abs=0.01)


def test_equalisation_forgets_every_rising_curve() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 256, 256)).astype(np.uint8)
    darker = (255 * (image / 255) ** 2).astype(np.uint8)
    whole, half, none = (Preprocessing(0, 1, equalisation=share) for share in (1.0, 0.5, 0.0))
    assert (whole(image) - whole(darker)).abs().mean() < 0.01
    assert (none(image) - none(darker)).abs().mean() > 0.1
    assert torch.allclose(half(darker), (whole(darker) + none(darker)) / 2, atol=1e-5)
    shares = np.sort(whole(image).flatten().numpy())
    assert np.allclose(shares, np.linspace(0, 1, len(shares)), atol=0.01)  # every grey value equally often


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"mean": 0.4, "std": 0.1}, {"resolution": 96}, {"resolution": 256}, {"resolution": 1},
        {"equalisation": 0.5}, {"framed": True}, {"per_image": True},
        {"framed": True, "per_image": True, "resolution": 96, "equalisation": 0.5},
    ],
)  # fmt: skip
def test_preprocessing_is_what_pytorch_makes_of_it(fields: dict[str, Any]) -> None:
    preprocessing = Preprocessing(**fields)
    images = renditions(4)
    edges = content_edges(images) if preprocessing.framed else [(16, 240, 16, 240)] * 4
    for image, x, (top, bottom, left, right) in zip(images, preprocessing(images), edges, strict=True):
        part = torch.from_numpy(image[top:bottom, left:right]).double()[None, None]
        grey = F.adaptive_avg_pool2d(part, preprocessing.size) / 255
        if preprocessing.equalisation:
            level = (grey * 255).round()
            ranks = torch.from_numpy(rankdata(level) / level.numel() - 0.5 / level.numel()).view_as(grey)
            grey = torch.lerp(grey, ranks, preprocessing.equalisation)
        if preprocessing.per_image:
            grey = (grey - grey.mean()) / grey.std(correction=0).clamp_min(0.03)
        else:
            grey = (grey - preprocessing.mean) / preprocessing.std
        expected = F.interpolate(grey, size=(224, 224), mode="bilinear", align_corners=False)
        assert (x - expected[0]).abs().mean() < 1e-4  # a grey value between two levels may go to either
        assert (x - expected[0]).abs().max() < 0.05


@pytest.mark.parametrize("fields", [{"crop": 0}, {"crop": 257}, {"resolution": 0}, {"resolution": 10**9}])
def test_impossible_sizes_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="between 1 and 256"):
        Preprocessing(**fields)


def test_fc1_of_length_one_where_the_shape_says_so() -> None:
    torch.manual_seed(0)
    plain = OrganNetwork(tiny_shape()).eval()
    unit = OrganNetwork(replace(tiny_shape(), unit_fc1=True)).eval()
    unit.load_state_dict(plain.state_dict())
    x = torch.rand(3, 1, 224, 224)
    assert torch.allclose(unit(x).fc1.norm(dim=1), torch.ones(3))
    assert torch.equal(unit(x).organ_logits, plain(x).organ_logits)


def test_projection_keeps_what_pca_keeps() -> None:
    rng = np.random.default_rng(0)
    fc1 = (rng.standard_normal((300, 40)) @ rng.standard_normal((40, 4096))).astype(np.float32)
    fc1 += 0.01 * rng.standard_normal(fc1.shape).astype(np.float32)
    projection = fit_projection(fc1, 64)
    assert np.allclose(projection.components @ projection.components.T, np.eye(64), atol=1e-4)
    kept = np.var(projection(fc1), axis=0).sum()
    singular = np.linalg.svd(fc1 - fc1.mean(0), compute_uv=False)[:64]
    assert kept == pytest.approx((singular**2).sum() / len(fc1), rel=1e-3)


def test_a_projected_distance_never_exceeds_the_distance() -> None:
    fc1 = np.random.default_rng(1).random((50, 4096), np.float32)
    projection = fit_projection(fc1)  # fewer samples than dimensions
    projected = projection(fc1)
    for n in range(1, 50):
        near, far = np.linalg.norm(projected[0] - projected[n]), np.linalg.norm(fc1[0] - fc1[n])
        assert near <= far * 1.0001

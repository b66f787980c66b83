"""Random views of images, as much as medical images bear: so that organs are learnt, not scanners."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ml.framing import content_boxes, whole_images
from ml.preprocess import Preprocessing
from ml.recipes import Augmentation


def augment(
    renditions: NDArray[np.uint8] | Tensor,
    preprocessing: Preprocessing,
    strength: Augmentation,
    generator: torch.Generator,
) -> Tensor:
    """A random view of each image: float32 (N, 1, 224, 224) from uint8 (N, 256, 256).

    It is made where the generator is, on the CPU or on a CUDA device.
    """
    draw = Draw(len(renditions), generator)
    images = torch.as_tensor(renditions).to(generator.device, non_blocking=True)
    boxes = content_boxes(images) if preprocessing.framed else whole_images(len(images)).to(images.device)
    view = reframe(images.unsqueeze(1).float() / 255, boxes, preprocessing.crop, strength, draw)
    view = regrade(view, strength, draw)
    if strength.noise:
        view = view + torch.randn(view.shape, generator=generator, device=generator.device) * draw.between(
            0, strength.noise
        )
    return preprocessing.normalise(view.clamp(0, 1))


class Draw:
    """Random numbers for a batch of N images, float32 (N, 1, 1, 1)."""

    def __init__(self, images: int, generator: torch.Generator) -> None:
        self.images, self.generator, self.device = images, generator, generator.device

    def between(self, low: float, high: float) -> Tensor:
        drawn = torch.empty(self.images, 1, 1, 1, device=self.device)
        return drawn.uniform_(low, high, generator=self.generator)

    def either_way(self, most: float) -> Tensor:
        return self.between(-most, most)

    def factor(self, most: float) -> Tensor:
        """Between 1 / (1 + most) and 1 + most, on a logarithmic scale."""
        return self.either_way(math.log1p(most)).exp()

    def chance(self, probability: float) -> Tensor:
        return self.between(0, 1) < probability

    def some(self, share: float) -> Tensor:
        """Positions of this share of the images, in random order: int64."""
        order = torch.randperm(self.images, generator=self.generator, device=self.device)
        return order[: round(self.images * share)]

    def numbers(self, *shape: int) -> Tensor:
        """In 0..1."""
        return torch.rand(*shape, generator=self.generator, device=self.device)


def reframe(images: Tensor, boxes: Tensor, crop: int, strength: Augmentation, draw: Draw) -> Tensor:
    """Rotation, scale, stretch, shift and mirror around boxes. Beyond the image: border, or black."""
    angle = draw.either_way(strength.rotation).flatten() * math.pi / 180
    low, high = strength.scale
    scale = draw.between(math.log(low), math.log(high)).exp().flatten()
    stretch = draw.factor(strength.stretch).sqrt().flatten()
    mirror = torch.where(draw.chance(0.5), -1.0, 1.0).flatten()
    across, down = draw.either_way(strength.shift).flatten(), draw.either_way(strength.shift).flatten()
    x = torch.stack([scale * stretch * angle.cos() * mirror, -scale * stretch * angle.sin(), across], 1)
    y = torch.stack([scale / stretch * angle.sin() * mirror, scale / stretch * angle.cos(), down], 1)
    view = torch.stack([x, y], 1) * boxes[:, 2:, None]  # (N, 2, 3)
    view[:, :, 2] += boxes[:, :2]
    grid = F.affine_grid(view, [len(images), 1, crop, crop], align_corners=False)
    black = draw.numbers(1).item() < 0.5
    padding = "zeros" if black else "border"
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def regrade(view: Tensor, strength: Augmentation, draw: Draw) -> Tensor:
    """Other scanners: curves of grey values, gamma, contrast, brightness, shading, the negative."""
    part = draw.some(strength.any_curve)
    view[part] = any_curve(view[part], draw)
    view = view.clamp(1e-4, 1).pow(draw.factor(strength.gamma))
    part = draw.some(strength.curve)
    view[part] = rising_curve(view[part], draw)
    view = (view - 0.5) * draw.factor(strength.contrast) + 0.5 + draw.either_way(strength.brightness)
    if strength.shading:
        view = torch.where(draw.chance(0.4), view * shading(view.shape[-1], strength.shading, draw), view)
    view = view.clamp(0, 1)
    return torch.where(draw.chance(strength.negative), 1 - view, view)


def rising_curve(view: Tensor, draw: Draw, pieces: int = 5) -> Tensor:
    """Each image's grey values through a random rising polyline from 0 to 1, as another window would."""
    rises = draw.numbers(len(view), pieces) + 0.15
    return through(F.pad(rises.cumsum(1) / rises.sum(1, keepdim=True), (1, 0)), view)


def any_curve(view: Tensor, draw: Draw, pieces: int = 5) -> Tensor:
    """Each image's grey values through any polyline, as another sequence of MR would; black mostly stays."""
    knots = draw.numbers(len(view), pieces + 1)
    knots[:, 0] *= draw.numbers(len(view)) < 0.3
    return through(knots, view)


def through(knots: Tensor, view: Tensor) -> Tensor:
    """Grey values (0..1) of N images through the polylines with these values (N, pieces + 1)."""
    pieces = knots.shape[1] - 1
    position = view.flatten(1) * pieces
    piece = position.floor().clamp(0, pieces - 1).long()
    low, high = knots.gather(1, piece), knots.gather(1, piece + 1)
    return (low + (high - low) * (position - piece)).view_as(view)


def shading(size: int, most: float, draw: Draw) -> Tensor:
    """A smooth field around 1, as coils and beams leave it: float32 (N, 1, size, size)."""
    line = torch.linspace(-1, 1, size, device=draw.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    tilts = (draw.either_way(most) * shape for shape in (x, y, x * x + y * y - 0.6))
    return 1 + sum(tilts, torch.zeros(1, device=draw.device))

"""Random views of images, as much as medical images bear: so that organs are learnt, not scanners."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml import compiled
from ml.framing import checked, content_boxes, whole_images
from ml.preprocess import Preprocessing
from ml.recipes import Augmentation

GREYS = np.linspace(0, 1, 1024, dtype=np.float32)  # for which curves are calculated; between them, straight
SHADED = 0.4  # share of images


def augment(
    renditions: NDArray[np.uint8],
    preprocessing: Preprocessing,
    strength: Augmentation,
    rng: np.random.Generator,
) -> Tensor:
    """A random view of each image: float32 (N, 1, 224, 224) from uint8 (N, 256, 256).

    On the CPU, by the thread that calls. Raises ValueError for arrays of other shapes or types.
    """
    renditions, draw = checked(renditions), Draw(len(renditions), rng)
    boxes = content_boxes(renditions) if preprocessing.framed else whole_images(len(renditions))
    view = compiled.View(
        placed=placed(boxes, strength, draw),
        black=draw.chance(0.5),
        curve=curves(strength, draw),
        tilt=draw.either_way(strength.shading, 3) * draw.chance(SHADED)[:, np.newaxis],
        negative=draw.chance(strength.negative),
        noise=draw.between(0, strength.noise),
        seed=rng.integers(1 << 64, size=len(renditions), dtype=np.uint64),
    )
    x = np.empty((len(renditions), 1, preprocessing.crop, preprocessing.crop), np.float32)
    compiled.look(renditions, view, preprocessing.finish, x[:, 0])
    return torch.from_numpy(x)


class Draw:
    """Random numbers for a batch of N images, float32 (N,) or (N, more)."""

    def __init__(self, images: int, rng: np.random.Generator) -> None:
        self.images, self.rng = images, rng

    def between(self, low: float, high: float, *more: int) -> NDArray[np.float32]:
        return self.rng.uniform(low, high, (self.images, *more)).astype(np.float32)

    def either_way(self, most: float, *more: int) -> NDArray[np.float32]:
        return self.between(-most, most, *more)

    def factor(self, most: float) -> NDArray[np.float32]:
        """Between 1 / (1 + most) and 1 + most, on a logarithmic scale."""
        return np.exp(self.either_way(math.log1p(most)))

    def chance(self, probability: float) -> NDArray[np.bool_]:
        return self.rng.random(self.images) < probability


def placed(boxes: NDArray[np.float32], strength: Augmentation, draw: Draw) -> NDArray[np.float32]:
    """Rotation, scale, stretch, shift and mirror around boxes (N, 4): compiled.View.placed, (N, 2, 3)."""
    angle = draw.either_way(math.radians(strength.rotation))
    low, high = strength.scale
    scale = np.exp(draw.between(math.log(low), math.log(high)))
    stretch = np.sqrt(draw.factor(strength.stretch))
    mirror = np.where(draw.chance(0.5), np.float32(-1), np.float32(1))
    across, down = draw.either_way(strength.shift), draw.either_way(strength.shift)
    x = np.stack([scale * stretch * np.cos(angle) * mirror, -scale * stretch * np.sin(angle), across], 1)
    y = np.stack([scale / stretch * np.sin(angle) * mirror, scale / stretch * np.cos(angle), down], 1)
    around = np.stack([x, y], 1) * boxes[:, 2:, np.newaxis]
    around[:, :, 2] += boxes[:, :2]
    return around


def curves(strength: Augmentation, draw: Draw) -> NDArray[np.float32]:
    """Other scanners: what becomes of GREYS (N, 1024) by curves, gamma, contrast and brightness."""
    curve = np.tile(GREYS, (draw.images, 1))
    chosen = draw.chance(strength.any_curve)
    curve[chosen] = through(any_knots(draw), curve)[chosen]
    curve = np.clip(curve, 1e-4, 1) ** draw.factor(strength.gamma)[:, np.newaxis]
    chosen = draw.chance(strength.curve)
    curve[chosen] = through(rising_knots(draw), curve)[chosen]
    contrast, brightness = draw.factor(strength.contrast), draw.either_way(strength.brightness)
    return np.asarray((curve - 0.5) * contrast[:, np.newaxis] + 0.5 + brightness[:, np.newaxis], np.float32)


def rising_knots(draw: Draw, pieces: int = 5) -> NDArray[np.float32]:
    """Random rising polylines from 0 to 1, as another window would be: (N, pieces + 1)."""
    rises = draw.between(0.15, 1.15, pieces)
    return np.pad(rises.cumsum(1) / rises.sum(1, keepdims=True), ((0, 0), (1, 0)))


def any_knots(draw: Draw, pieces: int = 5) -> NDArray[np.float32]:
    """Any polylines, as another sequence of MR would be; black mostly stays: (N, pieces + 1)."""
    knots = draw.between(0, 1, pieces + 1)
    knots[:, 0] *= draw.chance(0.3)
    return knots


def through(knots: NDArray[np.float32], greys: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grey values (0..1) of N images (N, values) through the polylines with these knots (N, pieces + 1)."""
    pieces = knots.shape[1] - 1
    position = greys * pieces
    piece = np.clip(position.astype(np.int64), 0, pieces - 1)
    low, high = (np.take_along_axis(knots, piece + n, 1) for n in (0, 1))
    return np.asarray(low + (high - low) * (position - piece), np.float32)

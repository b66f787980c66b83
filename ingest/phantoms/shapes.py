"""Soft shapes on a square canvas, x to the right and y down, both from -1 to 1."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 256  # pixels
Canvas = NDArray[np.float32]
_axis = np.linspace(-1, 1, SIZE, dtype=np.float32)
X: Canvas = np.broadcast_to(_axis, (SIZE, SIZE))
Y: Canvas = np.broadcast_to(_axis[:, None], (SIZE, SIZE))


def soft(signed_distance: NDArray[Any], edge: float = 0.02) -> Canvas:
    """1 inside (negative), 0 outside, blurred over `edge`."""
    return np.asarray(np.clip(0.5 - signed_distance / edge, 0, 1), np.float32)


def ellipse(x: float, y: float, a: float, b: float, angle: float = 0.0, edge: float = 0.02) -> Canvas:
    """Mask of an ellipse with half axes a and b, turned by `angle` radians."""
    u = (X - x) * np.cos(angle) + (Y - y) * np.sin(angle)
    v = -(X - x) * np.sin(angle) + (Y - y) * np.cos(angle)
    radius = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    return soft((radius - 1) * min(a, b), edge)


def ring(x: float, y: float, a: float, b: float, width: float, angle: float = 0.0) -> Canvas:
    """The rim of an ellipse, `width` thick, inside its outline."""
    return np.asarray(np.clip(ellipse(x, y, a, b, angle) - ellipse(x, y, a - width, b - width, angle), 0, 1))


def tube(x0: float, y0: float, x1: float, y1: float, width: float, edge: float = 0.02) -> Canvas:
    """A rounded bar between two points."""
    dx, dy = x1 - x0, y1 - y0
    t = np.clip(((X - x0) * dx + (Y - y0) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    return soft(np.hypot(X - x0 - t * dx, Y - y0 - t * dy) - width, edge)


def curve(points: list[tuple[float, float]], width: float) -> Canvas:
    """Bars from point to point."""
    mask = np.zeros((SIZE, SIZE), np.float32)
    for (x0, y0), (x1, y1) in pairwise(points):
        mask = np.maximum(mask, tube(x0, y0, x1, y1, width))
    return mask


def paint(picture: Canvas, mask: Canvas, grey: float) -> Canvas:
    """Cover the picture with `grey` where the mask is 1."""
    return np.asarray(picture * (1 - mask) + grey * mask, np.float32)


def empty(grey: float = 0.0) -> Canvas:
    return np.full((SIZE, SIZE), grey, np.float32)


def texture(rng: np.random.Generator, cells: int) -> Canvas:
    """Smooth noise of about `cells` blobs across, mean 0, standard deviation 1."""
    coarse = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    position = np.linspace(0, cells, SIZE, dtype=np.float32)
    low, t = np.floor(position).astype(int), position - np.floor(position)
    t = t * t * (3 - 2 * t)
    rows = coarse[low] * (1 - t)[:, None] + coarse[low + 1] * t[:, None]
    return np.asarray(rows[:, low] * (1 - t) + rows[:, low + 1] * t, np.float32) * 1.6


@dataclass
class Patient:
    """One patient's build: the same draws for every slice, in the order in which they are asked for."""

    seed: tuple[int, ...]
    z: float = 0.0  # slice position, -1 to 1

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.size = self.between(0.9, 1.08)
        self.shift_x, self.shift_y = self.between(-0.05, 0.05), self.between(-0.05, 0.05)
        self.slice_rng = np.random.default_rng((*self.seed, int(1000 * (self.z + 2))))

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def near(self, value: float, spread: float = 0.06) -> float:
        """`value` give or take `spread` of it."""
        return value * self.between(1 - spread, 1 + spread)

    def texture(self, cells: int) -> Canvas:
        """Texture of this slice alone."""
        return texture(self.slice_rng, cells)


def move(picture: Any, patient: Patient) -> Canvas:
    """Shift a finished picture by whole pixels, as patients are never quite centred."""
    down, right = round(patient.shift_y * SIZE / 2), round(patient.shift_x * SIZE / 2)
    return np.asarray(np.roll(picture, (down, right), (0, 1)), np.float32)

"""Where in two pictures their likeness lies: by covering parts of one, and looking what is left of it.

Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, with the cosine of two
FC1 in place of a class's score. It asks the engine that describes queries, and so is about what was ranked.
NumPy alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PATCH, STRIDE = 48, 16  # pixels of the 256 of a rendition; see benchmarks/attribution.py

# Renditions (N, 256, 256), and the one that all are changes of (256, 256) -> FC1 (N, 4096).
Describe = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Likeness:
    """How alike two pictures are, and what of each makes them so."""

    similarity: float  # cosine of both FC1
    first: NDArray[np.float32]  # (256, 256), 0 to 1: share of the similarity lost by covering around here
    second: NDArray[np.float32]  # likewise


def likeness(describe: Describe, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Likeness:
    """Of two renditions, uint8 (256, 256)."""
    fc1 = np.concatenate([describe(one[np.newaxis], one) for one in (first, second)])
    return Likeness(
        similarity=float(cosines(fc1[:1], fc1[1])[0]),
        first=what_matters(describe, first, fc1[1]),
        second=what_matters(describe, second, fc1[0]),
    )


def what_matters(
    describe: Describe, rendition: NDArray[np.uint8], other: NDArray[np.float32], patch: int = PATCH
) -> NDArray[np.float32]:
    """float32 (256, 256): the mean loss of similarity to FC1 `other` (4096,) over all covers of a pixel.

    Relative to the similarity, and 0 where covering makes the pictures more alike.
    """
    size = len(rendition)
    corners = [
        (top, left)
        for top in range(0, size - patch + 1, STRIDE)
        for left in range(0, size - patch + 1, STRIDE)
    ]
    pictures = np.repeat(rendition[np.newaxis], len(corners) + 1, axis=0)
    for picture, (top, left) in zip(pictures[1:], corners, strict=True):
        picture[top : top + patch, left : left + patch] = round(float(rendition.mean()))
    similarity = cosines(describe(pictures, rendition), other)
    lost = (similarity[0] - similarity[1:]) / max(float(similarity[0]), 1e-6)
    total, covers = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    for (top, left), loss in zip(corners, lost, strict=True):
        total[top : top + patch, left : left + patch] += loss
        covers[top : top + patch, left : left + patch] += 1
    return np.clip(total / np.maximum(covers, 1), 0, 1)


def cosines(fc1: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (N,) of FC1 (N, 4096) and (4096,)."""
    lengths = np.linalg.norm(fc1, axis=1) * np.linalg.norm(other)
    return np.asarray(fc1 @ other / np.maximum(lengths, 1e-12), np.float32)

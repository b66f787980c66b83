"""A full-range autoregressive texture model, autocorrelograms, and a tree of two-class SVMs.

Seetharaman and Sathiamoorthy, "A unified learning framework for content based medical image retrieval using a
statistical model", Journal of King Saud University 2016.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import sobel
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ml.baselines.handcrafted import Watch

BLOCKS = 4  # a side, in each of which the model is fitted
REACH = 2  # pixels, of the neighbourhood that a pixel depends on
DISTANCES = (1, 3, 5, 7)  # pixels, of the autocorrelograms
GREY_LEVELS = 16
ORIENTATIONS = 18  # of edges; one more label is for pixels without an edge
EDGE = 40.0  # Sobel magnitude from which a pixel is one


def texture(renditions: NDArray[np.uint8], on_image: Watch = lambda done, total: None) -> NDArray[np.float32]:
    """float32 (N, 220), of images halved to 128x128 pixels, from uint8 (N, 256, 256)."""
    found = []
    for number, image in enumerate(renditions):
        grey = image.reshape(128, 2, 128, 2).mean((1, 3))
        across, down = sobel(grey, 1), sobel(grey, 0)
        angle = (np.arctan2(down, across) / np.pi % 1 * ORIENTATIONS).astype(np.intp) % ORIENTATIONS
        edges = np.where(np.hypot(across, down) / 4 > EDGE / 4, angle, ORIENTATIONS)
        found.append(
            np.concatenate(
                [
                    autocorrelogram((grey * GREY_LEVELS / 256).astype(np.intp), GREY_LEVELS),
                    autocorrelogram(edges, ORIENTATIONS + 1),
                    autoregression(grey / 255),
                ]
            )
        )
        on_image(number + 1, len(renditions))
    return np.array(found, np.float32)


def autocorrelogram(labels: NDArray[np.intp], levels: int) -> NDArray[np.float64]:
    """(len(DISTANCES) * levels,): how often a pixel of a level has the same level so far from it.

    Huang et al., CVPR 1997, along rows and columns.
    """
    shares = []
    for distance in DISTANCES:
        here = np.concatenate([labels[:, :-distance].ravel(), labels[:-distance].ravel()])
        there = np.concatenate([labels[:, distance:].ravel(), labels[distance:].ravel()])
        same = np.bincount(here[here == there], minlength=levels)
        shares.append(same / np.maximum(np.bincount(here, minlength=levels), 1))
    return np.concatenate(shares)


def autoregression(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """(BLOCKS * BLOCKS * 5,): of each block the coefficients by distance 1..4, and the noise left over.

    A pixel is a sum over its neighbours of K sin(r theta) cos(r phi) / alpha^r, r the city-block distance.
    K is solved for; alpha, theta and phi are the best of a grid. The block's mean is taken off first.
    """
    shapes = coefficient_shapes()  # (M, 2 * REACH), up to the factor K
    size = grey.shape[0] // BLOCKS
    found = []
    for row in range(BLOCKS):
        for column in range(BLOCKS):
            block = grey[row * size : (row + 1) * size, column * size : (column + 1) * size]
            pixel, rings = rings_around(block - block.mean())
            gram, projection = rings @ rings.T, rings @ pixel
            norms = np.einsum("mi,ij,mj->m", shapes, gram, shapes)
            along = shapes @ projection
            explained = np.where(norms > 1e-9, along**2 / np.maximum(norms, 1e-9), 0.0)
            best = int(explained.argmax())
            factor = along[best] / norms[best] if norms[best] > 1e-9 else 0.0
            noise = np.sqrt(max(pixel @ pixel - explained[best], 0.0) / len(pixel))
            found.append([*(factor * shapes[best]), noise])
    return np.array(found).ravel()


def rings_around(block: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The inner pixels (P,) and the sums of their neighbours by city-block distance (2 * REACH, P)."""
    height, width = (side - 2 * REACH for side in block.shape)
    rings = np.zeros((2 * REACH, height, width))
    for down in range(-REACH, REACH + 1):
        for across in range(-REACH, REACH + 1):
            if distance := abs(down) + abs(across):
                top, left = REACH + down, REACH + across
                rings[distance - 1] += block[top : top + height, left : left + width]
    return block[REACH:-REACH, REACH:-REACH].ravel(), rings.reshape(2 * REACH, -1)


def coefficient_shapes() -> NDArray[np.float64]:
    alpha, theta, phi = (
        values.ravel()
        for values in np.meshgrid(
            [1.1, 1.5, 2.0, 3.0, 4.0, 6.0], np.pi * np.arange(1, 24) / 24, np.pi * np.arange(12) / 24
        )
    )
    r = np.arange(1, 2 * REACH + 1)[:, None]
    shapes = np.sin(r * theta) * np.cos(r * phi) / alpha**r
    return np.asarray(shapes.T)


@dataclass
class BinaryTreeSVM:
    """Each node's SVM tells two groups of classes apart, grouped by 2-means of the classes' mean features."""

    seed: int = 0
    classes: list[int] = field(default_factory=list)
    svm: Any = None
    children: "list[BinaryTreeSVM]" = field(default_factory=list)

    def fit(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> "BinaryTreeSVM":
        self.classes = np.unique(labels).tolist()
        if len(self.classes) == 1:
            return self
        means = np.stack([features[labels == c].mean(0) for c in self.classes])
        side = KMeans(2, n_init=10, random_state=self.seed).fit_predict(StandardScaler().fit_transform(means))
        if side.min() == side.max():  # classes whose means are the same
            side = np.arange(len(side)) % 2
        side_of_image = side[np.searchsorted(self.classes, labels)]
        self.svm = make_pipeline(StandardScaler(), SVC(C=10.0)).fit(features, side_of_image)
        self.children = [
            BinaryTreeSVM(self.seed).fit(features[side_of_image == s], labels[side_of_image == s])
            for s in (0, 1)
        ]
        return self

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        labels = np.full(len(features), self.classes[0], np.int64)
        if self.svm is not None and len(features):
            side = self.svm.predict(features)
            for s, child in enumerate(self.children):
                labels[side == s] = child.predict(features[side == s])
        return labels

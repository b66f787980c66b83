"""Local binary patterns, histograms of oriented gradients, and the classifiers put on them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from skimage.feature import hog, local_binary_pattern
from sklearn.base import ClassifierMixin
from sklearn.ensemble import AdaBoostClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

PATTERNS = 59  # uniform patterns of 8 neighbours, and one for all others
Watch = Callable[[int, int], None]  # images done, images in all

CLASSIFIERS: dict[str, Callable[[], ClassifierMixin]] = {
    "SVM": lambda: make_pipeline(StandardScaler(), SVC(C=10.0)),
    "neural network": lambda: make_pipeline(
        StandardScaler(), MLPClassifier(hidden_layer_sizes=(100,), early_stopping=True, random_state=0)
    ),
    "decision tree": lambda: DecisionTreeClassifier(random_state=0),
    "AdaBoost": lambda: AdaBoostClassifier(random_state=0),
}


def local_binary_patterns(
    renditions: NDArray[np.uint8], cells: int = 4, on_image: Watch = lambda done, total: None
) -> NDArray[np.float32]:
    """float32 (N, cells * cells * 59): a histogram of the uniform patterns of each cell.

    renditions: uint8 (N, 256, 256).
    Ojala, Pietikäinen and Mäenpää, PAMI 2002; in cells after Ahonen, Hadid and Pietikäinen, PAMI 2006.
    """
    size = renditions.shape[-1] // cells
    found = np.empty((len(renditions), cells * cells * PATTERNS), np.float32)
    for number, image in enumerate(renditions):
        patterns = local_binary_pattern(image, P=8, R=1, method="nri_uniform").astype(np.intp)
        cell = (np.arange(image.shape[0]) // size)[:, None] * cells + np.arange(image.shape[1]) // size
        counts = np.bincount((cell * PATTERNS + patterns).ravel(), minlength=found.shape[1])
        found[number] = counts / size**2
        on_image(number + 1, len(renditions))
    return found


def oriented_gradients(
    renditions: NDArray[np.uint8], on_image: Watch = lambda done, total: None
) -> NDArray[np.float32]:
    """float32 (N, 8100), of images halved to 128x128 pixels, from uint8 (N, 256, 256).

    Dalal and Triggs, CVPR 2005: 9 orientations, cells of 8x8 pixels, blocks of 2x2 cells.
    """
    found = np.empty((len(renditions), 8100), np.float32)
    for number, image in enumerate(renditions):
        halved = image.reshape(128, 2, 128, 2).mean((1, 3))
        found[number] = hog(halved, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2))
        on_image(number + 1, len(renditions))
    return found

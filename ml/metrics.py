"""How good a classification and a ranking are. NumPy alone.

A ranking is given by its relevance: bool (Q, N), entry (q, k) tells whether the image that query q has at
rank k + 1 is relevant. Where a query has fewer than N images ranked, its row ends in False.
"""

import numpy as np
from numpy.typing import NDArray

Relevance = NDArray[np.bool_]


def confusion_matrix(truth: NDArray[np.intp], predicted: NDArray[np.intp], classes: int) -> NDArray[np.int64]:
    """int64 (classes, classes): how many images of the row's class were seen as the column's."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def macro_scores(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Precision, recall and F1, 0..1, each the plain mean over the classes that have images.

    A class that is never predicted has a precision of 0.
    """
    has_images = confusion.sum(1) > 0
    right = np.diag(confusion).astype(float)
    recall = right / np.maximum(confusion.sum(1), 1)
    precision = right / np.maximum(confusion.sum(0), 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    scores = {"precision": precision, "recall": recall, "f1": f1}
    return {name: float(values[has_images].mean()) for name, values in scores.items()}


def precision_at(relevance: Relevance, k: int) -> NDArray[np.float64]:
    """float64 (Q,), 0..1: the share of relevant images among the first k. Missing images count as wrong."""
    found = relevance[:, :k].sum(1) / k
    return np.asarray(found, np.float64)


def average_precision(
    relevance: Relevance, relevant: NDArray[np.int64], k: int | None = None
) -> NDArray[np.float64]:
    """float64 (Q,), 0..1: precision at the rank of each relevant image, averaged over all relevant ones.

    relevant (Q,): how many relevant images the collection has for each query, ranked or not; a query that
    has none gets NaN. With `k` the ranking ends there, and the mean is over min(k, relevant) images.
    """
    ranked = relevance[:, :k]
    precision = np.cumsum(ranked, 1) / np.arange(1, ranked.shape[1] + 1)
    possible = np.minimum(relevant, k) if k else relevant
    with np.errstate(invalid="ignore"):
        return np.asarray((precision * ranked).sum(1) / np.where(possible > 0, possible, np.nan), np.float64)


def mean(values: NDArray[np.float64]) -> float | None:
    """The mean of what is not NaN; None when nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def mean_over_classes(values: NDArray[np.float64], classes: NDArray[np.intp]) -> float | None:
    """The mean of the classes' means, so that every class counts alike."""
    means = [mean(values[classes == value]) for value in np.unique(classes)]
    return mean(np.array([m for m in means if m is not None], np.float64))

"""How good a classification and a ranking are. NumPy alone.

A ranking is given by its relevance: bool (Q, N), entry (q, k) tells whether the image that query q has at
rank k + 1 is relevant. Where a query has fewer than N images ranked, its row ends in False.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Relevance = NDArray[np.bool_]


def confusion_matrix(truth: NDArray[np.intp], predicted: NDArray[np.intp], classes: int) -> NDArray[np.int64]:
    """int64 (classes, classes): how many images of the row's class were seen as the column's."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def macro_scores(confusion: NDArray[np.int64] | NDArray[np.float64]) -> dict[str, float]:
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


def recall_at(relevance: Relevance, relevant: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """float64 (Q,), 0..1: the share of all relevant images that is among the first k; NaN without any."""
    found = relevance[:, :k].sum(1) / np.where(relevant > 0, relevant, np.nan)
    return np.asarray(found, np.float64)


def interpolated_precision(
    relevance: Relevance, relevant: NDArray[np.int64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """float64 (Q, L), 0..1: the highest precision at any rank where recall is at least the level (0..1).

    As TREC defines it. 0 where the ranking never reaches that recall; NaN where nothing is relevant.
    """
    curves = np.full((len(relevance), len(levels)), np.nan)
    for curve, row, number in zip(curves, relevance, relevant, strict=True):
        if number == 0:
            continue
        ranks = np.flatnonzero(row) + 1  # of the relevant images: precision is highest there
        precision = np.arange(1, len(ranks) + 1) / ranks
        highest = np.zeros(number)
        highest[: len(ranks)] = np.maximum.accumulate(precision[::-1])[::-1]
        needed = np.ceil(levels * number - 1e-9).astype(int)  # so many relevant images make that recall
        curve[:] = highest[np.maximum(needed, 1) - 1]
    return curves


def weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (M,): the mean of each column of `values` (Q, M)."""
    return np.asarray(weights @ values / weights.sum(), np.float64)


def weighted_mean_over_classes(
    values: NDArray[np.float64], weights: NDArray[np.float64], classes: NDArray[np.intp]
) -> NDArray[np.float64]:
    """float64 (M,): the mean of the classes' means, so that every class with any weight counts alike."""
    present = np.bincount(classes, weights) > 0
    totals = np.bincount(classes, weights)[present]
    sums = [np.bincount(classes, weights * column)[present] for column in values.T]
    return np.array([(column / totals).mean() for column in sums], np.float64)


def bootstrap_intervals(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    groups: NDArray[np.str_] | NDArray[np.intp],
    resamples: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """float64 (M, 2): 95 % percentile intervals of the M figures that `statistic` makes of weights (Q,).

    Whole groups are drawn with replacement, as many as there are: what one patient or volume shows is drawn
    together or not at all. A query's weight is how often its group was drawn. NaN with fewer than two groups,
    which cannot tell how far figures vary.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return np.full((len(statistic(np.ones(len(groups)))), 2), np.nan)
    rng = np.random.default_rng(seed)
    figures = []
    for _ in range(resamples):
        times_drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        figures.append(statistic(times_drawn.astype(float)[group_of]))
    return np.percentile(figures, [2.5, 97.5], axis=0).T

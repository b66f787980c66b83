"""Measures against small cases worked out by hand, and what must always hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.metrics import (
    average_precision,
    confusion_matrix,
    macro_scores,
    precision_at,
    weighted_mean,
    weighted_mean_over_classes,
)

RANKING = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
RELEVANT = np.array([3, 1, 0])


def test_average_precision_by_hand() -> None:
    # Ranks 1 and 3 of three relevant ones, the third not ranked; rank 4 of one; none at all.
    expected = [(1 / 1 + 2 / 3) / 3, 1 / 4, np.nan]
    assert average_precision(RANKING, RELEVANT) == pytest.approx(expected, nan_ok=True)


def test_average_precision_at_k_by_hand() -> None:
    assert average_precision(RANKING, RELEVANT, 2) == pytest.approx([1 / 2, 0, np.nan], nan_ok=True)


def test_precision_counts_missing_images_as_wrong() -> None:
    assert precision_at(RANKING, 3).tolist() == pytest.approx([2 / 3, 0, 0])
    assert precision_at(RANKING, 10).tolist() == pytest.approx([0.2, 0.1, 0])


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 5))
def test_average_precision_is_one_exactly_for_a_perfect_ranking(row: list[bool], unranked: int) -> None:
    ranking = np.array([row])
    relevant = np.array([sum(row) + unranked])
    (value,) = average_precision(ranking, relevant)
    if relevant[0] == 0:
        assert np.isnan(value)
        return
    assert 0 <= value <= 1
    is_perfect = unranked == 0 and all(row[: sum(row)])
    assert (value == pytest.approx(1)) == is_perfect


def test_confusion_and_macro_scores_by_hand() -> None:
    confusion = confusion_matrix(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 3)
    assert confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    scores = macro_scores(confusion)
    assert scores == pytest.approx(
        {"precision": (1 + 1 / 2) / 2, "recall": (2 / 3 + 1) / 2, "f1": (4 / 5 + 2 / 3) / 2}
    )


def test_mean_over_classes_counts_every_class_alike() -> None:
    values, classes = np.array([[1.0], [1], [1], [0], [7]]), np.array([0, 0, 0, 1, 2])
    weights = np.array([1.0, 1, 1, 1, 0])  # class 2 is not there
    assert weighted_mean(values, weights).tolist() == [0.75]
    assert weighted_mean_over_classes(values, weights, classes).tolist() == [0.5]
    assert weighted_mean(values, 2 * weights).tolist() == [0.75]

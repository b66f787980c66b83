"""Measures against small cases worked out by hand, against trec_eval, and what must always hold."""

from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, IPrec, P, R

from ml.metrics import (
    average_precision,
    bootstrap_intervals,
    confusion_matrix,
    interpolated_precision,
    macro_scores,
    precision_at,
    recall_at,
    weighted_mean,
    weighted_mean_over_classes,
)

RANKING = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
RELEVANT = np.array([3, 1, 0])
RECALLS = np.linspace(0, 1, 11)


def test_average_precision_by_hand() -> None:
    # Ranks 1 and 3 of three relevant ones, the third not ranked; rank 4 of one; none at all.
    expected = [(1 / 1 + 2 / 3) / 3, 1 / 4, np.nan]
    assert average_precision(RANKING, RELEVANT) == pytest.approx(expected, nan_ok=True)


def test_average_precision_at_k_by_hand() -> None:
    assert average_precision(RANKING, RELEVANT, 2) == pytest.approx([1 / 2, 0, np.nan], nan_ok=True)


def test_precision_counts_missing_images_as_wrong() -> None:
    assert precision_at(RANKING, 3).tolist() == pytest.approx([2 / 3, 0, 0])
    assert precision_at(RANKING, 10).tolist() == pytest.approx([0.2, 0.1, 0])


def test_recall_by_hand() -> None:
    assert recall_at(RANKING, RELEVANT, 2) == pytest.approx([1 / 3, 0, np.nan], nan_ok=True)
    assert recall_at(RANKING, RELEVANT, 10) == pytest.approx([2 / 3, 1, np.nan], nan_ok=True)


def test_interpolated_precision_by_hand() -> None:
    # The first ranking reaches a recall of 1/3 with precision 1, 2/3 with 2/3, and 1 never.
    curves = interpolated_precision(RANKING, RELEVANT, RECALLS)
    assert curves[0] == pytest.approx([1, 1, 1, 1, 2 / 3, 2 / 3, 2 / 3, 0, 0, 0, 0])
    assert curves[1] == pytest.approx([1 / 4] * 11)
    assert np.isnan(curves[2]).all()


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40),
    st.integers(0, 5),
    st.integers(1, 50),
)
def test_measures_are_those_of_trec_eval(images: list[tuple[int, bool]], unranked: int, k: int) -> None:
    """trec_eval orders equal scores by descending name, so names that descend give the collection's order."""
    distance, is_relevant = (np.array(column) for column in zip(*images, strict=True))
    relevant = np.array([is_relevant.sum() + unranked])
    if relevant[0] == 0:
        return
    names = [f"{len(images) - position:03}" for position in range(len(images))]
    judged = dict(zip(names, is_relevant.astype(int).tolist(), strict=True))
    judged |= {f"unranked {number}": 1 for number in range(unranked)}
    run = dict(zip(names, (-distance).tolist(), strict=True))
    levels = [IPrec @ float(level) for level in RECALLS.round(1)]
    measures = [AP, AP @ k, P @ k, R @ k, *levels]
    expected = ir_measures.calc_aggregate(measures, {"query": judged}, {"query": run})

    ranking = is_relevant[np.argsort(distance, kind="stable")][None]
    assert average_precision(ranking, relevant)[0] == pytest.approx(expected[AP])
    # trec_eval divides by all relevant images even where k leaves no room for them.
    divided_by_all = average_precision(ranking, relevant, k)[0] * min(k, relevant[0]) / relevant[0]
    assert divided_by_all == pytest.approx(expected[AP @ k])
    assert precision_at(ranking, k)[0] == pytest.approx(expected[P @ k])
    assert recall_at(ranking, relevant, k)[0] == pytest.approx(expected[R @ k])
    # It looks up recall 0.7 of 3 images at int(0.7 * 3 + 0.9) = 2 of them, by a rounding error.
    exact = [-(-tenth * relevant[0] // 10) == int(tenth / 10 * relevant[0] + 0.9) for tenth in range(11)]
    curve = interpolated_precision(ranking, relevant, RECALLS)[0]
    assert curve[exact] == pytest.approx(np.array([expected[level] for level in levels])[exact])


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 5))
def test_interpolated_precision_never_rises_and_covers_average_precision(
    row: list[bool], unranked: int
) -> None:
    ranking, relevant = np.array([row]), np.array([max(1, sum(row) + unranked)])
    every_recall = np.arange(1, relevant[0] + 1) / relevant[0]
    (curve,) = interpolated_precision(ranking, relevant, every_recall)
    assert (np.diff(curve) <= 0).all()
    assert curve.mean() >= average_precision(ranking, relevant)[0] - 1e-12


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


def mean_of(values: np.ndarray) -> Any:
    return lambda weights: weighted_mean(values[:, None], weights)


def test_intervals_are_those_of_the_normal_distribution_for_many_queries() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    ((low, high),) = bootstrap_intervals(mean_of(values), np.arange(400), 4000)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_images_of_one_group_tell_no_more_than_one_of_them() -> None:
    values = np.random.default_rng(0).random(30)
    alone = bootstrap_intervals(mean_of(values), np.arange(30))
    in_tens = bootstrap_intervals(mean_of(values.repeat(10)), np.arange(30).repeat(10))
    as_if_apart = bootstrap_intervals(mean_of(values.repeat(10)), np.arange(300))
    assert in_tens == pytest.approx(alone)
    assert np.diff(as_if_apart) < np.diff(alone) / 2


def test_one_group_has_no_interval() -> None:
    assert np.isnan(bootstrap_intervals(mean_of(np.array([0.1, 0.9])), np.array(["a", "a"]))).all()

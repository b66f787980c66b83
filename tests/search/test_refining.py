"""Queries made of queries: Rocchio's formula, several images as one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.refining import IRRELEVANT, RELEVANT, probabilities_after, refined, together


def fc1_of(number: int, seed: int) -> np.ndarray:
    """float32 (number, 4096), as after a ReLU."""
    return np.maximum(np.random.default_rng(seed).normal(size=(number, 4096)), 0).astype(np.float32)


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 1000))
def test_refinement_is_rocchios(relevant: int, irrelevant: int, seed: int) -> None:
    query, marked, other = fc1_of(1, seed)[0], fc1_of(relevant, seed + 1), fc1_of(irrelevant, seed + 2)
    moved = [
        float(value)
        + (RELEVANT * float(marked[:, unit].mean()) if relevant else 0)
        - (IRRELEVANT * float(other[:, unit].mean()) if irrelevant else 0)
        for unit, value in enumerate(query)
    ]
    expected = np.maximum(moved, 0)
    expected *= np.linalg.norm(query) / np.linalg.norm(expected)
    found = refined(query, marked, other)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-4)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(query), rel=1e-4)
    assert found.min() >= 0


def test_refinement_moves_to_what_is_relevant_and_away_from_what_is_not() -> None:
    query, liked, disliked = fc1_of(3, 5)
    found = refined(query, liked[np.newaxis], disliked[np.newaxis])
    assert np.linalg.norm(found - liked) < np.linalg.norm(query - liked)
    assert found @ disliked < query @ disliked


def test_without_marks_a_query_stays() -> None:
    query = fc1_of(1, 6)[0]
    assert np.allclose(refined(query, fc1_of(0, 0), fc1_of(0, 0)), query, atol=1e-6)


def test_a_query_of_nothing_but_what_is_irrelevant_stays_finite() -> None:
    query = fc1_of(1, 7)[0]
    found = refined(query, fc1_of(0, 0), 10 * query[np.newaxis])
    assert np.array_equal(found, np.zeros(4096))


def test_several_images_are_their_mean_in_their_usual_length() -> None:
    fc1 = fc1_of(3, 8) * np.array([[1], [2], [6]], np.float32)
    found = together(fc1)
    mean = fc1.mean(0)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(fc1, axis=1).mean(), rel=1e-5)
    assert found @ mean == pytest.approx(np.linalg.norm(found) * np.linalg.norm(mean), rel=1e-5)
    assert np.allclose(together(fc1[:1]), fc1[0], atol=1e-5)
    assert np.allclose(together(np.repeat(fc1[:1], 4, 0)), fc1[0], atol=1e-5)


def test_organs_called_relevant_count_as_much_as_the_network() -> None:
    seen = {"brain": 0.8, "chest": 0.2}
    assert probabilities_after(seen, [], []) == seen
    found = probabilities_after(seen, ["chest", "chest", "knee"], [])
    assert found == pytest.approx({"brain": 0.2, "chest": 0.55, "knee": 0.25})


def test_organs_called_irrelevant_lose_what_the_network_saw() -> None:
    seen = {"brain": 0.8, "chest": 0.2}
    found = probabilities_after(seen, [], ["brain"] * 3)
    assert found == pytest.approx({"brain": 0.5, "chest": 0.5})
    assert probabilities_after(seen, ["brain"], ["brain"])["brain"] == pytest.approx(1.4 / 1.6)

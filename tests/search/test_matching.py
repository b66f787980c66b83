"""A distance in words and percentiles."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.matching import match_of, percentile
from search.models import VersionIndex

distances = st.floats(0, 1000, width=32)


def index_of(same: list[float], other: list[float]) -> VersionIndex:
    return VersionIndex(same_organ=same, other_organ=other)


@given(st.lists(distances, min_size=1, max_size=60), distances)
def test_a_percentile_is_the_share_below(sample: list[float], value: float) -> None:
    """To within one per cent of the sample, or one of its values."""
    percentiles = [float(p) for p in np.percentile(sample, range(101))]
    place = percentile(value, percentiles)
    below, not_above = (100 * np.mean(np.array(sample) < value), 100 * np.mean(np.array(sample) <= value))
    slack = 1 + 100 / len(sample)
    assert 0 <= place <= 100
    assert below - slack <= place <= not_above + slack


@given(st.lists(distances, min_size=101, max_size=101).map(sorted), distances, distances)
def test_percentiles_never_fall_with_the_value(percentiles: list[float], one: float, other: float) -> None:
    low, high = sorted([one, other])
    assert percentile(low, percentiles) <= percentile(high, percentiles)


def test_percentiles_lie_between_those_that_are_known() -> None:
    percentiles = [float(2 * p) for p in range(101)]
    assert [percentile(value, percentiles) for value in (-1, 0, 1, 2, 199, 200, 300)] == [
        0,
        0,
        0.5,
        1,
        99.5,
        100,
        100,
    ]
    assert percentile(5.0, [5.0] * 101) == 100.0


@given(st.lists(distances, min_size=2, max_size=40))
def test_what_is_farther_never_matches_better(asked: list[float]) -> None:
    same, other = [float(p) for p in range(101)], [float(20 + p) for p in range(101)]
    found = [match_of(distance, index_of(same, other)) for distance in sorted(asked)]
    words = ["strong", "good", "fair", "weak"]
    for nearer, farther in pairwise(found):
        assert nearer is not None
        assert farther is not None
        assert nearer.nearer_than_same >= farther.nearer_than_same
        assert nearer.other_as_near <= farther.other_as_near
        assert words.index(nearer.word) <= words.index(farther.word)


@pytest.mark.parametrize(
    ("distance", "nearer_than_same", "other_as_near", "word"),
    [
        (0, 100, 0, "strong"),
        (50, 50, 0, "strong"),
        (52, 48, 0, "good"),
        (61, 39, 1, "good"),
        (63, 37, 3, "fair"),
        (65, 35, 5, "fair"),
        (66, 34, 6, "weak"),
        (500, 0, 100, "weak"),
    ],
)
def test_a_match_has_a_word(distance: float, nearer_than_same: int, other_as_near: float, word: str) -> None:
    """Two images of one organ are 0 to 100 apart, of two organs 60 to 160."""
    found = match_of(distance, index_of([float(p) for p in range(101)], [float(60 + p) for p in range(101)]))
    assert found is not None
    assert (found.nearer_than_same, found.other_as_near, found.word) == (
        nearer_than_same,
        other_as_near,
        word,
    )


def test_nothing_is_said_before_the_index_is_fitted() -> None:
    known = [float(p) for p in range(101)]
    assert match_of(1.0, VersionIndex()) is None
    assert match_of(1.0, index_of(known, [])) is None
    assert match_of(1.0, index_of([], known)) is None

"""The protocol on small cases worked out by hand."""

import numpy as np
import pytest

from ml.protocol import Described, measure_retrieval, nearest_first


def described(
    features: list[float], organ: list[int], group: list[str], seen: list[int] | None = None
) -> Described:
    """Images described by one number; all of one modality."""
    number = len(features)
    return Described(
        features=np.array(features, np.float32)[:, None],
        organ=np.array(organ, np.intp),
        modality=np.zeros(number, np.intp),
        group=np.array(group),
        seen_organ=np.array(organ if seen is None else seen, np.intp),
        seen_modality=np.zeros(number, np.intp),
    )


def test_own_group_is_not_ranked() -> None:
    collection = described([0.0, 1.0, 2.0], [0, 1, 0], ["own", "b", "c"])
    found = measure_retrieval(described([0.1], [0], ["own"]), collection)
    assert found["all"]["organ"]["precision_at_1"] == 0.0
    assert found["all"]["organ"]["map"] == 0.5


def test_a_wrong_prediction_makes_the_predicted_scope_all_wrong() -> None:
    collection = described([0.0, 1.0, 2.0], [0, 1, 0], ["a", "b", "c"])
    found = measure_retrieval(described([0.1], [0], ["q"], seen=[1]), collection)
    assert found["all"]["organ"]["map"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["predicted"]["organ"]["map"] == 0.0


def test_a_right_prediction_makes_the_predicted_scope_all_right() -> None:
    collection = described([0.0, 1.0, 2.0], [0, 1, 0], ["a", "b", "c"])
    found = measure_retrieval(described([0.1], [0], ["q"]), collection)
    assert found["predicted"]["organ"]["map"] == 1.0


def test_a_query_with_nothing_relevant_is_left_out() -> None:
    collection = described([0.0, 1.0], [0, 1], ["a", "b"])
    found = measure_retrieval(described([0.1, 5.0], [0, 2], ["q", "r"]), collection)
    assert (found["all"]["organ"]["map"], found["all"]["organ"]["queries"]) == (1.0, 1)


def test_ranking_is_that_of_a_plain_sort() -> None:
    rng = np.random.default_rng(0)
    queries, collection = rng.random((5, 16), np.float32), rng.random((40, 16), np.float32)
    distances = np.linalg.norm(queries[:, None] - collection[None], axis=2)
    ((part, order),) = nearest_first(queries, collection)
    assert part == slice(0, 5)
    assert (order == distances.argsort(axis=1)).all()

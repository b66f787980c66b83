"""The protocol: small cases worked out by hand, trec_eval on whole evaluations, ties, intervals."""

import json

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, IPrec, P, R

from ml import protocol
from ml.protocol import (
    Described,
    measure_classification,
    measure_retrieval,
    nearest_first,
    paired_difference,
    per_query,
)

HAND_MADE = [0.0, 1.0, 2.0], [0, 1, 0]  # features and organs of three images


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


def random_images(number: int, seed: int) -> Described:
    """Images in groups, with many equal distances; 3 organs, often predicted; 2 modalities, not all known."""
    rng = np.random.default_rng(seed)
    organ = rng.integers(0, 3, number)
    return Described(
        features=rng.integers(0, 3, (number, 3)).astype(np.float32),
        organ=organ,
        modality=rng.integers(-1, 2, number),
        group=rng.integers(0, number // 2, number).astype(str),
        seen_organ=np.where(rng.random(number) < 0.7, organ, rng.integers(0, 3, number)),
        seen_modality=rng.integers(0, 2, number),
    )


def test_own_group_is_not_ranked() -> None:
    found = measure_retrieval(described([0.1], [0], ["own"]), described(*HAND_MADE, ["own", "b", "c"]))
    assert found["all"]["organ"]["precision_at_1"] == 0.0
    assert found["all"]["organ"]["map"] == 0.5


def test_a_wrong_prediction_makes_the_predicted_scope_all_wrong() -> None:
    found = measure_retrieval(described([0.1], [0], ["q"], seen=[1]), described(*HAND_MADE, ["a", "b", "c"]))
    assert found["all"]["organ"]["map"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["predicted"]["organ"]["map"] == 0.0


def test_a_right_prediction_makes_the_predicted_scope_all_right() -> None:
    found = measure_retrieval(described([0.1], [0], ["q"]), described(*HAND_MADE, ["a", "b", "c"]))
    assert found["predicted"]["organ"]["map"] == 1.0


def test_a_method_that_predicts_nothing_has_one_scope() -> None:
    queries = described([0.1], [0], ["q"], seen=[-1])
    assert list(measure_retrieval(queries, described(*HAND_MADE, ["a", "b", "c"]))) == ["all"]
    with pytest.raises(ValueError, match="predicted for every query"):
        measure_classification(queries, ["brain"])


def test_a_query_with_nothing_relevant_is_left_out() -> None:
    queries = described([0.1, 5.0], [0, 2], ["q", "r"])
    found = measure_retrieval(queries, described([0.0, 1.0], [0, 1], ["a", "b"]))["all"]["organ"]
    assert (found["map"], found["queries"]) == (1.0, 1)
    assert found["intervals"]["map"] is None  # one group is left


def test_nothing_relevant_at_all_is_told_by_none() -> None:
    queries = described([0.1], [2], ["q"])
    found = measure_retrieval(queries, described([0.0, 1.0], [0, 1], ["a", "b"]))["all"]["organ"]
    assert (found["queries"], found["map"], found["curve"], found["intervals"]["map"]) == (
        0,
        None,
        None,
        None,
    )


def test_a_search_needs_queries_and_a_collection() -> None:
    with pytest.raises(ValueError, match="an image to search among"):
        per_query(described([0.1], [2], ["q"]), described([], [], []))


def test_features_have_to_be_numbers() -> None:
    with pytest.raises(ValueError, match="finite"):
        per_query(described([0.1], [0], ["q"]), described([0.0, np.nan], [0, 1], ["a", "b"]))


def test_macro_counts_every_organ_alike() -> None:
    queries = described([0.0, 0.0, 0.0, 0.4], [0, 0, 0, 1], ["q", "r", "s", "t"])
    found = measure_retrieval(queries, described([0.0, 1.0], [0, 1], ["a", "b"]))["all"]["organ"]
    assert (found["precision_at_1"], found["precision_at_1_macro"]) == (0.75, 0.5)
    assert (found["map"], found["map_macro"]) == (0.875, 0.75)


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_trec_eval(seed: int) -> None:
    queries, collection = random_images(20, seed), random_images(60, seed + 100)
    found = measure_retrieval(queries, collection, intervals=10)
    squared = ((queries.features[:, None] - collection.features) ** 2).sum(2)
    counts = queries.group[:, None] != collection.group
    same_organ = counts & (queries.organ[:, None] == collection.organ)
    known = queries.modality[:, None] >= 0
    same_both = same_organ & known & (queries.modality[:, None] == collection.modality)
    within = counts & (queries.seen_organ[:, None] == collection.organ)
    levels = [IPrec @ (tenth / 10) for tenth in range(11)]
    names = {"map": AP, "precision_at_1": P @ 1, "precision_at_10": P @ 10, "recall_at_10": R @ 10}
    for scope, ranked in (("all", counts), ("predicted", within)):
        for relevance, relevant in (("organ", same_organ), ("organ_and_modality", same_both)):
            judged = [
                ir_measures.Qrel(str(q), f"{100 - k:03}", 1) for q, k in zip(*relevant.nonzero(), strict=True)
            ]
            run = [
                ir_measures.ScoredDoc(str(q), f"{100 - k:03}", -float(squared[q, k]))
                for q, k in zip(*ranked.nonzero(), strict=True)
            ]
            expected = ir_measures.calc_aggregate([*names.values(), *levels], judged, run)
            figures = found[scope][relevance]
            assert figures["queries"] == relevant.any(1).sum()
            assert [figures[name] for name in names] == pytest.approx([expected[m] for m in names.values()])
            # Where trec_eval makes no rounding error; test_metrics.py has the other recalls.
            assert figures["curve_11"][::5] == pytest.approx([expected[level] for level in levels[::5]])


def test_ranking_is_that_of_a_plain_sort() -> None:
    rng = np.random.default_rng(0)
    queries, collection = rng.random((5, 16), np.float32), rng.random((40, 16), np.float32)
    distances = np.linalg.norm(queries[:, None] - collection[None], axis=2)
    ((part, order),) = nearest_first(queries, collection)
    assert part == slice(0, 5)
    assert (order == distances.argsort(axis=1)).all()


def test_small_distances_far_from_the_origin_are_told_apart() -> None:
    collection = np.array([[1000.03], [1000.02], [1000.01]], np.float32)
    ((_, order),) = nearest_first(np.array([[1000.0]], np.float32), collection)
    assert order.tolist() == [[2, 1, 0]]


def test_equal_images_are_in_the_collections_order() -> None:
    """Though a matrix product does not round alike in all its columns."""
    rng = np.random.default_rng(0)
    queries, image = rng.random((64, 500), np.float32), rng.random(500, np.float32)
    ((_, order),) = nearest_first(queries, np.tile(image, (427, 1)))
    assert (order == np.arange(427)).all()


def test_the_size_of_the_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, collection = random_images(20, 1), random_images(61, 2)
    whole, steps = measure_retrieval(queries, collection), []
    monkeypatch.setattr(protocol, "CELLS", 7 * 61)
    monkeypatch.setattr(protocol, "BLOCK", 8)
    in_parts = measure_retrieval(queries, collection, on_progress=lambda *step: steps.append(step))
    assert in_parts == whole
    assert steps == [(7, 20), (14, 20), (20, 20)]


def test_the_result_can_be_written_as_json_and_is_the_same_every_time() -> None:
    queries, collection = random_images(20, 1), random_images(60, 2)
    found = measure_retrieval(queries, collection)
    assert json.loads(json.dumps(found)) == found == measure_retrieval(queries, collection)
    figures = found["predicted"]["organ_and_modality"]
    assert set(figures) - {"queries", "intervals", "curve", "curve_11"} == set(figures["intervals"])
    assert all(low <= figures[name] <= high for name, (low, high) in figures["intervals"].items())
    assert len(figures["curve"]["recall"]) == len(figures["curve"]["precision"]) == 101
    assert figures["curve"]["precision"][::10] == figures["curve_11"]


def test_per_query_results_average_to_the_figures() -> None:
    queries, collection = random_images(20, 1), random_images(60, 2)
    values = per_query(queries, collection)["all"]["organ_and_modality"]
    figures = measure_retrieval(queries, collection)["all"]["organ_and_modality"]
    assert np.isnan(values["map"]).tolist() == np.isnan(values["precision_at_5"]).tolist()
    assert np.nanmean(values["map"]) == pytest.approx(figures["map"])
    assert np.isnan(values["map"][queries.modality < 0]).all()


def test_classification_by_hand() -> None:
    queries = described([0.0] * 4, [0, 0, 0, 1], ["a", "a", "b", "c"], seen=[0, 0, 1, 1])
    found = measure_classification(queries, ["brain", "chest", "liver"])
    assert found["confusion"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert (found["organ_accuracy"], found["modality_accuracy"]) == (0.75, 1.0)
    assert found["organ_macro"]["recall"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["intervals"]["organ_accuracy"] == [0.0, 1.0]  # the draws b, b, b and a, a, a among them
    assert found["intervals"]["modality_accuracy"] == [1.0, 1.0]
    assert json.loads(json.dumps(found)) == found


def test_a_method_that_names_no_modality_has_no_accuracy_there() -> None:
    queries = described([0.0], [0], ["a"])
    nameless = Described(**{**vars(queries), "seen_modality": np.array([-1])})
    found = measure_classification(nameless, ["brain"])
    assert (found["modality_accuracy"], found["intervals"]["modality_accuracy"]) == (None, None)


def test_a_paired_difference_is_over_queries_that_both_measure() -> None:
    a, b = np.array([0.5, 0.75, np.nan, 0.25]), np.array([0.25, 0.5, 1.0, np.nan])
    assert paired_difference(a, b, np.array(["a", "b", "c", "d"])) == (0.25, 0.25, 0.25)
    assert paired_difference(a, b, np.array(["a", "a", "c", "d"])) == (0.25, None, None)
    assert paired_difference(a[2:], b[2:], np.array(["a", "b"])) == (None, None, None)


def test_a_small_steady_difference_is_told_from_none() -> None:
    rng = np.random.default_rng(0)
    b = rng.random(200)
    difference, low, high = paired_difference(b + rng.normal(0.02, 0.01, 200), b, np.arange(200).astype(str))
    assert low is not None
    assert 0 < low < difference < high < 0.03

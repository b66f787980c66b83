"""Temperature, reliability, energy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ml.calibration import (
    Calibration,
    area_under_roc,
    energy,
    fit_calibration,
    fit_temperature,
    measure_calibration,
    nearest_distances,
    reliability,
    softmax,
    thresholds,
)


def overconfident(factor: float, number: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax would be right, times `factor`; labels drawn by that softmax."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (number, 5)).astype(np.float32)
    chosen = (softmax(logits).cumsum(1) < rng.random((number, 1))).sum(1).clip(0, 4)
    return logits * np.float32(factor), chosen.astype(np.int64)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_made_it_too_sure(factor: float) -> None:
    logits, labels = overconfident(factor)
    assert fit_temperature(logits, labels) == pytest.approx(factor, rel=0.05)


def test_calibration_mends_the_expected_calibration_error() -> None:
    logits, labels = overconfident(3.0)
    _, before = reliability(softmax(logits), labels)
    _, after = reliability(softmax(logits, fit_temperature(logits, labels)), labels)
    assert before > 0.15
    assert after < 0.01


def test_labels_that_are_not_known_do_not_count() -> None:
    logits, labels = overconfident(2.0, 500)
    some = labels.copy()
    some[250:] = -1
    assert fit_temperature(logits, some) == fit_temperature(logits[:250], labels[:250])
    assert fit_temperature(logits, np.full(500, -1)) == 1.0


def test_the_reliability_diagram_counts_every_image_once() -> None:
    probabilities = np.array([[0.9, 0.1], [0.95, 0.05], [0.5, 0.5], [0.0, 1.0]], np.float32)
    bins, error = reliability(probabilities, np.array([0, 1, 0, 1]), bins=10)
    assert [b.images for b in bins] == [0, 0, 0, 0, 1, 0, 0, 0, 1, 2]
    assert (bins[9].accuracy, bins[9].confidence) == (0.5, pytest.approx(0.975))
    assert (bins[0].accuracy, bins[0].confidence) == (None, None)
    assert error == pytest.approx(0.25 * 0.5 + 0.25 * 0.1 + 0.5 * 0.475)


def test_softmax_and_energy_agree_with_torch() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (6, 4)).astype(np.float32)
    assert np.allclose(softmax(logits, 2.0), F.softmax(torch.from_numpy(logits) / 2, 1), atol=1e-6)
    assert np.allclose(energy(logits), -torch.logsumexp(torch.from_numpy(logits), 1), rtol=1e-5)


@given(st.integers(1, 400), st.floats(-1, 1), st.integers(0, 10**6))
def test_both_thresholds_together_let_95_of_100_pass(number: int, correlation: float, seed: int) -> None:
    """However the two scores hang together, an image passes that exceeds neither."""
    energies, distances = np.random.default_rng(seed).normal(size=(2, number))
    distances = correlation * energies + np.sqrt(1 - correlation**2) * distances
    energy_threshold, distance_threshold = thresholds(energies, distances)
    assert energy_threshold is not None
    assert distance_threshold is not None
    passed = (energies <= energy_threshold) & (distances <= distance_threshold)
    assert 0.95 <= passed.mean() <= 0.95 + 3 / number
    # The same quantile of both: neither score alone decides.
    places = [(energies <= energy_threshold).mean(), (distances <= distance_threshold).mean()]
    assert abs(places[0] - places[1]) <= 1.5 / number


def test_equal_scores_pass_together() -> None:
    energies = np.repeat([1.0, 2.0], [97, 3])
    assert thresholds(energies, np.zeros(100)) == (1.0, 0.0)
    assert thresholds(np.ones(10), np.zeros(10)) == (1.0, 0.0)
    assert thresholds(np.array([3.0]), np.array([4.0])) == (3.0, 4.0)


def test_without_images_there_is_no_threshold() -> None:
    assert thresholds(np.array([]), np.array([])) == (None, None)
    assert thresholds(np.array([1.0]), np.array([])) == (None, None)


@pytest.mark.parametrize(
    ("energy_threshold", "distance_threshold", "energy", "distance", "expected"),
    [
        (-5.0, 10.0, -6.0, 9.0, False),
        (-5.0, 10.0, -5.0, 10.0, False),  # what the threshold was fitted on passes
        (-5.0, 10.0, -4.9, 9.0, True),
        (-5.0, 10.0, -6.0, 10.1, True),
        (-5.0, 10.0, -6.0, None, False),  # nothing in the collection to be near to
        (-5.0, None, -4.0, 1e9, True),
        (None, 10.0, 1e9, 9.0, False),
        (-5.0, None, None, 9.0, None),
        (None, None, -4.0, 9.0, None),
    ],
)
def test_an_image_is_unlike_by_either_score(
    energy_threshold: float | None,
    distance_threshold: float | None,
    energy: float | None,
    distance: float | None,
    expected: bool | None,
) -> None:
    fitted = Calibration(energy_threshold=energy_threshold, distance_threshold=distance_threshold)
    assert fitted.is_unlike(energy, distance) is expected


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20)
)
def test_area_under_roc_is_the_share_of_pairs_in_order(inside: list[int], outside: list[int]) -> None:
    pairs = [(o > i) + 0.5 * (o == i) for i in inside for o in outside]
    expected = sum(pairs) / len(pairs)
    assert area_under_roc(np.array(inside, float), np.array(outside, float)) == pytest.approx(expected)


def test_the_nearest_distance_is_the_least_of_all() -> None:
    rng = np.random.default_rng(0)
    fc1, others = rng.random((7, 30), np.float32), rng.random((9, 30), np.float32)
    expected = np.linalg.norm(fc1[:, None] - others[None], axis=2).min(1)
    assert np.allclose(nearest_distances(fc1, others, chunk=3), expected, atol=1e-5)
    assert nearest_distances(others, others) == pytest.approx(np.zeros(9), abs=2e-3)


def test_a_calibration_holds_all_that_was_fitted() -> None:
    logits, labels = overconfident(2.0, 2000)
    distances = np.linspace(0, 1, 2000, dtype=np.float32)
    fitted = fit_calibration(logits, None, distances, labels, np.full(2000, -1))
    assert fitted.organ_temperature == pytest.approx(2.0, rel=0.1)
    assert fitted.modality_temperature == 1.0
    unlike = [fitted.is_unlike(*pair) for pair in zip(energy(logits), distances, strict=True)]
    assert np.mean(unlike) == pytest.approx(0.05, abs=0.002)


def test_what_the_network_gave_is_told_from_what_calibration_made_of_it() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 400)
    logits = rng.normal(0, 1, (400, 5)).astype(np.float32)
    logits[np.arange(400), labels] += 1
    too_sure = 4 * logits
    temperature = fit_temperature(too_sure, labels)
    found = measure_calibration(softmax(too_sure, temperature), labels, temperature)
    assert found["before"]["expected_calibration_error"] == pytest.approx(
        reliability(softmax(too_sure), labels)[1], abs=0.01
    )
    assert found["after"]["expected_calibration_error"] < 0.5 * found["before"]["expected_calibration_error"]
    assert sum(entry["images"] for entry in found["before"]["bins"]) == 400

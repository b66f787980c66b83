"""Probabilities that mean something, and a score for pictures that are no medical images.

Guo et al., "On calibration of modern neural networks", ICML 2017: one temperature divides the logits, so that
of the images seen with a probability of 80 % about 80 % are right. No ranking of classes changes by it.
Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020: the energy of the logits tells how far
an image is from what the network has learnt.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml import compiled

ACCEPTED = 0.95  # share of images like those learnt from that the thresholds let pass
BY_DISTANCE = (
    4  # of these refused, as many by distance for each by energy, which tells less: benchmarks.outliers
)
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Calibration:
    """Fitted on images held out from learning; the values given here leave everything as it is."""

    organ_temperature: float = 1.0
    modality_temperature: float = 1.0
    energy_threshold: float | None = None  # an image with a higher energy is unlike what was learnt
    distance_threshold: float | None = None  # likewise, by the distance of FC1 to the nearest one learnt from

    def __post_init__(self) -> None:
        if min(self.organ_temperature, self.modality_temperature) <= 0:
            raise ValueError("a temperature has to be positive.")

    def is_unlike(self, energy: float | None, nearest_distance: float | None) -> bool | None:
        """Whether an image is unlike what was learnt, by either; None where neither threshold is known."""
        pairs = ((energy, self.energy_threshold), (nearest_distance, self.distance_threshold))
        known = [(value, limit) for value, limit in pairs if value is not None and limit is not None]
        return any(value > limit for value, limit in known) if known else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def fit_calibration(
    organ_logits: NDArray[np.float32],
    modality_logits: NDArray[np.float32] | None,
    distances: NDArray[np.float32],
    organs: NDArray[np.int64],
    modalities: NDArray[np.int64],
) -> Calibration:
    """Row n of each array is about held-out image n; labels are -1 where not known.

    distances (N,): of its FC1 to the nearest FC1 that was learnt from.
    """
    energy_threshold, distance_threshold = thresholds(energy(organ_logits), distances)
    return Calibration(
        organ_temperature=fit_temperature(organ_logits, organs),
        modality_temperature=1.0 if modality_logits is None else fit_temperature(modality_logits, modalities),
        energy_threshold=energy_threshold,
        distance_threshold=distance_threshold,
    )


def nearest_distances(
    fc1: NDArray[np.float32], others: NDArray[np.float32], chunk: int = 256
) -> NDArray[np.float32]:
    """float32 (N,): Euclidean distance of each row of fc1 (N, D) to the nearest of others (M, D), M >= 1."""
    squares = (others**2).sum(1)
    found = np.empty(len(fc1), np.float32)
    for start in range(0, len(fc1), chunk):
        part = fc1[start : start + chunk]
        nearest = (squares - 2 * part @ others.T).min(1) + (part**2).sum(1)
        found[start : start + chunk] = np.sqrt(np.maximum(nearest, 0))
    return found


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Probabilities, (N, classes)."""
    return softened(logits, temperature)[0]


def energy(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (N,): minus the log of the sum of exponentials. The lower, the more like what was learnt."""
    return softened(logits)[1]


def softened(
    logits: NDArray[np.float32], temperature: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both in one go: `softmax` with the temperature, and `energy`, which knows of none."""
    logits = np.ascontiguousarray(logits, np.float32)
    probabilities, energies = np.empty_like(logits), np.empty(len(logits), np.float32)
    compiled.soften(logits, np.float32(temperature), probabilities, energies)
    return probabilities, energies


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature with the least negative log likelihood; labels of -1 are left out.

    The likelihood has one optimum in 1 / temperature: golden-section search on its logarithm. 1 where no
    label is known.
    """
    known = labels >= 0
    if not known.any():
        return 1.0
    logits, labels = logits[known].astype(np.float64), labels[known]

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        highest = scaled.max(1)
        total = highest + np.log(np.exp(scaled - highest[:, None]).sum(1))
        return float((total - scaled[np.arange(len(labels)), labels]).mean())

    low, high = np.log(TEMPERATURES)
    golden = (np.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return round(float(np.exp((low + high) / 2)), 4)


def thresholds(
    energies: NDArray[np.floating[Any]], distances: NDArray[np.floating[Any]], accepted: float = ACCEPTED
) -> tuple[float | None, float | None]:
    """Of both, such that this share of the images exceeds neither, and distance refuses BY_DISTANCE times as
    many as energy; None without images."""
    if not len(energies) or not len(distances):
        return None, None
    beyond = np.minimum(BY_DISTANCE * (1 - shares_not_above(energies)), 1 - shares_not_above(distances))
    refused = max(float(np.quantile(beyond, 1 - accepted, method="lower")), 0.0)
    return (
        float(np.quantile(energies, 1 - refused / BY_DISTANCE, method="higher")),
        float(np.quantile(distances, 1 - refused, method="higher")),
    )


def shares_not_above(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Of each value, the share of the others that are smaller: 0 for the least, 1 for the greatest."""
    ordered = np.sort(values)
    return np.asarray(np.searchsorted(ordered, values, side="left") / max(len(values) - 1, 1), np.float64)


@dataclass(frozen=True)
class Bin:
    """Images whose highest probability lies between two bounds."""

    low: float
    high: float
    images: int
    confidence: float | None  # the mean of their highest probabilities; None without images
    accuracy: float | None


def reliability(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int = 15
) -> tuple[list[Bin], float]:
    """The reliability diagram in bins of equal width, and the expected calibration error (0..1)."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    found, error = [], 0.0
    for number in range(bins):
        inside = place == number
        images = int(inside.sum())
        mean = float(confidence[inside].mean()) if images else None
        accuracy = float(right[inside].mean()) if images else None
        if mean is not None and accuracy is not None:
            error += images / len(labels) * abs(mean - accuracy)
        found.append(Bin(number / bins, (number + 1) / bins, images, mean, accuracy))
    return found, error


def measure_calibration(
    probabilities: NDArray[np.float32], labels: NDArray[np.intp], temperature: float
) -> dict[str, Any]:
    """Expected calibration error and reliability diagram before and after the temperature; JSON.

    probabilities (N, classes) are those after it, from which those before are had back. A label beyond the
    classes is never predicted right.
    """
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) * np.float32(temperature)
    found: dict[str, Any] = {"temperature": temperature}
    for name, given in (("before", softmax(logits)), ("after", probabilities)):
        bins, error = reliability(given, labels)
        found[name] = {"expected_calibration_error": error, "bins": [asdict(entry) for entry in bins]}
    return found


def area_under_roc(inside: NDArray[np.floating[Any]], outside: NDArray[np.floating[Any]]) -> float:
    """How often an image from outside scores higher than one from inside; ties count half. 0.5 is chance."""
    both = np.concatenate([inside, outside])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1, equal scores share their mean rank
    above = ranks[len(inside) :].sum() - len(outside) * (len(outside) + 1) / 2
    return float(above / (len(inside) * len(outside)))

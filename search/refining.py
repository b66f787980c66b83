"""Queries made of other queries: several images as one, and relevance feedback. NumPy alone."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Rocchio, "Relevance feedback in information retrieval", 1971: weights beside 1 for the query itself.
# Measured by benchmarks/retrieval.py.
RELEVANT, IRRELEVANT = 1.0, 0.75


def together(fc1: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (4096,): the mean of several images' FC1 (N, 4096), as long as theirs are on average."""
    return of_length(fc1.mean(axis=0), float(np.linalg.norm(fc1, axis=1).mean()))


def refined(
    fc1: NDArray[np.float32],
    relevant: NDArray[np.float32],
    irrelevant: NDArray[np.float32],
    weights: tuple[float, float] = (RELEVANT, IRRELEVANT),
) -> NDArray[np.float32]:
    """float32 (4096,): the query's FC1 moved to what is relevant (N, 4096), away from what is not (M, 4096).

    It keeps its length, and FC1's units stay what they are after a ReLU: not negative.
    """
    moved = fc1.astype(np.float64)
    if len(relevant):
        moved += weights[0] * relevant.mean(axis=0)
    if len(irrelevant):
        moved -= weights[1] * irrelevant.mean(axis=0)
    return of_length(np.maximum(moved, 0), float(np.linalg.norm(fc1)))


def of_length(vector: NDArray[np.floating], length: float) -> NDArray[np.float32]:
    return np.asarray(vector * (length / max(float(np.linalg.norm(vector)), 1e-12)), np.float32)


def probabilities_after(
    seen: Mapping[str, float], relevant: Sequence[str], irrelevant: Sequence[str]
) -> dict[str, float]:
    """Of each organ, from what the network sees in the query and the organs of the marked images.

    What it sees counts as much as one image called relevant; each image called irrelevant takes of that.
    """
    against, found = Counter(irrelevant), Counter(relevant)
    weights = {
        name: seen.get(name, 0.0) / (1 + against[name]) + found[name]
        for name in [*seen, *(set(found) - set(seen))]
    }
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()} if total else weights

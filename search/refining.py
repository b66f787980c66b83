"""Queries made of other queries: several images as one, and relevance feedback. NumPy alone."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Rocchio, "Relevance feedback in information retrieval", 1971: weights beside 1 for the query itself.
# Measured by benchmarks/retrieval.py.
RELEVANT, IRRELEVANT = 1.0, 0.25


def together(fc1: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (4096,): the mean of several images' FC1 (N, 4096), as long as theirs are on average."""
    return of_length(fc1.mean(axis=0), float(np.linalg.norm(fc1, axis=1).mean()))


def refined(
    fc1: NDArray[np.float32], relevant: NDArray[np.float32], irrelevant: NDArray[np.float32]
) -> NDArray[np.float32]:
    """float32 (4096,): the query's FC1 moved to what is relevant (N, 4096), away from what is not (M, 4096).

    It keeps its length, and FC1's units stay what they are after a ReLU: not negative.
    """
    moved = fc1.astype(np.float64)
    if len(relevant):
        moved += RELEVANT * relevant.mean(axis=0)
    if len(irrelevant):
        moved -= IRRELEVANT * irrelevant.mean(axis=0)
    return of_length(np.maximum(moved, 0), float(np.linalg.norm(fc1)))


def of_length(vector: NDArray[np.floating], length: float) -> NDArray[np.float32]:
    return np.asarray(vector * (length / max(float(np.linalg.norm(vector)), 1e-12)), np.float32)


def probabilities_after(seen: Mapping[str, float], relevant: Sequence[str]) -> dict[str, float]:
    """Of each organ: what the network sees counts as much as one image called relevant, by its organ."""
    total = 1 + len(relevant)
    found = {name: probability / total for name, probability in seen.items()}
    for organ in relevant:
        found[organ] = found.get(organ, 0.0) + 1 / total
    return found

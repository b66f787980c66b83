"""Principal components of FC1: the small column that proposes candidates."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 512
MOST_SAMPLES = 6_000


@dataclass(frozen=True)
class Projection:
    """All but one of the components, and the length of what they leave of an image's FC1.

    A projected distance never exceeds the distance on FC1: the components are orthonormal, and two remainders
    are at least as far apart as their lengths differ.
    """

    mean: NDArray[np.float32]  # (4096,)
    components: NDArray[np.float32]  # (512, 4096), orthonormal rows, the first ones tell most

    @property
    def keeps_remainder(self) -> bool:
        """Those of earlier versions have fewer components, filled up with zeros, and keep no remainder."""
        return bool(self.components[-1].any())

    def __call__(self, fc1: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (N, 512) from float32 (N, 4096)."""
        return self.completed(fc1, np.asarray((fc1 - self.mean) @ self.components.T, np.float32))

    def completed(self, fc1: NDArray[np.float32], projected: NDArray[np.float32]) -> NDArray[np.float32]:
        """FC1's products with all components (N, 512), with the remainder's length in place of the last."""
        if self.keeps_remainder:
            centred, kept = fc1 - self.mean, projected[:, :-1]
            left = np.vecdot(centred, centred) - np.vecdot(kept, kept)
            projected[:, -1] = np.sqrt(np.maximum(left, 0))
        return projected


def fit_projection(fc1: NDArray[np.float32], dimensions: int = DIMENSIONS, seed: int = 0) -> Projection:
    """PCA of up to 6,000 FC1 vectors by randomised subspace iteration (Halko et al. 2011).

    With fewer samples than dimensions the basis is completed with random orthonormal directions.
    """
    rng = np.random.default_rng(seed)
    sample = fc1 if len(fc1) <= MOST_SAMPLES else fc1[rng.choice(len(fc1), MOST_SAMPLES, replace=False)]
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = sample - mean
    basis = rng.standard_normal((fc1.shape[1], dimensions + 16)).astype(np.float32)
    for _ in range(4):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis) + 1e-6 * basis)
    _, _, rotation = np.linalg.svd(centred @ basis, full_matrices=False)
    components = (
        (basis @ rotation.T)[:, :dimensions] if len(rotation) >= dimensions else basis[:, :dimensions]
    )
    return Projection(mean, np.ascontiguousarray(np.linalg.qr(components)[0].T))

"""Principal components of FC1: the small column that proposes candidates."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml import compiled

DIMENSIONS = 512
MOST_SAMPLES = 6_000
HUGE_PAGE = 1 << 21


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
        centred = fc1 - self.mean
        projected = np.asarray(centred @ self.components.T, np.float32)
        if self.keeps_remainder:
            left = (centred**2).sum(axis=1) - (projected[:, :-1] ** 2).sum(axis=1)
            projected[:, -1] = np.sqrt(np.maximum(left, 0))
        return projected


class QuickProjection:
    """The same to four digits, by the thread that calls; what is zero in FC1, half of it or more, is skipped.

    The components of each feature are kept as whole numbers of 16 bits, the largest of them as 32767.
    """

    def __init__(self, projection: Projection) -> None:
        by_feature = projection.components.T  # (4096, 512)
        self._scale = np.maximum(np.abs(by_feature).max(1), 1e-12) / np.float32(32767)
        whole = np.rint(by_feature / self._scale[:, np.newaxis]).astype(np.int16)
        self._components = in_huge_pages(whole)
        self._origin = -projection.components @ projection.mean
        self._mean, self._keeps_remainder = projection.mean, projection.keeps_remainder

    def __call__(self, fc1: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (N, 512) from float32 (N, 4096). Raises ValueError for another number of features."""
        if fc1.shape[1:] != self._mean.shape:
            raise ValueError(f"FC1 has {len(self._mean)} numbers, not {fc1.shape[1:]}.")
        fc1 = np.ascontiguousarray(fc1, np.float32)
        projected = np.empty((len(fc1), len(self._origin)), np.float32)
        compiled.project(fc1, self._components, self._scale, self._origin, projected)
        if self._keeps_remainder:
            compiled.remain(fc1, self._mean, projected)
        return projected


def in_huge_pages(array: NDArray[np.int16]) -> NDArray[np.int16]:
    """A copy that begins where such a page can: NumPy asks Linux for them, and addresses are found sooner."""
    memory = np.empty(array.nbytes + 2 * HUGE_PAGE, np.uint8)
    start = -memory.ctypes.data % HUGE_PAGE
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


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

"""Local binary patterns of the blocks that an autoencoder finds hard, and an SVM.

Camlica, Tizhoosh and Khalvati, "Autoencoding the retrieval relevance of medical images", IPTA 2015.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPRegressor

from ml.baselines.handcrafted import PATTERNS, Watch, local_binary_patterns

BLOCKS = 8  # a side, of 32x32 pixels each
SEEN = 16  # pixels a side of a block, as the autoencoder sees it
HIDDEN = 64  # of its 256 / 64 / 256 units
KEPT = 0.5  # share of the blocks that are kept
SAMPLE = 20_000  # blocks that the autoencoder learns from


@dataclass(frozen=True)
class RelevantBlocks:
    kept: NDArray[np.intp]  # places of the kept blocks, row by row

    @classmethod
    def fitted_to(cls, renditions: NDArray[np.uint8], seed: int = 0) -> "RelevantBlocks":
        """Keeps the places whose blocks an autoencoder of all blocks encodes worst."""
        blocks = blocks_of(renditions)  # (N, 64, 256)
        rows = blocks.reshape(-1, SEEN**2)
        sample = np.random.default_rng(seed).permutation(len(rows))[:SAMPLE]
        autoencoder = MLPRegressor(
            hidden_layer_sizes=(HIDDEN,), activation="logistic", max_iter=50, random_state=seed
        )
        autoencoder.fit(rows[sample], rows[sample])
        errors = ((autoencoder.predict(rows) - rows) ** 2).mean(1).reshape(len(blocks), -1).mean(0)
        return cls(np.sort(np.argsort(-errors, kind="stable")[: int(KEPT * len(errors))]))

    def describe(
        self, renditions: NDArray[np.uint8], on_image: Watch = lambda done, total: None
    ) -> NDArray[np.float32]:
        """float32 (N, 32 * 59) from uint8 (N, 256, 256)."""
        patterns = local_binary_patterns(renditions, BLOCKS, on_image).reshape(len(renditions), -1, PATTERNS)
        return np.asarray(patterns[:, self.kept].reshape(len(renditions), -1))


def blocks_of(renditions: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (N, 64, 256) in 0..1: the blocks, row by row, in half their resolution."""
    halved = renditions.reshape(-1, 128, 2, 128, 2).mean((2, 4), dtype=np.float32) / 255
    parts = halved.reshape(-1, BLOCKS, SEEN, BLOCKS, SEEN).swapaxes(2, 3)
    return np.asarray(parts.reshape(len(renditions), BLOCKS**2, SEEN**2))

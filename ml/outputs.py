"""What a network's outputs stand for: several of them for one class, where classes were merged since."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def by_class(
    names: Sequence[str], probabilities: NDArray[np.float32]
) -> tuple[list[str], NDArray[np.float32]]:
    """The classes, each once, and their probabilities (N, classes), those of outputs of one class added up.

    names: the class of each output. probabilities: float32 (N, outputs).
    """
    classes = list(dict.fromkeys(names))
    if len(classes) == len(names):
        return classes, probabilities
    added = np.zeros((len(probabilities), len(classes)), np.float32)
    for output, name in enumerate(names):
        added[:, classes.index(name)] += probabilities[:, output]
    return classes, added

"""What a trained network sees in images."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ml.calibration import softened, softmax
from ml.checkpoint import Checkpoint, load_checkpoint
from ml.engines import Engine, Outputs, engine_for, joined
from ml.projection import QuickProjection

NOT_LEARNT_IN = 0.01  # weight of an organ in a modality in which no image of it was learnt from


@dataclass(frozen=True)
class Description:
    """Row n describes image n."""

    fc1: NDArray[np.float32]  # (N, 4096), after ReLU
    projection: NDArray[np.float32]  # (N, 512)
    organ_probabilities: NDArray[np.float32]  # (N, organs), calibrated
    modality_probabilities: NDArray[np.float32] | None  # (N, modalities), calibrated
    energy: NDArray[np.float32]  # (N,), the lower, the more like what was learnt


class ImageDescriber:
    """A network kept warm. `organs` and `modalities` name the columns of the probabilities."""

    def __init__(self, checkpoint: Checkpoint, engine: Engine) -> None:
        self.engine = engine
        self.organs, self.modalities = checkpoint.organs, checkpoint.modalities
        self.calibration = checkpoint.calibration
        self.project = QuickProjection(checkpoint.projection)
        self._preprocessing = checkpoint.preprocessing
        self._learnt_in = checkpoint.learnt_in

    @classmethod
    def from_checkpoint(cls, folder: Path, engine: str = "auto", calls_at_once: int = 1) -> "ImageDescriber":
        """Raises CheckpointError, or ValueError when the engine cannot be had here."""
        checkpoint = load_checkpoint(folder)
        return cls(checkpoint, engine_for(checkpoint.network, engine, calls_at_once))

    def describe(
        self, renditions: NDArray[np.uint8], framed_as: NDArray[np.uint8] | None = None
    ) -> Description:
        """Describe uint8 (N, 256, 256) renditions, N >= 1, in batches. `framed_as`: see Preprocessing."""
        seen = see(self.engine, partial(self._preprocessing.array, framed_as=framed_as), renditions)
        calibration, modalities = self.calibration, None
        organs, energies = softened(seen.organ_logits, calibration.organ_temperature)
        if seen.modality_logits is not None:
            modalities = softmax(seen.modality_logits, calibration.modality_temperature)
        return Description(seen.fc1, self.project(seen.fc1), organs, modalities, energies)

    def knowing_modality(
        self, organ_probabilities: NDArray[np.float32], codes: Collection[str]
    ) -> NDArray[np.float32]:
        """What they are, float32 (organs,), where the image is known to be of one of these modalities.

        An organ of which all images learnt from were of others is unlikely. Nothing changes where no organ
        was learnt in these.
        """
        learnt = {organ: bool({*codes} & {*in_these}) for organ, in_these in self._learnt_in.items()}
        if not any(learnt.values()):
            return organ_probabilities
        weights = [1.0 if learnt.get(organ, True) else NOT_LEARNT_IN for organ in self.organs]
        weighted = organ_probabilities * np.array(weights, np.float32)
        return np.asarray(weighted / weighted.sum(), np.float32)


def see(
    engine: Engine,
    preprocessing: Callable[[NDArray[np.uint8]], Tensor | NDArray[np.float32]],
    renditions: NDArray[np.uint8],
    on_batch: Callable[[], None] = lambda: None,
) -> Outputs:
    """The outputs for uint8 (N, 256, 256) renditions, N >= 1, in batches of the engine's size."""
    parts, done = [], 0
    while done < len(renditions):
        batch = renditions[done : done + engine.batch_size]  # which may shrink on the way
        parts.append(engine(preprocessing(batch)))
        done += len(batch)
        on_batch()
    return joined(parts)

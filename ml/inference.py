"""What a trained network sees in images."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.calibration import energy, softmax
from ml.checkpoint import Checkpoint, load_checkpoint
from ml.engines import Engine, Outputs, engine_for, joined
from ml.network import NetworkOutput
from ml.projection import Projection

NOT_LEARNT_IN = 0.01  # weight of an organ in a modality in which no image of it was learnt from


@dataclass(frozen=True)
class Description:
    """Row n describes image n."""

    fc1: NDArray[np.float32]  # (N, 4096), after ReLU
    projection: NDArray[np.float32]  # (N, 512)
    organ_probabilities: NDArray[np.float32]  # (N, organs), calibrated
    modality_probabilities: NDArray[np.float32] | None  # (N, modalities), calibrated
    energy: NDArray[np.float32]  # (N,), the lower, the more like what was learnt


class ProjectingNetwork(nn.Module):
    """A network and its FC1's products with the components, so that an engine calculates all in one go."""

    def __init__(self, network: nn.Module, projection: Projection) -> None:
        super().__init__()
        self.network = network
        self.components = nn.Buffer(torch.from_numpy(projection.components))
        self.origin = nn.Buffer(torch.from_numpy(-projection.components @ projection.mean))

    def forward(self, x: Tensor) -> NetworkOutput:
        seen: NetworkOutput = self.network(x)
        with torch.autocast(x.device.type, enabled=False):
            projected = F.linear(seen.fc1.float(), self.components, self.origin)
        return seen._replace(projection=projected)


class ImageDescriber:
    """A network kept warm. `organs` and `modalities` name the columns of the probabilities."""

    def __init__(self, checkpoint: Checkpoint, engine: str = "auto", calls_at_once: int = 1) -> None:
        """Raises ValueError when the engine cannot be had here."""
        network = ProjectingNetwork(checkpoint.network, checkpoint.projection)
        self.engine = engine_for(network, engine, calls_at_once)
        self.organs, self.modalities = checkpoint.organs, checkpoint.modalities
        self.calibration = checkpoint.calibration
        self.projection = checkpoint.projection
        self._preprocessing = checkpoint.preprocessing
        self._learnt_in = checkpoint.learnt_in

    @classmethod
    def from_checkpoint(cls, folder: Path, engine: str = "auto", calls_at_once: int = 1) -> "ImageDescriber":
        """Raises CheckpointError, or ValueError when the engine cannot be had here."""
        return cls(load_checkpoint(folder), engine, calls_at_once)

    def describe(
        self, renditions: NDArray[np.uint8], framed_as: NDArray[np.uint8] | None = None
    ) -> Description:
        """Describe uint8 (N, 256, 256) renditions, N >= 1, in batches. `framed_as`: see Preprocessing."""
        seen = see(self.engine, partial(self._preprocessing, framed_as=framed_as), renditions)
        assert seen.projection is not None
        modality, calibration = seen.modality_logits, self.calibration
        return Description(
            fc1=seen.fc1,
            projection=self.projection.completed(seen.fc1, seen.projection),
            organ_probabilities=softmax(seen.organ_logits, calibration.organ_temperature),
            modality_probabilities=(
                None if modality is None else softmax(modality, calibration.modality_temperature)
            ),
            energy=energy(seen.organ_logits),
        )

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
    preprocessing: Callable[[NDArray[np.uint8]], Tensor],
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

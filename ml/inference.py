"""What a trained network sees in images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ml.checkpoint import Checkpoint, load_checkpoint
from ml.network import device_for

BATCH_SIZE = {"cpu": 32, "cuda": 256}


@dataclass(frozen=True)
class Description:
    """Row n describes image n."""

    fc1: NDArray[np.float32]  # (N, 4096), after ReLU
    projection: NDArray[np.float32]  # (N, 128)
    organ_probabilities: NDArray[np.float32]  # (N, organs)
    modality_probabilities: NDArray[np.float32] | None  # (N, modalities)


class ImageDescriber:
    """A network kept warm. `organs` and `modalities` name the columns of the probabilities."""

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.device = device_for(device)
        self.organs, self.modalities = checkpoint.organs, checkpoint.modalities
        self._preprocessing, self._projection = checkpoint.preprocessing, checkpoint.projection
        self._network = checkpoint.network.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_checkpoint(cls, folder: Path, device: str = "auto") -> "ImageDescriber":
        """Raises CheckpointError, or ValueError when `device` is not there."""
        return cls(load_checkpoint(folder), device)

    def describe(self, renditions: NDArray[np.uint8]) -> Description:
        """Describe uint8 (N, 256, 256) renditions, N >= 1, in batches."""
        size = BATCH_SIZE[self.device.type]
        parts = [self._describe_batch(renditions[i : i + size]) for i in range(0, len(renditions), size)]
        modality = None if parts[0][2] is None else np.concatenate([p[2] for p in parts if p[2] is not None])
        fc1 = np.concatenate([p[0] for p in parts])
        return Description(fc1, self._projection(fc1), np.concatenate([p[1] for p in parts]), modality)

    @torch.inference_mode()
    def _describe_batch(
        self, renditions: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
        x = self._preprocessing(renditions).to(self.device, memory_format=torch.channels_last)
        seen = self._network(x)
        modality = None if seen.modality_logits is None else seen.modality_logits.softmax(1).cpu().numpy()
        return seen.fc1.cpu().numpy(), seen.organ_logits.softmax(1).cpu().numpy(), modality

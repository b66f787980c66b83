"""From 256x256 renditions to what the network takes."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

INPUT_SIZE = 224  # the paper's centre crop of 256
FLATTEST = 0.03  # standard deviation of grey values below which an image is not stretched further


@dataclass(frozen=True)
class Preprocessing:
    """Ships with the weights. mean and std of grey values in 0..1 over the training images.

    `per_image` takes those of each image in their place, so that its brightness and contrast do not count.
    """

    mean: float = 0.25
    std: float = 0.25
    crop: int = INPUT_SIZE
    per_image: bool = False

    @classmethod
    def fitted_to(cls, renditions: NDArray[np.uint8], per_image: bool = False) -> "Preprocessing":
        sample = renditions[:: max(1, len(renditions) // 500)].astype(np.float32) / 255
        mean, std = round(float(sample.mean()), 4), round(max(float(sample.std()), 0.05), 4)
        return cls(mean, std, per_image=per_image)

    def __call__(self, renditions: NDArray[np.uint8]) -> Tensor:
        """float32 (N, 1, 224, 224), centre crop, from uint8 (N, 256, 256)."""
        margin = (renditions.shape[-1] - self.crop) // 2
        crop = renditions[:, margin : margin + self.crop, margin : margin + self.crop]
        return self.normalise(torch.from_numpy(np.ascontiguousarray(crop)).unsqueeze(1).float() / 255)

    def normalise(self, grey: Tensor) -> Tensor:
        """grey: float32 (N, 1, rows, columns) in 0..1."""
        if self.per_image:
            std, mean = torch.std_mean(grey, dim=(1, 2, 3), keepdim=True)
            return (grey - mean) / std.clamp_min(FLATTEST)
        return (grey - self.mean) / self.std

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

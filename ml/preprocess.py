"""From 256x256 renditions to what the network takes, and the augmentations of the default recipe."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

INPUT_SIZE = 224  # the paper's centre crop of 256


@dataclass(frozen=True)
class Preprocessing:
    """Ships with the weights. mean and std of grey values in 0..1 over the training images."""

    mean: float = 0.25
    std: float = 0.25
    crop: int = INPUT_SIZE

    @classmethod
    def fitted_to(cls, renditions: NDArray[np.uint8]) -> "Preprocessing":
        sample = renditions[:: max(1, len(renditions) // 500)].astype(np.float32) / 255
        return cls(mean=round(float(sample.mean()), 4), std=round(max(float(sample.std()), 0.05), 4))

    def __call__(self, renditions: NDArray[np.uint8]) -> Tensor:
        """float32 (N, 1, 224, 224), centre crop, from uint8 (N, 256, 256)."""
        margin = (renditions.shape[-1] - self.crop) // 2
        crop = renditions[:, margin : margin + self.crop, margin : margin + self.crop]
        return self.normalise(torch.from_numpy(np.ascontiguousarray(crop)).unsqueeze(1).float() / 255)

    def normalise(self, grey: Tensor) -> Tensor:
        return (grey - self.mean) / self.std

    def as_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std, "crop": self.crop}


def augment(
    renditions: NDArray[np.uint8], preprocessing: Preprocessing, generator: torch.Generator
) -> Tensor:
    """A random view of each image: float32 (N, 1, 224, 224) from uint8 (N, 256, 256).

    What medical images bear: small rotation, scale, shift and stretch, left-right mirror, contrast,
    brightness and gamma, blur by resolution loss, noise, and now and then the negative.
    """
    grey = torch.from_numpy(np.ascontiguousarray(renditions)).unsqueeze(1).float() / 255
    n = len(grey)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    def chance(p: float) -> Tensor:
        return torch.rand(n, generator=generator) < p

    angle, zoom, stretch = uniform(-12, 12) * math.pi / 180, uniform(0.72, 1.02), uniform(0.92, 1.08)
    mirror = torch.where(chance(0.5), -1.0, 1.0)
    rows_x = torch.stack(
        [zoom * stretch * angle.cos() * mirror, -zoom * angle.sin(), uniform(-0.12, 0.12)], 1
    )
    rows_y = torch.stack([zoom * stretch * angle.sin() * mirror, zoom * angle.cos(), uniform(-0.12, 0.12)], 1)
    grid = F.affine_grid(
        torch.stack([rows_x, rows_y], 1), [n, 1, preprocessing.crop, preprocessing.crop], False
    )
    view = F.grid_sample(grey, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def per_image(values: Tensor) -> Tensor:
        return values.view(n, 1, 1, 1)

    view = view.clamp(1e-4, 1).pow(per_image(uniform(-0.4, 0.4).exp()))
    view = (view - 0.5) * per_image(uniform(0.75, 1.3)) + 0.5 + per_image(uniform(-0.12, 0.12))
    view = torch.where(per_image(chance(0.05)), 1 - view, view)
    blurred = F.interpolate(
        F.avg_pool2d(view, 3, 3), size=view.shape[-2:], mode="bilinear", align_corners=False
    )
    view = torch.where(per_image(chance(0.3)), blurred, view)
    noise = torch.randn(view.shape, generator=generator) * per_image(uniform(0, 0.04))
    return preprocessing.normalise((view + noise).clamp(0, 1))

"""From 256x256 renditions to what the network takes."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ml.framing import content_boxes, cut_out
from ml.recipes import Recipe

INPUT_SIZE = 224  # the paper's centre crop of 256
FLATTEST = 0.03  # standard deviation of grey values below which an image is not stretched further


@dataclass(frozen=True)
class Preprocessing:
    """Ships with the weights. mean and std of grey values in 0..1 over the training images.

    The other fields take away by what collections differ more than organs do. `framed` takes the part of the
    image that shows something, in place of its centre: margins do not count. `per_image` takes mean and std
    of each image in their place: brightness and contrast do not count. `resolution` keeps that many pixels a
    side: sharpness does not count. `equalisation` (0..1) mixes in so much of the image with its histogram
    equalised: windows and gamma count less.
    """

    mean: float = 0.25
    std: float = 0.25
    crop: int = INPUT_SIZE
    framed: bool = False
    per_image: bool = False
    resolution: int | None = None
    equalisation: float = 0.0

    @classmethod
    def fitted_to(cls, renditions: NDArray[np.uint8], recipe: Recipe) -> "Preprocessing":
        """The recipe's, with the mean and std of up to 1,000 of the images, uint8 (N, 256, 256)."""
        sample = renditions[:: max(1, len(renditions) // 500)].astype(np.float32) / 255
        mean, std = round(float(sample.mean()), 4), round(max(float(sample.std()), 0.05), 4)
        return cls(
            mean,
            std,
            framed=recipe.framed,
            per_image=recipe.per_image,
            resolution=recipe.resolution,
            equalisation=recipe.equalisation,
        )

    def __call__(
        self, renditions: NDArray[np.uint8] | Tensor, framed_as: NDArray[np.uint8] | None = None
    ) -> Tensor:
        """float32 (N, 1, 224, 224) from uint8 (N, 256, 256); a tensor stays on its device.

        framed_as: uint8 (256, 256), the picture whose frame is taken for all, where they are changes of it.
        """
        images = torch.as_tensor(renditions)
        if self.framed:
            like = images if framed_as is None else torch.as_tensor(framed_as)[None].to(images.device)
            boxes = content_boxes(like).expand(len(images), 4)
            return self.normalise(cut_out(images, boxes, self.resolution or self.crop))
        margin = (images.shape[-1] - self.crop) // 2
        crop = images[:, margin : margin + self.crop, margin : margin + self.crop]
        return self.normalise(crop.contiguous().unsqueeze(1).float().div_(255))

    def normalise(self, grey: Tensor) -> Tensor:
        """float32 (N, 1, 224, 224); grey: float32 (N, 1, rows, columns) in 0..1."""
        if self.resolution and grey.shape[-1] != self.resolution:  # first: what follows sees fewer pixels
            grey = F.adaptive_avg_pool2d(grey, self.resolution)
        if self.equalisation:
            grey = torch.lerp(grey, equalised(grey), self.equalisation)
        if self.per_image:
            grey = grey - grey.mean((1, 2, 3), keepdim=True)
            std = grey.square().mean((1, 2, 3), keepdim=True).sqrt()  # torch.std takes eight times as long
            grey = grey / std.clamp_min(FLATTEST)
        else:
            grey = (grey - self.mean) / self.std
        if self.resolution:
            grey = F.interpolate(grey, size=(self.crop, self.crop), mode="bilinear", align_corners=False)
        return grey

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def equalised(grey: Tensor, levels: int = 256) -> Tensor:
    """Each image with its grey values (0..1) replaced by the share of its pixels that are darker."""
    level = (grey.flatten(1) * (levels - 1)).round_().long()
    counts = grey.new_zeros(len(grey), levels).scatter_add_(1, level, grey.new_ones(level.shape))
    darker = (counts.cumsum(1) - counts / 2) / level.shape[1]
    return darker.gather(1, level).view_as(grey)

"""From 256x256 renditions to what the network takes."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ingest.renditions import RENDITION_SIZE
from ml import compiled
from ml.framing import checked
from ml.recipes import Recipe

INPUT_SIZE = 224  # the paper's centre crop of 256


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

    def __post_init__(self) -> None:
        if not (1 <= self.crop <= RENDITION_SIZE and 1 <= self.size <= RENDITION_SIZE):
            raise ValueError(f"crop and resolution have to lie between 1 and {RENDITION_SIZE}.")

    @property
    def size(self) -> int:
        """Pixels a side of which something is kept."""
        return self.crop if self.resolution is None else self.resolution

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

    def __call__(self, renditions: NDArray[np.uint8], framed_as: NDArray[np.uint8] | None = None) -> Tensor:
        """float32 (N, 1, 224, 224) from uint8 (N, 256, 256), on the CPU, by the thread that calls.

        framed_as: uint8 (256, 256), the picture whose frame is taken for all, where they are changes of it.
        Raises ValueError for arrays of other shapes or types.
        """
        return torch.from_numpy(self.array(renditions, framed_as))

    def array(
        self, renditions: NDArray[np.uint8], framed_as: NDArray[np.uint8] | None = None
    ) -> NDArray[np.float32]:
        """The same as an array. A tensor costs one image 0.05 ms, half a percent of the network's time."""
        renditions = checked(renditions)
        like = renditions if framed_as is None else checked(framed_as[np.newaxis])
        x = np.empty((len(renditions), 1, self.crop, self.crop), np.float32)
        compiled.prepare(renditions, like, self.framed, self.finish, x[:, 0])
        return x

    @cached_property
    def finish(self) -> compiled.Finish:
        lines, equalisation = lines_between(self.size, self.crop), np.float32(self.equalisation)
        mean, std = np.float32(self.mean), np.float32(self.std)
        return compiled.Finish(self.size, *lines, equalisation, self.per_image, mean, std)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def lines_between(size: int, crop: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
    """Where each of `crop` lines lies between `size`, as in torch's interpolate without align_corners.

    The line before it, the one after it, and the share of the latter: (crop,) each.
    """
    position = np.clip((np.arange(crop) + 0.5) * size / crop - 0.5, 0, size - 1)
    before = np.floor(position)
    after = np.minimum(before + 1, size - 1)
    return before.astype(np.uint32), after.astype(np.uint32), (position - before).astype(np.float32)

"""AlexNet, ResNet-18 and OverFeat for grey images of 224x224.

Each gives a `NetworkOutput` whose fc1 is what the image is retrieved by, after ReLU and before dropout.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.network import NetworkOutput, NetworkShape, initialise_for_relu


class AlexNet(nn.Module):
    """Krizhevsky, Sutskever and Hinton, NeurIPS 2012; in one column, as Krizhevsky 2014."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *convolution(1, 64, 11, stride=4, padding=2), nn.MaxPool2d(3, 2),  # (64, 27, 27)
            *convolution(64, 192, 5, padding=2), nn.MaxPool2d(3, 2),  # (192, 13, 13)
            *convolution(192, 384, 3, padding=1),
            *convolution(384, 256, 3, padding=1),
            *convolution(256, 256, 3, padding=1), nn.MaxPool2d(3, 2),  # (256, 6, 6)
        )  # fmt: skip
        self.fc1, self.fc2 = nn.Linear(256 * 6 * 6, 4096), nn.Linear(4096, 4096)
        self.organ_head, self.dropout = nn.Linear(4096, shape.organs), nn.Dropout(shape.dropout)
        initialise_for_relu(self)

    def forward(self, x: Tensor) -> NetworkOutput:  # (N, 1, 224, 224)
        x = self.convolutions(x).flatten(1)
        fc1 = self.fc1(self.dropout(x)).relu()  # (N, 4096)
        x = self.fc2(self.dropout(fc1)).relu()
        return NetworkOutput(fc1, self.organ_head(x), None)


class OverFeat(nn.Module):
    """Sermanet et al., ICLR 2014: the fast model (their table 1)."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *convolution(1, 96, 11, stride=4), nn.MaxPool2d(2),  # (96, 28, 28)
            *convolution(96, 256, 5), nn.MaxPool2d(2),  # (256, 12, 12)
            *convolution(256, 512, 3, padding=1),
            *convolution(512, 1024, 3, padding=1),
            *convolution(1024, 1024, 3, padding=1), nn.MaxPool2d(2),  # (1024, 6, 6)
        )  # fmt: skip
        self.fc1, self.fc2 = nn.Linear(1024 * 6 * 6, 3072), nn.Linear(3072, 4096)
        self.organ_head, self.dropout = nn.Linear(4096, shape.organs), nn.Dropout(shape.dropout)
        initialise_for_relu(self)

    def forward(self, x: Tensor) -> NetworkOutput:  # (N, 1, 224, 224)
        x = F.pad(x, (3, 4, 3, 4))  # they see 231 pixels a side
        fc1 = self.fc1(self.convolutions(x).flatten(1)).relu()  # (N, 3072)
        x = self.fc2(self.dropout(fc1)).relu()
        return NetworkOutput(fc1, self.organ_head(self.dropout(x)), None)


class ResNet18(nn.Module):
    """He et al., CVPR 2016: 18 layers, projections where the size changes."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.start = nn.Sequential(*normalised_convolution(1, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        self.blocks = nn.Sequential(
            *(
                block
                for channels, width, stride in widths
                for block in (ResidualBlock(channels, width, stride), ResidualBlock(width, width, 1))
            )
        )
        self.organ_head = nn.Linear(512, shape.organs)
        initialise_for_relu(self)

    def forward(self, x: Tensor) -> NetworkOutput:  # (N, 1, 224, 224)
        pooled = self.blocks(self.start(x)).mean((2, 3))  # (N, 512)
        return NetworkOutput(pooled, self.organ_head(pooled), None)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *normalised_convolution(channels, width, 3, stride),
            nn.ReLU(),
            *normalised_convolution(width, width, 3, 1),
        )
        same = stride == 1 and channels == width
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(*normalised_convolution(channels, width, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def convolution(
    channels: int, width: int, size: int, stride: int = 1, padding: int = 0
) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, width, size, stride, padding), nn.ReLU()


def normalised_convolution(channels: int, width: int, size: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, width, size, stride, size // 2, bias=False), nn.BatchNorm2d(width)

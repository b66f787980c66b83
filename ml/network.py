"""The network of Qayyum et al. 2017 (their section 3.2), with a second head for the modality."""

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ml.recipes import Recipe

FOLLOWED_BY_RELU = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3")


@dataclass(frozen=True)
class NetworkShape:
    """The paper's sizes; tests make them smaller. `modalities` = 0 leaves the modality head out.

    `unit_fc1` gives FC1 out with length 1, so that Euclidean distance compares directions; the layers above
    it see it as it is.
    """

    organs: int
    modalities: int = 0
    channels: tuple[int, ...] = (64, 192, 384, 256, 256)
    fc1: int = 4096
    fc2: int = 4096
    fc3: int = 4096
    dropout: float = 0.5
    unit_fc1: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "NetworkShape":
        return cls(**{**data, "channels": tuple(data["channels"])})


class NetworkOutput(NamedTuple):
    fc1: Tensor  # (N, 4096), after ReLU, before dropout; of length 1 where the shape says so
    organ_logits: Tensor  # (N, organs)
    modality_logits: Tensor | None  # (N, modalities)


class OrganNetwork(nn.Module):
    """Five convolutions and three fully connected layers, ReLU everywhere, dropout after FC1 and FC2."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        c1, c2, c3, c4, c5 = shape.channels
        self.conv1 = nn.Conv2d(1, c1, kernel_size=11, stride=4, padding=2)
        self.conv2 = nn.Conv2d(c1, c2, kernel_size=5, padding=2)
        self.conv3 = nn.Conv2d(c2, c3, kernel_size=5, padding=2)
        self.conv4 = nn.Conv2d(c3, c4, kernel_size=3, padding=1)
        self.conv5 = nn.Conv2d(c4, c5, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2)
        self.fc1 = nn.Linear(c5 * 6 * 6, shape.fc1)
        self.fc2 = nn.Linear(shape.fc1, shape.fc2)
        self.fc3 = nn.Linear(shape.fc2, shape.fc3)
        self.organ_head = nn.Linear(shape.fc3, shape.organs)
        self.modality_head = nn.Linear(shape.fc3, shape.modalities) if shape.modalities else None
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor) -> NetworkOutput:  # (N, 1, 224, 224)
        x = self.pool(self.conv1(x).relu())  # (N, 64, 27, 27)
        x = self.pool(self.conv2(x).relu())  # (N, 192, 13, 13)
        x = self.conv3(x).relu()  # (N, 384, 13, 13)
        x = self.conv4(x).relu()  # (N, 256, 13, 13)
        x = self.pool(self.conv5(x).relu())  # (N, 256, 6, 6)
        fc1 = self.fc1(x.flatten(1)).relu()  # (N, 4096)
        x = self.fc2(self.dropout(fc1)).relu()  # (N, 4096)
        x = self.fc3(self.dropout(x)).relu()  # (N, 4096)
        modality_logits = self.modality_head(x) if self.modality_head is not None else None
        seen_fc1 = F.normalize(fc1, dim=1) if self.shape.unit_fc1 else fc1
        return NetworkOutput(seen_fc1, self.organ_head(x), modality_logits)


def organ_network(shape: NetworkShape, recipe: Recipe) -> OrganNetwork:
    """As the recipe starts it; of `shape` the recipe decides dropout, and whether FC1 has length 1."""
    network = OrganNetwork(replace(shape, dropout=recipe.dropout, unit_fc1=recipe.unit_fc1))
    (initialise_as_paper if recipe.paper_initialisation else initialise_for_relu)(network)
    if recipe.batch_norm:
        insert_batch_norms(network)
    return network


def insert_batch_norms(network: OrganNetwork) -> None:
    """One before every ReLU, for the time of the training (Ioffe and Szegedy, ICML 2015)."""
    for name in FOLLOWED_BY_RELU:
        layer = getattr(network, name)
        convolves = isinstance(layer, nn.Conv2d)
        norm = nn.BatchNorm2d(layer.out_channels) if convolves else nn.BatchNorm1d(layer.out_features)
        layer.bias.requires_grad_(False)  # the norm has one
        setattr(network, name, nn.Sequential(layer, norm))


def fold_batch_norms(network: nn.Module) -> None:
    """Into the weights of the layers before them: the same function, by the paper's network alone."""
    network.eval()
    for name in FOLLOWED_BY_RELU:
        layer, norm = getattr(network, name)
        fuse = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
        setattr(network, name, fuse(layer, norm).requires_grad_())


def initialise_as_paper(network: OrganNetwork) -> None:
    """Weights N(0, 0.01); biases 1 in conv 2, 4, 5 and the fully connected layers, 0 elsewhere."""
    ones = {network.conv2, network.conv4, network.conv5, network.fc1, network.fc2, network.fc3}
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.constant_(module.bias, 1.0 if module in ones else 0.0)  # type: ignore[arg-type]


def initialise_for_relu(network: nn.Module) -> None:
    """He et al. 2015: keeps the variance through ReLU layers, so that eight of them learn from the start.

    The heads, which no ReLU follows, start near zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name in ("organ_head", "modality_head"):
        if head := getattr(network, name, None):
            nn.init.normal_(head.weight, std=0.01)


def trainable_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def device_for(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises ValueError when cuda is asked for in vain."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("There is no CUDA device on this machine; choose auto or cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")

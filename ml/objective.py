"""What a recipe minimises."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ml.network import NetworkOutput, NetworkShape
from ml.recipes import Recipe

SCALE = 16.0  # of cosines, before their softmax


class Objective(nn.Module):
    """Cross-entropy of organ and modality and, where the recipe asks for it, of FC1's direction.

    The last is the large margin cosine loss of Wang et al. (CosFace, CVPR 2018): every organ has a direction
    in the space of FC1, learnt beside the network and dropped after training, and FC1 of an image is to point
    along its organ's, nearer by a margin than along any other's. So FC1 itself, not only the layers above it,
    learns that the nearest show the same organ.
    """

    def __init__(self, recipe: Recipe, shape: NetworkShape) -> None:
        super().__init__()
        self.recipe = recipe
        self.directions = (
            nn.Parameter(0.01 * torch.randn(shape.organs, shape.fc1)) if recipe.fc1_weight else None
        )

    def forward(self, output: NetworkOutput, organs: Tensor, modalities: Tensor) -> Tensor:
        """organs, modalities: int64 (N,), -1 where not known."""
        loss = self.cross_entropy(output.organ_logits, organs)
        if output.modality_logits is not None:
            loss = loss + self.recipe.modality_weight * self.cross_entropy(output.modality_logits, modalities)
        if self.directions is not None:
            cosines = F.normalize(output.fc1.float(), dim=1) @ F.normalize(self.directions, dim=1).T
            known = organs >= 0
            if known.any():
                own = F.one_hot(organs[known], cosines.shape[1])
                logits = SCALE * (cosines[known] - self.recipe.fc1_margin * own)
                loss = loss + self.recipe.fc1_weight * F.cross_entropy(logits, organs[known])
        return loss

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """0 where no label is known."""
        known = labels >= 0
        if not known.any():
            return logits.sum() * 0.0
        return F.cross_entropy(logits.float()[known], labels[known])

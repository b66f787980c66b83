"""What is minimised: organs, modalities, and FC1's direction."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ml.network import NetworkOutput
from ml.objective import Objective
from ml.recipes import RECIPES
from tests.factories import tiny_shape

UNKNOWN = torch.full((4,), -1)
ORGANS = torch.tensor([0, 1, 0, 1])


def output(seed: int = 0) -> NetworkOutput:
    torch.manual_seed(seed)
    shape = tiny_shape()
    return NetworkOutput(torch.rand(4, shape.fc1), torch.randn(4, 2), torch.randn(4, 2))


def test_the_paper_minimises_the_negative_log_likelihood_of_the_organ() -> None:
    seen = output()._replace(modality_logits=None)
    loss = Objective(RECIPES["paper"], tiny_shape(2, 0))(seen, ORGANS, UNKNOWN)
    expected = -F.log_softmax(seen.organ_logits, 1)[range(4), ORGANS].mean()
    assert loss.item() == pytest.approx(expected.item())


def test_labels_that_are_not_known_count_for_nothing() -> None:
    objective, seen = Objective(RECIPES["default"], tiny_shape()), output()
    assert objective(seen, UNKNOWN, UNKNOWN).item() == 0
    some = torch.tensor([0, -1, -1, 1])
    fewer = NetworkOutput(*(None if t is None else t[[0, 3]] for t in seen))  # type: ignore[arg-type]
    assert objective(seen, some, some).item() == pytest.approx(
        objective(fewer, some[[0, 3]], some[[0, 3]]).item()
    )


def test_fc1_is_pulled_towards_the_direction_of_its_organ() -> None:
    shape, recipe = tiny_shape(), replace(RECIPES["default"], fc1_weight=1.0)
    objective, seen = Objective(recipe, shape), output()
    assert objective.directions is not None
    aligned = seen._replace(fc1=objective.directions.detach()[ORGANS])
    crossed = seen._replace(fc1=objective.directions.detach()[1 - ORGANS])
    assert objective(aligned, ORGANS, UNKNOWN) < objective(crossed, ORGANS, UNKNOWN)


def test_a_margin_asks_for_more_than_being_nearest() -> None:
    shape = tiny_shape()
    losses = []
    for margin in (0.0, 0.35):
        torch.manual_seed(1)
        objective = Objective(replace(RECIPES["default"], fc1_margin=margin), shape)
        assert objective.directions is not None
        seen = output()._replace(fc1=objective.directions.detach()[ORGANS], modality_logits=None)
        cosine = F.cosine_similarity(objective.directions[0], objective.directions[1], dim=0).item()
        ranking = objective(seen, ORGANS, UNKNOWN) - F.cross_entropy(seen.organ_logits, ORGANS)
        expected = 2 * math.log1p(math.exp(16 * (cosine - 1 + margin)))
        assert ranking.item() == pytest.approx(expected, abs=1e-5)
        losses.append(ranking.item())
    assert losses[1] > losses[0]


def test_without_weight_there_are_no_directions() -> None:
    assert list(Objective(RECIPES["paper"], tiny_shape()).parameters()) == []

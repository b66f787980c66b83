"""`manage.py evaluate_model`: the stated protocol, on a tiny network."""

import json
from io import StringIO
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from ingest.models import Dataset, Image, Split
from ml.evaluating import Described, evaluate, ranked, ranked_relevance, retrieval
from ml.models import Evaluation, ModelVersion
from tests.factories import make_image

pytestmark = pytest.mark.django_db


def described(
    fc1: list[float], organ: list[int], group: list[str], seen: list[int] | None = None
) -> Described:
    """Images whose FC1 has one number; all of one modality."""
    number = len(fc1)
    return Described(
        fc1=np.array(fc1, np.float32)[:, None],
        seen_organ=np.array(organ if seen is None else seen, np.intp),
        seen_modality=np.zeros(number, np.intp),
        organ=np.array(organ, np.intp),
        modality=np.zeros(number, np.intp),
        group=np.array(group),
    )


def test_own_group_is_not_ranked() -> None:
    collection = described([0.0, 1.0, 2.0], [0, 1, 0], ["own", "b", "c"])
    found = retrieval(described([0.1], [0], ["own"]), collection)
    assert found["all"]["organ"]["precision_at_1"] == 0.0
    assert found["all"]["organ"]["map"] == 0.5


def test_a_wrong_prediction_makes_the_predicted_scope_all_wrong() -> None:
    collection = described([0.0, 1.0, 2.0], [0, 1, 0], ["a", "b", "c"])
    found = retrieval(described([0.1], [0], ["q"], seen=[1]), collection)
    assert found["all"]["organ"]["map"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["predicted"]["organ"]["map"] == 0.0


def test_a_right_prediction_makes_the_predicted_scope_all_right() -> None:
    collection = described([0.0, 1.0, 2.0], [0, 1, 0], ["a", "b", "c"])
    found = retrieval(described([0.1], [0], ["q"]), collection)
    assert found["predicted"]["organ"]["map"] == 1.0


def test_a_query_with_nothing_relevant_is_left_out() -> None:
    collection = described([0.0, 1.0], [0, 1], ["a", "b"])
    found = retrieval(described([0.1, 5.0], [0, 2], ["q", "r"]), collection)
    assert found["all"]["organ"]["map"] == 1.0


def test_ranking_is_that_of_a_plain_sort() -> None:
    rng = np.random.default_rng(0)
    queries, collection = rng.random((5, 16), np.float32), rng.random((40, 16), np.float32)
    distances = np.linalg.norm(queries[:, None] - collection[None], axis=2)
    assert (ranked(queries, collection) == distances.argsort(axis=1)).all()


def test_left_out_images_leave_no_gap() -> None:
    order = np.array([[2, 0, 1]])
    relevant, kept = np.array([[True, True, False]]), np.array([[True, False, True]])
    assert ranked_relevance(order, relevant, kept).tolist() == [[False, True, False]]


@pytest.fixture
def collection(model_version: ModelVersion) -> list[Image]:
    return [
        make_image(n, ("brain", "chest")[n % 2], split=Split.TEST if n >= 10 else Split.TRAIN)
        for n in range(14)
    ]


def run(*arguments: str) -> Any:
    out = StringIO()
    call_command("evaluate_model", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def test_the_active_version_is_measured_and_kept(
    collection: list[Image], model_version: ModelVersion
) -> None:
    report = run()
    evaluation = Evaluation.objects.get()
    assert (report["queries"], report["collection"]) == (4, 10)
    assert (evaluation.model_version, evaluation.metrics["organs"]) == (model_version, ["brain", "chest"])
    assert np.sum(report["confusion"]) == 4
    assert report["organ_accuracy"] == np.trace(report["confusion"]) / 4
    assert report["retrieval"]["predicted"]["organ"]["map"] == report["organ_accuracy"]


def test_the_table_names_both_scopes(collection: list[Image]) -> None:
    out = StringIO()
    call_command("evaluate_model", stdout=out)
    assert "whole collection" in out.getvalue()
    assert "predicted organ" in out.getvalue()
    assert "P@10" in out.getvalue()


def test_an_organ_that_the_version_has_never_seen_counts_as_wrong(
    collection: list[Image], model_version: ModelVersion
) -> None:
    make_image(50, "liver", split=Split.TEST)
    evaluation = evaluate(model_version)
    assert evaluation.metrics["organs"] == ["brain", "chest", "liver"]
    assert evaluation.metrics["confusion"][2][2] == 0
    assert sum(evaluation.metrics["confusion"][2]) == 1


def test_datasets_are_measured_apart(collection: list[Image]) -> None:
    other = Dataset.objects.create(name="other")
    make_image(60, "brain", dataset=other, split=Split.TEST)
    make_image(61, "brain", dataset=other)
    report = run("--dataset", "other")
    assert (report["queries"], report["collection"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["v999"], "There is no model version v999"),
        (["--dataset", "nowhere"], "There is no data set named nowhere"),
        ([], "No labelled image is held out for testing"),
    ],
)
def test_what_cannot_be_measured_is_told(
    arguments: list[str], sentence: str, model_version: ModelVersion
) -> None:
    with pytest.raises(CommandError, match=sentence):
        run(*arguments)


def test_without_a_version_in_service_one_has_to_be_named() -> None:
    with pytest.raises(CommandError, match="No model version is in service"):
        run()

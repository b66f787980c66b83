"""`manage.py evaluate_model`: the stated protocol, on a tiny network."""

import json
from io import StringIO
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from ingest.models import Dataset, Image, Split
from ml.evaluating import evaluate
from ml.models import Evaluation, ModelVersion
from tests.factories import make_image

pytestmark = pytest.mark.django_db


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

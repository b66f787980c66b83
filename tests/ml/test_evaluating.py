"""`manage.py evaluate_model`: the stated protocol, on a tiny network."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from ingest.models import Dataset, Image, Split
from ml.evaluating import evaluate
from ml.evaluation_report import curve_points
from ml.models import Evaluation, ModelVersion
from tests.factories import make_image

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]


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
    assert len(report["retrieval"]["all"]["organ"]["curve"]["precision"]) == 101
    assert report["calibration"]["temperature"] == 0.05
    assert sum(entry["images"] for entry in report["calibration"]["after"]["bins"]) == 4
    assert set(report["intervals"]) == {"organ_accuracy", "modality_accuracy", "organ_macro"}


def test_the_table_has_both_scopes_and_intervals(collection: list[Image]) -> None:
    out = StringIO()
    call_command("evaluate_model", stdout=out)
    figures = Evaluation.objects.get().metrics["retrieval"]["all"]["organ"]
    low, high = figures["intervals"]["map"]
    assert "whole collection" in out.getvalue()
    assert "predicted organ" in out.getvalue()
    assert f"{figures['map']:.3f} [{low:.3f}, {high:.3f}]" in out.getvalue()
    assert "P@10" in out.getvalue()


def test_progress_counts_described_images_and_ranked_queries(
    collection: list[Image], model_version: ModelVersion
) -> None:
    steps: list[tuple[int, int]] = []
    evaluate(model_version, on_progress=lambda *step: steps.append(step))
    assert steps == [(4, 18), (14, 18), (18, 18)]


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


@pytest.mark.parametrize("role", ["admin", "curator", "clinician", "integration", "nobody", None])
def test_the_page_of_an_evaluation_by_role(
    role: str | None, client_of: ClientOf, collection: list[Image], model_version: ModelVersion
) -> None:
    evaluation = evaluate(model_version)
    response = client_of(role).get(f"/admin/ml/evaluation/{evaluation.pk}/change/")
    assert (response.status_code == 200) == (role == "admin")
    if role == "admin":
        page = response.content.decode()
        low, high = evaluation.metrics["intervals"]["organ_accuracy"]
        assert f"{evaluation.metrics['organ_accuracy']:.3f} [{low:.3f}, {high:.3f}]" in page
        assert page.count("<polyline") == 6
        assert "Share of right organs over the probability given" in page
        assert page.count('<td class="right"') == 2


def test_an_evaluation_from_before_intervals_has_its_page(
    client_of: ClientOf, model_version: ModelVersion
) -> None:
    found = {"map": 0.625, "map_macro": 0.5, "map_at_10": None, "precision_at_1": 0.75}
    relevances = {"organ": found, "organ_and_modality": found}
    metrics = {
        "organ_accuracy": 0.5,
        "modality_accuracy": None,
        "organ_macro": {"precision": 0.5, "recall": 0.5, "f1": 0.5},
        "organs": ["brain", "chest"],
        "confusion": [[1, 1], [0, 0]],
        "retrieval": {"all": relevances, "predicted": relevances},
    }
    evaluation = Evaluation.objects.create(
        model_version=model_version, queries=2, collection=9, metrics=metrics
    )
    page = client_of("admin").get(f"/admin/ml/evaluation/{evaluation.pk}/change/").content.decode()
    assert "0.625" in page
    assert "recall@10" not in page
    assert "Precision over recall" not in page


def test_a_curve_runs_from_the_upper_left_to_the_lower_right() -> None:
    assert (
        curve_points({"recall": [0, 0.5, 1], "precision": [1, 0.5, 0]}) == "0.0,0.0 130.0,130.0 260.0,260.0"
    )

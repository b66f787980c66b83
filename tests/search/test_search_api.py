"""The search's REST API, for those who may, those who may not, and those who are not signed in."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client

from ingest.models import Image
from ml.models import ModelVersion
from search import answering, asking
from search.models import Embedding, Query
from tests import factories

ClientOf = Callable[[str | None], Client]
API = "/api/v1"


def picture() -> SimpleUploadedFile:
    return SimpleUploadedFile("a.png", factories.png_bytes())


def gets(image: Image, query: Query) -> list[str]:
    return [
        f"{API}/queries/{query.pk}/",
        f"{API}/queries/{query.pk}/results/",
        f"{API}/images/{image.pk}/",
        f"{API}/images/{image.pk}/preview/",
        f"{API}/status/",
    ]


@pytest.mark.parametrize(
    ("role", "status"),
    [
        ("clinician", 200),
        ("curator", 200),
        ("admin", 200),
        ("integration", 200),
        ("nobody", 403),
        (None, 401),
    ],
)
def test_reading_needs_the_role(
    role: str | None, status: int, client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    client = client_of(role)
    for path in gets(collection[0], query):
        assert client.get(path).status_code == status, path


@pytest.mark.parametrize(
    ("role", "status"), [("clinician", 201), ("integration", 201), ("nobody", 403), (None, 401)]
)
def test_asking_needs_the_role(role: str | None, status: int, client_of: ClientOf) -> None:
    assert client_of(role).post(f"{API}/queries/", {"file": picture()}).status_code == status
    assert Query.objects.count() == (status == 201)


def test_asking_with_a_file_gives_an_address_to_follow(
    client_of: ClientOf, model_version: ModelVersion
) -> None:
    client = client_of("clinician")
    response = client.post(f"{API}/queries/", {"file": picture()})
    asked = response.json()
    assert asked["status"] == "waiting"
    assert asked["url"] == response["Location"] == f"http://testserver{API}/queries/{asked['id']}/"
    assert client.get(asked["results_url"]).status_code == 409
    answering.answer(Query.objects.get())
    answer = client.get(asked["url"]).json()
    assert answer["status"] == "answered"
    assert answer["model_version"] == str(model_version)
    assert answer["organ"] == answer["organ_probabilities"][0]["name"]
    assert {entry["name"] for entry in answer["modality_probabilities"]} == {"CT", "MR"}
    assert client.get(asked["page_url"]).status_code == 200


def test_asking_with_an_image_of_the_collection(client_of: ClientOf, collection: list[Image]) -> None:
    response = client_of("integration").post(
        f"{API}/queries/", {"image_id": collection[0].pk}, content_type="application/json"
    )
    assert response.status_code == 201
    assert response.json()["image_id"] == collection[0].pk


@pytest.mark.parametrize(
    "data", [{}, {"image_id": 999_999}, {"image_id": "x"}, {"image_id": "1e400"}, {"file": "no file"}]
)
def test_asking_with_nothing_usable_is_400(data: dict[str, Any], client_of: ClientOf) -> None:
    assert client_of("clinician").post(f"{API}/queries/", data).status_code == 400


def test_asking_with_an_empty_or_too_large_file_is_400(client_of: ClientOf, settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 10
    client = client_of("clinician")
    for content in (b"", b"x" * 11):
        response = client.post(f"{API}/queries/", {"file": SimpleUploadedFile("a.png", content)})
        assert (response.status_code, list(response.json())) == (400, ["file"])


def test_results_have_exactly_the_documented_form(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    page = (
        client_of("integration")
        .get(f"{API}/queries/{query.pk}/results/?scope=all&page_size=4&page=2&collapse=none")
        .json()
    )
    assert page == {
        "count": 6,
        "page": 2,
        "pages": 2,
        "has_next": False,
        "searched_organs": [],
        "newer": 0,
        "plans": [],
        "query": {
            "organ": "brain",
            "organ_probability": 0.75,
            "modality": "CT",
            "modality_probability": 0.9,
            "model_version": str(query.model_version),
        },
        "facets": {"organ": {"brain": 3, "chest": 3}, "modality": {"CT": 6}},
        "results": [
            {
                "rank": rank,
                "image_id": collection[rank - 1].pk,
                "distance": float(rank),
                "match": None,
                "organ": organ,
                "organ_is_predicted": False,
                "modality": "CT",
                "modality_is_predicted": False,
                "is_other_organ": organ != "brain",
                "dataset": "test",
                "more_of_series": 0,
                "nearly_same": 0,
                "file": collection[rank - 1].source_path,
            }
            for rank, organ in [(5, "brain"), (6, "chest")]
        ],
    }


def test_results_keep_file_paths_from_clinicians(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    results = (
        client_of("clinician").get(f"{API}/queries/{query.pk}/results/?scope=predicted").json()["results"]
    )
    assert [(hit["image_id"], hit["file"]) for hit in results] == [(collection[n].pk, "") for n in (0, 2, 4)]


@pytest.mark.parametrize(
    "parameters",
    [
        "scope=elsewhere", "organ=tail", "organ=%00", "modality=ZZ", "dataset=none",
        "page=0", "page=x", "page_size=101", "page_size=0", "sex=X", "age=old", "imported_from=x",
        "series=0", "own=perhaps", "collapse=all", "words=%00",
    ],
)  # fmt: skip
def test_results_with_a_bad_parameter_is_400(
    parameters: str, client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    response = client_of("clinician").get(f"{API}/queries/{query.pk}/results/?{parameters}")
    assert (response.status_code, list(response.json())) == (400, [parameters.split("=")[0]])


def test_how_a_ranking_was_found_is_told_to_admins_alone(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    address = f"{API}/queries/{query.pk}/results/?explain=true"
    plans = client_of("admin").get(address).json()["plans"]
    assert {plan["path"] for plan in plans} == {"exact scan of the projections"}
    response = client_of("clinician").get(address)
    assert (response.status_code, list(response.json())) == (403, ["detail"])


def test_results_of_dropped_embeddings_are_told(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    query.newest_embedding = Embedding.objects.latest("pk").pk
    query.save()
    Embedding.objects.all().delete()
    response = client_of("clinician").get(f"{API}/queries/{query.pk}/results/")
    assert (response.status_code, "has been dropped" in response.json()["detail"]) == (422, True)


def test_several_files_are_one_query(client_of: ClientOf, collection: list[Image]) -> None:
    client = client_of("integration")
    files = [picture(), SimpleUploadedFile("b.png", b"no image"), SimpleUploadedFile("c.png", b"")]
    asked = client.post(f"{API}/queries/", {"file": files}).json()
    query = Query.objects.get(pk=asked["id"])
    answering.answer(query)
    answer = client.get(asked["url"]).json()
    assert answer["status"] == "answered"
    assert sorted(part["status"] for part in answer["parts"]) == ["failed", "failed", "waiting"]
    assert {part["error"] for part in answer["parts"]} >= {"This file is empty."}
    more = client.post(f"{API}/queries/", {"file": picture(), "beside": asked["id"]})
    assert (more.status_code, len(more.json()["parts"])) == (201, 2)
    assert client.post(f"{API}/queries/", {"file": [picture() for _ in range(21)]}).status_code == 422
    assert client.post(f"{API}/queries/", {"file": picture(), "beside": "x"}).status_code == 400


def test_a_part_is_asked_with(client_of: ClientOf, collection: list[Image]) -> None:
    client = client_of("clinician")
    asked = client.post(f"{API}/queries/", {"file": picture()}).json()
    answering.answer(Query.objects.get())
    edges = {"left": 0.1, "top": 0.1, "right": 0.9, "bottom": 0.8}
    response = client.post(f"{asked['url']}region/", edges, content_type="application/json")
    assert response.status_code == 201
    part = response.json()
    assert (part["parent_id"], part["region"]) == (asked["id"], [0.1, 0.1, 0.9, 0.8])
    for status, wrong in ((400, {"right": 1.1}), (400, {"left": "x"}), (422, {"right": 0.1})):
        response = client.post(f"{asked['url']}region/", edges | wrong, content_type="application/json")
        assert response.status_code == status, wrong


def test_marks_refine(client_of: ClientOf, collection: list[Image]) -> None:
    client = client_of("clinician")
    asked = client.post(f"{API}/queries/", {"file": picture()}).json()
    answering.answer(Query.objects.get())
    assert client.post(f"{asked['url']}refine/").json() == {
        "detail": "Mark at least one result as relevant or not relevant first."
    }
    for image, is_relevant in ((0, True), (1, False), (2, True), (2, None)):
        data = {"image_id": collection[image].pk, "is_relevant": is_relevant}
        response = client.post(f"{asked['url']}marks/", data, content_type="application/json")
        assert response.status_code == 200
    marks = {"relevant": [collection[0].pk], "irrelevant": [collection[1].pk]}
    assert client.get(f"{asked['url']}marks/").json() == response.json() == marks
    nothing = {"relevant": [], "irrelevant": []}
    assert client_of("clinician").get(f"{asked['url']}marks/").json() == nothing
    refined = client.post(f"{asked['url']}refine/")
    assert (refined.status_code, refined.json()["parent_id"]) == (201, asked["id"])


def test_only_who_asked_lets_newer_images_in(
    client_of: ClientOf, collection: list[Image], model_version: ModelVersion
) -> None:
    client = client_of("clinician")
    asked = client.post(f"{API}/queries/", {"file": picture()}).json()
    answering.answer(Query.objects.get())
    factories.make_embedding(
        factories.make_image(), model_version, Embedding.objects.earliest("pk").as_point().fc1
    )
    assert client.get(asked["results_url"]).json()["newer"] == 1
    assert client_of("clinician").post(f"{asked['url']}newest/").status_code == 403
    assert client.post(f"{asked['url']}newest/").status_code == 200
    page = client.get(asked["results_url"]).json()
    assert (page["newer"], page["count"]) == (0, 7)


@pytest.mark.parametrize(("role", "status"), [("nobody", 403), (None, 401)])
def test_asking_more_is_closed(role: str | None, status: int, client_of: ClientOf, query: Query) -> None:
    client = client_of(role)
    for name in ("region", "marks", "refine", "newest"):
        assert client.post(f"{API}/queries/{query.pk}/{name}/").status_code == status, name
    assert Query.objects.count() == 1


def test_a_failed_query_has_no_results_but_a_sentence(
    client_of: ClientOf, model_version: ModelVersion
) -> None:
    query = asking.ask_with_file(b"not an image", None)
    answering.answer(query)
    client = client_of("clinician")
    assert client.get(f"{API}/queries/{query.pk}/").json()["error"] == query.error != ""
    response = client.get(f"{API}/queries/{query.pk}/results/")
    assert (response.status_code, response.json()) == (422, {"detail": query.error})


def test_waiting_is_bounded(client_of: ClientOf) -> None:
    query = asking.ask_with_file(factories.png_bytes(), None)
    client = client_of("clinician")
    assert client.get(f"{API}/queries/{query.pk}/?wait=0.1").json()["status"] == "waiting"
    assert client.get(f"{API}/queries/{query.pk}/?wait=11").status_code == 400


@pytest.mark.parametrize(
    "name", ["queries/x", "queries/00000000-0000-0000-0000-000000000000", "images/999999"]
)
def test_what_is_not_there_is_404(name: str, client_of: ClientOf) -> None:
    assert client_of("clinician").get(f"{API}/{name}/").status_code == 404


def test_image_tells_its_labels_and_what_is_seen(client_of: ClientOf, collection: list[Image]) -> None:
    image = client_of("integration").get(f"{API}/images/{collection[1].pk}/").json()
    assert (image["organ"], image["modality"], image["dataset"]) == ("chest", "CT", "test")
    assert image["seen"]["organ"] == "brain"
    assert image["file"] == collection[1].source_path


def test_status_tells_what_can_be_searched_and_by_what(
    client_of: ClientOf, collection: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.make_image()
    monkeypatch.setattr("search.activity.engines_at_work", lambda: ["OpenVINO, CPU bfloat16"])
    status = client_of("integration").get(f"{API}/status/").json()
    assert status == {
        "images": 7,
        "searchable": 6,
        "organs": 2,
        "modalities": 1,
        "model_version": str(ModelVersion.objects.active()),
        "engines": ["OpenVINO, CPU bfloat16"],
        "is_busy": True,
        "index_builds": [],
        "recall_at_20": None,
        "warnings": [],
        "replicas": [],
    }


def test_status_before_the_first_model(client_of: ClientOf) -> None:
    status = client_of("clinician").get(f"{API}/status/").json()
    assert (status["model_version"], status["searchable"], status["is_busy"]) == (None, 0, False)


def test_schema_is_sound_and_needs_an_account(client_of: ClientOf) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", "/dev/null")
    for name in ("schema", "docs"):
        assert client_of("nobody").get(f"{API}/{name}/").status_code == 200
        assert client_of(None).get(f"{API}/{name}/").status_code == 401

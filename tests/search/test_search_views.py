"""The clinician's pages, for those who may, those who may not, and those who are not signed in."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from ingest.models import Image
from ml.models import ModelVersion, TrainingRun
from search import answering, asking
from search.models import Embedding, Query, VersionIndex
from tests import factories

ClientOf = Callable[[str | None], Client]


def page_of(query: Query) -> str:
    return reverse("search:query_detail", args=[query.pk])


def image_ids(response: Any) -> list[int]:
    return [hit.image_id for hit in response.context["result"].hits]


@pytest.mark.parametrize("role", ["clinician", "curator", "admin", "integration"])
def test_pages_open_for_every_role(
    role: str, client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    client = client_of(role)
    for path in pages(collection[0], query):
        assert client.get(path).status_code == 200, path


def test_pages_are_closed_to_accounts_without_a_role(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    client = client_of("nobody")
    for path in pages(collection[0], query):
        response = client.get(path)
        assert response.status_code == 403, path
        assert "Not for this account" in response.content.decode()


def test_pages_ask_strangers_to_sign_in(client_of: ClientOf, collection: list[Image], query: Query) -> None:
    client = client_of(None)
    for path in pages(collection[0], query):
        assert client.get(path).url == f"/accounts/login/?next={path}"


def pages(image: Image, query: Query) -> list[str]:
    return [
        "/",
        "/status/",
        page_of(query),
        f"/queries/{query.pk}/preview/",
        f"/queries/{query.pk}/why/{image.pk}/",
        f"/images/{image.pk}/",
        f"/images/{image.pk}/preview/",
    ]


@pytest.mark.parametrize(("role", "status"), [("nobody", 403), (None, 302)])
def test_asking_is_closed(
    role: str | None, status: int, client_of: ClientOf, collection: list[Image]
) -> None:
    client = client_of(role)
    file = SimpleUploadedFile("a.png", factories.png_bytes())
    assert client.post("/queries/", {"file": file}).status_code == status
    assert client.post(f"/images/{collection[0].pk}/search/").status_code == status
    assert not Query.objects.exists()


def test_uploading_records_a_query_of_the_user(client_of: ClientOf) -> None:
    client = client_of("clinician")
    response = client.post("/queries/", {"file": SimpleUploadedFile("a.png", factories.png_bytes())})
    query = Query.objects.get()
    assert response.url == page_of(query)  # type: ignore[attr-defined]
    assert query.created_by_id == int(client.session["_auth_user_id"])
    assert query.upload.read() == factories.png_bytes()


def test_uploading_with_htmx_sends_the_browser_to_the_answer(client_of: ClientOf) -> None:
    response = client_of("clinician").post(
        "/queries/",
        {"file": SimpleUploadedFile("a.png", factories.png_bytes())},
        headers={"HX-Request": "true"},
    )
    assert response["HX-Redirect"] == page_of(Query.objects.get())


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (None, "Choose an image to search with."),
        (SimpleUploadedFile("a.png", b""), "This file is empty."),
        (SimpleUploadedFile("a.png", b"x" * 2000), "larger than 1.0\xa0KB"),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}])
def test_a_file_that_cannot_be_taken_is_refused_with_a_sentence(
    file: SimpleUploadedFile | None,
    sentence: str,
    headers: dict[str, str],
    client_of: ClientOf,
    settings: Any,
) -> None:
    settings.MAX_UPLOAD_BYTES = 1024
    if file:
        file.seek(0)
    response = client_of("clinician").post("/queries/", {"file": file} if file else {}, headers=headers)
    assert response.status_code == 422
    assert sentence in response.content.decode()
    assert not Query.objects.exists()


def test_get_of_the_upload_address_is_not_allowed(client_of: ClientOf) -> None:
    assert client_of("clinician").get("/queries/").status_code == 405


def test_answer_ranks_the_predicted_organ(client_of: ClientOf, collection: list[Image], query: Query) -> None:
    response = client_of("clinician").get(page_of(query) + "?scope=predicted")
    assert image_ids(response) == [collection[0].pk, collection[2].pk, collection[4].pk]
    assert response.context["result"].organ_facets == [("brain", 3), ("chest", 3)]
    assert "75.0%" in response.content.decode()
    assert "other organ" not in response.content.decode()


@pytest.mark.parametrize("parameters", ["", "?scope=blended", "?scope=all"])
def test_answer_in_the_whole_collection_marks_other_organs(
    parameters: str, client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    response = client_of("clinician").get(page_of(query) + parameters)
    assert image_ids(response) == [image.pk for image in collection]
    assert response.content.decode().count("card-other") == 3
    assert response.content.decode().count("</svg> other organ") == 3


@pytest.mark.parametrize(
    ("parameters", "numbers"),
    [
        ("organ=chest", [2, 4, 6]),
        ("scope=all&organ=brain", [1, 3, 5]),
        ("scope=all&modality=CT", [1, 2, 3, 4, 5, 6]),
        ("scope=all&dataset=test", [1, 2, 3, 4, 5, 6]),
        ("scope=elsewhere&organ=tail&modality=%00&dataset=none&page=-3", [1, 2, 3, 4, 5, 6]),
        ("scope=predicted&page=99999999999999999999", [1, 3, 5]),
        ("scope=predicted&page=77", [1, 3, 5]),
        ("scope=predicted&page=x", [1, 3, 5]),
        ("sex=F", [1, 4]),
        ("sex=f&age=old&imported_from=yesterday&words=%00&series=x&collapse=all", [1, 2, 3, 4, 5, 6]),
        ("age=60-79", [1, 2]),
        ("view=pa", [3]),
        ("words=ankle", [5]),
        ("imported_to=2001-01-01", [6]),
        ("imported_from=2001-01-02&sex=F", [1, 4]),
        ("sex=F&age=60-79&scope=predicted", [1]),
    ],
)
def test_answer_follows_its_query_string_and_ignores_the_unknown(
    parameters: str, numbers: list[int], client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    facts: dict[int, dict[str, Any]] = {
        1: {"tags": {"PatientSex": "F", "PatientAge": "063Y"}},
        2: {"tags": {"PatientAge": "060Y"}},
        3: {"tags": {"ViewPosition": "PA"}},
        4: {"tags": {"PatientSex": "F", "PatientAge": "059Y"}},
        5: {"tags": {"SeriesDescription": "ankle stir"}},
        6: {"created_at": datetime(2000, 12, 31, tzinfo=UTC)},
    }
    for number, values in facts.items():
        Image.objects.filter(pk=collection[number - 1].pk).update(**values)
    response = client_of("clinician").get(f"{page_of(query)}?{parameters}")
    assert image_ids(response) == [collection[number - 1].pk for number in numbers]


def test_answer_without_hits_offers_to_clear_the_filters(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    factories.make_image(modality="MR")
    response = client_of("clinician").get(page_of(query) + "?modality=MR")
    assert "Nothing matches these filters" in response.content.decode()
    assert 'href="?"' in response.content.decode()


def test_answer_is_paged(
    client_of: ClientOf, collection: list[Image], query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.views.PAGE_SIZE", 4)
    for collapse in ("series", "none"):
        address = f"{page_of(query)}?scope=all&collapse={collapse}"
        response = client_of("clinician").get(f"{address}&page=2")
        assert image_ids(response) == [collection[4].pk, collection[5].pk]
        content = response.content.decode()
        assert 'start="5"' in content
        assert f'href="?scope=all&amp;collapse={collapse}" rel="prev"' in content
        assert ("· page 2 of 2" in content) == (collapse == "none")
        assert 'rel="next"' not in content
        assert 'rel="next"' in client_of("clinician").get(address).content.decode()


def test_htmx_gets_the_results_alone(client_of: ClientOf, collection: list[Image], query: Query) -> None:
    headers = {"HX-Request": "true", "HX-Target": "results"}
    response = client_of("clinician").get(page_of(query), headers=headers)
    assert response.content.decode().lstrip().startswith('<section id="results"')
    assert "HX-Request" in response["Vary"]


def test_predicted_labels_are_marked(client_of: ClientOf, model_version: ModelVersion, query: Query) -> None:
    image = factories.make_image(organ=None, modality=None)
    factories.make_embedding(image, model_version, np.ones(4096, np.float32))
    content = client_of("clinician").get(page_of(query)).content.decode()
    assert 'class="predicted" title="Predicted; the image has no organ label">brain<' in content


def test_a_waiting_query_asks_again_by_itself(client_of: ClientOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.views.WAIT_SECONDS", 0)
    query = asking.ask_with_file(factories.png_bytes(), None)
    content = client_of("clinician").get(page_of(query)).content.decode()
    assert 'hx-trigger="load delay:500ms"' in content
    assert '<noscript><meta http-equiv="refresh"' in content


def test_a_failed_query_says_why_and_takes_another_file(client_of: ClientOf) -> None:
    query = asking.ask_with_file(b"not an image", None)
    answering.answer(query)
    content = client_of("clinician").get(page_of(query)).content.decode()
    assert query.error
    assert query.error in content
    assert "data-upload" in content


def test_an_uploaded_picture_is_answered_for_real(client_of: ClientOf, collection: list[Image]) -> None:
    client = client_of("clinician")
    client.post("/queries/", {"file": SimpleUploadedFile("a.dcm", factories.dicom_bytes())})
    query = Query.objects.get()
    answering.answer(query)
    response = client_of("curator").get(page_of(query))  # a colleague
    assert response.context["query"].predicted_organ in {"brain", "chest"}
    assert len(image_ids(response)) == 6
    assert client.get(f"/queries/{query.pk}/preview/")["Content-Type"] == "image/jpeg"


def test_searching_with_an_image_leaves_it_out(client_of: ClientOf, collection: list[Image]) -> None:
    client = client_of("clinician")
    response = client.post(f"/images/{collection[0].pk}/search/")
    query = Query.objects.get()
    answering.answer(query)
    assert collection[0].pk not in image_ids(client.get(response.url + "?scope=all"))  # type: ignore[attr-defined]


def test_image_page_tells_tags_and_hides_the_path(client_of: ClientOf, collection: list[Image]) -> None:
    image = collection[0]
    image.tags = {"SliceThickness": 1.5, "ImageType": ["ORIGINAL", "PRIMARY"]}
    image.assumptions = ["No window is given; one was chosen."]
    image.save()
    path = f"/images/{image.pk}/"
    content = client_of("clinician").get(path).content.decode()
    assert "<dt>Slice Thickness</dt><dd>1.5</dd>" in content
    assert "<dd>ORIGINAL, PRIMARY</dd>" in content
    assert "No window is given" in content
    assert image.source_path not in content
    assert image.source_path in client_of("curator").get(path).content.decode()


def test_image_page_shows_the_rest_of_the_series(client_of: ClientOf) -> None:
    first, second = (
        factories.make_image(series_key="s", group_key="g", frame_number=number) for number in (1, 2)
    )
    factories.make_image(series_key="s2", group_key="g")
    response = client_of("clinician").get(f"/images/{first.pk}/")
    assert list(response.context["neighbours"]) == [second]


def test_previews_are_private_and_kept(client_of: ClientOf, collection: list[Image]) -> None:
    response = client_of("clinician").get(f"/images/{collection[0].pk}/preview/")
    assert response["Cache-Control"] == "private, max-age=86400, immutable"
    assert response["Content-Type"] == "image/jpeg"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert b"".join(response.streaming_content)[:2] == b"\xff\xd8"  # type: ignore[attr-defined]


def test_what_is_not_there_is_404(client_of: ClientOf, collection: list[Image]) -> None:
    client = client_of("clinician")
    waiting = Query.objects.create()
    default_storage.delete(str(collection[0].preview.name))
    for path in [
        "/nothing/",
        "/images/999999/",
        f"/images/{collection[0].pk}/preview/",
        f"/queries/{waiting.pk}/preview/",
        "/queries/00000000-0000-0000-0000-000000000000/",
    ]:
        response = client.get(path)
        assert response.status_code == 404, path
        assert "Nothing here" in response.content.decode()


def test_home_shows_what_is_going_on(client_of: ClientOf) -> None:
    TrainingRun.objects.create(
        status="running",
        progress={"epoch": 2, "epochs": 4, "step": 5, "steps": 10, "seconds_left": 600},
        history=[{"train_loss": 1.25, "val_accuracy": 0.5}],
    )
    content = " ".join(client_of("clinician").get("/").content.decode().split())
    assert "No model is in service yet." in content
    assert "epoch 2 of 4 · loss 1.250 · accuracy 50.0% · about 10 minutes left" in content
    assert 'aria-valuenow="38"' in content


def test_home_of_an_installation_at_rest_does_not_poll(client_of: ClientOf, collection: list[Image]) -> None:
    response = client_of("clinician").get("/")
    assert response.context["activity"].searchable == 6
    assert "every 2s" not in response.content.decode()


def test_status_part_for_htmx(client_of: ClientOf) -> None:
    response = client_of("clinician").get("/status/", headers={"HX-Request": "true"})
    assert response.content.decode().lstrip().startswith('<section id="status"')
    assert "every 2s" in response.content.decode()


def test_home_shows_only_my_queries(client_of: ClientOf, query: Query) -> None:
    client = client_of("clinician")
    client.post("/queries/", {"file": SimpleUploadedFile("a.png", factories.png_bytes())})
    mine = Query.objects.exclude(pk=query.pk).get()
    assert list(client.get("/").context["recent_queries"]) == [mine]


def test_health_is_public(db: None) -> None:
    response = Client().get("/healthz")
    assert (response.status_code, response.content) == (200, b"ok")


def test_an_unsure_network_offers_the_two_likely_organs(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    query.organ_probabilities = [["brain", 0.55], ["chest", 0.45]]
    query.save()
    client = client_of("clinician")
    content = client.get(page_of(query)).content.decode()
    assert "The network is not sure of the organ." in content
    assert 'href="?organ=chest"' in content
    assert "Predicted organ: brain or chest" in content
    assert len(image_ids(client.get(page_of(query) + "?scope=predicted"))) == 6
    assert "not sure of the organ" not in client.get(page_of(query) + "?organ=chest").content.decode()


def test_a_query_like_nothing_is_told_and_its_results_are_marked(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    client = client_of("clinician")
    assert "No good match" not in client.get(page_of(query)).content.decode()
    query.is_unlike = True
    query.save()
    content = client.get(page_of(query)).content.decode()
    assert "<h2>No good match</h2>" in content
    assert content.count(">no good match<") == 6


def test_match_quality_is_in_words(
    client_of: ClientOf, collection: list[Image], query: Query, model_version: ModelVersion
) -> None:
    VersionIndex.objects.create(
        model_version=model_version,
        same_organ=[number / 10 for number in range(101)],
        other_organ=[3 + number / 10 for number in range(101)],
    )
    content = client_of("clinician").get(page_of(query)).content.decode()
    assert content.count("strong match") == 3  # nearer than any pair of two organs
    assert "Nearer than 90 % of pairs of images of one organ are; 0" in content
    assert content.count("weak match") == 3


def test_a_series_is_one_result_and_opens(client_of: ClientOf, collection: list[Image], query: Query) -> None:
    series = [image.pk for image in collection[:3]]
    Image.objects.filter(pk__in=series).update(series_key="one", group_key="somebody")
    client = client_of("clinician")
    response = client.get(page_of(query))
    assert image_ids(response) == [series[0], *[image.pk for image in collection[3:]]]
    content = response.content.decode()
    assert f'href="?series={series[0]}&amp;collapse=none">+2 of this series</a>' in content
    opened = client.get(f"{page_of(query)}?series={series[0]}&collapse=none")
    assert image_ids(opened) == series
    assert 'href="?">Back to all results</a>' in opened.content.decode()
    assert len(image_ids(client.get(page_of(query) + "?collapse=none"))) == 6


def test_own_images_are_left_out_until_they_are_wanted(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    Image.objects.filter(pk=collection[0].pk).update(group_key="mine")
    query.group_key = "mine"
    query.save()
    client = client_of("clinician")
    assert collection[0].pk not in image_ids(client.get(page_of(query)))
    shown = client.get(page_of(query) + "?own=1")
    assert image_ids(shown)[0] == collection[0].pk
    assert 'aria-checked="true"' in shown.content.decode()


def test_only_admins_are_told_how_a_ranking_was_found(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    address = page_of(query) + "?explain=1"
    assert "exact scan of the projections" in client_of("admin").get(address).content.decode()
    assert "exact scan" not in client_of("admin").get(page_of(query)).content.decode()
    assert "exact scan" not in client_of("clinician").get(address).content.decode()


def test_filters_in_use_can_be_taken_away_one_by_one(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    content = client_of("clinician").get(page_of(query) + "?sex=F&view=pa&scope=all&page=2").content.decode()
    assert (
        'href="?view=pa&amp;scope=all" aria-current="true" title="Take this filter away">Patient' in content
    )
    assert ">View position: PA</a>" in content
    assert '<input type="hidden" name="scope" value="all">' in content


def test_results_whose_embeddings_are_dropped_say_so(
    client_of: ClientOf, collection: list[Image], query: Query
) -> None:
    query.newest_embedding = Embedding.objects.latest("pk").pk
    query.save()
    Embedding.objects.all().delete()
    client = client_of("clinician")
    content = client.get(page_of(query)).content.decode()
    assert "These results are no longer kept" in content
    response = client.post(f"/queries/{query.pk}/again/")
    assert Query.objects.filter(pk=response.url.split("/")[2]).exclude(pk=query.pk).exists()  # type: ignore[attr-defined]

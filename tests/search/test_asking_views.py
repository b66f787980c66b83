"""Asking with several files, with a part of a picture, with marks: in the browser's forms."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from ingest.models import Image
from ml.models import ModelVersion
from search import answering
from search.marking import marks_of
from search.models import Embedding, Mark, Query, QueryStatus
from tests import factories

ClientOf = Callable[[str | None], Client]


def png(seed: int = 0) -> SimpleUploadedFile:
    return SimpleUploadedFile(f"{seed}.png", factories.png_bytes(seed=seed))


def asked(response: Any) -> Query:
    return Query.objects.get(pk=response.url.split("/")[2])


def answered(response: Any) -> Query:
    query = asked(response)
    answering.answer(query)
    query.refresh_from_db()
    assert query.status == QueryStatus.ANSWERED, query.error
    return query


@pytest.fixture
def mine(client_of: ClientOf, collection: list[Image]) -> tuple[Client, Query]:
    """A clinician, and a query of theirs that is answered."""
    client = client_of("clinician")
    return client, answered(client.post("/queries/", {"file": png()}))


@pytest.mark.parametrize(("role", "status"), [("nobody", 403), (None, 302)])
def test_asking_more_is_closed(role: str | None, status: int, client_of: ClientOf, query: Query) -> None:
    client = client_of(role)
    for name in ("region", "marks", "refine", "newest", "again"):
        assert client.post(f"/queries/{query.pk}/{name}/").status_code == status, name
    assert Query.objects.count() == 1


def test_several_files_are_one_query_and_a_bad_one_fails_alone(
    client_of: ClientOf, collection: list[Image]
) -> None:
    client = client_of("clinician")
    letter = SimpleUploadedFile("Meier Anna.dcm", b"Dear colleague")
    empty = SimpleUploadedFile("empty.png", b"")
    query = answered(client.post("/queries/", {"file": [png(1), letter, png(2), empty]}))
    assert [part.status for part in query.pictures()].count("failed") == 2
    content = client.get(f"/queries/{query.pk}/").content.decode()
    assert "<strong>Meier Anna.dcm</strong>" in content
    assert "This file is empty." in content
    assert content.count('alt="Image ') == 2
    colleague = client_of("clinician").get(f"/queries/{query.pk}/").content.decode()
    assert "Meier" not in colleague
    assert "This file is empty." in colleague


def test_several_files_none_of_which_is_an_image(client_of: ClientOf, collection: list[Image]) -> None:
    client = client_of("clinician")
    letters = [SimpleUploadedFile(f"{n}.txt", b"letter %d" % n) for n in range(2)]
    query = asked(client.post("/queries/", {"file": letters}))
    answering.answer(query)
    content = client.get(f"/queries/{query.pk}/").content.decode()
    assert answering.NONE_READABLE in content
    assert "<strong>1.txt</strong>" in content


def test_too_many_files_are_refused_with_a_sentence(client_of: ClientOf, collection: list[Image]) -> None:
    response = client_of("clinician").post("/queries/", {"file": [png(n) for n in range(21)]})
    assert response.status_code == 422
    assert "20 images at most" in response.content.decode()
    assert not Query.objects.exists()


def test_files_none_of_which_can_be_taken_are_named(client_of: ClientOf, db: None) -> None:
    client = client_of("clinician")
    files = [SimpleUploadedFile(f"{n}.png", b"") for n in range(2)]
    response = client.post("/queries/", {"file": files})
    assert response.status_code == 422
    assert "0.png: This file is empty. 1.png: This file is empty." in response.content.decode()
    many = client.post("/queries/", {"file": [SimpleUploadedFile(f"{n}.png", b"") for n in range(21)]})
    assert "20 images at most" in many.content.decode()
    assert not Query.objects.exists()


def test_files_are_taken_while_there_is_room_for_them(
    client_of: ClientOf, collection: list[Image], settings: Any
) -> None:
    first, second = png(1), png(2)
    settings.MAX_UPLOAD_BYTES = (first.size or 0) + (second.size or 0) - 1
    query = answered(client_of("clinician").post("/queries/", {"file": [first, second]}))
    assert sorted(part.error.split(":")[0] for part in query.pictures()) == [
        "",
        "There was no room for this file",
    ]


def test_a_name_is_forgotten_once_its_file_has_been_read(
    client_of: ClientOf, collection: list[Image], caplog: pytest.LogCaptureFixture
) -> None:
    scan = SimpleUploadedFile("Meier Anna.dcm", factories.dicom_bytes())
    letter = SimpleUploadedFile("Huber Eva.dcm", b"Dear colleague")
    query = answered(client_of("clinician").post("/queries/", {"file": [scan, letter]}))
    assert {part.file_name for part in query.pictures()} == {"", "Huber Eva.dcm"}
    assert not any(name in caplog.text for name in ("Meier", "Huber"))
    admin = client_of("admin")
    for part in query.pictures():
        page = admin.get(f"/admin/search/query/{part.pk}/change/")
        assert page.status_code == 200
        assert "Huber" not in page.content.decode()


def test_several_pictures_are_shown_by_the_first_that_can_be_read(
    client_of: ClientOf, collection: list[Image]
) -> None:
    client = client_of("clinician")
    letter = SimpleUploadedFile("a.dcm", b"Dear colleague")
    query = answered(client.post("/queries/", {"file": [letter, png(1), png(2)]}))
    _, first, _ = query.pictures()
    assert query.preview.name == first.preview.name
    assert client.get(f"/queries/{query.pk}/preview/").status_code == 200
    assert list(client.get("/").context["recent_queries"]) == [query]


def test_a_search_that_a_colleague_has_added_to_is_still_mine(
    mine: tuple[Client, Query], client_of: ClientOf
) -> None:
    client, query = mine
    colleague = client_of("clinician")
    both = asked(colleague.post("/queries/", {"file": png(5), "beside": query.pk}))
    assert list(client.get("/").context["recent_queries"]) == [query]
    assert list(colleague.get("/").context["recent_queries"]) == [both]


def test_a_refusal_keeps_the_wish_to_add(mine: tuple[Client, Query]) -> None:
    client, query = mine
    data = {"file": SimpleUploadedFile("a.png", b""), "beside": query.pk, "query": query.pk, "compact": "1"}
    content = client.post("/queries/", data, headers={"HX-Request": "true"}).content.decode()
    assert f'name="beside" value="{query.pk}" checked' in content


def test_another_image_is_added_to_a_search(mine: tuple[Client, Query]) -> None:
    client, query = mine
    both = answered(client.post("/queries/", {"file": png(5), "beside": query.pk}))
    assert len(both.pictures()) == 2
    three = answered(client.post("/queries/", {"file": png(6), "beside": both.pk}))
    assert len(three.pictures()) == 3
    assert query in three.pictures()


@pytest.mark.parametrize("beside", ["x", "b7aea81c-8223-40bc-a5a5-53929ac34ad1"])
def test_adding_to_a_search_that_is_not_there(beside: str, client_of: ClientOf, db: None) -> None:
    response = client_of("clinician").post("/queries/", {"file": png(), "beside": beside})
    assert response.status_code == 422
    assert "is gone" in response.content.decode()


def test_a_part_of_the_picture_is_a_query_of_its_own(mine: tuple[Client, Query]) -> None:
    client, query = mine
    edges = {"left": "10", "top": "20.5", "right": "60", "bottom": "90"}
    part = answered(client.post(f"/queries/{query.pk}/region/", edges))
    assert (part.parent, part.region) == (query, [0.1, 0.205, 0.6, 0.9])
    assert part.preview.name != query.preview.name
    assert f'A part of <a href="/queries/{query.pk}/">' in client.get(f"/queries/{part.pk}/").content.decode()


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}], ids=["page", "htmx"])
@pytest.mark.parametrize(
    ("edges", "sentence"),
    [
        ({}, "Give all four edges"),
        ({"left": "nan", "top": "0", "right": "50", "bottom": "50"}, "Give all four edges"),
        ({"left": "middle", "top": "0", "right": "1e999", "bottom": "50"}, "Give all four edges"),
        ({"left": "-1", "top": "0", "right": "50", "bottom": "101"}, "Give all four edges"),
        ({"left": "50", "top": "0", "right": "50", "bottom": "50"}, "Draw a rectangle inside the picture."),
        ({"left": "0", "top": "0", "right": "1", "bottom": "50"}, "This part is too small"),
    ],
)
def test_a_part_that_is_none_is_told_and_what_was_given_is_kept(
    edges: dict[str, str], sentence: str, headers: dict[str, str], mine: tuple[Client, Query]
) -> None:
    client, query = mine
    response = client.post(f"/queries/{query.pk}/region/", edges, headers=headers)
    content = response.content.decode()
    assert response.status_code == 422
    assert sentence in content
    assert "data-region open" in content
    assert all(f'value="{value}"' in content for value in edges.values())
    assert ("Back to the results" in content) == (not headers)
    assert Query.objects.count() == 1


def test_a_part_is_of_one_picture_alone(mine: tuple[Client, Query]) -> None:
    client, query = mine
    both = answered(client.post("/queries/", {"file": png(5), "beside": query.pk}))
    edges = {"left": "0", "top": "0", "right": "100", "bottom": "100"}
    response = client.post(f"/queries/{both.pk}/region/", edges)
    assert response.status_code == 422
    assert "Choose a part of a single image." in response.content.decode()
    assert "data-region open" not in client.get(f"/queries/{both.pk}/").content.decode()


def test_a_search_without_a_picture_has_no_parts(client_of: ClientOf, db: None) -> None:
    waiting = Query.objects.create()
    edges = {"left": "0", "top": "0", "right": "100", "bottom": "100"}
    response = client_of("clinician").post(f"/queries/{waiting.pk}/region/", edges)
    assert response.status_code == 422
    assert "has no picture" in response.content.decode()


def test_marks_are_a_persons_own_and_can_be_taken_back(
    mine: tuple[Client, Query], client_of: ClientOf, collection: list[Image]
) -> None:
    client, query = mine
    path = f"/queries/{query.pk}/marks/"
    headers = {"HX-Request": "true"}
    client.post(path, {"image": collection[0].pk, "relevant": "yes"})
    response = client.post(path, {"image": collection[1].pk, "relevant": "no"}, headers=headers)
    content = response.content.decode()
    assert 'hx-swap-oob="true"' in content
    assert "1 marked relevant, 1 not<" in content
    assert 'aria-pressed="true"' in content
    assert "marked relevant" not in client_of("clinician").get(f"/queries/{query.pk}/").content.decode()
    client.post(path, {"image": collection[1].pk, "relevant": "none"})
    assert list(Mark.objects.values_list("image_id", "is_relevant")) == [(collection[0].pk, True)]


@pytest.mark.parametrize(
    ("data", "status"),
    [({}, 422), ({"image": "x", "relevant": "yes"}, 422), ({"image": "999999", "relevant": "yes"}, 404)],
)
def test_a_mark_on_nothing(data: dict[str, str], status: int, mine: tuple[Client, Query]) -> None:
    client, query = mine
    assert client.post(f"/queries/{query.pk}/marks/", data).status_code == status


def test_a_mark_leads_back_to_its_page_of_results_and_nowhere_else(
    mine: tuple[Client, Query], collection: list[Image]
) -> None:
    client, query = mine
    page = f"/queries/{query.pk}/"
    strange = [
        "",
        "/",
        "https://elsewhere/",
        f"//elsewhere{page}",
        f"{page}marks/",
        f"{page}../../admin/",
        "//[",
    ]
    for wanted, given in [(f"{page}?page=2", f"{page}?page=2"), *[(place, page) for place in strange]]:
        data = {"image": collection[0].pk, "relevant": "yes", "next": wanted}
        assert client.post(f"{page}marks/", data).url == given  # type: ignore[attr-defined]


def test_refining_goes_on_from_the_marks_and_is_undone(
    mine: tuple[Client, Query], collection: list[Image]
) -> None:
    client, query = mine
    client.post(f"/queries/{query.pk}/marks/", {"image": collection[5].pk, "relevant": "yes"})
    refined = answered(client.post(f"/queries/{query.pk}/refine/"))
    assert refined.original == query
    content = client.get(f"/queries/{refined.pk}/").content.decode()
    assert "Refined by 1 relevant, 0 not." in content
    assert f'<a href="/queries/{query.pk}/" hx-boost="false">Undo</a>' in content
    assert "Refine the results" not in content
    client.post(f"/queries/{refined.pk}/marks/", {"image": collection[0].pk, "relevant": "no"})
    assert "Refine the results" in client.get(f"/queries/{refined.pk}/").content.decode()
    again = answered(client.post(f"/queries/{refined.pk}/refine/"))
    assert again.original == query
    assert (again.relevant.count(), again.irrelevant.count()) == (1, 1)
    assert marks_of(query, again.created_by).relevant == {collection[5].pk}  # type: ignore[arg-type]


def test_refining_and_undoing_keep_the_filters(mine: tuple[Client, Query], collection: list[Image]) -> None:
    client, query = mine
    page = f"/queries/{query.pk}/?scope=all&modality=CT&page=1"
    data = {"image": collection[5].pk, "relevant": "yes", "next": page}
    bar = client.post(f"/queries/{query.pk}/marks/", data, headers={"HX-Request": "true"}).content.decode()
    assert f'name="next" value="{page.replace("&", "&amp;")}"' in bar
    refined = client.post(f"/queries/{query.pk}/refine/", {"next": page})
    assert refined.url == f"/queries/{answered(refined).pk}/?scope=all&modality=CT"  # type: ignore[attr-defined]
    undo = f'<a href="/queries/{query.pk}/?scope=all&amp;modality=CT" hx-boost="false">Undo</a>'
    assert undo in client.get(refined.url).content.decode()  # type: ignore[attr-defined]


def test_a_search_without_results_is_not_refined(
    client_of: ClientOf, model_version: ModelVersion, collection: list[Image]
) -> None:
    client = client_of("clinician")
    waiting = asked(client.post("/queries/", {"file": png()}))
    client.post(f"/queries/{waiting.pk}/marks/", {"image": collection[0].pk, "relevant": "yes"})
    response = client.post(f"/queries/{waiting.pk}/refine/", follow=True)
    assert "no results that it could be refined by" in response.content.decode()
    answering.answer(waiting)
    Embedding.objects.all().delete()
    response = client.post(f"/queries/{waiting.pk}/refine/", follow=True)
    assert "no results that it could be refined by" in response.content.decode()


def test_refining_without_marks_is_told(mine: tuple[Client, Query]) -> None:
    client, query = mine
    response = client.post(f"/queries/{query.pk}/refine/", follow=True)
    assert "Mark at least one result" in response.content.decode()
    assert Query.objects.count() == 1


def test_newer_images_wait_until_they_are_wanted(
    mine: tuple[Client, Query], client_of: ClientOf, model_version: ModelVersion
) -> None:
    client, query = mine
    image = factories.make_image(seed=99, organ="chest")
    embedding = Embedding.objects.latest("pk")
    factories.make_embedding(image, model_version, embedding.as_point().fc1)
    page = f"/queries/{query.pk}/"
    content = client.get(page).content.decode()
    assert "1 image has been added since this search." in content
    assert f'href="/images/{image.pk}/"' not in content
    assert "has been added" not in client_of("clinician").get(page).content.decode()
    assert client_of("clinician").post(f"{page}newest/").status_code == 403
    response = client.post(f"{page}newest/", {"next": f"{page}?scope=all"}, follow=True)
    assert response.redirect_chain == [(f"{page}?scope=all", 302)]
    assert f'href="/images/{image.pk}/"' in response.content.decode()

"""Asking with several files, with a part of a picture, with marks: in the browser's forms."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

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


def test_another_image_is_added_to_a_search(mine: tuple[Client, Query]) -> None:
    client, query = mine
    both = answered(client.post("/queries/", {"file": png(5), "beside": query.pk}))
    assert len(both.pictures()) == 2
    three = answered(client.post("/queries/", {"file": png(6), "beside": both.pk}))
    assert len(three.pictures()) == 3
    assert query in three.pictures()


@pytest.mark.parametrize("beside", ["x", str(uuid4())])
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


@pytest.mark.parametrize(
    ("edges", "sentence"),
    [
        ({}, "Give all four edges"),
        ({"left": "nan", "top": "0", "right": "50", "bottom": "50"}, "Give all four edges"),
        ({"left": "-1", "top": "0", "right": "50", "bottom": "101"}, "Give all four edges"),
        ({"left": "50", "top": "0", "right": "50", "bottom": "50"}, "Draw a rectangle inside the picture."),
        ({"left": "0", "top": "0", "right": "1", "bottom": "50"}, "This part is too small"),
    ],
)
def test_a_part_that_is_none_is_told(
    edges: dict[str, str], sentence: str, mine: tuple[Client, Query]
) -> None:
    client, query = mine
    response = client.post(f"/queries/{query.pk}/region/", edges, follow=True)
    assert sentence in response.content.decode()
    assert Query.objects.count() == 1


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
    assert "1 marked relevant, 1 not relevant" in content
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
    for wanted, given in ((f"{page}?page=2", f"{page}?page=2"), ("https://elsewhere/", page), ("/", page)):
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
    assert "Refined by 1 relevant and 0 not relevant results." in content
    assert f'<a href="/queries/{query.pk}/" hx-boost="false">Undo</a>' in content
    assert "Refine the results" not in content
    client.post(f"/queries/{refined.pk}/marks/", {"image": collection[0].pk, "relevant": "no"})
    assert "Refine the results" in client.get(f"/queries/{refined.pk}/").content.decode()
    again = answered(client.post(f"/queries/{refined.pk}/refine/"))
    assert again.original == query
    assert (again.relevant.count(), again.irrelevant.count()) == (1, 1)
    assert marks_of(query, again.created_by).relevant == {collection[5].pk}  # type: ignore[arg-type]


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

"""Why an image is like a query: made by a real worker's code, shown to those who may see both."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from django.core.files.storage import default_storage
from django.test import Client
from PIL import Image as PillowImage

from ingest.models import Image
from ml.attribution import likeness, what_matters
from search import answering, asking, explaining
from search.models import Explanation, Query, QueryStatus
from tests import factories

ClientOf = Callable[[str | None], Client]


@pytest.fixture
def asked(collection: list[Image]) -> Query:
    query = asking.ask_with_file(factories.png_bytes(), None)
    answering.answer(query)
    return query


def page_of(query: Query, image: Image) -> str:
    return f"/queries/{query.pk}/why/{image.pk}/"


def test_what_is_shared_matters_most() -> None:
    def describe(renditions: np.ndarray, framed_as: np.ndarray) -> np.ndarray:
        """Sees how bright the upper left and the lower right corner are."""
        corners = [renditions[:, :64, :64], renditions[:, -64:, -64:]]
        seen = np.stack([corner.mean(axis=(1, 2), dtype=np.float32) for corner in corners], 1)
        return np.pad(seen + 1, ((0, 0), (0, 4094)))

    both, one = np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.uint8)
    both[:64, :64] = both[-64:, -64:] = 200
    one[:64, :64] = 200
    found = likeness(describe, both, one)
    assert 0.7 < found.similarity < 0.72
    assert found.first[:48, :48].mean() > 0.3
    assert found.first[-48:, -48:].max() == 0  # covering it makes them more alike
    assert found.first[100:150, 100:150].max() == 0
    assert found.second.argmax() in np.ravel_multi_index(np.mgrid[:64, :64].reshape(2, -1), (256, 256))
    assert what_matters(describe, one, describe(one[np.newaxis], one)[0]).shape == (256, 256)


def test_page_makes_an_explanation_once_and_shows_both_maps(
    asked: Query, client_of: ClientOf, collection: list[Image]
) -> None:
    client = client_of("clinician")
    page = page_of(asked, collection[1])
    content = client.get(page).content.decode()
    assert "The maps are being made" in content
    assert '<noscript><meta http-equiv="refresh"' in content
    assert "why-map" not in content
    explanation = Explanation.objects.get()
    explaining.explain(explanation)
    assert explanation.status == QueryStatus.ANSWERED, explanation.error
    content = client.get(page).content.decode()
    assert content.count('class="why-map"') == 2
    assert Explanation.objects.count() == 1
    assert client.get(page, headers={"HX-Request": "true"}).content.decode().startswith("<div id=")
    for which in ("query", "image"):
        picture = PillowImage.open(BytesIO(b"".join(client.get(f"{page}{which}.png"))))  # type: ignore[arg-type]
        assert (picture.mode, picture.size) == ("RGBA", (256, 256))


def test_explanation_in_the_api(asked: Query, client_of: ClientOf, collection: list[Image]) -> None:
    client = client_of("integration")
    path = f"/api/v1/queries/{asked.pk}/explanations/{collection[1].pk}/"
    assert client.get(path).json() == {
        "status": "waiting",
        "error": "",
        "similarity": None,
        "query_map_url": None,
        "image_map_url": None,
    }
    explaining.explain(Explanation.objects.get())
    found = client.get(path).json()
    assert 0 < found["similarity"] <= 1
    assert client.get(found["query_map_url"])["Content-Type"] == "image/png"
    assert client.get(path.replace(str(collection[1].pk), "999999")).status_code == 404
    for role, status in (("nobody", 403), (None, 401)):
        assert client_of(role).get(path).status_code == status


@pytest.mark.parametrize(("role", "status"), [("nobody", 403), (None, 302)])
def test_explanations_are_closed(
    role: str | None, status: int, asked: Query, client_of: ClientOf, collection: list[Image]
) -> None:
    page = page_of(asked, collection[0])
    for path in (page, f"{page}query.png"):
        assert client_of(role).get(path).status_code == status
    assert not Explanation.objects.exists()


def test_there_is_none_of_what_is_no_result(
    asked: Query, client_of: ClientOf, collection: list[Image]
) -> None:
    client = client_of("clinician")
    unseen = factories.make_image(seed=77)
    waiting = asking.ask_with_file(factories.png_bytes(), None)
    assert client.get(page_of(asked, unseen)).status_code == 404
    assert client.get(page_of(waiting, collection[0])).status_code == 404
    assert client.get(f"/queries/{asked.pk}/why/999999/").status_code == 404
    assert client.get(f"{page_of(asked, collection[0])}query.png").status_code == 404


def test_a_picture_that_is_gone_is_told(asked: Query, client_of: ClientOf, collection: list[Image]) -> None:
    default_storage.delete(str(collection[0].rendition.name))
    explanation = explaining.ask_why(asked, collection[0])
    explaining.explain(explanation)
    assert explanation.status == QueryStatus.FAILED
    content = client_of("clinician").get(page_of(asked, collection[0])).content.decode()
    assert "One of the two pictures is no longer there." in content


def test_a_part_is_explained_by_itself_and_maps_go_with_their_query(
    asked: Query, collection: list[Image]
) -> None:
    part = asking.ask_with_region(asked, [0, 0, 0.5, 0.5], None)
    answering.answer(part)
    explanation = explaining.ask_why(part, collection[0])
    explaining.explain(explanation)
    assert explaining.explained_picture(part) == part
    name = explanation.query_map.name
    assert default_storage.exists(str(name))
    part.delete()
    assert not default_storage.exists(str(name))

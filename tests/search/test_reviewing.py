"""The review: what waits, in which order, and what answers make of it; by whom."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from django.test import Client
from django.urls import reverse

from ingest.labelling import undo
from ingest.models import Image, LabelEdit, OrganClass
from ml.models import ModelVersion
from search import reviewing
from search.models import Mark, Query, VersionIndex
from search.reviewing import Why
from tests import factories

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]


def seen(
    version: ModelVersion, label: str | None, predicted: str, probability: float, *, place: int, **fields: Any
) -> Image:
    """An image with a label, what the network sees in it and where its FC1 lies."""
    image = factories.make_image(organ=label)
    Image.objects.filter(pk=image.pk).update(**fields)
    fc1 = np.zeros(4096, np.float32)
    fc1[0] = place
    organ = OrganClass.objects.get_or_create(name=predicted)[0]
    factories.make_embedding(image, version, fc1, predicted_organ=organ, organ_probability=probability)
    return Image.objects.get(pk=image.pk)


@pytest.fixture
def waiting_images(model_version: ModelVersion) -> dict[str, Image]:
    make = lambda *args, **kwargs: seen(model_version, *args, **kwargs)  # noqa: E731
    return {
        "fine": make("brain", "brain", 0.99, place=1),
        "wrong": make("brain", "chest", 0.95, place=20),
        "maybe wrong": make("chest", "brain", 0.6, place=40),
        "unlabelled": make(None, "chest", 0.9, place=60),
        "unlabelled, unclear": make(None, "brain", 0.4, place=80),
        "unsure": make("brain", "brain", 0.5, place=100),
    }


def shown(version: ModelVersion, why: Why, skipped: tuple[int, ...] = ()) -> list[int]:
    return [card.image.pk for card in reviewing.to_review(version, why, skipped)]


def test_what_waits_and_in_which_order(model_version: ModelVersion, waiting_images: dict[str, Image]) -> None:
    expected = {
        Why.CONTRADICTS: ["wrong", "maybe wrong"],
        Why.UNLABELLED: ["unlabelled, unclear", "unlabelled"],
        Why.UNSURE: ["unsure"],
        Why.DOUBTED: [],
    }
    for why, names in expected.items():
        assert shown(model_version, why) == [waiting_images[name].pk for name in names], why
    assert reviewing.counted(model_version) == {why: len(names) for why, names in expected.items()}
    assert shown(model_version, Why.CONTRADICTS, (waiting_images["wrong"].pk,)) == [
        waiting_images["maybe wrong"].pk
    ]


def test_what_another_version_sees_does_not_count(
    model_version: ModelVersion, waiting_images: dict[str, Image]
) -> None:
    other = factories.make_model_version("retired", seed=7)
    assert not any(reviewing.counted(other).values())
    assert not any(reviewing.counted(None).values())


def test_marks_against_the_organ_that_was_asked_for_are_doubts(
    model_version: ModelVersion, waiting_images: dict[str, Image], query: Query
) -> None:
    """The query is a brain to the network."""
    clinicians = [factories.make_user("clinician") for _ in range(2)]
    said = [
        ("fine", clinicians[0], False),
        ("unsure", clinicians[0], False),
        ("unsure", clinicians[1], False),
    ]
    said += [("wrong", clinicians[0], True), ("maybe wrong", clinicians[0], False)]
    for name, user, is_relevant in said:
        Mark.objects.create(query=query, image=waiting_images[name], created_by=user, is_relevant=is_relevant)
    assert shown(model_version, Why.DOUBTED) == [waiting_images["unsure"].pk, waiting_images["fine"].pk]


def test_one_of_a_series_and_none_nearly_the_same(model_version: ModelVersion) -> None:
    VersionIndex.objects.create(model_version=model_version, near_duplicate=1.0)
    series = [
        seen(model_version, None, "brain", 0.2 + n / 100, place=10 * n, series_key="s") for n in range(1, 4)
    ]
    near = [seen(model_version, None, "brain", 0.5 + n / 100, place=100) for n in range(2)]
    far = seen(model_version, None, "brain", 0.9, place=200)
    order = shown(model_version, Why.UNLABELLED)
    assert order[:3] == [series[0].pk, near[0].pk, far.pk]
    assert sorted(order) == sorted(image.pk for image in [*series, *near, far])  # the others come after
    cards = reviewing.to_review(model_version, Why.UNLABELLED, ())
    assert [card.more_of_series for card in cards[:3]] == [2, 0, 0]


def test_accepting_several_is_one_act(model_version: ModelVersion, waiting_images: dict[str, Image]) -> None:
    user = factories.make_user("curator")
    pks = [waiting_images[name].pk for name in ("wrong", "maybe wrong", "unlabelled")]
    edit = reviewing.accept(model_version, pks, user)
    assert edit
    organs = dict(Image.objects.filter(pk__in=pks).values_list("pk", "organ__name"))
    assert [organs[pk] for pk in pks] == ["chest", "brain", "chest"]
    assert shown(model_version, Why.CONTRADICTS) == []
    assert reviewing.reviewed_today(user) == 3
    undo(edit, user)
    assert reviewing.reviewed_today(user) == 0
    assert len(shown(model_version, Why.CONTRADICTS)) == 2


def test_kept_labels_are_reviewed(model_version: ModelVersion, waiting_images: dict[str, Image]) -> None:
    user = factories.make_user("curator")
    assert reviewing.keep([waiting_images["unlabelled"].pk], user) is None
    assert reviewing.keep([waiting_images["wrong"].pk], user)
    assert Image.objects.get(pk=waiting_images["wrong"].pk).organ == waiting_images["wrong"].organ
    assert shown(model_version, Why.CONTRADICTS) == [waiting_images["maybe wrong"].pk]


PAGE, ANSWER = "/review/", "/review/answer/"


def test_pages_by_role(client_of: ClientOf, waiting_images: dict[str, Image]) -> None:
    pk = waiting_images["wrong"].pk
    for role, expected in {"clinician": 403, "nobody": 403, None: 302}.items():
        client = client_of(role)
        assert client.get(PAGE).status_code == expected
        data = {"why": "contradicts", "answer": "accept", "image": pk}
        assert client.post(ANSWER, data).status_code == expected
        assert client.post(reverse("search:review_undo", args=[1])).status_code == expected
    assert not LabelEdit.objects.exists()
    for role in ("curator", "admin"):
        assert client_of(role).get(PAGE).status_code == 200
    assert client_of("curator").get(ANSWER).status_code == 405


def test_answers_through_the_page(client_of: ClientOf, waiting_images: dict[str, Image]) -> None:
    client = client_of("curator")
    wrong, maybe = waiting_images["wrong"], waiting_images["maybe wrong"]
    page = client.get(PAGE).content.decode()
    assert f"/images/{wrong.pk}/" in page
    data: dict[str, Any] = {"why": "contradicts", "image": wrong.pk}
    assert client.post(ANSWER, data | {"answer": "accept"}).headers["Location"] == "/review/?why=contradicts"
    assert Image.objects.get(pk=wrong.pk).organ.name == "chest"  # type: ignore[union-attr]
    OrganClass.objects.create(name="liver")
    data = {"why": "contradicts", "image": maybe.pk, "answer": "organ"}
    assert "Choose an organ" in client.post(ANSWER, data | {"organ": "nose"}, follow=True).content.decode()
    client.post(ANSWER, data | {"organ": "liver"})
    assert Image.objects.get(pk=maybe.pk).organ.name == "liver"  # type: ignore[union-attr]
    page = client.get(PAGE + "?why=contradicts").content.decode()
    assert "Nothing waits here." in page
    assert "2 reviewed today" in page
    last = LabelEdit.objects.latest("pk")
    client_of("admin").post(reverse("search:review_undo", args=[last.pk]))  # not what they have said
    assert Image.objects.get(pk=maybe.pk).organ.name == "liver"  # type: ignore[union-attr]
    client.post(reverse("search:review_undo", args=[last.pk]), {"why": "contradicts"})
    assert Image.objects.get(pk=maybe.pk).organ == maybe.organ


def test_a_whole_series_is_answered_at_once(client_of: ClientOf, model_version: ModelVersion) -> None:
    series = [
        seen(model_version, None, "brain", 0.5, place=n, series_key="s", group_key="g") for n in range(3)
    ]
    labelled = seen(model_version, "chest", "chest", 0.9, place=9, series_key="s", group_key="g")
    other = seen(model_version, None, "brain", 0.5, place=20)
    data = {"why": "unlabelled", "image": series[1].pk, "answer": "accept", "series": "1"}
    client_of("curator").post(ANSWER, data)
    organs = dict(Image.objects.values_list("pk", "organ__name"))
    assert [organs[image.pk] for image in series] == ["brain"] * 3
    assert (organs[labelled.pk], organs[other.pk]) == ("chest", None)


def test_history_is_on_the_images_page_for_curators(
    client_of: ClientOf, waiting_images: dict[str, Image]
) -> None:
    image = waiting_images["wrong"]
    edit = reviewing.keep([image.pk], factories.make_user("curator"))
    assert edit
    undo(edit, None)
    page = client_of("curator").get(f"/images/{image.pk}/").content.decode()
    assert f"organ confirmed in the review by {edit.created_by}, undone" in page
    assert "in the review" not in client_of("clinician").get(f"/images/{image.pk}/").content.decode()


def test_skipped_images_wait_for_others_and_come_back(
    client_of: ClientOf, waiting_images: dict[str, Image]
) -> None:
    client, other = client_of("curator"), client_of("curator")
    wrong = f"/images/{waiting_images['wrong'].pk}/preview"
    data = {"why": "contradicts", "answer": "skip", "image": waiting_images["wrong"].pk}
    part = client.post(ANSWER, data, headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part
    assert wrong not in part
    assert wrong in other.get(PAGE).content.decode()
    client.post(ANSWER, {"why": "contradicts", "answer": "unskip"})
    assert wrong in client.get(PAGE).content.decode()


def test_the_page_costs_the_same_for_many(
    client_of: ClientOf, model_version: ModelVersion, django_assert_max_num_queries: Any
) -> None:
    for place in range(15):
        seen(model_version, None, "brain", 0.5, place=place, series_key=f"s{place}")
    client = client_of("curator")
    client.get(PAGE)
    with django_assert_max_num_queries(18):
        page = client.get(PAGE).content.decode()
    assert page.count('class="card"') == reviewing.SHOWN


@pytest.mark.parametrize("query_string", ["?why=nonsense", "?why=", "?why[]=1"])
def test_unknown_reasons_show_the_first(
    client_of: ClientOf, waiting_images: dict[str, Image], query_string: str
) -> None:
    assert client_of("curator").get(PAGE + query_string).context["why"] == Why.CONTRADICTS


def test_without_a_model_in_service(client_of: ClientOf) -> None:
    assert "No model is in service yet" in client_of("curator").get(PAGE).content.decode()

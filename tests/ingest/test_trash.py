"""Data sets in the trash: gone at once, back as they were, deleted for good in the end; by whom."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from ingest.importing import import_queued
from ingest.labels import Claims
from ingest.models import Dataset, DuplicatePair, FileState, Image, Likeness, OrganClass, UploadedFile
from ingest.receiving import TrashError, open_batch, receive_file
from ingest.tasks import empty_trash
from ingest.trash import put_into_trash, restore
from ml.models import ModelVersion
from ml.training_images import TrainingError, enough_to_learn_from
from search import answering, asking, reviewing
from search.activity import current_activity
from search.indexing import index_next_batch
from search.models import Embedding, Query
from search.options import Scope, SearchOptions
from search.retrieval import search
from tests.factories import make_image, make_pixels, png_bytes

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]


def make_dataset(name: str, organs: list[str | None]) -> tuple[Dataset, set[int]]:
    dataset = Dataset.objects.create(name=name)
    return dataset, {make_image(organ=organ, dataset=dataset).pk for organ in organs}


def found(query: Query) -> tuple[set[int], int, dict[str, int]]:
    result = search(query, SearchOptions(scope=Scope.ALL), page_size=100)
    return {hit.image_id for hit in result.hits}, result.total, dict(result.organ_facets)


def test_what_is_in_the_trash_is_nowhere_and_comes_back(
    client_of: ClientOf, model_version: ModelVersion
) -> None:
    _kept, kept = make_dataset("kept", ["brain", "brain"])
    gone, trashed = make_dataset("gone", ["brain", "chest", None])
    while index_next_batch():
        pass
    query = asking.ask_with_file(png_bytes(make_pixels(1)), None)
    answering.answer(query)
    client, image = client_of("curator"), next(iter(trashed))
    everything, total, facets = found(query)
    assert (everything, total, sum(facets.values())) == (kept | trashed, 5, 5)

    def waiting() -> int:
        return sum(number for _why, number in reviewing.counted(model_version).items())

    def counts() -> list[int]:
        activity = current_activity()
        organs = client.get("/api/v1/organs/").json()["results"]
        return [activity.images, activity.searchable, sum(organ["images"] for organ in organs)]

    before, to_review = counts(), waiting()
    assert (before, to_review > 0) == ([5, 5, 4], True)
    put_into_trash(gone, None)
    assert found(query) == (kept, 2, {"brain": 2})
    assert counts() == [2, 2, 2]
    assert all(not reviewing.waiting(model_version, why).filter(image__in=trashed) for why in reviewing.Why)
    with pytest.raises(TrainingError, match="one organ"):
        enough_to_learn_from([])
    for url in ("", "preview/"):
        assert client.get(f"/images/{image}/{url}").status_code == 404
    assert client.post(f"/images/{image}/search/").status_code == 404
    assert client.get(f"/api/v1/images/{image}/").status_code == 404
    assert [each["name"] for each in client.get("/api/v1/datasets/").json()["results"]] == ["kept"]
    page = client.get(f"/queries/{query.pk}/?scope=all").content.decode()
    assert 'value="gone"' not in page
    assert ">gone<" not in page

    restore(gone)
    assert found(query) == (everything, total, facets)
    assert (counts(), waiting()) == (before, to_review)
    assert client.get(f"/images/{image}/").status_code == 200
    enough_to_learn_from([])


def test_a_pair_with_an_image_in_the_trash_does_not_wait() -> None:
    gone, ids = make_dataset("gone", ["brain", "brain"])
    first, second = sorted(ids)
    DuplicatePair.objects.create(first_id=first, second_id=second, likeness=Likeness.NEAR)
    put_into_trash(gone, None)
    assert not DuplicatePair.objects.open().exists()


def bring_in(name: str) -> UploadedFile:
    row = receive_file(
        open_batch(name, "dicom", None, makes_organs=True), "a.png", png_bytes(), Claims("brain")
    )
    import_queued()
    row.refresh_from_db()
    return row


def test_bytes_that_come_in_again_leave_the_trash() -> None:
    image = bring_in("gone").images.get()
    put_into_trash(image.dataset, None)
    again = bring_in("new")
    assert (again.state, again.duplicate_of) == (FileState.DUPLICATE, image)
    assert Image.objects.present().get().dataset.name == "new"


def test_a_data_set_in_the_trash_takes_nothing_in(client_of: ClientOf, tmp_path: Any) -> None:
    put_into_trash(Dataset.objects.create(name="gone"), None)
    with pytest.raises(TrashError):
        open_batch("gone ", "dicom", None)
    client = client_of("curator")
    page = client.post("/imports/new/", {"dataset": "gone", "label_source": "dicom"})
    assert (page.status_code, "is in the trash" in page.content.decode()) == (422, True)
    answer = client.post("/api/v1/batches/", {"dataset": "gone"}, content_type="application/json")
    assert answer.status_code == 400
    assert "is in the trash" in answer.json()["dataset"][0]
    (tmp_path / "a.png").write_bytes(png_bytes())
    with pytest.raises(CommandError, match="is in the trash"):
        call_command("import_images", str(tmp_path / "a.png"), dataset="gone")


def test_the_trash_is_emptied_after_its_days_and_leaves_nothing(
    settings: Any, model_version: ModelVersion, django_capture_on_commit_callbacks: Any, capsys: Any
) -> None:
    settings.TRASH_DAYS = 10
    image = bring_in("gone").images.get()
    young, _ids = make_dataset("young", ["brain"])
    kept = make_image(organ="chest")
    index_next_batch()
    put_into_trash(image.dataset, None)
    put_into_trash(young, None)
    with django_capture_on_commit_callbacks(execute=True):
        empty_trash()
    assert Image.objects.count() == 3
    Dataset.objects.filter(name="gone").update(trashed_at=timezone.now() - timedelta(days=11))
    with django_capture_on_commit_callbacks(execute=True):
        empty_trash()
    assert set(Dataset.objects.values_list("name", flat=True)) == {"young", "test"}
    assert Embedding.objects.count() == Image.objects.count() == 2
    assert not UploadedFile.objects.exists()
    for file in (image.original, image.rendition, image.preview):
        assert not default_storage.exists(file.name)
    assert default_storage.exists(kept.original.name)
    call_command("check_collection", json=True)
    codes = [found["code"] for found in json.loads(capsys.readouterr().out)["findings"]]
    assert codes == ["pixels_unknown"]  # of images that no import made


def test_pages_by_role(client_of: ClientOf) -> None:
    dataset, _ids = make_dataset("ward", ["brain"])
    url = f"/imports/datasets/{dataset.pk}/"
    for role, expected in {"clinician": 403, "nobody": 403, None: 302}.items():
        for act in ("trash/", "restore/", "freeze/"):
            assert client_of(role).post(url + act, {"name": "x"}).status_code == expected
    assert Dataset.objects.present().exists()


def test_there_and_back_through_the_pages(client_of: ClientOf) -> None:
    dataset, _ids = make_dataset("ward", ["brain"])
    client, url = client_of("curator"), f"/imports/datasets/{dataset.pk}/"
    assert "In the trash" not in client.get("/imports/datasets/").content.decode()
    page = client.post(url + "trash/", follow=True).content.decode()
    assert "ward is in the trash" in page
    assert "In the trash" in page
    dataset.refresh_from_db()
    assert dataset.trashed_by == page_user(client)
    assert client.get(url).status_code == 404
    assert client.post(url + "trash/").status_code == 404
    assert "ward is back." in client.post(url + "restore/", follow=True).content.decode()
    assert client.get(url).status_code == 200
    assert OrganClass.objects.get(name="brain").images.present().count() == 1


def page_user(client: Client) -> Any:
    return client.get("/imports/").wsgi_request.user

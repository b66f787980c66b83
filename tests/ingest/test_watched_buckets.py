"""Watched buckets: what comes to lie in them comes in once, and what fails is told."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from ingest.importing import import_queued
from ingest.models import Dataset, Image, UploadBatch, UploadedFile, WatchedFolder
from ingest.pending import receive_pending
from ingest.watching import look_at_all
from tests.factories import png_bytes, zip_bytes
from tests.ingest.test_watching import look_a_minute_later, problem

pytestmark = pytest.mark.django_db(transaction=True)

ClientOf = Callable[[str | None], Client]


@pytest.fixture
def put(s3: Any, settings: Any) -> Callable[[str, bytes], None]:
    """Puts an object into the bucket "ward", of which "in" may be read."""
    settings.IMPORT_ROOTS = ["s3://ward/in"]
    s3.create_bucket(Bucket="ward")
    return lambda key, content: s3.put_object(Bucket="ward", Key=key, Body=content)


@pytest.fixture
def folder() -> WatchedFolder:
    dataset = Dataset.objects.create(name="ward")
    return WatchedFolder.objects.create(path="s3://ward/in/box", dataset=dataset, label_source="folder")


def test_objects_come_in_once_and_again_when_they_change(
    folder: WatchedFolder, put: Callable[[str, bytes], None], s3: Any
) -> None:
    put("in/box/heart/a.png", png_bytes(seed=1))
    put("in/box/.part.png", png_bytes(seed=2))
    put("in/boxes/b.png", png_bytes(seed=3))
    assert (look_at_all(), look_at_all()) == (0, 0)
    put("in/box/b.zip", zip_bytes({"liver/b.png": png_bytes(seed=4)}))
    assert look_a_minute_later() == 1
    assert look_a_minute_later() == 1
    assert look_a_minute_later() == 0
    receive_pending()
    import_queued()
    batch = UploadBatch.objects.get()
    assert (batch.source, batch.is_finished) == ("s3://ward/in/box", True)
    paths = UploadedFile.objects.order_by("path").values_list("path", "organ_name", "state")
    assert list(paths) == [("b.zip/liver/b.png", "liver", "imported"), ("heart/a.png", "heart", "imported")]
    put("in/box/heart/a.png", png_bytes(seed=1))  # the same bytes again
    assert (look_a_minute_later(), look_a_minute_later()) == (0, 0)
    put("in/box/heart/a.png", png_bytes(seed=5))
    assert (look_a_minute_later(), look_a_minute_later()) == (0, 1)
    receive_pending()
    import_queued()
    assert Image.objects.count() == 3
    s3.delete_object(Bucket="ward", Key="in/box/b.zip")
    assert (look_a_minute_later(), problem()) == (0, "")


def test_objects_wait_until_the_manifest_names_them(
    folder: WatchedFolder, put: Callable[[str, bytes], None]
) -> None:
    WatchedFolder.objects.update(label_source="manifest")
    put("in/box/a.png", png_bytes(seed=1))
    put("in/box/b.png", png_bytes(seed=2))
    assert (look_at_all(), look_a_minute_later()) == (0, 0)
    assert problem() == "There is no manifest.csv in the folder."
    put("in/box/manifest.csv", b"path,organ\na.png,heart\n")
    assert (look_a_minute_later(), look_a_minute_later()) == (0, 1)
    assert problem() == "1 file waits until the manifest.csv names it."
    receive_pending()
    assert UploadedFile.objects.values_list("path", "organ_name").get() == ("a.png", "heart")


def test_bucket_that_is_away_for_a_while_changes_nothing(
    folder: WatchedFolder, put: Callable[[str, bytes], None], s3: Any, object_storage: str, reached: Any
) -> None:
    put("in/box/a.png", png_bytes(seed=1))
    look_at_all()
    assert look_a_minute_later() == 1
    reached("http://127.0.0.1:9")  # where nothing listens
    assert (look_a_minute_later(), problem()) == (0, "The object storage does not answer.")
    s3 = reached(object_storage)
    assert (look_a_minute_later(), problem()) == (0, "")
    s3.delete_object(Bucket="ward", Key="in/box/a.png")
    s3.delete_bucket(Bucket="ward")
    assert (look_a_minute_later(), problem()) == (0, "There is no bucket of this name.")


def test_admin_by_role(client_of: ClientOf, put: Callable[[str, bytes], None]) -> None:
    add = reverse("admin:ingest_watchedfolder_add")
    dataset = Dataset.objects.create(name="ward")
    data = {"path": "s3://ward/in/box/", "dataset": dataset.pk, "label_source": "dicom", "is_active": "on"}
    for role, expected in {"curator": 403, "clinician": 302, None: 302}.items():
        assert client_of(role).post(add, data).status_code == expected
    client = client_of("admin")
    for elsewhere in ("s3://ward/inside", "s3://ward", "s3://ward/in/../x", "s3://other/in"):
        page = client.post(add, {**data, "path": elsewhere}).content.decode()
        assert "There is no such folder below s3://ward/in." in page
    assert not WatchedFolder.objects.exists()
    assert client.post(add, data).status_code == 302
    assert WatchedFolder.objects.get().path == "s3://ward/in/box"


def test_bucket_that_left_the_roots_is_not_read(
    folder: WatchedFolder, put: Callable[[str, bytes], None], settings: Any, s3: Any
) -> None:
    put("in/box/a.png", png_bytes(seed=1))
    look_at_all()
    settings.IMPORT_ROOTS = ["s3://ward/in/bo"]
    assert look_a_minute_later() == 0
    assert problem() == "There is no such folder below s3://ward/in/bo."

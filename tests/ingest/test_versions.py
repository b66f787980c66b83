"""Frozen versions of data sets: they never change, are exported, and named by trainings; by whom."""

import csv
import gzip
import hashlib
import zipfile
from collections.abc import Callable
from io import BytesIO, StringIO
from typing import Any

import pytest
from django.test import Client

from ingest.models import Dataset, DatasetVersion, Image, OrganClass
from ingest.trash import put_into_trash
from ingest.versions import export_version, freeze, listed_in
from ml.models import TrainingRun
from tests.factories import make_image, make_user

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]


@pytest.fixture
def dataset() -> Dataset:
    for organ, split in [("brain", "train"), ("chest", "test"), (None, "")]:
        make_image(organ=organ, split=split, modality=None if organ == "chest" else "CT")
    return Dataset.objects.get()


def test_a_version_says_what_was_there(dataset: Dataset) -> None:
    user = make_user("curator")
    version = freeze(dataset, "first", user)
    before = list(listed_in(version))
    assert [(row["organ"], row["modality"], row["split"]) for row in before] == [
        ("brain", "CT", "train"),
        ("chest", "", "test"),
        ("", "CT", ""),
    ]
    assert (version.images, version.created_by, str(version)) == (3, user, "test, first")
    Image.objects.update(organ=OrganClass.objects.get(name="chest"), split="")
    assert list(listed_in(version)) == before


def test_the_checksum_is_that_of_the_list(dataset: Dataset) -> None:
    version = freeze(dataset, "first")
    with version.listing.open("rb") as file:
        assert hashlib.sha256(gzip.decompress(file.read())).hexdigest() == version.sha256


def test_what_has_not_changed_is_no_new_version(dataset: Dataset) -> None:
    first = freeze(dataset, "first")
    assert freeze(dataset, "second") == first
    Image.objects.filter(split="").update(split="train")
    assert freeze(dataset, "first").name == "first (2)"
    assert DatasetVersion.objects.count() == 2


def test_an_export_has_the_labels_of_then(dataset: Dataset) -> None:
    version = freeze(dataset, "first")
    Image.objects.update(split="test", organ=None)
    Image.objects.filter(pk=Image.objects.latest("pk").pk).delete()
    with zipfile.ZipFile(BytesIO(b"".join(export_version(version)))) as archive:
        assert archive.testzip() is None
        assert version.sha256 in archive.comment.decode()
        rows = list(csv.DictReader(StringIO(archive.read("manifest.csv").decode())))
        assert {row["path"] for row in rows} | {"manifest.csv"} == set(archive.namelist())
    assert [(row["organ"], row["split"]) for row in rows] == [("brain", "train"), ("chest", "test")]


def test_a_version_outlives_its_data_set(dataset: Dataset) -> None:
    version = freeze(dataset, "first")
    Image.objects.all().delete()
    dataset.delete()
    version.refresh_from_db()
    assert (version.dataset, str(version), len(list(listed_in(version)))) == (None, "test, first", 3)


def test_a_training_keeps_what_it_learns_from(dataset: Dataset, client_of: ClientOf) -> None:
    from ml.running import freeze_datasets

    other = make_image(organ="heart", dataset=Dataset.objects.create(name="other")).dataset
    Dataset.objects.create(name="empty")
    first, second = TrainingRun.objects.create(), TrainingRun.objects.create()
    second.datasets.add(other)
    freeze_datasets(first)
    freeze_datasets(second)
    names = [sorted(map(str, run.dataset_versions.all())) for run in (first, second)]
    assert names == [
        [f"other, training run {first.pk}", f"test, training run {first.pk}"],
        [f"other, training run {first.pk}"],  # it has not changed since
    ]
    client = client_of("admin")
    page = client.get(f"/admin/ml/trainingrun/{first.pk}/change/").content.decode()
    assert f"test, training run {first.pk} (3 images)" in page
    told = client.get(f"/api/v1/training-runs/{second.pk}/").json()
    assert told["dataset_versions"] == names[1]


def test_the_pages(client_of: ClientOf, dataset: Dataset) -> None:
    client, url = client_of("curator"), f"/imports/datasets/{dataset.pk}/"

    def post(name: str) -> str:
        return client.post(url + "freeze/", {"name": name}, follow=True).content.decode()

    assert "Give the version a name" in post(" ")
    assert "Frozen as “2026-11”: 3 images." in post("2026-11")
    assert "Give the version a name" in post("2026-11")
    assert "Nothing has changed since the version “2026-11”." in post("2026-12")
    assert "at most 56 characters" in post("x" * 57)
    export = f"/imports/datasets/versions/{DatasetVersion.objects.get().pk}/export.zip"
    assert export in client.get(url).content.decode()
    answer: Any = client.get(export)
    assert answer.headers["Content-Disposition"] == 'attachment; filename="test-2026-11.zip"'
    assert zipfile.ZipFile(BytesIO(b"".join(answer.streaming_content))).testzip() is None
    for role, expected in {"clinician": 403, "nobody": 403, None: 302}.items():
        assert client_of(role).get(export).status_code == expected


def test_versions_by_rest(client_of: ClientOf, dataset: Dataset) -> None:
    client, url = client_of("integration"), f"/api/v1/datasets/{dataset.pk}/versions/"

    def post(name: str | None, where: str = url) -> Any:
        return client.post(where, {} if name is None else {"name": name}, content_type="application/json")

    made = post("2026-11")
    assert (made.status_code, made.json()["name"], made.json()["images"]) == (201, "2026-11", 3)
    again = post("2026-12")
    assert (again.status_code, again.json()) == (200, made.json())
    for name in (None, "", " ", "2026-11", "x" * 57):
        assert (post(name).status_code, list(post(name).json())) == (400, ["name"])
    Image.objects.filter(split="").update(split="train")
    assert post("2026-12").status_code == 201
    listed = client.get(url).json()["results"]
    assert [each["name"] for each in listed] == ["2026-12", "2026-11"]
    assert client.get("/api/v1/dataset-versions/").json()["results"] == listed

    one = f"/api/v1/dataset-versions/{made.json()['id']}/"
    assert client.get(one).json() == made.json()
    answer: Any = client.get(one + "export/")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="test-2026-11.zip"'
    with zipfile.ZipFile(BytesIO(b"".join(answer.streaming_content))) as archive:
        assert len(archive.namelist()) == 4
    empty = Dataset.objects.create(name="empty")
    nothing = post("first", f"/api/v1/datasets/{empty.pk}/versions/")
    assert (nothing.status_code, nothing.json()) == (400, {"name": ["There is nothing to freeze yet."]})
    put_into_trash(dataset, None)
    assert {each.status_code for each in (post("x"), client.get(url), client.get(one))} == {404}


def test_versions_by_rest_and_role(client_of: ClientOf, dataset: Dataset) -> None:
    version = freeze(dataset, "first")
    url, one = f"/api/v1/datasets/{dataset.pk}/versions/", f"/api/v1/dataset-versions/{version.pk}/"
    roles = {"curator": 200, "admin": 200, "integration": 200, "clinician": 403, "nobody": 403, None: 401}
    for role, expected in roles.items():
        client = client_of(role)
        assert [client.get(each).status_code for each in (url, one, one + "export/")] == [expected] * 3, role
        assert client.post(url, {"name": "second"}).status_code == expected, role  # nothing has changed
    assert list(DatasetVersion.objects.all()) == [version]

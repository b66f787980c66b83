"""Data sets: what is in them, splits by patient, exports that come in again; by whom."""

import zipfile
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from ingest.datasets import empty_datasets, export, parts_of, split_by_group, splits_of
from ingest.importing import import_queued
from ingest.labelling import undo
from ingest.ledger import cancel
from ingest.models import Dataset, Image, UploadBatch, UploadedFile, WatchedFolder
from ingest.receiving import open_batch, receive_file
from tests.factories import dicom_bytes, make_bare_images, make_image, make_user, png_bytes

pytestmark = pytest.mark.django_db

ClientOf = Callable[[str | None], Client]


@pytest.fixture
def dataset() -> Dataset:
    for organ, modality in [("brain", "CT"), ("brain", "MR"), ("chest", "CT"), (None, None)]:
        make_image(organ=organ, modality=modality)
    return Dataset.objects.get()


def test_what_is_in_it(dataset: Dataset) -> None:
    make_image(organ="heart", dataset=Dataset.objects.create(name="other"))
    parts = [(str(part.organ), part.images, part.modalities, len(part.samples)) for part in parts_of(dataset)]
    assert parts == [
        ("brain", 2, {"CT": 1, "MR": 1}, 2),
        ("chest", 1, {"CT": 1}, 1),
        ("None", 1, {"": 1}, 1),
    ]


def test_a_split_keeps_patients_together_and_comes_out_again() -> None:
    images = make_bare_images(400)
    for number, image in enumerate(images):
        image.group_key = f"patient {number // 4}"
    Image.objects.bulk_create(images)
    dataset = Dataset.objects.get()
    edit = split_by_group(dataset, 0.3, None)
    splits = dict(Image.objects.values_list("pk", "split"))
    by_group: dict[str, set[str]] = {}
    for pk, group in Image.objects.values_list("pk", "group_key"):
        by_group.setdefault(group, set()).add(splits[pk])
    assert all(len(found) == 1 for found in by_group.values())
    assert 15 <= sum(found == {"test"} for found in by_group.values()) <= 45
    assert set(splits_of(dataset)) == {"train", "test"}
    assert sum(images for images, _ in splits_of(dataset).values()) == 400
    assert sum(groups for _, groups in splits_of(dataset).values()) == 100
    extra = make_bare_images(1)
    Image.objects.bulk_create(extra)
    split_by_group(dataset, 0.3, None)
    assert {pk: split for pk, split in Image.objects.values_list("pk", "split") if pk in splits} == splits
    undo(edit, None)
    assert Image.objects.filter(split="").count() == 0  # it was split anew since


def test_an_export_comes_in_again(dataset: Dataset, tmp_path: Path) -> None:
    Image.objects.filter(organ__name="chest").update(split="test")
    gone = Image.objects.get(organ=None)
    default_storage.delete(gone.rendition.name)
    file = tmp_path / "in" / "set.zip"
    file.parent.mkdir()
    file.write_bytes(b"".join(export(dataset)))
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 4
    call_command("import_images", str(file), dataset="again", json=True)
    labels = lambda name: sorted(  # noqa: E731
        Image.objects.filter(dataset__name=name, organ__isnull=False).values_list(
            "organ__name", "modality", "split"
        )
    )
    assert labels("again") == labels(dataset.name) != []


def test_pages_by_role(client_of: ClientOf, dataset: Dataset) -> None:
    url = f"/imports/datasets/{dataset.pk}/"
    for role, expected in {"clinician": 403, "nobody": 403, None: 302}.items():
        client = client_of(role)
        for page in ("/imports/datasets/", url, url + "export.zip"):
            assert client.get(page).status_code == expected
        for page in (url, url + "split/"):
            assert client.post(page, {"test_percent": 20}).status_code == expected
    assert not Image.objects.exclude(split="").exists()


def test_the_page(client_of: ClientOf, dataset: Dataset) -> None:
    client, url = client_of("curator"), f"/imports/datasets/{dataset.pk}/"
    assert dataset.name in client.get("/imports/datasets/").content.decode()
    page = client.get(url).content.decode()
    assert "4 images of 4 patients or volumes in no split." in page
    bad: dict[str, Any] = {"source": "no address"}
    assert client.post(url, bad).status_code == 422
    good = {"description": "d", "licence": "CC BY 4.0", "source": "https://example.org/", "citation": "c"}
    assert "Saved." in client.post(url, good, follow=True).content.decode()
    assert Dataset.objects.get().licence == "CC BY 4.0"
    assert client.post(url + "split/", {"test_percent": 0}).status_code == 422
    assert (
        "Split by patient." in client.post(url + "split/", {"test_percent": 50}, follow=True).content.decode()
    )
    assert not Image.objects.filter(split="").exists()
    answer = client.get(url + "export.zip")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="test.zip"'
    content = b"".join(answer.streaming_content)  # type: ignore[attr-defined]
    assert "manifest.csv" in zipfile.ZipFile(BytesIO(content)).namelist()


def test_a_large_set_costs_no_more_queries(
    client_of: ClientOf, dataset: Dataset, django_assert_max_num_queries: Any
) -> None:
    for _ in range(6):
        make_image(organ="brain", modality="CT")
    client = client_of("curator")
    client.get(f"/imports/datasets/{dataset.pk}/")
    with django_assert_max_num_queries(20):
        client.get(f"/imports/datasets/{dataset.pk}/")
    assert make_user("curator").has_perm("ingest.change_dataset")


def bring_in(name: str, content: bytes, **options: Any) -> UploadBatch:
    batch = open_batch(name, "dicom", None, **options)
    receive_file(batch, "a.dcm", content)
    return batch


def empty_names() -> list[str]:
    return [each.name for each in empty_datasets()]


def test_what_failed_imports_leave_behind_is_told_from_what_still_fills() -> None:
    bring_in("rejected", b"no image at all")
    bring_in("dry run", png_bytes(seed=1), is_dry_run=True)
    bring_in("held back", dicom_bytes(seed=2, Modality="US"))
    bring_in("full", png_bytes(seed=3))
    import_queued()
    cancelled = bring_in("cancelled", png_bytes(seed=4))
    cancel(cancelled)
    bring_in("queued", png_bytes(seed=5))
    open_batch("sending", "dicom", None, files_to_come=3)
    open_batch("beginning", "dicom", None)
    watched = Dataset.objects.create(name="watched")
    WatchedFolder.objects.create(path="/somewhere", dataset=watched)
    assert empty_names() == ["cancelled", "dry run", "rejected"]
    UploadBatch.objects.update(created_at=timezone.now() - timedelta(hours=2))
    assert empty_names() == ["beginning", "cancelled", "dry run", "rejected"]
    receive_file(cancelled, "b.dcm", png_bytes(seed=6))
    assert "cancelled" not in empty_names()


def test_an_empty_data_set_is_thrown_away_with_one_click(client_of: ClientOf) -> None:
    batch = bring_in("ward", b"no image at all")
    import_queued()
    client = client_of("curator")
    url = f"/imports/datasets/{batch.dataset_id}/trash/"
    page = client.get("/imports/datasets/").content.decode()
    assert "There is no data set with images yet." in page
    assert f'action="{url}"' in page
    assert "1 rejected" in page
    again = bring_in("ward", png_bytes())  # meanwhile, by somebody else
    page = client.post(url, {"empty": ""}, follow=True).content.decode()
    assert "ward is no longer empty, so it stays." in page
    assert "Without images" not in page
    cancel(again)
    assert "ward is in the trash" in client.post(url, {"empty": ""}, follow=True).content.decode()
    assert UploadedFile.objects.filter(batch__dataset__name="ward").count() == 2  # the ledger is still there
    assert client.get(f"/imports/{batch.pk}/").status_code == 200

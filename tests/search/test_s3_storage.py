"""The product with its files in an object storage, of a server that speaks S3: from import to deletion."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ingest import checking
from ingest.checking import is_settled
from ingest.importing import import_queued
from ingest.models import Dataset, Image, PendingFile, QuarantinedFile, UploadBatch, UploadedFile
from ingest.receiving import open_batch, receive_file
from ingest.storing import original_name
from ingest.sweeping import sweep
from ingest.trash import empty_trash, put_into_trash
from ml.models import ModelVersion, VersionStatus
from ml.running import store_folder
from ml.serving import forget_describers
from search import answering, indexing
from search.models import Query
from tests.broken_storage import BrokenStorage, running
from tests.factories import MODALITIES, ORGANS, dicom_bytes, png_bytes, save_tiny_checkpoint, zip_bytes
from tests.ingest.test_deidentifying import identified, words_left
from tests.ingest.test_sending import begin, create, patch

pytestmark = pytest.mark.django_db(transaction=True)

ClientOf = Callable[[str | None], Client]
OPTIONS = {"bucket_name": "cbmir", "file_overwrite": True, "max_memory_size": 2**24}


@pytest.fixture(autouse=True)
def bucket(s3: Any, settings: Any) -> Callable[[], dict[str, bytes]]:
    """The product's files lie in a bucket; gives what is in it."""
    default = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": OPTIONS}
    settings.STORAGES = {**settings.STORAGES, "default": default}
    s3.create_bucket(Bucket="cbmir")

    def stored() -> dict[str, bytes]:
        keys = [found["Key"] for found in s3.list_objects_v2(Bucket="cbmir").get("Contents", [])]
        return {key: s3.get_object(Bucket="cbmir", Key=key)["Body"].read() for key in keys}

    return stored


@pytest.fixture
def all_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was stored a moment ago counts as settled."""
    monkeypatch.setattr(checking, "SETTLED", timedelta(seconds=-2))


@pytest.fixture
def version(tmp_path: Path) -> Iterator[ModelVersion]:
    """In service, with its checkpoint in the bucket."""
    save_tiny_checkpoint(tmp_path / "checkpoint")
    store_folder(tmp_path / "checkpoint", "models/test")
    forget_describers()
    yield ModelVersion.objects.create(
        recipe="default",
        checkpoint="models/test",
        organs=ORGANS,
        modalities=MODALITIES,
        status=VersionStatus.ACTIVE,
    )
    forget_describers()


def import_files(client: Client, files: dict[str, bytes]) -> None:
    posted = [SimpleUploadedFile(name, content) for name, content in files.items()]
    data = {"dataset": "ward", "label_source": "dicom", "loose_files": posted}
    assert client.post(reverse("ingest:batch_create"), data).status_code == 302
    import_queued()


def check(**options: Any) -> dict[str, int]:
    """How many of each finding are left."""
    out = StringIO()
    with suppress(CommandError):
        call_command("check_collection", json=True, stdout=out, **options)
    findings = json.loads(out.getvalue())["findings"]
    return {each["code"]: each["count"] - each["repaired"] for each in findings if each["count"]}


def test_files_are_stored_served_and_deleted(
    client_of: ClientOf, bucket: Callable[[], dict[str, bytes]]
) -> None:
    client = client_of("curator")
    content = identified(seed=1)
    archive = zip_bytes({"b.png": png_bytes(seed=2)})
    import_files(client, {"Meier.dcm": content, "in.zip": archive, "notes.html": b"<p>"})
    states = UploadedFile.objects.order_by("path").values_list("state", flat=True)
    assert sorted(states) == ["imported", "imported", "rejected"]
    stored = bucket()
    folders = sorted(name.split("/")[0] for name in stored)
    assert folders == ["originals"] * 3 + ["previews"] * 2 + ["renditions"] * 2  # one waits to be tried again
    assert words_left(b"".join([*stored.values(), *(name.encode() for name in stored)])) == []
    for image in Image.objects.all():
        page = reverse("search:image_preview", args=[image.pk])
        answer = client_of("clinician").get(page)
        assert b"".join(answer.streaming_content) == stored[str(image.preview.name)]
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert client_of("nobody").get(page).status_code == 403
        assert client_of(None).get(page).status_code == 302
        with image.original.open() as file:
            assert file.read() == stored[str(image.original.name)]
    export = client.get(reverse("ingest:dataset_export", args=[Dataset.objects.get().pk]))
    with ZipFile(BytesIO(b"".join(export.streaming_content))) as exported:
        assert sorted(name.rpartition(".")[2] for name in exported.namelist()) == ["csv", "png", "png"]
    Image.objects.first().delete()
    assert len(bucket()) == len(stored) - 3
    put_into_trash(Dataset.objects.get(), None)
    Dataset.objects.update(trashed_at=timezone.now() - timedelta(days=31))
    assert empty_trash() == 1
    assert bucket() == {}


def test_same_file_twice_is_stored_once(client_of: ClientOf, bucket: Callable[[], dict[str, bytes]]) -> None:
    import_files(client_of("curator"), {"a.png": png_bytes(seed=1)})
    before = bucket()
    import_files(client_of("curator"), {"again.png": png_bytes(seed=1)})
    assert UploadedFile.objects.get(path="again.png").state == "duplicate"
    assert bucket() == before


def test_file_sent_in_parts(client_of: ClientOf, bucket: Callable[[], dict[str, bytes]]) -> None:
    client, content = client_of("curator"), dicom_bytes()
    batch = begin(client, 1)
    url = create(client, batch, "a.dcm", len(content)).headers["Location"]
    patch(client, url, 0, content[:4000])
    patch(client, url, 4000, content[4000:4500])
    assert [name.split("-")[1] for name in bucket()] == ["0", "4000"]
    patch(client, url, 4500, content[4500:])
    import_queued()
    assert UploadBatch.objects.get().files.get().state == "imported"
    assert sorted(name.split("/")[0] for name in bucket()) == ["originals", "previews", "renditions"]
    assert not PendingFile.objects.exists()


def test_quarantine(client_of: ClientOf, bucket: Callable[[], dict[str, bytes]]) -> None:
    import_files(client_of("curator"), {"a.dcm": dicom_bytes(Modality="US")})
    held = QuarantinedFile.objects.get()
    client = client_of("curator")
    picture = client.get(reverse("ingest:quarantine_picture", args=[held.pk, 1]))
    assert b"".join(picture.streaming_content).startswith(b"\xff\xd8")
    client.post(reverse("ingest:quarantine_decide"), {"decision": "reject", "file": held.pk})
    held.refresh_from_db()
    assert (held.decision, bucket()) == ("reject", {})


def test_check_finds_and_mends_what_is_wrong(client_of: ClientOf, all_is_old: None) -> None:
    import_files(client_of("curator"), {f"{seed}.dcm": dicom_bytes(seed=seed) for seed in range(3)})
    assert check(deep=True) == {}
    lost, damaged, bare = Image.objects.order_by("pk")
    default_storage.delete(str(lost.original.name))
    default_storage.save(str(damaged.original.name), ContentFile(b"other bytes"))
    default_storage.delete(str(bare.preview.name))
    default_storage.save(str(bare.rendition.name), ContentFile(b""))
    default_storage.save(original_name("0" * 64), ContentFile(b"left behind"))
    default_storage.save("originals/readme.txt", ContentFile(b"not ours"))
    found = {"original_lost": 1, "original_damaged": 1, "rendition": 1, "preview": 1, "orphan": 1}
    assert found.items() <= check(deep=True).items()
    left = check(deep=True, repair=True)
    assert (left["original_lost"], left["original_damaged"]) == (1, 1)
    assert {code for code in ("rendition", "preview", "orphan") if left.get(code)} == set()
    assert default_storage.exists("originals/readme.txt")
    assert not default_storage.exists(original_name("0" * 64))
    with bare.preview.open() as file:
        assert file.read()


def test_what_a_killed_worker_left_is_swept(
    bucket: Callable[[], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = receive_file(open_batch("ward", "dicom", None), "a.dcm", identified())
    import_queued()
    before = bucket()
    default_storage.save(original_name(row.sha256), ContentFile(identified()))
    assert sweep() == 0  # too young to be told from what is on its way
    monkeypatch.setattr(checking, "SETTLED", timedelta(seconds=-2))
    assert sweep() == 1
    assert bucket() == before


def test_file_that_goes_while_it_is_looked_at(all_is_old: None) -> None:
    default_storage.save("originals/there", ContentFile(b"x"))
    assert is_settled("originals/there")
    assert not is_settled("originals/gone")


def test_search_with_a_checkpoint_and_a_file_in_the_bucket(
    client_of: ClientOf, version: ModelVersion, bucket: Callable[[], dict[str, bytes]]
) -> None:
    import_files(client_of("curator"), {f"{seed}.dcm": dicom_bytes(seed=seed) for seed in range(3)})
    indexing.index_next_batch()
    client = client_of("clinician")
    asked = client.post(reverse("search:query_create"), {"file": SimpleUploadedFile("q.png", png_bytes())})
    assert asked.status_code == 302
    query = Query.objects.get()
    answering.answer(query)
    page = client.get(asked.url)
    [hit] = page.context["result"].hits
    assert hit.more_of_series == 2
    assert client.get(reverse("search:query_preview", args=[query.pk])).status_code == 200
    assert any(name.startswith("queries/") for name in bucket())


def test_storage_that_fails_loses_no_file(
    bucket: Callable[[], dict[str, bytes]],
    reached: Callable[[str], Any],
    object_storage: str,
    settings: Any,
) -> None:
    """A file is read again when the storage is back, as after any trouble of the machine."""
    row = receive_file(open_batch("ward", "dicom", None), "a.dcm", dicom_bytes())
    with running(BrokenStorage()) as broken:
        broken.faults[original_name(row.sha256)] = ["500"] * 100
        for address in ("http://127.0.0.1:9", broken.address):
            reached(address)
            settings.STORAGES = {**settings.STORAGES}  # forgets its connection
            with pytest.raises(Exception, match=r"(?i)could not connect|reached max retries|500"):
                import_queued()
            row.refresh_from_db()
            assert (row.state, row.attempts) == ("queued", 0)
    reached(object_storage)
    settings.STORAGES = {**settings.STORAGES}
    import_queued()
    row.refresh_from_db()
    assert row.state == "imported"

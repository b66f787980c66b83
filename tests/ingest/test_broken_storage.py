"""Object storages that fail: each failure is one clear sentence, and costs no other file."""

import logging
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from ingest import buckets
from ingest.importing import import_queued
from ingest.models import Dataset, PendingFile, UploadBatch, WatchedFolder
from ingest.pending import receive, receive_pending
from ingest.watching import look_at_all
from tests.broken_storage import LISTING, BrokenStorage, running
from tests.factories import dicom_bytes, png_bytes
from tests.ingest.test_watching import look_a_minute_later, problem

pytestmark = pytest.mark.django_db(transaction=True)

Reached = Callable[[str], Any]

DENIED = "The object storage denies access with the credentials that this server has."
BAD_CREDENTIALS = "The object storage does not accept the credentials of this server."
NO_ANSWER = "The object storage does not answer."
NO_STORAGE = "What answers as the object storage does not speak S3, or its address is wrong."
NO_CREDENTIALS = "This server has no credentials for the object storage, or not all."
GONE = "The file may not be read, or is no longer there."
FAULTS = {
    "hang up": NO_ANSWER,
    "hang": NO_ANSWER,
    "500": "The object storage answered with an error (500).",
    "SlowDown": "The object storage answered with an error (SlowDown).",
    "403": DENIED,
    "AccessDenied": DENIED,
    "InvalidAccessKeyId": BAD_CREDENTIALS,
    "SignatureDoesNotMatch": BAD_CREDENTIALS,
    "ExpiredToken": BAD_CREDENTIALS,
    "NoSuchBucket": "There is no bucket of this name.",
}


@pytest.fixture
def storage(reached: Reached, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokenStorage]:
    """Its bucket "ward" has three pictures; nobody waits long for it."""
    settings.IMPORT_ROOTS = ["s3://ward"]
    monkeypatch.setattr(buckets, "READ_SECONDS", 0.5)
    objects = {f"{name}.png": png_bytes(seed=seed) for seed, name in enumerate("abc")}
    with running(BrokenStorage(objects=objects)) as storage:
        reached(storage.address)
        yield storage


@pytest.fixture
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that went wrong in the storage is an error of the product's."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def import_bucket(client_of: Callable[[str], Client], labels: str = "dicom") -> UploadBatch:
    data = {"dataset": "ward", "label_source": labels, "server_folder": "s3://ward"}
    assert client_of("admin").post(reverse("ingest:batch_create"), data).status_code == 302
    return UploadBatch.objects.get()


def work() -> None:
    receive_pending()
    import_queued()


def outcome(batch: UploadBatch) -> list[tuple[str, str, str]]:
    batch.refresh_from_db()
    assert batch.is_finished
    return list(batch.files.order_by("path").values_list("path", "state", "reason"))


@pytest.mark.usefixtures("no_errors")
@pytest.mark.parametrize("fault", [*FAULTS, "html"])
def test_listing_that_fails_is_one_rejected_row(
    client_of: Callable[[str], Client], storage: BrokenStorage, fault: str
) -> None:
    storage.faults[LISTING] = [fault]
    batch = import_bucket(client_of)
    work()
    assert outcome(batch) == [("ward", "rejected", FAULTS.get(fault, FAULTS["500"]))]
    assert storage.asked == [LISTING]


@pytest.mark.usefixtures("no_errors")
@pytest.mark.parametrize("fault", [*FAULTS, "cut off", "stall", "404", "InvalidObjectState", "html"])
def test_object_that_fails_costs_no_other(
    client_of: Callable[[str], Client], storage: BrokenStorage, fault: str
) -> None:
    sentences = {
        **FAULTS,
        "cut off": "The object storage broke off in the middle of the file.",
        "stall": NO_ANSWER,
        "404": GONE,
        "InvalidObjectState": "The file lies in an archive tier. Restore it in the storage first.",
        "html": "The file was changed before it was taken in.",
    }
    storage.faults["b.png"] = [fault] * buckets.READ_ATTEMPTS
    batch = import_bucket(client_of)
    work()
    assert outcome(batch) == [
        ("a.png", "imported", ""),
        ("b.png", "rejected", sentences[fault]),
        ("c.png", "imported", ""),
    ]


def test_body_that_breaks_off_is_read_again(
    client_of: Callable[[str], Client], storage: BrokenStorage
) -> None:
    storage.faults["b.png"] = ["cut off"] * (buckets.READ_ATTEMPTS - 1)
    batch = import_bucket(client_of)
    work()
    assert {state for _path, state, _reason in outcome(batch)} == {"imported"}
    assert storage.asked.count("b.png") == buckets.READ_ATTEMPTS


def test_object_of_untold_length(client_of: Callable[[str], Client], storage: BrokenStorage) -> None:
    storage.faults["a.png"] = storage.faults["b.png"] = ["chunked"]
    batch = import_bucket(client_of)
    receive(PendingFile.objects.get().pk)
    PendingFile.objects.filter(path="b.png").update(size_bytes=100)
    work()
    assert outcome(batch) == [
        ("a.png", "imported", ""),
        ("b.png", "rejected", "The file was changed before it was taken in."),
        ("c.png", "imported", ""),
    ]


def test_request_that_fails_is_repeated(
    client_of: Callable[[str], Client],
    storage: BrokenStorage,
    reached: Reached,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    reached(storage.address)
    storage.faults[LISTING], storage.faults["b.png"] = ["500"], ["hang up"]
    batch = import_bucket(client_of)
    work()
    assert {state for _path, state, _reason in outcome(batch)} == {"imported"}


@pytest.mark.usefixtures("no_errors")
def test_storage_that_goes_away_meanwhile(
    client_of: Callable[[str], Client], storage: BrokenStorage, reached: Reached
) -> None:
    batch = import_bucket(client_of)
    receive(PendingFile.objects.get().pk)
    receive(PendingFile.objects.unreceived()[0].pk)
    reached("http://127.0.0.1:9")  # where nothing listens
    work()
    assert outcome(batch) == [
        ("a.png", "imported", ""),
        ("b.png", "rejected", NO_ANSWER),
        ("c.png", "rejected", NO_ANSWER),
    ]


@pytest.mark.usefixtures("no_errors", "storage")
@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, NO_ANSWER),
        ({"AWS_ENDPOINT_URL_S3": "not an address"}, NO_STORAGE),
        ({"AWS_ENDPOINT_URL_S3": "http://no-such-host.invalid"}, NO_ANSWER),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, NO_CREDENTIALS),
        ({"AWS_SECRET_ACCESS_KEY": ""}, NO_CREDENTIALS),
        ({"AWS_PROFILE": "nobody"}, NO_CREDENTIALS),
    ],
)
def test_settings_that_are_wrong(
    client_of: Callable[[str], Client],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    sentence: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    buckets.client.cache_clear()
    batch = import_bucket(client_of)
    work()
    assert outcome(batch) == [("ward", "rejected", sentence)]
    with pytest.raises(CommandError, match=sentence[:30]):
        call_command("import_images", "s3://ward", dataset="ward", stdout=StringIO())


@pytest.mark.usefixtures("no_errors")
def test_storage_without_https(
    client_of: Callable[[str], Client], storage: BrokenStorage, reached: Reached
) -> None:
    reached(storage.address.replace("http:", "https:"))
    batch = import_bucket(client_of)
    work()
    sentence = "No secure connection: the storage has no HTTPS, or a certificate unknown here."
    assert outcome(batch) == [("ward", "rejected", sentence)]


@pytest.mark.usefixtures("no_errors")
def test_manifest_that_cannot_be_fetched(client_of: Callable[[str], Client], storage: BrokenStorage) -> None:
    storage.objects["manifest.csv"] = b"path,organ\na.png,heart\n"
    storage.faults["manifest.csv"] = ["AccessDenied"]
    batch = import_bucket(client_of, "manifest")
    work()
    assert outcome(batch) == [("manifest.csv", "rejected", DENIED)]
    storage.faults["manifest.csv"] = ["AccessDenied"]
    with pytest.raises(CommandError, match="denies access"):
        call_command("import_images", "s3://ward", dataset="ward", stdout=StringIO())


@pytest.mark.usefixtures("no_errors")
@pytest.mark.parametrize("fault", FAULTS)
def test_watched_bucket_tells_its_problem_and_goes_on(storage: BrokenStorage, fault: str) -> None:
    dataset = Dataset.objects.create(name="ward")
    WatchedFolder.objects.create(path="s3://ward", dataset=dataset, label_source="dicom")
    assert look_at_all() == 0
    storage.faults[LISTING] = [fault]
    assert (look_a_minute_later(), problem()) == (0, FAULTS[fault])
    assert (look_a_minute_later(), problem()) == (3, "")


@pytest.mark.usefixtures("no_errors")
def test_watched_buckets_manifest_that_cannot_be_fetched(storage: BrokenStorage) -> None:
    storage.objects["manifest.csv"] = b"path,organ\na.png,heart\nb.png,heart\nc.png,heart\n"
    dataset = Dataset.objects.create(name="ward")
    WatchedFolder.objects.create(path="s3://ward", dataset=dataset, label_source="manifest")
    look_at_all()
    storage.faults["manifest.csv"] = ["cut off"] * buckets.READ_ATTEMPTS
    assert look_a_minute_later() == 0
    assert problem() == "The object storage broke off in the middle of the file."
    assert (look_a_minute_later(), problem()) == (3, "")


def test_keys_with_control_characters(client_of: Callable[[str], Client], storage: BrokenStorage) -> None:
    storage.objects = {"new&#10;line.png": png_bytes(seed=1)}
    batch = import_bucket(client_of)
    storage.objects["new\nline.png"] = storage.objects.pop("new&#10;line.png")
    work()
    assert outcome(batch) == [("newline.png", "imported", "")]


def test_no_key_gets_into_the_log(
    client_of: Callable[[str], Client], storage: BrokenStorage, caplog: pytest.LogCaptureFixture
) -> None:
    storage.objects = {"Meier/a.dcm": dicom_bytes(), "Meier/b.png": png_bytes(seed=1)}
    storage.faults["Meier/b.png"] = ["cut off"] * buckets.READ_ATTEMPTS
    with caplog.at_level(logging.DEBUG):
        batch = import_bucket(client_of)
        work()
    assert {state for _path, state, _reason in outcome(batch)} == {"imported", "rejected"}
    assert "Meier" not in caplog.text

"""Files sent in parts: the protocol, who may, what comes late, twice, too large or never."""

import hashlib
import threading
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ingest.importing import import_queued
from ingest.models import FileState, Image, PendingFile, UploadBatch, UploadedFile
from ingest.pending import MAX_ATTEMPTS, forget_unfinished, receive, receive_pending, stop_waiting
from ingest.resumable import add_part
from ingest.storing import lock_bytes
from tests.factories import dicom_bytes, make_user, png_bytes, zip_bytes
from tests.ingest.test_deidentifying import identified
from tests.processes import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

ClientOf = Callable[[str | None], Client]
TUS = {"Tus-Resumable": "1.0.0"}
PART = "application/offset+octet-stream"


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(make_user("curator"))
    return client


def begin(client: Client, announced: int, labels: str = "dicom", **more: Any) -> UploadBatch:
    data = {"dataset": "ward", "label_source": labels, "announced": announced, **more}
    answer = client.post(reverse("ingest:sending_begin"), data)
    assert answer.status_code == 201, answer.content
    return UploadBatch.objects.latest("pk")


def create(client: Client, batch: UploadBatch, path: str, size: int, body: bytes = b"", **said: str) -> Any:
    values = {"path": path, **said}
    metadata = ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in values.items())
    headers = {**TUS, "Upload-Length": str(size), "Upload-Metadata": metadata}
    return client.generic("POST", reverse("ingest:sending", args=[batch.pk]), body, PART, headers=headers)


def send(client: Client, batch: UploadBatch, path: str, content: bytes) -> Any:
    """A whole file in one request."""
    answer = create(client, batch, path, len(content), content)
    assert answer.status_code == 201, answer.content
    return answer


def patch(client: Client, url: str, offset: int | str, body: bytes, content_type: str = PART) -> Any:
    return client.generic("PATCH", url, body, content_type, headers={**TUS, "Upload-Offset": str(offset)})


def offset_of(client: Client, url: str) -> int:
    return int(client.head(url, headers=TUS).headers["Upload-Offset"])


def stored_parts(media_root: Path) -> list[str]:
    folder = media_root / "uploads"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def rows(batch: UploadBatch) -> list[tuple[str, str, str]]:
    return list(batch.files.values_list("path", "state", "reason_code"))


def test_file_in_parts_is_imported(client: Client, media_root: Path, rung: Callable[[], set[str]]) -> None:
    content = dicom_bytes()
    batch = begin(client, 2)
    url = create(client, batch, "a.dcm", len(content)).headers["Location"]
    assert offset_of(client, url) == 0
    assert patch(client, url, 0, content[:1000]).headers["Upload-Offset"] == "1000"
    assert patch(client, url, 1000, content[1000:3000]).status_code == 204
    head = client.head(url, headers=TUS)
    assert (head.headers["Upload-Offset"], head.headers["Upload-Length"]) == ("3000", str(len(content)))
    assert head.headers["Cache-Control"] == "no-store"
    assert stored_parts(media_root) == [f"{PendingFile.objects.get().pk}-{at}" for at in (0, 1000)]
    assert rows(batch) == []
    assert patch(client, url, 3000, content[3000:]).status_code == 204
    assert rows(batch) == [("a.dcm", "queued", "")]
    assert stored_parts(media_root) == []
    assert "ingest.import_queued_files" in rung()
    import_queued()
    batch.refresh_from_db()
    assert (batch.files_to_come, batch.is_finished) == (1, False)
    send(client, batch, "b.png", png_bytes())
    import_queued()
    batch.refresh_from_db()
    assert (batch.files_to_come, batch.is_finished) == (0, True)
    assert not PendingFile.objects.exists()
    assert Image.objects.count() == 2


def test_wrong_offsets_and_requests(client: Client) -> None:
    batch = begin(client, 1)
    url = create(client, batch, "a.png", 10).headers["Location"]
    assert patch(client, url, 0, b"abc").status_code == 204
    assert patch(client, url, 0, b"abc").status_code == 409
    assert patch(client, url, 9, b"x").status_code == 409
    assert patch(client, url, -1, b"x").status_code == 400
    assert patch(client, url, "x", b"x").status_code == 400
    assert patch(client, url, 3, b"too many bytes").status_code == 413
    assert patch(client, url, 3, b"defg", "text/plain").status_code == 415
    assert client.generic("PATCH", url, b"defg", PART, headers={"Upload-Offset": "3"}).status_code == 412
    assert client.get(url).status_code == 405
    assert offset_of(client, url) == 3
    for headers in ({}, {"Upload-Length": "-5"}, {"Upload-Length": "5", "Upload-Metadata": "path ?"}):
        sending = reverse("ingest:sending", args=[batch.pk])
        answer = client.generic("POST", sending, b"", PART, headers={**TUS, **headers})  # type: ignore[arg-type]
        assert answer.status_code == 400
    assert create(client, batch, "", 5).status_code == 400
    options = client.options(reverse("ingest:sending", args=[batch.pk]))
    assert (options.status_code, options.headers["Tus-Version"]) == (204, "1.0.0")


def test_uploads_belong_to_who_began_them(client: Client, client_of: ClientOf) -> None:
    batch = begin(client, 2)
    url = create(client, batch, "a.png", 10, b"abc").headers["Location"]
    begin_url, sending = reverse("ingest:sending_begin"), reverse("ingest:sending", args=[batch.pk])
    finish = reverse("ingest:batch_finish", args=[batch.pk])
    for role, expected in {"curator": 404, "clinician": 403, "nobody": 403, None: 401}.items():
        other = client_of(role)
        assert other.head(url, headers=TUS).status_code == expected, role
        assert patch(other, url, 3, b"defghij").status_code == expected
        assert other.get(sending).status_code == expected
        assert create(other, batch, "b.png", 10).status_code == expected
        if role != "curator":
            assert other.post(begin_url, {"dataset": "x", "announced": 1}).status_code == expected
            assert other.post(finish).status_code == (302 if role is None else 403)
    assert offset_of(client, url) == 3
    assert PendingFile.objects.count() == 1


def test_csrf_token_is_needed(client: Client) -> None:
    batch = begin(client, 1)
    url = create(client, batch, "a.png", 10).headers["Location"]
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = client.cookies
    assert patch(strict, url, 0, b"abc").status_code == 403


def test_state_tells_what_has_come(client: Client) -> None:
    batch = begin(client, 3)
    send(client, batch, "set/a.png", png_bytes())
    create(client, batch, "set/b.png", 10, b"abc", modified="1234")
    state = client.get(reverse("ingest:sending", args=[batch.pk])).json()
    assert (state["files_to_come"], state["files_to_send"]) == (2, 2)
    told = [(file["path"], file["modified"], file["offset"], file["is_sent"]) for file in state["files"]]
    assert told == [("set/a.png", 0, len(png_bytes()), True), ("set/b.png", 1234, 3, False)]
    page = client.get(reverse("ingest:batch_detail", args=[batch.pk])).content.decode()
    assert "1 of 3 files has come" in page
    assert "2 files still to come" in page


def test_creation_whose_answer_was_lost_is_asked_again(client: Client) -> None:
    batch = begin(client, 1)
    first = create(client, batch, "a.png", 10, b"abc", key="k")
    again = create(client, batch, "a.png", 10, b"abc", key="k")
    assert again.status_code == 201
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Upload-Offset"] == "3"


def test_more_files_than_announced_are_refused(client: Client) -> None:
    batch = begin(client, 1)
    create(client, batch, "a.png", 10, b"abc")
    assert create(client, batch, "b.png", 10).status_code == 409
    # The same file, changed since: the earlier version makes room.
    content = png_bytes()
    send(client, batch, "a.png", content)
    assert rows(batch) == [("a.png", "queued", "")]
    assert create(client, batch, "a.png", 10).status_code == 409


def test_too_large_and_empty_files_are_told_in_the_ledger(client: Client, settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 1000
    batch = begin(client, 3)
    for _ in range(2):
        assert create(client, batch, "large.dcm", 1001, key="k").status_code == 413
    assert create(client, batch, "empty.dcm", 0).status_code == 201
    assert create(client, batch, "a.png", 20, b"x" * 20).status_code == 201
    assert rows(batch) == [
        ("large.dcm", "rejected", "too_large"),
        ("empty.dcm", "rejected", "empty_file"),
        ("a.png", "queued", ""),
    ]
    assert not UploadBatch.objects.get().files_to_come


def labels(batch: UploadBatch) -> list[tuple[str, str]]:
    return list(batch.files.values_list("path", "organ_name"))


def test_archive_that_came_alone_and_among_others(client: Client) -> None:
    packed = zip_bytes({"heart/a.png": png_bytes(seed=1), "notes.html": b"<p>"})
    batch = begin(client, 1, "folder")
    send(client, batch, "in.zip", packed)
    assert labels(batch) == [
        ("heart/a.png", "heart"),
        ("notes.html", ""),
    ]
    batch = begin(client, 2, "folder")
    send(client, batch, "set/in.zip", packed)
    send(client, batch, "set/b.png", png_bytes(seed=2))
    assert labels(batch) == [
        ("set/in.zip/heart/a.png", "heart"),
        ("set/in.zip/notes.html", "set"),
        ("set/b.png", "set"),
    ]


def test_manifest_labels_what_comes_and_tells_what_does_not(client: Client, media_root: Path) -> None:
    manifest = b"path,organ,split\nx/a.png,heart,test\nx/b.png,liver,\nx/c.png,liver,\n"
    posted = SimpleUploadedFile("manifest.csv", manifest)
    batch = begin(client, 2, "manifest", manifest=posted, manifest_path="set/manifest.csv")
    send(client, batch, "set/x/a.png", png_bytes(seed=1))
    assert len(stored_parts(media_root)) == 1
    send(client, batch, "set/x/b.png", png_bytes(seed=2))
    assert list(batch.files.values_list("path", "organ_name", "split", "reason_code")) == [
        ("set/x/a.png", "heart", "test", ""),
        ("set/x/b.png", "liver", "", ""),
        ("set/x/c.png", "", "", "missing_file"),
    ]
    assert stored_parts(media_root) == []


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"label_source": "manifest", "announced": 1}, "There is no manifest.csv among the files."),
        ({"label_source": "dicom", "announced": 0}, "greater than or equal to 1"),
        ({"label_source": "dicom"}, "This field is required."),
        (
            {"label_source": "manifest", "announced": 1, "manifest": SimpleUploadedFile("m", b"path\na")},
            "The manifest lacks the column organ.",
        ),
    ],
)
def test_import_that_cannot_begin_says_why(client: Client, data: dict[str, Any], sentence: str) -> None:
    answer = client.post(reverse("ingest:sending_begin"), {"dataset": "ward", **data})
    assert answer.status_code == 422
    assert sentence in " ".join(answer.json()["errors"])
    assert not UploadBatch.objects.exists()


def test_going_on_without_the_rest(client: Client, media_root: Path) -> None:
    batch = begin(client, 3)
    send(client, batch, "a.png", png_bytes())
    create(client, batch, "b.png", 10, b"abc")
    url = reverse("ingest:batch_finish", args=[batch.pk])
    assert client.get(url).status_code == 405
    page = client.post(url, follow=True).content.decode()
    assert "complete without 2 files" in page
    assert rows(batch) == [("a.png", "queued", ""), ("b.png", "rejected", "not_sent")]
    batch.refresh_from_db()
    assert batch.files_to_come == 0
    assert stored_parts(media_root) == []


def test_unfinished_uploads_are_forgotten_after_days(client: Client, media_root: Path) -> None:
    old, young = begin(client, 1), begin(client, 1)
    for batch in (old, young):
        create(client, batch, "a.png", 10, b"abc")
    past = timezone.now() - timedelta(days=8)
    UploadBatch.objects.update(created_at=past)
    PendingFile.objects.filter(batch=old).update(updated_at=past)
    forget_unfinished()
    assert rows(old) == [("a.png", "rejected", "not_sent")]
    assert rows(young) == []
    assert stored_parts(media_root) == [f"{PendingFile.objects.get().pk}-0"]


def test_large_files_are_left_to_a_worker(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.sending_views.RECEIVED_AT_ONCE", 10)
    batch = begin(client, 1)
    send(client, batch, "a.png", png_bytes())
    assert rows(batch) == []
    assert stop_waiting(batch) == 0
    receive_pending()
    assert rows(batch) == [("a.png", "queued", "")]


def waiting_archive(client: Client, monkeypatch: pytest.MonkeyPatch) -> tuple[UploadBatch, PendingFile]:
    """Has come completely and waits for a worker."""
    monkeypatch.setattr("ingest.sending_views.RECEIVED_AT_ONCE", 10)
    batch = begin(client, 1)
    send(client, batch, "in.zip", zip_bytes({f"{n}.png": png_bytes(seed=n) for n in range(4)}))
    return batch, PendingFile.objects.get()


def test_archive_whose_reader_died_is_gone_on_with(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest import receiving

    batch, file = waiting_archive(client, monkeypatch)
    store, stored = receiving.store_once, []

    def store_two(name: str, content: Any, size_bytes: int) -> str:
        if len(stored) == 2:
            raise KeyboardInterrupt  # as when the process is ended
        stored.append(name)
        return store(name, content, size_bytes)

    monkeypatch.setattr(receiving, "store_once", store_two)
    with pytest.raises(KeyboardInterrupt):
        receive(file.pk)
    assert [path for path, *_ in rows(batch)] == ["0.png", "1.png"]
    monkeypatch.setattr(receiving, "store_once", store)
    import_queued()
    receive_pending()
    assert [path for path, *_ in rows(batch)] == ["0.png", "1.png", "2.png", "3.png"]
    assert batch.files.filter(state=FileState.IMPORTED).count() == 2


def test_members_read_meanwhile_are_not_missed(client: Client) -> None:
    """What is read loses the patient's words in its path, by which the manifest names it."""
    archive = {f"Meier/{number}.dcm": identified(number) for number in (1, 2)}
    manifest = b"path,organ\nMeier/1.dcm,heart\nMeier/2.dcm,heart\nMeier/3.dcm,heart\n"
    batch = begin(client, 1, "manifest", manifest=SimpleUploadedFile("manifest.csv", manifest))

    def receive_archive() -> None:
        send(client, batch, "in.zip", zip_bytes(archive))
        connections.close_all()

    receiver = threading.Thread(target=receive_archive)
    with transaction.atomic():
        lock_bytes(hashlib.sha256(archive["Meier/2.dcm"]).hexdigest())  # it comes in when this is over
        receiver.start()
        wait_until(batch.files.exists, "the first member")
        import_queued()
    receiver.join()
    import_queued()
    assert list(batch.files.values_list("path", "organ_name", "state", "reason_code")) == [
        ("–/1.dcm", "heart", "imported", ""),
        ("–/2.dcm", "heart", "imported", ""),
        ("Meier/3.dcm", "", "rejected", "missing_file"),
    ]


def test_many_workers_take_each_file_in_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.sending_views.RECEIVED_AT_ONCE", 10)
    batch = begin(client, 6)
    for number in range(6):
        members = {f"{member}.png": png_bytes(seed=10 * number + member) for member in range(5)}
        send(client, batch, f"{number}.zip", zip_bytes(members))

    def work() -> None:
        receive_pending()
        connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    paths = [path for path, *_ in rows(batch)]
    assert len(paths) == len(set(paths)) == 30
    batch.refresh_from_db()
    assert batch.files_to_come == 0
    assert not PendingFile.objects.exists()


def test_file_that_stops_its_readers_is_rejected(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _file = waiting_archive(client, monkeypatch)
    PendingFile.objects.update(attempts=MAX_ATTEMPTS)
    receive_pending()
    assert rows(batch) == [("in.zip", "rejected", "crashed_reader")]
    batch.refresh_from_db()
    assert batch.is_finished


def test_trouble_of_the_machine_loses_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, media_root: Path
) -> None:
    batch, _file = waiting_archive(client, monkeypatch)
    originals = media_root / "originals"
    originals.write_text("in the way of the folder")
    for _ in range(MAX_ATTEMPTS + 1):
        receive_pending()
    assert rows(batch) == []
    originals.unlink()
    receive_pending()
    assert batch.files.count() == 4


def test_lost_parts_are_told(client: Client, monkeypatch: pytest.MonkeyPatch, media_root: Path) -> None:
    batch, file = waiting_archive(client, monkeypatch)
    (media_root / "uploads" / f"{file.pk}-0").unlink()
    receive_pending()
    assert rows(batch) == [("in.zip", "rejected", "missing_bytes")]


def test_part_that_was_stored_and_not_counted_is_stored_anew(client: Client, media_root: Path) -> None:
    batch = begin(client, 1)
    url = create(client, batch, "a.png", 6).headers["Location"]
    file = PendingFile.objects.get()
    (media_root / "uploads").mkdir(parents=True)
    (media_root / "uploads" / f"{file.pk}-0").write_bytes(b"half")
    add_part(file.pk, 0, BytesIO(b"abc"), 3)
    assert patch(client, url, 3, b"def").status_code == 204
    row = UploadedFile.objects.get()
    assert (media_root / "originals" / row.sha256[:2] / row.sha256).read_bytes() == b"abcdef"


def test_deleted_batch_takes_its_parts_with_it(client: Client, media_root: Path) -> None:
    batch = begin(client, 1)
    create(client, batch, "a.png", 10, b"abc")
    assert stored_parts(media_root) != []
    batch.delete()
    assert stored_parts(media_root) == []

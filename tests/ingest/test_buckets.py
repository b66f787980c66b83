"""Buckets: which may be imported, by whom, and what comes in, from a server that speaks S3."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from ingest import buckets
from ingest.buckets import BucketFolder
from ingest.directories import Directory, FolderRefused
from ingest.importing import import_queued
from ingest.models import Image, PendingFile, PendingKind, UploadBatch
from ingest.pending import receive, receive_pending
from ingest.server_folders import checked_folder, quoted
from tests.factories import dicom_bytes, png_bytes, tar_bytes, zip_bytes

pytestmark = pytest.mark.django_db(transaction=True)

ClientOf = Callable[[str | None], Client]
Put = Callable[[dict[str, bytes]], None]


@pytest.fixture
def put(s3: Any, settings: Any) -> Put:
    """Puts objects into the bucket "ward", of which only "in" may be read."""
    settings.IMPORT_ROOTS = ["/mnt/somewhere", "s3://ward/in"]
    s3.create_bucket(Bucket="ward")

    def put_all(objects: dict[str, bytes]) -> None:
        for key, content in objects.items():
            s3.put_object(Bucket="ward", Key=key, Body=content)

    return put_all


def import_folder(client: Client, address: str, labels: str = "folder", **said: str) -> Any:
    data = {"dataset": "ward", "label_source": labels, "server_folder": address, **said}
    return client.post(reverse("ingest:batch_create"), data)


def work() -> None:
    receive_pending()
    import_queued()


def outcome() -> list[tuple[str, str, str]]:
    batch = UploadBatch.objects.get()
    return sorted(batch.files.values_list("path", "state", "reason_code"))


def listed(address: str) -> None:
    """As a worker lists what lies there, and has taken nothing in yet."""
    receive(PendingFile.objects.get(kind=PendingKind.FOLDER).pk)


def test_bucket_is_imported_and_left_as_it_is(
    client_of: ClientOf, put: Put, s3: Any, rung: Callable[[], set[str]]
) -> None:
    objects = {
        "in/atlas/heart/a.dcm": dicom_bytes(),
        "in/atlas/heart/b.png": png_bytes(seed=1),
        "in/atlas/heart/notes.html": b"<p>",
        "in/atlas/in.zip": zip_bytes({"liver/c.png": png_bytes(seed=2)}),
        "in/atlas/in.tar.gz": tar_bytes({"liver/d.png": png_bytes(seed=3)}, "gz"),
        "in/atlas/.hidden": b"x",
        "in/atlas/empty.png": b"",
        "in/atlas-old/not-below.png": png_bytes(seed=9),
    }
    put(objects)
    client = client_of("admin")
    answer = import_folder(client, "s3://ward/in/atlas/")
    batch = UploadBatch.objects.get()
    assert answer.url == reverse("ingest:batch_detail", args=[batch.pk])
    assert (batch.source, "ingest.import_queued_files" in rung()) == ("s3://ward/in/atlas", True)
    assert "What lies in the folder is being listed." in client.get(answer.url).content.decode()
    listed("s3://ward/in/atlas")
    assert "6 files still to come, out of the folder" in client.get(answer.url).content.decode()
    work()
    assert outcome() == [
        ("empty.png", "rejected", "empty_file"),
        ("heart/a.dcm", "imported", ""),
        ("heart/b.png", "imported", ""),
        ("heart/notes.html", "rejected", "not_an_image"),
        ("in.tar.gz/liver/d.png", "imported", ""),
        ("in.zip/liver/c.png", "imported", ""),
    ]
    batch.refresh_from_db()
    assert (batch.is_finished, PendingFile.objects.exists()) == (True, False)
    assert set(Image.objects.values_list("incoming_organ", flat=True)) == {"heart", "liver"}
    kept = {key: s3.get_object(Bucket="ward", Key=key)["Body"].read() for key in objects}
    assert kept == objects
    again = client.post(answer.url + "retry/", {"cause": "not_an_image"}, follow=True).content.decode()
    assert "1 file will be tried again." in again


def test_odd_keys_are_harmless(client_of: ClientOf, put: Put) -> None:
    keys = {
        "in/": b"",
        "in/folder/": b"",
        "in/../escape.png": png_bytes(seed=1),
        "in/a/../../escape.png": png_bytes(seed=2),
        "in//double//slash.png": png_bytes(seed=3),
        "in/größe 心臓 💀+%2F&?.png": png_bytes(seed=4),
        "in/Thumbs.db": b"x",
        "in/.git/a.png": png_bytes(seed=6),
        "in/back\\slash.png": png_bytes(seed=7),
        "in": png_bytes(seed=8),
        "inside.png": png_bytes(seed=9),
    }
    put(keys)
    import_folder(client_of("admin"), "s3://ward/in")
    work()
    assert outcome() == [
        ("back/slash.png", "imported", ""),
        ("double/slash.png", "imported", ""),
        ("größe 心臓 💀+%2F&?.png", "imported", ""),
    ]


def test_whole_bucket_page_by_page(
    client_of: ClientOf, put: Put, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    settings.IMPORT_ROOTS = ["s3://ward/"]
    objects = {f"{number}.png": png_bytes(seed=number) for number in range(5)}
    put({**objects, "/leading.png": png_bytes(seed=7)})
    import_folder(client_of("admin"), "s3://ward")
    work()
    names = ["0.png", "1.png", "2.png", "3.png", "4.png", "leading.png"]
    assert outcome() == [(name, "imported", "") for name in names]


def test_who_may_name_a_bucket(client_of: ClientOf, put: Put) -> None:
    put({"in/a.png": png_bytes()})
    for role, expected in {"curator": 422, "clinician": 403, "nobody": 403, None: 302}.items():
        assert import_folder(client_of(role), "s3://ward/in").status_code == expected
    assert not UploadBatch.objects.exists()
    page = client_of("admin").get(reverse("ingest:batch_create")).content.decode()
    assert "below /mnt/somewhere or s3://ward/in." in page


ELSEWHERE = [
    *(
        "s3://ward",
        "s3://ward/",
        "s3://ward/inside",
        "s3://ward/i",
        "s3://ward/in/../secret",
        "s3://ward/in/.",
    ),
    *("s3://ward/in//x", "s3://ward//in", "s3://ward/in\\..\\x/../y", "s3://other/in", "s3://other/missing"),
    *("s3://", "s3:///in", "s3://ward in/x", "S3://ward/in", "s3:/ward/in", "s3://ward@host/in", "/ward/in"),
    *("s3://ward/in/a\x07b", "s3://ward/in/" + "x" * 1100, "s3://ward/in/" + "é" * 600, "s3://WARD/in"),
]


@pytest.mark.parametrize("address", ELSEWHERE)
def test_addresses_elsewhere_are_refused_with_one_sentence(
    client_of: ClientOf, put: Put, address: str
) -> None:
    put({"inside/a.png": png_bytes(), "secret": b"x"})
    page = import_folder(client_of("admin"), address)
    assert page.status_code == 422
    assert "There is no such folder below /mnt/somewhere or s3://ward/in." in page.content.decode()
    assert not UploadBatch.objects.exists()


def test_roots_of_one_kind_say_nothing_of_the_other(settings: Any, tmp_path: Path) -> None:
    settings.IMPORT_ROOTS = [str(tmp_path), "s3://ward/in", "s3://", "s3://ward/../x"]
    assert checked_folder(str(tmp_path)) == Directory(tmp_path)
    assert checked_folder("s3://ward/in/x/") == BucketFolder("ward", "in/x")
    for text in (f"{tmp_path}/s3:/ward/in", f"s3://{tmp_path}", "s3://ward/../x/y", "s3:/ward/in"):
        with pytest.raises(FolderRefused):
            checked_folder(text)


@pytest.mark.parametrize("key", ["secret.png", "in", "inside/a.png"])
def test_objects_outside_the_roots_are_never_opened(client_of: ClientOf, put: Put, key: str) -> None:
    put({key: png_bytes(seed=1), "in/a.png": png_bytes(seed=2)})
    import_folder(client_of("admin"), "s3://ward/in")
    listed("s3://ward/in")
    PendingFile.objects.filter(kind=PendingKind.FILE).update(server_path=quoted(f"s3://ward/{key}"))
    work()
    assert outcome() == [("a.png", "rejected", "unreadable")]


def test_bucket_that_left_the_roots_is_not_read(client_of: ClientOf, put: Put, settings: Any) -> None:
    put({"in/a.png": png_bytes()})
    import_folder(client_of("admin"), "s3://ward/in")
    settings.IMPORT_ROOTS = ["s3://ward/elsewhere"]
    work()
    assert outcome() == [("in", "rejected", "unreadable")]


def test_bucket_with_a_manifest(client_of: ClientOf, put: Put, s3: Any) -> None:
    manifest = b"path,organ\na.png,spleen\nmissing.png,spleen\n"
    put({"in/a.png": png_bytes(seed=1), "in/manifest.csv": manifest})
    import_folder(client_of("admin"), "s3://ward/in", "manifest")
    listed("s3://ward/in")
    s3.delete_object(Bucket="ward", Key="in/manifest.csv")  # what was read when it was listed, counts
    work()
    assert outcome() == [("a.png", "imported", ""), ("missing.png", "rejected", "missing_file")]
    assert Image.objects.get().incoming_organ == "spleen"
    assert UploadBatch.objects.get().is_finished


@pytest.mark.parametrize("content", [None, b"path\na.png\n", b"\xff\xfe"])
def test_bucket_whose_manifest_cannot_be_used(client_of: ClientOf, put: Put, content: bytes | None) -> None:
    put({"in/a.png": png_bytes(), **({"in/manifest.csv": content} if content else {})})
    import_folder(client_of("admin"), "s3://ward/in", "manifest")
    work()
    assert outcome() == [("manifest.csv", "rejected", "bad_manifest")]
    assert UploadBatch.objects.get().is_finished


def test_objects_that_change_or_go_meanwhile(client_of: ClientOf, put: Put, s3: Any) -> None:
    same_size = png_bytes(seed=1)[:-1] + b"!"
    put({f"in/{name}.png": png_bytes(seed=1) for name in ("changed", "gone", "kept", "longer", "touched")})
    import_folder(client_of("admin"), "s3://ward/in")
    listed("s3://ward/in")
    put({"in/changed.png": same_size, "in/longer.png": same_size + b"!", "in/touched.png": png_bytes(seed=1)})
    s3.delete_object(Bucket="ward", Key="in/gone.png")
    work()
    assert outcome() == [
        ("changed.png", "rejected", "changed"),
        ("gone.png", "rejected", "unreadable"),
        ("kept.png", "imported", ""),
        ("longer.png", "rejected", "changed"),
        ("touched.png", "duplicate", "duplicate"),
    ]


def test_cancelling_leaves_what_was_not_taken_in(client_of: ClientOf, put: Put) -> None:
    put({f"in/{seed}.png": png_bytes(seed=seed) for seed in range(3)})
    client = client_of("admin")
    address = import_folder(client, "s3://ward/in").url
    listed("s3://ward/in")
    receive(PendingFile.objects.filter(kind=PendingKind.FILE)[0].pk)
    page = client.post(address + "cancel/", follow=True).content.decode()
    assert "Cancelled: 3 files will not be read." in page
    work()
    assert [row[1:] for row in outcome()] == [("rejected", "cancelled")] * 3
    assert not Image.objects.exists()


def test_large_objects_go_through_a_file_and_too_large_ones_stay_where_they_are(
    client_of: ClientOf, put: Put, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "SPOOL_BYTES", 1000)
    monkeypatch.setattr(buckets, "CHUNK_BYTES", 700)
    settings.MAX_UPLOAD_BYTES = 2**20
    members = {f"heart/{seed}.png": png_bytes(seed=seed) for seed in range(3)}
    put({"in/a.zip": zip_bytes(members), "in/huge.dcm": bytes(2**20 + 1)})
    import_folder(client_of("admin"), "s3://ward/in")
    work()
    expected = [(f"a.zip/{path}", "imported", "") for path in members]
    assert outcome() == [*expected, ("huge.dcm", "rejected", "too_large")]


def test_prefix_without_objects_is_told(client_of: ClientOf, put: Put) -> None:
    import_folder(client_of("admin"), "s3://ward/in/mistyped")
    work()
    assert outcome() == [("mistyped", "rejected", "unreadable")]
    assert UploadBatch.objects.get().files.get().reason == "No files lie there."


def test_command_imports_a_bucket(put: Put) -> None:
    archive = zip_bytes({"liver/b.png": png_bytes(seed=2)})
    put({"elsewhere/heart/a.png": png_bytes(seed=1), "elsewhere/b.zip": archive})
    call_command("import_images", "s3://ward/elsewhere", dataset="ward", stdout=StringIO())  # of the shell
    assert outcome() == [("b.zip/liver/b.png", "imported", ""), ("heart/a.png", "imported", "")]
    assert set(Image.objects.values_list("incoming_organ", flat=True)) == {"heart", "liver"}


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://ward/mistyped", "No files lie there."),
        ("s3://missing", "There is no bucket of this name."),
        ("s3://ward//x", "s3://ward//x is no address of a bucket, such as s3://bucket/prefix."),
    ],
)
def test_command_tells_what_is_wrong_with_a_bucket(put: Put, address: str, sentence: str) -> None:
    with pytest.raises(CommandError) as error:
        call_command("import_images", address, dataset="ward", stdout=StringIO())
    assert str(error.value) == sentence

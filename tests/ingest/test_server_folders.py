"""Folders of the server: which may be imported, by whom, and what comes in."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from ingest.directories import FolderRefused
from ingest.importing import import_queued
from ingest.models import Image, PendingFile, PendingKind, UploadBatch
from ingest.pending import receive, receive_pending
from ingest.server_folders import checked_folder
from tests.factories import dicom_bytes, png_bytes, zip_bytes

pytestmark = pytest.mark.django_db(transaction=True)

ClientOf = Callable[[str | None], Client]


@pytest.fixture
def root(settings: Any, tmp_path: Path) -> Path:
    """An allowed root; beside it lies what nobody may read."""
    root = tmp_path / "share"
    (root / "atlas" / "heart").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.png").write_bytes(png_bytes(seed=9))
    settings.IMPORT_ROOTS = [str(root)]
    return root


def import_folder(client: Client, folder: Path | str, labels: str = "folder", **said: str) -> Any:
    data = {"dataset": "ward", "label_source": labels, "server_folder": str(folder), **said}
    return client.post(reverse("ingest:batch_create"), data)


def work() -> None:
    receive_pending()
    import_queued()


def outcome(batch: UploadBatch) -> list[tuple[str, str, str]]:
    return sorted(batch.files.values_list("path", "state", "reason_code"))


def test_cancelling_leaves_what_was_not_taken_in(client_of: ClientOf, root: Path) -> None:
    for seed in range(3):
        (root / "atlas" / "heart" / f"{seed}.png").write_bytes(png_bytes(seed=seed))
    client = client_of("admin")
    address = import_folder(client, root / "atlas").url
    batch = UploadBatch.objects.get()
    receive(PendingFile.objects.get().pk)  # lists the folder
    receive(PendingFile.objects.filter(kind=PendingKind.FILE)[0].pk)
    assert "2 files still to come, out of the folder" in client.get(address).content.decode()
    page = client.post(address + "cancel/", follow=True).content.decode()
    assert "Cancelled: 3 files will not be read." in page
    assert "still to come" not in page
    work()
    assert {state for _path, state, _code in outcome(batch)} == {"rejected"}
    assert [code for _path, _state, code in outcome(batch)] == ["cancelled"] * 3
    assert list(batch.files.order_by("path").values_list("is_retryable", flat=True)).count(True) == 1
    batch.refresh_from_db()
    assert batch.is_finished
    assert not Image.objects.exists()


def test_cancelling_while_the_folder_is_listed(client_of: ClientOf, root: Path) -> None:
    (root / "atlas" / "heart" / "a.png").write_bytes(png_bytes())
    address = import_folder(client_of("admin"), root / "atlas").url
    client_of("admin").post(address + "cancel/")
    work()
    batch = UploadBatch.objects.get()
    assert (batch.is_finished, batch.files.count(), PendingFile.objects.count()) == (True, 0, 0)


def test_folder_is_imported_and_left_as_it_is(
    client_of: ClientOf, root: Path, rung: Callable[[], set[str]]
) -> None:
    files = {
        "heart/a.dcm": dicom_bytes(),
        "heart/b.png": png_bytes(seed=1),
        "heart/notes.html": b"<p>",
        "in.zip": zip_bytes({"liver/c.png": png_bytes(seed=2)}),
        ".hidden": b"x",
    }
    for name, content in files.items():
        (root / "atlas" / name).write_bytes(content)
    os.symlink(root.parent / "secret" / "s.png", root / "atlas" / "heart" / "link.png")
    os.symlink(root.parent / "secret", root / "atlas" / "folder")
    client = client_of("admin")
    answer = import_folder(client, root / "atlas")
    batch = UploadBatch.objects.get()
    assert answer.url == reverse("ingest:batch_detail", args=[batch.pk])
    assert "ingest.import_queued_files" in rung()
    page = client.get(answer.url).content.decode()
    assert "What lies in the folder is being listed." in page
    assert "Go on sending" not in page
    work()
    assert outcome(batch) == [
        ("heart/a.dcm", "imported", ""),
        ("heart/b.png", "imported", ""),
        ("heart/notes.html", "rejected", "not_an_image"),
        ("in.zip/liver/c.png", "imported", ""),
    ]
    batch.refresh_from_db()
    assert batch.is_finished
    assert not PendingFile.objects.exists()
    assert set(Image.objects.values_list("incoming_organ", flat=True)) == {"heart", "liver"}
    assert {name for name in files if (root / "atlas" / name).read_bytes() == files[name]} == set(files)


def test_who_may_name_a_folder(client_of: ClientOf, root: Path) -> None:
    for role, expected in {"curator": 422, "clinician": 403, "nobody": 403, None: 302}.items():
        assert import_folder(client_of(role), root / "atlas").status_code == expected
    assert not UploadBatch.objects.exists()
    url = reverse("ingest:batch_create")
    assert "server_folder" in client_of("admin").get(url).content.decode()
    assert 'name="server_folder"' not in client_of("curator").get(url).content.decode()


def test_no_folder_may_be_named_where_no_root_is_allowed(
    client_of: ClientOf, root: Path, settings: Any
) -> None:
    settings.IMPORT_ROOTS = []
    client = client_of("admin")
    assert 'name="server_folder"' not in client.get(reverse("ingest:batch_create")).content.decode()
    assert import_folder(client, root / "atlas").status_code == 422
    with pytest.raises(FolderRefused, match="names none"):
        checked_folder(str(root))


@pytest.mark.parametrize("name", ["../secret", "atlas/../../secret", "missing", "link", "a\0b", "x" * 5000])
def test_folders_elsewhere_are_refused(client_of: ClientOf, root: Path, name: str) -> None:
    os.symlink(root.parent / "secret", root / "link")
    with pytest.raises(FolderRefused):
        checked_folder(f"{root}/{name}")
    answer = import_folder(client_of("admin"), f"{root}/{name}"[:1000])
    assert answer.status_code == 422
    assert not UploadBatch.objects.exists()


@pytest.mark.parametrize("text", ["/", "/etc", "share", "relative/atlas", "~"])
def test_paths_that_are_not_below_a_root_are_refused(root: Path, text: str) -> None:
    with pytest.raises(FolderRefused):
        checked_folder(text)


def test_folder_with_a_manifest(client_of: ClientOf, root: Path) -> None:
    (root / "atlas" / "a.png").write_bytes(png_bytes(seed=1))
    (root / "atlas" / "manifest.csv").write_text("path,organ\na.png,spleen\nmissing.png,spleen\n")
    import_folder(client_of("admin"), root / "atlas", "manifest")
    work()
    batch = UploadBatch.objects.get()
    assert outcome(batch) == [("a.png", "imported", ""), ("missing.png", "rejected", "missing_file")]
    assert Image.objects.get().incoming_organ == "spleen"


def test_columns_of_a_folders_manifest_are_said_once(client_of: ClientOf, root: Path) -> None:
    client, atlas = client_of("admin"), root / "atlas"
    (atlas / "manifest.csv").write_text("file,diagnosis\na.png,spleen\nb.png,liver\n")
    (atlas / "a.png").write_bytes(png_bytes(seed=1))
    import_folder(client, atlas, "manifest", **{"column-organ": "diagnosis"})
    work()
    (atlas / "b.png").write_bytes(png_bytes(seed=2))
    import_folder(client, atlas, "manifest")
    work()
    assert list(Image.objects.order_by("pk").values_list("incoming_organ", flat=True)) == ["spleen", "liver"]


@pytest.mark.parametrize("content", [None, "path\na.png\n"])
def test_folder_whose_manifest_cannot_be_used(client_of: ClientOf, root: Path, content: str | None) -> None:
    (root / "atlas" / "a.png").write_bytes(png_bytes(seed=1))
    if content:
        (root / "atlas" / "manifest.csv").write_text(content)
    import_folder(client_of("admin"), root / "atlas", "manifest")
    work()
    assert outcome(UploadBatch.objects.get()) == [("manifest.csv", "rejected", "bad_manifest")]
    assert UploadBatch.objects.get().is_finished


def test_files_that_change_go_or_become_links_meanwhile(client_of: ClientOf, root: Path) -> None:
    paths = [root / "atlas" / f"{name}.png" for name in ("changed", "gone", "link", "kept")]
    for number, path in enumerate(paths):
        path.write_bytes(png_bytes(seed=number))
    (root / "atlas" / os.fsdecode(b"not-utf8-\xff.png")).write_bytes(png_bytes(seed=7))
    import_folder(client_of("admin"), root / "atlas", "dicom")
    folder = PendingFile.objects.get()
    from ingest.pending import receive

    receive(folder.pk)
    assert PendingFile.objects.unreceived().count() == 5
    paths[0].write_bytes(b"something else")
    paths[1].unlink()
    paths[2].unlink()
    os.symlink(root.parent / "secret" / "s.png", paths[2])
    work()
    assert outcome(UploadBatch.objects.get()) == [
        ("changed.png", "rejected", "changed"),
        ("gone.png", "rejected", "unreadable"),
        ("kept.png", "imported", ""),
        ("link.png", "rejected", "link"),
        ("not-utf8-?.png", "imported", ""),
    ]


def test_folder_that_is_gone_is_told(client_of: ClientOf, root: Path) -> None:
    import_folder(client_of("admin"), root / "atlas")
    (root / "atlas" / "heart").rmdir()
    (root / "atlas").rmdir()
    work()
    assert outcome(UploadBatch.objects.get()) == [("atlas", "rejected", "unreadable")]
